"""Exercise 4.4: read a comparison at matched loss off two runs."""

import math
from statistics import fmean

from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
from cbn_lab.exercises.tools import call, same


def matched_ratios(ours, theirs, levels):
    """{level: our value / their value} at the first points with a loss below the level, where both runs get there.

    ours and theirs are lists of (loss, value) in the order of training; levels is a list of losses.
    """
    raise NotImplementedError


def _matched_ratios(ours, theirs, levels):
    def first_below(run, level):
        return next((value for loss, value in run if loss < level), None)

    table = {}
    for level in levels:
        a, b = first_below(ours, level), first_below(theirs, level)
        if a is not None and b is not None:
            table[level] = a / b
    return table


def _reaches(run, level):
    return any(loss < level for loss, _ in run)


def _first_below(run, level):
    return next((value for loss, value in run if loss < level), None)


def _by(choose):
    """The reference with another choice of the point: choose(run, level) -> value or None."""
    def answer(ours, theirs, levels):
        pairs = {level: (choose(ours, level), choose(theirs, level)) for level in levels}
        return {level: a / b for level, (a, b) in pairs.items() if a is not None and b is not None}

    return answer


def _same_step(ours, theirs, levels):
    table = {}
    for level in levels:
        step = next((i for i, (loss, _) in enumerate(ours) if loss < level), None)
        if step is not None and _first_below(theirs, level) is not None and step < len(theirs):
            table[level] = ours[step][1] / theirs[step][1]
    return table


def _their_step(ours, theirs, levels):
    steps = {level: next((i for i, (loss, _) in enumerate(theirs) if loss < level), None) for level in levels}
    return {level: ours[i][1] / theirs[i][1] for level, i in steps.items() if i is not None and i < len(ours)}


def _joint_step(ours, theirs, levels):
    """The first step at which both are below."""
    table = {}
    for level in levels:
        pairs = ((a, b) for (x, a), (y, b) in zip(ours, theirs, strict=False) if x < level and y < level)
        found = next(pairs, None)
        if found is not None:
            table[level] = found[0] / found[1]
    return table


def _before(run, level):
    """The last point that is not yet below."""
    place = next((i for i, (loss, _) in enumerate(run) if loss < level), None)
    return None if place is None else run[max(place - 1, 0)][1]


def _missing_as(filler):
    def answer(ours, theirs, levels):
        right = _matched_ratios(ours, theirs, levels)
        return {level: right.get(level, filler) for level in levels}

    return answer


def _with_last(run, level):
    found = _first_below(run, level)
    return run[-1][1] if found is None else found


# name -> (what is said, the wrong answer)
_MISTAKES = {
    "same step": ("theirs is read off at the step at which ours gets there: that is matched step. Each run has its own "
                  "first point below the level", _same_step),
    "upside down": ("this is their value over ours; asked is ours over theirs",
                    lambda a, b, c: _matched_ratios(b, a, c)),
    "difference": ("this is a difference; asked is the ratio",
                   lambda a, b, c: {k: _first_below(a, k) - _first_below(b, k) for k in _matched_ratios(a, b, c)}),
    "last point below": ("this takes the last point below the level, the end of training; asked is the first",
                         _by(lambda run, k: next((v for loss, v in reversed(run) if loss < k), None))),
    "closest": ("this takes the point whose loss is closest to the level; asked is the first one below it",
                _by(lambda run, k: min(run, key=lambda point: abs(point[0] - k))[1])),
    "point before": ("this takes the last point before the run gets below the level; asked is the first one below",
                     _by(_before)),
    "at or below": ("a loss equal to the level is not below it: use <",
                    _by(lambda run, k: next((v for loss, v in run if loss <= k), None))),
    "end for a missing point": ("a run that never gets below a level has no point there; this puts its last point in "
                                "its place. Leave the level out", _by(_with_last)),
    "nan for a missing point": ("leave a level out where one of the runs does not get below it, instead of nan",
                                _missing_as(float("nan"))),
    "zero for a missing point": ("a ratio of 0 says that ours is nothing; leave a level out where one of the runs does "
                                 "not get below it", _missing_as(0.0)),
}
_FURTHER = {  # named by the check as well, but not among the listed mutants
    "their step": ("ours is read off at the step at which theirs gets there: that is matched step. Each run has its "
                   "own first point below the level", _their_step),
    "joint step": ("this waits for a step at which both runs are below: that is one step for both. Each run has its "
                   "own first point below the level", _joint_step),
    "losses": ("this is the ratio of the losses; asked is that of the values, the second of each pair",
               _by(lambda run, k: next((loss for loss, _ in run if loss < k), None))),
    "logarithm": ("this is the logarithm of the ratio; asked is the ratio",
                  lambda a, b, c: {k: math.log(r) for k, r in _matched_ratios(a, b, c).items()}),
    "smallest value": ("this takes the smallest value below the level; asked is the value at the first point below",
                       _by(lambda run, k: min((v for loss, v in run if loss < k), default=None))),
    "mean below": ("this is a mean over all points below the level; asked is the first of them",
                   _by(lambda run, k: fmean(v for loss, v in run if loss < k) if _reaches(run, k) else None)),
    "smallest loss": ("the losses need not fall steadily: this takes the point of smallest loss, asked is the first "
                      "below the level",
                      _by(lambda run, k: min((p for p in run if p[0] < k), default=(0, None))[1])),
}

