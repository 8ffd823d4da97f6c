"""What enters each weight layer of a net, and the gradient that arrives there: h and delta of `cbn_lab.theory.layer`.

    found = inputs.of_layers(model, loss_fn, batch, statistics="batch")
    found["2.weight"].h          # [n, N], one row per sample
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab.probes._frozen import frozen, require_graph


@dataclass(frozen=True, eq=False)
class LayerInput:
    """One weight layer on one batch, float64.

    h      [rows, N] its input; for a convolution one row per sample and output pixel, the patch that the kernel sees
           there, padding zeros included, N = channels x kernel height x kernel width
    delta  [rows, o] gradient of the loss in the output, times the number of rows: the mean over rows of
           delta_i h_i^T is the gradient of the weight
    """

    h: np.ndarray
    delta: np.ndarray


def of_layers(model: nn.Module, loss_fn: Callable, batch, *, statistics: str) -> dict[str, LayerInput]:
    """Name of the weight layer -> its input and gradient, in the order in which the layers are called; the model is
    left as it was (`probes._frozen`).

    Linear layers, and convolutions without groups and with zeros as padding. Raises ValueError for
    a model without such layers, for one that is called twice or whose output does not reach the loss, for a loss that
    is cut off from the model, and whatever `frozen` and its `loss` raise; TypeError for a convolution of another kind.
    """
    calls: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    if not layers:
        raise ValueError("the model has no nn.Linear and no nn.Conv2d, so no weight layer to look at")
    for name, module in layers.items():
        _require_plain(name, module)

    def keep(name):
        def hook(module, arguments, output):
            if name in calls:
                raise ValueError(f"{name!r} is called twice in one pass, so it has no single input")
            calls[name] = (arguments[0].detach(), output)
        return hook

    handles = []
    try:
        handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
        with frozen(model, statistics=statistics) as probe:
            for parameter in model.parameters():  # a frozen layer has an output gradient too
                parameter.requires_grad_(True)
            loss = probe.loss(loss_fn, batch)
            require_graph(loss)
            gradients = torch.autograd.grad(loss, [output for _, output in calls.values()], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for (name, (h, _)), gradient in zip(calls.items(), gradients, strict=True):
        if gradient is None:
            raise ValueError(f"the output of {name!r} does not reach the loss")
        found[name] = _rows(layers[name], h, gradient)
    return found


def _require_plain(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d) and (module.groups != 1 or module.padding_mode != "zeros"
                                          or isinstance(module.padding, str)):
        raise TypeError(f"{name!r} is a convolution with groups={module.groups}, padding={module.padding!r} and "
                        f"padding_mode={module.padding_mode!r}; only groups=1 with a number of zeros is supported")


def _rows(module: nn.Module, h: torch.Tensor, gradient: torch.Tensor) -> LayerInput:
    if isinstance(module, nn.Conv2d):
        h = F.unfold(h, module.kernel_size, module.dilation, module.padding, module.stride)  # [n, N, pixels]
        h, gradient = h.mT.flatten(0, 1), gradient.flatten(2).mT.flatten(0, 1)
    h, gradient = h.flatten(0, -2), gradient.flatten(0, -2)
    return LayerInput(h.double().cpu().numpy(), (len(h) * gradient.double()).cpu().numpy())
