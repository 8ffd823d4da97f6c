"""Pictures of the three effects: along training, as ratios of two placements, per layer, and under rescaled weights.

Every seed is a point. A place where an arm has no point because it never got there is named in the picture.
"""

from collections.abc import Mapping, Sequence

from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from cbn_lab import activations, blocks, effects_evidence
from cbn_lab.effects_evidence import EFFECTS, MARGIN, SYMBOLS, geometric_mean, points, value
from cbn_lab.figures.comparisons import activation_mark, dots, finish_rows
from cbn_lab.figures.demands import require_finite
from cbn_lab.figures.style import Figure, Mark, axes, mark, nth_mark, styled

_NAMES = {"curvature": "L, largest curvature", "second": "E‖g‖²", "variance": "Var[g]", "squared_mean": "‖E g‖²",
          "decrease": "best guaranteed decrease", "loss": "training loss"}
_LABELS = SYMBOLS | {"squared_mean": "‖E g‖²", "decrease": "decrease", "loss": "loss"}
_SCALES = {"raw": "raw", "scale_free": "scale-free"}


@styled
def effect_curves(groups: Mapping[str, Sequence], *, matched: str, scale: str,
                  quantities: Sequence[str] = EFFECTS) -> Figure:
    """L, E||g||^2 and Var[g] of each arm (label -> runs) against the training loss or the step: a dot per seed.

    The line is the geometric mean over the seeds that have the point. `quantities` may also name "squared_mean",
    "decrease" and "loss" (see `effects_evidence.value`). ValueError for no runs, for arms of several data sets or
    activations, and for unknown names.
    """
    every = _probed(groups, scale)
    if not quantities or not set(quantities) <= _NAMES.keys():
        raise ValueError(f"quantities must be among {', '.join(_NAMES)}, got {', '.join(quantities) or 'none'}")
    settings = {(run.config["data"], run.config["activation"]) for run in every}
    if len(settings) > 1:
        raise ValueError(f"these runs are of {len(settings)} settings ({sorted(settings)}), so that their constants "
                         "cannot be compared; choose one data set and one activation first")
    places = _places(every, matched)
    fig, panels = axes(len(quantities), size=(1.0 + 3.5 * len(quantities), 4.1), margins=(0.8, 0.1, 0.9, 0.75, 0.85))
    said = []
    for effect, axis in zip(quantities, panels, strict=True):
        means = {label: _draw_arm(axis, group, style, label, places, matched, effect, scale)
                 for (label, group), style in zip(groups.items(), _marks(groups), strict=True)}
        _finish_panel(axis, effect, scale, places, matched)
        said.append(_panel_sentence(effect, means, matched))
    fig.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(len(groups), 4))
    absent = _absent(groups, places, matched)
    if absent:
        fig.supxlabel(f"No point: {absent}", fontsize=10)
    (data, activation), = settings
    return Figure(fig, f"{', '.join(_NAMES[q] for q in quantities)} with {activation} on {data}, {_SCALES[scale]}, at "
                       f"matched {matched}. "
                       f"{' '.join(said)}{f' No point: {absent}.' if absent else ''}")


def _probed(groups: Mapping[str, Sequence], scale: str) -> list:
    """All runs of the arms. ValueError where an arm has none, for runs without probes, and for an unknown scale."""
    if not groups or not all(groups.values()):
        raise ValueError("there are no runs to draw (or an arm has none); python -m cbn_lab.effects records them")
    if scale not in _SCALES:
        raise ValueError(f"scale must be one of {', '.join(_SCALES)}, got {scale!r}")
    every = [run for group in groups.values() for run in group]
    if not all("effects" in run.config for run in every):
        raise ValueError("a run was recorded without the probes of the effects; python -m cbn_lab.effects records "
                         "runs with them")
    return every


def _places(every, matched) -> dict[float, int]:
    """level or step -> position on the axis, in the order of training."""
    if matched not in effects_evidence.MATCHED:
        raise ValueError(f"matched must be one of {', '.join(effects_evidence.MATCHED)}, got {matched!r}")
    found = {place for run in every for place in _wanted(run, matched)}
    return {place: i for i, place in enumerate(sorted(found, reverse=matched == "loss"))}


def _wanted(run, matched) -> list[float]:
    """The levels or steps of the run's own schedule."""
    return run.config["effects"]["levels" if matched == "loss" else "steps"]


def _draw_arm(axis, group, style: Mark, label, places, matched, effect, scale) -> dict[float, float]:
    """Dots and line of one arm; returns the geometric means."""
    dots = [(place, value(entry, effect, scale)) for run in group for place, entry in points(run, matched).items()]
    dots = [(place, y) for place, y in dots if y > 0]
    axis.plot([places[p] for p, _ in dots], [y for _, y in dots], color=style.colour, marker=style.marker, linestyle="",
              markersize=5.5, alpha=0.65, label="_seed")
    means = {p: geometric_mean(y for q, y in dots if q == p) for p in places if any(q == p for q, _ in dots)}
    axis.plot([places[p] for p in means], list(means.values()), color=style.colour, linestyle=style.line,
              marker=style.marker, markersize=3, label=label)
    return means


