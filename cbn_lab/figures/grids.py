"""Activation x placement as a grid of numbers: one cell per combination, with its mean and its seeds."""

import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from cbn_lab import blocks
from cbn_lab.figures.selection import (
    activations_of,
    finals,
    part,
    readable,
    spread,
    unfinished,
)
from cbn_lab.figures.style import Figure, axes, styled

_LIGHT, _DARK = (1.0, 1.0, 1.0), (0.46, 0.70, 0.86)  # black letters can be read on both, in grey as well
_FRAME = "#D55E00"
_NAMES = 0.85  # inches left of the cells, under which the caption does not stand


@styled
def placement_grid(runs: Sequence, metric: str = "test_accuracy") -> Figure:
    """A row per activation, a column per placement; in each cell the mean of `metric` and the least to largest seed.

    Accuracies in %, losses in nats. Cells are the darker, the higher the mean ranks among all of the grid. A thick
    frame marks the best mean of a row, a dashed one each cell whose seeds overlap with those of the best. Runs that did
    not finish are counted in their cell. Errors as in `figures.accuracies`.
    """
    factor, digits, unit = (100, 1, "%") if "accuracy" in metric else (1, 3, "nats") if "loss" in metric else (1, 3, "")
    by_placement = finals(runs, "placement", metric)
    lost = unfinished(runs, metric)
    names = activations_of(by_placement)
    names += [name for name in lost if name not in names]
    found = {*by_placement, *(place for row in lost.values() for place in row)}
    places = [place for place in blocks.placements() if place in found] + sorted(found - set(blocks.placements()))
    cells = {name: {place: [factor * value for value in by_placement.get(place, {}).get(name, {}).values()]
                    for place in places} for name in names}
    ranking = sorted({fmean(values) for row in cells.values() for values in row.values() if values})
    what = f"{readable(metric)} after the last epoch{f' ({unit})' if unit else ''}"
    where = f"{part(runs)}{_devices(runs)}"
    ours = "Complete: our reconstruction of CBN." if "complete" in places else ""
    width = max(1.5 + 1.28 * len(places), 5.4)
    caption = textwrap.fill(f"{_upper(what)}: mean{_seeds(cells)}, least to largest. Runs: {where}. Darker: higher; "
                            f"framed: best mean of the row; dashed: its seeds overlap with the best's. {ours}",
                            int((width - _NAMES) / 0.08))
    fig, (axis,) = axes(size=(width, 1.1 + 0.2 * len(caption.split("\n")) + 0.72 * len(names)))
    for y, (name, row) in enumerate(cells.items()):
        best = _best(row, lower="loss" in metric)
        for x, (place, values) in enumerate(row.items()):
            frame = "" if best is None else "best" if place == best else _overlap(values, row[best])
            _draw_cell(axis, x, y, values, lost.get(name, {}).get(place, 0), digits, ranking, frame)
    _finish(axis, places, names, caption)
    said = " ".join(_row_sentence(name, row, lost.get(name, {}), digits, lower="loss" in metric)
                    for name, row in cells.items())
    return Figure(fig, f"Grid of {what}, {where}. {said}{ours and f' {ours}'}")


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _seeds(cells) -> str:
    counts = {len(values) for row in cells.values() for values in row.values() if values}
    number = f"{max(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return "" if counts == {1} else f" of {number} seeds"


def _devices(runs) -> str:
    found = sorted({run.provenance["device"] for run in runs if "device" in run.provenance})
    return f", on {' and '.join(found)}" if found else ""


def _best(row: Mapping[str, Sequence[float]], *, lower: bool) -> str | None:
    means = {place: fmean(values) for place, values in row.items() if values}
    return None if len(means) < 2 else (min if lower else max)(means, key=means.get)


def _overlap(values: Sequence[float], best: Sequence[float]) -> str:
    return "overlaps" if values and max(values) >= min(best) and min(values) <= max(best) else ""


def _draw_cell(axis, x, y, values, lost, digits, ranking, frame):
    share = ranking.index(fmean(values)) / max(len(ranking) - 1, 1) if values else 0.0
    colour = to_hex([a + share * (b - a) for a, b in zip(_LIGHT, _DARK, strict=True)])
    axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="#8c8c8c", linewidth=0.8,
                             hatch=None if values else "//", zorder=1))
    if frame:
        axis.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, facecolor="none", edgecolor=_FRAME, zorder=2,
                                 linewidth=2.8 if frame == "best" else 1.3,
                                 linestyle="-" if frame == "best" else (0, (4, 2))))
    lines = [f"{min(values):.{digits}f}–{max(values):.{digits}f}"] if len(values) > 1 else []
    lines += [f"{lost} unfinished"] if lost else []
    if values:
        axis.text(x, y - 0.17 if lines else y, f"{fmean(values):.{digits}f}", ha="center", va="center", fontsize=13,
                  weight="bold" if frame == "best" else "normal", zorder=3)
    elif not lost:
        lines = ["not run"]
    axis.text(x, y + 0.2 if values else y, "\n".join(lines), ha="center", va="center", fontsize=10.5, zorder=3,
              linespacing=1.0, bbox=None if values else {"facecolor": "white", "edgecolor": "none", "pad": 1.5})


def _finish(axis, places, names, caption):
    axis.set(xlim=(-0.5, len(places) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axis.set_xticks(range(len(places)), places)
    axis.set_yticks(range(len(names)), names)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.grid(visible=False)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_xlabel(caption, fontsize=10.5, linespacing=1.3)


def _row_sentence(name, row, unfinished, digits, lower) -> str:
    said = []
    for place, values in row.items():
        lost = f", {unfinished[place]} did not finish" if place in unfinished else ""
        said.append(f"{place} {spread(values, digits) if values else 'no value'}{lost}")
    best = _best(row, lower=lower)
    return f"{name}: {'; '.join(said)}{f'; best {best}' if best else ''}."
