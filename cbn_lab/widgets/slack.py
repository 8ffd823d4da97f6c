"""The slack meter with sliders, and the three effects as sliders: views over `theory.meter` and `figures.slack`."""

import math

import ipywidgets
import numpy as np

from cbn_lab import figures
from cbn_lab.figures import slack as drawings
from cbn_lab.theory import chain
from cbn_lab.theory import meter as runs
from cbn_lab.widgets.explorer import Explorer

GAUSSIAN = 12.0  # the right end of the tail slider stands for Gaussian noise


def slack_meter(**settings) -> figures.Figure:
    """The static meter: `theory.meter.meter(**settings)` held against the whole chain."""
    return drawings.slack_meter(chain().evaluate(runs.meter(**settings)))


def three_effects(L: float = 1.0, sigma2: float = 0.25, distance: float = 1.0, steps: int = 50) -> figures.Figure:
    """Measured mean squared gradient and its bounds over the step size, for these constants."""
    alphas = np.geomspace(0.01, 1.9, 21) / L
    return drawings.three_effects(L, sigma2, distance, steps, runs.effects(L, sigma2, distance, alphas, steps))


def _log(description: str, value: float, low: float, high: float) -> ipywidgets.FloatLogSlider:
    return ipywidgets.FloatLogSlider(description=description, value=value, min=math.log10(low), max=math.log10(high),
                                     step=0.02, readout_format=".2f")


def meter() -> Explorer:
    """The slack meter with sliders for step, claimed L, noise, batch and tail, and a menu of assumptions to break."""
    controls = [
        ipywidgets.Dropdown(description="break", options=list(runs.BREAKS)),
        _log("step (in 1/L)", 0.5, 0.02, 3),
        _log("claimed L (true: 1)", 1.0, 0.2, 5),
        ipywidgets.FloatSlider(description="noise σ", value=0.5, min=0.0, max=2.0, step=0.05),
        ipywidgets.IntSlider(description="mini-batch size", value=1, min=1, max=32),
        ipywidgets.FloatSlider(description="tail (12: Gaussian)", value=GAUSSIAN, min=1.1, max=GAUSSIAN, step=0.1),
    ]

    def settings(of) -> dict:
        tail = of["tail (12: Gaussian)"].value
        return {"broken": of["break"].value, "step": of["step (in 1/L)"].value,
                "claimed_L": of["claimed L (true: 1)"].value, "noise": of["noise σ"].value,
                "batch": of["mini-batch size"].value, "tail": math.inf if tail >= GAUSSIAN else tail}

    return Explorer(slack_meter, controls, settings)


def effects() -> Explorer:
    """The three effects as sliders: L, the variance, and by the distance of the start E|g|^2, which is not free."""
    controls = [_log("L", 1.0, 0.1, 10), _log("variance σ²", 0.25, 0.01, 10), _log("distance: E‖g‖²", 1.0, 0.1, 10)]

    def settings(of) -> dict:
        return {"L": of["L"].value, "sigma2": of["variance σ²"].value, "distance": of["distance: E‖g‖²"].value}

    return Explorer(three_effects, controls, settings)
