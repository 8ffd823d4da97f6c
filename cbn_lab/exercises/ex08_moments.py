"""Exercise 8.6: mean and variance of a batch that is spread over several processes, from sums over them alone."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
from cbn_lab.exercises.tools import close


def spread_moments(x, all_sum):
    """(mean, biased variance), [C] each, of the values of *all* ranks.

    x [n, C]: the values of this rank; n differs between ranks and may be 0. all_sum(tensor): the sum of what all
    ranks pass in the same call.
    """
    raise NotImplementedError


def _spread_moments(x, all_sum):
    n = all_sum(torch.tensor(float(len(x))))
    mean = all_sum(x.sum(0)) / n
    return mean, all_sum((x - mean).square().sum(0)) / n


class _Pause(BaseException):
    """A rank has come to a sum that is not known yet. Not an Exception, which a student's code may catch."""


def on_ranks(function: Callable, shares: Sequence[Tensor], most_sums: int = 8) -> list:
    """function(x, all_sum) on each share, as so many processes would compute it; its results, rank by rank.

    No processes are needed: every rank runs up to its first sum, which can then be added up; then all run again, up to
    the next. Wrong where real processes would wait for each other without end.
    """
    sums: list[Tensor] = []
    while len(sums) <= most_sums:
        asked, results = {}, {}
        for rank, x in enumerate(shares):
            known = iter(sums)

            def all_sum(value, known=known):
                for total in known:
                    return total.clone()
                raise _Pause(torch.as_tensor(value).detach())

            try:
                results[rank] = function(x.clone(), all_sum)
            except _Pause as pause:
                asked[rank] = pause.args[0]
        if not asked:
            return [results[rank] for rank in range(len(shares))]
        require(not results, f"rank {next(iter(results), 0)} asks for {len(sums)} sums and is done, rank "
                             f"{next(iter(asked))} asks for one more and waits without end; all ranks must make the "
                             "same calls, also one without values")
        sums.append(_total(asked))
    raise Wrong(f"your function asks for more than {most_sums} sums; three are enough, and each costs a message")


def _total(asked: dict[int, Tensor]) -> Tensor:
    shapes = {tuple(value.shape) for value in asked.values()}
    require(len(shapes) == 1, f"the ranks pass tensors of different shapes to the same sum: "
                              f"{', '.join(str(list(shape)) for shape in sorted(shapes))}")
    return sum(asked.values())


def _of_n(x, all_sum):
    return all_sum(torch.tensor(float(len(x))))


def _mean(x, all_sum):
    return all_sum(x.sum(0)) / _of_n(x, all_sum)


def _own(x):
    """Mean and M2 of a rank's own values; 0 where it has none."""
    mean = x.sum(0) / max(len(x), 1)
    return mean, (x - mean).square().sum(0)


def _alone(x, all_sum):
    mean, m2 = _own(x)
    return mean, m2 / max(len(x), 1)


def _mean_of_variances(x, all_sum):
    holding = all_sum(torch.tensor(float(len(x) > 0)))
    return _mean(x, all_sum), all_sum(_own(x)[1] / max(len(x), 1)) / holding


def _m2_around_own_mean(x, all_sum):
    return _mean(x, all_sum), all_sum(_own(x)[1]) / _of_n(x, all_sum)


def _mean_of_means(x, all_sum):
    mean = all_sum(_own(x)[0]) / all_sum(torch.tensor(float(len(x) > 0)))
    return mean, all_sum((x - mean).square().sum(0)) / _of_n(x, all_sum)


def _unbiased(x, all_sum):
    mean, n = _mean(x, all_sum), _of_n(x, all_sum)
    return mean, all_sum((x - mean).square().sum(0)) / (n - 1)


def _one_pass(x, all_sum):
    mean = _mean(x, all_sum)
    return mean, all_sum(x.square().sum(0)) / _of_n(x, all_sum) - mean.square()


def _own_mean_weighted(x, all_sum):
    n = _of_n(x, all_sum)
    mean = all_sum(len(x) * x.mean(0)) / n
    return mean, all_sum((x - mean).square().sum(0)) / n


def _own_squares(x, all_sum):
    mean = _mean(x, all_sum)
    return mean, (x - mean).square().sum(0) / _of_n(x, all_sum)


def _left_early(x, all_sum):
    return _spread_moments(x, all_sum) if len(x) else (torch.zeros(x.shape[1]), torch.zeros(x.shape[1]))


