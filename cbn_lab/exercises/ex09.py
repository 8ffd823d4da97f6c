"""Notebook 09: when a difference counts as decided, steps to a given loss, and the verdict on a sentence."""

from statistics import fmean, median, pstdev, stdev

from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import call, number


def decided(differences):
    """Whether paired differences, one per seed, are convincing; True or False. See the rule above."""
    raise NotImplementedError


def _decided(differences):
    n = len(differences)
    if n < 3:
        return False
    one_sign = all(d > 0 for d in differences) or all(d < 0 for d in differences)
    return one_sign and abs(fmean(differences)) > 2 * stdev(differences) / n**0.5


def _one_sign(d):
    return all(x > 0 for x in d) or all(x < 0 for x in d)


def _rule(error, *, signs=_one_sign, enough=lambda n: n >= 3, distance=lambda d: abs(fmean(d))):
    """A mistake in one of the parts: the standard error, the signs, the number of seeds, the distance from zero."""
    return lambda differences: bool(enough(len(differences)) and signs(differences)
                                    and distance(differences) > 2 * error(differences))


def _error(d):
    return stdev(d) / len(d) ** 0.5


_RULES = {
    "two seeds": ("two seeds are called enough; the rule asks for at least three",
                  _rule(_error, enough=lambda n: n >= 2)),
    "exactly three": ("more than three seeds are refused; the rule asks for *at least* three",
                      _rule(_error, enough=lambda n: n == 3)),
    "only gains": ("a loss can be decided as well: all signs negative, and the mean far enough below zero",
                   _rule(_error, signs=lambda d: all(x > 0 for x in d))),
    "signs ignored": ("the differences must all have one sign; here a seed that points the other way is let through",
                      _rule(_error, signs=lambda d: True)),
    "signs alone": ("one sign in all seeds is not enough: the mean must be more than *two* standard errors from zero. "
                    "(One is no condition at all: numbers of one sign are never nearer than that.)",
                    _rule(lambda d: 0.0)),
    "population deviation": ("the standard deviation divides by n; these seeds are a sample, so divide by n - 1",
                             _rule(lambda d: pstdev(d) / len(d) ** 0.5)),
    "standard deviation": ("the mean is compared with two standard *deviations*; the standard error is that over the "
                           "root of n", _rule(stdev)),
    "over n": ("the standard deviation is divided by n; the standard error divides it by the root of n",
               _rule(lambda d: stdev(d) / len(d))),
    "absolute": ("the differences lose their signs before they are averaged",
                 lambda d: _decided([abs(x) for x in d])),
    "median": ("this looks at the median; the rule is about the mean",
               _rule(_error, distance=lambda d: abs(median(d)))),
}
_DIFFERENCES = (
    [1.0, 1.2, 0.9], [1.0, 1.2], [-1.0, -1.2, -0.9], [0.1, 3.0, 6.0], [0.1, 2.0, 8.0], [0.1, 0.1, 9.0],
    [5.0, 5.2, 4.9, 5.1, 5.0, -0.1], [1.0, 3.0, 1.7], [3.0, -3.0, 3.1], [1.0, 1.1, 0.9, 1.2, 1.0], [1.9, 2.0, 5.2])


def _check_decided(student):
    found = []
    for differences in _DIFFERENCES:
        answer = call(student, differences)
        require(str(getattr(answer, "dtype", type(answer).__name__)) in ("bool", "torch.bool"),
                f"expected True or False, got {answer!r:.40} for {differences}")
        found.append(bool(answer))
    for said, wrong in _RULES.values():
        require(found != [len(d) > 1 and wrong(list(d)) for d in _DIFFERENCES], said)
    for answer, differences in zip(found, _DIFFERENCES, strict=True):
        require(answer == _decided(differences), f"{differences} is {'not ' * answer}decided by the rule, and your "
                f"function says {answer}")


DECIDED = Spec(
    id="9.1", title="when is a difference decided?",
    task="Write the protocol's rule. `differences` holds one number per seed: the result of one arm minus that of the "
         "other. The difference is *decided* if there are at least three seeds, all have the same sign, and the mean "
         "is more than two standard errors away from zero.",
    stub=decided, reference=_decided, check=_check_decided,
    hints=("Three conditions, joined by `and`. Test the number of seeds first: two of them have a standard error, but "
           "not a trustworthy one.",
           "`all(d > 0 for d in differences)` is one half of the condition on the signs. What is the other?",
           "`statistics.stdev` divides by $n - 1$. The standard error of the mean is that over $\\sqrt n$."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _RULES.items()},
    why="The rule is crude, and it was written down before the runs: that is its virtue. For three seeds, two standard "
        "errors are much less than 95 % confidence (Student's t asks for 4.3). If two arms were equal, and their "
        "differences normal, almost one cell in five would be called decided by luck, half of them in the claimed "
        "direction. So one decided cell says little; several that agree say more.")


