"""Pictures of recorded runs: learning curves, final accuracies, differences from vanilla BN, the structure ablation.

Every seed is drawn. Runs are put side by side only if they differ in what the picture compares: a mixture of, say, two
learning rates is refused.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from matplotlib.lines import Line2D

from cbn_lab import activations, blocks
from cbn_lab.figures.style import Figure, Mark, axes, mark, nth_mark, styled

_COMPARED = ("activation", "placement", "norm_options")
_INCIDENTAL = ("seed", "device", "precision", "compile", "log_every", "evaluate_every")  # may differ inside an arm


def arms(runs: Sequence) -> dict[str, list]:
    """The runs by what differs between them: activation, placement or both. ValueError if more than that differs."""
    _require_one_setting(runs, "these runs", _COMPARED)
    differing = [key for key in ("activation", "placement") if len({_word(run.config[key]) for run in runs}) > 1]
    groups: dict[str, list] = {}
    for run in runs:
        label = ", ".join(_word(run.config[key]) for key in differing or ["placement"])
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
        _require_one_setting(group, f"the arm {label!r}")
    split = _split(every)
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
    return Figure(fig, f"Learning curves, {_setting(every)}. {' '.join(said)}")


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


@styled
def final_accuracy(runs: Sequence, *, rows: str | Callable = "placement", metric: str = "test_accuracy") -> Figure:
    """One row per placement (or per `rows(config)`), one colour per activation, one dot per seed; in %."""
    table = accuracies(runs, rows, metric)
    names = _activations_of(table)
    fig, (axis,) = axes(size=(8, 1.6 + 0.34 * len(table) + 0.09 * len(table) * len(names)))
    for i, per_activation in enumerate(table.values()):
        _draw_row(axis, i, {f: list(values.values()) for f, values in per_activation.items()}, names)
    _finish_rows(axis, list(table), names, f"{_readable(metric)} after the last epoch (%), every seed")
    said = [f"{row}: {_by_activation(values)}." for row, values in table.items()]
    return Figure(fig, f"{_readable(metric).capitalize()} in % after the last epoch, one dot a seed, {_setting(runs)}. "
                       f"{' '.join(said)}{_missing(runs, metric)}")


@styled
def difference(runs: Sequence, *, baseline: str = "before", rows: str | Callable = "placement",
               metric: str = "test_accuracy") -> Figure:
    """Accuracy minus that of the row `baseline` with the same activation and seed, in percentage points."""
    table = accuracies(runs, rows, metric)
    if baseline not in table:
        raise ValueError(f"no runs of the baseline {baseline!r}; there are: {', '.join(table)}")
    names = _activations_of(table)
    gains = {row: {f: paired(values[f], table[baseline].get(f, {})) for f in values}
             for row, values in table.items() if row != baseline}
    fig, (axis,) = axes(size=(8, 1.6 + 0.34 * len(gains) + 0.09 * len(gains) * len(names)))
    axis.axvline(0, color="#555555", linewidth=1.5)
    for i, per_activation in enumerate(gains.values()):
        _draw_row(axis, i, per_activation, names)
    _finish_rows(axis, list(gains), names, f"{_readable(metric)} minus that of {baseline} (points), paired by seed")
    said = [f"{row}: " + "; ".join(f"{f} {spread(g, sign=True)}, better in {sum(d > 0 for d in g)} of {len(g)} seeds"
                                   for f, g in per.items() if g) + "." for row, per in gains.items()]
    return Figure(fig, f"{_readable(metric).capitalize()} minus that of {baseline} with the same seed, in percentage "
                       f"points, {_setting(runs)}. {' '.join(said)}{_missing(runs, metric)}")


@styled
def ablation(records: Sequence, rows: Mapping, *, metric: str = "validation_accuracy",
             baseline: str = "vanilla") -> Figure:
    """A panel per activation, a row per structure, a dot per seed, a bar at the mean of several; dashed: mean baseline.

    `rows` is `cbn_lab.ablation.ROWS` or a part of it: key -> object with label, placement and options.
    """
    def row_label(config):
        return next((row.label for row in rows.values()
                     if (config["placement"], config["norm_options"]) == (row.placement, row.options)), None)

    records = [run for run in records if row_label(run.config) is not None]
    table = accuracies(records, row_label, metric)
    labels = [row.label for row in rows.values() if row.label in table]
    names = _activations_of(table)
    fig, panels = axes(len(names), size=(4 + 1.75 * len(names), 1.3 + 0.36 * len(labels)), sharex=True, sharey=True)
    said = []
    for axis, name in zip(panels, names, strict=True):
        values = {label: list(table[label].get(name, {}).values()) for label in labels}
        reference = values.get(rows[baseline].label) if baseline in rows else None
        _draw_panel(axis, name, values, reference)
        said.append(_panel_sentence(name, values, reference and fmean(reference)))
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    fig.supxlabel(f"{_readable(metric)} after the last epoch (%), every seed", fontsize=12)
    return Figure(fig, f"Structure ablation, {_readable(metric)} in %, {len(labels)} structures, {_setting(records)}. "
                       f"{' '.join(said)}{_missing(records, metric)}")


def _draw_panel(axis, name, values, reference):
    style = _activation_mark(name)
    axis.set_title(name)
    if reference:
        axis.axvline(fmean(reference), color="#555555", linewidth=1.2, linestyle=(0, (4, 3)))
    for i, of_seeds in enumerate(values.values()):
        axis.plot(of_seeds, [i] * len(of_seeds), **_dots(style) | {"markersize": 6})
        if len(of_seeds) > 1:  # one seed has no mean
            axis.plot([fmean(of_seeds)] * 2, [i - 0.36, i + 0.36], color=style.colour, linewidth=2, label="_mean")
    axis.locator_params(axis="x", nbins=4)


def _panel_sentence(name, values, reference) -> str:
    means = {label: fmean(v) for label, v in values.items() if v}
    best, worst = max(means, key=means.get), min(means, key=means.get)
    vanilla = "" if not reference else f", vanilla BN {reference:.1f}"
    return f"{name}: from {means[worst]:.1f} ({worst}) to {means[best]:.1f} ({best}){vanilla}."


def accuracies(runs: Sequence, rows: str | Callable, metric: str) -> dict[str, dict[str, dict[int, float]]]:
    """row -> activation -> seed -> final accuracy in %; runs that did not finish are left out.

    ValueError if nothing is left, if two runs have the same row, activation and seed, or if settings are mixed.
    """
    key = rows if callable(rows) else lambda config: _word(config[rows])
    _require_one_setting(runs, "these runs", _COMPARED)
    table: dict[str, dict[str, dict[int, float]]] = {}
    for run in runs:
        if run.final.get(metric) is not None:
            cell = table.setdefault(key(run.config), {}).setdefault(_word(run.config["activation"]), {})
            if run.config["seed"] in cell:
                raise ValueError(f"two runs share row {key(run.config)!r}, activation {run.config['activation']!r} and "
                                 f"seed {run.config['seed']}; keep one of them")
            cell[run.config["seed"]] = 100 * run.final[metric]
    if not table:
        raise ValueError(f"none of the {len(runs)} runs has a final {metric}")
    known = blocks.placements()
    if set(table) <= set(known):
        table = {row: table[row] for row in known if row in table}
    return table


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> list[float]:
    """value - reference for each seed that both have."""
    return [values[seed] - reference[seed] for seed in sorted(values) if seed in reference]


def spread(values: Sequence[float], digits: int = 1, *, sign: bool = False, unit: str = "") -> str:
    """"71.3 (70.1 to 72.0, 3 seeds)": the mean and the range; one value alone is just itself."""
    form = f"{'+' if sign else ''}.{digits}f"
    mean = f"{fmean(values):{form}}{unit}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}}, {len(values)} seeds)"


def _draw_row(axis, i, per_activation, names):
    """Dots of row i, each activation on a height of its own."""
    for j, name in enumerate(names):
        values = per_activation.get(name, [])
        style = _activation_mark(name)
        height = i + (j - (len(names) - 1) / 2) * 0.76 / len(names)
        axis.plot(values, [height] * len(values), label=name, **_dots(style))


def _dots(style: Mark) -> dict:
    return {"linestyle": "", "marker": style.marker, "color": style.colour, "markersize": 7.5,
            "markeredgecolor": "white", "markeredgewidth": 0.5}


def _activation_mark(name: str) -> Mark:
    return mark(name, activations.names()) if name in activations.names() else nth_mark(0)


def _finish_rows(axis, labels, names, xlabel):
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_xlabel(xlabel)
    axis.grid(axis="y", visible=False)
    for i in range(1, len(labels)):
        axis.axhline(i - 0.5, color="#d9d9d9", linewidth=0.8)
    handles = [Line2D([], [], label=name, **_dots(_activation_mark(name))) for name in names]
    axis.figure.legend(handles=handles, loc="outside upper center", ncols=len(names), handlelength=1.2)


def _activations_of(table) -> list[str]:
    found = {name for per_activation in table.values() for name in per_activation}
    return [name for name in activations.names() if name in found] + sorted(found - set(activations.names()))


def _by_activation(per_activation) -> str:
    return "; ".join(f"{name} {spread(list(values.values()))}" for name, values in per_activation.items())


def _marks(groups) -> list[Mark]:
    """By placement where all arms differ in it, else by activation, else by position."""
    for key, registry in (("placement", blocks.placements()), ("activation", activations.names())):
        values = [_word(group[0].config[key]) for group in groups.values()]
        if set(values) <= set(registry) and len(set(values)) == len(values):
            return [mark(value, registry) for value in values]
    return [nth_mark(i) for i in range(len(groups))]


def _split(runs) -> str:
    """The held-out split that was evaluated most often."""
    def count(split):
        return sum(f"{split}_accuracy" in entry for run in runs for entry in run.curve)

    return "validation" if count("validation") > count("test") else "test"


def _require_one_setting(runs, what: str, compared: Sequence[str] = ()) -> None:
    ignored = {*_INCIDENTAL, *compared}
    differing = sorted({key for run in runs for key, value in run.config.items()
                        if key not in ignored and value != runs[0].config.get(key)})
    if differing:
        raise ValueError(f"{what} differ in {', '.join(differing)} as well, so they cannot be compared here; "
                         "choose those of one setting first")


def _setting(runs) -> str:
    """What all the runs share, in words."""
    words = [[*(_word(run.config[key]) for key in ("data", "model", "activation", "placement")),
              f"{run.config['epochs']} epochs"] for run in runs]
    return ", ".join(column[0] for column in zip(*words, strict=True) if len(set(column)) == 1)


def _missing(runs, metric) -> str:
    absent = [run for run in runs if run.final.get(metric) is None]
    if not absent:
        return ""
    return f" Not drawn, because they did not finish: {len(absent)} of {len(runs)} runs."


def _number(value) -> float:
    return math.nan if value is None else value


def _word(value) -> str:
    return value if isinstance(value, str) else "mixed"


def _readable(metric: str) -> str:
    return metric.replace("_", " ")
