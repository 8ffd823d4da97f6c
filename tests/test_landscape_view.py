"""The pictures of probes along the gradient and of growth, and the sliders over them: drawn are the data's numbers."""

import pytest

from cbn_lab import figures, widgets
from cbn_lab.probes import depth
from cbn_lab.probes.landscape import Landscape, Line
from cbn_lab.widgets.explorer import DPI

STEPS = (0.05, 0.1, 0.4)


def _landscape(factor, steps=STEPS, coordinates="w"):
    line = Line(tuple(2.0 - factor * s for s in steps), tuple(factor * s for s in steps),
                tuple(factor / (1 + s) for s in steps), 1.0, 4.0)
    return Landscape(steps, 2.0, line, {}, coordinates, "batch", 8, 4)


def _records():
    return {arm: {t: [_landscape(f + t / 10 + seed / 100) for seed in range(2)] for t in (0, 5, 10)}
            for arm, f in (("plain", 3.0), ("BN", 1.0))}


def _curves(axis, label):
    return [list(line.get_ydata()) for line in axis.lines if line.get_label() == label]


def test_along_gradient_draws_seeds_and_means_and_says_the_values_at_the_chosen_step():
    found = {arm: by_step[5] for arm, by_step in _records().items()}
    figure = figures.along_gradient(found, chosen=1)
    change, moved, ratio = figure.fig.axes
    assert _curves(change, "plain") == [pytest.approx([-3.505 * s for s in STEPS])]
    assert _curves(moved, "BN") == [pytest.approx([1.505 * s for s in STEPS])]
    assert len(_curves(ratio, "_seed")) == 4
    assert "At step 0.1: plain: loss changes by -0.351 (-0.351 to -0.35, 2 seeds), gradient moved" in figure.alt
    assert "BN: loss changes by -0.15" in figure.alt and f"{1.505 / 1.05:.3g}" in figure.alt
    assert any(list(line.get_xdata()) == [0.1, 0.1] for line in change.lines), "the chosen step is marked"
    assert "At step 0.4" in figures.along_gradient(found).alt
    assert ratio.get_xscale() == ratio.get_yscale() == "log" and change.get_yscale() == "symlog"


def test_landscapes_that_cannot_share_an_axis_are_refused():
    for other in (_landscape(1.0, steps=(0.1, 0.2, 0.3)), _landscape(1.0, coordinates="w/||w||")):
        with pytest.raises(ValueError, match="differ in their steps, coordinates"):
            figures.along_gradient({"a": [_landscape(1.0)], "b": [other]})
    for empty in ({}, {"a": []}):
        with pytest.raises(ValueError, match="at least one seed"):
            figures.along_gradient(empty)


def test_over_training_draws_bands_from_least_to_largest():
    figure = figures.landscape_over_training(_records())
    loss, moved, smooth = figure.fig.axes
    assert _curves(moved, "plain") == [pytest.approx([(f + 0.005) * 0.4 for f in (3.0, 3.5, 4.0)])]
    assert _curves(loss, "BN")[0] == pytest.approx([2 - (f + 0.005) * 0.05 for f in (1.0, 1.5, 2.0)])
    lows = [list(line.get_ydata()) for line in moved.lines if line.get_linewidth() == 1.0]
    assert lows[0] == pytest.approx([(f + 0.005) * 0.05 for f in (3.0, 3.5, 4.0)]) and len(lows) == 2
    assert _curves(smooth, "BN") == [pytest.approx([(f + 0.005) / 1.05 for f in (1.0, 1.5, 2.0)])]
    assert f"BN: {1.005 / 1.05:.3g}" in figure.alt and "at 10." in figure.alt


def test_traces_and_levels():
    figure = figures.traces({"a": [[(1, 2.0), (2, 4.0)], [(1, 4.0), (2, 8.0)]]}, x="step", y="loss", log_y=True,
                            levels={"chance": 2.3})
    (axis,) = figure.fig.axes
    assert _curves(axis, "a") == [[3.0, 6.0]] and _curves(axis, "_seed") == [[2.0, 4.0], [4.0, 8.0]]
    assert "a: 3 (2 to 4, 2 seeds) at 1, 6 (4 to 8, 2 seeds) at 2." in figure.alt and "chance" in figure.alt
    assert axis.get_yscale() == "log" and axis.get_xscale() == "linear"
    assert figures.traces({"a": [[(1, 2.0)]]}, x="x", y="y").alt == "y against x. a: 2 at 1, 2 at 1."


def test_growth_is_drawn_relative_to_the_output():
    found = {"before": depth.growth("relu", "before", statistics="batch", width=20, depth=8, seeds=(0, 1))}
    figure = figures.gradient_growth(found, predicted=1.467)
    (axis,) = figure.fig.axes
    (mean,) = _curves(axis, "before")
    assert mean[-1] == 1.0 and len(mean) == 9
    profiles = found["before"].profiles
    assert mean[0] == pytest.approx(sum(p.boundaries[0] / p.boundaries[-1] for p in profiles) / 2)
    assert f"before {found['before'].rate.value:.3f}" in figure.alt and "Dashed: 1.467" in figure.alt
    assert _curves(axis, "1.467 a block") == [pytest.approx([1.467**8, 1.0])]


def test_sliders_choose_the_training_step_and_the_step_on_the_line():
    explorer = widgets.landscape_explorer(_records())
    first = {"records": _records(), "training_step": 5, "chosen": 2}
    assert explorer.values == first and explorer.error is None
    time, step = explorer.controls["after training steps"], explorer.controls["step on the line"]
    time.value, step.value = 10, 0
    assert explorer.values == first | {"training_step": 10, "chosen": 0}
    expected = widgets.landscape_at(_records(), 10, 0)
    assert explorer.figure().alt == expected.alt and expected.alt.startswith("After 10 training steps. Along")
    assert bytes(explorer.image.value) == expected.png(DPI)
    assert "At step 0.05: " in explorer.caption.value and explorer.caption.layout.display is None
    assert [label for label, _ in step.options] == ["0.05", "0.1", "0.4"]


def test_what_the_explorer_refuses():
    records = _records()
    del records["BN"][10]
    for bad in (records, {}, {"a": {}}):
        with pytest.raises(ValueError, match="same training steps"):
            widgets.landscape_explorer(bad)
    with pytest.raises(ValueError, match="was not probed after 7 training steps; known: 0, 5, 10"):
        widgets.landscape_at(_records(), 7, 0)
