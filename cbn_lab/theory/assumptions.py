"""The assumptions of the proof as objects that are checked on the problem and the run.

A check refutes: `broken=True` comes with what was found, a certificate up to rounding or up to the margin that is
stated. `broken=False` means that nothing was found where the run went, and, for smoothness and the lower bound, where a
short search from the visited points went. None: a sample cannot tell.
"""

import math

import numpy as np

from cbn_lab.theory import margins, searches
from cbn_lab.theory.inequalities import Assumption, Finding
from cbn_lab.theory.searches import RELATIVE
from cbn_lab.theory.state import Pooled, State


def _finite_moment(state: State) -> Finding:
    seconds = [visit.second for visit in state.visits]
    if seconds[0] is None:
        return Finding(None, "the oracle can only be sampled, and no finite sample shows an infinite moment")
    infinite = next((k for k, second in enumerate(seconds, start=1) if not np.all(np.isfinite(second))), None)
    if infinite is not None:
        return Finding(True, f"the variance of the gradient is infinite at step {infinite}")
    return Finding(False, "E|g|^2 is finite at every visited point")


def _unbiased(state: State) -> Finding:
    if state.pooled is None:
        for k, visit in enumerate(state.visits, start=1):
            noise = np.where(np.isfinite(visit.variance), visit.variance, 0.0)
            allowed = 100 * state.rounding * np.sqrt(noise + visit.squared)
            over = int(np.argmax(visit.bias - allowed))
            if visit.bias[over] > allowed[over]:
                return Finding(True, f"at step {k}, E g is {visit.bias[over]:.4g} away from the gradient, whose norm "
                                     f"there is {math.sqrt(visit.squared[over]):.4g}")
        return Finding(False, "E g is the gradient at every visited point")
    found = next(filter(None, map(_bias_found, state.pooled)), None)  # at any step, as the line is looked at
    return Finding(bool(found), found or f"no bias beyond the margin of {2 * state.pooled[-1].count} draws")


def _bias_found(pooled: Pooled) -> str | None:
    """What shows a bias in the draws up to a step, beyond the margin; None if nothing does."""
    count, rounding = pooled.count, 1e-9 * (pooled.squared + pooled.second)
    drift, margin = float(np.linalg.norm(pooled.drift)), float(margins.root_margin(*pooled.drift_squares))
    if drift > margin + rounding:
        return (f"over {count} points the mean of g - gradient has norm {drift / count:.4g}, the margin being "
                f"{margin / count:.2g}")
    for name, (total, observed, claimed) in (("gradient . g", pooled.inner), ("g . g' of two draws", pooled.product)):
        margin = float(margins.root_margin(observed, claimed))
        if abs(total) > margin + rounding:
            return (f"over {count} points the mean of {name} differs from |gradient|^2 by {total / count:.4g}, the "
                    f"margin being {margin / count:.2g}")
    return None


def _claimed(name: str, attribute: str, claimed, what: str):
    """A check of `attribute` of the visits against claimed(state) [P] or a number, by betting where it is sampled."""

    def check(state: State) -> Finding:
        if claimed(state, state.visits[0]) is None:
            return Finding(False, "nothing is claimed; the largest value of the run is taken")
        if state.pooled is not None:
            return _bet(state, name, what)
        for k, visit in enumerate(state.visits, start=1):
            bound = np.broadcast_to(claimed(state, visit), visit.value.shape)
            measured = getattr(visit, attribute)
            over = int(np.argmax(np.where(np.isfinite(measured), measured - (1 + RELATIVE) * bound, measured)))
            if measured[over] > (1 + RELATIVE) * bound[over] + _rounding(state, visit.second[over]):
                return Finding(True, f"at step {k}, {what} is {measured[over]:.6g} at a visited point, claimed is at "
                                     f"most {bound[over]:.6g}")
        return Finding(False, f"{what} is within the claim at every visited point")

    return check


def _rounding(state: State, size: float) -> float:
    return 100 * state.rounding * size if np.isfinite(size) else 0.0


def _bet(state: State, name: str, what: str) -> Finding:
    """The wealth counts at its best step: the claim is refuted if it ever exceeds the limit, later losses or not."""
    last = next((pooled for pooled in state.pooled if margins.refuted(pooled.wealth[name])), None)
    if last is None:
        return Finding(False, f"{2 * state.pooled[-1].count} draws do not refute the claim about {what}")
    mean = (last.second if name == "second moment" else last.variance) / last.count
    tail = f"; {hint}" if (hint := _tail_hint(state)) else ""
    return Finding(True, f"betting on {2 * last.count} draws against the claim about {what} refutes it at level "
                         f"{margins.DELTA:g} (sample mean {mean:.4g}){tail}")


