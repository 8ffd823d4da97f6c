"""Pictures of statistics: errors of a variance, the path of a running mean, what eval mode makes of it."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from matplotlib.ticker import FuncFormatter, NullLocator

from cbn_lab.figures.demands import require_finite, require_groups, require_logarithmic
from cbn_lab.figures.style import Figure, axes, nth_mark, styled

_FLOOR = 1e-9  # float32 has 7 digits; an error of exactly 0 is drawn here


@styled
def variance_errors(errors: Mapping[str, Mapping[float, Sequence[float]]]) -> Figure:
    """method -> mean of the values -> relative errors, one a channel: dots, and a line through their medians.

    ValueError where there are no errors, for a mean that is not above 0, and where no error is a finite number.
    """
    require_groups(errors, "errors")
    for method, by_mean in errors.items():
        require_groups({f"{method} at a mean of {mean}": values for mean, values in by_mean.items()}, "errors")
        require_finite(by_mean, "a mean of the values", positive=True)
        require_logarithmic([max(v, _FLOOR) for values in by_mean.values() for v in values], f"error of {method}")
    fig, (axis,) = axes(size=(8, 4.6))
    said = []
    for i, (method, by_mean) in enumerate(errors.items()):
        style, means = nth_mark(i), list(by_mean)
        for mean, values in by_mean.items():
            axis.plot([mean] * len(values), [max(v, _FLOOR) for v in values], linestyle="", marker=style.marker,
                      markersize=3.5, alpha=0.35, color=style.colour, label="_channel")
        middle = [max(median(values), _FLOOR) for values in by_mean.values()]
        axis.plot(means, middle, color=style.colour, linestyle=style.line, marker=style.marker, label=method)
        said.append(f"{method}: from {middle[0]:.0e} at a mean of {means[0]:g} to {middle[-1]:.0e} at {means[-1]:g}")
    axis.axhline(1, color="#555555", linewidth=1.2)
    axis.set(xscale="log", yscale="log", xlabel="mean of the values (their standard deviation is 1)",
             ylabel="relative error of the variance")
    for ticks in (axis.xaxis, axis.yaxis):  # the exponents of powers of ten would be too small to read
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ticks.set_minor_locator(NullLocator())
    fig.legend(loc="outside upper center", ncols=2)
    return Figure(fig, "Relative error of the variance in float32 against the mean, a dot a channel, lines through the "
                       f"medians. {'; '.join(said)}. Above 1, no digit is right.")


@styled
def running_paths(paths: Mapping[float, Sequence[float]], *, start: float, target: float) -> Figure:
    """momentum -> running mean after each batch; dashed: its expectation, target + (start - target)(1 - momentum)^k.

    ValueError for no paths, an empty one, and for a momentum, start or target that is not a finite number.
    """
    require_groups(paths, "batches")
    require_finite((*paths, start, target), "a momentum, the start and the target each")
    fig, (axis,) = axes(size=(8, 4.2))
    axis.axhline(target, color="#555555", linewidth=1.2)
    said = []
    for i, (momentum, path) in enumerate(paths.items()):
        style, batches = nth_mark(i), range(len(path) + 1)
        expected = [target + (start - target) * (1 - momentum) ** k for k in batches]
        look = {"color": style.colour, "marker": style.marker, "markevery": max(1, len(path) // 7)}
        axis.plot(batches, [start, *path], **look, linewidth=1.6, label=f"momentum {momentum:g}")
        axis.plot(batches, expected, **look, linestyle=(0, (4, 3)), linewidth=1.2, markerfacecolor="white",
                  label="_expected")
        last = path[len(path) // 2:]
        said.append(f"momentum {momentum:g}: {path[-1]:.2f} after {len(path)} batches (expected {expected[-1]:.2f}), "
                    f"between {min(last):.2f} and {max(last):.2f} in their second half")
    axis.set(xlabel="batches seen", ylabel="running mean")
    fig.legend(loc="outside upper center", ncols=len(paths))
    return Figure(fig, f"Running mean from {start:g} towards {target:g}. {'; '.join(said)}.")


@styled
def seed_paths(curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]], *, xlabel: str, ylabel: str) -> Figure:
    """label -> a curve of (x, y) for each seed: a thin line each, a thick one for their mean.

    ValueError where there is no curve, an empty one, or where the seeds of a label have different x.
    """
    require_groups(curves, "curves")
    for label, seeds in curves.items():
        require_groups({f"{label}, seed {i}": curve for i, curve in enumerate(seeds)}, "points")
        if len({tuple(x for x, _ in curve) for curve in seeds}) > 1:
            raise ValueError(f"the seeds of {label} have different x; give curves at the same x")
    fig, (axis,) = axes(size=(8, 4.2))
    said = []
    for i, (label, seeds) in enumerate(curves.items()):
        style, xs = nth_mark(i), [x for x, _ in seeds[0]]
        for curve in seeds:
            axis.plot(xs, [y for _, y in curve], color=style.colour, linestyle=style.line, linewidth=0.9, alpha=0.6,
                      label="_seed")
        mean = [fmean(curve[k][1] for curve in seeds) for k in range(len(xs))]
        axis.plot(xs, mean, color=style.colour, linestyle=style.line, marker=style.marker, label=label)
        said.append(f"{label}: from {mean[0]:.3g} at {xs[0]:g} to {mean[-1]:.3g} at {xs[-1]:g}")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if all(float(x).is_integer() for x in xs):
        axis.xaxis.get_major_locator().set_params(integer=True)
    fig.legend(loc="outside upper center", ncols=len(curves))
    count = len(next(iter(curves.values())))
    return Figure(fig, f"{ylabel} against {xlabel}, {count} seeds and their mean. {'; '.join(said)}.")
