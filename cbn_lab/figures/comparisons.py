"""Pictures of recorded runs' last numbers: accuracies, differences from vanilla BN, the structure ablation.

Every seed is drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from matplotlib.lines import Line2D

from cbn_lab import activations
from cbn_lab.figures.selection import (
    accuracies,
    activations_of,
    finals,
    missing,
    paired,
    readable,
    require_records,
    setting,
    spread,
)
from cbn_lab.figures.style import STYLE, Figure, Mark, axes, mark, nth_mark, styled


@styled
def final_accuracy(runs: Sequence, *, rows: str | Callable = "placement", metric: str = "test_accuracy") -> Figure:
    """One row per placement (or per `rows(config)`), one colour per activation, one dot per seed; in %."""
    table = accuracies(runs, rows, metric)
    names = activations_of(table)
    fig, (axis,) = axes(size=(8, 1.6 + 0.34 * len(table) + 0.09 * len(table) * len(names)))
    for i, per_activation in enumerate(table.values()):
        _draw_row(axis, i, {f: list(values.values()) for f, values in per_activation.items()}, names)
    finish_rows(axis, list(table), names, f"{readable(metric)} after the last epoch (%), every seed")
    said = [f"{row}: {_by_activation(values)}." for row, values in table.items()]
    return Figure(fig, f"{readable(metric).capitalize()} in % after the last epoch, one dot a seed, {setting(runs)}. "
                       f"{' '.join(said)}{missing(runs, metric)}")


@styled
def difference(runs: Sequence, *, baseline: str = "before", rows: str | Callable = "placement",
               metric: str = "test_accuracy") -> Figure:
    """Accuracy minus that of the row `baseline` with the same activation and seed, in percentage points."""
    table = accuracies(runs, rows, metric)
    if baseline not in table:
        raise ValueError(f"no runs of the baseline {baseline!r}; there are: {', '.join(table)}")
    names = activations_of(table)
    gains = {row: {f: paired(values[f], table[baseline].get(f, {})) for f in values}
             for row, values in table.items() if row != baseline}
    if not any(gain for per_activation in gains.values() for gain in per_activation.values()):
        raise ValueError(f"no run has a partner with the same seed among those of {baseline!r}; there are: "
                         f"{', '.join(table)}")
    fig, (axis,) = axes(size=(8, 1.6 + 0.34 * len(gains) + 0.09 * len(gains) * len(names)))
    axis.axvline(0, color="#555555", linewidth=1.5)
    for i, per_activation in enumerate(gains.values()):
        _draw_row(axis, i, per_activation, names)
    finish_rows(axis, list(gains), names, f"{readable(metric)} minus that of {baseline} (points), paired by seed")
    said = [f"{row}: " + ("; ".join(f"{f} {spread(g, sign=True)}, better in {sum(d > 0 for d in g)} of {len(g)} seeds"
                                    for f, g in per.items() if g) or "no pair of one seed") + "."
            for row, per in gains.items()]
    return Figure(fig, f"{readable(metric).capitalize()} minus that of {baseline} with the same seed, in percentage "
                       f"points, {setting(runs)}. {' '.join(said)}{missing(runs, metric)}")


@styled
def ablation(records: Sequence, rows: Mapping, *, metric: str = "validation_accuracy", baseline: str = "vanilla",
             gains: bool = False) -> Figure:
    """A panel per activation, a row per structure, a dot per seed, a bar at the mean of several; dashed: mean baseline.

    `rows` is `cbn_lab.ablation.ROWS` or a part of it: key -> object with label, placement and options. `metric` is an
    accuracy (in %) or a loss (in nats). With `gains` the values are differences to the baseline's run with the same
    seed. ValueError if nothing is left to draw, or if there are no such pairs.
    """
    require_records(records)
    if gains and baseline not in rows:
        raise ValueError(f"baseline must be one of {', '.join(map(str, rows)) or 'the rows, and there are none'}; got "
                         f"{baseline!r}")

    def row_label(config):
        return next((row.label for row in rows.values()
                     if (config["placement"], config.get("norm_options", {})) == (row.placement, row.options)), None)

    known = [run for run in records if row_label(run.config) is not None]
    if records and not known:
        raise ValueError(f"none of the {len(records)} runs has one of the structures: "
                         f"{', '.join(row.label for row in rows.values()) or 'no row is given'}")
    records = known
    table, unit = _in_unit(finals(records, row_label, metric), metric)
    if gains:
        table, unit = _against(table, rows[baseline].label), "points" if unit == "%" else unit
    labels = [row.label for row in rows.values() if row.label in table]
    names = activations_of(table)
    fig, panels = _ablation_axes(labels, names)
    said = []
    for axis, name in zip(panels, names, strict=True):
        values = {label: list(table[label].get(name, {}).values()) for label in labels}
        reference = [0.0] if gains else values.get(rows[baseline].label) if baseline in rows else None
        _draw_panel(axis, name, values, reference)
        said.append(_panel_sentence(name, values, None if gains else reference and fmean(reference), unit))
    what = readable(metric)
    fig.supxlabel(f"{what} minus {baseline}'s with the same seed ({unit})" if gains else
                  f"{what} after the last epoch ({unit}), every seed", fontsize=12)
    against = f" minus that of {rows[baseline].label} with the same seed" if gains else ""
    return Figure(fig, f"Structure ablation, {what}{against}, in {unit}, {len(labels)} structures, "
                       f"{setting(records)}. {' '.join(said)}{missing(records, metric)}")


def _in_unit(table, metric) -> tuple[dict, str]:
    """row -> activation -> seed -> value as it is drawn, and its unit."""
    factor, unit = (100, "%") if "accuracy" in metric else (1, "nats")
    return {row: {f: {seed: factor * value for seed, value in of_seeds.items()} for f, of_seeds in per.items()}
            for row, per in table.items()}, unit


def _against(table, baseline) -> dict:
    """The table's differences to its row `baseline`, seed by seed; that row is left out."""
    reference = table.get(baseline, {})
    gains = {row: {f: {seed: value - reference[f][seed] for seed, value in of_seeds.items() if seed in reference[f]}
                   for f, of_seeds in per.items() if of_seeds.keys() & reference.get(f, {}).keys()}
             for row, per in table.items() if row != baseline}
    if not any(gains.values()):
        raise ValueError(f"no run has a partner with the same seed among those of {baseline!r}; there are: "
                         f"{', '.join(table)}")
    return gains