def _finish_panel(axis, effect, scale, places, matched):
    _logarithmic(axis, effect, scale)
    axis.set_xticks(range(len(places)), [f"{p:g}" for p in places])
    axis.set_xlim(-0.4, len(places) - 0.6)
    axis.set_xlabel("training loss falls below (nats)" if matched == "loss" else "SGD steps")


def _plain_ticks(axis, limits):
    """Plain numbers on a logarithmic axis, 1, 2, 5 in each decade if these are few."""
    low, high = limits
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
    axis.set_minor_locator(NullLocator())  # minor ticks alone would cost a third of the drawing


def _logarithmic(axis, effect, scale):
    axis.set_yscale("log")
    _plain_ticks(axis.yaxis, axis.get_ylim())
    axis.set_title(_NAMES[effect])
    unit = " (nats)" if effect in ("decrease", "loss") else f", {_SCALES[scale]}"
    axis.set_ylabel(_LABELS[effect] + unit)


def _panel_sentence(effect, means, matched) -> str:
    at = "at loss " if matched == "loss" else "after step "
    arms = "; ".join(f"{label} " + (", ".join(f"{y:.3g} {at}{p:g}" for p, y in row.items()) or "no point")
                     for label, row in means.items())
    return f"{_LABELS[effect]}: {arms}."


def _absent(groups, places, matched) -> str:
    """"none below 0.5, 0.2 (1 of 3 seeds)": what an arm's runs do not have."""
    said = []
    for label, group in groups.items():
        lacking: dict[int, list[str]] = {}
        for place in places:
            count = sum(place in _wanted(run, matched) and place not in points(run, matched) for run in group)
            if count:
                lacking.setdefault(count, []).append(f"{place:g}")
        where = "below" if matched == "loss" else "at step"
        said += [f"{label} {where} {', '.join(which)} ({count} of {len(group)} seeds)"
                 for count, which in lacking.items()]
    return "; ".join(said)


def _marks(groups) -> list[Mark]:
    """By placement where all arms differ in it, else by position."""
    values = [group[0].config["placement"] for group in groups.values()]
    if set(values) <= set(blocks.placements()) and len(set(values)) == len(values):
        return [mark(v, blocks.placements()) for v in values]
    return [nth_mark(i) for i in range(len(groups))]


@styled
def effect_scores(records: Sequence, placement: str, reference: str, *, matched: str, scale: str) -> Figure:
    """The protocol's score of each effect, placement / reference: a row per activation, a dot per seed, log scale.

    The grey band is 0.9 to 1/0.9, no clear difference. ValueError if the records have no such pair.
    """
    _probed({"these records": records}, scale)
    found = {run.config["activation"] for run in records}
    names = [name for name in activations.names() if name in found]
    table = {effect: {f: effects_evidence.score(records, f, placement, reference, effect, matched=matched, scale=scale)
                      for f in names} for effect in EFFECTS}
    if not any(score.by_seed for row in table.values() for score in row.values()):
        raise ValueError(f"no pair of runs of {placement} and {reference} has two points in common at matched "
                         f"{matched}; python -m cbn_lab.effects records them")
    fig, (axis,) = axes(size=(8.5, 2.0 + 0.2 * len(EFFECTS) * len(names)))
    axis.axvspan(MARGIN, 1 / MARGIN, color="#e6e6e6", label="_band")
    axis.axvline(1, color="#555555", linewidth=1.5)
    for i, row in enumerate(table.values()):
        for j, (f, score) in enumerate(row.items()):
            _draw_scores(axis, i + (j - (len(names) - 1) / 2) * 0.78 / len(names), f, score)
    axis.set_xscale("log")
    _plain_ticks(axis.xaxis, axis.get_xlim())
    finish_rows(axis, [_NAMES[effect] for effect in EFFECTS], names,
                 f"{placement} / {reference}, {_SCALES[scale]}, matched {matched}; below 1: {placement} smaller")
    said = [f"{SYMBOLS[effect]}: " + "; ".join(f"{f} {score}" for f, score in row.items()) + "."
            for effect, row in table.items()]
    return Figure(fig, f"Ratio of {placement} to {reference}, geometric mean over training, at matched {matched}, "
                       f"{_SCALES[scale]}, one dot a seed. {' '.join(said)}")


