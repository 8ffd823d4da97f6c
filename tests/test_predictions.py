"""Guesses: the scores against naive twins, the file of the student, and what stays hidden until Run is pressed."""

import json
import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbn_lab import figures, outcomes, predictions, progress, runs

THREE = {"a": {0: 3.0, 1: 5.0}, "b": {0: 2.0, 1: 5.5}, "c": {0: 1.0, 1: 1.5}}  # a and b change places with the seed


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("CBN_LAB_PROGRESS", str(tmp_path / "mine.json"))
    return tmp_path / "mine.json"


def _run(placement="before", seed=0, accuracy=0.9, status="finished", activation="sigmoid", epochs=4):
    """A made-up run that climbs to its accuracy in a straight line."""
    config = {"data": "digits", "model": "convnet", "activation": activation, "placement": placement,
              "norm_options": {}, "epochs": epochs, "batch_size": 128, "lr": 0.1, "seed": seed, "device": "cpu"}
    curve = [{"step": i, "epoch": float(i), "loss": 2.0 / i, "test_accuracy": accuracy * i / epochs}
             for i in range(1, epochs + 1)]
    final = {"train_loss": 0.5, "test_accuracy": accuracy} if status == "finished" else {}
    return runs.Run(config, curve, final, {"device": "a processor"}, status)


def _made(id, confidence, right, score=1.0):
    return predictions.judge(predictions.lock(id, "number", [], 1.0, confidence), right, score)


# Scores --------------------------------------------------------------------------------------------------------------


@given(st.permutations("abcde"), st.lists(st.floats(-5, 5), min_size=5, max_size=5, unique=True), st.booleans())
def test_the_share_of_pairs_is_that_of_a_naive_count(guess, numbers, largest):
    measured = dict(zip("abcde", numbers, strict=True))
    result = outcomes.rank(guess, {item: {0: value} for item, value in measured.items()}, largest=largest)
    agree = sum((measured[better] > measured[worse]) == largest
                for i, better in enumerate(guess) for worse in guess[i + 1:])
    assert result.score == agree / 10 and result.undecided == ()
    assert list(result.order) == sorted(measured, key=measured.get, reverse=largest)
    assert result.right == (list(result.order) == guess)


def test_a_pair_that_the_seeds_do_not_decide_is_not_counted():
    for guess in permutations("abc"):
        result = outcomes.rank(guess, THREE)
        assert result.undecided == (("a", "b"),) and len(result.hits) + len(result.misses) == 2
        assert result.right == (guess[2] == "c")
    assert outcomes.rank("ba", {"a": {0: 3.0, 1: 5.0}, "b": {0: 2.0, 1: 6.0}}).score is None
    assert outcomes.rank("ba", {"a": {0: 3.0, 1: 5.0}, "b": {0: 2.0, 1: 6.0}}).right is None


def test_arms_of_the_same_seeds_are_compared_seed_by_seed():
    assert outcomes.rank("ab", {"a": {0: 3.0, 1: 5.0}, "b": {0: 2.0, 1: 4.0}}).hits == (("a", "b"),)


def test_arms_without_a_common_seed_are_compared_in_every_combination():
    assert outcomes.rank("ab", {"a": {0: 3.0}, "b": {1: 2.0, 2: 2.5}}).hits == (("a", "b"),)
    assert outcomes.rank("ab", {"a": {0: 3.0}, "b": {1: 2.0, 2: 3.5}}).undecided == (("a", "b"),)


@pytest.mark.parametrize("largest", [True, False])
def test_a_diverged_run_is_the_worst(largest):
    measured = {"a": {0: math.nan}, "b": {0: 2.0}, "c": {0: math.nan}}
    result = outcomes.rank("bac", measured, largest=largest)
    assert result.order[0] == "b" and result.hits == (("b", "a"), ("b", "c")) and result.undecided == (("a", "c"),)


def test_a_guess_about_other_items_is_refused():
    with pytest.raises(ValueError, match="the guess is about a, b, the result about a, b, c"):
        outcomes.rank("ab", THREE)


