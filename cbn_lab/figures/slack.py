"""The slack meter: every line of a proof on a run, as its left side, its right side and the slack between them."""

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from cbn_lab.figures.demands import require_finite, require_logarithmic
from cbn_lab.figures.style import Figure, axes, nth_mark, styled

SIGNS = {"holds": "✓", "holds here": "≈", "fails": "✗", "not stated": "–"}
_FOUND = ("alpha", "valid", "measured", "bound_G2", "bound_sigma2", "G2", "start")
WORDS = {"holds": "holds", "holds here": "holds here, though an assumption it needs is broken", "fails": "fails",
         "not stated": "says nothing about this run"}


@styled
def slack_meter(evaluation) -> Figure:
    """One row per line of `chain.evaluate(state)`: left side (solid), right side (dashed), slack (shaded) at each step.

    Each row has a height scale of its own, asinh of the value, so rows cannot be compared by height. The numbers belong
    to the last step, or to the first at which the line fails. The first line that fails is framed, hatched and named.
    """
    rows, failure = evaluation.rows(), evaluation.failure()
    height = 1.1 + 0.29 * len(rows)
    fig, (axis,) = axes(size=(10.5, height))
    fig.set_layout_engine("none")  # a constrained layout takes longer than all the rest, and sliders wait for it
    axis.set_position((0.225, 0.55 / height, 0.445, 0.29 * len(rows) / height))
    steps = len(evaluation.history)
    lefts, rights, bands = _curves(evaluation, rows, steps)
    solid, dashed = nth_mark(1), nth_mark(0)
    axis.add_collection(PolyCollection(bands, facecolor=solid.colour, alpha=0.15, edgecolor="none"))
    axis.add_collection(LineCollection(lefts, colors=solid.colour, linewidths=1.8, label="left side"))
    axis.add_collection(LineCollection(rights, colors=dashed.colour, linestyles="--", linewidths=1.8,
                                       label="right side"))
    for i, row in enumerate(rows):
        _write(axis, i, row, first=failure is not None and row.line.name == failure.line.name)
    _finish(axis, rows, steps, failure)
    return Figure(fig, _sentence(evaluation, rows, failure))


def _curves(evaluation, rows, steps):
    """Polylines of both sides in row coordinates, and the polygons between them."""
    x = np.arange(1, steps + 1) if steps > 1 else np.array([1.0, 1.5])
    lefts, rights, bands = [], [], []
    for i, row in enumerate(rows):
        sides = evaluation.along(row.line)
        if not sides:
            continue
        values = np.array([[side.left for side in sides], [side.right for side in sides]])
        values = values if steps > 1 else np.repeat(values, 2, axis=1)
        finite = values[np.isfinite(values)]
        if not finite.size:
            continue
        low, high = i + 0.36 - 0.72 * _height(values, finite)
        lefts.append(np.column_stack([x, low]))
        rights.append(np.column_stack([x, high]))
        bands.append(np.column_stack([np.append(x, x[::-1]), np.append(low, high[::-1])]))
    return lefts, rights, bands


def _height(values, finite):
    """Between 0 and 1 in each row; what is not finite goes to the edge."""
    unit = np.median(np.abs(finite)) or 1.0
    scaled = np.arcsinh(finite / unit)
    low, high = scaled.min(), scaled.max()
    if high - low < 1e-9:
        return np.where(np.isfinite(values), 0.5, 1.0)
    clipped = np.nan_to_num(values, nan=finite.max(), posinf=finite.max(), neginf=finite.min())
    return (np.arcsinh(clipped / unit) - low) / (high - low)


def _write(axis, i, row, *, first):
    """Name and numbers of a row, and its mark where it does not simply hold."""
    fails, silent = row.status == "fails", row.status == "not stated"
    style = {"va": "center", "transform": axis.get_yaxis_transform(), "fontsize": 9.5 if silent else 10.5,
             "color": "#6b6b6b" if silent else "black"}
    axis.text(-0.03, i, f"{row.line.name} {SIGNS[row.status]}", ha="right", weight="bold" if first else "normal",
              **style)
    sign = "=" if row.line.relation == "=" else "≤"
    numbers = row.note if silent else f"{row.left:.3g} {sign} {row.right:.3g} ({row.slack:z.2g})"
    axis.text(1.015, i, numbers + (f"  at step {row.step}" if fails else ""), weight="bold" if first else "normal",
              **style)
    if fails:
        axis.add_patch(Rectangle((0, i - 0.47), 1, 0.94, transform=axis.get_yaxis_transform(), facecolor="#f6d5c3",
                                 edgecolor="#D55E00", linewidth=2.2 if first else 0, hatch="///" if first else None,
                                 zorder=0.4))
        axis.plot([row.step], [i], marker="X", color="#000000", markersize=9 if first else 6, clip_on=False, zorder=5)


