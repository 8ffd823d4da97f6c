"""Block diagrams: one row of boxes per block, read off the real modules by `figures.steps`.

Boxes differ in outline as well as in colour: weight layers have square corners, activations round ends, norms a thick
edge. Everything is placed in inches, since a computed layout takes longer than the drawing, and a widget waits for it.
"""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import matplotlib.figure
from matplotlib.patches import FancyBboxPatch

from cbn_lab import blocks
from cbn_lab.figures.rows import OUTPUT, grouped, model_paths
from cbn_lab.figures.steps import COMPLETE, SLOTS, Path, Step, block_path
from cbn_lab.figures.style import DPI, Figure, styled

_FILL = {"weight": "#cfe4f2", "norm": "#fbe3b5", "activation": "#cdeadd", "shift": "#f3dbe8", "sum": "#ffffff",
         "copy": "#ffffff", "end": "#ffffff", "empty": "#ffffff"}
_CORNER = {"weight": 0.001, "activation": 0.24, "sum": 0.24}
_MARKED = "#D55E00"
_WIDTH, _HEIGHT, _PITCH = 1.14, 0.5, 1.37  # of a box, and from one box to the next
_LINE, _CAPTION, _BRACKET = 0.78, 0.18, 0.24  # heights of boxes, a line of numbers below them, a bracket
_SHORTCUT, _IDENTITY = 0.74, 0.3  # heights of a shortcut with boxes, and without
_LEAD, _ENTRY = 0.25, 0.12  # how far before its first box a shortcut runs down, and a later line begins
_LETTER = 0.094  # width of one in bold


@styled
def block_diagram(placements: str | Iterable[str], activation: str = "relu", *, layer: Callable | None = None,
                  highlight: str | None = None, **norm_options) -> Figure:
    """What one block does to its input, in order: a row per placement, read off the module that `blocks.block` makes.

    `layer(bias=...)` makes the weight layer, a small convolution if it is not given. `highlight` is a slot: norm_in,
    weight, norm, activation or norm_out; an empty one is drawn as a dashed box. Errors as in `blocks.block`, and
    ValueError for no placements or an unknown slot.
    """
    placements = [placements] if isinstance(placements, str) else list(placements)
    layer = layer or _small_convolution()
    paths = {name: block_path(blocks.block(layer(bias=blocks.needs_bias(name)), activation, name, **norm_options))
             for name in placements}
    return _draw(paths, highlight, numbers=False)


@styled
def module_diagram(modules: Mapping, *, highlight: str | None = None) -> Figure:
    """Label -> a block as it is, of `blocks.block` or a residual one: its steps with their parameters.

    `highlight` as in `block_diagram`. ValueError for no modules, or one that is not such a block.
    """
    return _draw({label: block_path(module) for label, module in modules.items()}, highlight, numbers=True)


@styled
def model_diagram(model, image_shape: Sequence[int] | None = None, *, layers: Iterable[int] | None = None,
                  highlight: str | None = None) -> Figure:
    """The blocks of a network of `models.build`, with the parameters of each step; equal blocks share a row.

    With `image_shape` (C, H, W) a row of a single block has under each box the shape of what leaves it, for one image.
    `layers`, counted from 1, are the only ones to be drawn; `highlight` is as in `block_diagram`. In a preactivated
    net a row has the layers of its weights, and begins with the norms and the activation of the layer before.

    ValueError for a layer or a slot that does not exist, or a model without blocks.
    """
    paths = model_paths(model, image_shape)
    if layers is not None:
        wanted, known = set(layers), {n for group in paths for n in group}
        if not wanted or wanted - known:
            raise ValueError(f"layers must be among 1 to {max(known)}, got {sorted(wanted)}")
        paths = {group: path for group, path in paths.items() if wanted & set(group)}
    return _draw(grouped(paths), highlight, numbers=True)


def _small_convolution() -> Callable:
    from torch import nn

    return partial(nn.Conv2d, 3, 4, 3, padding=1)