def _ablation_axes(labels, names):
    """One panel per activation, beside labels that may be long."""
    left = 0.3 + 0.082 * max(map(len, labels))  # inches; 0.082 is a letter of a tick label
    size = left + max(1.75 * len(names), 3.5), 1.3 + 0.36 * len(labels)
    fig, panels = axes(len(names), size=size, margins=(left, 0.15, 0.7, 0.4, 0.2), sharex=True)
    panels[0].set_yticks(range(len(labels)), labels)
    for axis in panels:
        axis.set_ylim(len(labels) - 0.5, -0.5)
    for axis in panels[1:]:  # a line is drawn in a tenth of the time that a tick without a label takes
        axis.set_yticks([])
        axis.hlines(range(len(labels)), 0, 1, transform=axis.get_yaxis_transform(), zorder=0.5, label="_row",
                    color=STYLE["grid.color"], linewidth=STYLE["grid.linewidth"])
    return fig, panels


def _draw_panel(axis, name, values, reference):
    style = activation_mark(name)
    axis.set_title(name)
    if reference:
        axis.axvline(fmean(reference), color="#555555", linewidth=1.2, linestyle=(0, (4, 3)))
    every = [(value, i) for i, of_seeds in enumerate(values.values()) for value in of_seeds]
    means = [(fmean(of_seeds), i) for i, of_seeds in enumerate(values.values()) if len(of_seeds) > 1]
    axis.plot(*zip(*every, strict=True), **dots(style) | {"markersize": 6})
    if means:  # one seed has none
        x, rows = zip(*means, strict=True)
        axis.vlines(x, [i - 0.36 for i in rows], [i + 0.36 for i in rows], color=style.colour, linewidth=2)
    axis.locator_params(axis="x", nbins=4)


def _panel_sentence(name, values, reference, unit) -> str:
    form = ".3f" if unit == "nats" else ".1f"
    means = {label: fmean(v) for label, v in values.items() if v}
    high, low = max(means, key=means.get), min(means, key=means.get)
    vanilla = "" if not reference else f", vanilla BN {reference:{form}}"
    return f"{name}: from {means[low]:{form}} ({low}) to {means[high]:{form}} ({high}){vanilla}."


def _draw_row(axis, i, per_activation, names):
    """Dots of row i, each activation on a height of its own."""
    for j, name in enumerate(names):
        values = per_activation.get(name, [])
        style = activation_mark(name)
        height = i + (j - (len(names) - 1) / 2) * 0.76 / len(names)
        axis.plot(values, [height] * len(values), label=name, **dots(style))


def dots(style: Mark) -> dict:
    return {"linestyle": "", "marker": style.marker, "color": style.colour, "markersize": 7.5,
            "markeredgecolor": "white", "markeredgewidth": 0.5}


def activation_mark(name: str) -> Mark:
    return mark(name, activations.names()) if name in activations.names() else nth_mark(0)


def finish_rows(axis, labels, names, xlabel):
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_xlabel(xlabel)
    axis.grid(axis="y", visible=False)
    for i in range(1, len(labels)):
        axis.axhline(i - 0.5, color="#d9d9d9", linewidth=0.8)
    handles = [Line2D([], [], label=name, **dots(activation_mark(name))) for name in names]
    axis.figure.legend(handles=handles, loc="outside upper center", ncols=len(names), handlelength=1.2)


def _by_activation(per_activation) -> str:
    return "; ".join(f"{name} {spread(list(values.values()))}" for name, values in per_activation.items())
