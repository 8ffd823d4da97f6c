"""Both sides of every line of the proof, computed from a measured run. The statements are in `cbn_lab.theory.lines`.

A function here takes a `State` and returns `Sides` at its last step, or, at the end of the file, why a line says
nothing about a run (None if it does).
"""

import numpy as np

from cbn_lab.theory import margins
from cbn_lab.theory.inequalities import Sides
from cbn_lab.theory.searches import FOUND
from cbn_lab.theory.state import State

CLAIMS = 1e-6  # claimed constants are taken to this relative precision: a reader may have typed six digits


def _digits(state: State, term):
    """What the precision of a claim adds to a line's `scale`, for the term that contains the claimed constant."""
    return CLAIMS / state.rounding * np.abs(term)


def _worst(state: State, left: list, right: list, *, equal: bool = False, extra=0.0, what: str = "points") -> Sides:
    """Sides at the one of several points (or single steps) that is worst; `left`, `right`: terms, arrays or numbers."""
    with np.errstate(invalid="ignore"):
        a, b, scale = sum(left), sum(right), sum(np.abs(term) for term in (*left, *right)) + extra
        slack = np.where(b == np.inf, np.inf, -np.abs(b - a) if equal else b - a)
        room = slack + np.where(np.isfinite(scale), state.rounding * scale, 0.0)
    i = int(np.argmin(room if np.nanmin(room) < 0 else slack))
    a, b, scale = (float(side[i]) if np.ndim(side) else float(side) for side in (a, b, scale))
    return Sides(a, b, scale, where=f"worst of {slack.size} {what}" if slack.size > 1 else "")


def _mean(state: State, left: list, right: list, *, extra: float = 0.0) -> Sides:
    """Sides that are means over the paths of the run, for lines that hold on every path, or with exact expectations."""
    with np.errstate(invalid="ignore", over="ignore"):
        scale = sum(float(np.mean(np.abs(term))) for term in (*left, *right)) + extra
        return Sides(float(np.mean(sum(left))), float(np.mean(sum(right))), scale)


def _bound(state: State, left, right: list) -> Sides:
    """A mean over the paths of left >= 0 against constants; where paths are sampled, bets against it decide."""
    sides, bound = _mean(state, [left], right), float(sum(right))
    if state.exact or not 0 < bound < np.inf:
        return sides
    return Sides(sides.left, sides.right, sides.scale, margins.mean_margin(left),
                 margins.refuted(margins.log_wealth(left / bound)), f"mean over {left.size} paths, sampled")


def _pooled_unbiased(state: State) -> Sides:
    """Of an oracle that can only be sampled, over all draws so far: gradient . g, and the mean of g - gradient.

    The second finds a constant bias where the gradients are small; it is shown where it decides.
    """
    last = state.pooled[-1]
    drift = Sides(float(np.linalg.norm(last.drift)) / last.count, 0.0, last.second / last.count,
                  float(margins.root_margin(*last.drift_squares)) / last.count,
                  where=f"norm of the mean of g - gradient over {last.count} visited points, sampled")
    return drift if drift.left > drift.margin + state.rounding * drift.scale else _pooled(state, "inner")


def _pooled(state: State, name: str) -> Sides:
    """Of an oracle that can only be sampled: means over all draws up to this step, with their margin."""
    last = state.pooled[-1]
    total, observed, claimed = last.inner if name == "inner" else last.product
    margin = float(margins.root_margin(observed, claimed)) / last.count
    right = last.squared / last.count
    if name == "product":
        right += last.variance / last.count
    return Sides(right + total / last.count, right, abs(right) + last.second / last.count, margin,
                 where=f"mean over {last.count} visited points, sampled")


def _bet(state: State, name: str, left: float, right: float) -> Sides:
    last = state.pooled[-1]
    return Sides(left, right, abs(left) + abs(right), refuted=margins.refuted(last.wealth[name]),
                 where=f"mean over {last.count} visited points, sampled")


# What the lines are made of -------------------------------------------------------------------------------------------

