"""Notebook 03, from section 5 on: the best permitted step, the mini-batch's factor, which line falls first."""

import numpy as np

from cbn_lab import theory
from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import array, call, close, number


def batch_factor(n, b, replacement):
    """Var of a mean over b of n samples, divided by that of one sample; drawn uniformly, replacement True or False."""
    raise NotImplementedError


def _batch_factor(n, b, replacement):
    if replacement:
        return 1 / b
    return (n - b) / (b * (n - 1))


_FACTORS = {
    "always with replacement": ("without replacement two samples of a batch are not independent; a batch of all n "
                                "samples has no variance at all", lambda n, b, r: 1 / b),
    "always without": ("with replacement the draws are independent, and the factor is 1/b",
                       lambda n, b, r: (n - b) / (b * (n - 1))),
    "n in the denominator": ("(n - b)/n is not quite it: for b = 1 the factor must be 1",
                             lambda n, b, r: 1 / b if r else (n - b) / (b * n)),
    "without 1/b": ("the factor 1/b is there without replacement as well",
                    lambda n, b, r: 1 / b if r else (n - b) / (n - 1)),
    "standard deviation": ("this is the factor of the standard deviation; a variance has its square",
                           lambda n, b, r: np.sqrt(1 / b if r else (n - b) / (b * (n - 1)))),
    "squared batch": ("the variance of a mean of b independent draws is b Var / b² = Var / b",
                      lambda n, b, r: 1 / b**2 if r else (n - b) / (b**2 * (n - 1))),
    "the sum": ("this is the factor of the sum over the batch; the mini-batch gradient is the mean",
                lambda n, b, r: float(b) if r else b * (n - b) / (n - 1)),
    "share left out": ("1 - b/n is the share of samples left out; divide by b, and let b = 1 give 1",
                       lambda n, b, r: 1 / b if r else 1 - b / n),
    "covariance counted once": ("each of the b draws meets b - 1 others: there are b(b - 1) pairs, not b",
                                lambda n, b, r: 1 / b if r else (1 - 1 / (n - 1)) / b),
    "pairs counted once": ("in the double sum over i ≠ j each pair stands twice: b(b - 1) terms, not half of them",
                           lambda n, b, r: 1 / b if r else (1 - (b - 1) / (2 * (n - 1))) / b),
    "sign of the covariance": ("without replacement the covariance of two draws is negative: it makes the variance "
                               "smaller", lambda n, b, r: 1 / b if r else (1 + (b - 1) / (n - 1)) / b),
    "exchanged": ("the two kinds of drawing are exchanged",
                  lambda n, b, r: (n - b) / (b * (n - 1)) if r else 1 / b),
}


def _check_factor(student):
    for n, b in ((10, 4), (7, 5), (7, 7), (5, 1), (2, 2), (1000, 32)):  # n = 1 = b without replacement is 0/0
        both = (False, True)
        found = [number(call(student, n, b, replacement), "the factor") for replacement in both]
        mistakes = {}
        if 1 < b < n:
            mistakes = {said: [wrong(n, b, replacement) for replacement in both] for said, wrong in _FACTORS.values()}
        close(found, [_batch_factor(n, b, replacement) for replacement in both], f"n = {n}, b = {b}",
              what="the pair of factors (without, with replacement)", mistakes=mistakes)
    for n, b in ((3, 8), (1, 4)):
        close(number(call(student, n, b, True), "the factor"), 1 / b, f"n = {n}, b = {b}, with replacement",
              what="the factor")


BATCH_FACTOR = Spec(
    id="3.4", title="what a mini-batch does to the variance",
    task="A mini-batch gradient is the mean of $b$ per-sample gradients out of $n$, drawn uniformly. Write the "
         "factor by which its variance is smaller than that of one sample, with and without replacement.",
    stub=batch_factor, reference=_batch_factor, check=_check_factor,
    hints=("With replacement the draws are independent. Without, ask what happens for $b=n$ and for $b=1$.",
           "Without replacement, two different draws have covariance $-\\mathrm{Var}/(n-1)$: sum over all draws and "
           "remember that the sum over all $n$ samples does not vary.",
           "The variance of the sum is $b\\,\\mathrm{Var}+b(b-1)\\cdot(-\\mathrm{Var}/(n-1))$. Divide by $b^2$."),
    mutants={name: Mutant(lambda n, b, replacement, wrong=wrong: wrong(n, b, replacement), says=said)
             for name, (said, wrong) in _FACTORS.items()},
    why="$\\frac1{b^2}\\left(b-\\frac{b(b-1)}{n-1}\\right)=\\frac1b\\cdot\\frac{n-b}{n-1}$. For a small share $b/n$ "
        "the second factor is nearly 1, and both ways of drawing agree. Only the variance shrinks: "
        "$\\|\\nabla F\\|^2$, the other part of $\\mathbb E\\|g\\|^2$, stays.")


