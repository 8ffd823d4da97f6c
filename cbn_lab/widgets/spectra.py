"""Sliders over `figures.operating_point`: what gamma and beta of BN do to f(z) and to the spectrum behind it."""

from collections.abc import Sequence

import ipywidgets

from cbn_lab import activations, figures
from cbn_lab.widgets.explorer import Explorer


def spectrum_explorer(names: Sequence[str] | None = None) -> Explorer:
    """A menu of activations (the given ones, or all) and sliders for beta, gamma, width and correlation.

    ValueError, with the known ones, for an unknown name.
    """
    for name in names or ():
        activations.moments(name)
    slider = ipywidgets.FloatSlider
    controls = {
        "name": ipywidgets.Dropdown(description="activation", options=list(names or activations.names())),
        "beta": slider(description="β, mean of z", value=0.0, min=-4.0, max=4.0, step=0.1),
        "gamma": slider(description="γ, deviation of z", value=1.0, min=0.1, max=4.0, step=0.1),
        "width": ipywidgets.IntSlider(description="channels N", value=64, min=2, max=512),
        "correlation": slider(description="correlation of z", value=0.0, min=0.0, max=1.0, step=0.05),
    }
    return Explorer(lambda **values: figures.operating_point(**values), list(controls.values()),
                    lambda of: {key: control.value for key, control in controls.items()})
