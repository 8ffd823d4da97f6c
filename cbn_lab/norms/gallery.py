"""The bug gallery: batch norm as published courses got it wrong. One correct layer; each bug replaces one line of it.

`Correct` is `cbn_lab.norms.BatchNorm1d/2d` cut into small methods, so that a bug is one method, given anew, and can be
read beside the right one (`difference`). Notebook 01 lets the reader name the row of the conformance table that catches
each of them; tests/test_gallery.py has all the rows that each of them fails.

Where a docstring names a course, the bug was found there; the code here is ours, made to misbehave in the same way.
"A common slip" is one for which we know no report in a course.
"""

import inspect
import textwrap
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cbn_lab.norms.batch_norm import LOW_PRECISION, BatchNorm1d, BatchNorm2d, _BatchNorm, _values_per_channel


class Correct(_BatchNorm):
    """Batch norm in methods of a line or two; passes the whole conformance table. dims: 1 for [N, C] and [N, C, L],
    2 for [N, C, H, W]; options as in `BatchNorm1d`, whose errors it raises."""

    def __init__(self, num_features: int, dims: int, **options):
        super().__init__(num_features, **options)
        self.shapes = (BatchNorm1d if dims == 1 else BatchNorm2d).shapes

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        z = x.float() if x.dtype in LOW_PRECISION else x
        n = _values_per_channel(x)
        if self.uses_batch():
            mean, var = self.moments(z, self.axes(z))
            if self.track_running_stats:
                self.update(mean, var, n)
            var = self.normalizing_variance(var, n)
        else:
            mean, var = self.running_mean.to(z.dtype), self.running_var.to(z.dtype)
        view = (1, -1, *(1 for _ in x.shape[2:]))  # [C] -> [1, C], [1, C, 1] or [1, C, 1, 1]
        y = (z - mean.view(view)) / self.divisor(var).view(view)
        if self.affine:
            y = y * self.weight.view(view) + self.bias.view(view)
        channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return y.to(x.dtype).contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def uses_batch(self) -> bool:
        return self.training or self.running_mean is None

    def axes(self, z: Tensor) -> tuple[int, ...]:
        return (0, *range(2, z.dim()))

    def moments(self, z: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        mean = z.mean(axes, keepdim=True)
        return mean.flatten(), (z - mean).square().mean(axes)

    def normalizing_variance(self, var: Tensor, n: int) -> Tensor:
        return var

    def divisor(self, var: Tensor) -> Tensor:
        return (var + self.eps).sqrt()

    def update(self, mean: Tensor, var: Tensor, n: int) -> None:
        self.num_batches_tracked.add_(1)
        weight = self.num_batches_tracked.to(var.dtype).reciprocal() if self.momentum is None else self.momentum
        if n > 0:
            self.move("running_mean", mean, weight)
            self.move("running_var", self.stored_variance(var, n), weight)

    def stored_variance(self, var: Tensor, n: int) -> Tensor:
        return var * (n / (n - 1))

    def move(self, name: str, batch: Tensor, weight: float | Tensor) -> None:
        running = getattr(self, name)
        running.lerp_(batch.detach().to(running.dtype), weight)


class StoresBiasedVariance(Correct):
    """running_var receives the variance that divides by n. ARENA_3.0 issue #415, and d2l-en. In eval mode the output
    is too large by up to the root of n / (n - 1): not seen at n = 8192, and 7 % at n = 8."""

    def stored_variance(self, var: Tensor, n: int) -> Tensor:
        return var


class NormalizesByUnbiasedVariance(Correct):
    """The batch is divided by the root of the variance that divides by n - 1: torch's default in `x.var(0)`.
    nn-zero-to-hero issue #44. The outputs of a batch then have the variance (n - 1) / n, so 1/2 at n = 2."""

    def normalizing_variance(self, var: Tensor, n: int) -> Tensor:
        return var * (n / (n - 1))


class OnePassVariance(Correct):
    """The variance as E[x^2] - E[x]^2, two large numbers that nearly cancel. labml's annotated implementation; in
    float32, at a mean of 1e4, it falls to -16 and below, and the output is not a number."""

    def moments(self, z: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        mean = z.mean(axes)
        return mean, z.square().mean(axes) - mean.square()


class DecidesByGradMode(Correct):
    """Takes recording of gradients for training. d2l-en. Right in the two usual cases, train with gradients and eval
    without; wrong for saliency or adversarial gradients in eval mode, and for refreshed statistics under no_grad."""

    def uses_batch(self) -> bool:
        return torch.is_grad_enabled() or self.running_mean is None


class EpsOutsideTheRoot(Correct):
    """Divides by sqrt(var) + eps. A common slip. The same to 5 digits at variance 1; at a variance of eps = 1e-5 it
    divides by 0.0032 in place of 0.0045, and the gradient of the root is infinite where the variance is 0."""

    def divisor(self, var: Tensor) -> Tensor:
        return var.sqrt() + self.eps


class MomentumReversed(Correct):
    """Takes momentum for the weight of what is kept, as SGD's and Keras' is; torch's is the weight of the update.
    A common slip. With 0.1 the running statistics are nearly those of the last batch alone."""

    def move(self, name: str, batch: Tensor, weight: float | Tensor) -> None:
        running = getattr(self, name)
        running.lerp_(batch.detach().to(running.dtype), 1 - weight)


class OneMeanForAllChannels(Correct):
    """Means over the whole tensor, as `x.mean()` without axes gives. A common slip. Broadcasting hides it: one number
    fills the running statistics of every channel."""

    def axes(self, z: Tensor) -> tuple[int, ...]:
        return tuple(range(z.dim()))


class RebindsBuffers(Correct):
    """Puts new tensors in the place of the running statistics. Seen in the code that nn-zero-to-hero issue #44
    quotes. The numbers are right; whoever holds the old tensor (DDP, an exponential average, a captured graph) keeps
    what it was at the start."""

    def move(self, name: str, batch: Tensor, weight: float | Tensor) -> None:
        running = getattr(self, name)
        setattr(self, name, (1 - weight) * running + weight * batch.detach().to(running.dtype))


class ConstantStatistics(Correct):
    """The backward pass takes mean and variance for constants. Ioffe and Szegedy (2015, section 2) tell of it: the
    gradient step and the normalization then work against each other, and parameters can grow without bound."""

    def moments(self, z: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return super().moments(z, axes)


class KeepsTheGraph(Correct):
    """Updates the running statistics with tensors that remember how they were made. A common slip. Each batch adds
    its graph to that of the batch before; memory grows, and a second backward pass through it is an error."""

    def move(self, name: str, batch: Tensor, weight: float | Tensor) -> None:
        running = getattr(self, name)
        running.lerp_(batch.to(running.dtype), weight)


@dataclass(frozen=True)
class Bug:
    """`rows` are the rows of the conformance table whose rule the layer breaks. It fails others too: most rows compare
    everything that the layer computes."""

    layer: type[Correct]
    rows: tuple[str, ...]


SUSPECTS = {
    "A": Bug(EpsOutsideTheRoot, ("eps_inside_the_root",)),
    "B": Bug(StoresBiasedVariance, ("unbiased_variance_is_stored",)),
    "C": Bug(OneMeanForAllChannels, ("axes",)),
    "D": Bug(DecidesByGradMode, ("grad_mode_is_not_train_mode", "eval_uses_running_statistics")),
    "E": Bug(NormalizesByUnbiasedVariance, ("biased_variance_normalizes",)),
    "F": Bug(MomentumReversed, ("momentum_weighs_the_update",)),
    "G": Bug(OnePassVariance, ("mean_offset",)),
    "H": Bug(ConstantStatistics, ("gradients", "double_backward")),
    "I": Bug(RebindsBuffers, ("buffers_in_place",)),
    "J": Bug(KeepsTheGraph, ("buffers_in_place",)),
}


def difference(layer: type[nn.Module]) -> str:
    """The source of the methods in which `layer` differs from `Correct`, without its name and its docstring.

    >>> print(difference(EpsOutsideTheRoot))
    def divisor(self, var: Tensor) -> Tensor:
        return var.sqrt() + self.eps
    """
    return "\n".join(_source(vars(layer)[name]) for name in _methods(layer))


def right(layer: type[nn.Module]) -> str:
    """The source of the same methods in `Correct`.

    >>> print(right(EpsOutsideTheRoot))
    def divisor(self, var: Tensor) -> Tensor:
        return (var + self.eps).sqrt()
    """
    return "\n".join(_source(vars(Correct)[name]) for name in _methods(layer))


def _methods(layer: type[nn.Module]) -> list[str]:
    return [name for name, value in vars(layer).items() if inspect.isfunction(value)]


def _source(function) -> str:
    return textwrap.dedent(inspect.getsource(function)).rstrip()
