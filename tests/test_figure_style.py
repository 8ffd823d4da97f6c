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
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from cbn_lab import activations, blocks, figures
from cbn_lab.figures.style import DPI, STYLE, axes

NAMES = pytest.mark.parametrize("name", EXAMPLES)
APART = 12  # CIE76 distance that can be told apart across a figure; 2.3 is just noticeable side by side
OFF_PAPER = 25  # the same from white
LEAST_PIXELS = 7  # height of the em at half size; of a small x then about 4
LEAST_CONTRAST = 4.5  # of text to what it stands on (WCAG 2, level AA)


def test_there_is_an_example_of_every_figure_function():
    assert {name.split(" of ")[0] for name in EXAMPLES} == set(examples.figure_functions())


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
        dashes, marker = _line_look(line)
        if len(x) and (dashes or marker) and not (straight and not marker):
            found.add((to_hex(line.get_color()), dashes, marker))
    for collection in axis.collections:
        if isinstance(collection, LineCollection):
            found |= {(to_hex(colour), str(dash), "") for colour, dash in
                      zip(collection.get_colors(), collection.get_linestyle(), strict=False)}
    return {look for look in found if look[0] not in (STYLE["grid.color"], "#ffffff")}


def _line_look(line) -> tuple[str, str]:
    """(dashes, marker), "" where there is none."""
    hollow = " hollow" if to_hex(line.get_markerfacecolor()) == "#ffffff" else ""
    return ("" if line.get_linestyle() in ("None", " ", "") else str(line._unscaled_dash_pattern),
            "" if line.get_marker() in ("None", " ", "", None) else f"{line.get_marker()}{hollow}")


def told_apart_by_colour_alone(figure) -> list:
    """Pairs in a panel, or in a legend, that differ in colour but neither in line style nor in marker nor in hatch."""
    panels = [_looks(axis) for axis in figure.fig.axes] + [_legend_looks(legend) for legend in _legends(figure)]
    return [pair for looks in panels for pair in itertools.combinations(sorted(looks), 2)
            if pair[0][0] != pair[1][0] and pair[0][1:] == pair[1][1:]]


def _legends(figure) -> list:
    return [*figure.fig.legends, *(axis.get_legend() for axis in figure.fig.axes if axis.get_legend())]


def _legend_looks(legend) -> set[tuple[str, str, str]]:
    handles = legend.legend_handles
    return {(to_hex(h.get_facecolor()), "patch", str(h.get_hatch())) for h in handles if isinstance(h, Patch)} | {
        (to_hex(h.get_color()), *_line_look(h)) for h in handles if isinstance(h, Line2D)}


def too_close_or_too_pale(figure) -> list:
    """(eye, colours of a panel) that cannot be told apart, or one that hardly stands out from white."""
    found = []
    for (eye, matrix), axis in itertools.product(DEFICIENCIES.items(), figure.fig.axes):
        labs = {look[0]: _lab(look[0], matrix) for look in sorted(_looks(axis))}
        found += [(eye, one, other) for (one, a), (other, b) in itertools.combinations(labs.items(), 2)
                  if np.linalg.norm(a - b) <= APART]
        found += [(eye, one) for one, lab in labs.items() if np.linalg.norm(lab - _lab("white", matrix)) <= OFF_PAPER]
    return found


def too_small(figure) -> dict:
    pixels(figure)  # what stands at the ticks is settled by drawing
    return {text.get_text(): text.get_fontsize() for text in _texts(figure)
            if text.get_fontsize() * (0.7 if "^{" in text.get_text() else 1) * DPI / 72 / 2 < LEAST_PIXELS}


def _texts(figure) -> list[Text]:
    """What is written in a figure that has been drawn: not the labels of ticks outside of a panel."""
    sides = [side for panel in figure.fig.axes for side in (panel.xaxis, panel.yaxis)]
    beyond = {label for side in sides for tick in side.get_major_ticks()
              if not min(side.get_view_interval()) <= tick.get_loc() <= max(side.get_view_interval())
              for label in (tick.label1, tick.label2)}
    return [text for text in figure.fig.findobj(Text)
            if text.get_text().strip() and text.get_visible() and text not in beyond]


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


def too_faint(figure) -> list:
    """(text, its colour, what it stands on, eye) with too little contrast."""
    figure.fig.draw_without_rendering()
    pairs = {(to_hex(text.get_color()), to_hex(_paper(text))): text.get_text() for text in _texts(figure)}
    return [(text, colour, paper, eye) for (colour, paper), text in pairs.items()
            for eye, matrix in DEFICIENCIES.items() if _contrast(colour, paper, matrix) < LEAST_CONTRAST]


def cut_off_or_transparent(figure) -> bool:
    """Whether the outermost pixels are all white, and every pixel opaque: it can then be read on a dark page, too."""
    picture = pixels(figure)
    frame = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    return not (np.all(frame == 1) and np.all(picture[..., 3:] == 1))


def written_over_each_other(figure) -> list:
    """Pairs of texts whose boxes overlap by more than a pixel."""
    figure.fig.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in _texts(figure)]
    return [(one, other) for (one, a), (other, b) in itertools.combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize("faults", [told_apart_by_colour_alone, too_close_or_too_pale, too_small, too_faint,
                                    cut_off_or_transparent, written_over_each_other])
@NAMES
def test_every_figure_can_be_read(name, faults):
    assert not faults(example(name))


def test_what_cannot_be_read_is_found():
    fig, (axis,) = axes(size=(4, 3))
    axis.plot([0, 1, 2], [0, 1, 0], color="#D55E00", label="one")
    axis.plot([0, 1, 2], [1, 0, 1], color="#C86010", label="other")
    axis.set_title("small", fontsize=9)
    axis.set_xlabel("pale", color="#999999")
    fig.text(1.0, 0.5, "cut off", ha="center")
    fig.text(0.98, 0.52, "over it", ha="center")
    axis.legend()
    bad = figures.Figure(fig, "")
    assert told_apart_by_colour_alone(bad) == 2 * [(("#c86010", "(0, None)", ""), ("#d55e00", "(0, None)", ""))]
    assert ("none", "#c86010", "#d55e00") in too_close_or_too_pale(bad)
    assert too_small(bad) == {"small": 9.0} and {text for text, *_ in too_faint(bad)} == {"pale"}
    assert cut_off_or_transparent(bad) and written_over_each_other(bad) == [("cut off", "over it")]
    pale = axes(size=(4, 3))
    pale[1][0].plot([0, 1, 2], [0, 1, 0], color="#FFFBE6")
    assert ("none", "#fffbe6") in too_close_or_too_pale(figures.Figure(pale[0], ""))


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
