"""Notebook 03: descent step, variance decomposition, best step, mini-batch, and which line of the proof falls."""

import numpy as np

from cbn_lab.exercises import _ex03_bounds as ex03_bounds
from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import array, call, close, number


def decompose(gradients, probabilities):
    """(E|g|², |E g|², Var[g]) of a random gradient: row i of `gradients` [m, d] has probability `probabilities[i]`."""
    raise NotImplementedError


def _decompose(gradients, probabilities):
    mean = probabilities @ gradients
    second = probabilities @ (gradients**2).sum(axis=1)
    variance = probabilities @ ((gradients - mean) ** 2).sum(axis=1)
    return second, mean @ mean, variance


def _with(position, wrong):
    """The right three numbers with one of them replaced by wrong(gradients, probabilities)."""

    def answer(gradients, probabilities):
        gradients, probabilities = np.asarray(gradients, dtype=float), np.asarray(probabilities, dtype=float)
        right = list(_decompose(gradients, probabilities))
        right[position] = wrong(gradients, probabilities)
        return tuple(right)

    return answer


def _spread(g, p, center):
    return p @ ((g - center) ** 2).sum(axis=1)


# what is said -> what the mistake computes; the mutants are made of the same functions
_DECOMPOSE = {
    "all outcomes alike": ("this gives every outcome the same weight; outcome i has probability `probabilities[i]`",
                           lambda g, p: _decompose(g, np.full(len(g), 1 / len(g)))),
    "norm of the mean in place of the second moment": (
        "the first number is the square of the mean; E|g|² is the mean of the squares",
        _with(0, lambda g, p: (p @ g) @ (p @ g))),
    "mean norm squared": ("the first number squares the mean length; E|g|² is the mean of the squared lengths",
                          _with(0, lambda g, p: (p @ np.sqrt((g**2).sum(axis=1))) ** 2)),
    "second moment as squared mean": ("the second number is the mean of the squares; |E g|² squares the mean",
                                      _with(1, lambda g, p: p @ (g**2).sum(axis=1))),
    "norm not squared": ("the second number is |E g|; its square is asked for",
                         _with(1, lambda g, p: np.linalg.norm(p @ g))),
    "sum over coordinates squared": ("the second number squares the sum of the coordinates; |E g|² is the sum of "
                                     "their squares", _with(1, lambda g, p: (p @ g).sum() ** 2)),
    "n - 1": ("this variance has the factor m/(m - 1) of an estimate from a sample; here all outcomes and their "
              "probabilities are known", _with(2, lambda g, p: _spread(g, p, p @ g) * len(g) / (len(g) - 1))),
    "about the unweighted mean": ("this variance is taken about the plain average of the outcomes, which is not E g",
                                  _with(2, lambda g, p: _spread(g, p, g.mean(axis=0)))),
    "standard deviation": ("this is the root of the variance",
                           _with(2, lambda g, p: np.sqrt(_spread(g, p, p @ g)))),
    "divided by d": ("this variance is divided by the number of coordinates; Var[g] is the sum over them",
                     _with(2, lambda g, p: _spread(g, p, p @ g) / g.shape[1])),
    "drawn alike": ("this variance is that of outcomes which are all equally likely; weigh them with `probabilities`, "
                    "also in the mean that it is taken about", _with(2, lambda g, p: g.var(axis=0).sum())),
    "other order": ("the numbers are right and stand in another order; return E|g|², then |E g|², then Var[g]",
                    lambda g, p: _decompose(g, p)[::-1]),
}


def _check_decompose(student):
    rng = np.random.default_rng(3)
    cases = [(np.array([[3.0, 0.0], [-1.0, 2.0], [0.5, -4.0]]), np.array([0.5, 0.3, 0.2])),
             (rng.standard_normal((5, 4)) + 2, rng.dirichlet(np.ones(5))),
             (np.array([[2.0], [-1.0]]), np.array([0.25, 0.75])),
             (np.array([[1.0, 2.0, 3.0]]), np.array([1.0])),
             (1e-4 * rng.standard_normal((4, 2)), np.array([0.1, 0.2, 0.3, 0.4]))]
    for gradients, probabilities in cases:
        result = array(call(student, gradients, probabilities))
        require(result.size == 3, f"return three numbers, E|g|², |E g|² and Var[g]; this has {result.size}")
        mistakes = {}
        for said, wrong in _DECOMPOSE.values():
            with np.errstate(all="ignore"):
                if len(gradients) > 1:
                    mistakes[said] = wrong(gradients, probabilities)
        where = f"gradients = {gradients.tolist()}, probabilities = {probabilities.tolist()}"
        close(result.reshape(3), _decompose(gradients, probabilities), where, mistakes=mistakes,
              what="(E|g|², |E g|², Var[g])")


DECOMPOSE = Spec(
    id="3.2", title="the variance decomposition",
    task="A random gradient takes the values `gradients[i]` (rows of $[m, d]$) with probabilities `probabilities[i]`. "
         "Compute $\\mathbb E\\|g\\|^2$, $\\|\\mathbb E g\\|^2$ and "
         "$\\mathrm{Var}[g]=\\mathbb E\\|g-\\mathbb E g\\|^2$, each from its definition.",
    stub=decompose, reference=_decompose, check=_check_decompose,
    hints=("All three are expectations, so all three are sums weighted with the probabilities. Which is a mean of "
           "squares, and which the square of a mean?",
           "`probabilities @ gradients` is $\\mathbb E g$, a vector with $d$ entries. `(gradients**2).sum(axis=1)` are "
           "the squared lengths of the outcomes, one number each.",
           "The variance is the weighted mean of `((gradients - mean)**2).sum(axis=1)`."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _DECOMPOSE.items()},
    why="From the definitions, $\\mathbb E\\|g-\\mathbb E g\\|^2=\\mathbb E\\|g\\|^2-2\\,\\mathbb E g^\\top\\mathbb E g"
        "+\\|\\mathbb E g\\|^2$, so the first of the three numbers is the sum of the others. Nothing is assumed about "
        "the distribution but that the second moment is finite.")


