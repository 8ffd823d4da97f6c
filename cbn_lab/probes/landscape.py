"""The loss and its gradient along the negative gradient, on one mini-batch (Santurkar et al. 2018, section 3.1).

    found = probe(model, loss_fn, batch, statistics="batch", steps=around(0.1))
    found.whole.losses, found.whole.predictiveness, found.whole.smoothness     # all parameters move
    found.layers["0.weight"].smoothness                                        # this module's parameters move alone

From the weights w, with g = grad L(w), go to w' = w - step * g, for each step, and measure

    loss                           L(w')
    gradient predictiveness        ||grad L(w') - g||
    effective beta-smoothness      max over the steps of ||grad L(w') - g|| / ||w' - w||

L is the loss of *the same* mini-batch with the same dropout mask at w and w'; under batch statistics it includes the
norms' statistics, recomputed at w'. Otherwise the difference of two gradients would be noise, not curvature. The
effective smoothness is a lower bound for the Lipschitz constant of the gradient on the line, not that constant.

`probe` goes in the parameters as they are. `probe_scale_free` goes in u = w/||w||, tensor by tensor: the gradient there
is ||w|| g, and a step s along it moves the tensor by -s ||w||^2 g. That is what gradient descent with the learning rate
s ||w||^2 does (van Laarhoven 2017 calls s the effective learning rate). If the weights before a norm are multiplied by
a number, this curve stays as it is; `probe`'s smoothness falls by the square of the number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cbn_lab.probes._frozen import STATISTICS, Frozen, frozen, gradients_of


@dataclass(frozen=True)
class Line:
    """What lies on one line: a value for each step. `squared_weight` is ||w||^2 of the parameters that move.

    A layer without a gradient (or, in w/||w||, of zeros alone) does not move: its losses are equal, its ratios 0.
    """

    losses: tuple[float, ...]
    predictiveness: tuple[float, ...]
    ratios: tuple[float, ...]
    squared_gradient: float
    squared_weight: float

    @property
    def smoothness(self) -> float:
        """max ||grad L(w') - g|| / ||w' - w||."""
        return max(self.ratios)

    @property
    def scale_free_smoothness(self) -> float:
        """`smoothness` times ||w||^2: of a raw line, as a curvature in units of the weights' own length.

        Rescaling *one* layer leaves it unchanged only on a line in which that layer alone moves; for a whole net with
        gammas or a head, whose lengths do not scale along, use `probe_scale_free`.
        """
        return self.smoothness * self.squared_weight


@dataclass(frozen=True)
class Landscape:
    """`whole`: all parameters move; `layers`: those of one module move alone, along their own gradient.

    `coordinates` is "w" or "w/||w||"; `layers` is empty where they were not asked for.
    """

    steps: tuple[float, ...]
    loss: float
    whole: Line
    layers: Mapping[str, Line]
    coordinates: str
    statistics: str
    batch_size: int
    gradient_evaluations: int

    def __str__(self) -> str:
        w = self.whole
        free = f" (times ||w||^2: {w.scale_free_smoothness:.3g})" if self.coordinates == "w" else ""
        steps = f"{len(self.steps)} steps from {min(self.steps):.3g} to {max(self.steps):.3g}"
        return (f"Along the negative gradient of one mini-batch of {self.batch_size}, {STATISTICS[self.statistics]}, "
                f"in {self.coordinates}, {steps}: loss {self.loss:.4g} at the start, {min(w.losses):.4g} to "
                f"{max(w.losses):.4g} on the line; gradient moved by {min(w.predictiveness):.3g} to "
                f"{max(w.predictiveness):.3g}; effective beta-smoothness {w.smoothness:.3g}{free}; "
                f"{self.gradient_evaluations} gradient evaluations.")


def around(learning_rate: float, count: int = 8) -> tuple[float, ...]:
    """`count` steps from 1/2 to 4 times the learning rate, equally spaced in the logarithm (the range of the paper)."""
    if not (learning_rate > 0 and count >= 2):
        raise ValueError(f"need a positive learning rate and a count of at least 2, got {learning_rate} and {count}")
    return tuple(learning_rate * 0.5 * 8 ** (i / (count - 1)) for i in range(count))


def probe(model: nn.Module, loss_fn: Callable, batch, *, statistics: str, steps: Sequence[float],
          per_layer: bool = True) -> Landscape:
    """Move by -step * gradient, for each of `steps` (learning rates); see `around`.

    Costs 1 + len(steps) * (1 + number of layers) gradient evaluations, without the layers 1 + len(steps). Raises
    ValueError for no steps, a step that is not positive, a gradient that is zero, a loss or gradient that is not finite
    (with the step at which that is so), a loss that is cut off from the model, and what `frozen` refuses.
    """
    return _measure(model, loss_fn, batch, statistics, steps, per_layer, scale_free=False)


def probe_scale_free(model: nn.Module, loss_fn: Callable, batch, *, statistics: str, steps: Sequence[float],
                     per_layer: bool = True) -> Landscape:
    """The same in w/||w||, tensor by tensor; `steps` are effective learning rates. Tensors that are zero stay so."""
    return _measure(model, loss_fn, batch, statistics, steps, per_layer, scale_free=True)


def _measure(model, loss_fn, batch, statistics, steps, per_layer, *, scale_free: bool) -> Landscape:
    steps = tuple(float(step) for step in steps)
    if not steps or not all(0 < step < float("inf") for step in steps):
        raise ValueError(f"steps must be positive, finite numbers, at least one, got {steps}; see around")
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("the model has no parameter that requires a gradient; use requires_grad_(True) on the layers "
                         "that are to be measured")
    layers: dict[str, list[str]] = {}
    for name in named:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    with frozen(model, statistics=statistics) as at:
        walk = _Walk(at, loss_fn, batch, named, steps, scale_free)
        whole = walk.line(list(named))
        if not whole.squared_gradient:
            raise ValueError("the gradient of this batch is zero, so there is no direction to go in")
        parts = {layer: walk.line(names) for layer, names in (layers.items() if per_layer else ())}
        return Landscape(steps, walk.loss, whole, parts, "w/||w||" if scale_free else "w", statistics, len(batch[1]),
                         walk.evaluations)


class _Walk:
    """The start, w and g, and the lines that leave it."""

    def __init__(self, at: Frozen, loss_fn, batch, named: dict[str, nn.Parameter], steps, scale_free: bool):
        self._at, self._loss_fn, self._batch, self._named, self._steps = at, loss_fn, batch, named, steps
        self.evaluations = 0
        self._start = {name: p.detach().clone() for name, p in named.items()}
        self._squared = {name: float(w.double().square().sum()) for name, w in self._start.items()}
        self._length = {name: w**0.5 if scale_free else 1.0 for name, w in self._squared.items()}
        self.loss, self._gradient = self._evaluate("at the start")

    def line(self, names: list[str]) -> Line:
        """Only the parameters `names` move, and only their gradient counts."""
        squared = sum(self._length[name] ** 2 * _squared(self._gradient[name]) for name in names)
        losses, moved, ratios = [], [], []
        for step in self._steps if squared else ():
            with torch.no_grad():
                for name in names:
                    move = step * self._length[name] ** 2
                    self._named[name].copy_(self._start[name] - move * self._gradient[name])
            loss, gradient = self._evaluate(f"at step {step:g}")
            difference = sum(self._length[name] ** 2 * _squared(gradient[name] - self._gradient[name])
                             for name in names) ** 0.5
            losses.append(loss)
            moved.append(difference)
            ratios.append(difference / (step * squared**0.5))
        with torch.no_grad():
            for name in names:
                self._named[name].copy_(self._start[name])
        if not squared:
            losses, moved, ratios = ([value] * len(self._steps) for value in (self.loss, 0.0, 0.0))
        return Line(tuple(losses), tuple(moved), tuple(ratios), squared, sum(self._squared[name] for name in names))

    def _evaluate(self, where: str) -> tuple[float, dict[str, torch.Tensor]]:
        self.evaluations += 1
        try:
            loss = self._at.loss(self._loss_fn, self._batch)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        found = gradients_of(loss, list(self._named.values()))
        for name, gradient in zip(self._named, found, strict=True):
            if not torch.isfinite(gradient).all():
                raise ValueError(f"{where}: the gradient of {name} is not finite; take smaller steps")
        return float(loss.detach()), dict(zip(self._named, found, strict=True))


def _squared(tensor: torch.Tensor) -> float:
    return float(tensor.double().square().sum())