def best_step(gap, L, sigma2, steps):
    """The step in (0, 1/L] that makes 2·gap/(steps·α) + α·L·sigma2 smallest; sigma2 may be 0."""
    raise NotImplementedError


def _best_step(gap, L, sigma2, steps):
    if sigma2 == 0:
        return 1 / L
    return min(1 / L, np.sqrt(2 * gap / (L * sigma2 * steps)))


def _ratio(gap, L, sigma2, steps):
    return 2 * gap / (L * sigma2 * steps)


_BEST = {
    "no cap": ("the bound is proved for steps up to 1/L only: where the root is larger, 1/L is the best permitted step",
               lambda D, L, s, K: np.sqrt(_ratio(D, L, s, K))),
    "larger of the two": ("this is the larger of 1/L and the root; a step above 1/L is not covered by the proof",
                          lambda D, L, s, K: max(1 / L, np.sqrt(_ratio(D, L, s, K)))),
    "always 1/L": ("1/L is the largest permitted step; with noise a smaller one can give a smaller bound",
                   lambda D, L, s, K: 1 / L),
    "capped at 2/L": ("this bound needs steps up to 1/L; 2/L is the limit of another theorem",
                      lambda D, L, s, K: min(2 / L, np.sqrt(_ratio(D, L, s, K)))),
    "half the gap": ("2·gap/(K α) and α L σ² balance at 2·gap/(L σ² K) under the root; the 2 is missing",
                     lambda D, L, s, K: min(1 / L, np.sqrt(_ratio(D, L, s, K) / 2))),
    "half of L": ("the noise term is α L σ² here, without the 1/2 of the bound in G²",
                  lambda D, L, s, K: min(1 / L, np.sqrt(2 * _ratio(D, L, s, K)))),
    "no root": ("take the root: setting the derivative to 0 gives α², not α",
                lambda D, L, s, K: min(1 / L, _ratio(D, L, s, K))),
    "sigma for sigma squared": ("sigma2 is σ² already, so it is not squared again",
                                lambda D, L, s, K: min(1 / L, np.sqrt(_ratio(D, L, s**2, K)))),
    "steps outside the root": ("the number of steps stands under the root: the best step falls like 1/√K",
                               lambda D, L, s, K: min(1 / L, np.sqrt(2 * D / (L * s)) / K)),
    "without the number of steps": ("the number of steps is missing: the first term is 2·gap/(K α)",
                                    lambda D, L, s, K: min(1 / L, np.sqrt(2 * D / (L * s)))),
    "the bound, not the step": ("this is the smallest value of the bound; the step at which it is reached is asked for",
                                lambda D, L, s, K: 2 * D / (K * min(1 / L, np.sqrt(_ratio(D, L, s, K))))
                                + min(1 / L, np.sqrt(_ratio(D, L, s, K))) * L * s),
}


def _check_best(student):
    """The cases are judged together: each mistake shows in some of them only."""
    cases = [(3.0, 2.0, 5.0, 40), (0.7, 0.5, 3.0, 100), (10.0, 2.0, 0.1, 10), (5.0, 0.25, 0.5, 3),
             (1.0, 4.0, 2.0, 1000)]
    found = [number(call(student, *case), "the step") for case in cases]
    where = "(gap, L, sigma2, steps) = " + ", ".join(str(case) for case in cases)
    close(found, [_best_step(*case) for case in cases], where, what="the list of steps",
          mistakes={said: [wrong(*case) for case in cases] for said, wrong in _BEST.values()})
    try:
        without = array(call(student, 2.0, 4.0, 0.0, 10), "the step")  # infinite, or not a number, in some answers
    except ZeroDivisionError:
        without = np.array(np.nan)
    require(without.size == 1, f"the step has {without.size} values; expected one number")
    require(np.isclose(without.item(), 0.25, rtol=1e-6), "without noise (sigma2 = 0) the bound only falls with the "
            f"step: the best one is 1/L = 0.25 for L = 4; this gives {without.item():g}")


