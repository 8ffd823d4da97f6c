"""How the squared gradient grows from layer to layer, from the output of a deep net down to its input.

    profile(model, loss_fn, batch, statistics=...)    of any nn.Sequential: at every boundary, and of every weight
    growth("relu", "before", statistics="batch")      the rate per block of a deep net of equal blocks, over seeds
    predicted("relu")                                 the rate for infinite width and batch, 1.467

With a batch norm in every block the rate does not depend on where it stands. In the limit of infinite width and batch
the pre-activation z is N(0, 1). Going down, a block multiplies the squared gradient by E f'(z)^2 (the activation; the
weights, N(0, 1/fan_in), keep it) and divides it by Var f(z) (the norm):

    rate = E f'(z)^2 / Var f(z).

With f = sum a_k h_k in normalized Hermite polynomials this is sum k a_k^2 / sum a_k^2 over k >= 1. So it is at least 1,
and 1 only if f is linear: no activation and no position avoids the growth (ReLU: pi/(pi - 1)). Batch norms are what
divides by Var f, so that the signal does not shrink and the gradient grows; without them both shrink or both stay.

Yang, Pennington, Rao, Sohl-Dickstein and Schoenholz, ICLR 2019, arXiv:1902.08129, treat finite batches: ReLU 1.480 at
batch 128, for infinite width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from scipy.stats import t as student
from torch import nn

from cbn_lab import blocks
from cbn_lab.probes._estimates import Estimate
from cbn_lab.probes._frozen import STATISTICS, frozen, gradients_of
from cbn_lab.theory import layer

CONFIDENCE = 0.95
SKIPPED = 3  # blocks at either end: the input is not yet, and the random output gradient no longer, a typical one


@dataclass(frozen=True)
class Profile:
    """Squared gradients along an nn.Sequential, from the input (first) to the output (last).

    boundaries       ||dL/dh||^2 at the input of every child, and at the output: one more than children
    boundaries_free  the same times ||h||^2
    weights          child's name -> ||dL/dW||^2 summed over its parameters of two or more axes
    weights_free     the same times ||W||^2, tensor by tensor
    """

    boundaries: tuple[float, ...]
    boundaries_free: tuple[float, ...]
    weights: dict[str, float]
    weights_free: dict[str, float]
    statistics: str
    gradient_evaluations: int = 1

    def rate(self, first: int = 0, last: int | None = None) -> float:
        """Factor per child by which ||dL/dh||^2 grows from boundary `last` (default: the output) down to `first`."""
        last = len(self.boundaries) - 1 if last is None else last
        if not 0 <= first < last < len(self.boundaries):
            raise ValueError(f"need 0 <= first < last <= {len(self.boundaries) - 1}, got {first} and {last}")
        low, high = self.boundaries[first], self.boundaries[last]
        if not (low > 0 and high > 0):
            raise ValueError("the gradient is zero at a boundary, so there is no rate; are all units of a layer off?")
        return (low / high) ** (1 / (last - first))

    def __str__(self) -> str:
        return (f"Squared gradient with respect to what enters each of {len(self.boundaries) - 1} layers, "
                f"{STATISTICS[self.statistics]}: {self.boundaries[-1]:.3g} at the output, {self.boundaries[0]:.3g} at "
                f"the input; {self.gradient_evaluations} gradient evaluation.")


@dataclass(frozen=True)
class Growth:
    """The rate per block, over seeds: of the gradient at the blocks' inputs, and of the gradient of their weights."""

    rate: Estimate
    weight_rate: Estimate
    per_seed: tuple[float, ...]
    profiles: tuple[Profile, ...]
    activation: str
    placement: str
    width: int
    depth: int
    batch_size: int
    statistics: str
    gradient_evaluations: int

    def __str__(self) -> str:
        r = self.rate
        return (f"{self.activation}, {self.placement}: going down, the squared gradient is multiplied by {r.value:.3f} "
                f"a block (95 % interval {r.low:.3f} to {r.high:.3f}, {len(self.per_seed)} seeds); that of the weights "
                f"by {self.weight_rate.value:.3f}. At initialization, width {self.width}, {self.depth} blocks, batch "
                f"{self.batch_size}, {STATISTICS[self.statistics]}; {self.gradient_evaluations} gradient evaluations.")


