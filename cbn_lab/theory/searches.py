"""Checks of assumptions that are about all points: a short search from the visited ones, for a counter-example."""

from itertools import pairwise

import numpy as np
from scipy import optimize

from cbn_lab.theory.inequalities import Finding
from cbn_lab.theory.state import State

RELATIVE = 1e-6  # a constant is called wrong if it is off by more than this share
FOUND = 1e-8  # and a lower bound if it is off by more than this share of the values: minima are often found numerically


def _points(state: State, count: int) -> np.ndarray:
    """Up to `count` visited points spread over the run, start and end among them, [P, d]."""
    steps = np.unique(np.linspace(0, len(state.visits) - 1, count).astype(int))
    points = [state.visits[k].points[(7 * k) % len(state.visits[k].points)] for k in steps]
    return np.unique(np.array(points), axis=0)


def _needed(state: State, k: int) -> float:
    """The smallest L for which the descent lemma holds for every step taken at step k."""
    visit, alpha = state.visits[k], state.alphas[k]
    moved = alpha**2 * visit.step_squared
    rise = visit.step_next - visit.step_value + alpha * visit.step_inner
    size = np.abs(visit.step_next) + np.abs(visit.step_value) + abs(alpha * visit.step_inner)
    rise = rise - state.rounding * (size + abs(state.start_value))
    return float(np.max(np.divide(2 * rise, moved, out=np.zeros_like(rise), where=moved > 0)))


def true_gradient(state: State) -> Finding:
    """Central differences of `value` in a random direction at visited points, against `gradient`."""
    problem, rng, wrong = state.problem, np.random.default_rng(0), []
    points = _points(state, 6)
    for w in points:
        v = rng.standard_normal(w.size)
        v, h = v / np.linalg.norm(v), 1e-5 * (1 + np.linalg.norm(w))
        low, high = w - h * v, w + h * v
        values, gradients = problem.values(np.array([low, w, high])), problem.gradients(np.array([low, w, high]))
        slope, given = (values[2] - values[0]) / (2 * h), gradients[1] @ v
        allowed = (1e-3 * np.linalg.norm(gradients[1]) + 2 * np.linalg.norm(gradients[2] - gradients[0])
                   + 10 * state.rounding * np.abs(values).max() / h)
        if abs(slope - given) > allowed:
            wrong.append(f"the value has slope {slope:.4g} along a direction at a visited point, its gradient says "
                         f"{given:.4g}")
    if 2 * len(wrong) >= len(points):
        return Finding(True, wrong[0])
    return Finding(False, f"the gradient agrees with central differences of the value at {len(points)} visited points")


def smooth(state: State) -> Finding:
    """|grad F(x) - grad F(y)| <= L |x - y|: the steps of the run, pairs of visited points, a search for curvature."""
    problem, L, rounding = state.problem, state.problem.L, state.rounding / 100
    needed = max(_needed(state, k) for k in range(len(state.visits)))
    if needed > L * (1 + RELATIVE):
        return Finding(True, f"a step of the run needs an L of at least {needed:.6g}, claimed is {L:.6g}")
    points, rng = _points(state, 12), np.random.default_rng(2)
    found = max((_pair_quotient(problem, x, y, rounding) for x, y in pairwise(points)), default=0.0)
    share = rng.random((8, 1))  # a convex set holds what lies between visited points as well
    ends = points[rng.integers(len(points), size=(2, 8))]
    between = share * ends[0] + (1 - share) * ends[1]
    found = max([found, *(_curvature(problem, w, rounding) for w in (*points[:: max(1, len(points) // 4)], *between))])
    if found > L * (1 + RELATIVE):
        return Finding(True, f"between two points the gradient changes {found:.6g} times as much as the point; "
                             f"claimed is L = {L:.6g}")
    return Finding(False, f"no L larger than the claimed {L:.6g} was needed where the run went")


def _quotient(gx, gy, x, y, L, relative) -> float:
    """|gx - gy| / |x - y|, lowered by what rounding can do."""
    distance = np.linalg.norm(x - y)
    if distance == 0:
        return 0.0
    rounding = relative * (np.linalg.norm(gx) + np.linalg.norm(gy) + L * (np.linalg.norm(x) + np.linalg.norm(y)))
    return float((np.linalg.norm(gx - gy) - rounding) / distance)


def _pair_quotient(problem, x, y, rounding) -> float:
    gx, gy = problem.gradients(np.array([x, y]))
    return _quotient(gx, gy, x, y, problem.L, rounding)


def _curvature(problem, w, rounding, rounds: int = 12) -> float:
    """The largest quotient that a power iteration on differences of gradients meets near w."""
    v, best = np.random.default_rng(1).standard_normal(w.size), 0.0
    h, center = 1e-3 * (1 + np.linalg.norm(w)), problem.gradients(w[None])[0]
    for _ in range(rounds):
        y = w + h * v / np.linalg.norm(v)
        v = problem.gradients(y[None])[0] - center
        if not np.linalg.norm(v) > 0:
            break
        best = max(best, _quotient(v + center, center, y, w, problem.L, rounding))
    return best


def lower_bound(state: State) -> Finding:
    """The lowest visited value, then a quasi-Newton search from the start and from the lowest visited point."""
    problem, f_star = state.problem, state.problem.f_star
    values = np.concatenate([visit.value for visit in state.visits])
    points = np.concatenate([visit.points for visit in state.visits])
    tolerance = FOUND * (abs(f_star) + abs(state.start_value))
    if values.min() < f_star - tolerance:
        return Finding(True, f"the run itself visits the value {values.min():.6g}, below the claimed {f_star:.6g}")
    for start in (points[np.argmin(values)], problem.start):
        with np.errstate(all="ignore"):
            found = optimize.minimize(lambda w: float(problem.values(w[None])[0]), start, method="L-BFGS-B",
                                      jac=lambda w: problem.gradients(w[None])[0], options={"maxiter": 100})
        if found.fun < f_star - tolerance:
            return Finding(True, f"there is a point with value {found.fun:.6g}, below the claimed {f_star:.6g}")
    return Finding(False, f"no value below the claimed {f_star:.6g} was found")