def test_numbers_of_runs():
    arms = {"x": [_run(accuracy=0.5), _run(seed=2, status="diverged"), _run(seed=1, status="interrupted")],
            "y": [1, 2.5]}
    found = outcomes.values(arms, "test_accuracy")
    assert found["y"] == {0: 1.0, 1: 2.5} and found["x"][0] == 50.0
    assert math.isnan(found["x"][2]) and list(found["x"]) == [0, 2]
    assert outcomes.values({"x": [_run()]}, "train_loss") == {"x": {0: 0.5}}
    with pytest.raises(ValueError, match="no run of 'x' is finished, so"):
        outcomes.values({"x": [_run(status="interrupted")]}, "test_accuracy")
    with pytest.raises(ValueError, match="no final validation_accuracy; it has train_loss, test_accuracy"):
        outcomes.values({"x": [_run()]}, "validation_accuracy")


def test_a_number_is_that_of_one_arm_or_the_difference_of_two_by_seed():
    assert outcomes.difference({"x": {0: 1.0, 3: 2.0}}) == {0: 1.0, 3: 2.0}
    assert outcomes.difference({"x": {0: 5.0, 1: 7.0}, "y": {1: 4.0, 2: 9.0}}) == {1: 3.0}
    with pytest.raises(ValueError, match="share no seed"):
        outcomes.difference({"x": {0: 5.0}, "y": {1: 4.0}})
    with pytest.raises(ValueError, match="that of one arm, or the difference of two; got x, y, z"):
        outcomes.difference({"x": {}, "y": {}, "z": {}})


def test_the_distance_of_a_curve_is_the_mean_over_its_points():
    found = outcomes.distance([1.0, 4.0], [2.0, 1.0], tolerance=2.0)
    assert found.score == 2.0 and found.right and not outcomes.distance([1.0, 4.0], [2.0, 1.0], 1.9).right
    with pytest.raises(ValueError, match="not finite"):
        outcomes.distance([1.0], [math.nan], 1.0)


def test_a_curve_is_read_between_its_records_and_not_outside_of_them():
    curves = outcomes.curve([_run(accuracy=0.8), _run(seed=1, accuracy=0.4)], "test_accuracy")
    assert curves[0] == pytest.approx({1.0: 20, 2.0: 40, 3.0: 60, 4.0: 80})
    assert outcomes.at_epochs(curves, [1, 2.5, 4]) == pytest.approx([15, 37.5, 60])
    assert outcomes.at_epochs(outcomes.curve([_run()], "loss"), [2]) == [1.0]
    for epochs in ([0.5, 2], [1, 5]):
        with pytest.raises(ValueError, match="not recorded at epoch (0.5|5), at which"):
            outcomes.at_epochs(curves, epochs)


# Confidence ----------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_score_is_proper(said, believed):
    def expected(p):
        return believed * predictions.brier(p, True) + (1 - believed) * predictions.brier(p, False)

    assert expected(believed) <= expected(said) + 1e-12
    assert expected(said) - expected(believed) == pytest.approx((said - believed) ** 2, abs=1e-12)


def test_calibration_counts_what_is_decided():
    made = [_made("1", 0.9, True), _made("2", 0.9, False), _made("3", 0.5, True), _made("4", 0.7, None)]
    found = predictions.calibration(made)
    assert (found.count, found.right) == (3, 2)
    assert found.brier == pytest.approx((0.01 + 0.81 + 0.25) / 3)
    assert found.levels == (predictions.Level(0.5, 1, 1), predictions.Level(0.9, 2, 1))
    assert "3 predictions, 2 right (67 %); you said 77 % on average; mean Brier score 0.36" in found.sentence()
    assert predictions.calibration(made[3:]) is None
    certain = predictions.calibration([_made("1", 1.0, True), _made("2", 0.9, False)])
    assert certain.levels == (predictions.Level(0.95, 2, 1),)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_every_confidence_has_a_level(made):
    found = predictions.calibration([_made(str(i), p, right) for i, (p, right) in enumerate(made)])
    assert sum(level.count for level in found.levels) == found.count == len(made)
    assert sum(level.right for level in found.levels) == found.right
    assert all(i / 5 <= level.confidence <= (i + 1) / 5 for level in found.levels
               for i in [min(4, int(5 * level.confidence))])