BEST_STEP = Spec(
    id="3.3", title="the best permitted step",
    task="The bound $\\frac{2\\Delta}{K\\alpha}+\\alpha L\\sigma^2$ is proved for $0<\\alpha\\le 1/L$. Which "
         "$\\alpha$ in that range makes it smallest? `gap` is $\\Delta$, `steps` is $K$; $\\sigma^2$ may be 0.",
    stub=best_step, reference=_best_step, check=_check_best,
    hints=("Forget the limit $1/L$ first, and set the derivative with respect to $\\alpha$ to 0.",
           "$-2\\Delta/(K\\alpha^2)+L\\sigma^2=0$. The bound falls before that point and rises behind it: what if the "
           "point lies beyond $1/L$?",
           "The smaller of $1/L$ and $\\sqrt{2\\Delta/(L\\sigma^2K)}$. Without noise the second is infinite."),
    mutants={name: Mutant(lambda gap, L, sigma2, steps, wrong=wrong: wrong(gap, L, sigma2, steps), says=said)
             for name, (said, wrong) in _BEST.items()} | {
        "division by 0": Mutant(lambda gap, L, sigma2, steps: min(1 / L, (2 * gap / (L * sigma2 * steps)) ** 0.5),
                                says="without noise (sigma2 = 0)")},
    why="The two terms pull in different directions. A small $L$ or $\\sigma^2$ moves the balance to larger steps, "
        "and the bound at the balance, $2\\sqrt{2\\Delta L\\sigma^2/K}$, falls. That is the sense in which the three "
        "effects belong to *faster convergence*: through what is guaranteed at the best step.")


def first_failing(broken):
    """Name of the first line of the proof that fails; `broken` is what is broken, one of `meter.BREAKS`."""
    raise NotImplementedError


def _first_failing(broken):
    return {
        "L claimed too small": "descent lemma",
        "step above 1/L": "absorbing the step",
        "step above 2/L": "absorbing the step",
        "biased gradient": "unbiased gradient",
        "variance claimed too small": "bounded variance",
        "heavy tail": "bounded variance",
        "f* claimed too high": "lower bound",
        "a kink": "descent lemma",
    }[broken]


# what is broken -> (a plausible wrong line, what is said)
_FIRST = {
    "L claimed too small": ("fixed step, G^2", "L claimed too small: L enters long before the bounds. In which line "
                            "does it stand first, before anything is averaged?"),
    "step above 1/L": ("fixed step, sigma^2", "step above 1/L: the final bound may fail as well, or hold by luck. "
                       "Which line before it uses that the step is short?"),
    "step above 2/L": ("descent lemma", "step above 2/L: the descent lemma is about any two points, near or far, and "
                       "knows no step size; see what the bracket 1 - αL/2 becomes"),
    "biased gradient": ("one step", "biased gradient: 'one step' is put together from two lines, and one of the two "
                        "has fallen already"),
    "variance claimed too small": ("decomposition", "variance claimed too small: the decomposition contains the true "
                                   "variance, not what is claimed about it"),
    "heavy tail": ("taking expectations", "heavy tail: with an infinite right side that line reads '≤ ∞', which is "
                   "true and says nothing. Which line has a finite right side?"),
    "f* claimed too high": ("telescoping", "f* claimed too high: telescoping contains values of F that were reached, "
                            "and no F* yet"),
    "a kink": ("unbiased gradient", "a kink: there is no noise in that run, so g is the gradient. What does |w| lack?"),
}


def _misplaced(broken, found, names):
    """What is said of a line that no mistake above is about: it stands before the right one, or after it."""
    if names.index(found) < names.index(_first_failing(broken)):
        return (f"{broken}: {found!r} still holds. What is broken does not touch it, or only makes its right side "
                "larger; look further down the proof")
    return f"{broken}: whether {found!r} fails or not, a line above it has failed already; look further up the proof"


def _check_first(student):
    names = [line.name for line in theory.chain()]
    for broken, (named, said) in _FIRST.items():
        found = call(student, broken)
        require(isinstance(found, str), f"for {broken!r} this gives {found!r}; expected the name of a line, a text")
        require(found in names, f"for {broken!r} this gives {found!r}, which is no line of the proof; the lines are: "
                f"{', '.join(names)}")
        require(found == _first_failing(broken), said if found == named else _misplaced(broken, found, names))


def _one_wrong(broken, line):
    return lambda asked: line if asked == broken else _first_failing(asked)


FIRST_FAILING = Spec(
    id="3.5", title="which line falls first?",
    task="For each entry of `meter.BREAKS` but the first, `\"nothing\"`: which line of the proof is the first that "
         "fails? Give its name as it stands in the slack meter. Predict; the next cell runs it.",
    stub=first_failing, reference=_first_failing, check=_check_first,
    hints=("Go through the proof and mark, for each line, the assumption that it uses for the first time.",
           "A line fails if its right side is too small, or if it is not what the proof needs. A right side that is "
           "too large, even infinite, does not fail.",
           "A claimed number shows where the claim stands: L in the descent lemma, σ² in 'bounded variance', F* in "
           "'lower bound'."),
    mutants={broken: Mutant(_one_wrong(broken, line), says=said) for broken, (line, said) in _FIRST.items()},
    why="Each assumption enters the proof at a line of its own. What comes before does not know of it and goes on "
        "holding; what comes after may fail or hold by luck. An infinite variance is the odd one: the lines before "
        "'bounded variance' are true, and empty.")
