"""Lines of the claims ledger: one sentence on one source of runs, with what was measured and the verdict.

The sentences, and which cells they name, are those of results/GRID.md; the rules are `cbn_lab.verdicts`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean

from cbn_lab import ablation, grid, joins, runs, verdicts
from cbn_lab.ablation import ACTIVATIONS, SEEDS
from cbn_lab.evidence import DEFAULT, of_setting
from cbn_lab.runs import Run
from cbn_lab.verdicts import Cell

PUBLISHED = {"tanh": (64.84, 72.17), "relu": (73.68, 71.79)}  # Kim, Kim, Kim 2023: BN before, after; VGG16, CIFAR-100
NAMES = {"convnet": "ConvNet", "vgg16": "VGG16", "resnet20": "ResNet-20", "resnet18": "ResNet-18",
         "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}

THEIRS = "reported (their own runs)"
Arms = Callable[[str, str], Mapping[int, Run]]  # (activation, placement) -> seed -> run


@dataclass(frozen=True)
class Source:
    """Where arms are found: a part of the grid, a setting of the ablation or of the residual forms.

    `folder` gives that of a record from its name.
    """

    label: str
    arms: Arms
    folder: Callable[[str], str]


@dataclass(frozen=True)
class Row:
    """A line of the ledger.

    sentence  its number in GRID.md; claim: its words
    origin    "reported" (in the abstract), "reported (their own runs)", "our reading", "ours"
    setting   size, network, data, setting; for "not tested" also what would have to be run
    brief     means alone; measured: with spread and, by activation, "k of n" seeds in the claimed direction
    means     activation -> mean, for sentences that compare two arms
    seeds     "k of n" over all cells
    runs      paths of the records below the repository's root
    """

    sentence: str
    claim: str
    origin: str
    setting: str
    brief: str = "-"
    measured: str = "-"
    seeds: str = "0"
    device: str = "-"
    verdict: str = "not tested"
    runs: tuple[str, ...] = ()
    means: Mapping[str, str] = field(default_factory=dict)

    @property
    def published(self) -> bool:
        """Whether it is about a published neighbour, and not a sentence of the abstract or of ours."""
        return self.origin == THEIRS


@dataclass(frozen=True)
class Sentence:
    """One that compares two arms in each cell. `pair(activation)` gives both as (activation, placement), ours first.

    `measure` is positive in the claimed direction; `show` turns a mean into text; `limits` is for sentences whose mean
    is held against a number.
    """

    number: str
    claim: str
    activations: tuple[str, ...]
    pair: Callable[[str], tuple[tuple[str, str], tuple[str, str]]]
    measure: verdicts.Measure
    show: Callable[[float], str]
    limits: Mapping[str, float] | None = None

    def cell(self, source: Source, activation: str) -> Cell:
        ours, theirs = (source.arms(*arm) for arm in self.pair(activation))
        found = verdicts.differences(ours, theirs, self.measure)
        return Cell(activation, found, verdicts.outcome(list(found.values()), self.limit(activation)))

    def limit(self, activation: str) -> float | None:
        return None if self.limits is None else self.limits[activation]

    def row(self, source: Source) -> Row:
        """The sentence's line for one source; "not tested" where nothing is recorded."""
        cells = [self.cell(source, f) for f in self.activations]
        used = [run for f in self.activations for arm in self.pair(f) for run in source.arms(*arm).values()]
        better = sum(d > (self.limit(c.name) or 0) for c in cells for d in c.differences.values())
        brief = ", ".join(f"{c.name} {self._mean(c)}" for c in cells if c.differences)
        said, lost = "; ".join(map(self._said, cells)), diverged(used)
        pairs = sum(cell.count for cell in cells)
        return Row(self.number, self.claim, "reported", source.label, (brief or "-") + lost, said + lost,
                   f"{better} of {pairs}" if pairs else "0", devices(used),
                   verdicts.verdict([c.outcome for c in cells]), paths(used, source.folder),
                   {c.name: self._mean(c) for c in cells if c.differences})

    def _mean(self, cell: Cell) -> str:
        return self.show(fmean(cell.differences.values()))

    def _said(self, cell: Cell) -> str:
        if not cell.differences:
            return f"{cell.name} not recorded"
        values = list(cell.differences.values())
        better = sum(d > (self.limit(cell.name) or 0) for d in values)
        spread = f"{self.show(min(values))} to {self.show(max(values))}, " if len(values) > 1 else ""
        return f"{cell.name} {self._mean(cell)} ({spread}{better} of {len(values)}){_missing(cell)}"


def _missing(cell: Cell) -> str:
    absent = [str(seed) for seed in SEEDS if seed not in cell.differences]
    return f", without seed{'s' * (len(absent) > 1)} {', '.join(absent)}" if absent else ""


def grid_source(part: grid.Part, found: Mapping[str, Run]) -> Source:
    label = f"{part.size}, {NAMES[part.model]}, {NAMES[part.data]}, {part.setting}"
    return Source(label, partial(part.arm, found=found), lambda name: "results/grid")


def ablation_sources(records: Sequence[Run]) -> tuple[Source, Source]:
    """The ablation's small and long setting: six layers, CIFAR-10, decay of 1-d parameters on."""
    rows = {"before": "vanilla", "after": "swapped", "complete": DEFAULT}

    def arms(table, activation, placement):
        return {run.config["seed"]: run for run in table
                if run.config["activation"] == activation and ablation.row_of(run.config) == rows[placement]}

    return tuple(Source(f"ablation, six-layer ConvNet, CIFAR-10, {words}",
                        partial(arms, of_setting(records, train_images=images)), lambda name: "results/ablation")
                 for words, images in (("3 epochs of 20,000 images", 20_000), ("8 epochs of 45,000 images", 45_000)))


