"""Stochastic gradients: what a problem's oracle may look like, and the ones that come with the course.

An oracle is anything with `sample(w, rng) -> g` ([d] -> [d]); a plain function of (w, rng) will do. It may know more
(and with `outcomes`, needs no `sample`):

    outcomes(w) -> (gradients [m, d], probabilities [m])   every outcome: expectations are then exact
    moments(w)  -> (E[g | w] [d], Var[g | w])              Var = E|g - E g|^2, a float; may be infinite
    single, factor                                         of a mini-batch: the oracle of one draw, and Var / Var of one

The classes here are `vectorized`: w is [..., d], and `outcomes` gives [..., m, d].
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ENUMERATED = 20_000  # at most so many mini-batches are enumerated for the moments


def draw(oracle, w, rng):
    """One draw: by `sample`, by calling the oracle, or from its outcomes. TypeError for an object that has none."""
    if hasattr(oracle, "sample"):
        return oracle.sample(w, rng)
    if callable(oracle):
        return oracle(w, rng)
    if not hasattr(oracle, "outcomes"):
        raise TypeError(f"an oracle is a function of (w, rng), or has `sample` or `outcomes`; got {oracle!r:.60}")
    gradients, probabilities = oracle.outcomes(w)
    return np.asarray(gradients, dtype=float)[rng.choice(len(probabilities), p=probabilities)]


def moments(oracle, w):
    """(E[g | w], Var[g | w]) from what the oracle knows; None if it can only be sampled."""
    if getattr(oracle, "moments", None) is not None:
        return oracle.moments(w)
    if getattr(oracle, "outcomes", None) is None:
        return None
    gradients, p = (np.asarray(part, dtype=float) for part in oracle.outcomes(w))
    mean = (p[..., None] * gradients).sum(axis=-2)
    return mean, (p * ((gradients - mean[..., None, :]) ** 2).sum(axis=-1)).sum(axis=-1)


def knows_moments(oracle) -> bool:
    return any(getattr(oracle, name, None) is not None for name in ("moments", "outcomes"))


@dataclass(frozen=True)
class Noise:
    """Independent coordinates with mean 0. `variance` is that of one coordinate (may be inf), at scale 1."""

    name: str
    draw: Callable  # (rng, shape) -> array
    variance: float


def gaussian() -> Noise:
    return Noise("Gaussian", lambda rng, shape: rng.standard_normal(shape), 1.0)


def student_t(df: float) -> Noise:
    """Student's t: variance df / (df - 2), infinite for df <= 2. ValueError for df <= 1, which has no mean."""
    if df <= 1:
        raise ValueError(f"Student's t with {df} degrees of freedom has no mean; df > 1 is needed")
    return Noise(f"Student t, {df:g} degrees of freedom", lambda rng, shape: rng.standard_t(df, shape),
                 df / (df - 2) if df > 2 else math.inf)


def pareto(index: float) -> Noise:
    """A centred Pareto, P(X > x) ~ x^-index, one-sided; infinite variance for index <= 2. ValueError for <= 1."""
    if index <= 1:
        raise ValueError(f"a Pareto tail of index {index} has no mean; index > 1 is needed")
    mean = 1 / (index - 1)  # of numpy's, which begins at 0
    variance = index / ((index - 1) ** 2 * (index - 2)) if index > 2 else math.inf
    return Noise(f"Pareto, tail index {index:g}", lambda rng, shape: rng.pareto(index, shape) - mean, variance)


class Exact:
    """No noise: the one outcome is the gradient."""

    vectorized = True

    def __init__(self, gradient: Callable):
        self.gradient = gradient

    def sample(self, w, rng):
        return self.gradient(w)

    def moments(self, w):
        return self.gradient(w), np.zeros(np.shape(w)[:-1])

    def outcomes(self, w):
        return self.gradient(w)[..., None, :], np.ones(1)

    def affine(self, d: int):
        return 1.0, np.zeros(d), np.zeros((d, d))


class Additive(Exact):
    """g = gradient(w) + sigma / sqrt(d) * noise: E|g - gradient|^2 = sigma^2 * noise.variance, the same everywhere."""

    def __init__(self, gradient: Callable, sigma: float, noise: Noise | None = None):
        super().__init__(gradient)
        self.sigma, self.noise = sigma, noise or gaussian()

    @property
    def variance(self) -> float:
        return self.sigma**2 * self.noise.variance if self.sigma else 0.0

    def sample(self, w, rng):
        return self.gradient(w) + self.sigma / math.sqrt(w.shape[-1]) * self.noise.draw(rng, w.shape)

    def moments(self, w):
        return self.gradient(w), np.full(np.shape(w)[:-1], self.variance)

    outcomes = None

    def affine(self, d: int):
        """(s, t, S) with g = s gradient(w) + t + noise of covariance S."""
        return 1.0, np.zeros(d), self.variance / d * np.eye(d)


class CoinFlips(Additive):
    """g = gradient(w) +- sigma e_i, each of the 2 d outcomes with the same probability: E|g - gradient|^2 = sigma^2."""

    def __init__(self, gradient: Callable, sigma: float):
        super().__init__(gradient, sigma)

    def sample(self, w, rng):
        g, pick = self.outcomes(w)[0], rng.integers(2 * w.shape[-1], size=w.shape[:-1])
        return np.take_along_axis(g, pick[..., None, None], axis=-2)[..., 0, :]

    def outcomes(self, w):
        d = np.shape(w)[-1]
        signs = np.concatenate([np.eye(d), -np.eye(d)])
        return self.gradient(w)[..., None, :] + self.sigma * signs, np.full(2 * d, 1 / (2 * d))