@given(st.integers(1, 25), st.floats(0.05, 0.95))
def test_the_range_of_chance_is_the_narrowest_with_its_tails(count, p):
    low, high = predictions.chance(count, p)
    weight = [math.comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(count + 1)]
    assert sum(weight[:low]) <= 0.05 + 1e-9 < sum(weight[:low + 1]) + 2e-9
    assert sum(weight[high + 1:]) <= 0.05 + 1e-9 < sum(weight[high:]) + 2e-9


def test_a_confidence_is_a_probability():
    with pytest.raises(ValueError, match="between 0 and 1, got 70"):
        predictions.lock("1", "number", [], 1.0, 70)


# The student's file --------------------------------------------------------------------------------------------------


def test_a_file_from_before_there_were_predictions_still_loads_and_both_are_kept(file):
    old = {"format": "cbn-lab progress, version 1",
           "exercises": {"6.1": {"last": "correct", "attempts": 2, "solved": "2026-09-01"}}}
    file.write_text(json.dumps(old))
    assert progress.load() == old["exercises"] and predictions.load() == {}
    guess = predictions.lock("7.1", "ranking", ["a", "b"], ["b", "a"], 0.7)
    predictions.keep(guess)
    progress.record("6.2", "wrong", correct=False)
    predictions.keep(_made("7.2", 0.5, True))
    assert progress.load()["6.1"] == old["exercises"]["6.1"] and progress.load()["6.2"]["attempts"] == 1
    assert predictions.load()["7.1"] == guess and list(predictions.load()) == ["7.1", "7.2"]


def test_what_the_file_holds_besides_survives(file):
    file.write_text(json.dumps({"format": "cbn-lab progress, version 1", "exercises": {}, "later": [1]}))
    predictions.keep(_made("7.2", 0.5, True))
    progress.record("6.2", "wrong", correct=False)
    assert json.loads(file.read_text())["later"] == [1]


def test_a_guess_is_found_for_its_own_question_alone(file):
    guess = predictions.lock("7.1", "ranking", ["a", "b"], ["b", "a"], 0.7)
    predictions.keep(guess)
    assert predictions.find("7.1", "ranking", ["a", "b"]) == guess
    assert predictions.find("7.1", "ranking", ["a", "c"]) is None
    assert predictions.find("7.1", "number", ["a", "b"]) is None and predictions.find("7.2", "number", []) is None


def test_forgetting_leaves_the_exercises(file):
    progress.record("6.2", "wrong", correct=False)
    for id in ("1", "2", "3"):
        predictions.keep(_made(id, 0.5, True))
    assert predictions.forget("2") == ["2"] and list(predictions.load()) == ["1", "3"]
    with pytest.raises(ValueError, match="no prediction 2 in .*; there are: 1, 3"):
        predictions.forget("2")
    assert predictions.forget() == ["1", "3"] and predictions.load() == {}
    assert list(progress.load()) == ["6.2"]


def test_forgetting_without_a_file_makes_none(file):
    assert predictions.forget() == [] and predictions.load() == {} and not file.exists()


@pytest.mark.parametrize("entry", [{}, {"kind": "number"}, 3, None])
def test_a_damaged_prediction_is_named(file, entry):
    file.write_text(json.dumps({"format": "cbn-lab progress, version 1", "exercises": {}, "predictions": {"7": entry}}))
    with pytest.raises(progress.ProgressError, match="set CBN_LAB_PROGRESS to another file"):
        predictions.load()


@pytest.mark.parametrize("section", [[], 3, None])
def test_a_damaged_section_is_named(file, section):
    content = json.dumps({"format": "cbn-lab progress, version 1", "exercises": {}, "predictions": section})
    file.write_text(content)
    for use in (progress.load, predictions.load, lambda: predictions.keep(_made("7", 0.5, True))):
        with pytest.raises(progress.ProgressError, match="is not a progress file of this course"):
            use()
    assert file.read_text() == content