def residual_sources(found: Mapping[str, Run]) -> list[Source]:
    """ResNet-20, vanilla BN in the published form; `complete` in the form that results/residual/PROTOCOL.md chose.

    Where the grid has not run the form activated, that as well. `found` holds the runs of the grid and of the residual
    forms.
    """
    form = joins.chosen(joins.arms_of(found))
    return [_residual_source(found, setting, join) for setting in joins.SETTINGS
            for join in dict.fromkeys(("activated", form))
            if join == form or setting in (joins.LONG, joins.TUNED)]


def _residual_source(found: Mapping[str, Run], setting: joins.Setting, form: str) -> Source:
    arms, of_grid = joins.arms_of(found, setting), setting.of_grid()
    return Source(f"residual forms, {setting.label}, complete {form}",
                  lambda f, p: arms.get((f, p, form if p == "complete" else "activated"), {}),
                  lambda name: "results/grid" if name in of_grid else "results/residual")


def structure_row(source: Source) -> Row:
    """Sentence 3b: whether the position helps, and the rest of the structure on top of it."""
    said, outcomes, used, pairs = [], [], [], []
    for f in ACTIVATIONS:
        arms = {placement: source.arms(f, placement) for placement in ("before", "after", "complete")}
        used += [run for arm in arms.values() for run in arm.values()]
        position, rest = (verdicts.differences(arms[a], arms[b], verdicts.gain)
                          for a, b in (("after", "before"), ("complete", "after")))
        outcomes.append(verdicts.both(*(verdicts.outcome(list(d.values())) for d in (position, rest))))
        if position and rest:
            said.append(f"{f} {fmean(position.values()):+.1f} and {fmean(rest.values()):+.1f}")
            pairs += [(position[seed], rest[seed]) for seed in position if seed in rest]
    text = ", ".join(said) or "-"
    return Row("3b", "Position and structure both matter (points: swapped minus vanilla, complete minus swapped)",
               "our reading", source.label, text, text, f"{sum(min(pair) > 0 for pair in pairs)} of {len(pairs)}",
               devices(used), verdicts.verdict(outcomes), paths(used, source.folder))


def longer_row(sentence: Sentence, short: Source, long: Source) -> Row:
    """Sentence 5d: what is left of a gain (`sentence` is 5a) when training is longer."""
    said, row = [], sentence.row(long)
    for f in sentence.activations:
        cells = [sentence.cell(source, f) for source in (short, long)]
        if all(cell.differences for cell in cells):
            first, last = (fmean(cell.differences.values()) for cell in cells)
            word = {"holds": "kept", "open": "not decided", "contrary": "lost"}.get(cells[1].outcome, "not tested")
            smaller = ", smaller" if word == "kept" and last < first else ""
            said.append(f"{f} {first:+.1f} to {last:+.1f} ({word}{smaller})")
    text = ", ".join(said) or "-"
    return replace(row, sentence="5d", claim="The lead in accuracy is kept in longer training (points, short to long)",
                   origin="ours", setting=f"{short.label}, to {long.label.rpartition(', ')[2]}", brief=text,
                   measured=text)


def published_rows(found: Mapping[str, Run]) -> list[Row]:
    """Kim, Kim and Kim 2023, and the sign of the same difference in our own full-size VGG16."""
    source, rows = grid_source(grid.Part("full", "cifar100", "vgg16"), found), []
    for f, (before, after) in PUBLISHED.items():
        ours, theirs = (source.arms(f, placement) for placement in ("after", "before"))
        gains = list(verdicts.differences(ours, theirs, verdicts.gain).values())
        signed = [math.copysign(1, after - before) * g for g in gains]
        used = [*ours.values(), *theirs.values()]
        text = f"after minus before {fmean(gains):+.1f}" if gains else "-"
        claim = (f"VGG16, CIFAR-100, {f}: {before} with BN before the activation, {after} with BN after it "
                 f"({after - before:+.2f} points)")
        rows.append(Row("Kim, Kim and Kim 2023", claim, THEIRS, source.label, text, text,
                        f"{sum(s > 0 for s in signed)} of {len(signed)}" if signed else "0", devices(used),
                        verdicts.verdict([verdicts.outcome(signed)]), paths(used, source.folder)))
    return rows


def diverged(records: Iterable[Run]) -> str:
    """"; diverged: selu with none, 3 runs" or nothing. (They count as a net that says nothing, see `grid.final`.)"""
    lost = {runs.name(run.config): run.config for run in records if run.status == "diverged"}  # each run once
    counts = Counter(f"{config['activation']} with {config['placement']}" for config in lost.values())
    said = ", ".join(f"{arm}, {count} run{'s' * (count > 1)}" for arm, count in counts.items())
    return f"; diverged: {said}" if said else ""


def devices(records: Iterable[Run]) -> str:
    return ", ".join(sorted({run.provenance["device"] for run in records})) or "-"


def paths(records: Iterable[Run], folder: Callable[[str], str]) -> tuple[str, ...]:
    """Each record once, in the folder that `folder` gives for its name."""
    names = {runs.name(run.config) for run in records}
    return tuple(sorted(f"{folder(name)}/{name}.json" for name in names))
