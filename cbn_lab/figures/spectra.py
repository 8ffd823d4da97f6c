"""Moments and eigenvalues of what enters a weight layer: one activation under sliders, all of them, real nets."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.figure
import numpy as np
from matplotlib.ticker import NullLocator

from cbn_lab import activations
from cbn_lab.figures.demands import require_finite, require_groups, require_logarithmic
from cbn_lab.figures.style import DPI, Figure, axes, mark, nth_mark, styled
from cbn_lab.theory import layer

LABELS = {"vanilla": "f(z): BN before f", "behind": "f(z) standardized"}
_DECADES = (0.001, 0.01, 0.1, 1, 10, 100, 1000)
_REACH = 6.0  # the curve is drawn for |z| up to this


@styled
def operating_point(name: str, *, beta: float = 0.0, gamma: float = 1.0, width: int = 64,
                    correlation: float = 0.0) -> Figure:
    r"""One activation under z ~ N(beta, gamma^2): which part of its curve is used, and the spectrum of E[hh^T].

    Left: f, the density of z below it, mean and standard deviation of f(z) beside it. Right: top eigenvalue, the other
    eigenvalues and trace/N of `width` channels whose z have the given pairwise correlation, for h = f(z) and for the
    same h with each channel standardized. Drawn without matplotlib's layout engine, which would double the time.
    ValueError where `gamma` is not above 0, or nothing like the rest exists.
    """
    require_finite([gamma], "gamma, the deviation of z,", positive=True)
    m = activations.moments(name, beta, gamma)
    added = float(layer.covariance(name, correlation, beta, gamma)[0]) if correlation else 0.0
    spectra = {"vanilla": layer.spectrum(m.mean, m.variance, width, added)}
    if m.variance > 0:
        spectra["behind"] = layer.spectrum(0.0, 1.0, width, min(added / m.variance, 1.0))
    fig = matplotlib.figure.Figure(figsize=(9.2, 3.7), dpi=DPI, facecolor="white")
    _curve(fig.add_axes((0.065, 0.15, 0.36, 0.74)), name, beta, gamma, m)
    _eigenvalue_rows(fig.add_axes((0.56, 0.15, 0.42, 0.62)), spectra)
    fig.legend(*fig.axes[1].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.77, 1.0), ncols=2)
    said = "; ".join(f"{LABELS[key]}: largest eigenvalue {s.top:.3g}, others {s.eigenvalues[-1]:.3g}, trace per "
                     f"channel {s.trace / width:.3g}" for key, s in spectra.items())
    return Figure(fig, f"{name} of z normal with mean {beta:g} and standard deviation {gamma:g}: mean {m.mean:z.3f}, "
                       f"variance {m.variance:.3g}, second moment {m.second:.3g}. {width} channels, correlation of z "
                       f"{correlation:g}. {said}.")


def _curve(axis, name, beta, gamma, m):
    z = np.linspace(-_REACH, _REACH, 241)
    f = activations.evaluate(name, z)
    low, high = float(f.min()), float(min(f.max(), 4.0))
    room = 0.08 * (high - low)
    density = np.exp(-0.5 * ((z - beta) / gamma) ** 2) * 0.5 * (high - low)
    colour = nth_mark(1).colour
    axis.fill_between(z, low - room, low - room + density, color="#cccccc", linewidth=0)
    axis.plot(z, f, color=colour)
    spread = m.variance**0.5
    axis.axhspan(m.mean - spread, m.mean + spread, color=nth_mark(3).colour, alpha=0.25, linewidth=0)
    axis.axhline(m.mean, color=nth_mark(0).colour, linestyle="--", linewidth=1.6)
    axis.set(xlim=(-_REACH, _REACH), ylim=(low - room, high + room), xlabel="z, and its density (grey)",
             ylabel=f"{name}(z)", title=f"mean {m.mean:z.2f}, standard deviation {spread:.2f}")


def _eigenvalue_rows(axis, spectra):
    for position, (key, s) in enumerate(spectra.items()):
        values = [s.top, s.eigenvalues[-1], s.trace / len(s.eigenvalues)]
        style = nth_mark(position)
        rows = [row + 0.17 * (2 * position - 1) for row in range(3)]
        places = np.clip(values, _DECADES[0], _DECADES[-1])  # what lies beyond stands at the edge, with its number
        axis.plot(places, rows, linestyle="none", marker=style.marker, color=style.colour, label=LABELS[key])
        for value, place, row in zip(values, places, rows, strict=True):
            axis.annotate(f"{value:.3g}", (place, row), xytext=(7, 0), textcoords="offset points", va="center",
                          fontsize=11)
    axis.set_xscale("log")
    axis.set(xlim=(8e-4, 4e3), ylim=(2.6, -0.6), xlabel="eigenvalue of E[hhᵀ]")
    axis.xaxis.set_minor_locator(NullLocator())  # minor ticks alone would cost a third of the drawing
    axis.set_xticks(_DECADES, [f"{x:g}" for x in _DECADES])
    axis.set_yticks(range(3), ["largest", "all others", "trace / N"])
    axis.grid(axis="y", visible=False)


@styled
def tension(names: Iterable[str], *, width: int = 64, beta: float = 0.0, gamma: float = 1.0) -> Figure:
    """Trace per channel and largest eigenvalue for independent channels: an arrow from f(z) to f(z) standardized."""
    names = list(names)
    if not names:
        raise ValueError("there is no activation to draw; give at least one name")
    fig, (axis,) = axes(size=(8, 4.6))
    said = []
    for name in names:
        m, style = activations.moments(name, beta, gamma), mark(name, activations.names())
        s = layer.spectrum(m.mean, m.variance, width)
        start, end = (s.trace / width, s.top), (1.0, 1.0)
        axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": style.colour, "linewidth": 1.8,
                                                  "linestyle": "-", "shrinkB": 9})
        axis.plot(*start, linestyle="none", marker=style.marker, color=style.colour, markersize=9, label=name)
        said.append(f"{name} from {start[0]:.3f} and {start[1]:.3g}")
    axis.plot(1.0, 1.0, linestyle="none", marker="o", color="black", markerfacecolor="none", markersize=17,
              label="standardized")
    axis.set_yscale("log")
    axis.set(xlim=(0, 1.1), xlabel="trace of E[hhᵀ] per channel", ylabel="largest eigenvalue")
    fig.legend(loc="outside right center")
    return Figure(fig, f"Trace per channel and largest eigenvalue of E[hh^T] for {width} independent channels, z "
                       f"normal with mean {beta:g} and standard deviation {gamma:g}; standardizing f(z) leads to 1 "
                       f"and 1: {'; '.join(said)}.")


@styled
def eigenvalues(panels: Mapping[str, Mapping[str, Sequence[float]]], *,
                theory: Mapping[str, Sequence[float]] | None = None, title: str = "") -> Figure:
    """Eigenvalues by rank on logarithmic axes, a panel per key of `panels`, a curve per label in it.

    `theory`: panel -> eigenvalues, drawn as a thin black line. Values below a millionth of the largest are left out.
    ValueError for no panels, one without curves, and values that are not finite or of which none is above 0.
    """
    theory = theory or {}
    require_groups(panels, "eigenvalues")
    for curves in (*panels.values(), theory):
        for label, values in curves.items():
            require_groups({label: values}, "eigenvalues")
            require_finite(values, f"an eigenvalue of {label}")
            require_logarithmic(values, f"eigenvalue of {label}")
    if unknown := [panel for panel in theory if panel not in panels]:
        raise ValueError(f"theory is about {', '.join(unknown)}, which is no panel; there are: {', '.join(panels)}")
    fig, drawn = axes(len(panels), size=(2.0 + 2.7 * len(panels), 3.9), sharey=True)
    said = []
    for axis, (panel, curves) in zip(drawn, panels.items(), strict=True):
        for position, (label, values) in enumerate(curves.items()):
            style = nth_mark(position)
            shown = _ranked(values)
            axis.plot(range(1, len(shown) + 1), shown, color=style.colour, linestyle=style.line, label=label,
                      marker=style.marker, markevery=[0], markersize=8)
            said.append(_said(f"{panel}, {label}", values))
        if panel in theory:
            shown = _ranked(theory[panel])
            axis.plot(range(1, len(shown) + 1), shown, color="black", linewidth=1.2, label="theory", marker="_",
                      markevery=[0], markersize=16)
            said.append(_said(f"{panel}, theory", theory[panel]))
        axis.set(xscale="log", yscale="log", title=panel, xlabel="rank")
    drawn[0].set_ylabel("eigenvalue of E[hhᵀ]")
    handles = {label: handle for axis in drawn for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    if title:
        fig.supxlabel(title, fontsize=11)
    return Figure(fig, f"Eigenvalues of E[hh^T] by rank. {title + '. ' if title else ''}{'; '.join(said)}.")


def _ranked(values: Sequence[float]) -> np.ndarray:
    values = np.sort(np.asarray(values, dtype=float))[::-1]
    return values[values > 1e-6 * values[0]]


def _said(what: str, values: Sequence[float]) -> str:
    values = np.asarray(values, dtype=float)
    return f"{what}: largest {values.max():.3g}, median {np.median(values):.3g}, trace {values.sum():.3g}"


@styled
def points(groups: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, log: str = "") -> Figure:
    """Points (x, y) in groups, each with its own mark; `log` names the logarithmic axes, "x", "y" or "xy".

    ValueError for no points, for what is no pair of numbers, and for a logarithmic axis without a number above 0.
    """
    groups = {label: [tuple(pair) for pair in pairs] for label, pairs in groups.items()}
    every = [pair for pairs in groups.values() for pair in pairs]
    if not every:
        raise ValueError("there are no points to draw")
    if odd := [pair for pair in every if len(pair) != 2]:
        raise ValueError(f"a point must be a pair (x, y), got {odd[0]}")
    if not set(log) <= {"x", "y"}:
        raise ValueError(f'log must be "", "x", "y" or "xy", got {log!r}')
    for name in log:
        require_logarithmic((pair["xy".index(name)] for pair in every), x if name == "x" else y)
    fig, (axis,) = axes(size=(8, 4.6))
    said = []
    for position, (label, pairs) in enumerate(groups.items()):
        style = mark(label, activations.names()) if label in activations.names() else nth_mark(position)
        first, second = np.array(pairs, dtype=float).reshape(-1, 2).T
        axis.plot(first, second, linestyle="none", marker=style.marker, color=style.colour, label=label)
        if len(first):
            said.append(f"{label}: x {first.min():.3g} to {first.max():.3g}, y {second.min():.3g} to "
                        f"{second.max():.3g} ({len(first)} points)")
    axis.set(xlabel=x, ylabel=y, **{f"{name}scale": "log" for name in log})
    fig.legend(loc="outside right center")
    return Figure(fig, f"Points: {x} (x) and {y} (y). {'; '.join(said)}.")
