"""The proof of the three effects, line by line, as inequalities that a measured run is held against.

Written as in Bottou, Curtis, Nocedal (SIAM Review 60(2), 2018, section 4) and Ghadimi, Lan (SIAM J. Optim. 23(4), 2013,
Theorem 2.1(a)). F is the problem's value, g_k the stochastic gradient, Delta = F(w_0) - f*, K the number of steps.
Every assumption enters in a line of its own, so that a false claim shows where it enters.

Lines about one point (descent lemma, unbiased gradient, second moment, bounded variance, ...) are taken at the worst of
the points visited at the step. Lines about the run are expectations over all its paths. See `cbn_lab.theory.sgd`.
"""

import numpy as np

from cbn_lab.theory import assumptions as given
from cbn_lab.theory import margins
from cbn_lab.theory.inequalities import Chain, Inequality, Sides
from cbn_lab.theory.sgd import State

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


def _descent(state: State) -> Sides:
    alpha, visit = state.alphas[-1], state.visits[-1]
    quadratic = alpha**2 * state.problem.L / 2 * visit.step_squared if state.problem.L < np.inf else np.inf
    return _worst(state, [visit.step_next], [visit.step_value, -alpha * visit.step_inner, quadratic],
                  extra=abs(state.start_value) + _digits(state, quadratic), what="single steps")


def _expectation(state: State) -> Sides:
    alpha, visit, totals = state.alphas[-1], state.visits[-1], state.totals
    # where E|g|^2 is infinite there is no statement, even if all that was drawn is finite
    squared = totals.drawn_squared[-1] if visit.second is None or np.all(np.isfinite(visit.second)) else np.inf
    price = alpha**2 * state.problem.L / 2 * squared
    return _mean(state, [totals.value[-1]], [totals.value[-2], -alpha * totals.drawn_inner[-1], price],
                 extra=abs(state.start_value) + _digits(state, np.mean(price)))


def _unbiased(state: State) -> Sides:
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


def _one_step(state: State) -> Sides:
    alpha, totals, (noise, squares) = state.alphas[-1], state.totals, _drawn(state)
    price = alpha**2 * state.problem.L / 2 * squares[-1]
    return _mean(state, [totals.value[-1], -totals.value[-2], alpha * noise[-1]],
                 [-alpha * totals.squared[-1], price], extra=abs(state.start_value) + _digits(state, np.mean(price)))


def _decomposition(state: State) -> Sides:
    visit = state.visits[-1]
    if visit.second is None:
        return _pooled(state, "product")
    return _worst(state, [visit.second], [visit.squared, visit.variance], equal=True)


def _variance(state: State) -> Sides:
    visit = state.visits[-1]
    if visit.second is None:
        last = state.pooled[-1]
        squared = last.squared / last.count
        return _bet(state, "variance", squared + last.variance / last.count, squared + state.sigma2)
    return _worst(state, [visit.second], [visit.squared, state.sigma2], extra=_digits(state, state.sigma2))


def _telescoped(state: State) -> Sides:
    totals, (noise, squares) = state.totals, _drawn(state)
    price = state.alphas**2 * state.problem.L / 2 @ squares
    return _mean(state, [state.alphas @ totals.squared],
                 [totals.value[0], -totals.value[-1], -state.alphas @ noise, price],
                 extra=_digits(state, np.mean(price)))


def _lower(state: State) -> Sides:
    visit = state.visits[-1]
    found = given.FOUND / state.rounding * (abs(state.problem.f_star) + abs(state.start_value))
    return _worst(state, [state.problem.f_star], [np.concatenate([visit.value, visit.step_next])], extra=found)


def _second(state: State) -> Sides:
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


def _fixed_second(state: State) -> Sides:
    return _bound(state, _average(state), _g_terms(state))


def _absorbed(state: State) -> Sides:
    alpha, squared = state.alphas[-1], state.totals.squared[-1]
    return _mean(state, [alpha / 2 * squared], [alpha * (1 - alpha * state.problem.L / 2) * squared],
                 extra=_digits(state, alpha * np.mean(squared)))


def _fixed_variance(state: State) -> Sides:
    alpha, K = state.alphas[0], len(state.alphas)
    return _bound(state, _average(state), [2 * state.gap / (K * alpha), alpha * state.problem.L * state.sigma2])


def best_step(gap: float, L: float, G2: float, K: int) -> float:
    """sqrt(2 Delta / (L G^2 K)): where Delta / (K a) + a L G^2 / 2 is smallest."""
    return float(np.sqrt(2 * gap / (L * G2 * K)))


def _best(state: State) -> Sides:
    with np.errstate(invalid="ignore"):
        least = np.sqrt(2 * state.gap * state.problem.L * state.G2 / len(state.alphas))
    return _mean(state, [least], _g_terms(state))


def _diminishing(state: State) -> Sides:
    total = state.alphas.sum()
    return _bound(state, state.alphas / total @ state.totals.squared,
                  [2 * state.gap / total, state.problem.L * state.sigma2 * float(state.alphas @ state.alphas) / total])


