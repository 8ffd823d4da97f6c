"""What cannot be drawn is refused with a sentence, never with a bare KeyError or IndexError."""

import math
from dataclasses import replace

import pytest
from test_figures import _run

from cbn_lab import data, figures, outcomes, widgets

GOOD = _run()
NO_LOSS = replace(GOOD, curve=[{"epoch": 1.0}])
NO_EPOCH = replace(GOOD, curve=[{"loss": 1.0}])
NO_SEED = replace(GOOD, config={key: value for key, value in GOOD.config.items() if key != "seed"})


@pytest.mark.parametrize("run, lacking", [(NO_LOSS, "loss"), (NO_EPOCH, "epoch"), (NO_SEED, "seed"),
                                          (replace(GOOD, config={}), "activation, placement, epochs, seed")])
def test_a_run_that_lacks_something_is_named(run, lacking):
    for draw in (lambda: figures.learning_curves({"a": [run]}), lambda: figures.learning_curves([run]),
                 lambda: widgets.Player({"a": [run]}), lambda: figures.final_accuracy([run])):
        with pytest.raises(ValueError, match=f"a run has no {lacking}: .* cbn_lab.train.fit"):
            draw()


@pytest.mark.parametrize("draw, words", [
    (lambda: figures.ranking_guess([]), "no items to be ordered"),
    (lambda: figures.curve_guess((), 0, 1), "at one epoch at least"),
    (lambda: figures.curve_guess((1, 2), 0, 1, known={"a": []}), "no runs to draw for a"),
    (lambda: figures.traces({"a": [[]]}, x="a", y="b"), "nothing to draw"),
    (lambda: figures.images(data.load("digits", "test"), 0), "count must be from 1 to"),
    (lambda: figures.moments([]), "no activation to draw"),
    (lambda: outcomes.rank(["a", "b"], {"a": {}, "b": {0: 1.0}}), "no number for a")])
def test_nothing_to_draw_is_said(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


def test_a_number_that_is_not_one_is_drawn_in_words():
    assert "1 diverged" in figures.number_guess(0, 1, 0.1, "gap", 0.5, {0: math.nan}).alt
