"""The proof of the three effects, line by line, as inequalities that a measured run is held against.

Written as in Bottou, Curtis, Nocedal (SIAM Review 60(2), 2018, section 4) and Ghadimi, Lan (SIAM J. Optim. 23(4), 2013,
Theorem 2.1(a)). F is the problem's value, g_k the stochastic gradient, Delta = F(w_0) - f*, K the number of steps.
Every assumption enters in a line of its own, so that a false claim shows where it enters.

Lines about one point (descent lemma, unbiased gradient, second moment, bounded variance, ...) are taken at the worst of
the points visited at the step. Lines about the run are expectations over all its paths. See `cbn_lab.theory.sgd`.
"""

import numpy as np

from cbn_lab.theory import assumptions as given
from cbn_lab.theory import sides
from cbn_lab.theory.inequalities import Chain, Inequality

_E, _GRAD = r"\mathbb E", r"\|\nabla F(w_k)\|^2"
_MEAN = rf"\frac1K\sum_k {_E}{_GRAD}"

LINES = (
    Inequality("descent lemma", r"F(w_{k+1})\le F(w_k)-\alpha\,\nabla F(w_k)^\top g_k+\tfrac12\alpha^2L\|g_k\|^2",
               sides.descent, (given.TRUE_GRADIENT, given.SMOOTH),
               why="a function of slope change at most L stays below this parabola; here y = w - alpha g"),
    Inequality("taking expectations", rf"{_E}F(w_{{k+1}})\le {_E}F(w_k)-\alpha\,{_E}[\nabla F(w_k)^\top g_k]"
               rf"+\tfrac12\alpha^2L\,{_E}\|g_k\|^2", sides.expectation, (given.FINITE,), "descent lemma",
               why="expectations keep the order, if they exist"),
    Inequality("unbiased gradient", rf"\nabla F(w)^\top{_E}[g\mid w]=\|\nabla F(w)\|^2", sides.unbiased,
               (given.UNBIASED,), "taking expectations", relation="=", why="E g is the gradient"),
    Inequality("one step", rf"{_E}F(w_{{k+1}})-{_E}F(w_k)\le-\alpha\,{_E}{_GRAD}+\tfrac12\alpha^2L\,{_E}\|g_k\|^2",
               sides.one_step, (), "unbiased gradient", ("taking expectations",),
               why="the two lines before, put together"),
    Inequality("decomposition", rf"{_E}\|g\|^2=\|\nabla F(w)\|^2+\mathrm{{Var}}[g]", sides.decomposition,
               (given.UNBIASED, given.FINITE), "unbiased gradient", relation="=",
               why="E|g|^2 = |E g|^2 + Var[g] for every random vector"),
    Inequality("bounded variance", rf"{_E}\|g\|^2\le\|\nabla F(w)\|^2+\sigma^2", sides.variance, (given.VARIANCE,),
               "decomposition", unstated=sides.with_variance, why="Var[g] is at most sigma^2"),
    Inequality("telescoping", rf"\sum_k\alpha_k{_E}{_GRAD}\le F(w_0)-{_E}F(w_K)+\tfrac L2\sum_k\alpha_k^2{_E}\|g_k\|^2",
               sides.telescoped, (), "one step", why="the sum of 'one step'; all values of F but two cancel"),
    Inequality("lower bound", r"F^*\le F(w)", sides.lower, (given.LOWER,),
               why="so F(w_0) - E F(w_K) is at most Delta"),
    Inequality("bounded second moment", rf"{_E}\|g_k\|^2\le G^2", sides.second, (given.SECOND,),
               why="where no G is claimed, G^2 is the largest second moment of the run"),
    Inequality("fixed step, G^2", rf"{_MEAN}\le\frac{{\Delta}}{{K\alpha}}+\tfrac12\alpha LG^2", sides.fixed_second, (),
               "telescoping", ("lower bound", "bounded second moment"), unstated=sides.fixed, why="divide by K alpha"),
    Inequality("absorbing the step", rf"\tfrac\alpha2\,{_E}{_GRAD}\le"
               rf"\alpha\left(1-\tfrac{{\alpha L}}2\right){_E}{_GRAD}", sides.absorbed, (given.SHORT_STEP,), "one step",
               why="1 - alpha L / 2 is at least 1/2"),
    Inequality("fixed step, sigma^2", rf"{_MEAN}\le\frac{{2\Delta}}{{K\alpha}}+\alpha L\sigma^2", sides.fixed_variance,
               (), "absorbing the step", ("bounded variance", "lower bound"), unstated=sides.fixed_with_variance,
               why="one step with the variance, summed, divided by K alpha / 2"),
    Inequality("best step", r"\sqrt{\frac{2\Delta LG^2}{K}}\le\frac{\Delta}{K\alpha}+\tfrac12\alpha LG^2", sides.best,
               (), "fixed step, G^2", unstated=sides.fixed,
               why="equal at alpha = sqrt(2 Delta / (L G^2 K)), and no step makes the right side smaller"),
    Inequality("diminishing steps", rf"\frac{{\sum_k\alpha_k{_E}{_GRAD}}}{{\sum_k\alpha_k}}\le"
               r"\frac{2\Delta+L\sigma^2\sum_k\alpha_k^2}{\sum_k\alpha_k}", sides.diminishing, (), "absorbing the step",
               ("bounded variance", "lower bound"), unstated=sides.with_variance,
               why="one step with the variance, summed with the steps as weights"),
    Inequality("mini-batch variance", r"\mathrm{Var}[g_{\mathcal B}]=\frac{\sigma_1^2(w)}{b}\cdot\frac{n-b}{n-1}",
               sides.batch_variance, (given.UNIFORM,), relation="=", unstated=sides.known_batch,
               why="without replacement; with replacement the second factor is 1"),
    Inequality("mini-batch", rf"{_MEAN}\le\frac{{2\Delta}}{{K\alpha}}+\alpha L\frac{{\sigma_1^2}}{{b}}\cdot"
               r"\frac{n-b}{n-1}", sides.batch, (), "fixed step, sigma^2", ("mini-batch variance",),
               unstated=sides.fixed_batch,
               why="'fixed step, sigma^2' with the variance of the mini-batch"),
    Inequality("moment limits", rf"{_E}\|g\|^2\le M+M_G\|\nabla F(w)\|^2,\quad M_G=M_V+\mu_G^2", sides.moment_limits,
               (given.FIRST_LIMITS, given.VARIANCE_LIMIT), "taking expectations", unstated=sides.with_limits,
               why="Assumption 4.3 of Bottou, Curtis and Nocedal in one line"),
    Inequality("Bottou-Curtis-Nocedal 4.8", rf"{_MEAN}\le\frac{{\alpha LM}}\mu"
               r"+\frac{2(F(w_1)-F_{\inf})}{K\mu\alpha}", sides.bottou,
               (given.BCN_STEP,), "moment limits", ("lower bound",), unstated=sides.fixed_limits,
               why="the same proof with their assumption"),
    Inequality("Ghadimi-Lan 2.1(a)", rf"\tfrac1L\,{_E}\|\nabla F(w_R)\|^2\le\frac{{D_F^2+\sigma^2\sum_k\gamma_k^2}}"
               r"{\sum_k(2\gamma_k-L\gamma_k^2)},\quad D_F^2=\frac{2\Delta}L", sides.ghadimi, (given.GL_STEP,),
               "bounded variance", ("lower bound",), unstated=sides.with_curvature,
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


def best_step(gap: float, L: float, G2: float, K: int) -> float:
    """sqrt(2 Delta / (L G^2 K)): where Delta / (K a) + a L G^2 / 2 is smallest."""
    return float(np.sqrt(2 * gap / (L * G2 * K)))