def _draw(paths: Mapping[str, Path], highlight: str | None, *, numbers: bool) -> Figure:
    if highlight is not None and highlight not in SLOTS:
        raise ValueError(f"highlight must be one of the slots {', '.join(SLOTS)}, got {highlight!r}")
    if not paths:
        raise ValueError("there is no block to draw; give at least one placement or module")
    paths = {name: _with_empty_slot(path, highlight) for name, path in paths.items()}
    labels = {name: textwrap.fill(name, 17) for name in paths}
    left = 0.48 + _LETTER * max(len(line) for label in labels.values() for line in label.split("\n"))
    width = max(_PITCH * (len(line) + 1) if line is path.lines[-1] else _PITCH * len(line) + 0.1
                for path in paths.values() for line in path.lines)  # with what comes next, or the turn to the next line
    below = {name: _CAPTION * numbers * _caption_lines(path) for name, path in paths.items()}
    lines = {name: _LINE + below[name] + _BRACKET * _has_parts(path) for name, path in paths.items()}
    heights = {name: lines[name] * len(path.lines) + (0 if path.shortcut is None else _SHORTCUT if path.shortcut else
                                                      _IDENTITY) for name, path in paths.items()}
    axis = _canvas(left + width - 0.13, sum(heights.values()) + 0.1)
    y = 0.05 + _LINE / 2
    for name, path in paths.items():
        axis.text(0.1, y, labels[name], va="center", weight="bold", linespacing=1.15)
        end = Step("end", "logits" if name == OUTPUT else path.end, "end")
        _draw_path(axis, path, end, left, y, lines[name], highlight, below[name])
        y += heights[name]
    said = " ".join(f"{name}: {_words(path, numbers)}." for name, path in paths.items())
    parts = f" A bracket joins the steps of {COMPLETE}." if any(map(_has_parts, paths.values())) else ""
    marked = f" Highlighted: the slot {highlight}." if highlight else ""
    return Figure(axis.figure, f"Order of operations in a block. {said}{parts}{marked}")


def _caption_lines(path: Path) -> int:
    """Shape and parameters below a box take a line each."""
    return max((bool(step.parameters) + (step.shape is not None) for line in path.lines for step in line), default=0)


def _has_parts(path: Path) -> bool:
    return any(step.layer for line in path.lines for step in line)


def _canvas(width: float, height: float):
    """Axes that fill the figure, in inches from the upper left corner."""
    fig = matplotlib.figure.Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axis = fig.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.set(xlim=(0, width), ylim=(height, 0))
    return axis


def _with_empty_slot(path: Path, slot: str | None) -> Path:
    """Where the highlighted slot is empty, a dashed box in its place, in each of the path's blocks."""
    def fill(line: tuple[Step, ...]) -> tuple[Step, ...]:
        present = [step.slot for step in line]
        if slot is None or slot in present or ("weight" if slot in SLOTS[:2] else "activation") not in present:
            return line
        before = SLOTS[:SLOTS.index(slot)]
        at = 1 + max((i for i, step in enumerate(line) if step.slot in before), default=-1)
        return (*line[:at], Step("empty", "empty", slot), *line[at:])

    return replace(path, lines=tuple(map(fill, path.lines)))


def _draw_path(axis, path: Path, end: Step, left, y, line, highlight, below) -> None:
    """The lines of a block one below the other, joined, and the shortcut round them. `below`: room for numbers."""
    x = left + _WIDTH / 2
    for i, steps in enumerate(path.lines):
        last = i == len(path.lines) - 1
        _draw_line(axis, [*steps, end] if last else steps, x, y + i * line, highlight, below, entered=i > 0)
        if not last:
            _turn(axis, x + _PITCH * (len(steps) - 1), y + i * line, left, line)
    if path.shortcut is not None:
        total = [step.kind for step in path.lines[-1]].index("sum")
        y_sum = y + (len(path.lines) - 1) * line
        _draw_shortcut(axis, path.shortcut, left - _LEAD, y + path.tap * line, y_sum + line - 0.06, x + _PITCH * total,
                       y_sum, within=path.tap > 0)


def _draw_line(axis, steps, x, y, highlight, below, *, entered) -> None:
    for i, step in enumerate(steps):
        here = x + i * _PITCH
        _box(axis, here, y, step, marked=step.slot == highlight)
        if i or entered:
            start = here - _PITCH + _half_width(steps[i - 1]) if i else here - _WIDTH / 2 - _ENTRY
            _arrow(axis, (start, y), (here - _half_width(step), y))
        if below and step.kind != "sum":
            _caption(axis, here, y + _HEIGHT / 2 + 0.05, step)
    parts = [x + i * _PITCH for i, step in enumerate(steps) if step.layer]
    if parts:
        _bracket(axis, parts[0] - _WIDTH / 2, parts[-1] + _WIDTH / 2, y + _HEIGHT / 2 + 0.04 + below)


