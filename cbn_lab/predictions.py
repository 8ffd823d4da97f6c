"""Guesses before results: how right a guess was, and how well the student's confidence is calibrated. No widgets here.

Each guess comes with a confidence: the probability p, in the student's opinion, that it will turn out right. It is
scored by Brier's rule (1950), (p - o)^2 with o = 1 if it was right and 0 if not: 0 is perfect, always saying 50 % gives
0.25. The rule is proper: if the true probability is q, then E(p - o)^2 = (p - q)^2 + q (1 - q), which is least at
p = q, so nobody gains by saying anything but what they believe.

What "right" means is said before the guess: the whole order (of the pairs that the seeds decide), or a number or curve
within a stated tolerance.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from statistics import fmean

from cbn_lab import progress

BINS = 5  # of the confidence, equally wide; the widgets offer their centres


@dataclass(frozen=True)
class Prediction:
    """One guess, as the student's file keeps it.

    kind        "ranking", "number" or "curve"
    asked       what the guess is about (items, tolerance, ...): a guess counts only for the question it was made for
    guess       the order, the number, or the values of the curve
    confidence  probability in [0, 1] that the guess is right
    made        date of the guess; revealed: date on which the result was first shown, or None
    right       whether the guess was right, None as long as that is not decided
    score       ranking: share of pairs in the right order; number, curve: distance from the result, in its unit
    """

    id: str
    kind: str
    asked: list
    guess: list | float
    confidence: float
    made: str
    revealed: str | None = None
    right: bool | None = None
    score: float | None = None


def lock(id: str, kind: str, asked: list, guess: list | float, confidence: float) -> Prediction:
    """A guess of today, not written yet. ValueError for a confidence outside of [0, 1]."""
    if not 0 <= confidence <= 1:
        raise ValueError(f"a confidence is a probability between 0 and 1, got {confidence!r}")
    return Prediction(id, kind, asked, guess, confidence, date.today().isoformat())


def reveal(prediction: Prediction) -> Prediction:
    """With the date of today, unless the result was shown before: from here on the guess stays as it is."""
    return prediction if prediction.revealed else replace(prediction, revealed=date.today().isoformat())


def judge(prediction: Prediction, right: bool | None, score: float | None) -> Prediction:
    """With its outcome. The first outcome counts: a prediction that has one keeps it."""
    return prediction if prediction.right is not None else replace(prediction, right=right, score=score)


def keep(prediction: Prediction) -> None:
    """Write it to the student's file. progress.ProgressError if that cannot be done."""
    entry = asdict(prediction)
    progress.keep_prediction(entry.pop("id"), entry)


def load() -> dict[str, Prediction]:
    """id -> prediction. progress.ProgressError if the file is damaged."""
    return {id: _read(id, entry) for id, entry in progress.predictions().items()}


def find(id: str, kind: str, asked: list) -> Prediction | None:
    """The kept guess for this very question, or None."""
    found = load().get(id)
    return found if found is not None and (found.kind, found.asked) == (kind, asked) else None


def forget(*ids: str) -> list[str]:
    """Take predictions out of the student's file, all where none is named; returns what was taken out.

    For a lecturer who puts the same question to the next room, and for anyone who wants to start again.
    """
    known = list(progress.predictions())
    unknown = [id for id in ids if id not in known]
    if unknown:
        raise ValueError(f"there is no prediction {', '.join(unknown)} in {progress.path()}; "
                         f"there are: {', '.join(known) or 'none'}")
    progress.forget_predictions(ids or known)
    return list(ids or known)


def _read(id: str, entry: dict) -> Prediction:
    names = {field.name for field in fields(Prediction)} - {"id"}
    try:
        prediction = Prediction(id, **{name: entry[name] for name in names})
        if not 0 <= prediction.confidence <= 1 or prediction.right not in (None, True, False) \
                or not _fits(prediction.kind, prediction.guess):
            raise ValueError
        return prediction
    except (KeyError, TypeError, ValueError):
        raise progress.ProgressError(f"the prediction {id!r} in {progress.path()} is damaged; move the file away, or "
                                     f"set {progress.VARIABLE} to another file") from None


def _fits(kind: str, guess) -> bool:
    """An order of names, a number, or the numbers of a curve, as the kind says."""
    members = guess if kind != "number" and isinstance(guess, list) else [guess]
    wanted = {"ranking": str, "number": (int, float), "curve": (int, float)}[kind]
    return isinstance(guess, list) == (kind != "number") and all(isinstance(member, wanted) for member in members)


def brier(confidence: float, right: bool) -> float:
    """(p - o)^2, o = 1 if right and 0 if not."""
    return (confidence - right) ** 2


@dataclass(frozen=True)
class Level:
    """The predictions of about one confidence: the mean of what was said, and how often it was right."""

    confidence: float
    count: int
    right: int


@dataclass(frozen=True)
class Calibration:
    """All predictions that are decided: `brier` is the mean score, `levels` the table from low to high confidence."""

    count: int
    right: int
    confidence: float
    brier: float
    levels: tuple[Level, ...]

    def sentence(self) -> str:
        plural = "prediction" if self.count == 1 else "predictions"
        return (f"Your file so far: {self.count} {plural}, {self.right} right ({100 * self.right / self.count:.0f} %); "
                f"you said {100 * self.confidence:.0f} % on average; mean Brier score {self.brier:.2f}.")


def calibration(of: Iterable[Prediction]) -> Calibration | None:
    """What the decided ones among these predictions say about the confidences; None if none is decided."""
    decided = [prediction for prediction in of if prediction.right is not None]
    if not decided:
        return None
    bins: dict[int, list[Prediction]] = {}
    for prediction in decided:
        bins.setdefault(min(BINS - 1, int(BINS * prediction.confidence)), []).append(prediction)
    levels = tuple(Level(fmean(p.confidence for p in bins[i]), len(bins[i]), sum(p.right for p in bins[i]))
                   for i in sorted(bins))
    return Calibration(len(decided), sum(p.right for p in decided), fmean(p.confidence for p in decided),
                       fmean(brier(p.confidence, p.right) for p in decided), levels)


def chance(count: int, probability: float, share: float = 0.9) -> tuple[int, int]:
    """(low, high): how many of `count` come true for someone whose confidence is just right.

    Of the binomial distribution: below low, and above high, lies at most (1 - share) / 2 each.
    """
    tail = (1 - share) / 2
    below = [sum(math.comb(count, k) * probability**k * (1 - probability) ** (count - k) for k in range(n + 1))
             for n in range(count + 1)]
    low = next(n for n, p in enumerate(below) if p > tail)
    high = next(n for n, p in enumerate(below) if p >= 1 - tail - 1e-12)
    return low, high