def _finish(axis, rows, steps, failure):
    axis.set_yticks([])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(1, max(steps, 1.5))
    axis.set_xlabel("step k (every row has a height scale of its own)")
    axis.text(1.015, len(rows) + 0.95, "left ≤ right (slack)", transform=axis.get_yaxis_transform(), va="center",
              fontsize=10.5)
    title = "✓ every line holds" if failure is None else f"✗ first line that fails: {failure.line.name}"
    if failure is not None and failure.assumption is not None:
        title += f"; behind it: {failure.assumption.name}"
    axis.set_title(title, x=-0.45, ha="left", weight="bold")
    axis.legend(loc="lower right", bbox_to_anchor=(1.7, 0.997), ncols=2, borderaxespad=0.1, handlelength=2.2)


def _sentence(evaluation, rows, failure) -> str:
    said = [f"{row.line.name}: {row.left:.3g} {row.line.relation} {row.right:.3g}, slack {row.slack:z.2g}, "
            f"{WORDS[row.status]}{f' at step {row.step}' if row.status == 'fails' else ''}."
            for row in rows if row.status != "not stated"]
    verdict = "Every line holds." if failure is None else (
        f"The first line that fails is {failure.line.name}, at step {failure.step}; the assumption behind it: "
        f"{failure.assumption.name if failure.assumption else 'none was found broken'}.")
    silent = [row.line.name for row in rows if row.status == "not stated"]
    return (f"Slack meter of {evaluation.state.problem.name}, {len(evaluation.history)} steps, expectations "
            f"{evaluation.state.expectations}. {verdict} {' '.join(said)}"
            + (f" Not stated for this run: {', '.join(silent)}." if silent else ""))


@styled
def three_effects(L: float, sigma2: float, distance: float, steps: int, found: dict) -> Figure:
    """What `theory.meter.effects` found: the mean squared gradient and its two bounds against the step size.

    ValueError for an L that is not above 0, and unless `found` has all of that, with a measured number above 0.
    """
    require_finite([L], "L", positive=True)
    if lacking := [name for name in _FOUND if name not in found or not np.size(found[name])]:
        raise ValueError(f"found lacks {', '.join(lacking)}; give what theory.meter.effects returns")
    require_logarithmic(found["measured"], "measured gradient")
    fig, (axis,) = axes(size=(8.5, 4.2))
    fig.set_layout_engine("none")
    axis.set_position((0.1, 0.14, 0.88, 0.77))
    alpha, valid = found["alpha"], found["valid"]
    drawn = (("measured (exact expectation)", found["measured"], np.isfinite(found["measured"])),
             ("bound in G²", found["bound_G2"], np.isfinite(found["bound_G2"])),
             ("bound in σ², for steps up to 1/L", found["bound_sigma2"], valid))
    for i, (label, values, shown) in enumerate(drawn):
        style = nth_mark((1, 0, 2)[i])
        axis.plot(alpha[shown], values[shown], color=style.colour, linestyle=style.line, marker=style.marker,
                  markevery=4, label=label)
    best = int(np.argmin(np.where(valid, found["bound_sigma2"], np.inf)))
    axis.axvline(1 / L, color="#555555", linewidth=1.2, linestyle=":")
    axis.text(1 / L, 0.98, " 1/L", transform=axis.get_xaxis_transform(), va="top", fontsize=11)
    axis.set(xscale="log", yscale="log", xlabel="step size α", ylabel=f"mean ‖∇F‖² over {steps} steps")
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_minor_locator(NullLocator())  # minor ticks alone would cost a third of the drawing
    axis.set_ylim(0.5 * np.nanmin(found["measured"]), 3 * found["bound_sigma2"][0])
    axis.set_title(f"L = {L:.3g}, σ² = {sigma2:.3g}, E‖g‖² at the start = {found['start']:.3g}", loc="left")
    axis.legend(loc="best")
    least = int(np.argmin(found["measured"]))
    alt = (f"Mean squared gradient over {steps} steps of SGD on a quadratic with L = {L:g}, noise of variance "
           f"{sigma2:g} and distance {distance:g}. Measured, it is smallest at step {alpha[least]:.3g}, with "
           f"{found['measured'][least]:.3g}. The bound in sigma squared is smallest at step {alpha[best]:.3g}, with "
           f"{found['bound_sigma2'][best]:.3g}; there {found['measured'][best]:.3g} is measured. "
           f"G squared is {found['G2'][best]:.3g} there; at the start E|g|^2 is {found['start']:.3g}.")
    return Figure(fig, alt)
