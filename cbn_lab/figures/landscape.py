"""Pictures of probes along the gradient, of their course over training, and of the gradient's growth with depth.

Arms are told apart by colour, line and marker in the order in which they are given; every seed is a thin line.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from cbn_lab.figures.demands import require_finite, require_logarithmic
from cbn_lab.figures.selection import halfway
from cbn_lab.figures.style import Figure, axes, nth_mark, styled

Points = Sequence[tuple[float, float]]
_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
_NONE = "there is nothing to draw: every arm needs at least one seed"


@styled
def traces(groups: Mapping[str, Sequence[Points]], *, x: str, y: str, log_x: bool = False, log_y: bool = False,
           levels: Mapping[str, float] | None = None) -> Figure:
    """Arm -> a curve per seed, points (x, y) at the same x: a thin line per seed, a thick one for the mean.

    `levels` are horizontal lines, label -> y. ValueError for an arm without curves, for seeds that have no x in common,
    and for a logarithmic axis without a number above 0.
    """
    every = [point for curves in groups.values() for curve in curves for point in curve]
    for wanted, position, what in ((log_x, 0, x), (log_y, 1, y)):
        if wanted and every:
            require_logarithmic((point[position] for point in every), what)
    fig, (axis,) = axes(size=(8.6, 4.0))
    said = _arms(axis, groups)
    for label, level in (levels or {}).items():
        axis.axhline(level, color="#555555", linewidth=1.4, linestyle=(0, (2, 2)), label=label)
        said.append(f"Line at {level:.3g}: {label}.")
    axis.set(xlabel=x, ylabel=y)
    for wanted, ticks in ((log_x, axis.xaxis), (log_y, axis.yaxis)):
        if wanted:
            _logarithmic(ticks)
    _legend(fig, axis)
    return Figure(fig, f"{y} against {x}. {' '.join(said)}")


@styled
def along_gradient(found: Mapping[str, Sequence], *, chosen: int | None = None) -> Figure:
    """Arm -> a `probes.landscape.Landscape` per seed: what changes on the way down the gradient, against the step.

    Left: L(w') - L(w). Middle: gradient predictiveness ||g(w') - g(w)||. Right: the same divided by ||w' - w||, whose
    largest value is the effective beta-smoothness. `chosen` marks the step with this number. ValueError if the
    landscapes differ in their steps or coordinates, or have no such step.
    """
    _require_alike(found)
    first = next(iter(found.values()))[0]
    if chosen is not None and chosen not in range(len(first.steps)):
        raise ValueError(f"chosen must be from 0 to {len(first.steps) - 1}, the number of a step; got {chosen!r}")
    panels = (("change of the loss (nats)", lambda f: [loss - f.loss for loss in f.whole.losses]),
              ("||g(w') - g(w)||", lambda f: f.whole.predictiveness),
              ("||g(w') - g(w)|| / ||w' - w||", lambda f: f.whole.ratios))
    fig, row = axes(3, size=(11, 3.7), margins=(0.75, 0.1, 0.6, 0.75, 0.7))
    for axis, (what, values) in zip(row, panels, strict=True):
        _arms(axis, {label: [list(zip(f.steps, values(f), strict=True)) for f in group]
                     for label, group in found.items()})
        axis.set(xlabel=f"step, in {first.coordinates}", title=what)
        _logarithmic(axis.xaxis)
        if chosen is not None:
            axis.axvline(first.steps[chosen], color="#555555", linewidth=1.4, linestyle=(0, (2, 2)))
    row[0].set_yscale("symlog", linthresh=1.0)
    row[0].yaxis.set_major_formatter(_PLAIN)
    row[0].axhline(0, color="#555555", linewidth=1.0)
    _logarithmic(row[1].yaxis)
    _logarithmic(row[2].yaxis)
    _legend(fig, row[0])
    return Figure(fig, _along_sentence(found, first, chosen))


def _along_sentence(found, first, chosen) -> str:
    position = len(first.steps) - 1 if chosen is None else chosen
    said = []
    for label, group in found.items():
        change = [f.whole.losses[position] - f.loss for f in group]
        moved = [f.whole.predictiveness[position] for f in group]
        said.append(f"{label}: loss changes by {_range(change)}, gradient moved by {_range(moved)}, effective "
                    f"beta-smoothness over all steps {_range([f.whole.smoothness for f in group])}.")
    return (f"Along the negative gradient of one mini-batch, in {first.coordinates}, steps {first.steps[0]:.3g} to "
            f"{first.steps[-1]:.3g}, {first.statistics} statistics. At step {first.steps[position]:.3g}: "
            f"{' '.join(said)}")


@styled
def landscape_over_training(records: Mapping[str, Mapping[int, Sequence]]) -> Figure:
    """Arm -> training step -> a Landscape per seed. Bands: from the least to the largest value on the line.

    Left: loss on the line. Middle: gradient predictiveness. Right: effective beta-smoothness. Bands and thick lines are
    means over seeds, thin lines single seeds. ValueError for an arm without landscapes.
    """
    for arm in records.values():
        _require_alike(arm)
    fig, row = axes(3, size=(11, 3.7))
    for position, (label, by_step) in enumerate(records.items()):
        style, times = nth_mark(position), list(by_step)
        for axis, values in ((row[0], lambda f: f.whole.losses), (row[1], lambda f: f.whole.predictiveness)):
            low, high = ([fmean(pick(values(f)) for f in by_step[t]) for t in times] for pick in (min, max))
            axis.fill_between(times, low, high, color=style.colour, alpha=0.18, linewidth=0)
            axis.plot(times, high, color=style.colour, linestyle=style.line, marker=style.marker, label=label)
            axis.plot(times, low, color=style.colour, linestyle=style.line, linewidth=1.0)
    said = _arms(row[2], {label: _by_seed(by_step, lambda f: f.whole.smoothness) for label, by_step in records.items()})
    for axis, what in zip(row, ("loss on the line (nats)", "||g(w') - g(w)|| on the line", "effective beta-smoothness"),
                          strict=True):
        axis.set(xlabel="training step", title=what)
        _logarithmic(axis.yaxis)
    _legend(fig, row[0])
    first = next(iter(next(iter(records.values())).values()))[0]
    return Figure(fig, f"Over training, probed along the gradient of one mini-batch in {first.coordinates}, "
                       f"{first.statistics} statistics: band of the loss, band of the gradient's change, effective "
                       f"beta-smoothness. Smoothness: {' '.join(said)}")


def _by_seed(by_step: Mapping[int, Sequence], value: Callable) -> list[Points]:
    return [[(t, value(group[i])) for t, group in by_step.items()] for i in range(min(map(len, by_step.values())))]


@styled
def gradient_growth(found: Mapping[str, object], *, predicted: float | None = None) -> Figure:
    """Label -> `probes.depth.Growth`: squared gradient at each block's input, over that at the output; log scale.

    `predicted` draws the slope of a constant rate per block. ValueError for no arms, or a rate that is not above 0.
    """
    if predicted is not None:
        require_finite([predicted], "predicted", positive=True)
    fig, (axis,) = axes(size=(8.6, 4.0))
    _arms(axis, {label: [[(i, b / p.boundaries[-1]) for i, b in enumerate(p.boundaries)] for p in g.profiles]
                 for label, g in found.items()}, markers=False)
    depth = max(g.depth for g in found.values())
    if predicted is not None:
        axis.plot([0, depth], [predicted**depth, 1.0], color="#555555", linewidth=1.4, linestyle=(0, (2, 2)),
                  label=f"{predicted:.3f} a block")
    axis.set(xlabel="block (0: input of the net)", ylabel="squared gradient, output = 1", yscale="log")
    _legend(fig, axis)
    rates = "; ".join(f"{label} {g.rate.value:.3f} [{g.rate.low:.3f}, {g.rate.high:.3f}]"
                      for label, g in found.items())
    return Figure(fig, f"Squared gradient through {depth} blocks at initialization, against the block. Factor per "
                       f"block going down: {rates}." + ("" if predicted is None else f" Dashed: {predicted:.3f}."))


def _arms(axis, groups: Mapping[str, Sequence[Points]], *, markers: bool = True) -> list[str]:
    """Draw the arms and return a sentence each."""
    if not groups or not all(groups.values()) or not all(itertools.chain(*groups.values())):
        raise ValueError(_NONE)
    said = []
    for position, (label, curves) in enumerate(groups.items()):
        style = nth_mark(position)
        look = {"color": style.colour, "linestyle": style.line}
        for curve in curves if len(curves) > 1 else ():
            axis.plot(*zip(*curve, strict=True), **look, linewidth=0.9, alpha=0.55, label="_seed")
        tables = [dict(curve) for curve in curves]
        mean = [(x, fmean(table[x] for table in tables)) for x in tables[0] if all(x in table for table in tables)]
        if not mean:
            raise ValueError(f"the seeds of {label} have no x in common; give curves at the same x")
        axis.plot(*zip(*mean, strict=True), **look, marker=style.marker if markers else "", label=label)
        first, last = ([curve[i][1] for curve in curves] for i in (0, -1))
        between = f" {halfway(mean)[1]:.3g} at {halfway(mean)[0]:.3g}," if halfway(mean) else ""
        said.append(f"{label}: {_range(first)} at {curves[0][0][0]:.3g},{between} {_range(last)} at "
                    f"{curves[0][-1][0]:.3g}.")
    return said


def _range(values: Sequence[float]) -> str:
    """"0.52 (0.48 to 0.6, 3 seeds)": the mean and the range, to three digits whatever the scale."""
    mean = f"{fmean(values):.3g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3g} to {max(values):.3g}, {len(values)} seeds)"


def _require_alike(found: Mapping) -> None:
    every = [f for group in found.values() for f in group]
    if not every or not all(found.values()):
        raise ValueError(_NONE)
    if len({(f.steps, f.coordinates, f.statistics) for f in every}) > 1:
        raise ValueError("these landscapes differ in their steps, coordinates or statistics, and cannot share an axis")


def _logarithmic(ticks) -> None:
    """A logarithmic axis whose labels read as plain numbers, few enough to stand beside each other."""
    (ticks.axes.set_xscale if ticks.axis_name == "x" else ticks.axes.set_yscale)("log")
    low, high = ticks.get_view_interval()
    ticks.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    ticks.set_major_formatter(_PLAIN)
    ticks.set_minor_locator(NullLocator())  # minor ticks alone would cost a third of the drawing


def _legend(fig, axis) -> None:
    fig.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=4)