def test_a_confidence_that_is_none_is_named(file):
    predictions.keep(_made("7", 0.5, True))
    file.write_text(file.read_text().replace('"confidence": 0.5', '"confidence": 5'))
    with pytest.raises(progress.ProgressError, match="the prediction '7' in .* is damaged"):
        predictions.load()


@pytest.mark.parametrize("kind, good, bad", [("ranking", ["a", "b"], ["a", 2]), ("number", 3.0, "3"),
                                             ("curve", [1.0, 2], 1.0), ("number", 1, None), ("ranking", [], "ab")])
def test_a_guess_that_does_not_fit_its_kind_is_named(file, kind, good, bad):
    predictions.keep(predictions.lock("7", kind, ["x"], good, 0.5))
    assert predictions.load()["7"].guess == good
    predictions.keep(predictions.lock("7", kind, ["x"], bad, 0.5))
    with pytest.raises(progress.ProgressError, match="the prediction '7' in .* is damaged"):
        predictions.load()


def test_the_first_outcome_and_the_first_showing_count():
    shown = predictions.reveal(predictions.lock("1", "number", [], 1.0, 0.9))
    assert shown.revealed == shown.made
    first = predictions.judge(shown, False, 3.0)
    assert predictions.judge(first, True, 0.0) == first and predictions.reveal(first) == first
    assert predictions.judge(predictions.judge(shown, None, None), True, 0.0).right is True


def test_the_command_says_how_good_the_guesses_were(file, capsys):
    from cbn_lab.exercises.__main__ import main

    assert main() == 0 and "predictions" not in capsys.readouterr().out
    predictions.keep(_made("7.1", 0.9, True))
    assert main() == 0 and "Your file so far: 1 prediction, 1 right (100 %)" in capsys.readouterr().out


# Figures -------------------------------------------------------------------------------------------------------------

MEASURED = {"before": {0: 80.0, 1: 82.0}, "after": {0: 90.0, 1: 79.0}, "complete": {0: 95.0, 1: 96.0}}


def _lines(axis, label):
    return [line for line in axis.lines if line.get_label() == label]


def _texts(figure):
    return [text.get_text() for axis in figure.fig.axes for text in axis.texts]


def test_two_lines_cross_where_a_pair_is_wrong():
    guess = ["before", "complete", "after"]
    figure = figures.ranking_guess(list(MEASURED), guess, MEASURED)
    slope, dots = figure.fig.axes
    ends = {item: list(_lines(slope, item)[0].get_ydata()) for item in guess}
    assert ends == {"before": [0, 2], "complete": [1, 0], "after": [2, 1]}
    for item, (_, place) in ends.items():
        (line,) = _lines(dots, item)
        assert list(line.get_xdata()) == list(MEASURED[item].values()) and set(line.get_ydata()) == {place}
    assert "Wrong in the guess, it should be: complete before before." in figure.alt
    assert "not counted: after and before." in figure.alt and figure.png()
    assert any("not counted:\n1 of 3 pairs" in text for text in _texts(figure))


def test_before_the_result_a_figure_has_nothing_of_it():
    asked = figures.ranking_guess(list(MEASURED), ["after"])
    assert "1  after" in _texts(asked) and _texts(asked).count("2  ?") == 2
    assert asked.alt == ("To be put in order, largest test accuracy (%) first: before, after, complete. "
                         "So far: after. The result is not shown yet.")
    assert not any(axis.lines for axis in asked.fig.axes)
    listed = "to be ordered:\n· before\n· after\n· complete"  # for a reader without the buttons
    assert listed in _texts(figures.ranking_guess(list(MEASURED))) and listed not in _texts(asked)
    for guess in (None, 12.0):
        figure = figures.number_guess(0, 40, 3, "gap (points)", guess)
        assert "The result is not shown yet." in figure.alt and figure.fig.axes[0].get_xlim() == (0, 40)
        assert len(figure.fig.axes[0].lines) == (guess is not None)
    known = {"complete": [_run("complete")]}
    drawn = figures.curve_guess((1, 4), 0, 100, guess=[10, 60], known=known)
    assert {line.get_label() for line in drawn.fig.axes[0].lines} == {"complete", "your guess"}
    assert "Guess: 10 at epoch 1, 60 at epoch 4. complete: 90.0 at epoch 4. The result is not shown yet." in drawn.alt