def _batch_variance(state: State) -> Sides:
    visit = state.visits[-1]
    return _worst(state, [visit.variance], [state.factor * visit.one_variance], equal=True, extra=visit.one_variance)


def _batch(state: State) -> Sides:
    alpha, K = state.alphas[0], len(state.alphas)
    return _bound(state, _average(state), [2 * state.gap / (K * alpha),
                                            alpha * state.problem.L * state.problem.sigma2 * state.factor])


def _moment_limits(state: State) -> Sides:
    visit, M_G = state.visits[-1], state.M_V + state.problem.mu_G**2
    if visit.second is None:
        last = state.pooled[-1]
        squared = last.squared / last.count
        return _bet(state, "moment limits", last.second / last.count, state.M + M_G * squared)
    return _worst(state, [visit.second], [state.M, M_G * visit.squared],
                  extra=_digits(state, state.M + M_G * visit.squared))


def _bottou(state: State) -> Sides:
    alpha, K, mu = state.alphas[0], len(state.alphas), state.problem.mu
    return _bound(state, _average(state), [alpha * state.problem.L * state.M / mu, 2 * state.gap / (K * mu * alpha)])


def _ghadimi(state: State) -> Sides:
    L, gamma = state.problem.L, state.alphas
    weights = 2 * gamma - L * gamma**2
    total = weights.sum()
    if not np.all(weights > 0):  # no probabilities, so no theorem
        return Sides(np.nan, np.nan, where="2 gamma - L gamma^2 is not positive")
    return _bound(state, weights / total @ state.totals.squared / L,
                  [2 * state.gap / L / total, state.sigma2 * float(gamma @ gamma) / total])


# When a line says nothing about a run --------------------------------------------------------------------------------

def _fixed(state: State) -> str | None:
    return None if state.constant_step else "stated for a fixed step; the steps of this run change"


def _with_variance(state: State) -> str | None:
    return None if state.sigma2 is not None else "no sigma2 is claimed"


def _fixed_with_variance(state: State) -> str | None:
    return _with_variance(state) or _fixed(state)


def _known_batch(state: State) -> str | None:
    return None if state.visits[0].one_variance is not None else "stated for mini-batches with known single draws"


def _fixed_batch(state: State) -> str | None:
    if not hasattr(state.problem.oracle, "single"):
        return "stated for mini-batches"
    return _fixed_with_variance(state)


def _with_curvature(state: State) -> str | None:
    return _with_variance(state) or (None if state.problem.L > 0 else "stated for L > 0")


def _with_limits(state: State) -> str | None:
    return None if state.M is not None else "neither M nor sigma2 is claimed"


def _fixed_limits(state: State) -> str | None:
    return _with_limits(state) or _fixed(state)


_E, _GRAD = r"\mathbb E", r"\|\nabla F(w_k)\|^2"
_MEAN = rf"\frac1K\sum_k {_E}{_GRAD}"

