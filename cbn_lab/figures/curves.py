"""Learning curves of recorded runs, one arm for each setting that is compared. Every seed is drawn."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from cbn_lab import activations, blocks
from cbn_lab.figures.selection import COMPARED, held_out_split, require_one_setting, setting, spread, word
from cbn_lab.figures.style import Figure, Mark, axes, mark, nth_mark, styled


def arms(runs: Sequence) -> dict[str, list]:
    """The runs by what differs between them: activation, placement or both. ValueError if more than that differs."""
    require_one_setting(runs, "these runs", COMPARED)
    differing = [key for key in ("activation", "placement") if len({word(run.config[key]) for run in runs}) > 1]
    groups: dict[str, list] = {}
    for run in runs:
        label = ", ".join(word(run.config[key]) for key in differing or ["placement"])
        groups.setdefault(label, []).append(run)
    return groups


@styled
def learning_curves(runs: Sequence | Mapping[str, Sequence]) -> Figure:
    """Training loss (nats) and held-out accuracy (%) against the epoch: a thin line per seed, a thick one for the mean.

    `runs` is a list, which is divided into arms by activation and placement, or label -> runs. Unfinished runs are
    drawn as far as they got. ValueError for no runs, or for an arm whose runs differ in more than the seed.
    """
    groups = dict(runs) if isinstance(runs, Mapping) else arms(runs)
    every = [run for group in groups.values() for run in group]
    if not every or not all(groups.values()):
        raise ValueError("there are no runs to draw (or an arm has none); record some with cbn_lab.train.fit")
    for label, group in groups.items():
        require_one_setting(group, f"the arm {label!r}")
    split = held_out_split(every)
    fig, (left, right) = axes(2, size=(10, 3.9))
    said = []
    for (label, group), style in zip(groups.items(), _marks(groups), strict=True):
        losses = [[(e["epoch"], _number(e["loss"])) for e in run.curve] for run in group]
        reached = [[(e["epoch"], 100 * e[f"{split}_accuracy"]) for e in run.curve if f"{split}_accuracy" in e]
                   for run in group]
        _draw_arm(left, losses, style, label, markers=False)
        _draw_arm(right, reached, style, label, markers=True)
        said.append(_arm_sentence(label, losses, reached, split))
    for axis, what in ((left, "training loss (nats)"), (right, f"{split} accuracy (%)")):
        axis.set_xlabel("epoch")
        axis.set_ylabel(what)
        axis.set_xlim(0, 1.03 * max(run.config["epochs"] for run in every))  # of the whole run, also while it goes on
    fig.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(groups), 3))
    return Figure(fig, f"Learning curves, {setting(every)}. {' '.join(said)}")


def _draw_arm(axis, curves, style: Mark, label, markers):
    options = {"color": style.colour, "linestyle": style.line}
    if markers:
        options |= {"marker": style.marker}
    several = len(curves) > 1
    for curve in curves if several else []:
        axis.plot(*_columns(curve), **options | {"linewidth": 0.9, "alpha": 0.55, "marker": ""}, label="_seed")
    axis.plot(*_columns(_mean_curve(curves)), **options, label=label)


def _mean_curve(curves) -> list[tuple[float, float]]:
    """Mean over the seeds at the epochs that all of them have reached."""
    tables = [dict(curve) for curve in curves]
    return [(x, fmean(table[x] for table in tables)) for x in tables[0] if all(x in table for table in tables)]


def _columns(points):
    return [x for x, _ in points], [y for _, y in points]


def _arm_sentence(label, losses, reached, split) -> str:
    last = [curve[-1] for curve in losses if curve]
    if not last:
        return f"{label}: not begun."
    finals = [curve[-1][1] for curve in reached if curve]
    accuracy = f"{split} accuracy {spread(finals, unit=' %')}" if finals else "not evaluated yet"
    return (f"{label}: training loss {spread([y for _, y in last], 3)}, {accuracy} "
            f"at epoch {max(x for x, _ in last):.3g}.")


def _marks(groups) -> list[Mark]:
    """By placement where all arms differ in it, else by activation, else by position."""
    for key, registry in (("placement", blocks.placements()), ("activation", activations.names())):
        values = [word(group[0].config[key]) for group in groups.values()]
        if set(values) <= set(registry) and len(set(values)) == len(values):
            return [mark(value, registry) for value in values]
    return [nth_mark(i) for i in range(len(groups))]


def _number(value) -> float:
    return math.nan if value is None else value