def _average(state: State):
    return state.totals.squared.mean(axis=0)


def descent(state: State) -> Sides:
    alpha, visit = state.alphas[-1], state.visits[-1]
    quadratic = alpha**2 * state.problem.L / 2 * visit.step_squared if state.problem.L < np.inf else np.inf
    return _worst(state, [visit.step_next], [visit.step_value, -alpha * visit.step_inner, quadratic],
                  extra=abs(state.start_value) + _digits(state, quadratic), what="single steps")


def expectation(state: State) -> Sides:
    alpha, visit, totals = state.alphas[-1], state.visits[-1], state.totals
    # where E|g|^2 is infinite there is no statement, even if all that was drawn is finite
    squared = totals.drawn_squared[-1] if visit.second is None or np.all(np.isfinite(visit.second)) else np.inf
    price = alpha**2 * state.problem.L / 2 * squared
    return _mean(state, [totals.value[-1]], [totals.value[-2], -alpha * totals.drawn_inner[-1], price],
                 extra=abs(state.start_value) + _digits(state, np.mean(price)))


def unbiased(state: State) -> Sides:
    visit = state.visits[-1]
    if visit.inner is None:
        return _pooled_unbiased(state)
    size = np.where(np.isfinite(visit.second), np.sqrt(visit.squared * visit.second), 0.0)
    return _worst(state, [visit.inner], [visit.squared], equal=True, extra=size)


def _drawn(state: State):
    """(noise, squares), [K, R]: 0 and E|g|^2 where expectations are exact.

    On sampled paths gradient . g - |gradient|^2 of the gradients that were used, a mean of 0 if g is unbiased, and
    |g|^2. Left in both sides, they make a line about means one that holds on every path: nothing is left to chance.
    """
    totals = state.totals
    if state.exact:
        return np.zeros_like(totals.squared), totals.second
    infinite = not np.all(np.isfinite(totals.second))
    return totals.drawn_inner - totals.squared, totals.second if infinite else totals.drawn_squared


def one_step(state: State) -> Sides:
    alpha, totals, (noise, squares) = state.alphas[-1], state.totals, _drawn(state)
    price = alpha**2 * state.problem.L / 2 * squares[-1]
    return _mean(state, [totals.value[-1], -totals.value[-2], alpha * noise[-1]],
                 [-alpha * totals.squared[-1], price], extra=abs(state.start_value) + _digits(state, np.mean(price)))


def decomposition(state: State) -> Sides:
    visit = state.visits[-1]
    if visit.second is None:
        return _pooled(state, "product")
    return _worst(state, [visit.second], [visit.squared, visit.variance], equal=True)


def variance(state: State) -> Sides:
    visit = state.visits[-1]
    if visit.second is None:
        last = state.pooled[-1]
        squared = last.squared / last.count
        return _bet(state, "variance", squared + last.variance / last.count, squared + state.sigma2)
    return _worst(state, [visit.second], [visit.squared, state.sigma2], extra=_digits(state, state.sigma2))


def telescoped(state: State) -> Sides:
    totals, (noise, squares) = state.totals, _drawn(state)
    price = state.alphas**2 * state.problem.L / 2 @ squares
    return _mean(state, [state.alphas @ totals.squared],
                 [totals.value[0], -totals.value[-1], -state.alphas @ noise, price],
                 extra=_digits(state, np.mean(price)))


def lower(state: State) -> Sides:
    visit = state.visits[-1]
    found = FOUND / state.rounding * (abs(state.problem.f_star) + abs(state.start_value))
    return _worst(state, [state.problem.f_star], [np.concatenate([visit.value, visit.step_next])], extra=found)


def second(state: State) -> Sides:
    visit = state.visits[-1]
    if state.problem.G2 is None:
        return Sides(float(state.totals.second[-1].mean()), state.G2, state.G2)
    if visit.second is None:
        last = state.pooled[-1]
        return _bet(state, "second moment", last.second / last.count, state.G2)
    return _worst(state, [visit.second], [state.G2], extra=_digits(state, state.G2))