_CASES = (
    ([(2.3, 8.0), (1.4, 5.0), (0.9, 3.0), (0.4, 2.0)], [(2.3, 9.0), (1.9, 12.0), (1.3, 7.0), (0.8, 6.0)],
     [1.5, 1.0, 0.5]),
    ([(2.0, 4.0), (1.0, 3.0), (1.6, 7.0), (0.7, 5.0), (1.2, 11.0)],
     [(2.2, 2.0), (1.1, 1.0), (1.4, 9.0), (0.3, 13.0), (0.6, 6.0)], [1.5, 1.0, 0.9]),
    ([(1.5, 10.0), (1.45, 3.0), (0.5, 2.0)], [(2.0, 4.0), (1.5, 8.0), (1.2, 6.0), (0.49, 7.0)], [1.5, 0.5]),
    ([(2.3, 1.0), (2.1, 2.0)], [(2.3, 3.0), (0.1, 4.0)], [1.0, 0.5]),
    ([(0.4, 2.0), (0.2, 3.0)], [(0.3, 5.0), (0.1, 7.0)], [1.0, 0.35, 0.15]),
)
_ZERO = ([(1.4, 2.0), (0.8, 0.0)], [(1.3, 5.0), (0.9, 7.0)], [0.95, 1.35, 1.5, 0.85])  # the levels in no order


def _zero_left_out(ours, theirs, levels):
    return {level: ratio for level, ratio in _matched_ratios(ours, theirs, levels).items() if ratio != 0}


def _check_matched(student):
    answers = [call(student, *case) for case in _CASES]
    for found in answers:
        require(isinstance(found, dict), f"your function returns a {type(found).__name__}; expected a dictionary "
                                         "{level: ratio}")
    if _all_equal(answers, _matched_ratios):
        found = call(student, *_ZERO)
        require(not _equal(found, _zero_left_out(*_ZERO)), "a value of 0 is a value; test for a missing point with "
                                                           "`is None`, not with `if value`")
        _require_equal(found, _matched_ratios(*_ZERO), f"ours = {_ZERO[0]}, theirs = {_ZERO[1]}")
        return
    for said, wrong in (_MISTAKES | _FURTHER).values():
        if _all_equal(answers, wrong):
            raise Wrong(said)
    for found, case in zip(answers, _CASES, strict=True):
        _require_equal(found, _matched_ratios(*case), f"ours = {case[0]}, theirs = {case[1]}")


def _all_equal(answers, function) -> bool:
    return all(_equal(found, function(*case)) for found, case in zip(answers, _CASES, strict=True))


def _equal(found, wanted) -> bool:
    return found.keys() == wanted.keys() and all(same(found[level], wanted[level]) for level in wanted)


def _require_equal(found, wanted, runs) -> None:
    for level in found:
        require(level in wanted, f"there is no ratio at {level!r}: one of the runs never gets below it, or it is no "
                                 f"level. {runs}")
    for level in wanted:
        require(level in found, f"the level {level} is missing, though both runs get below it. {runs}")
    for level, right in wanted.items():
        got = found[level]
        require(same(got, right), f"at the level {level} expected {right:.6g}, got {got}. {runs}")


MATCHED = Spec(
    id="4.4", title="two runs at matched loss",
    task="Two runs are lists of `(loss, value)` in the order of training. For each level find, *in each run by "
         "itself*, the first point whose loss is below the level, and return `{level: our value / their value}`. Leave "
         "a level out if one of the runs never gets below it.",
    stub=matched_ratios, reference=_matched_ratios, check=_check_matched,
    hints=("Write a helper for one run and one level first: the value at the first point with `loss < level`, or "
           "`None`.",
           "`next((value for loss, value in run if loss < level), None)` is that helper. Call it for both runs, at "
           "every level."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _MISTAKES.items()}
    | {"zero taken for missing": Mutant(_zero_left_out, says="`is None`"),
       "a list": Mutant(lambda a, b, c: list(_matched_ratios(a, b, c).values()), says="expected a dictionary")},
    why="A faster run has a smaller loss at the same step, and with the loss the gradients shrink. At matched step "
        "part of every difference is just that. At matched loss it is taken out; what is then missing are the levels "
        "that one of the runs never reaches, and they must not be filled in.")
