"""What cannot be drawn is refused with a sentence, never with a bare KeyError or IndexError."""

import functools
import inspect
import math
import traceback
from dataclasses import replace
from pathlib import Path

import figure_examples
import numpy as np
import pytest
from test_figures import _run
from torch import nn

from cbn_lab import ablation, data, figures, outcomes, widgets
from cbn_lab.probes import depth
from cbn_lab.theory import meter

GOOD = _run()
NO_LOSS = replace(GOOD, curve=[{"epoch": 1.0}])
NO_EPOCH = replace(GOOD, curve=[{"loss": 1.0}])
NO_SEED = replace(GOOD, config={key: value for key, value in GOOD.config.items() if key != "seed"})
LEAST = replace(GOOD, config={key: GOOD.config[key] for key in ("activation", "placement", "epochs", "seed")})
NOT_A_NUMBER = replace(_run("after"), final={"test_accuracy": math.nan, "train_loss": math.nan})
EFFECTS = {"matched": "loss", "scale": "raw"}
RATIOS = dict.fromkeys(("raw", "scale_free"), dict.fromkeys(("curvature", "second", "variance"), 1.0))


def _landscape(**options):
    return figures.along_gradient({"a": figure_examples._landscapes()["before"]}, **options)


def _probed():
    return figure_examples._effect_arms(placements=("before",))


def _speeds(**changes):
    return figures.speed_ladder({"a": replace(figure_examples._speeds("a CPU", 700.0), **changes)})


def _bounds(L=1.0, **changes):
    found = meter.effects(1.0, 0.25, 1.0, np.geomspace(0.01, 1.9, 5), 10)
    return figures.three_effects(L, 0.25, 1.0, 10, found | changes)


@pytest.mark.parametrize("run, lacking", [(NO_LOSS, "loss"), (NO_EPOCH, "epoch"), (NO_SEED, "seed"),
                                          (replace(GOOD, config={}), "activation, placement, epochs, seed")])
def test_a_run_that_lacks_something_is_named(run, lacking):
    for draw in (lambda: figures.learning_curves({"a": [run]}), lambda: figures.learning_curves([run]),
                 lambda: widgets.Player({"a": [run]}), lambda: figures.final_accuracy([run]),
                 lambda: figures.arms([run]), lambda: figures.ablation([run], ablation.ROWS),
                 lambda: figures.placement_grid([run]), lambda: figures.seed_strip([GOOD], own=[replace(
                     run, final=GOOD.final)])):
        with pytest.raises(ValueError, match=f"a run has no {lacking}: .* cbn_lab.train.fit"):
            draw()