def profile(model: nn.Sequential, loss_fn: Callable, batch, *, statistics: str) -> Profile:
    """Squared gradients of one mini-batch's loss at every boundary between the children of `model`.

    Raises TypeError for a model that is no nn.Sequential, ValueError for what `frozen` refuses (a batch of one before a
    norm, a loss that is not finite), for a loss that is cut off from the model and for a gradient that is not finite.
    """
    if not isinstance(model, nn.Sequential) or not len(model):
        raise TypeError(f"profile needs an nn.Sequential with at least one child, got {type(model).__name__}; wrap the "
                        "blocks in one")
    found: list[torch.Tensor] = []

    def keep(module, inputs):
        found.append(inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_())
        return (found[-1].clone(),)  # a child that works in place must not change what is kept

    handles = [child.register_forward_pre_hook(keep) for child in dict.fromkeys(model)]  # a child may stand twice
    handles.append(model.register_forward_hook(lambda module, inputs, output: found.append(output)))
    named = {name: [p for p in child.parameters() if p.dim() > 1] for name, child in model.named_children()}
    weights = [p for group in named.values() for p in group]
    try:
        with frozen(model, statistics=statistics) as probe:
            for weight in weights:
                weight.requires_grad_(True)
            loss = probe.loss(loss_fn, batch)
            slopes = gradients_of(loss, [*found, *weights])
    finally:
        for handle in handles:
            handle.remove()
    squared = [_squared(g) for g in slopes]
    if not all(map(math.isfinite, squared)):
        raise ValueError("a gradient is not finite although the loss is: it grows too fast for the precision; use "
                         "float64, fewer layers or a smaller loss")
    own = dict(zip(map(id, weights), squared[len(found):], strict=True))
    boundaries = squared[:len(found)]
    return Profile(
        tuple(boundaries), tuple(g * _squared(h) for g, h in zip(boundaries, found, strict=True)),
        {name: math.fsum(own[id(p)] for p in group) for name, group in named.items() if group},
        {name: math.fsum(own[id(p)] * _squared(p) for p in group) for name, group in named.items() if group},
        statistics)


def growth(activation: str = "relu", placement: str = "before", *, statistics: str, width: int = 500, depth: int = 25,
           batch_size: int = 128, seeds: Sequence[int] = (0, 1, 2, 3), norm_options: dict | None = None) -> Growth:
    """The rate at which the squared gradient grows through `depth` equal blocks of linear layers, at initialization.

    Inputs and the gradient at the output are N(0, 1), weights N(0, 1/width); three blocks at either end are left out of
    the rate. Under "running" the norms hold the statistics of another random batch. The interval is Student's over
    seeds, of the logarithm.

    Raises ValueError for unknown names, fewer than 2 seeds, a depth below 8, a batch of one before a norm.
    """
    if len(seeds) < 2 or depth < 2 * SKIPPED + 2 or width < 1 or batch_size < 1:
        raise ValueError(f"growth needs at least 2 seeds, depth of at least {2 * SKIPPED + 2}, width and batch_size of "
                         f"at least 1; got {len(seeds)} seeds, depth {depth}, width {width}, batch_size {batch_size}")
    with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made
        profiles = [_one(activation, placement, statistics, width, depth, batch_size, seed, norm_options or {})
                    for seed in seeds]
    rates = [p.rate(SKIPPED, depth - SKIPPED) for p in profiles]
    weights = []
    for p in profiles:
        w = list(p.weights.values())
        weights.append((w[SKIPPED] / w[depth - 1 - SKIPPED]) ** (1 / (depth - 1 - 2 * SKIPPED)))
    return Growth(_over_seeds(rates), _over_seeds(weights), tuple(rates), tuple(profiles), activation, placement, width,
                  depth, batch_size, statistics, len(seeds))


def predicted(activation: str) -> float:
    """E f'(z)^2 / Var f(z), z ~ N(0, 1): the rate of every placement with one norm a block, in the limit.

    `cbn_lab.theory.layer.growth` where BN starts. ValueError for an unknown name, or an activation that is constant.
    """
    return layer.growth(activation)


def _one(activation, placement, statistics, width, depth, batch_size, seed, norm_options) -> Profile:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    layers = []
    for _ in range(depth):
        linear = nn.Linear(width, width, bias=blocks.needs_bias(placement))
        nn.init.normal_(linear.weight, 0.0, width**-0.5, generator=generator)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
        layers.append(blocks.block(linear, activation, placement, **norm_options))
    net = nn.Sequential(*layers)
    if statistics == "running":
        _take_statistics(net, normal(batch_size, width))
    return profile(net, lambda outputs, above: (outputs * above).sum(),
                   (normal(batch_size, width), normal(batch_size, width)), statistics=statistics)


@torch.no_grad()
def _take_statistics(net: nn.Module, inputs: torch.Tensor) -> None:
    """The running statistics become those of this batch."""
    for module in net.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    net.train()(inputs)


def _over_seeds(rates: Sequence[float]) -> Estimate:
    logs, n = [math.log(rate) for rate in rates], len(rates)
    error, centre = stdev(logs) / n**0.5, math.exp(fmean(logs))
    factor = math.exp(float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * error)
    return Estimate(centre, centre * error, centre / factor, centre * factor)


def _squared(tensor: torch.Tensor) -> float:
    return float(tensor.detach().double().square().sum())
