"""Figures and dashboard of the three effects: the numbers of the records, every seed, and what is missing named."""

import pytest
from test_effects import made

from cbn_lab import figures, widgets
from cbn_lab.effects_evidence import geometric_mean
from cbn_lab.widgets.explorer import DPI

GRID = [made(f, p, s, values=(k * (1.0 + s), k * (2.0 + s), k * (3.0 + s)), factors={1.0: 0.5})
        for f, k in (("tanh", 1), ("relu", 3)) for p in ("before", "complete") for s in (0, 1, 2)]


def groups(activation="tanh"):
    return {p: [run for run in GRID if (run.config["activation"], run.config["placement"]) == (activation, p)]
            for p in ("before", "complete")}


def test_curves_draw_each_seed_and_the_geometric_mean():
    figure = figures.effect_curves(groups(), matched="loss", scale="scale_free")
    assert [axis.get_title() for axis in figure.fig.axes] == ["L, largest curvature", "E‖g‖²", "Var[g]"]
    second = figure.fig.axes[1]
    dots, mean = second.lines[:2]
    assert sorted(zip(dots.get_xdata(), dots.get_ydata(), strict=True)) == [
        (0, 20.0), (0, 30.0), (0, 40.0), (1, 10.0), (1, 15.0), (1, 20.0)]
    assert list(mean.get_ydata()) == pytest.approx([geometric_mean([20, 30, 40]), geometric_mean([10, 15, 20])])
    assert "training loss falls below" in second.get_xlabel() and second.get_yscale() == "log"
    assert "E‖g‖²: before 28.8 at loss 1.5, 14.4 at loss 1" in figure.alt
    steps = figures.effect_curves(groups(), matched="step", scale="raw").fig.axes[1]
    assert steps.get_xlabel() == "SGD steps" and [t.get_text() for t in steps.get_xticklabels()] == ["0", "10", "22"]
    assert steps.lines[1].get_ydata()[0] == pytest.approx(geometric_mean([2, 3, 4]))


def test_a_level_that_was_never_reached_has_no_point_and_is_named():
    slow = {"before": [made(levels=(1.5,)), made(seed=1)], "complete": groups()["complete"]}
    figure = figures.effect_curves(slow, matched="loss", scale="raw")
    assert "No point: before below 1 (1 of 2 seeds)" in figure.alt
    assert figure.fig._supxlabel.get_text() == "No point: before below 1 (1 of 2 seeds)"
    short = made(placement="complete", levels=(1.5,))
    short.config["effects"] = {"levels": [1.5], "steps": [0]}
    own = figures.effect_curves({"before": [made()], "complete": [short]}, matched="loss", scale="raw")
    assert "No point" not in own.alt, "a level that its schedule does not have is not missing"
    never = {"before": [made(levels=())], "complete": groups()["complete"]}
    assert "L: before no point; complete" in figures.effect_curves(never, matched="loss", scale="raw").alt
    assert "No point" not in figures.effect_curves(groups(), matched="loss", scale="raw").alt


def test_other_quantities_can_be_drawn():
    figure = figures.effect_curves(groups(), matched="loss", scale="raw", quantities=("decrease",))
    (axis,) = figure.fig.axes
    assert axis.get_ylabel() == "decrease (nats)"
    assert min(axis.lines[0].get_ydata()) == pytest.approx(0.25**2 / (2 * 1.5 * 2.0)), "seed 2 at loss 1"


@pytest.mark.parametrize(("arguments", "options", "said"), [
    ({}, {}, "no runs to draw"),
    ({"a": []}, {}, "no runs to draw"),
    ({"a": [made(), made("relu")]}, {}, "choose one data set and one activation"),
    ({"a": [made()]}, {"scale": "free"}, "scale must be one of raw, scale_free"),
    ({"a": [made()]}, {"matched": "epoch"}, "matched must be one of loss, step"),
])
def test_what_cannot_be_drawn_is_refused(arguments, options, said):
    with pytest.raises(ValueError, match=said):
        figures.effect_curves(arguments, **{"matched": "loss", "scale": "raw"} | options)


