"""Sliders over `figures.operating_point`: what gamma and beta of BN do to f(z) and to the spectrum behind it."""

from collections.abc import Sequence

import ipywidgets

from cbn_lab import activations, figures
from cbn_lab.widgets.display import Shown, debounced, one_line


class SpectrumExplorer(Shown):
    """A menu of activations and sliders for beta, gamma, width and correlation; each change redraws one picture.

    `values` are the arguments of `figures.operating_point` that stand behind the picture. An error is shown in one
    line below it and kept in `error`.
    """

    def __init__(self, names: Sequence[str] | None = None):
        self._name = ipywidgets.Dropdown(description="Activation", options=list(names or activations.names()))
        slider = ipywidgets.FloatSlider
        self._controls = {
            "beta": slider(description="beta", value=0.0, min=-4.0, max=4.0, step=0.1),
            "gamma": slider(description="gamma", value=1.0, min=0.1, max=4.0, step=0.1),
            "width": ipywidgets.IntSlider(description="channels N", value=64, min=2, max=512),
            "correlation": slider(description="corr. of z", value=0.0, min=0.0, max=1.0, step=0.05),
        }
        self._image = ipywidgets.Image(format="png")
        self._image.layout.max_width = "100%"
        self._trouble = ipywidgets.HTML()
        self.error: Exception | None = None
        redraw = debounced(self._redraw)
        for control in (self._name, *self._controls.values()):
            control.observe(lambda change: redraw(), "value")
        row = ipywidgets.HBox(list(self._controls.values()))
        row.layout.flex_flow = "row wrap"
        self.view = ipywidgets.VBox([self._name, row, self._image, self._trouble])
        self._redraw()

    @property
    def values(self) -> dict:
        return {"name": self._name.value} | {key: control.value for key, control in self._controls.items()}

    def figure(self) -> figures.Figure:
        return figures.operating_point(**self.values)

    def _redraw(self) -> None:
        try:
            self._image.value = self.figure().png()
            self.error, self._trouble.value = None, ""
        except Exception as error:  # on the event loop nobody else would show it
            self.error, self._trouble.value = error, one_line(error)


def spectrum_explorer(names: Sequence[str] | None = None) -> SpectrumExplorer:
    """Of the given activations, or of all that are registered. ValueError, with the known ones, for an unknown name."""
    for name in names or ():
        activations.moments(name)
    return SpectrumExplorer(names)
