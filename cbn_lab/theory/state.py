"""A measured run of SGD: what was seen at each step, and what it is in expectation. `cbn_lab.theory.sgd` makes it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cbn_lab.theory.problems import Problem


@dataclass(frozen=True)
class Visit:
    """What was seen at one step: arrays over the visited points [P], and over the single steps taken from them [T].

    inner = gradient . E g, bias = |E g - gradient|, mean_squared = |E g|^2, second = E|g|^2, variance = Var[g]: given
    the point; None if the oracle can only be sampled. one_variance: the variance of one draw where g is a mini-batch.
    """

    points: np.ndarray
    value: np.ndarray
    squared: np.ndarray  # |gradient|^2
    inner: np.ndarray | None
    bias: np.ndarray | None
    mean_squared: np.ndarray | None
    second: np.ndarray | None
    variance: np.ndarray | None
    one_variance: np.ndarray | None
    step_value: np.ndarray  # [T] F(w), F(w - step g), gradient . g, |g|^2
    step_next: np.ndarray
    step_inner: np.ndarray
    step_squared: np.ndarray


@dataclass(frozen=True)
class Totals:
    """Expectations over the run: [K, R] for K steps and R paths (value: [K + 1, R]); R = 1 where they are exact.

    drawn_inner, drawn_squared: of the gradients that were used; equal to inner and second in expectation.
    """

    value: np.ndarray
    squared: np.ndarray
    second: np.ndarray
    drawn_inner: np.ndarray
    drawn_squared: np.ndarray

    def upto(self, k: int) -> "Totals":
        return Totals(self.value[:k + 1], self.squared[:k], self.second[:k], self.drawn_inner[:k],
                      self.drawn_squared[:k])


@dataclass(frozen=True)
class Pooled:
    """Sums over all draws up to a step, for an oracle that can only be sampled; see `_pool`."""

    count: int
    squared: float
    inner: tuple[float, float, float]  # sum of <gradient, g> - |gradient|^2, of its square, claimed sum of its variance
    product: tuple[float, float, float]  # the same of <g, g'> - |gradient|^2
    drift: np.ndarray  # sum of g - gradient, [d]
    drift_squares: tuple[float, float]  # sum of |g - gradient|^2, claimed
    second: float
    variance: float
    wealth: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class State:
    """A measured run of K = len(alphas) steps. `at(k)` is the run up to step k, `history()` all of these."""

    problem: Problem
    alphas: np.ndarray
    visits: tuple[Visit, ...]
    totals: Totals
    pooled: tuple[Pooled, ...] | None
    expectations: str
    rounding: float
    stopped: str
    measured_G2: float

    def at(self, k: int) -> "State":
        """The run up to step k; IndexError beyond its ends."""
        if not 1 <= k <= len(self.alphas):
            raise IndexError(f"the run has the steps 1 to {len(self.alphas)}, not {k}")
        return replace(self, alphas=self.alphas[:k], visits=self.visits[:k], totals=self.totals.upto(k),
                       pooled=self.pooled and self.pooled[:k])

    def history(self) -> Iterator["State"]:
        return (self.at(k) for k in range(1, len(self.alphas) + 1))

    @property
    def exact(self) -> bool:
        """Whether the expectations over the run are exact."""
        return not self.expectations.startswith("sampled")

    @property
    def constant_step(self) -> bool:
        return bool(np.all(self.alphas == self.alphas[0]))

    @property
    def factor(self) -> float:
        """What a mini-batch multiplies the variance of one draw by."""
        return float(getattr(self.problem.oracle, "factor", 1.0))

    @property
    def sigma2(self) -> float | None:
        """The claimed bound of the variance of the gradient that is used, mini-batch or not."""
        return None if self.problem.sigma2 is None else self.problem.sigma2 * self.factor

    @property
    def M(self) -> float | None:
        return self.sigma2 if self.problem.M is None else self.problem.M * self.factor

    @property
    def M_V(self) -> float:
        return self.problem.M_V * self.factor

    @property
    def G2(self) -> float:
        """The claimed bound of E|g|^2, or the largest of the whole run if none is claimed."""
        return self.measured_G2 if self.problem.G2 is None else self.problem.G2

    @property
    def gap(self) -> float:
        """Delta = F(w_0) - f*."""
        return self.start_value - self.problem.f_star

    @property
    def start_value(self) -> float:
        return float(self.totals.value[0, 0])