def test_a_diverged_item_is_named_and_last():
    figure = figures.ranking_guess(["a", "b"], ["a", "b"], {"a": {0: math.nan, 1: 3.0}, "b": {0: 1.0, 1: 2.0}})
    assert "1 of 2 diverged" in _texts(figure) and "Measured: b 1.50 (1.00 to 2.00, 2 seeds); a 3.00, 1 diverged" in (
        figure.alt)


def test_the_number_is_drawn_beside_what_counts_as_right():
    figure = figures.number_guess(0, 40, 3, "gap (points)", 20, {0: 12.0, 1: 44.0})
    (axis,) = figure.fig.axes
    assert axis.get_xlim() == (0, 44) and list(_lines(axis, "_seed")[0].get_xdata()) == [12, 44]
    assert list(_lines(axis, "measured: mean, and each seed")[0].get_xdata()) == [28]
    assert "Guess: 20; right means within 3 of it. Measured: 28.0 (12.0 to 44.0, 2 seeds)." in figure.alt


def test_grey_bars_join_the_guessed_curve_and_the_measured_one():
    result = [_run(accuracy=0.8), _run(seed=1, accuracy=0.4, epochs=4)]
    figure = figures.curve_guess((1, 3, 4), 0, 100, guess=[10, 60, 60], result=result, label="asked")
    bars = {bar.get_xdata()[0]: list(bar.get_ydata()) for bar in _lines(figure.fig.axes[0], "_bar")}
    assert bars == {1: pytest.approx([10, 15]), 3: pytest.approx([60, 45]), 4: pytest.approx([60, 60])}
    half = [runs.Run(run.config, run.curve[:3], {}, {}, "interrupted") for run in result]
    figure = figures.curve_guess((1, 3, 4), 0, 100, guess=[10, 60, 60], result=half, label="asked")
    assert len(_lines(figure.fig.axes[0], "_bar")) == 2 and "asked: 45.0 (30.0 to 60.0, 2 seeds)" in figure.alt


def test_calibration_shows_each_level_against_chance():
    made = [_made(str(i), 0.9, i > 0) for i in range(4)] + [_made("x", 0.3, False)]
    figure = figures.calibration(predictions.calibration(made))
    (axis,) = figure.fig.axes
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in _lines(axis, "_level")]
    assert points == [pytest.approx((30, 0)), pytest.approx((90, 75))]
    assert [list(line.get_ydata()) for line in _lines(axis, "_chance")] == [[0, 100], [50, 100]]
    assert "said 90 %: 3 of 4 right" in figure.alt
    assert "No guess has been judged yet" in figures.calibration(None).alt


@pytest.mark.parametrize("guess", [0, 40])
def test_a_number_at_the_end_of_its_line_is_drawn_whole(guess):
    shown = figures.number_guess(0, 40, 3, "gap (points)", guess, {0: guess}).pixels()
    inside = figures.number_guess(-1, 41, 3, "gap (points)", guess, {0: guess}).pixels()
    coloured = [(np.ptp(picture[..., :3], axis=2) > 60).sum() for picture in (shown, inside)]
    assert coloured[0] > 0.9 * coloured[1]


def test_a_diverged_number_is_said_and_not_drawn():
    figure = figures.number_guess(0, 1, 0.1, "gap", 0.5, {0: math.nan, 1: 0.4})
    assert "1 of 2 diverged" in _texts(figure) and "Measured: 0.400, 1 diverged." in figure.alt
    assert "Measured: 2 diverged." in figures.number_guess(0, 1, 0.1, "gap", 0.5, {0: math.nan, 1: math.inf}).alt
