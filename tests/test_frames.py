"""Frames of growing curves: each is the picture that a new figure would give, but less of it is drawn."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_figures import _run

from cbn_lab import figures
from cbn_lab.figures.frames import CurveFrames
from cbn_lab.figures.letters import Canvas

ARMS = {"before": [_run("before", seed=s) for s in range(2)], "live": [_run("complete", seed=s) for s in range(2)],
        "a second arm with a long label": [_run("none", activation="tanh")]}
PICTURES = st.fixed_dictionaries({"records": st.integers(0, 12), "arms": st.integers(1, 3),
                                  "upto": st.sampled_from([None, 0.0, 1.5, 3.0]), "high": st.booleans()})


def _shown(records: int, arms: int, upto: float | None, high: bool) -> dict:
    groups = dict(list(ARMS.items())[:arms])
    *rest, last = groups
    groups[last] = [replace(run, curve=[entry | {"loss": entry["loss"] * (9 if high else 1)}
                                        for entry in run.curve[:records]]) for run in groups[last]]
    return {"runs": groups, "upto": dict.fromkeys(rest, upto)}


@settings(max_examples=8, deadline=None)
@given(st.lists(PICTURES, min_size=2, max_size=5))
def test_every_frame_is_the_picture_of_a_new_figure(pictures):
    frames = CurveFrames()
    for picture in pictures:
        shown = _shown(**picture)
        pixels, alt = frames.pixels(**shown, dpi=50)
        wanted = figures.learning_curves(**shown)
        assert np.array_equal(pixels, wanted.pixels(50)) and alt == wanted.alt


def test_axes_and_words_are_drawn_again_only_when_they_change(monkeypatch):
    drawn, draw = [], Canvas.draw
    monkeypatch.setattr(Canvas, "draw", lambda canvas: (drawn.append(1), draw(canvas)))
    frames = CurveFrames()
    for epoch in np.linspace(1, 3, 9):
        frames.pixels(ARMS, upto=epoch)
    assert len(drawn) == 1
    frames.pixels(_shown(12, 3, None, high=True)["runs"])
    assert len(drawn) == 2, "another scale"
    frames.pixels({"renamed": ARMS["live"]})
    assert len(drawn) == 3


def test_after_an_error_the_next_frame_is_whole():
    frames = CurveFrames()
    frames.pixels(ARMS)
    with pytest.raises(ValueError, match="no runs to draw"):
        frames.pixels({})
    broken = _shown(3, 3, None, high=False)["runs"]
    broken["live"] = [replace(broken["live"][0], curve=[{"epoch": 1.0, "loss": "high"}])]
    with pytest.raises(TypeError):
        frames.pixels(broken)
    assert np.array_equal(frames.pixels(ARMS)[0], figures.learning_curves(ARMS).pixels())