class Outcomes:
    """An oracle from a list of its outcomes: outcomes(w) -> (gradients [m, d], probabilities [m])."""

    def __init__(self, outcomes: Callable):
        self.outcomes = outcomes


class MiniBatch:
    """The mean of b independent draws of another oracle."""

    vectorized = True

    def __init__(self, single, size: int):
        if size < 1:
            raise ValueError(f"a mini-batch of {size} has no mean; size >= 1 is needed")
        self.single, self.size, self.factor = single, size, 1 / size
        self.vectorized = getattr(single, "vectorized", False)
        if not knows_moments(single):
            self.moments = None
        if getattr(single, "affine", None) is not None:
            self.affine = self._affine

    def sample(self, w, rng):
        return np.mean([draw(self.single, w, rng) for _ in range(self.size)], axis=0)

    def moments(self, w):
        mean, variance = moments(self.single, w)
        return mean, np.asarray(variance) / self.size

    def _affine(self, d: int):
        s, t, covariance = self.single.affine(d)
        return s, t, covariance / self.size


class FiniteSum:
    """The mean of b of n per-sample gradients, drawn uniformly with or without replacement.

    per_sample   w [..., d] -> [..., n, d]

    The moments are sums over every mini-batch, rearranged: E|g|^2 = sum_ij M_ij <g_i, g_j>, M_ij = E[c_i c_j] / b^2,
    c_i how often sample i is in the batch. M is added up over all mini-batches where there are at most 20,000
    (`enumerated`), else taken from the known formula for E[c_i c_j].
    """

    vectorized = True

    def __init__(self, per_sample: Callable, count: int, size: int = 1, *, replacement: bool = True):
        if not 1 <= size or (size > count and not replacement):
            raise ValueError(f"a mini-batch of {size} out of {count} samples cannot be drawn "
                             f"{'with' if replacement else 'without'} replacement")
        self.per_sample, self.count, self.size, self.replacement = per_sample, count, size, replacement
        batches = math.comb(count + size - 1, size) if replacement else math.comb(count, size)
        self.enumerated = batches <= ENUMERATED
        self.batches = _batches(count, size, replacement) if self.enumerated else None
        self._pairs = self._enumerated_pairs() if self.enumerated else self._known_pairs()
        self.factor = 1 / size if replacement else (count - size) / (max(count - 1, 1) * size)
        self.single = self if size == 1 else FiniteSum(per_sample, count, replacement=replacement)
        if not self.enumerated:
            self.outcomes = None

    def sample(self, w, rng):
        gradients = self.per_sample(w)
        keys = rng.random((*gradients.shape[:-2], self.size if self.replacement else self.count))
        pick = (keys * self.count).astype(int) if self.replacement else np.argsort(keys, axis=-1)[..., :self.size]
        return np.take_along_axis(gradients, pick[..., None], axis=-2).mean(axis=-2)

    def moments(self, w):
        gradients = self.per_sample(w)
        mean = gradients.mean(axis=-2)
        centred = gradients - mean[..., None, :]
        variance = ((self._pairs @ centred) * centred).sum(axis=(-2, -1))
        return mean, np.maximum(variance, 0.0)

    def outcomes(self, w):
        weights, probabilities = self.batches
        return weights @ self.per_sample(w), probabilities

    def _enumerated_pairs(self):
        weights, probabilities = self.batches
        return np.einsum("mi,m,mj->ij", weights, probabilities, weights, optimize=True)

    def _known_pairs(self):
        n, b = self.count, self.size
        if self.replacement:
            return np.full((n, n), (b - 1) / (b * n**2)) + np.eye(n) / (b * n)
        other = (b - 1) / (b * n * (n - 1))
        return np.full((n, n), other) + np.eye(n) * (1 / (b * n) - other)


def _batches(count: int, size: int, replacement: bool) -> tuple[np.ndarray, np.ndarray]:
    """Every mini-batch as weights [m, n] (how often / size), with its probability [m]."""
    rows = list((itertools.combinations_with_replacement if replacement else itertools.combinations)(
        range(count), size))
    weights = np.zeros((len(rows), count))
    np.add.at(weights, (np.repeat(np.arange(len(rows)), size), np.ravel(rows)), 1 / size)
    if not replacement:
        return weights, np.full(len(rows), 1 / len(rows))
    repeats = np.rint(weights * size).astype(int)
    orders = [math.factorial(size) / math.prod(math.factorial(int(c)) for c in row if c > 1) for row in repeats]
    return weights, np.array(orders) / float(count) ** size


class Biased:
    """scale * g + shift of another oracle's g: E g = scale * gradient + shift."""

    def __init__(self, single, scale: float = 1.0, shift=0.0):
        self.base, self.scale, self.shift = single, scale, np.asarray(shift, dtype=float)
        self.vectorized = getattr(single, "vectorized", False)
        for name in ("moments", "outcomes", "affine"):
            if getattr(single, name, None) is None:
                setattr(self, name, None)

    def sample(self, w, rng):
        return self.scale * np.asarray(draw(self.base, w, rng)) + self.shift

    def moments(self, w):
        mean, variance = self.base.moments(w)
        return self.scale * np.asarray(mean) + self.shift, self.scale**2 * np.asarray(variance)

    def outcomes(self, w):
        gradients, probabilities = self.base.outcomes(w)
        return self.scale * np.asarray(gradients) + self.shift, probabilities

    def affine(self, d: int):
        s, t, covariance = self.base.affine(d)
        return self.scale * s, self.scale * t + self.shift, self.scale**2 * covariance
