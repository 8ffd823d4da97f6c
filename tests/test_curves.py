"""Learning curves: the band, the part up to an epoch, and marks that stay when arms are added."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from test_figures import _lines, _run

from cbn_lab import figures, runs
from cbn_lab.figures.curves import marks

SEEDS = {"before": [_run("before", seed=s) for s in range(3)], "complete": [_run("complete", seed=s) for s in range(3)]}


def _values(run, key):
    return [entry[key] for entry in run.curve if key in entry]


def test_a_band_from_the_lowest_seed_to_the_highest():
    left, right = figures.learning_curves(SEEDS).fig.axes
    for axis, key, scale in ((left, "loss", 1), (right, "test_accuracy", 100)):
        bands = [c for c in axis.collections if isinstance(c, PolyCollection)]
        for band, group in zip(bands, SEEDS.values(), strict=True):
            values = scale * np.array([_values(run, key) for run in group])
            corners = band.get_paths()[0].vertices[:, 1]
            assert np.isclose(corners.min(), values.min()) and np.isclose(corners.max(), values.max())
    one = figures.learning_curves({"before": SEEDS["before"][:1]})
    assert not any(axis.collections or _lines(axis, "_seed") for axis in one.fig.axes), "one seed has no spread"


def test_seeds_are_points_where_accuracies_are_rare():
    _, right = figures.learning_curves(SEEDS).fig.axes
    points = _lines(right, "_seed")
    assert len(points) == 6 and {line.get_linestyle() for line in points} == {"None"}


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 5))
def test_up_to_an_epoch_the_curves_end_there_and_the_axes_stand_still(epoch):
    whole, part = figures.learning_curves(SEEDS), figures.learning_curves(SEEDS, upto=epoch)
    for full, cut in zip(whole.fig.axes, part.fig.axes, strict=True):
        assert full.get_xlim() == cut.get_xlim() and full.get_ylim() == cut.get_ylim()
        for before, after in zip(full.lines, cut.lines, strict=True):
            x = np.array(before.get_xdata())
            assert np.array_equal(after.get_xdata(), x[x <= epoch])
            assert np.array_equal(after.get_ydata(), np.array(before.get_ydata())[x <= epoch])


def test_one_arm_can_end_earlier_than_another():
    figure = figures.learning_curves(SEEDS, upto={"before": 2.0})
    left, _ = figure.fig.axes
    assert _lines(left, "before")[0].get_xdata()[-1] == 2 and _lines(left, "complete")[0].get_xdata()[-1] == 4
    assert "at epoch 2. complete" in figure.alt and figure.alt.endswith("at epoch 4.")


def test_the_sentence_says_how_far_the_losses_and_how_far_the_accuracies_go():
    """The accuracy of epoch 1 is not called that of epoch 1.5; seeds may have got to different epochs."""
    first, second = ({"epoch": 1.0, "loss": 2.0, "test_accuracy": 0.5}, {"epoch": 1.5, "loss": 1.0})
    config = _run("after").config
    arm = [runs.Run(config | {"seed": seed}, curve, {}, {}, "finished")
           for seed, curve in enumerate(([first, second], [first]))]
    assert figures.learning_curves(arm[:1]).alt.endswith("training loss 1.000 at epoch 1.5, test accuracy 50.0 % "
                                                         "at epoch 1.")
    assert "2 seeds) at epochs 1 to 1.5, test accuracy 50.0 %" in figures.learning_curves(arm).alt


def test_a_curve_that_is_not_finite_leaves_the_axes_as_they_are():
    bad = runs.Run(_run("after").config, [{"step": 1, "epoch": 1.0, "loss": None}], {}, {}, "diverged")
    left, _ = figures.learning_curves({"before": SEEDS["before"], "after": [bad]}).fig.axes
    assert all(map(math.isfinite, left.get_ylim()))


def test_an_added_arm_leaves_the_marks_of_the_others():
    arms = {"a": [_run("before")], "b": [_run("before", activation="tanh")], "c": [_run("complete")]}
    names = list(arms)
    every = marks(arms)
    assert len(set(every)) == 3
    for count in (1, 2):
        assert marks({name: arms[name] for name in names[:count]}) == every[:count]


def test_kept_marks_stay_when_arms_come_before_them_or_go():
    arms = {"a": [_run("before")], "b": [_run("before", activation="tanh")]}
    a, b = marks(arms)
    kept = {"a": a, "b": b}
    new, *rest = marks({"new": [_run("before", activation="relu")], **arms}, kept)
    assert rest == [a, b] and new not in rest
    assert marks({"b": arms["b"]}, kept) == [b]
    assert len(set(marks({str(i): [_run("before")] for i in range(9)}))) == len(figures.MARKS), "then they repeat"


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_long_legends_stay_inside_the_picture_and_above_the_axes(count):
    arms = {f"sigmoid, complete, learning rate 0.{i}, a long label": [_run(seed=i)] for i in range(count)}
    fig = figures.learning_curves(arms).fig
    fig.draw_without_rendering()
    box, width = fig.legends[0].get_window_extent(), fig.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= width.x1 and box.y1 <= width.y1
    assert box.y0 >= fig.axes[0].get_window_extent().y1 - 2


def test_axes_without_a_curve_have_no_numbers():
    figure = figures.learning_curves({"before": [runs.Run(_run().config, [], {}, {}, "interrupted")]})
    figure.fig.draw_without_rendering()
    assert [label.get_text() for axis in figure.fig.axes for label in axis.get_yticklabels() if label.get_text()] == []


def test_the_sentence_says_where_a_curve_began_and_stood_halfway():
    arm = SEEDS["before"]
    losses = [(e["epoch"], sum(run.curve[i]["loss"] for run in arm) / 3) for i, e in enumerate(arm[0].curve)]
    (x0, first), (x, middle) = losses[0], losses[len(losses) // 2]
    alt = figures.learning_curves({"before": arm}).alt
    assert f"before: from loss {first:.3g} at epoch {x0:.3g}, over loss {middle:.3g} at epoch {x:.3g} and " in alt
    short = [runs.Run(run.config, run.curve[:2], {}, {}, "interrupted") for run in arm]
    assert "before: training loss" in figures.learning_curves({"before": short}).alt, "nothing lies between two points"