def _tail_hint(state: State) -> str:
    noise = np.concatenate([np.sqrt(np.maximum(visit.step_squared - 2 * visit.step_inner + np.repeat(
        visit.squared, len(visit.step_value) // len(visit.value)), 0)) for visit in state.visits])
    index = margins.tail_index(noise)
    if not index < 2:
        return ""
    return f"Hill's estimate of the tail index of |g - gradient| is {index:.2f}: below 2 the variance is infinite"


def _mini_batch(state: State) -> Finding:
    if state.visits[0].one_variance is None:
        return Finding(None, "the variance of a single draw is not known")
    for k, visit in enumerate(state.visits, start=1):
        if not np.all(np.isfinite(visit.one_variance)):
            continue  # inf / b is inf: nothing to compare
        expected = state.factor * visit.one_variance
        over = int(np.argmax(np.abs(visit.variance - expected)))
        if abs(visit.variance[over] - expected[over]) > 1e-9 * visit.one_variance[over]:
            return Finding(True, f"at step {k} the variance of the mini-batch is {visit.variance[over]:.6g}, that of "
                                 f"uniform draws would be {expected[over]:.6g}")
    return Finding(False, "the mini-batch has the variance of uniform draws at every visited point")


def _first_moment(state: State) -> Finding:
    """mu |gradient|^2 <= gradient . E g, and |E g| <= mu_G |gradient|."""
    problem = state.problem
    if state.pooled is not None:
        return _first_moment_sampled(state)
    for k, visit in enumerate(state.visits, start=1):
        tolerance = RELATIVE * (visit.mean_squared + visit.squared)
        if np.any(visit.inner < problem.mu * visit.squared - tolerance):
            worst = int(np.argmin(visit.inner - problem.mu * visit.squared))
            return Finding(True, f"at step {k}, gradient . E g = {visit.inner[worst]:.4g} is below mu |gradient|^2 = "
                                 f"{problem.mu * visit.squared[worst]:.4g}")
        if np.any(visit.mean_squared > problem.mu_G**2 * visit.squared + tolerance):
            return Finding(True, f"at step {k}, |E g| is larger than mu_G |gradient| = {problem.mu_G:g} |gradient|")
    return Finding(False, "E g is within the claimed limits at every visited point")


def _first_moment_sampled(state: State) -> Finding:
    last, problem = state.pooled[-1], state.problem
    inner, product = (sums[0] + last.squared for sums in (last.inner, last.product))
    if inner < problem.mu * last.squared - margins.root_margin(*last.inner[1:]):
        return Finding(True, f"the mean of gradient . g is {inner / last.count:.4g}, below mu |gradient|^2")
    if product > problem.mu_G**2 * last.squared + margins.root_margin(*last.product[1:]):
        return Finding(True, f"the mean of g . g' of two draws is {product / last.count:.4g}, above "
                             "mu_G^2 |gradient|^2")
    return Finding(False, f"no break of the limits beyond the margin of {2 * last.count} draws")


def _step(limit, what: str):
    """A check that every step is at most limit(state) (below it, if `what` says so)."""

    def check(state: State) -> Finding:
        bound, strict = limit(state), what.startswith("<")
        over = np.flatnonzero((state.alphas >= bound) if strict else (state.alphas > bound * (1 + RELATIVE)))
        if not over.size:
            return Finding(False, f"every step is {what} = {bound:.6g}")
        return Finding(True, f"the step {state.alphas[over[0]]:.6g} (step number {over[0] + 1}) is not {what} = "
                             f"{bound:.6g}")

    return check


def _over(a: float, b: float) -> float:
    return a / b if b else math.inf


TRUE_GRADIENT = Assumption("the gradient is that of F", r"\nabla F", searches.true_gradient)
SMOOTH = Assumption("L-smooth", r"\|\nabla F(x)-\nabla F(y)\|\le L\|x-y\|", searches.smooth)
FINITE = Assumption("finite second moment", r"\mathbb E\|g\|^2<\infty", _finite_moment)
UNBIASED = Assumption("unbiased gradient", r"\mathbb E[g\mid w]=\nabla F(w)", _unbiased)
VARIANCE = Assumption("bounded variance", r"\mathrm{Var}[g\mid w]\le\sigma^2",
                      _claimed("variance", "variance", lambda state, visit: state.sigma2, "the variance of g"))
LOWER = Assumption("bounded below by f*", r"F\ge F^*", searches.lower_bound)
SECOND = Assumption("bounded second moment", r"\mathbb E\|g\|^2\le G^2",
                    _claimed("second moment", "second", lambda state, visit: state.problem.G2, "E|g|^2"))
SHORT_STEP = Assumption("step at most 1/L", r"\alpha_k\le 1/L", _step(lambda s: _over(1, s.problem.L), "at most 1/L"))
UNIFORM = Assumption("uniform mini-batches", r"\mathcal B\text{ uniform}", _mini_batch)
FIRST_LIMITS = Assumption("limits of the mean of g", r"\nabla F^\top\mathbb E g\ge\mu\|\nabla F\|^2,\ "
                          r"\|\mathbb E g\|\le\mu_G\|\nabla F\|", _first_moment)
VARIANCE_LIMIT = Assumption("limit of the variance of g", r"\mathrm{Var}[g]\le M+M_V\|\nabla F\|^2",
                            _claimed("moment limits", "variance", lambda s, visit: s.M + s.M_V * visit.squared,
                                     "the variance of g"))
BCN_STEP = Assumption("step at most mu/(L M_G)", r"\alpha\le\mu/(L M_G)",
                      _step(lambda s: _over(s.problem.mu, s.problem.L * (s.M_V + s.problem.mu_G**2)),
                            "at most mu/(L M_G)"))
GL_STEP = Assumption("step below 2/L", r"\gamma_k<2/L", _step(lambda s: _over(2, s.problem.L), "< 2/L"))
