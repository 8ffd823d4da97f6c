"""Unbiased moments of a random vector from n independent draws, with confidence intervals.

All estimates are functions of the inner products G_ij = <g_i, g_j> of the draws g_1 .. g_n:

    E||g||^2     S = (1/n) sum_i G_ii
    ||E g||^2    M = 1/(n(n-1)) sum_{i != j} G_ij    the plug-in ||mean||^2 is too large by tr Cov/n: equal indices
                                                     count a draw's noise twice, so they are left out
    tr Cov       V = 1/(n-1) sum_i ||g_i - mean||^2

Each is unbiased, and S = M + V holds for the estimates as for the moments; V is computed from the centred draws and
not as S - M, so that the difference is a check on both. Intervals: the jackknife over the draws (Efron and Stein 1981)
gives standard errors and the covariance of M and V. S and V, which are positive, get an interval that is symmetric in
the logarithm; M, whose estimate can be negative, a plain one; the ratio V/M Fieller's (1954), whose upper end is
infinite where M is not distinguishable from 0. The quantile is Student's with n - 1 degrees of freedom. At n = 50 and
95 % they cover in 93 to 98 % of trials for normal draws; for heavy tails (log-normal scales) S and V in 87 %.
"""

import math
from dataclasses import dataclass

import torch
from scipy.stats import t as student

_COLUMNS = 2**18  # of float64 at a time, so that the inner products need little memory beside the draws


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and its confidence interval [low, high]."""

    value: float
    standard_error: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Moments:
    """Estimates of E||g||^2, ||E g||^2 and tr Cov g.

    noise_to_signal is tr Cov / ||E g||^2, which is infinite where the estimate of ||E g||^2 is not positive;
    identity_error is |S - (M + V)| / S: rounding only.
    """

    second: Estimate
    squared_mean: Estimate
    variance: Estimate
    noise_to_signal: Estimate
    identity_error: float


@dataclass(frozen=True, eq=False)
class Products:
    """What the estimates need of n draws: inner products [n, n] and squared distances from the mean [n], float64."""

    inner: torch.Tensor
    centred: torch.Tensor

    def __add__(self, other: "Products") -> "Products":
        """Of the draws put side by side: (g, h) has <g, g'> + <h, h'>."""
        return Products(self.inner + other.inner, self.centred + other.centred)

    def times(self, factor: float) -> "Products":
        """Of the draws times the root of `factor`."""
        return Products(factor * self.inner, factor * self.centred)


def products(draws: torch.Tensor) -> Products:
    """`draws` is [n, p], one draw a row."""
    n = len(draws)
    inner = torch.zeros(n, n, dtype=torch.float64, device=draws.device)
    centred = torch.zeros(n, dtype=torch.float64, device=draws.device)
    for part in draws.split(_COLUMNS, dim=1):
        part = part.double()
        inner += part @ part.T
        centred += (part - part.mean(0)).square().sum(1)
    return Products(inner.cpu(), centred.cpu())


def estimate(of: Products, *, confidence: float = 0.95) -> Moments:
    """The moments of the draws behind `of`. ValueError for fewer than 3 draws or a confidence outside (0, 1)."""
    n = len(of.inner)
    if n < 3:
        raise ValueError(f"the jackknife needs at least 3 draws, got {n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; 0.95 is usual")
    own = of.inner.diagonal()  # [n], ||g_i||^2
    others = of.inner.sum(1) - own  # [n], sum over j != i of <g_i, g_j>
    second, squared_mean = float(own.mean()), float(others.sum()) / (n * (n - 1))
    variance = float(of.centred.sum()) / (n - 1)
    # The same with draw i left out, for every i.
    without = torch.stack([(own.sum() - own) / (n - 1),
                           (others.sum() - 2 * others) / ((n - 1) * (n - 2)),
                           (of.centred.sum() - n / (n - 1) * of.centred) / (n - 2)])
    covariance = (n - 1) ** 2 / n * torch.cov(without)  # jackknife: (n-1)/n times the sum of squares
    t = float(student.ppf((1 + confidence) / 2, n - 1))
    errors = covariance.diagonal().clamp(min=0).sqrt().tolist()
    return Moments(_positive(second, errors[0], t), Estimate(squared_mean, errors[1], squared_mean - t * errors[1],
                                                             squared_mean + t * errors[1]),
                   _positive(variance, errors[2], t), _ratio(variance, squared_mean, covariance[1:, 1:], t),
                   abs(second - squared_mean - variance) / second if second else 0.0)


def _positive(value: float, error: float, t: float) -> Estimate:
    """exp(log value -+ t error / value): the error of the logarithm by the delta method."""
    factor = math.exp(min(t * error / value, 700.0)) if value > 0 else 1.0
    return Estimate(value, error, value / factor, value * factor)


def _ratio(top: float, bottom: float, covariance: torch.Tensor, t: float) -> Estimate:
    """top / bottom >= 0 by Fieller: all r with (top - r bottom)^2 <= t^2 Var(top - r bottom).

    `covariance` is that of (bottom, top). With a = bottom^2 - t^2 Var(bottom) <= 0 the denominator may be 0, and no
    upper end can be given.
    """
    (vb, vbt), (_, vt) = covariance.tolist()
    value = top / bottom if bottom > 0 else math.inf
    error = math.sqrt(max(vt - 2 * value * vbt + value**2 * vb, 0.0)) / bottom if bottom > 0 else math.inf
    a, b, c = bottom**2 - t**2 * vb, bottom * top - t**2 * vbt, top**2 - t**2 * vt
    root = math.sqrt(max(b * b - a * c, 0.0))
    if a > 0:
        return Estimate(value, error, max((b - root) / a, 0.0), (b + root) / a)
    low = 0.0 if c <= 0 else c / (b + root)  # the positive root (b - root)/a, without dividing by an a of 0
    return Estimate(value, error, low, math.inf)