REFUSED = [
    (lambda: figures.ablation([GOOD], {}), "none of the 1 runs has one of the structures: no row is given"),
    (lambda: figures.ablation([GOOD], ablation.ROWS, baseline="x", gains=True), "baseline must be one of vanilla"),
    (lambda: figures.accuracies([GOOD], "colour", "test_accuracy"), "no setting 'colour' for the rows; it has data"),
    (lambda: figures.accuracies([GOOD], "placement", "f1"), "has a final f1; they have train_loss, test_accuracy"),
    (lambda: figures.along_gradient({"a": []}), "every arm needs at least one seed"),
    (lambda: _landscape(chosen=99), "chosen must be from 0 to 7, the number of a step; got 99"),
    (lambda: figures.arms([replace(GOOD, config=GOOD.config | {"epochs": 0})]), "epochs above 0, got 0"),
    (lambda: figures.block_diagram([]), "no block to draw"),
    (lambda: figures.curve_guess((), 0, 1), "at one epoch at least"),
    (lambda: figures.curve_guess((1, 2), 0, 1, known={"a": []}), "no runs to draw for a"),
    (lambda: figures.curve_guess((1, 2), 0, 1, guess=[1]), "a value for each of the 2 epochs, got 1"),
    (lambda: figures.curve_guess((1, 2), 0, 1, guess=[1, math.nan]), "a guessed value must be a finite number"),
    (lambda: figures.curve_guess((0,), 0, 1), "an epoch must be a finite number above 0, got 0"),
    (lambda: figures.curve_guess((1, 2), 1, 1), "low must be less than high, got 1 and 1"),
    (lambda: figures.difference([GOOD]), "no run has a partner with the same seed among those of 'before'"),
    (lambda: figures.difference([GOOD, _run("after", seed=1)]), "no run has a partner with the same seed"),
    (lambda: figures.effect_curves({"a": []}, **EFFECTS), "an arm has none"),
    (lambda: figures.effect_curves({"a": [GOOD]}, **EFFECTS), "recorded without the probes of the effects"),
    (lambda: figures.effect_curves(_probed(), **EFFECTS, quantities=[]), "quantities must be among .*, got none"),
    (lambda: figures.effect_curves(_probed(), **EFFECTS, quantities=["x"]), "quantities must be among .*, got x"),
    (lambda: figures.effect_scores([GOOD], "none", "before", **EFFECTS), "recorded without the probes"),
    (lambda: figures.effect_scores(_probed()["before"], "none", "before", matched="loss", scale="x"),
     "scale must be one of raw, scale_free, got 'x'"),
    (lambda: figures.effects_by_layer({}, at=0, **EFFECTS), "no runs to draw"),
    (lambda: figures.effects_by_layer({"a": []}, at=0, **EFFECTS), "an arm has none"),
    (lambda: figures.effects_by_layer({"a": [GOOD]}, at=0, **EFFECTS), "recorded without the probes"),
    (lambda: figures.eigenvalues({}), "there are no eigenvalues to draw; give at least one"),
    (lambda: figures.eigenvalues({"a": {}}), "no eigenvalues to draw for a"),
    (lambda: figures.eigenvalues({"a": {"b": []}}), "no eigenvalues to draw for b"),
    (lambda: figures.eigenvalues({"a": {"b": [1.0, math.nan]}}), "an eigenvalue of b must be a finite number, got nan"),
    (lambda: figures.eigenvalues({"a": {"b": [0.0]}}), "no eigenvalue of b is finite and above 0"),
    (lambda: figures.eigenvalues({"a": {"b": [1.0]}}, theory={"c": [1.0]}), "theory is about c, which is no panel"),
    (lambda: figures.final_accuracy([]), "there are no runs to draw; record some"),
    (lambda: figures.final_accuracy([NOT_A_NUMBER]), "none of the 1 runs has a final test_accuracy"),
    (lambda: figures.fold_effect(figure_examples._folding(), channel=99), "channel must be from 0 to 3"),
    (lambda: figures.gradient_growth({}), "nothing to draw"),
    (lambda: figures.gradient_growth({"a": depth.growth("relu", "before", statistics="batch", width=8, depth=8,
                                                        seeds=(0, 1))}, predicted=0), "predicted must be .* above 0"),
    (lambda: figures.images(data.load("digits", "test"), 0), "count must be from 1 to"),
    (lambda: figures.images(data.load("digits", "test"), 1.5), "count must be from 1 to"),
    (lambda: figures.landscape_over_training({"a": {0: []}}), "nothing to draw"),
    (lambda: figures.layer_summary({}), "at least one arm"),
    (lambda: figures.learning_curves({}), "no runs to draw"),
    (lambda: figures.ledger([("a claim", "measured")]), "a row of a ledger is .claim, measured, seeds, device, ver"),
    (lambda: figures.ledger(["abcde"]), "a row of a ledger is .* got 'abcde'"),
    (lambda: figures.mark("x", ["relu", "tanh"]), "'x' is not among the registered names: relu, tanh"),
    (lambda: figures.model_diagram(nn.Linear(2, 2)), "holds no block"),
    (lambda: figures.model_diagram(figure_examples._net(), (3, 8, 8)), "image_shape must be .* got .3, 8, 8.; torch"),
    (lambda: figures.module_diagram({}), "no block to draw"),
    (lambda: figures.moments([]), "no activation to draw"),
    (lambda: figures.number_guess(0, 1, 0.1, "gap", math.nan), "a guess, must be a finite number, got nan"),
    (lambda: figures.number_guess(1, 0, 0.1, "gap"), "low must be less than high, got 1 and 0"),
    (lambda: figures.operating_point("relu", gamma=0), "gamma, the deviation of z, must be .* above 0, got 0"),
    (lambda: figures.placement_grid([]), "there are no runs to draw"),
    (lambda: figures.placement_grid([NOT_A_NUMBER]), "they have none at all"),
    (lambda: figures.points({"a": []}, x="x", y="y"), "no points to draw"),
    (lambda: figures.points({"a": [(1, 2, 3)]}, x="x", y="y"), "a point must be a pair"),
    (lambda: figures.points({"a": [(1, 2)]}, x="x", y="y", log="z"), "log must be .* got 'z'"),
    (lambda: figures.points({"a": [(1, -2)]}, x="x", y="height", log="y"), "no height is finite and above 0"),
    (lambda: figures.ranking_guess([]), "no items to be ordered"),
    (lambda: figures.ranking_guess(["a", "a"]), "the items must be different ones of a"),
    (lambda: figures.ranking_guess(["a", "b"], ["a", "z"]), "the guess must be different ones of a, b, got a, z"),
    (lambda: figures.rescaled_effects({}), "relative to factor 1, which is not among"),
    (lambda: figures.rescaled_effects({1.0: {"raw": {}}}), "no curvature, raw, at factor 1; each factor needs"),
    (lambda: figures.rescaled_effects({1.0: RATIOS | {"raw": RATIOS["raw"] | {"second": 0.0}}}), "effect at factor 1"),
    (lambda: figures.rescaled_effects({1.0: RATIOS, -1.0: RATIOS}), "a factor on the weights must be .* got -1.0"),
    (lambda: figures.roofline({}, {}), "at least one device and one layer, got 0 and 0"),
    (lambda: figures.roofline({"a": (1e12, 1e9)}, {}), "at least one device and one layer, got 1 and 0"),
    (lambda: figures.roofline({"a": 1e12}, {"norm": 1}), "a needs a pair .operations/s, bytes/s., got 1"),
    (lambda: figures.roofline({"a": (1e12, 0)}, {"norm": 1}), "a speed of a must be a finite number above 0, got 0"),
    (lambda: figures.roofline({"a": (1e12, 1e9)}, {"norm": -1}), "operations per byte must be .* above 0, got -1"),
    (lambda: figures.running_paths({}, start=0, target=1), "no batches to draw; give at least one"),
    (lambda: figures.running_paths({0.1: []}, start=0, target=1), "no batches to draw for 0.1"),
    (lambda: figures.running_paths({0.1: [1.0]}, start=math.nan, target=1), "must be a finite number, got nan"),
    (lambda: figures.running_paths({"a": [1.0]}, start=0, target=1), "must be a finite number, got 'a'"),
    (lambda: figures.seed_paths({}, xlabel="x", ylabel="y"), "no curves to draw; give at least one"),
    (lambda: figures.seed_paths({"a": []}, xlabel="x", ylabel="y"), "no curves to draw for a"),
    (lambda: figures.seed_paths({"a": [[]]}, xlabel="x", ylabel="y"), "no points to draw for a, seed 0"),
    (lambda: figures.seed_paths({"a": [[(0, 1)], [(1, 1)]]}, xlabel="x", ylabel="y"), "seeds of a have different x"),
    (lambda: figures.seed_strip([]), "there are no runs to draw"),
    (lambda: figures.shortcut_shares({}), "there is no probed run to draw"),
    (lambda: figures.speed_ladder({}), "no record to draw"),
    (lambda: _speeds(images_per_second={"a": [0.0]}, above={}), "a speed of a must be a finite number above 0"),
    (lambda: figures.spread([]), "no values to sum up"),
    (lambda: figures.stacked([]), "nothing to stack"),
    (lambda: figures.Table([[]]), "rows of one length, at least 1"),
    (lambda: figures.tension([]), "no activation to draw"),
    (lambda: figures.three_effects(1.0, 0.25, 1.0, 10, {}), "found lacks alpha, .* theory.meter.effects"),
    (lambda: _bounds(L=0), "L must be a finite number above 0"),
    (lambda: _bounds(measured=np.full(5, np.nan)), "no measured gradient is finite and above 0"),
    (lambda: figures.traces({"a": [[]]}, x="a", y="b"), "nothing to draw"),
    (lambda: figures.traces({"a": [[(0, 1)], [(1, 1)]]}, x="a", y="b"), "the seeds of a have no x in common"),
    (lambda: figures.traces({"a": [[(0, 1)]]}, x="step", y="b", log_x=True), "no step is finite and above 0"),
    (lambda: figures.variance_errors({}), "no errors to draw; give at least one"),
    (lambda: figures.variance_errors({"a": {}}), "no errors to draw for a"),
    (lambda: figures.variance_errors({"a": {1.0: []}}), "no errors to draw for a at a mean of 1.0"),
    (lambda: figures.variance_errors({"a": {0.0: [1.0]}}), "a mean of the values must be .* above 0, got 0.0"),
    (lambda: figures.variance_errors({"a": {1.0: [math.nan]}}), "no error of a is finite and above 0"),
    (lambda: outcomes.rank(["a", "b"], {"a": {}, "b": {0: 1.0}}), "no number for a"),
]


