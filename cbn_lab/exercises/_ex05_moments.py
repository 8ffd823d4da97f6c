"""Exercises 5.1 and 5.2: the moments of an activation, and the eigenvalues that follow from them."""

from functools import partial

import numpy as np

from cbn_lab import activations
from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
from cbn_lab.exercises.tools import array, call, close, same


def moments(f, mean, std):
    """f: NumPy function of an array. Returns mean, variance and second moment of f(z), z ~ N(mean, std^2)."""
    raise NotImplementedError


def moments_solution(f, mean, std):
    x = np.linspace(-10.0, 10.0, 20_001)
    weight = np.exp(-0.5 * x**2)
    weight /= weight.sum()
    value = f(mean + std * x)
    first = weight @ value
    variance = weight @ (value - first) ** 2
    return first, variance, variance + first**2


def _moments(f, mean, std, *, argument=lambda mean, std, x: mean + std * x, weights=lambda x: np.exp(-0.5 * x**2),
             normalize=True, result=lambda m, v: (m, v, v + m * m)):
    x = np.linspace(-10.0, 10.0, 8_001)
    weight = weights(x)
    weight = weight / weight.sum() if normalize else weight * (x[1] - x[0])
    value = f(argument(mean, std, x))
    first = weight @ value
    return result(first, weight @ (value - first) ** 2 if normalize else weight @ value**2 - first**2)


def _first_order(f, mean, std):
    m = float(f(np.array([mean]))[0])
    v = (std * float((f(np.array([mean + 1e-4])) - f(np.array([mean - 1e-4])))[0]) / 2e-4) ** 2
    return m, v, v + m * m


_MISTAKES = {  # the mistake -> (an answer that makes it, the message)
    "mean ignored": (partial(_moments, argument=lambda mean, std, x: std * x),
                     "`mean` has no effect: the pre-activation is z = mean + std * x with x ~ N(0, 1)"),
    "std ignored": (partial(_moments, argument=lambda mean, std, x: mean + x),
                    "`std` has no effect: the pre-activation is z = mean + std * x with x ~ N(0, 1)"),
    "std taken for the variance": (partial(_moments, argument=lambda mean, std, x: mean + std**0.5 * x),
                                   "you treat `std` as a variance and take its root; it is the standard deviation"),
    "std squared": (partial(_moments, argument=lambda mean, std, x: mean + std**2 * x),
                    "z is spread by std squared: the variance of z is std^2, its standard deviation is std"),
    "shift behind the activation": (
        lambda f, mean, std: _moments(lambda x: mean + std * f(x), 0.0, 1.0),
        "you compute mean + std * f(x): gamma and beta stand before the activation, so f takes mean + std * x"),
    "first order": (_first_order,
                    "this is f(mean) and (f'(mean) std)^2: f replaced by its tangent. f is curved; integrate it"),
    "physicists' nodes": (partial(_moments, weights=lambda x: np.exp(-(x**2))),
                          "your weights are those of exp(-x^2), which has variance 1/2 (the nodes of "
                          "`hermgauss` are for it); the normal density is proportional to exp(-x^2/2)"),
    "density without its constant": (partial(_moments, normalize=False),
                                     "the density lacks its constant: it must integrate to 1, so divide by "
                                     "std * sqrt(2 pi), or divide the weights by their sum"),
    "standard deviation returned": (partial(_moments, result=lambda m, v: (m, v**0.5, v + m * m)),
                                    "the second number is the standard deviation of f(z); expected its square"),
    "second moment without the mean": (partial(_moments, result=lambda m, v: (m, v, v)),
                                       "the third number is the variance again; the second moment is about zero: "
                                       "variance + mean squared"),
    "last two exchanged": (partial(_moments, result=lambda m, v: (m, v + m * m, v)),
                           "variance and second moment are exchanged: return mean, variance, second moment"),
}
_POINTS = (("sigmoid", 0.7, 1.5), ("selu", -0.8, 2.0), ("relu", 0.4, 0.3), ("tanh", 0.0, 1.0), ("swish", -1.2, 0.6),
           ("relu", -2.0, 1.0), ("softplus", 3.0, 2.5))
