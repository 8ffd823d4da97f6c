"""Predict, then run: what is locked when, what is seen when, what is counted once. See also tests/browser."""

import asyncio
import html
import json
import time

import ipywidgets
import pytest

from cbn_lab import figures, predictions, progress, runs, widgets
from cbn_lab.train import TrainConfig
from cbn_lab.widgets import display, pace
from cbn_lab.widgets import live as live_module
from cbn_lab.widgets import predictor as flow

ITEMS = ["before", "none", "complete"]
CORE = {"VBox", "HBox", "Button", "FloatProgress", "FloatSlider", "HTML", "Image", "IntSlider", "ToggleButtons",
        "Dropdown", "Checkbox", "Label"}


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("CBN_LAB_PROGRESS", str(tmp_path / "mine.json"))
    return tmp_path / "mine.json"


def _run(placement="before", seed=0, accuracy=0.9, status="finished", epochs=4):
    config = {"data": "digits", "model": "convnet", "activation": "sigmoid", "placement": placement,
              "norm_options": {}, "epochs": epochs, "batch_size": 128, "lr": 0.1, "seed": seed, "device": "cpu"}
    curve = [{"step": i, "epoch": float(i), "loss": 2.0 / i, "test_accuracy": accuracy * i / epochs}
             for i in range(1, epochs + 1)]
    final = {"train_loss": 0.5, "test_accuracy": accuracy} if status == "finished" else {}
    return runs.Run(config, curve, final, {"device": "a processor"}, status)


def _arms(**accuracies):
    return {placement: [_run(placement, seed, value + seed / 100) for seed in (0, 1)]
            for placement, value in accuracies.items()}


RESULT = _arms(before=0.8, none=0.1, complete=0.9)  # complete, before, none


def _ranking(reveal=RESULT, id="7.1"):
    return widgets.predict_ranking(id, "Which trains Sigmoid best?", ITEMS, reveal)


def _number(reveal=None, id="7.2", tolerance=3):
    return widgets.predict_number(id, "How large is the gap?", reveal or _arms(complete=0.9, before=0.8), low=0,
                                  high=40, tolerance=tolerance, what="gap (points)")


def _curve(reveal=None, id="7.3", **options):
    return widgets.predict_curve(id, "How does it go?", reveal or _arms(complete=0.8), epochs=(1, 2, 4),
                                 **{"tolerance": 5, "known": _arms(before=0.4)} | options)


def _widgets(view):
    yield view
    for child in getattr(view, "children", ()):
        yield from _widgets(child)


def _button(predict, word):
    return next(w for w in _widgets(predict.view) if isinstance(w, ipywidgets.Button) and word in w.description)


def _words(predict):
    return html.unescape(" ".join(w.value for w in _widgets(predict.view) if isinstance(w, ipywidgets.HTML)))


def _picture(predict):
    return bytes(next(w for w in _widgets(predict.view) if isinstance(w, ipywidgets.Image)).value)


def _sure(predict, confidence=0.7):
    next(w for w in _widgets(predict.view) if isinstance(w, ipywidgets.ToggleButtons)).value = confidence


def _guess(predict, *, order=("complete", "before", "none"), values=(21.0, 40.0, 80.0), confidence=0.7):
    """Enter a guess as a student does, and lock it in."""
    if predict.sheet.kind == "ranking":
        for item in order:
            _button(predict, item).click()
    else:
        for slider, value in zip(predict.sheet.controls, values, strict=False):
            slider.value = value
    _sure(predict, confidence)
    _button(predict, "Lock in").click()
    return predict


def _shown(predict):
    """Everything that a browser gets of it, but for the addresses of the widgets."""
    states = [{key: value for key, value in w.get_state().items()
               if not isinstance(value, str) or not value.startswith("IPY_MODEL_")} for w in _widgets(predict.view)]
    return [{key: value for key, value in state.items() if key != "children"} for state in states]


async def _until(condition, seconds=120.0):
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "nothing happened"
        await asyncio.sleep(0.005)


