"""Internal covariate shift as Santurkar et al. 2018 define it (Definition 2.1), on one mini-batch.

    found = internal(model, loss_fn, batch, statistics="batch", step=0.1)
    found.layers["1.weight"].difference, found.layers["1.weight"].cosine

With W_1 .. W_k the layers' parameters from input to output, and W' = W - step * gradient those after one step of
gradient descent, layer i sees

    G_i  = grad_{W_i} L(W_1, ..., W_{i-1}, W_i, ..., W_k)        before the layers below it move
    G'_i = grad_{W_i} L(W'_1, ..., W'_{i-1}, W_i, ..., W_k)      after

on the same mini-batch. The shift of layer i is ||G'_i - G_i||; that of the first layer is 0. It has the scale of a
gradient, so nets are compared by the angle between the two, and by the difference divided by ||G_i||. The definition is
about gradients, as the paper argues that it should be: a change in the distribution of a layer's input matters to
training in so far as it changes what the layer is told to do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from cbn_lab.probes._frozen import STATISTICS, frozen, gradients_of


@dataclass(frozen=True)
class LayerShift:
    """difference ||G' - G||, before ||G||, after ||G'||, cosine of the angle between them (1 where neither moves)."""

    difference: float
    before: float
    after: float
    cosine: float

    @property
    def relative(self) -> float:
        """||G' - G|| / ||G||; 0 for a layer without a gradient that does not get one."""
        return self.difference / self.before if self.before else float("inf") if self.difference else 0.0


@dataclass(frozen=True)
class CovariateShift:
    """`layers`: module's path -> its shift, in the order in which the modules were registered."""

    layers: Mapping[str, LayerShift]
    step: float
    statistics: str
    batch_size: int
    gradient_evaluations: int

    def __str__(self) -> str:
        worst = min(self.layers, key=lambda name: self.layers[name].cosine)
        return (f"Change of each layer's gradient when the layers before it take a step of {self.step:g}, one "
                f"mini-batch of {self.batch_size}, {STATISTICS[self.statistics]}: largest angle at {worst}, cosine "
                f"{self.layers[worst].cosine:.3f}; {self.gradient_evaluations} gradient evaluations.")


def internal(model: nn.Module, loss_fn: Callable, batch, *, statistics: str, step: float) -> CovariateShift:
    """One gradient evaluation for G and one for each layer but the first.

    A layer is a module that owns parameters. Their order is that of `model.named_parameters()`, which must be the order
    in which the signal passes them, as in every model of `cbn_lab.models` without a parallel branch.

    Raises ValueError for a step that is not positive, no trainable parameters, a gradient that is not finite, a loss
    that is cut off from the model, and what `frozen` refuses.
    """
    if not 0 < step < float("inf"):
        raise ValueError(f"step must be a positive, finite number (a learning rate), got {step}")
    layers: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layers.setdefault(name.rpartition(".")[0] or name, []).append(parameter)
    if not layers:
        raise ValueError("the model has no parameter that requires a gradient; use requires_grad_(True)")
    every = [p for group in layers.values() for p in group]
    shifts = {}
    with frozen(model, statistics=statistics) as probe:

        def gradient_of(parameters: list[nn.Parameter]) -> list[torch.Tensor]:
            return list(gradients_of(probe.loss(loss_fn, batch), parameters))

        before = dict(zip(map(id, every), gradient_of(every), strict=True))
        below: list[nn.Parameter] = []
        for name, group in layers.items():
            own = [before[id(p)] for p in group]
            shifts[name] = _compare(name, own, gradient_of(group) if below else own)
            with torch.no_grad():
                for parameter, gradient in zip(group, own, strict=True):
                    parameter.sub_(step * gradient)
            below += group
    return CovariateShift(shifts, step, statistics, len(batch[1]), len(layers))


def _compare(name: str, before: list[torch.Tensor], after: list[torch.Tensor]) -> LayerShift:
    a, b = (torch.cat([g.flatten() for g in group]).double() for group in (before, after))
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError(f"the gradient of {name} is not finite; take a smaller step")
    lengths = float(a.norm()), float(b.norm())
    cosine = float(a @ b) / (lengths[0] * lengths[1]) if all(lengths) else float(lengths[0] == lengths[1])
    return LayerShift(float((b - a).norm()), *lengths, cosine)
