"""What the records of the structure ablation say: paired differences, the protocol's rule, and tables of both.

A table is a list of rows of text, the heading first; `cbn_lab.figures.Table` shows it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

from cbn_lab import ablation, runs
from cbn_lab.ablation import ACTIVATIONS, ROWS
from cbn_lab.runs import Run

DEFAULT = "gamma_9x"  # the row that is the default layer
REPORTED = {"sigmoid": "more than 15.0", "tanh": "more than 4.5", "selu": "more than 4.0",
            "relu": "higher", "swish": "higher"}  # gains in test accuracy, abstract of Peng, Yu and Yu 2024


@dataclass(frozen=True)
class Comparison:
    """Accuracy of one structure minus another's in percentage points, by (activation, seed)."""

    gains: dict[tuple[str, int], float]

    @property
    def mean(self) -> float:
        return fmean(self.gains.values())

    @property
    def standard_error(self) -> float:
        """Of the mean over pairs; infinite for a single pair."""
        return stdev(self.gains.values()) / len(self.gains) ** 0.5 if len(self.gains) > 1 else math.inf

    @property
    def seeds(self) -> int:
        """Seeds of the activation that has the fewest."""
        return min(len(self.of(name)) for name in ACTIVATIONS)

    @property
    def convincing(self) -> bool:
        """Rule 2 of results/PROTOCOL.md: better by two standard errors, with two seeds of every activation."""
        return self.seeds >= 2 and self.mean > 2 * self.standard_error

    def of(self, activation: str) -> list[float]:
        """The gains of one activation, one per seed."""
        return [gain for (name, _), gain in self.gains.items() if name == activation]


def of_setting(records: list[Run], *, train_images: int, decay_norm: bool = True) -> list[Run]:
    """The finished runs of one table: 20,000 images (small) or 45,000 (long), decay of 1-d parameters on or off.

    Runs that are not in `ablation.plan()`, with another learning rate, say, are left out.
    """
    return [run for run in records if run.status == "finished" and runs.name(run.config) in _planned()
            and (run.config["train_images"], run.config["decay_norm"]) == (train_images, decay_norm)]


@cache
def _planned() -> frozenset[str]:
    """The names of the plan's runs; a menu asks for them at every change."""
    return frozenset(runs.name(config.resolved().record()) for config in ablation.plan())


def of_row(records: list[Run], row: str) -> list[Run]:
    """The runs of one structure, a key of `ablation.ROWS`."""
    return [run for run in records if ablation.row_of(run.config) == row]


def compare(records: list[Run], reference: list[Run], metric: str = "validation_accuracy") -> Comparison:
    """Pair two sets of runs by activation and seed: equal initial weights, equal order of images.

    Pairs that are incomplete are left out.
    """
    base = {(run.config["activation"], run.config["seed"]): run.final[metric] for run in reference}
    return Comparison({key: 100 * (run.final[metric] - base[key]) for run in records
                       if (key := (run.config["activation"], run.config["seed"])) in base})


def gains(records: list[Run], row: str, activation: str) -> list[float]:
    """Test accuracy of a structure minus vanilla BN's in percentage points, one per seed."""
    return compare(of_row(records, row), of_row(records, "vanilla"), "test_accuracy").of(activation)


def recorded_rows(records: list[Run]) -> list[str]:
    return [row for row in ROWS if of_row(records, row)]


def mean_final(records: list[Run], row: str, activation: str, metric: str) -> float:
    """Mean over seeds of a final number; ValueError if there is none."""
    values = [run.final[metric] for run in of_row(records, row) if run.config["activation"] == activation]
    if not values:
        raise ValueError(f"no recorded run of {row!r} with {activation}; python -m cbn_lab.ablation records them")
    return fmean(values)


def gain_table(records: list[Run], rows: Sequence[str] | None = None) -> list[list[str]]:
    """Mean gain over vanilla BN for the given structures (None: all that are recorded) and every activation."""
    return [["structure: mean gain in points (better in k of n seeds)", *ACTIVATIONS],
            *([ROWS[row].label, *(_mean_and_better(gains(records, row, f)) for f in ACTIVATIONS)]
              for row in rows or recorded_rows(records) if row != "vanilla")]


def _mean_and_better(values: list[float]) -> str:
    return f"{fmean(values):+.1f} ({sum(v > 0 for v in values)} of {len(values)})" if values else "-"


def added_table(row: str, reference: str, **settings: list[Run]) -> list[list[str]]:
    """Test accuracy of one structure minus another's in points, per activation and setting: mean, seeds better."""
    table = [[f"{ROWS[row].label}, minus {ROWS[reference].label}", *ACTIVATIONS]]
    for name, records in settings.items():
        comparison = compare(of_row(records, row), of_row(records, reference), "test_accuracy")
        table.append([name, *(_mean_and_better(comparison.of(f)) for f in ACTIVATIONS)])
    return table


def abstract_table(**settings: list[Run]) -> list[list[str]]:
    """What the abstract reports for the authors' CBN, beside our reconstruction's gains in each setting."""
    def cell(records, activation):
        values = gains(records, DEFAULT, activation)
        return f"{min(values):+.1f} to {max(values):+.1f} (n = {len(values)})" if values else "not recorded"

    return [["activation", "reported (their CBN, points)", *(f"measured, {name} (ours)" for name in settings)],
            *([f, REPORTED[f], *(cell(records, f) for records in settings.values())] for f in ACTIVATIONS)]


def result_table(records: list[Run], name: str) -> list[list[str]]:
    """Means over seeds of test accuracy and training loss, vanilla BN and the reconstruction, with seeds better."""
    vanilla, ours = of_row(records, "vanilla"), of_row(records, DEFAULT)

    def pair(activation, metric, sign, text):
        values = [[run.final[metric] for run in of if run.config["activation"] == activation] for of in (vanilla, ours)]
        cells = [text(fmean(v)) if v else "-" for v in values]
        better = [sign * gain > 0 for gain in compare(ours, vanilla, metric).of(activation)]
        return [cells[0], f"{cells[1]} ({sum(better)} of {len(better)})" if better else cells[1]]

    return [[f"{name} setting", "accuracy (%), vanilla", "reconstruction", "training loss, vanilla", "reconstruction"],
            *([f, *pair(f, "test_accuracy", 1, lambda x: f"{100 * x:.1f}"),
               *pair(f, "train_loss", -1, "{:.3f}".format)] for f in ACTIVATIONS)]


def verdict_table(records: list[Run], name: str, *, decisive: bool) -> list[list[str]]:
    """Each candidate for the defaults against the present ones, on validation accuracy, by the protocol's rule 2."""
    table = [[f"{name} setting, against {ROWS[DEFAULT].label}", "mean difference (points)", "standard error",
              "verdict" if decisive else "verdict (not decisive)"]]
    for row in ablation.CANDIDATES:
        c = compare(of_row(records, row), of_row(records, DEFAULT))
        if row != DEFAULT and c.gains:
            outcome = "better" if c.convincing else "too few seeds to decide" if c.seeds < 2 else "not better"
            table.append([ROWS[row].label, f"{c.mean:+.2f}", f"{c.standard_error:.2f} ({len(c.gains)} pairs)", outcome])
        elif row != DEFAULT:
            table.append([ROWS[row].label, "-", "-", "not recorded"])
    return table