def descent_bound(value, gradient, g, step, L):
    """The descent lemma's upper bound of F(w - step·g): value is F(w), gradient is ∇F(w); gradient and g are [d]."""
    raise NotImplementedError


def _descent_bound(value, gradient, g, step, L):
    return value - step * (gradient @ g) + step**2 * L / 2 * (g @ g)


_DESCENT = {
    "no half": ("the quadratic term has a factor 1/2: it is the integral of L t from 0 to 1",
                lambda F, d, g, a, L: F - a * d @ g + a**2 * L * g @ g),
    "step not squared": ("the step is squared in the last term: the move is step·g, and its squared length counts",
                         lambda F, d, g, a, L: F - a * d @ g + a * L / 2 * g @ g),
    "uphill": ("the move is minus step·g, so the linear term is subtracted",
               lambda F, d, g, a, L: F + a * d @ g + a**2 * L / 2 * g @ g),
    "no stochastic gradient": ("this puts the gradient in the place of g; the move is made with g",
                               lambda F, d, g, a, L: F - a * d @ d + a**2 * L / 2 * d @ d),
    "squared gradient in the linear term": (
        "the linear term is gradient · g; it becomes |gradient|² only in expectation, if g is unbiased",
        lambda F, d, g, a, L: F - a * d @ d + a**2 * L / 2 * g @ g),
    "squared g in the linear term": ("the linear term is gradient · g, not |g|²: the slope of F is its gradient",
                                     lambda F, d, g, a, L: F - a * g @ g + a**2 * L / 2 * g @ g),
    "gradient in the quadratic term": ("the quadratic term has the length of the move, step·g, not of the gradient",
                                       lambda F, d, g, a, L: F - a * d @ g + a**2 * L / 2 * d @ d),
    "product of the lengths": ("the linear term is the product gradient · g, which knows the angle between the two; "
                               "the product of their lengths is only its largest value",
                               lambda F, d, g, a, L: F - a * np.sqrt((d @ d) * (g @ g)) + a**2 * L / 2 * g @ g),
    "norm not squared": ("the length of g is squared in the last term",
                         lambda F, d, g, a, L: F - a * d @ g + a**2 * L / 2 * np.sqrt(g @ g)),
    "concave": ("the quadratic term is added: the slope may grow by L along the way, and the bound must allow for it",
                lambda F, d, g, a, L: F - a * d @ g - a**2 * L / 2 * g @ g),
    "without L": ("L is missing in the quadratic term", lambda F, d, g, a, L: F - a * d @ g + a**2 / 2 * g @ g),
    "change only": ("this bounds the change F(w - step·g) - F(w); add the value at w",
                    lambda F, d, g, a, L: -a * d @ g + a**2 * L / 2 * g @ g),
}


def _check_descent(student):
    rng = np.random.default_rng(5)
    cases = [(1.5, np.array([1.0, -2.0]), np.array([0.5, 3.0]), 0.3, 4.0),
             (-2.0, *rng.standard_normal((2, 5)), 1.7, 0.4), (7.0, np.array([3.0]), np.array([-2.0]), 0.1, 10.0),
             (0.0, np.zeros(3), np.array([1.0, 2.0, 2.0]), 0.5, 1.0),
             (3.0, np.array([2.0, 1.0]), np.zeros(2), 0.5, 2.0)]
    for value, gradient, g, step, L in cases:
        mistakes = {said: wrong(value, gradient, g, step, L) for said, wrong in _DESCENT.values()}
        where = f"value = {value:g}, gradient = {gradient.tolist()}, g = {g.tolist()}, step = {step:g}, L = {L:g}"
        close(number(call(student, value, gradient, g, step, L), "the bound"),
              _descent_bound(value, gradient, g, step, L), where, what="the bound", mistakes=mistakes)


DESCENT = Spec(
    id="3.1", title="the step of the descent lemma",
    task="The descent lemma says $F(y)\\le F(w)+\\nabla F(w)^\\top(y-w)+\\tfrac L2\\|y-w\\|^2$. Put in the step of "
         "SGD, $y=w-\\alpha g$, and write the right side as a function.",
    stub=descent_bound, reference=_descent_bound, check=_check_descent,
    hints=("What is $y-w$? Put it in twice.",
           "$\\nabla F^\\top(-\\alpha g)=-\\alpha\\,\\nabla F^\\top g$ and $\\|-\\alpha g\\|^2=\\alpha^2\\|g\\|^2$."),
    mutants={name: Mutant(lambda value, gradient, g, step, L, wrong=wrong: wrong(value, gradient, g, step, L),
                          says=said) for name, (said, wrong) in _DESCENT.items()},
    why="$g$ and $\\nabla F$ play different parts: $g$ is where SGD goes, $\\nabla F$ is the slope it meets. The "
        "linear term has one of each, the quadratic term only $g$. That is why $\\mathbb E\\|g\\|^2$, and not "
        "$\\|\\nabla F\\|^2$, is multiplied by $L$.")

EXERCISES = (DESCENT, DECOMPOSE, ex03_bounds.BEST_STEP, ex03_bounds.BATCH_FACTOR, ex03_bounds.FIRST_FAILING)