def _bracket(axis, start, end, y) -> None:
    axis.plot([start, start, end, end], [y, y + 0.06, y + 0.06, y], color="black", linewidth=1.0)
    axis.text((start + end) / 2, y + 0.09, COMPLETE, ha="center", va="top", fontsize=9.5)


def _half_width(step: Step) -> float:
    return _HEIGHT / 2 if step.kind == "sum" else _WIDTH / 2


def _box(axis, x, y, step: Step, *, marked: bool) -> None:
    half = _half_width(step)
    corner = _CORNER.get(step.kind, 0.06)
    axis.add_artist(FancyBboxPatch(  # not add_patch, which would measure it for axis limits that stand already
        (x - half, y - _HEIGHT / 2), 2 * half, _HEIGHT, boxstyle=f"round,pad=0,rounding_size={corner}",
        facecolor=_FILL[step.kind], edgecolor=_MARKED if marked else "black",
        linewidth=3.2 if marked else 2.0 if step.kind == "norm" else 1.0,
        linestyle={"end": ":", "empty": "--"}.get(step.kind, "-")))
    axis.text(x, y, step.label, ha="center", va="center", fontsize=14 if step.kind == "sum" else 10.5,
              linespacing=1.12)
    if marked:
        axis.plot(x, y - _HEIGHT / 2 - 0.075, marker="v", color=_MARKED, markersize=8, clip_on=False)


def _arrow(axis, start, end) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0,
                                              "linewidth": 1.0})


def _caption(axis, x, y, step: Step) -> None:
    """Shape and number of parameters below a box."""
    lines = [] if step.shape is None else [" × ".join(map(str, step.shape))]
    if step.parameters:
        lines.append(f"{step.parameters:,} params")
    axis.text(x, y, "\n".join(lines), ha="center", va="top", fontsize=9.5, linespacing=1.15)


def _turn(axis, x, y, left, line) -> None:
    """From the end of one line to the beginning of the next."""
    right, middle, entry = x + _WIDTH / 2 + 0.1, y + line - _HEIGHT / 2 - 0.1, left - _ENTRY
    axis.plot([x + _WIDTH / 2, right, right, entry, entry], [y, y, middle, middle, y + line], color="black",
              linewidth=1.0)


def _draw_shortcut(axis, steps, x, y, bottom, x_sum, y_sum, *, within: bool) -> None:
    """Down from the block's input, or `within` the block from the beginning of a later line, along the bottom and up
    to the sum, through the boxes of `steps`."""
    start = x + (_LEAD - _ENTRY if within else 0)
    if not within:
        axis.plot([x, x + _LEAD], [y, y], color="black", linewidth=1.0)
    axis.plot([start], [y], marker="o", color="black", markersize=5)
    axis.plot([start, x, x, x_sum], [y, y, bottom, bottom], color="black", linewidth=1.6, linestyle=(0, (4, 2)),
              zorder=0.5)
    _arrow(axis, (x_sum, bottom), (x_sum, y_sum + _HEIGHT / 2))
    axis.text(x + 0.08, bottom - 0.03, "shortcut" + ("" if steps else " (identity)"), va="bottom", fontsize=9.5)
    for i, step in enumerate(steps):
        _box(axis, x + 1.4 + i * _PITCH, bottom, step, marked=False)


def _words(path: Path, numbers: bool) -> str:
    return ", then ".join(_step_words(step, path, numbers) for line in path.lines for step in line)


def _step_words(step: Step, path: Path, numbers: bool) -> str:
    if step.kind == "sum":
        through = ", then ".join(_step_words(s, path, numbers) for s in path.shortcut)
        start = f" from behind {' '.join(path.lines[path.tap - 1][-1].label.split())}" if path.tap else ""
        return f"plus the shortcut{start} ({through or 'identity'})"
    if step.kind == "empty":
        return f"nothing in {step.slot}"
    words = " ".join(step.label.split())
    facts = [f"{step.parameters:,} parameters"] if step.parameters else []
    if step.shape is not None:
        facts.append("output " + " x ".join(map(str, step.shape)))
    return f"{words} ({', '.join(facts)})" if numbers and facts else words