def test_scores_have_a_dot_per_seed_and_say_the_outcome():
    records = [made(p_f, p, s, values=v) for p_f in ("tanh", "relu") for s in (0, 1, 2)
               for p, v in (("before", (1.0, 1.0, 1.0)), ("complete", (0.5, 1.0, 2.0 + s)))]
    figure = figures.effect_scores(records, "complete", "before", matched="loss", scale="raw")
    (axis,) = figure.fig.axes
    drawn = [sorted(line.get_xdata()) for line in axis.lines if line.get_label() == "tanh"]
    assert drawn == [pytest.approx([0.5] * 3), pytest.approx([1.0] * 3), pytest.approx([2.0, 3.0, 4.0])]
    assert "L: tanh 0.50 (0.50 to 0.50), smaller" in figure.alt
    assert "Var[g]: tanh 2.88 (2.00 to 4.00), larger" in figure.alt
    with pytest.raises(ValueError, match="no pair of runs of complete and none"):
        figures.effect_scores(records, "complete", "none", matched="loss", scale="raw")


def test_layers_are_drawn_first_to_last_with_the_curvature_of_seed_0():
    figure = figures.effects_by_layer(groups(), matched="step", at=0, scale="raw")
    first, second, _ = figure.fig.axes
    assert list(first.lines[1].get_ydata()) == [1.0, 2.0] and list(second.lines[1].get_xdata()) == [1, 2]
    assert list(second.lines[3].get_ydata()) == pytest.approx([geometric_mean([2, 3, 4]), geometric_mean([4, 6, 8])])
    assert "L: before 1, 2 (n = 1)" in figure.alt and "E‖g‖²: before 2.88, 5.77 (n = 3)" in figure.alt
    with pytest.raises(ValueError, match="no run of before has a point at 66"):
        figures.effects_by_layer(groups(), matched="step", at=66, scale="raw")


def test_rescaled_effects_are_relative_to_factor_1():
    table = {a: {"raw": dict.fromkeys(("curvature", "second", "variance"), 4.0 / a**2),
                 "scale_free": dict.fromkeys(("curvature", "second", "variance"), 7.0)} for a in (1.0, 10.0)}
    raw, free = figures.rescaled_effects(table).fig.axes
    assert list(raw.lines[0].get_ydata()) == pytest.approx([1.0, 0.01])
    assert list(free.lines[2].get_ydata()) == [1.0, 1.0]
    with pytest.raises(ValueError, match="relative to factor 1"):
        figures.rescaled_effects({10.0: table[10.0]})


def test_the_dashboard_shows_what_its_controls_say():
    dashboard = widgets.dashboard(GRID)
    assert list(dashboard.controls) == ["activation", "matched", "scale", "before", "complete"]
    assert dashboard.controls["activation"].options == ("tanh", "relu")
    assert dashboard.figure().alt == figures.effect_curves(groups(), matched="loss", scale="scale_free").alt
    for control, new in {"activation": "relu", "matched": "step", "scale": "raw", "before": False}.items():
        before = bytes(dashboard.image.value)
        dashboard.controls[control].value = new
        assert bytes(dashboard.image.value) != before, f"{control} changes nothing"
    wanted = figures.effect_curves({"complete": groups("relu")["complete"]}, matched="step", scale="raw")
    assert bytes(dashboard.image.value) == wanted.png(DPI) and dashboard.error is None
    assert "E‖g‖²: complete 8.65 after step 0" in dashboard.caption.value


def test_the_dashboard_shows_what_is_wrong_and_recovers():
    dashboard = widgets.dashboard([run for run in GRID if run.config["placement"] == "before"] + GRID[3:4])
    dashboard.controls["activation"].value = "relu"
    assert "no recorded measurement of relu with complete" in str(dashboard.error)
    assert "no recorded measurement of relu with complete" in dashboard.trouble.value
    dashboard.controls["complete"].value = False
    assert dashboard.error is None
    dashboard.controls["before"].value = False
    assert "tick at least one placement" in str(dashboard.error)


def test_the_dashboard_is_of_one_data_set():
    with pytest.raises(ValueError, match="got no records"):
        widgets.dashboard([])
    with pytest.raises(ValueError, match="got cifar10, digits"):
        widgets.dashboard([made(), made(data="cifar10")])