def steps_to_reach(curve, level):
    """The step at which the training loss, smoothed over three records, first falls below `level`; else None.

    curve: a list of {"step": ..., "loss": ...}, in order. The step is that of the last of the three records.
    """
    raise NotImplementedError


def _steps_to_reach(curve, level):
    for i in range(2, len(curve)):
        if fmean(entry["loss"] for entry in curve[i - 2 : i + 1]) < level:
            return curve[i]["step"]
    return None


def _first(below):
    """A mistake: the step of the first record i for which `below(losses, i, level)` holds."""
    def wrong(curve, level):
        losses = [entry["loss"] for entry in curve]
        return next((entry["step"] for i, entry in enumerate(curve) if below(losses, i, level)), None)

    return wrong


def _smooth(losses, i):
    return fmean(losses[i - 2 : i + 1])


def _last(curve, level):
    losses = [entry["loss"] for entry in curve]
    reached = [curve[i]["step"] for i in range(2, len(curve)) if _smooth(losses, i) < level]
    return reached[-1] if reached else None


def _elsewhere(shift):
    """A mistake: another record of the three gives the step."""
    def wrong(curve, level):
        losses = [entry["loss"] for entry in curve]
        return next((curve[i + shift]["step"] for i in range(2, len(curve)) if _smooth(losses, i) < level), None)

    return wrong


def _position(curve, level):
    step = _steps_to_reach(curve, level)
    return None if step is None else [entry["step"] for entry in curve].index(step)


_STEPS = {
    "not smoothed": ("single records are compared with the level; one lucky mini-batch is enough then. Average three",
                     _first(lambda losses, i, level: losses[i] < level)),
    "fewer than three": ("the first two records are averaged over fewer than three; begin where there are three",
                         _first(lambda losses, i, level: fmean(losses[max(0, i - 2) : i + 1]) < level)),
    "two records": ("two records are averaged; the rule says three",
                    _first(lambda losses, i, level: i >= 1 and fmean(losses[i - 1 : i + 1]) < level)),
    "at the level": ("a loss that is just at the level is not below it: `<`, not `<=`",
                     _first(lambda losses, i, level: i >= 2 and _smooth(losses, i) <= level)),
    "all so far": ("all records from the beginning are averaged; use the last three alone",
                   _first(lambda losses, i, level: i >= 2 and fmean(losses[: i + 1]) < level)),
    "all three below": ("all three records are asked to be below the level; their mean is",
                        _first(lambda losses, i, level: i >= 2 and max(losses[i - 2 : i + 1]) < level)),
    "above": ("this finds where the loss is *above* the level",
              _first(lambda losses, i, level: i >= 2 and _smooth(losses, i) > level)),
    "last": ("this is the last time that the loss is below the level; the first is asked for", _last),
    "middle": ("this is the step of the middle one of the three records; it was not known then. Take the last one's",
               _elsewhere(-1)),
    "first of three": ("this is the step of the first of the three records; take the last one's", _elsewhere(-2)),
    "position": ("this is the place in the list; return the record's step", _position),
    "never": ("a loss that never falls below the level gives None, and not the last step: whoever compares two arms "
              "must know the difference", lambda curve, level: _steps_to_reach(curve, level) or curve[-1]["step"]),
}
_CURVES = (
    ([2.3, 2.0, 1.1, 1.9, 1.5, 1.2, 1.7, 1.0, 0.8, 0.7, 0.6], 1.55), ([0.5, 1.9, 1.8, 1.2, 1.0, 0.9], 1.5),
    ([2.3, 2.1, 1.4, 1.9, 1.7, 1.8], 1.5), ([2.0, 1.75, 1.5, 1.25, 1.0], 1.75),
    ([2.4, 1.3, 1.2, 1.1, 1.0, 0.9, 0.8], 1.7))


def _check_steps(student):
    curves = [[{"step": 13 * (i + 1), "loss": loss} for i, loss in enumerate(losses)] for losses, _ in _CURVES]
    levels = [level for _, level in _CURVES]
    found = [call(student, curve, level) for curve, level in zip(curves, levels, strict=True)]
    found = [None if step is None else number(step, "the step") for step in found]
    for said, wrong in _STEPS.values():
        require(found != [wrong(curve, level) for curve, level in zip(curves, levels, strict=True)], said)
    for step, curve, (losses, level) in zip(found, curves, _CURVES, strict=True):
        expected = _steps_to_reach(curve, level)
        require(step == expected, f"expected {expected}, got {step} for the losses {losses} at steps 13, 26, 39, ... "
                f"and the level {level}")


STEPS = Spec(
    id="9.2", title="steps to a given loss",
    task="How soon does a run reach a training loss? One record is noisy, so the protocol averages the last three. "
         "Return the step at which that mean first falls below `level`, or None if it never does.",
    stub=steps_to_reach, reference=_steps_to_reach, check=_check_steps,
    hints=("Go through the records from the third on. Which three belong to record `i`?",
           "`curve[i - 2 : i + 1]` are three records. Return at once where their mean is below the level.",
           "After the loop, nothing was found: `return None`."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _STEPS.items()},
    why="With \"speed\" as steps to a loss, faster does not depend on where training happens to end. It does depend on "
        "the levels; those are part of the protocol. A run that never gets there has no number, and a comparison must "
        "say what it does about that: ours counts all its steps, which understates the other's lead.")