@pytest.mark.parametrize("draw, words", REFUSED)
def test_what_cannot_be_drawn_is_refused_with_a_sentence(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


ODD = {
    "no decided guess": (lambda: figures.calibration(None), "No guess has been judged yet"),
    "a diverged result": (lambda: figures.number_guess(0, 1, 0.1, "gap", 0.5, {0: math.nan}), "1 diverged"),
    "a run that says little": (lambda: figures.final_accuracy([LEAST]), "one dot a seed, sigmoid, before, 4 epochs"),
    "little in a grid": (lambda: figures.placement_grid([LEAST]), "the last epoch (%), sigmoid, before, 4 epochs."),
    "little in a strip": (lambda: figures.seed_strip([LEAST]), "one dot a seed, sigmoid, before, 4 epochs."),
    "little in curves": (lambda: figures.learning_curves([LEAST]), "Learning curves, sigmoid, before, 4 epochs."),
    "nan in a grid": (lambda: figures.placement_grid([GOOD, NOT_A_NUMBER]), "after no value, 1 did not finish"),
    "nan in a strip": (lambda: figures.seed_strip([GOOD, NOT_A_NUMBER]), "after no value, 1 did not finish"),
    "nan among accuracies": (lambda: figures.final_accuracy([GOOD, NOT_A_NUMBER]), "did not finish: 1 of 2 runs"),
    "an own arm": (lambda: figures.seed_strip([GOOD], own=[_run("after", seed=9)]), "after no value, your seed 9"),
    "own nan": (lambda: figures.seed_strip([GOOD], own=[NOT_A_NUMBER]), "before 53.1."),
    "an arm without a pair": (lambda: figures.difference([GOOD, _run("after"), _run("both", seed=1)]),
                              "both: no pair of one seed."),
    "moments of a constant": (lambda: figures.moments(["relu"], std=0), "relu 0.000, 0.000, 0.000"),
    "an array of points": (lambda: figures.points({"a": np.ones((3, 2))}, x="x", y="y"), "(3 points)"),
    "an error of 0": (lambda: figures.variance_errors({"a": {1.0: [0.0]}}), "from 1e-09 at a mean of 1"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_but_can_be_drawn_is_drawn(name):
    draw, words = ODD[name]
    figure = draw()
    assert figure.png() and words in figure.alt


FUNCTIONS = {name: getattr(figures, name) for name in figures.__all__ if inspect.isfunction(getattr(figures, name))}
MORE_CALLS = {  # of functions that return no Figure
    "accuracies": (([GOOD], "placement", "test_accuracy"), {}), "arms": (([GOOD],), {}), "ledger": (([],), {}),
    "layer_table": (([],), {"caption": "rows"}), "mark": (("relu", ["relu"]), {}), "paired": (({0: 1.0}, {0: 2.0}), {}),
    "spread": (([1.0],), {"digits": 1, "unit": "%"})}


@functools.cache
def _calls():
    """Name -> (arguments, options): how the examples call each public function; nothing is drawn."""
    found = dict(MORE_CALLS)

    def noted(name):
        return lambda *arguments, **options: found.setdefault(name, (arguments, options))

    with pytest.MonkeyPatch.context() as patch:
        for name in figure_examples.figure_functions():
            patch.setattr(figures, name, noted(name))
        for draw in figure_examples.EXAMPLES.values():
            draw()
    return found


@pytest.mark.parametrize("value", [None, 3, "x", []], ids=repr)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_argument_of_another_kind_is_drawn_or_refused_with_a_sentence(name, value):
    """Each one in turn; refused is what a line of cbn_lab raises, not what Python says of the value later on."""
    arguments, options = _calls()[name]
    for key in (*range(len(arguments)), *options):
        wrong = [*arguments[:key], value, *arguments[key + 1:]] if isinstance(key, int) else arguments
        try:
            FUNCTIONS[name](*wrong, **(options if isinstance(key, int) else options | {key: value}))
        except (TypeError, ValueError) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            assert "cbn_lab" in last.filename and last.line.startswith("raise"), f"{key}: {error!r}"


@pytest.mark.parametrize("draw, words", [
    (lambda: figures.traces(None, x="a", y="b"), "traces: groups must be a mapping, such as a dict, got None; see"),
    (lambda: figures.final_accuracy("x"), "final_accuracy: runs must be a list, got 'x'"),
    (lambda: figures.block_diagram(3), "placements must be a string or a list, got 3"),
    (lambda: figures.images([]), r"images: dataset must be an object of its own class, got \[\]"),
    (lambda: figures.calibration("x"), "calibration: of must be a Calibration or None, got 'x'"),
    (lambda: figures.operating_point("relu", beta=None), "beta must be a number, got None"),
    (lambda: figures.moments(), "missing 1 required positional argument: 'names'"),
])
def test_the_sentence_names_the_argument_and_its_kind(draw, words):
    with pytest.raises(TypeError, match=words):
        draw()


def test_every_public_function_is_asked_for_something_odd():
    source = Path(__file__).read_text(encoding="utf-8")
    asked = {name for name in figures.__all__ if f"figures.{name}(" in source}
    take_whatever_there_is = {"layer_table", "paired", "slack_meter"}
    assert set(figures.__all__) - asked == {"Figure", "MARKS", "Mark", "STYLE", *take_whatever_there_is}
