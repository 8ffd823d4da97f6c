"""One row for each weight layer of a net: what enters it, and the gradient of its weight, on one mini-batch.

    rows = summary(model, loss_fn, batch, statistics="batch")
    rows[2].second, rows[2].top_share, rows[2].scale_free

With h what enters the layer (before padding), the mean over samples and pixels, and C its channels or features:

    second       (1/C) sum_c E h_c^2, which is variance + mean^2
    top_share    largest eigenvalue of M = E[h h^T], C x C, as a share of its trace
    rank         (tr M)^2 / ||M||_F^2, the effective rank: 1 with all inputs on one line, C with no preferred direction
    gradient     ||dL/dW||, and scale_free, that times ||W||, which rescaling a weight before a norm leaves as it is
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from cbn_lab.probes._frozen import frozen, gradients_of

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class LayerSummary:
    """One weight layer.

    name             its path in the model; kind: "linear", or "convolution 3x3"
    shape            of what enters, per image: (channels, height, width) or (features,)
    parameters       its own; norm_parameters: those of the norms and shifts of its block
    mean, variance   over all samples, channels and pixels of what enters; second = variance + mean^2
    top_share, rank  of E[h h^T], see above; nan where nothing but zeros enters, or an overflow
    gradient         ||dL/dW||; scale_free = ||dL/dW|| ||W||
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    norm_parameters: int
    mean: float
    variance: float
    second: float
    top_share: float
    rank: float
    gradient: float
    scale_free: float


def summary(model: nn.Module, loss_fn: Callable, batch, *, statistics: str) -> tuple[LayerSummary, ...]:
    """The weight layers in the order in which they are called; one gradient evaluation; the model is left as it was.

    Linear layers and convolutions, the head among them, in any network. The parameter counts of all rows add up to
    those of the model, if each weight layer is called. Layers whose weight needs no gradient are measured as well.

    Raises ValueError for a model without weight layers, for one that is called twice, for a gradient that is not
    finite, and whatever `frozen` and its `loss` raise; TypeError for a weight that is computed from other parameters
    (pruning, spectral normalization).
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _KINDS)}
    if not layers:
        raise ValueError("the model has no linear layer and no convolution, so no weight layer to look at")
    for name, layer in layers.items():
        if not isinstance(layer._parameters.get("weight"), nn.Parameter):
            raise TypeError(f"the weight of {name!r} is computed from other parameters; take the parametrization off a "
                            "copy of the model first")
    entered: dict[str, dict] = {}

    def keep(name):
        def hook(module, arguments, named):
            if name in entered:
                raise ValueError(f"{name!r} is called twice in one pass, so it has no single input")
            h = arguments[0] if arguments else named["input"]
            entered[name] = _moments(module, h.detach())  # at once: a later layer may work in place
        return hook

    handles = []
    try:
        handles = [layer.register_forward_pre_hook(keep(name), with_kwargs=True) for name, layer in layers.items()]
        with frozen(model, statistics=statistics) as probe:
            for layer in layers.values():
                layer.weight.requires_grad_(True)
            loss = probe.loss(loss_fn, batch)
            slopes = gradients_of(loss, [layers[name].weight for name in entered])
    finally:
        for handle in handles:
            handle.remove()
    counts = _parameters(model, layers)
    return tuple(_row(name, layers[name], moments, slope, *counts[name])
                 for (name, moments), slope in zip(entered.items(), slopes, strict=True))


@torch.no_grad()
def _moments(layer: nn.Module, h: torch.Tensor) -> dict:
    rows = h if isinstance(layer, nn.Linear) else h.movedim(1, -1)
    rows = rows.reshape(-1, rows.shape[-1]).double()
    mean, variance = float(rows.mean()), float(rows.var(correction=0))
    top_share, rank = _spectrum(rows)
    return {"shape": tuple(h.shape[1:]), "mean": mean, "variance": variance, "second": variance + mean * mean,
            "top_share": top_share, "rank": rank}


@torch.no_grad()
def _row(name: str, layer: nn.Module, moments: dict, slope: torch.Tensor, own: int, norm: int) -> LayerSummary:
    if not torch.isfinite(slope).all():
        raise ValueError(f"the gradient of {name!r} is not finite although the loss is; use float64 or a smaller loss")
    kind = "linear" if isinstance(layer, nn.Linear) else f"convolution {'x'.join(map(str, layer.kernel_size))}"
    gradient = float(slope.double().norm())
    return LayerSummary(name, kind, parameters=own, norm_parameters=norm, gradient=gradient,
                        scale_free=gradient * float(layer.weight.double().norm()), **moments)


def _spectrum(rows: torch.Tensor) -> tuple[float, float]:
    """(share of the largest eigenvalue, effective rank) of rows^T rows; of the smaller of the two Gram matrices."""
    gram = rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T
    trace = float(gram.trace())
    if not trace or not math.isfinite(trace):
        return float("nan"), float("nan")
    return float(torch.linalg.eigvalsh(gram)[-1]) / trace, trace * trace / float(gram.square().sum())


def _parameters(model: nn.Module, layers: dict[str, nn.Module]) -> dict[str, list[int]]:
    """Name of a weight layer -> [its parameters, all others of its block]; a shared parameter counts once.

    A block is the innermost module around a parameter that holds a weight layer; of several, the parameter belongs to
    the one that was registered last before it.
    """
    counts, seen, before = {name: [0, 0] for name in layers}, set(), next(iter(layers))
    for path, module in model.named_modules():
        inside = next((name for name in layers if path == name or path.startswith(f"{name}.")), None)
        before = inside or before
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                counts[inside or _owner(path, layers, before)][inside is None] += parameter.numel()
    return counts


def _owner(path: str, layers: dict[str, nn.Module], before: str) -> str:
    while path:
        path = path.rpartition(".")[0]
        around = [name for name in layers if name.startswith(f"{path}." if path else "")]
        if around:
            return around[0] if len(around) == 1 else before
    return before
