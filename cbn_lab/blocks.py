"""Where the normalization stands: weight layer + activation + placement -> a block. The one place that knows.

    none           weight + bias -> f
    before         weight -> BN -> f                      vanilla BN (Ioffe and Szegedy 2015)
    after          weight + bias -> f -> BN               swapped order
    before_weight  BN -> weight + bias -> f               the input of each weight layer (Chen et al. 2019)
    both           weight -> BN -> f -> BN
    complete       weight -> shift -> f -> standardize -> gamma, shift      our reconstruction of CBN

Residual branches (stated, since the abstract says nothing about them): the shortcut is added directly before the
activation of the last block of the branch, that is after its weight layer and after its BN where that BN stands
before the activation. With `complete` the sum then enters shift -> f -> standardize -> gamma, shift, so that every
weight layer of a residual net, too, receives a standardized input. `cbn_lab.residual` has two other forms. Both were
better for `complete` in the mean over five activations (results/residual: ResNet-20, 3 short epochs), by much with
Sigmoid and Tanh. The protocol's rule chose a BN at the end of the branch, join="normalized", by less than the noise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import activations, norms
from cbn_lab._arguments import require_known


@dataclass
class Parts:
    """The slots of a block, in order; None is an empty slot. `complete` fills `activation` with its whole layer."""

    weight: nn.Module
    activation: nn.Module
    norm_in: nn.Module | None = None
    norm: nn.Module | None = None
    norm_out: nn.Module | None = None

    def linear(self) -> dict[str, nn.Module]:
        """What stands before the place where a shortcut is added."""
        return _present(norm_in=self.norm_in, weight=self.weight, norm=self.norm)

    def nonlinear(self) -> dict[str, nn.Module]:
        return _present(activation=self.activation, norm_out=self.norm_out)


@dataclass(frozen=True)
class _Placement:
    build: Callable  # (weight, activation, options) -> Parts
    bias: bool  # whether the weight layer keeps its bias (a norm or shift behind it makes it redundant)


def _none(weight, activation, options):
    if options:
        raise ValueError(f"placement 'none' has no norm and takes no norm options, got {', '.join(options)}")
    return Parts(weight, activations.module(activation))


def _before(weight, activation, options):
    return Parts(weight, activations.module(activation), norm=_norm(weight, "out", options))


def _after(weight, activation, options):
    return Parts(weight, activations.module(activation), norm_out=_norm(weight, "out", options))


def _before_weight(weight, activation, options):
    return Parts(weight, activations.module(activation), norm_in=_norm(weight, "in", options))


def _both(weight, activation, options):
    return Parts(weight, activations.module(activation), norm=_norm(weight, "out", options),
                 norm_out=_norm(weight, "out", options))


def _complete(weight, activation, options):
    layer = norms.CompleteBatchNorm2d if _dims(weight) == 2 else norms.CompleteBatchNorm1d
    require_known("placement 'complete'", options, layer, given=2)
    return Parts(weight, layer(_features(weight, "out"), activation, **options))


_BUILT_IN = {
    "none": _Placement(_none, bias=True),
    "before": _Placement(_before, bias=False),
    "after": _Placement(_after, bias=True),
    "before_weight": _Placement(_before_weight, bias=True),
    "both": _Placement(_both, bias=False),
    "complete": _Placement(_complete, bias=False),
}
_REGISTRY = dict(_BUILT_IN)


def placements() -> list[str]:
    return list(_REGISTRY)


def register(name: str, build: Callable, *, bias: bool) -> None:
    """Add a placement: `build(weight, activation, options) -> Parts`; `bias`: does the weight layer need one?

    ValueError if the name is taken by one of the built-in placements.
    """
    if name in _BUILT_IN:
        raise ValueError(f"the name {name!r} belongs to a built-in placement; choose another")
    if not callable(build):
        raise TypeError(f"build must be callable as build(weight, activation, options) -> Parts, got {build!r}")
    _REGISTRY[name] = _Placement(build, bias)


def needs_bias(placement: str) -> bool:
    """Whether the weight layer of this placement should have a bias of its own."""
    return _lookup(placement).bias


def parts(weight_layer: nn.Module, activation: str | nn.Module, placement: str, **norm_options) -> Parts:
    """The filled slots of a block, for residual branches, for heads and for drawing. Errors as in `block`."""
    return _lookup(placement).build(weight_layer, activation, norm_options)


def block(weight_layer: nn.Module, activation: str | nn.Module, placement: str, **norm_options) -> nn.Module:
    """Weight layer, normalization and activation as one module, [N, C_in, ...] -> [N, C_out, ...].

    `weight_layer` is an `nn.Linear`, `nn.Conv1d` or `nn.Conv2d` and is used as given, its bias included (see
    `needs_bias`). `norm_options` go to the norm: for `complete` the arguments of `CompleteBatchNorm2d`, otherwise those
    of BatchNorm (eps, momentum, affine, track_running_stats) and `norm`, a name of `cbn_lab.norms`.

    Raises ValueError for an unknown placement or activation, TypeError for another kind of weight layer or an option
    that the norm does not have.
    """
    slots = parts(weight_layer, activation, placement, **norm_options)
    return sequence(slots.linear() | slots.nonlinear())


def sequence(layers: dict[str, nn.Module]) -> nn.Module:
    """Slots, or some of them, as one module."""
    if list(layers) == ["weight", "activation"] and isinstance(layers["activation"],
                                                               norms.complete.CompleteBatchNormBase):
        return CompleteBlock(layers)
    return _Sequential(layers)


class _Sequential(nn.Sequential):
    """nn.Sequential from a dict of named layers."""

    def __init__(self, layers: dict[str, nn.Module]):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


class CompleteBlock(_Sequential):
    """weight -> CompleteBatchNorm, equal to the plain sequence, with the pre-shift added by the weight layer's kernel.

    The shift costs no pass over the activation map of its own: it enters the convolution as its bias. Where one of the
    two has hooks (which see inputs and outputs, or compute a weight that is pruned or spectrally normalized), they are
    called like in the plain sequence.
    """

    computes_as_sequence = True  # for norms.fold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shift = self.activation.bias_before()
        if shift is None or any(_has_hooks(layer) for layer in self):
            return super().forward(x)
        bias = shift if self.weight.bias is None else self.weight.bias + shift
        if type(self.weight) is nn.Linear and x.dim() == 2:
            return self.activation.activate(F.linear(x, self.weight.weight, bias))
        if type(self.weight) is nn.Conv2d and self.weight.padding_mode == "zeros":
            layer = self.weight
            return self.activation.activate(
                F.conv2d(x, layer.weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups))
        return super().forward(x)


def _has_hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_pre_hooks or layer._forward_hooks or layer._backward_pre_hooks or layer._backward_hooks)


def _lookup(placement: str) -> _Placement:
    if placement not in _REGISTRY:
        raise ValueError(f"unknown placement {placement!r}; known: {', '.join(placements())}")
    return _REGISTRY[placement]


def _norm(weight: nn.Module, side: str, options: dict) -> nn.Module:
    options = dict(options)
    name = options.pop("norm", "batch_norm")
    return norms.get(name, _features(weight, side), _dims(weight), **options)


def _dims(weight: nn.Module) -> int:
    if isinstance(weight, (nn.Linear, nn.Conv1d)):
        return 1
    if isinstance(weight, nn.Conv2d):
        return 2
    raise TypeError(f"weight_layer must be nn.Linear, nn.Conv1d or nn.Conv2d, got {type(weight).__name__}")


def _features(weight: nn.Module, side: str) -> int:
    return getattr(weight, f"{side}_features" if isinstance(weight, nn.Linear) else f"{side}_channels")


def _present(**slots) -> dict[str, nn.Module]:
    return {name: module for name, module in slots.items() if module is not None}
