"""Exercise 8.4: how many times as fast a change makes a loop, from rounds that were timed in turn."""

from statistics import fmean, median, median_low

from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import call, close, same


def speed_up(before, after):
    """(median, least, most) over the rounds: how many times as fast `after` is as `before`.

    before, after: seconds for the same work, a number per round; before[i] and after[i] were timed in the same round.
    """
    raise NotImplementedError


def _speed_up(before, after):
    ratios = [slow / fast for slow, fast in zip(before, after, strict=True)]
    return median(ratios), min(ratios), max(ratios)


def _summary(numbers):
    return median(numbers), min(numbers), max(numbers)


def _changed(change):
    """A mistake that is made with the right ratios."""
    return lambda before, after: change([b / a for b, a in zip(before, after, strict=True)])


def _with_range(middle):
    """A mistake in the first number, with the right range."""
    return lambda before, after: (middle(before, after), *_speed_up(before, after)[1:])


_GAINS = {
    "ratio of medians": ("this is the ratio of two medians, which may come from different rounds; take the ratio in "
                         "each round first", _with_range(lambda b, a: median(b) / median(a))),
    "ratio of means": ("this is the ratio of two means, or of two sums: one disturbed round moves it",
                       _with_range(lambda b, a: fmean(b) / fmean(a))),
    "ratio of the fastest": ("this compares the fastest round of each, whatever round that was",
                             _with_range(lambda b, a: min(b) / min(a))),
    "mean of ratios": ("the mean of the ratios is taken; the median is not moved by one disturbed round",
                       _changed(lambda r: (fmean(r), min(r), max(r)))),
    "middle of the sorted": ("with an even number of rounds the median lies in the middle between two of them",
                             _changed(lambda r: (sorted(r)[len(r) // 2], min(r), max(r)))),
    "torch's median": ("with an even number of rounds `torch.median` gives the lower of the two in the middle; the "
                       "median lies half-way between them", _changed(lambda r: (median_low(r), min(r), max(r)))),
    "rounds sorted": ("the seconds are sorted before they are divided, so that two of different rounds are compared",
                      lambda b, a: _speed_up(sorted(b), sorted(a))),
    "upside down": ("this is upside down: fewer seconds are faster", lambda before, after: _speed_up(after, before)),
    "range of all rounds": ("the range compares the slowest round of one with the fastest of the other; it is that of "
                            "the ratios within a round",
                            lambda b, a: (_speed_up(b, a)[0], min(b) / max(a), max(b) / min(a))),
    "what is gained": ("this is the part that is gained, 0 for no change; `times as fast` is 1 more",
                       _changed(lambda r: _summary([ratio - 1 for ratio in r]))),
    "another order": ("the order is (median, least, most)", _changed(lambda r: (min(r), median(r), max(r)))),
    "most before least": ("the last two are exchanged: (median, least, most)",
                          _changed(lambda r: (median(r), max(r), min(r)))),
}


def _check(student):
    for before, after in (([4.2, 3.0, 9.0, 2.5, 2.2], [2.1, 1.2, 3.0, 1.9, 0.8]),
                          ([4.0, 5.0, 4.5, 8.0], [2.0, 4.0, 2.5, 5.5]), ([3.0, 3.1, 2.9], [3.1, 3.0, 2.8])):
        found = call(student, list(before), list(after))
        size = len(found) if hasattr(found, "__len__") else 1
        require(size == 3, f"expected three numbers, (median, least, most); got {size}")
        right, where = _speed_up(before, after), f"before = {before}, after = {after}"
        mistakes = {said: wrong(before, after) for said, wrong in _GAINS.values()}
        if not any(same(found, wrong) for wrong in mistakes.values()):  # the median alone then tells more
            close(list(found)[0], right[0], where, what="the median",
                  mistakes={said: wrong[0] for said, wrong in mistakes.items()})
        close(found, right, where, mistakes=mistakes)


GAIN = Spec(
    id="8.4", title="what a change gives",
    task="Two loops did the same work in turn, round after round. Write how many times as fast the second one is: the "
         "median over the rounds, with the least and the largest value.",
    stub=speed_up, reference=_speed_up, check=_check,
    hints=("What slows the machine down for a while slows down both loops of a round. What do you divide first?",
           "Make a list of ratios, one a round, seconds before over seconds after. `statistics.median` does the rest."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _GAINS.items()},
    why="If the range contains 1, this measurement does not tell the change from none. That is no proof that it gives "
        "nothing: more rounds may tell. `cbn_lab.bench.measure.ratio` and `cbn_lab.speeds.Speeds.gains` do the same.")