def _draw_scores(axis, height, activation, score):
    style = activation_mark(activation)
    values = list(score.by_seed.values())
    axis.plot(values, [height] * len(values), label=activation, **dots(style))
    if not values:
        axis.annotate(f"{activation} not measured", (1.03, height), fontsize=9.5, va="center")


@styled
def effects_by_layer(groups: Mapping[str, Sequence], *, matched: str, at: float, scale: str) -> Figure:
    """L, E||g||^2 and Var[g] of each weight layer, first to last, at one point of training: a dot per seed.

    L is that of the layer's own block of the Hessian, recorded for seed 0. ValueError where no run has the point.
    """
    _probed(groups, scale)
    fig, panels = axes(3, size=(11.5, 4.1))
    said = []
    for effect, axis in zip(EFFECTS, panels, strict=True):
        arms = [_draw_layers(axis, group, style, label, matched, at, effect, scale)
                for (label, group), style in zip(groups.items(), _marks(groups), strict=True)]
        _logarithmic(axis, effect, scale)
        axis.set_xlabel("weight layer")
        said.append(f"{SYMBOLS[effect]}: {'; '.join(arms)}.")
    fig.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(len(groups), 4))
    where = f"where the training loss falls below {at:g}" if matched == "loss" else f"after step {at:g}"
    return Figure(fig, f"The three effects by weight layer, first to last, {_SCALES[scale]}, {where}. {' '.join(said)}")


def _draw_layers(axis, group, style: Mark, label, matched, at, effect, scale) -> str:
    """Dots and line of one arm in one panel; returns its sentence."""
    rows = [row for run in group if (row := _layers(run, matched, at, effect, scale))]
    if not rows:
        raise ValueError(f"no run of {label} has a point at {at:g} with {SYMBOLS[effect]} of every layer")
    layers = range(1, len(rows[0]) + 1)
    for row in rows:
        axis.plot(layers, row, color=style.colour, marker=style.marker, linestyle="", markersize=5.5, alpha=0.65,
                  label="_seed")
    means = [geometric_mean(values) for values in zip(*rows, strict=True)]
    axis.plot(layers, means, color=style.colour, linestyle=style.line, marker=style.marker, markersize=3, label=label)
    axis.set_xticks(layers)
    return f"{label} {', '.join(f'{m:.3g}' for m in means)} (n = {len(rows)})"


def _layers(run, matched, at, effect, scale) -> list[float] | None:
    """One value per layer at one point, or None where the run lacks it."""
    entry = points(run, matched).get(at)
    if entry is None:
        return None
    if effect == "curvature":
        found = [layer.get("curvature", {}).get(scale) for layer in entry["layers"].values()]
    else:
        found = [layer[scale][effect] for layer in entry["layers"].values()]
    return None if None in found else found


@styled
def rescaled_effects(table: Mapping[float, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Raw and scale-free effects against a factor on the weights: factor -> scale -> effect -> value, over factor 1's.

    ValueError if factor 1 is not among them, if a number is missing, and unless those at factor 1 are above 0.
    """
    if 1.0 not in table:
        raise ValueError(f"the effects are drawn relative to factor 1, which is not among {sorted(table)}")
    require_finite(table, "a factor on the weights", positive=True)
    if lacking := [f"{effect}, {scale}, at factor {factor:g}" for factor, of_scale in table.items() for scale in _SCALES
                   for effect in EFFECTS if of_scale.get(scale, {}).get(effect) is None]:
        raise ValueError(f"the table has no {lacking[0]}; each factor needs {', '.join(EFFECTS)}, raw and scale_free")
    require_finite((table[1.0][scale][effect] for scale in _SCALES for effect in EFFECTS), "an effect at factor 1",
                   positive=True)
    factors = sorted(table)
    fig, panels = axes(2, size=(9.5, 3.9), sharey=True)
    said = []
    for (scale, title), axis in zip(_SCALES.items(), panels, strict=True):
        for i, effect in enumerate(EFFECTS):
            style = nth_mark(i)
            relative = [table[a][scale][effect] / table[1.0][scale][effect] for a in factors]
            axis.plot(factors, relative, color=style.colour, linestyle=style.line, marker=style.marker,
                      label=SYMBOLS[effect])
            said.append(f"{SYMBOLS[effect]} {title} {', '.join(f'{r:.3g}' for r in relative)}")
        axis.set_xscale("log")
        axis.set_yscale("log")
        _plain_ticks(axis.xaxis, axis.get_xlim())
        _plain_ticks(axis.yaxis, axis.get_ylim())
        axis.set_title(title)
        axis.set_xlabel("factor a on the weights")
    panels[0].set_ylabel("value / value at a = 1")
    fig.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return Figure(fig, f"The three effects with weights multiplied by {', '.join(f'{a:g}' for a in factors)}, relative "
                       f"to factor 1. {'; '.join(said)}.")
