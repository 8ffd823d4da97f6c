"""The slack meter with sliders, and the three effects as sliders: views over `theory.meter` and `figures.slack`."""

import html
import math

import ipywidgets
import matplotlib
import numpy as np

from cbn_lab import figures
from cbn_lab.figures import slack as drawings
from cbn_lab.theory import chain
from cbn_lab.theory import meter as runs
from cbn_lab.widgets.display import Shown, debounced, one_line

GAUSSIAN = 12.0  # the right end of the tail slider stands for Gaussian noise
DPI = 80  # smaller than in print: a slider waits for the picture


def slack_meter(**settings) -> figures.Figure:
    """The static meter: `theory.meter.meter(**settings)` held against the whole chain."""
    return drawings.slack_meter(chain().evaluate(runs.meter(**settings)))


def three_effects(L: float = 1.0, sigma2: float = 0.25, distance: float = 1.0, steps: int = 50) -> figures.Figure:
    """Measured mean squared gradient and its bounds over the step size, for these constants."""
    alphas = np.geomspace(0.01, 1.9, 21) / L
    return drawings.three_effects(L, sigma2, distance, steps, runs.effects(L, sigma2, distance, alphas, steps))


class Sliders(Shown):
    """Controls over a function that returns a figure: any change redraws once, shortly after the last.

    An error is shown in one line and kept in `error`; the picture stays as it was.
    """

    def __init__(self, draw, controls: list, settings):
        self._draw, self._settings = draw, settings
        self._image = ipywidgets.Image(format="png")
        self._image.layout.max_width = "100%"
        self._caption, self._trouble = ipywidgets.HTML(), ipywidgets.HTML()
        self.controls = {control.description: control for control in controls}
        self.error: Exception | None = None
        redraw = debounced(self.redraw)
        for control in controls:
            control.style.description_width = "11em"
            control.layout.width = "29em"
            control.observe(lambda change: redraw(), "value")
        rows = [ipywidgets.HBox(controls[i:i + 2]) for i in range(0, len(controls), 2)]
        for row in rows:
            row.layout.flex_flow = "row wrap"
        self.view = ipywidgets.VBox([*rows, self._trouble, self._image, self._caption])
        self.redraw()

    def figure(self) -> figures.Figure:
        return self._draw(**self._settings(self.controls))

    def redraw(self) -> None:
        try:
            figure = self.figure()
            with matplotlib.rc_context({"text.hinting": "none"}):  # letters take most of the time; this saves a third
                self._image.value = figure.png(DPI)
            self._caption.value = f"<details><summary>in words</summary>{html.escape(figure.alt)}</details>"
            self.error, self._trouble.value = None, ""
        except Exception as error:  # on the event loop nobody else would show it
            self.error, self._trouble.value = error, one_line(error)


def _log(description: str, value: float, low: float, high: float) -> ipywidgets.FloatLogSlider:
    return ipywidgets.FloatLogSlider(description=description, value=value, min=math.log10(low), max=math.log10(high),
                                     step=0.02, readout_format=".2f", continuous_update=True)


def meter() -> Sliders:
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

    return Sliders(slack_meter, controls, settings)


def effects() -> Sliders:
    """The three effects as sliders: L, the variance, and by the distance of the start E|g|^2, which is not free."""
    controls = [_log("L", 1.0, 0.1, 10), _log("variance σ²", 0.25, 0.01, 10), _log("distance: E‖g‖²", 1.0, 0.1, 10)]

    def settings(of) -> dict:
        return {"L": of["L"].value, "sigma2": of["variance σ²"].value, "distance": of["distance: E‖g‖²"].value}

    return Sliders(three_effects, controls, settings)