_RTOL, _ATOL = 2e-3, 1e-3


def check_moments(student) -> None:
    for name, mean, std in _POINTS:
        f = partial(activations.evaluate, name)
        found = array(call(student, f, mean, std)).ravel()
        require(found.size == 3, f"your function returns {found.size} numbers; expected three: mean, variance, second "
                                 "moment of f(z)")
        m = activations.moments(name, mean, std)
        expected = np.array([m.mean, m.variance, m.second])
        mistakes = {said: answer(f, mean, std) for answer, said in _MISTAKES.values()}
        where = f"f = {name}, mean = {mean}, std = {std}"
        if _nearly(found, expected, mistakes):
            raise Wrong(f"nearly: {where} gives {found.round(4).tolist()}, expected {expected.round(4).tolist()}. "
                        "Three digits need a fine grid that reaches some 6 std to both sides of `mean`. A sample of n "
                        "has an error of 1/sqrt(n), and Gauss-Hermite nodes converge slowly where f has a kink")
        if not any(same(found, value, rtol=_RTOL, atol=_ATOL) for value in (expected, *mistakes.values())):
            _require_normal(student, mean, std)
        close(found, expected, where, what="(mean, variance, second moment)", mistakes=mistakes, rtol=_RTOL, atol=_ATOL)


def _require_normal(student, mean, std) -> None:
    """Wrong if the grid is not weighted by N(mean, std^2): f(z) = z shows it, whatever else is wrong."""
    found = array(call(student, lambda z: 1.0 * z, mean, std)).ravel()
    second = mean**2 + std**2
    if not (same(found[1], std**2, rtol=0.05) or same(found[2], second, rtol=0.05)):
        raise Wrong(f"for f(z) = z with mean = {mean}, std = {std} you get the second moment {found[2]:.4g}; that of z "
                    f"is mean^2 + std^2 = {second:.4g}. Does every point of the grid carry the weight of the normal "
                    "density, and does the grid reach far enough to both sides of `mean`?")


def _nearly(found, expected, mistakes) -> bool:
    """Within 3 %, not right, and not what a known mistake gives."""
    if any(same(found, value, rtol=_RTOL, atol=_ATOL) for value in (expected, *mistakes.values())):
        return False
    return same(found, expected, rtol=0.03, atol=0.03)


def _even_weights(f, mean, std):
    value = f(np.linspace(mean - 5 * std, mean + 5 * std, 10_001))
    return value.mean(), value.var(), (value**2).mean()


MOMENTS = Spec(
    id="5.1", title="moments of an activation",
    task="Write a function that takes an activation `f` (a NumPy function of an array), the mean and the standard "
         "deviation of a normal pre-activation z, and returns mean, variance and second moment of `f(z)`, to three "
         "digits. These are integrals over the normal density; do them on a grid.",
    stub=moments, reference=moments_solution, check=check_moments,
    hints=("Write z = mean + std * x with x standard normal, so that one grid of x serves every mean and std.",
           "Take x from -10 to 10 in fine steps, weights proportional to exp(-x^2/2) that add up to 1. A mean is then "
           "`weight @ value`.",
           "The variance is the weighted mean of (value - first)^2, and the second moment is variance + first^2."),
    mutants={name: Mutant(answer, said) for name, (answer, said) in _MISTAKES.items()}
    | {"a grid without weights": Mutant(_even_weights, "carry the weight of the normal density")},
    why="Subtracting the mean before squaring keeps the digits that E f² - (E f)² would lose. A grid is as good as any "
        "rule here, because the weights die out at both ends. Kinks cost it little.")


def eigenvalues(mean, variance, width):
    """Of E[hh^T] for `width` uncorrelated channels of equal mean and variance. Returns [width], largest first."""
    raise NotImplementedError


def eigenvalues_solution(mean, variance, width):
    values = np.full(width, float(variance))
    values[0] += width * mean**2
    return values


