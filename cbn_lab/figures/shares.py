"""Residual nets: how much of each sum comes along the shortcut, as training goes on."""

from collections.abc import Mapping
from statistics import fmean

from cbn_lab.figures.style import Figure, axes, nth_mark, styled


@styled
def shortcut_shares(probed: Mapping[tuple[str, str, str], object]) -> Figure:
    """(activation, placement, join) -> run of `joins.probe`. A panel per activation, a line per arm.

    The mean over the residual blocks of Var[shortcut] / (Var[shortcut] + Var[branch]) against SGD steps. ValueError
    where there is no run, or one without shares.
    """
    if not probed:
        raise ValueError("there is no probed run to draw; `python -m cbn_lab.joins` makes them")
    without = [" ".join(key) for key, run in probed.items() if not run.curve or not run.curve[0].get("shares")]
    if without:
        raise ValueError(f"{', '.join(without)}: no shares in its curve; give runs of cbn_lab.joins.probe")
    activations = list(dict.fromkeys(key[0] for key in probed))
    arms = list(dict.fromkeys(key[1:] for key in probed))
    fig, panels = axes(len(activations), size=(1.6 + 3.1 * len(activations), 4.2), sharey=True)
    lines, said = {}, []
    for axis, f in zip(panels, activations, strict=True):
        for place, arm in enumerate(arms):
            if (run := probed.get((f, *arm))) is None:
                continue
            means = [fmean(point["shares"]) for point in run.curve]
            mark = nth_mark(place)
            [lines[arm]] = axis.plot([point["step"] for point in run.curve], means, color=mark.colour,
                                     linestyle=mark.line, marker=mark.marker)
            said.append(f"{f}, {', '.join(arm)}: {means[0]:.2f} at the start, {means[-1]:.2f} at step "
                        f"{run.curve[-1]['step']}")
        axis.set(title=f, xlabel="SGD steps", ylim=(0, None))
    panels[0].set_ylabel("share of the shortcut in the sum")
    fig.legend(lines.values(), [", ".join(arm) for arm in lines], loc="outside upper center", ncols=2)
    return Figure(fig, "Share of the shortcut in the variance of the sums of a residual net, mean over its blocks. "
                       f"{'; '.join(said)}.")
