"""SGD on a `Problem`, measured: what the lines of the proof need to know of a run, exact where that is possible.

Expectations over the whole run come in three kinds, chosen by what the problem knows; `State.expectations` says which:

closed form   a quadratic with additive noise of finite variance: mean and covariance of w_k by recursion
enumerated    the oracle lists its outcomes and there are few enough: every path, with its probability
sampled       independent paths; the margins of `cbn_lab.theory.margins` apply

What is conditional on a point w (mean, second moment and variance of g) is exact at every visited point if the oracle
knows its moments or its outcomes. Otherwise two independent draws are taken at each visited point: <g, g'> estimates
|E g|^2 and |g - g'|^2 / 2 the variance, without bias. The descent lemma holds for each single step, so it is looked at
step by step, with no expectation and no margin.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from cbn_lab.theory import margins, oracles
from cbn_lab.theory.inequalities import ROUNDING
from cbn_lab.theory.problems import Problem
from cbn_lab.theory.state import Pooled, State, Totals, Visit

NODES = 30_000  # all paths are enumerated up to so many end points


def run(problem: Problem, step: float | Sequence[float], steps: int | None = None, *, paths: int = 200, seed: int = 0,
        rounding: float = ROUNDING) -> State:
    """Run SGD and measure. `step` is one number (then `steps` says how often) or a sequence.

    `paths` are drawn where not all can be enumerated (30 at least). A run that leaves the finite numbers ends before.
    `rounding` is what the values are relatively off by: 1e-11 is for float64, 1e-5 fits a value computed in float32.
    """
    alphas = np.atleast_1d(np.asarray(step, dtype=float))
    if alphas.size == 1 and steps is not None:
        alphas = np.full(steps, alphas[0])
    if alphas.ndim != 1 or not alphas.size or not np.all(alphas > 0) or (steps is not None and steps != alphas.size):
        raise ValueError("step must be positive, one number together with steps >= 1, or one number for each step")
    if paths < 30:
        raise ValueError(f"paths is {paths}; the margins of sampled means need 30 at least")
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):  # a run may leave the finite numbers; it is cut there, and says so
        found = _enumerate(problem, alphas)
        visits, totals, draws = found or _sample(problem, alphas, paths, rng)
        closed = None if found else closed_form(problem, alphas[:len(visits)])
        kept = _finite(visits, closed or totals)
    if found:
        kind = f"enumerated, {visits[-1].step_value.size} paths"
    else:
        totals, kind = (closed, "closed form") if closed else (totals, f"sampled, {paths} paths")
    if kept == 0:
        raise ValueError("value, gradient or oracle gives something that is not a finite number at the first step")
    state = State(problem, alphas[:kept], tuple(visits[:kept]), totals.upto(kept), None, kind, rounding,
                  "" if kept == alphas.size else f"the run left the finite numbers at step {kept + 1}",
                  float(totals.second[:kept].mean(axis=1).max()))
    return replace(state, pooled=_pool(state, draws[:kept])) if draws else state


def _drawn(problem: Problem, w: np.ndarray, rng) -> np.ndarray:
    """One stochastic gradient at each point [P, d]. ValueError if it has another shape than the point."""
    if _vectorized(problem, problem.oracle):
        return oracles.draw(problem.oracle, w, rng)
    gradients = [np.asarray(oracles.draw(problem.oracle, x, rng), dtype=float) for x in w]
    wrong = next((g.shape for g in gradients if g.size != problem.d), None)
    if wrong is not None:
        raise ValueError(f"the oracle gives a gradient of shape {list(wrong)}; [{problem.d}] is needed")
    return np.array(gradients).reshape(w.shape)


def _vectorized(problem: Problem, oracle) -> bool:
    """The oracles of the course are, but the gradient that a reader hands to one of them need not be."""
    return problem.vectorized and getattr(oracle, "vectorized", False)


def _pairs(problem: Problem, oracle, function, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two results of function(point) at the points [P, d], point by point where something is not vectorized."""
    if _vectorized(problem, oracle):
        return function(w)
    return tuple(np.array(parts, dtype=float) for parts in zip(*map(function, w), strict=True))


def _knows(oracle, method: str) -> bool:
    return getattr(oracle, method, None) is not None


def _conditional(problem: Problem, w: np.ndarray, gradient: np.ndarray) -> dict:
    """inner, bias, second, variance, one_variance at the points w [P, d]; None where unknown."""
    oracle = problem.oracle
    if not oracles.knows_moments(oracle):
        return dict.fromkeys(("inner", "bias", "mean_squared", "second", "variance", "one_variance"))
    mean, variance = _pairs(problem, oracle, partial(oracles.moments, oracle), w)
    variance = np.broadcast_to(variance, len(w)).astype(float)
    one = getattr(oracle, "single", None)
    if one is not None and oracles.knows_moments(one):
        one = np.broadcast_to(_pairs(problem, one, partial(oracles.moments, one), w)[1], len(w)).astype(float)
    else:
        one = None
    return {"inner": (gradient * mean).sum(axis=1), "bias": np.linalg.norm(mean - gradient, axis=1),
            "mean_squared": (mean**2).sum(axis=1), "second": (mean**2).sum(axis=1) + variance, "variance": variance,
            "one_variance": one}