# What is hidden ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [_ranking, _number, _curve])
def test_before_run_nothing_depends_on_the_result(make):
    names = ITEMS if make is _ranking else ["complete"] if make is _curve else ["complete", "before"]
    seen = []
    for values in ((0.9, 0.5, 0.1), (0.2, 0.3, 0.77)):
        predictions.forget()
        predict = make(_arms(**dict(zip(names, values, strict=False))))
        bundle = predict._repr_mimebundle_()
        before = _shown(predict)
        _guess(predict)
        seen.append(({key: value for key, value in bundle.items() if key != display.VIEW}, before, _shown(predict)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("make", [_ranking, _number, _curve])
def test_the_result_is_not_even_fetched_before_run(make):
    fetched = []
    result = _arms(complete=0.9) if make is _curve else RESULT if make is _ranking else _arms(complete=0.9, before=0.8)
    predict = make(lambda: fetched.append(1) or result)
    predict._repr_mimebundle_(), _guess(predict), _button(predict, "Change").click()
    assert fetched == []
    _button(predict, "Lock in").click()
    _button(predict, "Run").click()
    assert fetched == [1] and predict.error is None


@pytest.mark.parametrize("make", [_ranking, _number, _curve])
def test_the_stored_notebook_has_the_question_and_an_empty_sheet_whatever_was_guessed(make, file):
    fresh = make()._repr_mimebundle_()
    guessed = _guess(make())
    _button(guessed, "Run").click()
    for bundle in (guessed._repr_mimebundle_(), make()._repr_mimebundle_()):
        assert {k: v for k, v in bundle.items() if k != display.VIEW} == {
            k: v for k, v in fresh.items() if k != display.VIEW}
    assert fresh["text/html"].startswith(f"<p>Prediction {guessed.id}. {guessed.question}</p>")
    assert '<img alt="' in fresh["text/html"] and "The result is not shown yet." in fresh["text/plain"]


def test_showing_a_question_writes_nothing(file):
    for make in (_ranking, _number, _curve):
        make()._repr_mimebundle_()
    widgets.my_calibration()._repr_mimebundle_()
    assert not file.exists()


# What is locked ------------------------------------------------------------------------------------------------------


def test_run_is_locked_until_guess_and_confidence_are_locked_in(file):
    predict = _ranking()
    run, lock = _button(predict, "Run"), _button(predict, "Lock in")
    assert run.disabled and lock.disabled and "Still missing: 3 of 3 items to be put in order; how sure" in (
        _words(predict))
    run.click()  # a disabled button may still be clicked by code, or twice by a hand
    lock.click()
    for item in ITEMS:
        _button(predict, item).click()
        assert lock.disabled
    assert "Still missing: how sure you are" in _words(predict) and not file.exists()
    _sure(predict)
    assert not lock.disabled and run.disabled and predict.prediction is None and "Ready" in _words(predict)
    lock.click()
    assert not run.disabled and lock.disabled and predict.prediction.guess == ITEMS
    assert all(control.disabled for control in predict.sheet.controls)
    assert _picture(predict) == figures.ranking_guess(ITEMS, ITEMS).png(100)


def test_items_are_numbered_in_the_order_of_the_clicks_and_can_be_taken_out():
    sheet = _ranking().sheet
    names = lambda: [button.description for button in sheet.controls]  # noqa: E731
    for i in (2, 0):
        sheet.controls[i].click()
    assert names() == ["2: before", "none", "1: complete"] and sheet.guess is None
    sheet.controls[2].click()
    assert names() == ["1: before", "none", "complete"]
    sheet.controls[1].click(), sheet.controls[2].click()
    assert sheet.guess == ["before", "none", "complete"]


def test_a_slider_counts_once_it_has_been_moved():
    predict = _curve()
    _sure(predict)
    sliders = predict.sheet.controls
    sliders[0].value = 20
    sliders[1].value = 30
    assert predict.sheet.guess is None and "1 of 3 sliders have not been moved" in _words(predict)
    sliders[2].value, sliders[2].value = 60, 50.0
    assert predict.sheet.guess == [20, 30, 50] and not _button(predict, "Lock in").disabled


def test_a_guess_can_be_changed_before_the_result_and_not_after(file):
    predict = _guess(_ranking(), order=ITEMS)
    _button(predict, "Change").click()
    assert _button(predict, "Run").disabled and not predict.sheet.controls[0].disabled
    for item in ITEMS:
        _button(predict, item).click()
    _guess(predict, order=("complete", "before", "none"))
    assert predictions.load()["7.1"].guess == ["complete", "before", "none"]
    _button(predict, "Run").click()
    change = _button(predict, "Change")
    assert change.disabled and predictions.load()["7.1"].right is True
    change.click(), _button(predict, "none").click(), _button(predict, "Lock in").click()
    assert predictions.load()["7.1"].guess == ["complete", "before", "none"]


def test_in_a_second_cell_with_the_same_question_a_seen_result_locks_as_well():
    first, second = _guess(_ranking(), order=ITEMS), _ranking()
    third = _ranking()
    _button(third, "Change").click()
    _button(first, "Run").click()
    _button(second, "Change").click()
    assert _button(second, "Change").disabled and "have seen the result" in _words(second)
    for item in ITEMS[:2]:
        _button(third, item).click()  # taken out
    for item in reversed(ITEMS[:2]):
        _button(third, item).click()
    assert third.sheet.guess == ["complete", "none", "before"]
    _button(third, "Lock in").click()
    assert third.prediction.guess == ITEMS and predictions.load()["7.1"].guess == ITEMS


# The result ----------------------------------------------------------------------------------------------------------


def test_the_result_is_drawn_over_the_guess_with_score_and_calibration():
    predict = _guess(_ranking(), order=ITEMS, confidence=0.9)  # before, none, complete
    _button(predict, "Run").click()
    kept = predictions.load()["7.1"]
    assert (kept.right, kept.score, kept.confidence) == (False, pytest.approx(1 / 3), 0.9)
    measured = {item: {run.config["seed"]: 100 * run.final["test_accuracy"] for run in RESULT[item]}
                for item in ITEMS}
    assert _picture(predict) == figures.ranking_guess(ITEMS, ITEMS, measured).png(100)
    said = _words(predict)
    assert "✗ Not right" in said and "1 of 3 pairs are in the right order" in said
    assert "You were 90 % sure: Brier score (0.9 − 0)² = <b>0.81</b>" in said
    assert "1 prediction, 0 right (0 %); you said 90 % on average" in said
    pictures = [w for w in _widgets(predict.view) if isinstance(w, ipywidgets.Image)]
    assert bytes(pictures[1].value) == figures.calibration(predictions.calibration([kept])).png(100)


def test_a_number_is_the_mean_of_the_difference_by_seed():
    predict = _guess(_number(), values=(12.5,))
    _button(predict, "Run").click()
    assert predict.prediction.right and predict.prediction.score == pytest.approx(2.5)
    assert "✓ Right" in _words(predict) and "Your number is 2.5 off." in _words(predict)
    far = _guess(_number(id="7.2b"), values=(30.0,))
    _button(far, "Run").click()
    assert far.prediction.right is False


def test_a_curve_is_judged_by_its_mean_distance():
    predict = _guess(_curve(_arms(complete=0.8) | _arms(before=0.4)), values=(25, 45, 70))
    _button(predict, "Run").click()
    assert predict.error is None and predict.prediction.score == pytest.approx((4.875 + 4.75 + 10.5) / 3)
    assert predict.prediction.right is False and "Your curve is 6.71 off on average." in _words(predict)


def test_arms_beside_the_items_are_left_out():
    predict = _guess(_ranking(RESULT | _arms(after=0.99)))
    _button(predict, "Run").click()
    assert predict.prediction.right is True and predict.error is None


def test_an_unfinished_run_does_not_count_for_a_curve():
    short = _run("complete", 1, 0.1, status="interrupted")
    predict = _guess(_curve({"complete": [_run("complete", 0, 0.8), short]}), values=(20, 40.5, 80))
    _button(predict, "Run").click()
    assert predict.prediction.score == pytest.approx(0.5 / 3)


def test_plain_numbers_and_the_smallest_first():
    growth = {"before": [1.9, 2.0], "none": [1.0, 1.1], "complete": [1.2, 1.3]}
    predict = widgets.predict_ranking("7.4", "Whose gradient grows least?", ITEMS, lambda: growth, largest=False,
                                      metric="growth of the gradient per block")
    _guess(predict, order=("none", "complete", "before"))
    _button(predict, "Run").click()
    assert predict.prediction.right and "growth of the gradient per block" in _words(predict)


def test_where_the_seeds_decide_nothing_the_guess_is_not_counted():
    mixed = {"before": [1.0, 2.0], "none": [2.0, 1.0]}
    predict = widgets.predict_ranking("7.5", "Which?", ["before", "none"], mixed, metric="x")
    _guess(predict, order=("before", "none"))
    _button(predict, "Run").click()
    assert predict.prediction.right is None and "this guess is not counted" in _words(predict)
    assert predictions.calibration(predictions.load().values()) is None


@pytest.mark.parametrize("reveal", [lambda: 1 / 0, {}, {"before": [1.0]},
                                    lambda: {"before": [_run(status="interrupted")]}])
def test_what_goes_wrong_with_the_result_is_said_in_one_line(reveal):
    predict = _guess(_ranking(reveal))
    _button(predict, "Run").click()
    said = _words(predict)
    assert predict.error is not None or "Not judged yet: no run of 'before' is finished" in said
    assert predict.prediction.right is None and "Brier score (" not in said
    assert not _button(predict, "Run").disabled, "it can be tried again"
    if predict.error is not None:
        assert html.unescape(display.one_line(predict.error)) in said


# Run again -----------------------------------------------------------------------------------------------------------


def test_the_cell_run_again_shows_the_guess_and_not_the_result():
    _guess(_ranking(), order=ITEMS)
    again = _ranking()
    assert "is locked in" in _words(again) and again.sheet.guess == ITEMS and not _button(again, "Run").disabled
    assert _picture(again) == figures.ranking_guess(ITEMS, ITEMS).png(100)
    _button(again, "Run").click()
    once_more = _ranking()
    assert "have seen the result. Run shows it again" in _words(once_more)
    assert _picture(once_more) == figures.ranking_guess(ITEMS, ITEMS).png(100)


def test_a_result_shown_again_is_not_counted_again(file):
    predict = _guess(_ranking(), order=ITEMS)
    _button(predict, "Run").click()
    kept, said = file.read_text(), _words(predict)
    _button(predict, "Run").click()  # the second of a double click
    assert _button(predict, "Run").disabled and _words(predict) == said
    again = _ranking(_arms(before=0.9, none=0.8, complete=0.1))  # now the guess would be right
    _button(again, "Run").click()
    assert file.read_text() == kept and predictions.calibration(predictions.load().values()).count == 1
    assert "✓ Right" in _words(again) and "Counted as not right when you first saw a result" in _words(again)


def test_another_question_under_the_same_id_starts_anew():
    _guess(_ranking())
    other = widgets.predict_ranking("7.1", "Which?", ["after", "before"], RESULT)
    assert other.prediction is None and _button(other, "Run").disabled


def test_forgetting_opens_the_question_again():
    _guess(_ranking())
    predictions.forget("7.1")
    assert _ranking().prediction is None


def test_a_damaged_file_is_named_and_kept_and_the_guess_still_works(file):
    file.write_text("{broken")
    predict = _ranking()
    assert "Your guess cannot be kept" in _words(predict)
    _guess(predict)
    assert "was not saved" in _words(predict) and "move it away" in _words(predict)
    _button(predict, "Run").click()
    assert "✓ Right" in _words(predict) and "1 prediction, 1 right" in _words(predict)
    _button(predict, "Change").click()
    assert "guess first" not in _button(predict, "Run").description, "it stays locked without the file as well"
    assert file.read_text() == "{broken"
    calibration = widgets.my_calibration()
    assert isinstance(calibration.error, progress.ProgressError) and "damaged" in _words(calibration)


def test_a_guess_leaves_the_exercises_in_the_file(file):
    progress.record("6.2", "wrong", correct=False)
    _button(_guess(_ranking()), "Run").click()
    assert json.loads(file.read_text())["exercises"]["6.2"]["attempts"] == 1


def test_my_calibration_reads_the_file_and_stores_an_empty_one():
    view = widgets.my_calibration()
    _button(_guess(_ranking()), "Run").click()
    _button(view, "Look again").click()
    assert "1 prediction, 1 right" in _words(view)
    assert "No guess has been judged yet" in view._repr_mimebundle_()["text/html"]


# Live ----------------------------------------------------------------------------------------------------------------


def _live(placements=("before", "complete"), epochs=1, **settings):
    configs = [TrainConfig(data="digits", model="mlp", model_options={"width": 8, "depth": 1}, placement=placement,
                           train_images=256, epochs=epochs, device="cpu", precision="fp32", **settings)
               for placement in placements]
    return widgets.LiveTraining(configs)


def test_without_a_loop_a_live_result_is_trained_and_judged():
    live = _live()
    predict = _guess(widgets.predict_ranking("7.6", "Which?", ["before", "complete"], live),
                     order=("before", "complete"))
    assert live.view not in _widgets(predict.view) and not live.runs
    _button(predict, "Run").click()
    accuracy = {run.config["placement"]: run.final["test_accuracy"] for run in live.runs}
    assert predict.prediction.right == (accuracy["before"] > accuracy["complete"]) and predict.error is None
    assert live.view in _widgets(predict.view)


def test_a_curve_is_drawn_while_it_is_trained_and_judged_at_the_end(monkeypatch):
    monkeypatch.setattr(flow, "FOLLOW_SECONDS", 0.05)

    async def scene():
        go_on = asyncio.Event()

        async def halting(*arguments):
            async for record in pace.paced(*arguments):
                yield record
                if record.epoch >= 20:
                    await go_on.wait()

        monkeypatch.setattr(live_module, "paced", halting)
        live = _live(("complete",), epochs=40)
        predict = widgets.predict_curve("7.7", "How?", live, epochs=(10, 40))
        _guess(predict, values=(20.0, 70.0))
        guessed = _picture(predict)
        run = _button(predict, "Run")
        run.click(), run.click()
        assert run.disabled and "Training" in _words(predict) and predict.prediction.right is None
        await _until(lambda: _picture(predict) != guessed)
        assert live.running and predict.prediction.right is None
        go_on.set()
        await live.done()
        await _until(lambda: predict.prediction.right is not None)
        assert len(live.runs) == 1 and "Brier score (" in _words(predict)
        assert _picture(predict) == predict.sheet.figure(live.arms).png(100)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1, "no task is left behind"

    asyncio.run(scene())


def test_recorded_runs_of_a_live_training_answer_at_once_and_it_waits_to_be_started():
    async def scene():
        live = _live(("complete",), epochs=5000)
        live.show([TrainConfig(data="digits", placement="complete", device="cpu")], _arms(complete=0.9, before=0.8))
        predict = _guess(widgets.predict_ranking("7.11", "Which?", ["before", "complete"], live),
                         order=("complete", "before"))
        _button(predict, "Run").click()
        assert predict.prediction.right is True and not live.running and not live.runs
        assert live.view in _widgets(predict.view)

    asyncio.run(scene())


def test_a_stopped_training_is_not_judged_and_can_be_run_again(monkeypatch):
    monkeypatch.setattr(flow, "FOLLOW_SECONDS", 0.02)

    async def scene():
        live = _live(("before", "complete"), epochs=5000)
        predict = widgets.predict_ranking("7.8", "Which?", ["before", "complete"], live)
        _guess(predict, order=("before", "complete"))
        _button(predict, "Run").click()
        await _until(lambda: live.runs and live.runs[0].curve)
        live.stop()
        await _until(lambda: "Not judged yet" in _words(predict))
        assert predict.prediction.right is None and predict.prediction.revealed and predict.error is None
        assert "The result is drawn" not in _words(predict)
        assert _button(predict, "Change").disabled and not _button(predict, "Run").disabled

    asyncio.run(scene())


def test_a_failed_training_is_said_and_not_judged(monkeypatch):
    monkeypatch.setattr(flow, "FOLLOW_SECONDS", 0.02)

    async def scene():
        live = _live(("none",), epochs=5, lr=1e30)
        predict = _guess(widgets.predict_curve("7.9", "How?", live, epochs=(1, 5)), values=(1, 2))
        _button(predict, "Run").click()
        await _until(lambda: predict.error is not None)
        assert "DivergedError" in _words(predict) and predict.prediction.right is None

    asyncio.run(scene())


def test_closing_the_view_ends_training_and_watching():
    async def scene():
        live = _live(("complete",), epochs=5000)
        predict = _guess(widgets.predict_curve("7.10", "How?", live, epochs=(1, 5000)), values=(1, 2))
        _button(predict, "Run").click()
        await _until(lambda: live.runs)
        predict.view.close()
        await _until(lambda: len(asyncio.all_tasks()) == 1)
        assert not live.running

    asyncio.run(scene())


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "message"), [
    (lambda: widgets.predict_ranking("1", "?", ["a"], {}), "at least two different items, got a"),
    (lambda: widgets.predict_ranking("1", "?", ["a", "b", "a"], {}), "at least two different items"),
    (lambda: _number(tolerance=0), "tolerance between 0 and high - low"),
    (lambda: widgets.predict_number("1", "?", {}, low=5, high=5, tolerance=1, what="x"), "low < high"),
    (lambda: _curve(high=0), "low < high"),
    (lambda: widgets.predict_curve("1", "?", {}, epochs=(4, 1)), "rising epochs"),
    (lambda: widgets.predict_curve("1", "?", {}, epochs=()), "rising epochs"),
])
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("low", "high", "step", "form"), [(0, 100, 1, ".0f"), (0, 40, 0.2, ".1f"), (0, 1, 0.01, ".2f"),
                                                           (0, 1000, 10, ".0f"), (1, 1.5, 0.005, ".3f")])
def test_steps_of_a_slider_are_round(low, high, step, form):
    predict = widgets.predict_number("1", "?", {}, low=low, high=high, tolerance=(high - low) / 9, what="x")
    (slider,) = predict.sheet.controls
    assert slider.step == pytest.approx(step) and slider.readout_format == form


def test_a_count_has_steps_of_one():
    predict = widgets.predict_number("1", "How many?", {"of": [3, 4]}, low=0, high=5, tolerance=0.5, what="n", step=1)
    (slider,) = predict.sheet.controls
    assert (slider.step, slider.readout_format, slider.value % 1) == (1, ".0f", 0)
    _guess(predict, values=(3,))
    _button(predict, "Run").click()
    assert predict.prediction.right and predict.prediction.score == 0.5


def test_only_core_widgets_with_a_description_on_every_control():
    for make in (_ranking, _number, _curve):
        predict = _guess(make())
        _button(predict, "Run").click()
        kinds = {type(w).__name__ for w in _widgets(predict.view)}
        assert kinds <= CORE
        assert all(w.description for w in _widgets(predict.view)
                   if isinstance(w, (ipywidgets.Button, ipywidgets.FloatSlider, ipywidgets.ToggleButtons)))