def _g_terms(state: State) -> list[float]:
    alpha, K = state.alphas[0], len(state.alphas)
    return [state.gap / (K * alpha), alpha * state.problem.L * state.G2 / 2]


def fixed_second(state: State) -> Sides:
    return _bound(state, _average(state), _g_terms(state))


def absorbed(state: State) -> Sides:
    alpha, squared = state.alphas[-1], state.totals.squared[-1]
    return _mean(state, [alpha / 2 * squared], [alpha * (1 - alpha * state.problem.L / 2) * squared],
                 extra=_digits(state, alpha * np.mean(squared)))


def fixed_variance(state: State) -> Sides:
    alpha, K = state.alphas[0], len(state.alphas)
    return _bound(state, _average(state), [2 * state.gap / (K * alpha), alpha * state.problem.L * state.sigma2])


def best(state: State) -> Sides:
    with np.errstate(invalid="ignore"):
        least = np.sqrt(2 * state.gap * state.problem.L * state.G2 / len(state.alphas))
    return _mean(state, [least], _g_terms(state))


def diminishing(state: State) -> Sides:
    total = state.alphas.sum()
    return _bound(state, state.alphas / total @ state.totals.squared,
                  [2 * state.gap / total, state.problem.L * state.sigma2 * float(state.alphas @ state.alphas) / total])


def batch_variance(state: State) -> Sides:
    visit = state.visits[-1]
    return _worst(state, [visit.variance], [state.factor * visit.one_variance], equal=True, extra=visit.one_variance)


def batch(state: State) -> Sides:
    alpha, K = state.alphas[0], len(state.alphas)
    return _bound(state, _average(state), [2 * state.gap / (K * alpha),
                                            alpha * state.problem.L * state.problem.sigma2 * state.factor])


def moment_limits(state: State) -> Sides:
    visit, M_G = state.visits[-1], state.M_V + state.problem.mu_G**2
    if visit.second is None:
        last = state.pooled[-1]
        squared = last.squared / last.count
        return _bet(state, "moment limits", last.second / last.count, state.M + M_G * squared)
    return _worst(state, [visit.second], [state.M, M_G * visit.squared],
                  extra=_digits(state, state.M + M_G * visit.squared))


def bottou(state: State) -> Sides:
    alpha, K, mu = state.alphas[0], len(state.alphas), state.problem.mu
    return _bound(state, _average(state), [alpha * state.problem.L * state.M / mu, 2 * state.gap / (K * mu * alpha)])


def ghadimi(state: State) -> Sides:
    L, gamma = state.problem.L, state.alphas
    weights = 2 * gamma - L * gamma**2
    total = weights.sum()
    if not np.all(weights > 0):  # no probabilities, so no theorem
        return Sides(np.nan, np.nan, where="2 gamma - L gamma^2 is not positive")
    return _bound(state, weights / total @ state.totals.squared / L,
                  [2 * state.gap / L / total, state.sigma2 * float(gamma @ gamma) / total])


# When a line says nothing about a run --------------------------------------------------------------------------------

def fixed(state: State) -> str | None:
    return None if state.constant_step else "stated for a fixed step; the steps of this run change"


def with_variance(state: State) -> str | None:
    return None if state.sigma2 is not None else "no sigma2 is claimed"


def fixed_with_variance(state: State) -> str | None:
    return with_variance(state) or fixed(state)


def known_batch(state: State) -> str | None:
    return None if state.visits[0].one_variance is not None else "stated for mini-batches with known single draws"


def fixed_batch(state: State) -> str | None:
    if not hasattr(state.problem.oracle, "single"):
        return "stated for mini-batches"
    return fixed_with_variance(state)


def with_curvature(state: State) -> str | None:
    return with_variance(state) or (None if state.problem.L > 0 else "stated for L > 0")


def with_limits(state: State) -> str | None:
    return None if state.M is not None else "neither M nor sigma2 is claimed"


def fixed_limits(state: State) -> str | None:
    return with_limits(state) or fixed(state)