def _sample(problem: Problem, alphas, paths: int, rng):
    """Independent paths: (visits, totals, second draws)."""
    w = np.tile(problem.start, (paths, 1))
    value, visits, seconds, others = problem.values(w), [], [], []
    for alpha in alphas:
        gradient = problem.gradients(w)
        g = _drawn(problem, w, rng)
        known = _conditional(problem, w, gradient)
        if known["second"] is None:
            others.append((gradient, g, _drawn(problem, w, rng)))
        squared, inner, size = (gradient**2).sum(axis=1), (gradient * g).sum(axis=1), (g**2).sum(axis=1)
        following = w - alpha * g
        after = problem.values(following)
        visits.append(Visit(w, value, squared, **known, step_value=value, step_next=after, step_inner=inner,
                            step_squared=size))
        second = known["second"] if known["second"] is not None else (size + (others[-1][2] ** 2).sum(axis=1)) / 2
        seconds.append(second)
        w, value = following, after
        if not np.all(np.isfinite(w)):
            break
    totals = Totals(np.array([*(visit.value for visit in visits), value]),
                    *(np.array(rows) for rows in ([visit.squared for visit in visits], seconds,
                                                  [visit.step_inner for visit in visits],
                                                  [visit.step_squared for visit in visits])))
    return visits, totals, others


def _enumerate(problem: Problem, alphas):
    """Every path: (visits, totals, no second draws); None if there are too many, or the outcomes are unknown."""
    if not _knows(problem.oracle, "outcomes"):
        return None
    w, weight, visits, means = problem.start[None], np.ones(1), [], []
    oracle = problem.oracle
    if _pairs(problem, oracle, oracle.outcomes, w)[0].shape[1] ** len(alphas) > NODES:
        return None
    value = problem.values(w)
    for alpha in alphas:
        gradient, (g, p) = problem.gradients(w), _pairs(problem, oracle, oracle.outcomes, w)
        p = np.broadcast_to(p, g.shape[:2])
        known = _conditional(problem, w, gradient)
        following = (w[:, None] - alpha * g).reshape(-1, problem.d)
        after = problem.values(following)
        inner, size, squared = (gradient[:, None] * g).sum(axis=2), (g**2).sum(axis=2), (gradient**2).sum(axis=1)
        visits.append(Visit(w, value, squared, **known, step_value=np.repeat(value, g.shape[1]), step_next=after,
                            step_inner=inner.ravel(), step_squared=size.ravel()))
        second = (p * size).sum(axis=1)
        means.append([weight @ x for x in (value, squared, second, (p * inner).sum(axis=1), second)])
        w, value, weight = following, after, (weight[:, None] * p).ravel()
    columns = np.array(means).T[..., None]
    return visits, Totals(np.append(columns[0], [[weight @ value]], axis=0), *columns[1:]), []


def closed_form(problem: Problem, alphas) -> Totals | None:
    """Mean and covariance of w_k - c for a quadratic and g = s gradient + t + noise of covariance S, by recursion.

    None for a problem that is not a quadratic, or whose oracle has no such form or an infinite variance.
    """
    if problem.quadratic is None or not _knows(problem.oracle, "affine"):
        return None
    A, c, f0 = problem.quadratic
    s, t, S = problem.oracle.affine(problem.d)
    if not np.all(np.isfinite(S)):
        return None
    m, C, rows = problem.start - c, np.zeros_like(A), []
    for alpha in (*alphas, 0.0):
        gradient = A @ m
        value = f0 + (m @ gradient + np.trace(A @ C)) / 2
        squared = gradient @ gradient + np.trace(A @ C @ A)
        inner = s * squared + gradient @ t
        second = s**2 * squared + 2 * s * gradient @ t + t @ t + np.trace(S)
        rows.append((value, squared, second, inner, second))
        step = np.eye(problem.d) - alpha * s * A
        m, C = step @ m - alpha * t, step @ C @ step.T + alpha**2 * S
    columns = np.array(rows).T[..., None]
    return Totals(columns[0], *(column[:-1] for column in columns[1:]))


def _finite(visits, totals: Totals) -> int:
    """How many steps can be used: those before the first value or gradient that is not a finite number."""
    for k, visit in enumerate(visits):
        parts = (visit.step_next, visit.step_inner, visit.step_squared, visit.squared, totals.value[k:k + 2],
                 totals.squared[k])
        if not all(np.all(np.isfinite(part)) for part in parts):
            return k
    return len(visits)


def _pool(state: State, draws) -> tuple[Pooled, ...]:
    """Sums over the two draws g, g' at each point, and the bets against the claims about them."""
    problem, pooled = state.problem, []
    count, sums, drift, wealth = 0, np.zeros(11), np.zeros(problem.d), {}
    for gradient, g, other in draws:
        squared = (gradient**2).sum(axis=1)
        M, M_V = state.M, state.M_V
        bound = np.zeros_like(squared) if M is None else M + M_V * squared
        inner = (gradient * (g + other)).sum(axis=1) / 2 - squared
        product = (g * other).sum(axis=1) - squared
        second = ((g**2).sum(axis=1) + (other**2).sum(axis=1)) / 2
        variance = ((g - other) ** 2).sum(axis=1) / 2
        error = (g + other) / 2 - gradient
        count, drift = count + len(squared), drift + error.sum(axis=0)
        sums = sums + [x.sum() for x in (squared, inner, inner**2, squared * bound / 2, product, product**2,
                                         2 * squared * bound + bound**2, (error**2).sum(axis=1), bound / 2, second,
                                         variance)]
        claims = {"variance": (variance, state.sigma2), "second moment": (second, problem.G2),
                  "moment limits": (variance, None if M is None else bound)}
        for name, (draw, claimed) in claims.items():
            if claimed is not None:
                with np.errstate(divide="ignore", invalid="ignore"):
                    ratios = np.where(draw == 0, 0.0, draw / claimed)
                wealth[name] = wealth.get(name, 0.0) + margins.log_wealth(ratios)
        pooled.append(Pooled(count, sums[0], tuple(sums[1:4]), tuple(sums[4:7]), drift, tuple(sums[7:9]),
                             sums[9], sums[10], dict(wealth)))
    return tuple(pooled)
