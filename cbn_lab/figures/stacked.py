"""Several figures one below the other, as one."""

from collections.abc import Sequence

import matplotlib.figure

from cbn_lab.figures.demands import checked
from cbn_lab.figures.style import DPI, Figure


@checked
def stacked(parts: Sequence[Figure]) -> Figure:
    """The pictures from top to bottom, each in its own size, and their sentences in the same order.

    ValueError for no figures.
    """
    if not parts:
        raise ValueError("there is nothing to stack; give at least one figure")
    pixels = [part.pixels() for part in parts]
    width, height = max(p.shape[1] for p in pixels), sum(p.shape[0] for p in pixels)
    fig = matplotlib.figure.Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    for i, picture in enumerate(pixels):
        below = sum(p.shape[0] for p in pixels[i + 1:])
        axis = fig.add_axes((0, below / height, picture.shape[1] / width, picture.shape[0] / height))
        axis.imshow(picture, aspect="auto", interpolation="none")
        axis.set_axis_off()
    return Figure(fig, " ".join(part.alt for part in parts))
