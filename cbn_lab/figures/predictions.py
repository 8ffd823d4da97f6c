"""A guess and, once it is known, the result drawn over it; how well the confidences are calibrated.

Before the result is given no axis, order or sentence depends on it.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean

from cbn_lab import activations, blocks, outcomes
from cbn_lab.figures.curves import draw_arm, marks
from cbn_lab.figures.demands import require_finite
from cbn_lab.figures.selection import readable, spread
from cbn_lab.figures.style import MARKS, Figure, Mark, axes, mark, nth_mark, styled
from cbn_lab.predictions import Calibration, chance

GUESS = Mark("#000000", ":", "o")  # hollow, and black like nothing else here
_UNITS = {"accuracy": "%", "loss": "nats"}


@styled
def ranking_guess(items: Sequence[str], guess: Sequence[str] = (),
                  measured: Mapping[str, Mapping[int, float]] | None = None, *, metric: str = "test_accuracy",
                  largest: bool = True) -> Figure:
    """The guessed order on the left, the measured one beside it, the measured values of every seed on the right.

    A line joins the two places of each item: two lines cross where the guess has this pair the wrong way round. `guess`
    may be incomplete as long as there is no result, which is label -> seed -> value (see `outcomes.values`). ValueError
    for no items, one that is there twice, or a guess of others.
    """
    if not items:
        raise ValueError("there are no items to be ordered; give at least one")
    for what, names in (("items", items), ("guess", guess)):
        if len(set(names)) < len(names) or not set(names) <= set(items):
            raise ValueError(f"the {what} must be different ones of {', '.join(items)}, got {', '.join(names)}")
    width = 0.5 + 0.1 * max(len(line) for item in items for line in _wrapped(item).split("\n"))
    edges = [0.35, width, 1.9, width + 0.1, 3.6, 0.3]  # inches: margin, labels, lines, labels, values, margin
    fig, (slope, dots) = axes(2, size=(sum(edges), 1.15 + 0.5 * len(items)), sharey=True)
    left = sum(edges[:2]) / sum(edges)
    heights = (0.62 / fig.get_figheight(), 1 - 1.05 / fig.get_figheight())
    fig.set_layout_engine(None)
    slope.set_position([left, heights[0], edges[2] / sum(edges), heights[1]])
    dots.set_position([sum(edges[:4]) / sum(edges), heights[0], edges[4] / sum(edges), heights[1]])
    slope.set_axis_off()
    slope.set(xlim=(0, 1), ylim=(len(items) - 0.5, -0.5))
    best = "largest" if largest else "smallest"
    _column(slope, 0, "your guess", [_wrapped(item) for item in guess], len(items))
    result = None if measured is None else outcomes.rank(guess, measured, largest=largest)
    _column(slope, 1, "measured", [_wrapped(item) for item in result.order] if result else [], len(items))
    if not guess:
        listed = "\n".join(["to be ordered:", *(f"· {_wrapped(item)}" for item in items)])
        slope.text(0.5, (len(items) - 1) / 2, listed, ha="center", va="center", color="#555555")
    for item in result.order if result else ():
        style = _item_mark(item, items)
        slope.plot([0, 1], [list(guess).index(item), result.order.index(item)], color=style.colour,
                   linestyle=style.line, marker=style.marker, clip_on=False, label=item)
    if result and result.undecided:
        slope.text(0.5, len(items) - 0.4, f"not counted:\n{len(result.undecided)} of {math.comb(len(items), 2)} pairs "
                   "(seeds disagree)", ha="center", va="top", fontsize=10, color="#555555")
    _values(dots, result.order if result else (), measured, items, f"{_label(metric)}, {best} first")
    return Figure(fig, _ranking_sentence(items, guess, result, measured, metric, best))


def _column(axis, x: float, title: str, texts: Sequence[str], count: int) -> None:
    """One order as a column of texts; a place without an item shows a question mark."""
    options = {"ha": "right" if x == 0 else "left", "va": "center", "clip_on": False}
    shift = -0.08 if x == 0 else 0.08
    axis.text(x + shift, -0.62, title, **options | {"va": "bottom"}, fontweight="bold")
    for i in range(count):
        text = texts[i] if i < len(texts) else "?"
        axis.text(x + shift, i, f"{i + 1}  {text}", **options)


def _values(axis, order, measured, items, xlabel) -> None:
    axis.set_xlabel(xlabel)
    axis.tick_params(left=False, labelleft=False)
    axis.spines["left"].set_visible(False)
    if not order:
        axis.set_xticks([])
        axis.text(0.5, 0.5, "the result comes after the guess", ha="center", va="center", transform=axis.transAxes,
                  color="#555555", bbox={"facecolor": "white", "edgecolor": "none"})
    for i, item in enumerate(order):
        style, numbers = _item_mark(item, items), list(measured[item].values())
        finite = [value for value in numbers if math.isfinite(value)]
        axis.plot(finite, [i] * len(finite), linestyle="", marker=style.marker, color=style.colour, label=item,
                  markeredgecolor="white", markeredgewidth=0.5)
        if len(finite) < len(numbers):
            axis.text(0.02, i, f"{len(numbers) - len(finite)} of {len(numbers)} diverged",
                      transform=axis.get_yaxis_transform(), va="center")


def _ranking_sentence(items, guess, result, measured, metric, best) -> str:
    if result is None:
        said = f"So far: {', '.join(guess)}. " if guess else "No guess yet. "
        return (f"To be put in order, {best} {_label(metric)} first: {', '.join(items)}. {said}"
                "The result is not shown yet.")
    numbers = "; ".join(f"{item} {_spread(measured[item].values())}" for item in result.order)
    wrong = "; ".join(f"{better} before {worse}" for better, worse in result.misses)
    open_ = "; ".join(f"{a} and {b}" for a, b in result.undecided)
    return (f"Guessed order, {best} {_label(metric)} first: {', '.join(guess)}. Measured: {numbers}."
            + (f" Wrong in the guess, it should be: {wrong}." if wrong else " No pair is in the wrong order.")
            + (f" Not decided by the seeds, so not counted: {open_}." if open_ else ""))


@styled
def number_guess(low: float, high: float, tolerance: float, what: str, guess: float | None = None,
                 measured: Mapping[int, float] | None = None) -> Figure:
    """A guessed number on a line from `low` to `high`, what counts as right around it, and the result of every seed.

    ValueError for a number that is not finite, and unless low < high.
    """
    _require_range(low, high)
    require_finite([tolerance, *([] if guess is None else [guess])], "the tolerance, and a guess,")
    fig, (axis,) = axes(size=(8.5, 2.1))
    fig.set_layout_engine(None)
    fig.subplots_adjust(left=0.04, right=0.96, bottom=0.33, top=0.72)
    values = list(measured.values()) if measured else []
    shown = [value for value in values if math.isfinite(value)]
    axis.set(xlim=(min([low, *shown]), max([high, *shown])), ylim=(-1, 1), yticks=[], xlabel=what)
    axis.spines["left"].set_visible(False)
    if guess is None:
        axis.text(0.5, 0.5, "?", transform=axis.transAxes, ha="center", va="center", fontsize=22)
    else:
        axis.axvspan(guess - tolerance, guess + tolerance, color="#d9d9d9", linewidth=0, label="right means in here")
        axis.plot([guess], [0], **_hollow(), linestyle="", markersize=11, clip_on=False, label="your guess")
    if len(shown) < len(values):
        axis.text(0.5, 0.12, f"{len(values) - len(shown)} of {len(values)} diverged", va="center", ha="center",
                  transform=axis.transAxes)
    if shown:
        style = nth_mark(1)
        axis.plot(shown, [0] * len(shown), linestyle="", marker="|", markersize=22, color=style.colour, clip_on=False,
                  label="_seed")
        axis.plot([fmean(shown)], [0], linestyle="", marker="D", markersize=8, color=style.colour, clip_on=False,
                  label="measured" if len(shown) == 1 else "measured: mean, and each seed")
    if guess is not None:
        fig.legend(loc="upper center", ncols=3, handlelength=1.2, borderaxespad=0.2)
    said = "No guess yet." if guess is None else f"Guess: {guess:.3g}; right means within {tolerance:.3g} of it."
    result = f"Measured: {_spread(values)}." if values else "The result is not shown yet."
    return Figure(fig, f"{what[:1].upper()}{what[1:]}, on a line from {low:.3g} to {high:.3g}. {said} {result}")


@styled
def curve_guess(epochs: Sequence[float], low: float, high: float, metric: str = "test_accuracy",
                guess: Sequence[float] | None = None, result: Sequence = (), *, label: str = "measured",
                known: Mapping[str, Sequence] | None = None) -> Figure:
    """A guessed curve, given at some epochs, over the runs that are known, and under the runs of the result.

    Grey bars are the distances whose mean is the score. Runs may be unfinished. ValueError for no epochs, a guess of
    another length, an arm without runs, and unless low < high.
    """
    if not epochs:
        raise ValueError("a curve is guessed at one epoch at least; none is given")
    require_finite(epochs, "an epoch", positive=True)
    _require_range(low, high)
    if guess is not None:
        require_finite(guess, "a guessed value")
        if len(guess) != len(epochs):
            raise ValueError(f"a guess needs a value for each of the {len(epochs)} epochs, got {len(guess)}")
    if empty := [name for name, group in (known or {}).items() if not group]:
        raise ValueError(f"there are no runs to draw for {', '.join(empty)}")
    arms = dict(known or {}) | ({label: list(result)} if result else {})
    fig, (axis,) = axes(size=(8.5, 3.9))
    fig.set_layout_engine(None)
    fig.subplots_adjust(left=0.09, right=0.98, bottom=0.15, top=0.86)
    axis.set(xlim=(0, 1.03 * max(epochs)), ylim=(low, high), xlabel="epoch", ylabel=_label(metric))
    said = []
    for (name, group), style in zip(arms.items(), marks(arms), strict=True):
        curves = [list(points.items()) for points in outcomes.curve(group, metric)]
        draw_arm(axis, curves, style, name, markers=metric != "loss")
        last = [curve[-1] for curve in curves if curve]
        said.append(f"{name}: {_spread([y for _, y in last])} at epoch {max(x for x, _ in last):.3g}." if last
                    else f"{name}: not begun.")
    said.insert(0, _draw_guess(axis, epochs, guess, outcomes.reached(outcomes.curve(result, metric), epochs)))
    if axis.get_legend_handles_labels()[0]:
        fig.legend(loc="upper center", ncols=3, borderaxespad=0.2)
    if not result:
        said.append("The result is not shown yet.")
    return Figure(fig, f"{_label(metric).capitalize()} over the epochs. {' '.join(said)}")


def _draw_guess(axis, epochs, guess, means: Mapping[float, float]) -> str:
    if guess is None:
        axis.text(0.5, 0.5, "?", transform=axis.transAxes, ha="center", va="center", fontsize=30)
        return "No guess yet."
    points = list(zip(epochs, guess, strict=True))
    for epoch, value in points:
        if epoch in means:
            axis.plot([epoch] * 2, [value, means[epoch]], color="#8a8a8a", linewidth=6, alpha=0.5, label="_bar",
                      solid_capstyle="butt")
    axis.plot(epochs, guess, **_hollow(), linestyle=GUESS.line, markersize=9, zorder=5, clip_on=False,
              label="your guess")
    return "Guess: " + ", ".join(f"{value:.3g} at epoch {epoch:g}" for epoch, value in points) + "."


@styled
def calibration(of: Calibration | None) -> Figure:
    """How often the guesses of each confidence were right; on the diagonal: as often as was said.

    A grey bar holds 9 of 10 results of someone whose confidence is just right, for this number of guesses.
    """
    fig, (axis,) = axes(size=(5.2, 3.6))
    fig.set_layout_engine(None)
    fig.subplots_adjust(left=0.16, right=0.95, bottom=0.16, top=0.9)
    axis.set(xlim=(0, 100), ylim=(-4, 104), xlabel="what you said (%)", ylabel="how often you were right (%)")
    axis.plot([0, 100], [0, 100], color="#555555", linewidth=1.2, linestyle=(0, (4, 3)), label="_diagonal")
    said = []
    for level in of.levels if of else ():
        x, y = 100 * level.confidence, 100 * level.right / level.count
        ends = [100 * n / level.count for n in chance(level.count, level.confidence)]
        axis.plot([x, x], ends, color="#bdbdbd", linewidth=9, alpha=0.7, label="_chance", solid_capstyle="butt")
        axis.plot([x], [y], linestyle="", marker="o", markersize=9, color=MARKS[5].colour, label="_level")
        axis.text(x, 107, f"{level.right} of {level.count}", ha="center", va="bottom", fontsize=10)
        said.append(f"said {x:.0f} %: {level.right} of {level.count} right")
    if not said:
        axis.text(50, 50, "no guess has been judged yet", ha="center", va="center", color="#555555",
                  bbox={"facecolor": "white", "edgecolor": "none"})
    words = of.sentence() + " By confidence: " + "; ".join(said) + "." if of else "No guess has been judged yet."
    return Figure(fig, f"Calibration of your confidence. {words}")


def _require_range(low: float, high: float) -> None:
    require_finite([low, high], "an end of the range")
    if not low < high:
        raise ValueError(f"low must be less than high, got {low:g} and {high:g}")


def _hollow() -> dict:
    return {"marker": GUESS.marker, "color": GUESS.colour, "markerfacecolor": "white", "markeredgewidth": 2}


def _item_mark(item: str, items: Sequence[str]) -> Mark:
    """A registered name's own mark where all items are such names, else one by position."""
    for registry in (blocks.placements(), activations.names()):
        if set(items) <= set(registry):
            return mark(item, registry)
    return nth_mark(list(items).index(item))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 20)


def _label(metric: str) -> str:
    """"test accuracy (%)" for a number of runs; other names stand as they are, with their unit in them."""
    unit = next((unit for word, unit in _UNITS.items() if metric.endswith(f"_{word}") or metric == word), None)
    return f"{readable(metric)} ({unit})" if unit else metric


def _spread(values) -> str:
    finite = [value for value in values if math.isfinite(value)]
    size = max(map(abs, finite), default=0)
    digits = 1 if size >= 10 else 2 if size >= 1 else 3
    diverged = len(list(values)) - len(finite)
    return ", ".join([*([spread(finite, digits)] if finite else []), *([f"{diverged} diverged"] if diverged else [])])
