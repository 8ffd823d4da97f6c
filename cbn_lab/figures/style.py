"""What all figures share: the pair of picture and sentence, the colours, the look.

Colours are those of Okabe and Ito (2008), without the yellow, which is too pale on white. A colour never stands alone:
each comes with a line style and a marker. tests/test_figure_style.py looks at every figure through three colour-vision
deficiencies, in grey and at half size.
"""

import base64
import contextlib
import functools
import html
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import matplotlib
import matplotlib.figure
import numpy as np
from PIL import Image

from cbn_lab.figures.demands import checked
from cbn_lab.figures.letters import Canvas

# JupyterLab lets widgets draw in a thread of their own (a subshell) while a cell draws in the main one, and
# matplotlib's settings are those of the whole process: without this lock a figure may come out in the wrong style.
DRAWING = threading.RLock()
DPI = 110  # pixels an inch: a figure 8 inches wide is 880 pixels, and can still be read at half of that


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """In force while a figure is turned into pixels.

    Letters that are not hinted save a third of the drawing. Powers of ten up to 1000 are written out on a logarithmic
    axis: an exponent is too small to be read at half size.
    """
    with DRAWING, matplotlib.rc_context({"text.hinting": "none", "axes.formatter.min_exponent": 4}):
        yield


def encoded(pixels: np.ndarray) -> bytes:
    """A PNG of [height, width, 3], packed the quick way: a slider waits for it, and the kernel is near."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Figure:
    """A picture and the sentence that says what it shows, made from the same numbers.

    In a notebook it shows itself as an image with that sentence as its alt text. `fig` is a plain matplotlib figure,
    to be changed or saved as usual. `headline` is the part of a long `alt` that an explorer shows at all times.
    """

    fig: matplotlib.figure.Figure
    alt: str
    headline: str = ""

    def png(self, dpi: float = DPI) -> bytes:
        """On white whatever the reader's theme: a transparent picture is unreadable on a dark page."""
        return encoded(self.pixels(dpi))

    def pixels(self, dpi: float = DPI) -> np.ndarray:
        """[height, width, 3], from 0 to 255. Drawn once: `savefig` draws twice, the first time to settle the layout."""
        fig = self.fig
        canvas, own_dpi, colours = fig.canvas, fig.dpi, (fig.get_facecolor(), fig.get_edgecolor())
        with drawing():
            try:
                fig.set(dpi=dpi, facecolor="white", edgecolor="none")
                new = Canvas(fig)
                new.draw()
            finally:
                fig.set(dpi=own_dpi, facecolor=colours[0], edgecolor=colours[1])
                fig.set_canvas(canvas)
        return np.asarray(new.buffer_rgba())[..., :3]

    def html(self) -> str:
        """The picture as an <img> with its alt text, in 256 colours: a third of the bytes, for a notebook stores it."""
        small = io.BytesIO()
        Image.fromarray(self.pixels()).quantize(256, dither=Image.Dither.NONE).save(small, "png")
        data = base64.b64encode(small.getvalue()).decode()
        return f'<img alt="{html.escape(self.alt)}" style="max-width:100%" src="data:image/png;base64,{data}">'

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.alt}


@dataclass(frozen=True)
class Mark:
    """How one arm of a comparison is drawn."""

    colour: str
    line: object
    marker: str


MARKS = (
    Mark("#000000", ":", "X"),
    Mark("#D55E00", "--", "s"),
    Mark("#56B4E9", "-.", "^"),
    Mark("#009E73", (0, (1, 1)), "D"),
    Mark("#E69F00", (0, (4, 1, 1, 1)), "v"),
    Mark("#0072B2", "-", "o"),
    Mark("#CC79A7", (0, (8, 2)), "P"),
)
_BY_POSITION = (1, 5, 3, 4, 6, 2, 0)  # the most different ones first


@checked
def mark(name: str, registry: Sequence[str]) -> Mark:
    """The mark of a registered name: the same in every figure, for a reader's own names as well.

    ValueError for a name that is not registered.
    """
    if name not in registry:
        raise ValueError(f"{name!r} is not among the registered names: {', '.join(registry) or 'there are none'}")
    return MARKS[list(registry).index(name) % len(MARKS)]


def nth_mark(position: int) -> Mark:
    """The mark of something without a registered name, by its place in the figure."""
    return MARKS[_BY_POSITION[position % len(MARKS)]]


STYLE = {
    "font.size": 12, "axes.titlesize": 12, "axes.labelsize": 12, "legend.fontsize": 11,
    "xtick.labelsize": 11, "ytick.labelsize": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#d9d9d9", "grid.linewidth": 0.8, "lines.linewidth": 2.2, "lines.markersize": 6.5,
    "legend.frameon": False, "legend.handlelength": 3.2,
    "axes.titley": 1.0,  # where it stands by itself, but without measuring every tick label, a third of the drawing
}


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the course's style, whatever the reader has set; their settings are left as they were. TypeError for an
    argument of another kind than the function's annotations say."""
    function = checked(function)

    @functools.wraps(function)
    def draw(*arguments, **options):
        with DRAWING, matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return function(*arguments, **options)

    return draw


def axes(columns: int = 1, *, size: tuple[float, float],
         margins: tuple[float, float, float, float, float] | None = None, **options):
    """(figure, list of axes in one row). Not from pyplot, which would show each figure a second time.

    margins  left, right, bottom, top and between two axes, in inches. Without, the axes are placed by what stands
             around them, which takes half as long again as the drawing: too long behind a slider.
    """
    fig = matplotlib.figure.Figure(figsize=size, dpi=DPI, layout=None if margins else "constrained", facecolor="white")
    if margins:
        (width, height), (left, right, bottom, top, between) = size, margins
        one = (width - left - right - (columns - 1) * between) / columns
        fig.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, between / one)
    return fig, list(fig.subplots(1, columns, squeeze=False, **options)[0])
