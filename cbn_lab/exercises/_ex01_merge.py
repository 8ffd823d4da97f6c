"""Exercise 1.5: how the moments of two parts of a batch are joined."""

from functools import partial

import torch
from torch import Tensor

from cbn_lab.exercises._ex01_forward import case
from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import call, close


def merge(a, b):
    """a and b are (n, mean, M2) of two sets of values; mean and M2 are tensors [C]. Returns that of the union."""
    raise NotImplementedError


def merge_solution(a, b):
    (n_a, mean_a, m2_a), (n_b, mean_b, m2_b) = a, b
    n, delta = n_a + n_b, mean_b - mean_a
    return n, mean_a + delta * (n_b / n), m2_a + m2_b + delta**2 * (n_a * n_b / n)


def _merge(a, b, *, mean=lambda a, b, na, nb: (na * a + nb * b) / (na + nb),
           between=lambda d, na, nb: d**2 * na * nb / (na + nb), count=lambda na, nb: na + nb, finish=lambda m2, n: m2):
    (n_a, mean_a, m2_a), (n_b, mean_b, m2_b) = a, b
    n = count(n_a, n_b)
    return n, mean(mean_a, mean_b, n_a, n_b), finish(m2_a + m2_b + between(mean_b - mean_a, n_a, n_b), n)


def _merged_one_pass(a, b):
    (n_a, mean_a, m2_a), (n_b, mean_b, m2_b) = a, b
    n = n_a + n_b
    mean = (n_a * mean_a + n_b * mean_b) / n
    return n, mean, m2_a + n_a * mean_a**2 + m2_b + n_b * mean_b**2 - n * mean**2


_MERGE = {
    "plain mean of the means": (partial(_merge, mean=lambda a, b, na, nb: (a + b) / 2),
                                "the mean of the two means is right only for parts of equal size: weigh them with n"),
    "weights exchanged": (partial(_merge, mean=lambda a, b, na, nb: (nb * a + na * b) / (na + nb)),
                          "each mean is weighed with the size of the other part"),
    "M2 added": (partial(_merge, between=lambda d, na, nb: 0 * d),
                 "the M2 are added up, but how far apart the two means are is missing: a third term, with delta^2"),
    "delta not squared": (partial(_merge, between=lambda d, na, nb: d.abs() * na * nb / (na + nb)),
                          "the third term is with delta squared"),
    "delta^2 n_a n_b": (partial(_merge, between=lambda d, na, nb: d**2 * na * nb),
                        "the third term is too large by n: delta^2 n_a n_b / n"),
    "delta^2 / 4": (partial(_merge, between=lambda d, na, nb: d**2 * (na + nb) / 4),
                    "your third term is the one for parts of equal size: in general it is delta^2 n_a n_b / n"),
    "minus": (partial(_merge, between=lambda d, na, nb: -(d**2) * na * nb / (na + nb)),
              "the third term is subtracted; means that are apart make the spread larger"),
    "variance": (partial(_merge, finish=lambda m2, n: m2 / n),
                 "you return the variance; M2 is the sum of squares, not divided by n, so that it can be merged again"),
    "count": (partial(_merge, count=lambda na, nb: max(na, nb)), "n of the union is n_a + n_b"),
    "through E[x^2]": (_merged_one_pass,
                       "right in exact arithmetic, but for a mean of 1e8 all digits of M2 are lost: you subtract "
                       "squares of means. Use the difference of the means, delta"),
}
_ALSO = {  # the message -> an answer that makes the mistake; tried in tests/test_ex01.py
    "the mean goes the wrong way: it is mean_a + delta n_b / n with delta = mean_b - mean_a":
        partial(_merge, mean=lambda a, b, na, nb: a + (a - b) * nb / (na + nb)),
    "delta n_b / n is the way from mean_a, not from mean_b, to the joint mean":
        partial(_merge, mean=lambda a, b, na, nb: b + (b - a) * nb / (na + nb)),
    "your third term has the distance of one part alone from the joint mean: both parts are away from it":
        partial(_merge, between=lambda d, na, nb: na * (d * nb / (na + nb)) ** 2),
    "the third term is too small by n: delta^2 n_a n_b / n":
        partial(_merge, between=lambda d, na, nb: d**2 * na * nb / (na + nb) ** 2),
    "you return the variance over n - 1; M2 is the sum of squares, so that it can be merged again":
        partial(_merge, finish=lambda m2, n: m2 / (n - 1)),
}
_MERGE_CASES = ((5, 3, 0.0), (1, 6, 2.0), (8, 8, -1.0), (4, 0, 1.0), (0, 3, 1.0), (40, 7, 1e8))


def check_merge(student) -> None:
    for seed, (n_a, n_b, offset) in enumerate(_MERGE_CASES):
        x = case((n_a + n_b, 2), seed=seed)[0] * 4
        parts = _moments(x[:n_a], offset), _moments(x[n_a:], offset)
        merged = call(student, *parts)
        require(isinstance(merged, (tuple, list)) and len(merged) == 3,
                "your function returns one thing, or not three; expected (n, mean, M2)")
        wanted = _moments(x, offset)
        wrong = {message: answer(*parts) for answer, message in _MERGE.values()}
        wrong |= {message: answer(*parts) for message, answer in _ALSO.items()}
        for part, name in enumerate(("n", "mean", "M2")):
            mistakes = {message: values[part] for message, values in wrong.items()}
            close(merged[part], wanted[part], f"parts of {n_a} and {n_b} values, means near {offset:g}", what=name,
                  mistakes=mistakes, rtol=1e-6 if offset < 1e6 else 1e-4)


def _moments(x: Tensor, offset: float):
    """(n, mean, M2) of x + offset; no values have mean 0 and M2 0."""
    if len(x) == 0:
        return 0, torch.zeros(x.shape[1], dtype=x.dtype), torch.zeros(x.shape[1], dtype=x.dtype)
    return len(x), x.mean(0) + offset, (x - x.mean(0)).square().sum(0)


MERGE = Spec(
    id="1.5", title="joining the moments of two parts",
    task="From `(n, mean, M2)` of two sets of values make that of their union, without the values. One of the sets may "
         "be empty (then its mean and M2 are 0). Sets with a mean of 1e8 will come, too.",
    stub=merge, reference=merge_solution, check=check_merge,
    hints=("n adds up, and the mean is the mean of the means, weighed with n.",
           "Around the joint mean, part a has the sum of squares M2_a + n_a (mean_a - mean)^2. And mean_a - mean is "
           "-delta n_b / n, where delta = mean_b - mean_a.",
           "M2 = M2_a + M2_b + delta^2 n_a n_b / n."),
    mutants={name: Mutant(answer, message) for name, (answer, message) in _MERGE.items()},
    why="Chan, Golub and LeVeque (1983). This is how the statistics of several GPUs are joined (`cbn_lab.norms.sync`): "
        "an average of the variances would leave out the third term. With n_b = 1 it is Welford's update.")