_MOMENTS = {
    "alone": ("these are the moments of this rank alone; nothing is shared", _alone),
    "mean of variances": ("the variance is the mean of the ranks' variances, which leaves out how far their means are "
                          "apart, and counts small shares as much as large ones", _mean_of_variances),
    "own mean": ("the squares are taken around each rank's own mean; how far these means are apart is missing: take "
                 "them around the joint mean", _m2_around_own_mean),
    "mean of means": ("the mean is the mean of the ranks' means; a rank with more values has to count more",
                      _mean_of_means),
    "unbiased": ("the variance divides by n - 1; BN normalizes with that over n", _unbiased),
    "own squares": ("the squares of this rank alone are divided by the number of all values: sum them as well",
                    _own_squares),
    "M2": ("the second result is the sum of squares; the variance is that over n",
           lambda x, all_sum: (_mean(x, all_sum), _unbiased(x, all_sum)[1] * (_of_n(x, all_sum) - 1))),
    "deviation": ("the second result is the standard deviation; asked is its square",
                  lambda x, all_sum: (_spread_moments(x, all_sum)[0], _spread_moments(x, all_sum)[1].sqrt())),
}
_ONE_PASS = ("the variance of values near 10,000 is lost: a mean of squares minus the square of the mean cancels in "
             "float32. Subtract the joint mean first")
_EMPTY = "the result is NaN where a rank holds no values: the mean of nothing is NaN, and 0 times NaN is NaN"


def _check_moments(student):
    for counts, offset in (((5, 3), 0.0), ((2, 9, 4), 3.0), ((6, 0, 2), -1.0), ((40, 24), 1e4)):
        generator = torch.Generator().manual_seed(sum(counts))
        shares = [torch.randn(n, 2, generator=generator) * 2 + offset + rank for rank, n in enumerate(counts)]
        values = torch.cat(shares).double()
        expected = values.mean(0), values.var(0, correction=0)
        wrong = {said: on_ranks(function, shares) for said, function in _MOMENTS.values()} if offset < 1e3 else {}
        for rank, found in enumerate(on_ranks(student, shares)):
            require(isinstance(found, (tuple, list)) and len(found) == 2,
                    "your function returns one thing, or not two; expected (mean, variance)")
            where = f"shares of {', '.join(map(str, counts))} values with means near {offset:g}, rank {rank}"
            for part, what in enumerate(("the mean", "the variance")):
                mistakes = {said: results[rank][part] for said, results in wrong.items()}
                _require_digits(found[part], expected[part], counts, offset)
                close(found[part], expected[part], where, what=what, mistakes=mistakes, rtol=1e-3)


def _require_digits(found, expected, counts, offset: float) -> None:
    """What only a large mean, and what only an empty share shows, by name."""
    found = torch.as_tensor(found).detach().double()
    require(0 not in counts or not found.isnan().any(), _EMPTY)
    if offset >= 1e3 and found.shape == expected.shape and expected.max() < 1e3:
        require(torch.allclose(found, expected, rtol=1e-3), _ONE_PASS)


MOMENTS = Spec(
    id="8.6", title="one mean and one variance for all ranks",
    task="Each process (rank) has some values of the batch. Write the mean and the biased variance of all values "
         "together. All that a rank learns of the others is `all_sum`, the sum over the ranks. Shares differ in size, "
         "one may be empty, and values near 10,000 in float32 will come.",
    stub=spread_moments, reference=_spread_moments, check=_check_moments,
    hints=("Three sums are enough: how many values there are, their sum, and then one more.",
           "When the joint mean is known, each rank can take the squares of its own values around it.",
           "Do not use `x.mean(0)`, which is NaN for an empty share; `x.sum(0)` is 0."),
    mutants={name: Mutant(function, says=said) for name, (said, function) in _MOMENTS.items()} | {
        "one pass": Mutant(_one_pass, says=_ONE_PASS), "NaN of an empty share": Mutant(_own_mean_weighted, says=_EMPTY),
        "leaves early": Mutant(_left_early, says="all ranks must make the same calls")},
    why="Counts and sums can travel together, so two messages do: `cbn_lab.norms.sync` does that, with gradients. With "
        "the formula of exercise 1.5 one is enough: all ranks share count, mean and $M_2$, and each joins them.")
