"""Results held against guesses: the pairs of an order, the distance of a number or a curve."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from statistics import fmean


class UnfinishedError(ValueError):
    """There is no result yet."""


def values(arms: Mapping[str, Sequence], metric: str) -> dict[str, dict[int, float]]:
    """label -> seed -> measured number; accuracies of runs in %.

    An arm is a sequence of runs, whose final `metric` is taken, or of plain numbers, one a seed. A run that diverged
    is NaN. Unfinished runs are left out. UnfinishedError for an arm of which nothing is left, ValueError for a run
    without that metric.
    """
    found = {}
    for label, members in arms.items():
        found[label] = dict(enumerate(map(float, members))) if _plain(members) else _finals(label, members, metric)
        if not found[label]:
            raise UnfinishedError(f"no run of {label!r} is finished, so there is no result for it")
    return found


def _plain(members: Sequence) -> bool:
    return all(not hasattr(member, "final") for member in members)


def _finals(label: str, members: Sequence, metric: str) -> dict[int, float]:
    found = {}
    for run in members:
        if run.status == "diverged":
            found[run.config["seed"]] = math.nan
        elif run.status == "finished":
            if metric not in run.final:
                raise ValueError(f"a run of {label!r} has no final {metric}; it has {', '.join(run.final)}")
            value = run.final[metric]
            found[run.config["seed"]] = math.nan if value is None else value * (100 if "accuracy" in metric else 1)
    return found


@dataclass(frozen=True)
class Ranking:
    """A guessed order held against the measured one; pairs have the better item first, as measured."""

    order: tuple[str, ...]
    hits: tuple[tuple[str, str], ...]
    misses: tuple[tuple[str, str], ...]
    undecided: tuple[tuple[str, str], ...]

    @property
    def score(self) -> float | None:
        """Share of the decided pairs that the guess has in the right order; None if none is decided."""
        decided = len(self.hits) + len(self.misses)
        return len(self.hits) / decided if decided else None

    @property
    def right(self) -> bool | None:
        return None if self.score is None else not self.misses


def rank(guess: Sequence[str], measured: Mapping[str, Mapping[int, float]], *, largest: bool = True) -> Ranking:
    """Order by the mean over the seeds, best first; NaN (a diverged run) is worse than any number.

    A pair is decided if it has the order of the means in every seed that both items have (where they share none: in
    every combination). Pairs that the seeds do not decide count neither for nor against the guess. ValueError if guess
    and result are not about the same items, or an item has no number.
    """
    if sorted(guess) != sorted(measured):
        raise ValueError(f"the guess is about {', '.join(guess)}, the result about {', '.join(measured)}")
    if empty := [item for item, by_seed in measured.items() if not by_seed]:
        raise ValueError(f"the result has no number for {', '.join(empty)}")
    goodness = {item: {seed: _goodness(value, largest) for seed, value in by_seed.items()}
                for item, by_seed in measured.items()}
    means = {item: fmean(by_seed.values()) for item, by_seed in goodness.items()}
    order = tuple(sorted(guess, key=means.get, reverse=True))
    hits, misses, undecided = [], [], []
    for pair in combinations(order, 2):
        better, worse = (goodness[item] for item in pair)
        if not _always_better(better, worse):
            undecided.append(pair)
        else:
            (hits if guess.index(pair[0]) < guess.index(pair[1]) else misses).append(pair)
    return Ranking(order, tuple(hits), tuple(misses), tuple(undecided))


def _goodness(value: float, largest: bool) -> float:
    return -math.inf if math.isnan(value) else value if largest else -value


def _always_better(better: Mapping[int, float], worse: Mapping[int, float]) -> bool:
    shared = better.keys() & worse.keys()
    pairs = [(better[seed], worse[seed]) for seed in shared] or list(product(better.values(), worse.values()))
    return all(b > w for b, w in pairs)


@dataclass(frozen=True)
class Distance:
    """A guessed number or curve held against the measured one: `score` is how far off, `tolerance` what counts."""

    measured: tuple[float, ...]
    score: float
    tolerance: float

    @property
    def right(self) -> bool:
        return self.score <= self.tolerance


def distance(guess: Sequence[float], measured: Sequence[float], tolerance: float) -> Distance:
    """Mean of |guess - measured| over the points, one for a number. ValueError for a result that is not finite."""
    if not all(map(math.isfinite, measured)):
        raise ValueError("the result is not finite (a run has diverged), so there is no distance from it")
    return Distance(tuple(measured), fmean(abs(g - m) for g, m in zip(guess, measured, strict=True)), tolerance)


def difference(measured: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """seed -> the number of a single arm; of two arms the first minus the second, for the seeds that both have."""
    if len(measured) == 1:
        return dict(next(iter(measured.values())))
    if len(measured) != 2:
        raise ValueError(f"a number is that of one arm, or the difference of two; got {', '.join(measured) or 'none'}")
    first, second = measured.values()
    if not first.keys() & second.keys():
        raise ValueError(f"{' and '.join(measured)} share no seed, so there is no difference by seed")
    return {seed: first[seed] - second[seed] for seed in first if seed in second}


def curve(members: Sequence, metric: str) -> list[dict[float, float]]:
    """epoch -> value for each run: "loss" (training, nats) or "test_accuracy", "validation_accuracy" (in %)."""
    factor = 100 if "accuracy" in metric else 1
    return [{entry["epoch"]: math.nan if entry[metric] is None else factor * entry[metric]
             for entry in run.curve if metric in entry} for run in members]


def reached(curves: Sequence[Mapping[float, float]], epochs: Sequence[float]) -> dict[float, float]:
    """epoch -> mean over the curves, for those of the epochs that lie within the records of every curve."""
    return {epoch: fmean(_between(points, epoch) for points in curves) for epoch in epochs
            if curves and all(points and min(points) <= epoch <= max(points) for points in curves)}


def at_epochs(curves: Sequence[Mapping[float, float]], epochs: Sequence[float]) -> list[float]:
    """Mean over the curves at these epochs, straight lines between the records. ValueError outside of the records."""
    means = reached(curves, epochs)
    outside = [f"{epoch:g}" for epoch in epochs if epoch not in means]
    if outside:
        raise ValueError(f"the curves are not recorded at epoch {', '.join(outside)}, at which the guess was asked for")
    return list(means.values())


def _between(points: Mapping[float, float], epoch: float) -> float:
    left, right = max(x for x in points if x <= epoch), min(x for x in points if x >= epoch)
    if left == right:
        return points[left]
    return points[left] + (points[right] - points[left]) * (epoch - left) / (right - left)