def verdict(outcomes):
    """"holds", "holds in part", "does not hold" or "not tested", from the outcomes of all cells of a sentence."""
    raise NotImplementedError


def _verdict(outcomes):
    tested = [one for one in outcomes if one != "not tested"]
    if not tested:
        return "not tested"
    if "holds" not in tested:
        return "does not hold"
    if all(one == "holds" for one in outcomes):
        return "holds"
    return "holds in part"


def _either(rule):
    """A mistake: `rule(outcomes)`, but for sentences of which nothing was tested."""
    return lambda outcomes: rule(list(outcomes)) if set(outcomes) - {"not tested"} else "not tested"


def _majority(outcomes):
    share = outcomes.count("holds") / len(outcomes)
    return "holds" if share > 0.5 else "holds in part" if share else "does not hold"


_VERDICTS = {
    "majority": ("most cells are taken for all; a sentence that names five activations claims all five",
                 _either(_majority)),
    "any": ("one cell that holds is taken for the sentence; the others are named by it as well",
            _either(lambda o: "holds" if "holds" in o else "does not hold")),
    "contrary wins": ("one contrary cell is taken for the whole sentence; what holds elsewhere is not to be hidden",
                      _either(lambda o: "does not hold" if "contrary" in o else _verdict(o))),
    "gaps overlooked": ("a cell that was not tested is overlooked: the sentence is not shown for it, so it cannot "
                        "hold as a whole", _either(lambda o: _verdict([one for one in o if one != "not tested"]))),
    "gaps count against": ("a cell that was not tested makes the whole sentence \"not tested\"; say what the other "
                           "cells show", lambda o: "not tested" if "not tested" in o else _verdict(o)),
    "open is untested": ("an open cell was tested, and what the sentence claims was not seen in it",
                         lambda o: _verdict(["not tested" if one == "open" else one for one in o])),
    "open is enough": ("an open cell is let through as if it held", _either(
        lambda o: _verdict(["holds" if one == "open" else one for one in o]))),
    "nothing is no": ("where nothing was tested, nothing is refuted: \"not tested\"",
                      lambda o: _verdict(o) if set(o) - {"not tested"} else "does not hold"),
    "only contrary": ("\"does not hold\" does not need every cell to be contrary: it is enough that cells were tested "
                      "and none holds", _either(lambda o: "does not hold" if set(o) - {"not tested"} == {"contrary"}
                                                else "holds" if set(o) == {"holds"} else "holds in part")),
}
_OUTCOMES = (
    ["holds"] * 3, ["holds", "holds", "open"], ["holds", "contrary", "contrary"], ["open", "contrary"],
    ["holds", "not tested"], ["not tested"] * 2, ["open", "open"], ["open", "not tested"], ["contrary", "not tested"],
    ["holds", "open", "open"], ["holds", "contrary", "holds"], ["contrary"])
_WORDS = ("holds", "holds in part", "does not hold", "not tested")


def _check_verdict(student):
    found = [call(student, list(outcomes)) for outcomes in _OUTCOMES]
    for answer, outcomes in zip(found, _OUTCOMES, strict=True):
        require(answer in _WORDS, f"expected one of {', '.join(map(repr, _WORDS))}, got {answer!r:.40} for {outcomes}")
    for said, wrong in _VERDICTS.values():
        require(found != [wrong(list(outcomes)) for outcomes in _OUTCOMES], said)
    for answer, outcomes in zip(found, _OUTCOMES, strict=True):
        require(answer == _verdict(outcomes), f"{outcomes} gives {_verdict(outcomes)!r}, and your function says "
                f"{answer!r}")


VERDICT = Spec(
    id="9.3", title="from cells to a verdict",
    task="A sentence names several cells. Each came out as \"holds\", \"contrary\", \"open\" or \"not tested\". Write "
         "the protocol's verdict: \"holds\" if every cell was tested and holds; \"does not hold\" if cells were "
         "tested and none of them holds; \"not tested\" if none was; else \"holds in part\".",
    stub=verdict, reference=_verdict, check=_check_verdict,
    hints=("Take the cells that were tested first. Is that list empty?",
           "Then ask whether any of the tested ones holds, and at last whether all of *all* cells do.",
           "Four `return`s in the order: not tested, does not hold, holds, holds in part."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _VERDICTS.items()},
    why="\"Does not hold\" is said about these runs: open cells count here, because what was not seen was not shown. "
        "It does not say that the opposite is true. That would need every cell to be contrary.")


EXERCISES = (DECIDED, STEPS, VERDICT)
