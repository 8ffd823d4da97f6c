"""Pictures of recorded speeds: the rungs of `cbn_lab.ladder` on one or more devices."""

from collections.abc import Mapping, Sequence
from statistics import median

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from cbn_lab.figures.demands import require_finite
from cbn_lab.figures.style import Figure, axes, nth_mark, styled

TERA = 1e12
_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


@styled
def speed_ladder(records: Mapping, *, over: str | None = None) -> Figure:
    """Label -> `speeds.Speeds`. A row per rung; left images/s (log), right how many times as fast as the rung above it.

    over   the rung that all are compared with instead. A marker is the median over the repeats, a line their range.
    ValueError if there is no record, one without the rung `over`, or a speed that is not above 0.
    """
    if not records:
        raise ValueError("there is no record to draw; `python -m cbn_lab.ladder --out results/speed` makes one")
    without = [label for label, found in records.items() if over and over not in found.images_per_second]
    if without:
        raise ValueError(f"{over!r} was not measured on {', '.join(without)}; choose another to compare with")
    for label, found in records.items():
        require_finite((v for values in found.images_per_second.values() for v in values), f"a speed of {label}",
                       positive=True)
    rungs = list(dict.fromkeys(rung for found in records.values() for rung in found.images_per_second))
    fig, (speed, gain) = axes(2, size=(10.5, 1.7 + 0.34 * len(rungs) + 0.1 * len(rungs) * len(records)), sharey=True)
    gain.axvline(1, color="#555555", linewidth=1.5)
    for place, found in enumerate(records.values()):
        heights = {rung: i + (place - (len(records) - 1) / 2) * 0.7 / len(records) for i, rung in enumerate(rungs)}
        _draw(speed, place, {heights[rung]: values for rung, values in found.images_per_second.items()})
        _draw(gain, place, {heights[rung]: found.gains(rung, over) for rung in found.images_per_second
                            if rung != over and (over or rung in found.above)})
    _finish(speed, gain, rungs)
    gain.set_xlabel(f"times as fast as: {over or 'the one it changes'}")
    handles = [Line2D([], [], label=label, **_dots(place)) for place, label in enumerate(records)]
    fig.legend(handles=handles, loc="outside upper center", ncols=2 if len(records) > 1 else 1, handlelength=1.2)
    said = " ".join(f"{label} ({found.setting()}): {_sentence(found)}" for label, found in records.items())
    return Figure(fig, f"Images per second of each step from the usual script to a fast loop, and how many times as "
                       f"fast each is as {over or 'the one that it changes'}; medians, with the range over the "
                       f"repeats. {said}")


def _draw(axis, place: int, rows: Mapping[float, Sequence[float]]) -> None:
    """At each height the median as a marker, on a line from the least to the largest value."""
    for height, values in rows.items():
        axis.plot([min(values), max(values)], [height, height], color=nth_mark(place).colour, linewidth=1.6)
    axis.plot([median(values) for values in rows.values()], list(rows), **_dots(place))


def _dots(place: int) -> dict:
    mark = nth_mark(place)
    return {"linestyle": "", "marker": mark.marker, "color": mark.colour, "markersize": 8, "markeredgecolor": "white",
            "markeredgewidth": 0.5}


def _finish(speed, gain, rungs) -> None:
    speed.set_yticks(range(len(rungs)), rungs)
    speed.set_ylim(len(rungs) - 0.5, -0.5)
    speed.set_xlabel("images/s")
    for axis in (speed, gain):
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high < 8 * low else (1, 3)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(axis="y", visible=False)
    speed.xaxis.set_major_formatter(_THOUSANDS)
    gain.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = speed.get_xlim()
    speed.set_xlim(low / 1.15, high * 1.15)  # at least one labelled line on either side
    low, high = gain.get_xlim()
    gain.set_xlim(min(low, 0.9), max(high, 1.6))


def _sentence(found) -> str:
    first, last = list(found.images_per_second)[0], list(found.images_per_second)[-1]
    best = max(found.above, key=lambda rung: median(found.gains(rung)), default=None)
    if best is None:
        return f"{first} {found.speed(first):,.0f} images/s, {last} {found.speed(last):,.0f}."
    gains = found.gains(best)
    return (f"from {found.speed(first):,.0f} images/s ({first}) to {found.speed(last):,.0f} ({last}); the largest "
            f"single change is {best}, {median(gains):.2f} times ({min(gains):.2f} to {max(gains):.2f}).")


@styled
def roofline(devices: Mapping[str, tuple[float, float]], layers: Mapping[str, float]) -> Figure:
    """The most operations/s that a device can do at an arithmetic intensity, min(peak, bandwidth * intensity).

    devices  name -> (peak in operations/s, memory bandwidth in bytes/s)
    layers   name -> operations per byte that is moved: a marker on each roof

    ValueError for no devices or no layers, and for a number that is not above 0.
    """
    if not devices or not layers:
        raise ValueError(f"a roofline needs at least one device and one layer, got {len(devices)} and {len(layers)}")
    for name, pair in devices.items():
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"{name} needs a pair (operations/s, bytes/s), got {pair!r}")
        require_finite(pair, f"a speed of {name}", positive=True)
    require_finite(layers.values(), "operations per byte", positive=True)
    low, high = 0.5 * min(layers.values()), 2 * max([*layers.values(), *(p / b for p, b in devices.values())])
    fig, (axis,) = axes(size=(8.6, 4.6))
    said = []
    for place, (name, (peak, bandwidth)) in enumerate(devices.items()):
        mark, ridge = nth_mark(place), peak / bandwidth
        axis.plot([low, ridge, high], [low * bandwidth / TERA, peak / TERA, peak / TERA], color=mark.colour,
                  linestyle=mark.line, label=name)
        axis.plot(list(layers.values()), [min(peak, bandwidth * x) / TERA for x in layers.values()],
                  **_dots(place) | {"markersize": 7})
        shares = ", ".join(f"{layer} {100 * min(1, bandwidth * x / peak):.3g} %" for layer, x in layers.items())
        said.append(f"{name} needs {ridge:.0f} operations a byte for its peak of {peak / TERA:.3g} x 10^12 a second; "
                    f"share of it that is possible: {shares}.")
    for layer, x in layers.items():
        top = all(bandwidth * x < peak for peak, bandwidth in devices.values())  # above the roof, else below it
        axis.axvline(x, color="#8a8a8a", linewidth=0.8)
        axis.annotate(layer, (x, float(top)), xycoords=("data", "axes fraction"), xytext=(-3, -4 if top else 4),
                      textcoords="offset points", rotation=90, ha="right", va="top" if top else "bottom")
    axis.set(xscale="log", yscale="log", xlim=(low, high), xlabel="operations per byte moved",
             ylabel="operations/s (trillions)")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        side.set_minor_locator(NullLocator())
    fig.legend(loc="outside upper center", ncols=len(devices))
    return Figure(fig, f"Roofline: operations a second at most, against operations per byte. {' '.join(said)}")