def _spike(top, others, mean, variance, width):
    return np.array([top(mean, variance, width)] + [others(mean, variance)] * (width - 1))


def _with(top=lambda m, v, n: n * m * m + v, others=lambda m, v: v):
    return partial(_spike, top, others)


_SPIKES = {
    "without the variance": (_with(lambda m, v, n: n * m * m),
                             "the largest eigenvalue is N m^2: the variance acts along the vector of ones too"),
    "mean not squared": (_with(lambda m, v, n: n * abs(m) + v),
                         "the mean is not squared: the matrix has entries m^2, so the vector of ones gets N m^2"),
    "N times the second moment": (_with(lambda m, v, n: n * (m * m + v)),
                                  "N (m^2 + v) is the trace; only the part m^2 11^T adds up along one direction, "
                                  "while v I gives v in every direction"),
    "N squared": (_with(lambda m, v, n: (n * m) ** 2 + v),
                  "the largest is (N m)^2 + v: the width is squared. Multiply a row of m^2 11^T with the ones"),
    "N - 1": (_with(lambda m, v, n: (n - 1) * m * m + v),
              "you count N - 1 channels. A row of m^2 11^T has N entries m^2, the one on the diagonal too"),
    "covariance": (_with(lambda m, v, n: v),
                   "these are the eigenvalues of the covariance; E[hh^T] is about zero and keeps the mean"),
    "rank one": (_with(lambda m, v, n: n * m * m + v, lambda m, v: 0.0),
                 "all but the largest are 0 here, as if the channels did not vary by themselves"),
    "the others keep the mean": (_with(others=lambda m, v: m * m + v),
                                 "the others are m^2 + v, which is a diagonal entry and not an eigenvalue. Take a "
                                 "vector whose entries sum to 0"),
    "the diagonal": (_with(lambda m, v, n: m * m + v, lambda m, v: m * m + v),
                     "all are m^2 + v, the diagonal of the matrix, as if it were diagonal. Beside the diagonal stands "
                     "m^2: E h_i h_j is not 0 although the covariance is"),
    "variance squared": (_with(lambda m, v, n: n * m * m + v * v, lambda m, v: v * v),
                         "the variance is squared, as if it were a standard deviation"),
    "smallest first": (lambda mean, variance, width: eigenvalues_solution(mean, variance, width)[::-1],
                       "the values are right, in the wrong order: the largest comes first"),
    "only the two": (lambda mean, variance, width: [width * mean**2 + variance, variance],
                     "you return the two different values; expected all N, the smaller one N - 1 times"),
}


def check_eigenvalues(student) -> None:
    for mean, variance, width in ((0.5, 1.0, 100), (-0.3, 0.25, 7), (2.0, 0.5, 3), (0.0, 2.0, 5), (1.5, 0.0, 4),
                                  (0.399, 0.341, 64), (-3.0, 1e-3, 2), (1.0, 3.0, 1)):
        mistakes = {said: answer(mean, variance, width) for answer, said in _SPIKES.values()}
        close(call(student, mean, variance, width), eigenvalues_solution(mean, variance, width),
              f"mean = {mean}, variance = {variance}, width = {width}", what="the list of eigenvalues",
              mistakes=mistakes)


SPECTRUM = Spec(
    id="5.2", title="the mean spike",
    task="`width` uncorrelated channels have equal mean and equal variance. Return all eigenvalues of "
         "$\\mathbb E[hh^\\top]$, the largest first, from a formula: no matrix is needed.",
    stub=eigenvalues, reference=eigenvalues_solution, check=check_eigenvalues,
    hints=("Write the matrix down for three channels. What stands on the diagonal, what beside it?",
           "It is a matrix of equal entries plus a multiple of the identity. Multiply it with the vector of ones.",
           "Then multiply it with a vector whose entries sum to 0. How many independent ones are there?"),
    mutants={name: Mutant(answer, said) for name, (answer, said) in _SPIKES.items()},
    why="The mean of every channel adds up along one direction, the variances do not. So the spike grows with the "
        "width and the rest of the spectrum stays.")
