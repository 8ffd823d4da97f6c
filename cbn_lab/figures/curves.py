"""Learning curves of runs, recorded or live, one arm for each setting that is compared. Every seed is drawn."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cbn_lab import activations, blocks
from cbn_lab.figures.demands import checked
from cbn_lab.figures.selection import (
    COMPARED,
    halfway,
    held_out_split,
    require_one_setting,
    require_records,
    setting,
    spread,
    word,
)
from cbn_lab.figures.style import MARKS, Figure, Mark, axes, mark, nth_mark, styled

ROW = 0.245  # inches of a row of the legend


@checked
def arms(runs: Sequence) -> dict[str, list]:
    """The runs by what differs between them: activation, placement or both. ValueError if more than that differs."""
    require_records(runs)
    require_one_setting(runs, "these runs", COMPARED)
    differing = [key for key in ("activation", "placement") if len({word(run.config[key]) for run in runs}) > 1]
    groups: dict[str, list] = {}
    for run in runs:
        label = ", ".join(word(run.config[key]) for key in differing or ["placement"])
        groups.setdefault(label, []).append(run)
    return groups


@styled
def learning_curves(runs: Sequence | Mapping[str, Sequence], *,
                    upto: float | Mapping[str, float] | None = None,
                    kept: Mapping[str, Mark] | None = None) -> Figure:
    """Training loss (nats) and held-out accuracy (%) against the epoch: each seed, their range, and their mean.

    Seeds are thin lines on the left and hollow points on the right. A band goes from the lowest seed to the highest and
    a thick line is their mean, both as far as all seeds of the arm have got.

    `runs` is a list, which is divided into arms by activation and placement, or label -> runs. Unfinished runs are
    drawn as far as they got. `upto` is an epoch, for all arms or label -> epoch: later records are left out of the
    curves and the sentence, while the axes stay those of the whole runs. `kept` is for `marks`. ValueError for no runs,
    or for an arm whose runs differ in more than the seed.
    """
    plan = planned(runs, upto, kept)
    fig, panels = two_panels(plan)
    said = draw_arms(panels, plan)
    legend(fig, *panels[1].get_legend_handles_labels())
    return Figure(fig, said)


@dataclass(frozen=True)
class Plan:
    """What `learning_curves` is to draw. Of each arm its losses and accuracies: a list of points for each seed."""

    groups: Mapping[str, Sequence]
    marks: Sequence[Mark]
    curves: Sequence[tuple[list, list]]  # whole, for the scales
    shown: Sequence[tuple[list, list]]
    split: str
    epochs: int

    @property
    def begun(self) -> tuple[bool, ...]:
        """Whether there is anything to be seen on the left and on the right."""
        return tuple(any(itertools.chain(*of_arms)) for of_arms in zip(*self.shown, strict=True))


def planned(runs, upto, kept) -> Plan:
    """From the arguments of `learning_curves`."""
    require_records(itertools.chain(*runs.values()) if isinstance(runs, Mapping) else runs)
    groups = dict(runs) if isinstance(runs, Mapping) else arms(runs)
    every = [run for group in groups.values() for run in group]
    if not every or not all(groups.values()):
        raise ValueError("there are no runs to draw (or an arm has none); record some with cbn_lab.train.fit")
    for label, group in groups.items():
        require_one_setting(group, f"the arm {label!r}")
    split = held_out_split(every)
    curves = [([[(e["epoch"], _number(e["loss"])) for e in run.curve] for run in group],
               [[(e["epoch"], 100 * e[f"{split}_accuracy"]) for e in run.curve if f"{split}_accuracy" in e]
                for run in group]) for group in groups.values()]
    ends = upto if isinstance(upto, Mapping) else dict.fromkeys(groups, upto)
    shown = [tuple(_before(ends.get(label), of_seeds) for of_seeds in both)
             for label, both in zip(groups, curves, strict=True)]
    return Plan(groups, marks(groups, kept), curves, shown, split, max(run.config["epochs"] for run in every))


def _before(end: float | None, curves):
    return curves if end is None else [[point for point in curve if point[0] <= end] for curve in curves]


def draw_arms(panels, plan: Plan) -> str:
    """The curves, on axes that have none; returns the picture in words."""
    said = []
    for label, style, curves, shown in zip(plan.groups, plan.marks, plan.curves, plan.shown, strict=True):
        for axis, whole, part, markers in zip(panels, curves, shown, (False, True), strict=True):
            _keep_in_view(axis, whole)
            draw_arm(axis, part, style, label, markers)
        said.append(_arm_sentence(label, *shown, plan.split))
    every = [run for group in plan.groups.values() for run in group]
    return f"Learning curves, {setting(every)}. {' '.join(said)}"


def two_panels(plan: Plan):
    """Loss and accuracy over the epochs. The margins are fixed: to compute them takes as long as all the drawing."""
    fig, (left, right) = axes(2, size=(10, 3.9))  # the height is the legend's to say
    fig.set_layout_engine(None)
    fig.subplots_adjust(left=0.09, right=0.985, wspace=0.22)
    words = "training loss (nats)", f"{plan.split} accuracy (%)"
    for axis, what, begun in zip((left, right), words, plan.begun, strict=True):
        axis.set_xlabel("epoch")
        axis.set_ylabel(what)
        axis.set_xlim(0, 1.03 * plan.epochs)  # of the whole run, also while it goes on
        if not begun:
            axis.set_yticklabels([])  # nothing says yet what the scale will be
    return fig, (left, right)


def legend(fig, handles, labels) -> None:
    """Above both panels, in as many columns as fit; the picture grows with its rows, the panels stay as they are."""
    column = 0.9 + 0.09 * max(map(len, labels))  # inches: the line, and letters of 11 points
    rows = math.ceil(len(labels) / max(1, min(3, int(9.8 / column))))
    height = 3.66 + ROW * rows
    fig.set_figheight(height)
    fig.subplots_adjust(bottom=0.58 / height, top=1 - (0.1 + ROW * rows) / height)
    fig.legend(handles, labels, loc="upper center", ncols=math.ceil(len(labels) / rows), borderaxespad=0.2)


def _keep_in_view(axis, curves) -> None:
    """The scale is that of the whole curves, so that it stands still while they are revealed."""
    points = [point for curve in curves for point in curve if math.isfinite(point[1])]
    if points:
        axis.update_datalim(points)
        axis.autoscale_view(scalex=False)


def draw_arm(axis, curves, style: Mark, label, markers):
    options = {"color": style.colour, "linestyle": style.line}
    thin = {"color": style.colour, "linestyle": style.line, "linewidth": 0.9, "alpha": 0.55}
    if markers:
        options |= {"marker": style.marker}
        thin = {"color": style.colour, "linestyle": "", "marker": style.marker, "markersize": 5, "fillstyle": "none"}
    mean = _over_seeds(curves, fmean)
    if len(curves) > 1:
        x, lowest = _columns(_over_seeds(curves, min))
        axis.fill_between(x, lowest, _columns(_over_seeds(curves, max))[1], color=style.colour, alpha=0.15,
                          linewidth=0, label="_band")
        for curve in curves:
            axis.plot(*_columns(curve), **thin, label="_seed")
    axis.plot(*_columns(mean), **options, label=label)


def _over_seeds(curves, summary) -> list[tuple[float, float]]:
    """(x, `summary` of the seeds) at the epochs that all of them have reached."""
    tables = [dict(curve) for curve in curves]
    return [(x, summary(table[x] for table in tables)) for x in tables[0] if all(x in table for table in tables)]


def _columns(points):
    return [x for x, _ in points], [y for _, y in points]


def _arm_sentence(label, losses, reached, split) -> str:
    last = [curve[-1] for curve in losses if curve]
    if not last:
        return f"{label}: not begun."
    finals = [curve[-1] for curve in reached if curve]
    accuracy = f"{split} accuracy {spread([y for _, y in finals], unit=' %')}" if finals else "not evaluated yet"
    epoch, evaluated = _epochs(last), _epochs(finals or last)
    return (f"{label}: {_way(losses, reached)}training loss {spread([y for _, y in last], 3)}"
            f"{'' if epoch == evaluated else epoch}, {accuracy}{evaluated}.")


def _way(losses, reached) -> str:
    """"from loss 2.4 at epoch 0.4, over loss 0.9 at epoch 5 and accuracy 61 % at epoch 5, to ", of the means."""
    loss, accuracy = (_over_seeds(curves, fmean) for curves in (losses, reached))
    over = [f"{what} {point[1]:.3g}{unit} at epoch {point[0]:.3g}" for what, point, unit in
            (("loss", halfway(loss), ""), ("accuracy", halfway(accuracy), " %")) if point]
    return f"from loss {loss[0][1]:.3g} at epoch {loss[0][0]:.3g}, over {' and '.join(over)}, to " if over else ""


def _epochs(points) -> str:
    """Where the seeds' last points lie: not all in one place while a run goes on, or after one that was broken off."""
    first, last = (f"{end(x for x, _ in points):.3g}" for end in (min, max))
    return f" at epoch {last}" if first == last else f" at epochs {first} to {last}"


def marks(groups: Mapping[str, Sequence], kept: Mapping[str, Mark] | None = None) -> list[Mark]:
    """Activations' own marks where the arms are named after them; else each placement's own, or the next free one.

    An arm's mark does not depend on those after it: a second run laid over the first leaves that as it was. `kept` are
    the marks that arms had before, which they keep unless an arm before them now has it.
    """
    if set(groups) <= set(activations.names()):
        return [mark(label, activations.names()) for label in groups]
    chosen: list[Mark] = []
    for position, (label, group) in enumerate(groups.items()):
        placement = word(group[0].config["placement"])
        own = [mark(placement, blocks.placements())] if placement in blocks.placements() else []
        wanted = [kept[label]] if kept and label in kept else []
        reserved = {m for name, m in (kept or {}).items() if name in groups and name != label}
        candidates = [m for m in (*wanted, *own, *map(nth_mark, range(len(MARKS)))) if m not in chosen]
        free = [m for m in candidates if m not in reserved] or candidates
        chosen.append(free[0] if free else nth_mark(position))
    return chosen


def _number(value) -> float:
    return math.nan if value is None else value