LINES = (
    Inequality("descent lemma", r"F(w_{k+1})\le F(w_k)-\alpha\,\nabla F(w_k)^\top g_k+\tfrac12\alpha^2L\|g_k\|^2",
               _descent, (given.TRUE_GRADIENT, given.SMOOTH),
               why="a function of slope change at most L stays below this parabola; here y = w - alpha g"),
    Inequality("taking expectations", rf"{_E}F(w_{{k+1}})\le {_E}F(w_k)-\alpha\,{_E}[\nabla F(w_k)^\top g_k]"
               rf"+\tfrac12\alpha^2L\,{_E}\|g_k\|^2", _expectation, (given.FINITE,), "descent lemma",
               why="expectations keep the order, if they exist"),
    Inequality("unbiased gradient", rf"\nabla F(w)^\top{_E}[g\mid w]=\|\nabla F(w)\|^2", _unbiased,
               (given.UNBIASED,), "taking expectations", relation="=", why="E g is the gradient"),
    Inequality("one step", rf"{_E}F(w_{{k+1}})-{_E}F(w_k)\le-\alpha\,{_E}{_GRAD}+\tfrac12\alpha^2L\,{_E}\|g_k\|^2",
               _one_step, (), "unbiased gradient", ("taking expectations",), why="the two lines before, put together"),
    Inequality("decomposition", rf"{_E}\|g\|^2=\|\nabla F(w)\|^2+\mathrm{{Var}}[g]", _decomposition,
               (given.UNBIASED, given.FINITE), "unbiased gradient", relation="=",
               why="E|g|^2 = |E g|^2 + Var[g] for every random vector"),
    Inequality("bounded variance", rf"{_E}\|g\|^2\le\|\nabla F(w)\|^2+\sigma^2", _variance, (given.VARIANCE,),
               "decomposition", unstated=_with_variance, why="Var[g] is at most sigma^2"),
    Inequality("telescoping", rf"\sum_k\alpha_k{_E}{_GRAD}\le F(w_0)-{_E}F(w_K)+\tfrac L2\sum_k\alpha_k^2{_E}\|g_k\|^2",
               _telescoped, (), "one step", why="the sum of 'one step'; all values of F but two cancel"),
    Inequality("lower bound", r"F^*\le F(w)", _lower, (given.LOWER,),
               why="so F(w_0) - E F(w_K) is at most Delta"),
    Inequality("bounded second moment", rf"{_E}\|g_k\|^2\le G^2", _second, (given.SECOND,),
               why="where no G is claimed, G^2 is the largest second moment of the run"),
    Inequality("fixed step, G^2", rf"{_MEAN}\le\frac{{\Delta}}{{K\alpha}}+\tfrac12\alpha LG^2", _fixed_second, (),
               "telescoping", ("lower bound", "bounded second moment"), unstated=_fixed, why="divide by K alpha"),
    Inequality("absorbing the step", rf"\tfrac\alpha2\,{_E}{_GRAD}\le"
               rf"\alpha\left(1-\tfrac{{\alpha L}}2\right){_E}{_GRAD}", _absorbed, (given.SHORT_STEP,), "one step",
               why="1 - alpha L / 2 is at least 1/2"),
    Inequality("fixed step, sigma^2", rf"{_MEAN}\le\frac{{2\Delta}}{{K\alpha}}+\alpha L\sigma^2", _fixed_variance, (),
               "absorbing the step", ("bounded variance", "lower bound"), unstated=_fixed_with_variance,
               why="one step with the variance, summed, divided by K alpha / 2"),
    Inequality("best step", r"\sqrt{\frac{2\Delta LG^2}{K}}\le\frac{\Delta}{K\alpha}+\tfrac12\alpha LG^2", _best, (),
               "fixed step, G^2", unstated=_fixed,
               why="equal at alpha = sqrt(2 Delta / (L G^2 K)), and no step makes the right side smaller"),
    Inequality("diminishing steps", rf"\frac{{\sum_k\alpha_k{_E}{_GRAD}}}{{\sum_k\alpha_k}}\le"
               r"\frac{2\Delta+L\sigma^2\sum_k\alpha_k^2}{\sum_k\alpha_k}", _diminishing, (), "absorbing the step",
               ("bounded variance", "lower bound"), unstated=_with_variance,
               why="one step with the variance, summed with the steps as weights"),
    Inequality("mini-batch variance", r"\mathrm{Var}[g_{\mathcal B}]=\frac{\sigma_1^2(w)}{b}\cdot\frac{n-b}{n-1}",
               _batch_variance, (given.UNIFORM,), relation="=", unstated=_known_batch,
               why="without replacement; with replacement the second factor is 1"),
    Inequality("mini-batch", rf"{_MEAN}\le\frac{{2\Delta}}{{K\alpha}}+\alpha L\frac{{\sigma_1^2}}{{b}}\cdot"
               r"\frac{n-b}{n-1}", _batch, (), "fixed step, sigma^2", ("mini-batch variance",), unstated=_fixed_batch,
               why="'fixed step, sigma^2' with the variance of the mini-batch"),
    Inequality("moment limits", rf"{_E}\|g\|^2\le M+M_G\|\nabla F(w)\|^2,\quad M_G=M_V+\mu_G^2", _moment_limits,
               (given.FIRST_LIMITS, given.VARIANCE_LIMIT), "taking expectations", unstated=_with_limits,
               why="Assumption 4.3 of Bottou, Curtis and Nocedal in one line"),
    Inequality("Bottou-Curtis-Nocedal 4.8", rf"{_MEAN}\le\frac{{\alpha LM}}\mu"
               r"+\frac{2(F(w_1)-F_{\inf})}{K\mu\alpha}", _bottou,
               (given.BCN_STEP,), "moment limits", ("lower bound",), unstated=_fixed_limits,
               why="the same proof with their assumption"),
    Inequality("Ghadimi-Lan 2.1(a)", rf"\tfrac1L\,{_E}\|\nabla F(w_R)\|^2\le\frac{{D_F^2+\sigma^2\sum_k\gamma_k^2}}"
               r"{\sum_k(2\gamma_k-L\gamma_k^2)},\quad D_F^2=\frac{2\Delta}L", _ghadimi, (given.GL_STEP,),
               "bounded variance", ("lower bound",), unstated=_with_curvature,
               why="w_R: an iterate drawn with probability proportional to 2 gamma_k - L gamma_k^2"),
)


def chain(*names: str) -> Chain:
    """The proof as a chain of all its lines, or of the named ones and those they follow from, in the proof's order.

    KeyError for a name that is not among `[line.name for line in chain()]`.
    """
    whole = Chain(LINES)
    wanted = [whole[name] for name in names]
    kept = {line.name for line in whole} if not names else set()
    while wanted:
        line = wanted.pop()
        kept.add(line.name)
        wanted += [whole[parent] for parent in (line.previous, *line.also) if parent is not None]
    return Chain(line for line in LINES if line.name in kept)
