"""Texts that are copied look like texts that are drawn."""

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cbn_lab.figures.letters import Canvas


def _drawn(kind, x, y, text, **options):
    fig = Figure(figsize=(2, 1), dpi=100, facecolor="white")
    fig.add_artist(Rectangle((0, 0), 1, 0.5, color="#F0E0D0"))
    fig.text(x / 200, y / 100, text, **options)
    with matplotlib.rc_context({"text.hinting": "none"}):
        canvas = kind(fig)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba()).astype(int)


WORDS = st.sampled_from(["0.0786 ≤ 0.373", "test accuracy (%)", "two\nlines", "$E\\|g\\|^2$ of μ", " ", "WAVE, fig."])
LOOKS = st.fixed_dictionaries({}, optional={
    "color": st.sampled_from(["#D55E00", "white", (0.0, 0.4, 0.7, 0.3)]), "alpha": st.sampled_from([0.3, 1.0]),
    "size": st.sampled_from([9.5, 12, 22]), "weight": st.just("bold"), "rotation": st.sampled_from([0, 30, 90, 270]),
    "ha": st.sampled_from(["left", "center", "right"]), "va": st.sampled_from(["top", "center", "baseline"])})


@settings(max_examples=40, deadline=None)
@given(WORDS, LOOKS, st.floats(-30, 230), st.floats(-30, 130))
def test_a_copied_text_has_the_ink_of_a_drawn_one_in_its_place(text, looks, x, y):
    """Compared as means of 3 by 3 pixels, since it may be moved by one; also where the picture's edge cuts it off."""
    copied, drawn = (_drawn(kind, x, y, text, **looks) for kind in (Canvas, FigureCanvasAgg))
    assert (copied[..., 3] == 255).all()
    away = np.abs(_smooth(copied) - _smooth(drawn))
    assert away.max() <= 150 and away.mean() <= 3


def _smooth(picture):
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    return sum(padded[i:i + picture.shape[0], j:j + picture.shape[1]] for i in range(3) for j in range(3)) / 9


@pytest.mark.parametrize("rotation", [0, 90])
def test_on_whole_pixels_they_are_the_same(rotation):
    class Whole(FigureCanvasAgg):
        def get_renderer(self):
            renderer = super().get_renderer()
            draw = type(renderer).draw_text
            renderer.draw_text = lambda gc, x, y, *rest, **options: draw(renderer, gc, round(x), round(y), *rest)
            return renderer

    looks = {"rotation": rotation, "color": "#0072B2"}
    copied, drawn = (_drawn(kind, 80, 40, "accuracy 93.4", **looks) for kind in (Canvas, Whole))
    assert np.abs(copied - drawn).max() <= 2, "rounding"


def test_a_second_picture_is_the_same_and_another_font_is_another():
    first, again = (_drawn(Canvas, 20, 40, "the same") for _ in range(2))
    assert (first == again).all()
    with matplotlib.rc_context({"font.sans-serif": ["DejaVu Serif"]}):
        assert (_drawn(Canvas, 20, 40, "the same") != first).any()


def test_a_clipped_text_is_cut_as_always():
    for options in ({"clip_on": True, "clip_box": matplotlib.transforms.Bbox([[0, 0], [60, 100]])},
                    {"antialiased": False}):
        copied, drawn = (_drawn(kind, 20, 40, "a long text", **options) for kind in (Canvas, FigureCanvasAgg))
        assert (copied == drawn).all()
