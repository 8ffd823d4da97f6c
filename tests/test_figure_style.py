"""What every figure looks like: told apart without colour, through three deficiencies, in grey, at half size, on dark.

`figure_examples` has a picture of each public figure function; here they are measured.
"""

import itertools

import figure_examples as examples
import numpy as np
import pytest
from figure_examples import DEFICIENCIES, EXAMPLES, example, linear, pixels, seen
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text

from cbn_lab import activations, blocks, figures
from cbn_lab.figures.style import DPI, STYLE

NAMES = pytest.mark.parametrize("name", EXAMPLES)
APART = 12  # CIE76 distance that can be told apart across a figure; 2.3 is just noticeable side by side
OFF_PAPER = 25  # the same from white
LEAST_PIXELS = 7  # height of the em at half size; of a small x then about 4
LEAST_CONTRAST = 4.5  # of text to what it stands on (WCAG 2, level AA)


def test_there_is_an_example_of_every_figure_function():
    assert set(EXAMPLES) == set(examples.figure_functions())


def _lab(colour, matrix):
    """CIE L*a*b* (D65) of a colour seen through a deficiency."""
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])
    xyz = to_xyz @ linear(seen(np.array(to_rgb(colour)), matrix)) / to_xyz.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_marks_stay_apart(deficiency):
    """All of them, since a figure may put any two into one panel."""
    matrix = DEFICIENCIES[deficiency]
    labs = {mark.colour: _lab(mark.colour, matrix) for mark in figures.MARKS}
    for (one, a), (other, b) in itertools.combinations(labs.items(), 2):
        assert np.linalg.norm(a - b) > APART, (one, other)
    before, complete = (figures.mark(name, blocks.placements()).colour for name in ("before", "complete"))
    assert np.linalg.norm(labs[before] - labs[complete]) > 40
    assert all(np.linalg.norm(lab - _lab("white", matrix)) > OFF_PAPER for lab in labs.values())


def _looks(axis) -> set[tuple[str, str, str]]:
    """(colour, dashes, marker) of what is drawn as a line or as points; not the grid, nor straight reference lines."""
    found = set()
    for line in axis.lines:
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        straight = len(x) > 1 and (np.ptp(x) == 0 or np.ptp(y) == 0)
        dashes = "" if line.get_linestyle() in ("None", " ", "") else str(line._unscaled_dash_pattern)
        marker = "" if line.get_marker() in ("None", " ", "", None) else (
            f"{line.get_marker()}{' hollow' if to_hex(line.get_markerfacecolor()) == '#ffffff' else ''}")
        if len(x) and (dashes or marker) and not (straight and not marker):
            found.add((to_hex(line.get_color()), dashes, marker))
    for collection in axis.collections:
        if isinstance(collection, LineCollection):
            found |= {(to_hex(colour), str(dash), "") for colour, dash in
                      zip(collection.get_colors(), collection.get_linestyle(), strict=False)}
    return {look for look in found if look[0] not in (STYLE["grid.color"], "#ffffff")}


@NAMES
def test_a_colour_never_stands_alone(name):
    """What differs in colour within a panel differs in line style or marker, too."""
    for axis in example(name).fig.axes:
        for one, other in itertools.combinations(_looks(axis), 2):
            assert one[0] == other[0] or one[1:] != other[1:], (one, other)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@NAMES
def test_colours_of_a_panel_stay_apart_and_off_the_paper(name, deficiency):
    matrix = DEFICIENCIES[deficiency]
    for axis in example(name).fig.axes:
        colours = {look[0]: _lab(look[0], matrix) for look in _looks(axis)}
        for (one, a), (other, b) in itertools.combinations(colours.items(), 2):
            assert np.linalg.norm(a - b) > APART, (one, other)
        assert all(np.linalg.norm(lab - _lab("white", matrix)) > OFF_PAPER for lab in colours.values())


def _texts(figure) -> list[Text]:
    return [text for text in figure.fig.findobj(Text) if text.get_text().strip() and text.get_visible()]


@NAMES
def test_text_can_be_read_at_half_size(name):
    pixels(example(name))  # what stands at the ticks is settled by drawing
    small = {text.get_text(): text.get_fontsize() for text in _texts(example(name))
             if text.get_fontsize() * (0.7 if "^{" in text.get_text() else 1) * DPI / 72 / 2 < LEAST_PIXELS}
    assert small == {}


def _contrast(one, other, matrix) -> float:
    light, dark = sorted((float(linear(seen(np.array(to_rgb(c)), matrix)) @ [0.2126, 0.7152, 0.0722])
                          for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _paper(text):
    """The fill of the last patch that the text's middle lies on, or white."""
    box = text.get_window_extent()
    middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    patches = text.axes.patches if text.axes is not None else []
    fills = [patch.get_facecolor() for patch in patches if patch.get_window_extent().contains(*middle)]
    return [(1.0, 1.0, 1.0), *(colour[:3] for colour in fills if colour[3] == 1)][-1]


@NAMES
def test_text_stands_out_from_what_is_behind_it(name):
    figure = example(name)
    figure.fig.draw_without_rendering()
    pairs = {(to_hex(text.get_color()), to_hex(_paper(text))): text.get_text() for text in _texts(figure)}
    for (colour, paper), text in pairs.items():
        for eye, matrix in DEFICIENCIES.items():
            assert _contrast(colour, paper, matrix) >= LEAST_CONTRAST, (text, colour, paper, eye)


@NAMES
def test_a_figure_brings_its_own_white_paper_and_is_not_cut_off(name):
    """Opaque, so that it can be read on a dark page as well, with a white frame around all that is drawn."""
    picture = pixels(example(name))
    assert np.all(picture[..., 3] == 1)
    frame = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert np.all(frame[:, :3] == 1)


@NAMES
def test_the_sentence_says_what_is_drawn(name):
    """It is a sentence, without missing numbers, and holds every registered name that the legends show."""
    figure = example(name)
    assert len(figure.alt) >= 40 and figure.alt.endswith(".") and "  " not in figure.alt
    assert "nan" not in figure.alt.replace(",", " ").split()
    labels = {label for axis in figure.fig.axes for label in axis.get_legend_handles_labels()[1]}
    assert all(label in figure.alt for label in labels & {*activations.names(), *blocks.placements()})


def test_the_page_of_all_figures_is_written():
    """For looking at, with the screenshots of the browser tests; `python tests/figure_examples.py` makes it, too."""
    path = examples.page(examples.ROOT / "tests" / "artifacts" / "figures.html")
    text = path.read_text(encoding="utf-8")
    assert text.count("<img ") == (1 + 1 + 4 + 1) * len(EXAMPLES) and text.count(' alt="') == text.count("<img ")
    assert "http" not in text.replace("http://www.w3.org", "")
