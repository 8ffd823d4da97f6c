"""The three effects side by side: what sets the penalty alpha^2/2 L E||g||^2 of a step of SGD.

    E F(w - alpha g) - F(w) <= -alpha ||grad F||^2 + alpha^2/2 L E||g||^2,    E||g||^2 = ||grad F||^2 + tr Cov g

(Bottou, Curtis and Nocedal 2018, section 4.) Effect (i) is L, here the largest eigenvalue of the Hessian of one
mini-batch: L at the weights, in the direction of most curvature, and not the supremum over all weights that the
inequality asks for. Effects (ii) and (iii) are E||g||^2 and tr Cov g over independent mini-batches. All three are given
raw and scale-free, that is for w/||w|| tensor by tensor, in which the inequality holds as well.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from cbn_lab.probes import curvature, gradients
from cbn_lab.probes._estimates import Estimate


@dataclass(frozen=True)
class Effects:
    """The three numbers in one unit, raw or scale-free. L is exact up to `residual`, for the one batch it is of."""

    L: float
    residual: float
    second: Estimate  # E||g||^2
    variance: Estimate  # tr Cov g

    @property
    def penalty(self) -> Estimate:
        """L E||g||^2; the interval is that of E||g||^2, with L as measured."""
        low, high = sorted((self.L * self.second.low, self.L * self.second.high))
        return Estimate(self.L * self.second.value, abs(self.L) * self.second.standard_error, low, high)


@dataclass(frozen=True)
class ThreeEffects:
    """What `three_effects` returns; the two measurements that it consists of are in it, with all they say."""

    raw: Effects
    scale_free: Effects
    curvature: curvature.Eigenvalue
    gradients: gradients.GradientMoments
    statistics: str
    gradient_evaluations: int

    def __str__(self) -> str:
        return (f"Three effects ({self.gradient_evaluations} gradient evaluations). (i) {self.curvature} "
                f"(ii), (iii) {self.gradients}")


def three_effects(model: nn.Module, loss_fn: Callable, batches: Iterable, *, statistics: str,
                  curvature_batch=None) -> ThreeEffects:
    """L, E||g||^2 and tr Cov g of `model` as it stands.

    `batches`: at least 50 independent mini-batches of one size (`gradients.draw`), all held in memory. L is that of
    `curvature_batch`, by default the first of them. Errors: those of `curvature.lambda_max` and `gradients.moments`.
    """
    batches = list(batches)
    moments = gradients.moments(model, loss_fn, batches, statistics=statistics)  # refuses what is no list of batches
    batch = batches[0] if curvature_batch is None else curvature_batch
    top = curvature.lambda_max(model, loss_fn, batch, statistics=statistics)
    return ThreeEffects(
        Effects(top.value, top.residual, moments.raw.second, moments.raw.variance),
        Effects(top.scale_free, top.scale_free_residual, moments.scale_free.second, moments.scale_free.variance),
        top, moments, statistics, top.gradient_evaluations + moments.gradient_evaluations)
