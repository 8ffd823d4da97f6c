"""The rules of results/GRID.md: what two recorded arms differ by, and which verdict follows for a sentence.

An arm is seed -> recorded run. A measure gives one number per pair of runs of a seed, positive where the first is
better.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cbn_lab.ablation import SEEDS
from cbn_lab.grid import decided, final
from cbn_lab.runs import Run

OUTCOMES = ("holds", "contrary", "open", "not tested")
VERDICTS = ("holds", "holds in part", "does not hold", "not tested")
LEVELS = {"cifar10": (2.0, 1.6, 1.2, 0.8, 0.4, 0.2), "cifar100": (4.2, 3.8, 3.4, 3.0, 2.5, 2.0, 1.0, 0.5)}
WINDOW = 3  # records over which a training loss is averaged before it is compared with a level

Measure = Callable[[Run, Run], float | None]


@dataclass(frozen=True)
class Cell:
    """One activation of a sentence: differences by seed, positive in the claimed direction, and the outcome."""

    name: str
    differences: Mapping[int, float]
    outcome: str

    @property
    def count(self) -> int:
        return len(self.differences)


def outcome(differences: Sequence[float], limit: float | None = None) -> str:
    """What a cell's paired differences say: "holds" if decided and positive, "contrary" if negative, else "open".

    With a `limit` the mean alone counts: "holds" above it, else "contrary". Fewer than three seeds: "not tested".
    """
    if len(differences) < len(SEEDS):
        return "not tested"
    if limit is not None:
        return "holds" if fmean(differences) > limit else "contrary"
    if not decided(differences):
        return "open"
    return "holds" if fmean(differences) > 0 else "contrary"


def both(first: str, second: str) -> str:
    """The outcome of "this and that" from the outcomes of the two."""
    for word in ("contrary", "not tested", "open"):
        if word in (first, second):
            return word
    return "holds"


def verdict(outcomes: Sequence[str]) -> str:
    """A sentence's verdict from the outcomes of all cells that it names."""
    tested = [o for o in outcomes if o != "not tested"]
    if not tested:
        return "not tested"
    if "holds" not in tested:
        return "does not hold"
    return "holds" if set(outcomes) == {"holds"} else "holds in part"


def differences(ours: Mapping[int, Run], theirs: Mapping[int, Run], measure: Measure) -> dict[int, float]:
    """seed -> measure of the pair, for the seeds that both arms have and for which there is a number."""
    found = {seed: measure(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())}
    return {seed: value for seed, value in found.items() if value is not None}


def gain(ours: Run, theirs: Run) -> float:
    """Test accuracy after the last epoch, ours minus theirs, percentage points."""
    return 100 * (final(ours, "test_accuracy") - final(theirs, "test_accuracy"))


def loss_reduction(ours: Run, theirs: Run) -> float:
    """Training loss of the last epoch, theirs minus ours, nats."""
    return final(theirs, "train_loss") - final(ours, "train_loss")


def lead(ours: Run, theirs: Run) -> float | None:
    """Mean over the levels of log(steps of theirs / steps of ours); None if neither reaches any.

    An arm that does not reach a level that the other reaches counts with all the steps of the other's run.
    """
    ratios = []
    for level in LEVELS[ours.config["data"]]:
        steps = [steps_to_reach(run.curve, level) for run in (ours, theirs)]
        if steps != [None, None]:
            end = max(run.curve[-1]["step"] for run in (ours, theirs) if run.curve)
            mine, other = (end if s is None else s for s in steps)
            ratios.append(math.log(other / mine))
    return fmean(ratios) if ratios else None


def steps_to_reach(curve: Sequence[Mapping], level: float, window: int = WINDOW) -> int | None:
    """The step of the first record at which the mean loss of the last `window` records is below `level`, or None."""
    for i in range(window - 1, len(curve)):
        losses = [entry["loss"] for entry in curve[i - window + 1 : i + 1]]
        if None not in losses and fmean(losses) < level:
            return curve[i]["step"]
    return None
