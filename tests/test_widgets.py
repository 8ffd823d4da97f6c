"""Widgets: the same numbers as without them, a Stop that stops, errors that are seen. See also tests/test_browser.py.

Warnings are errors here as everywhere, so a keyword that ipywidgets does not know fails the test.
"""

import asyncio
import time

import clock
import ipywidgets
import pytest

from cbn_lab import figures, runs, start, widgets
from cbn_lab.train import DivergedError, TrainConfig, fit
from cbn_lab.widgets import display
from cbn_lab.widgets.chooser import arms
from cbn_lab.widgets.player import DPI

# The same in ipywidgets 7.7 and 8.
CORE = {"VBox", "HBox", "Button", "FloatProgress", "HTML", "Image", "Dropdown", "FloatSlider"}


def _config(placement="before", **settings):
    return TrainConfig(**{"data": "digits", "model": "mlp", "model_options": {"width": 8, "depth": 1},
                          "placement": placement, "train_images": 256, "epochs": 2, "device": "cpu",
                          "precision": "fp32"} | settings)


def _long():
    return _config(epochs=5000)


def _record(activation="sigmoid", placement="before", seed=0):
    settings = start.config(activation, placement, seed).resolved().record()
    curve = [{"step": i, "epoch": i / 2, "loss": 1 / i + seed, "test_accuracy": 1 - 1 / (i + 1)} for i in (1, 2, 3)]
    return runs.Run(settings, curve, {"train_loss": 0.1, "test_accuracy": 0.75}, {})


def _widgets(view):
    yield view
    for child in getattr(view, "children", ()):
        yield from _widgets(child)


def _only(live, kind):
    (found,) = [w for w in _widgets(live.view) if isinstance(w, kind)]
    return found


def _picture(live):
    return bytes(_only(live, ipywidgets.Image).value)


def _button(live, description):
    (found,) = [w for w in _widgets(live.view) if isinstance(w, ipywidgets.Button) and w.description == description]
    return found


def _status(live):
    return live.view.children[0].children[-1].value


def _losses(run):
    return [entry["loss"] for entry in run.curve]


async def _until(condition, seconds=120.0):
    end = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < end, "nothing happened"
        await asyncio.sleep(0.005)


def test_without_a_loop_it_trains_to_the_end_with_the_numbers_of_fit():
    live = widgets.watch([_config("before"), _config("complete")])
    assert not live.running and live.error is None
    for run, placement in zip(live.runs, ("before", "complete"), strict=True):
        reference = fit(_config(placement, log_every=1))
        assert _losses(run) == _losses(reference) and run.status == "finished"
        assert run.final["test_accuracy"] == reference.final["test_accuracy"]
    image = _picture(live)
    assert image.startswith(b"\x89PNG") and image == live.figure().png(DPI)
    assert _only(live, ipywidgets.FloatProgress).value == 1.0
    assert _status(live).startswith("finished in")
    assert asyncio.run(live.done()) == live.runs


def test_the_loop_gets_a_turn_after_each_step(monkeypatch):
    monkeypatch.setattr("cbn_lab.widgets.pace.TURN_SECONDS", 0.0)

    async def scene():
        live = widgets.watch([_config(log_every=4)])  # 2 steps an epoch, so 2 a record
        turns = 0
        while not live.runs or live.runs[0].status != "finished":
            await asyncio.sleep(0)
            turns += 1
        assert len(live.runs[0].curve) == 2 and turns > 4

    asyncio.run(scene())


def test_with_a_loop_stop_acts_at_once():
    async def scene():
        live = widgets.LiveTraining([_long()])
        start_button, stop_button = (_button(live, name) for name in ("Start", "Stop"))
        live.start()
        assert live.running and not live.runs
        await _until(lambda: live.runs and len(live.runs[0].curve) > 20)
        assert start_button.disabled and not stop_button.disabled
        records = len(live.runs[0].curve)
        stop_button.click()
        (run,) = await live.done()
        assert len(run.curve) == records, "Stop is to end it at the next record, a few milliseconds of training"
        assert run.status == "interrupted" and _status(live) == "stopped"
        assert stop_button.disabled and not start_button.disabled
        assert _picture(live) == live.figure().png(DPI)

    asyncio.run(scene())


def test_started_again_it_lays_the_next_seed_over_the_first():
    live = widgets.watch([_config()])
    live.start()
    first, second = live.runs
    assert (first.config["seed"], second.config["seed"]) == (0, 1)
    assert _losses(second) == _losses(fit(_config(seed=1, log_every=1)))
    seeds = [line for line in live.figure().fig.axes[0].lines if line.get_label() == "_seed"]
    assert sorted(list(line.get_ydata()) for line in seeds) == sorted([_losses(first), _losses(second)])


def test_a_failure_is_shown_kept_and_raised():
    wrong = _config("none", lr=1e30, epochs=5)

    async def scene():
        reported = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        live = widgets.watch([wrong])
        with pytest.raises(DivergedError, match="learning rate is too high"):
            await live.done()
        assert isinstance(live.error, DivergedError) and "DivergedError: the loss is" in _status(live)
        assert "\n" not in _status(live) and not live.running
        return reported

    assert asyncio.run(scene()) == []
    with pytest.raises(DivergedError):
        widgets.watch([wrong])
    with pytest.raises(ValueError, match="unknown activation 'sine'"):
        widgets.watch([_config(activation="sine")])


def test_an_error_message_cannot_inject_html():
    assert display.one_line(ValueError("<b>\nx")).endswith(">ValueError: &lt;b&gt; x</span>")


def test_two_train_at_the_same_time():
    async def scene():
        first, second = widgets.watch([_long()]), widgets.watch([_long()])
        await _until(lambda: all(live.runs and len(live.runs[0].curve) > 50 for live in (first, second)))
        assert first.running and second.running
        first.stop()
        await first.done()
        before = len(second.runs[0].curve)
        await _until(lambda: len(second.runs[0].curve) > before)
        second.stop()
        await second.done()

    asyncio.run(scene())


@pytest.mark.parametrize("end", ["close", "view.close"])
def test_closing_ends_the_training(end):
    async def scene():
        live = widgets.watch([_long()])
        await _until(lambda: live.runs)
        (live if end == "close" else live.view).close()
        await asyncio.wait_for(live.done(), 120)
        assert not live.running

    asyncio.run(scene())


def test_interrupting_the_wait_stops_the_training():
    async def scene():
        live = widgets.watch([_long()])
        waiting = asyncio.ensure_future(live.done())
        await _until(lambda: live.runs)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await _until(lambda: not live.running)

    asyncio.run(scene())


def test_live_runs_leave_the_test_images_alone_where_others_are_held_out():
    live = widgets.watch([_config(validation_images=100)])
    assert "validation_accuracy" in live.runs[0].final
    assert not any(key.startswith("test") for key in live.runs[0].final)


def test_the_output_has_a_view_and_a_picture_for_readers_without_a_kernel():
    live = widgets.LiveTraining([_config()], recorded={"recorded": [_record()]})
    bundle = live._repr_mimebundle_()
    assert bundle[display.VIEW]["model_id"] == live.view.model_id
    assert '<img alt="Learning curves' in bundle["text/html"] and "recorded: from loss" in bundle["text/plain"]
    empty = widgets.LiveTraining([_config()])._repr_mimebundle_()
    assert display.NOTE in empty["text/html"]
    assert {type(w).__name__ for w in _widgets(live.view)} <= CORE


GRID = [_record(f, p, s) for f in ("tanh", "sigmoid") for p in ("complete", "before") for s in (0, 1)]


def test_compare_draws_the_choice_over_vanilla():
    figure = widgets.compare(GRID, "tanh", "complete")
    assert figure.alt == figures.learning_curves(arms(GRID, "tanh", "complete")).alt
    assert "before (vanilla BN): from loss" in figure.alt and "complete: from loss" in figure.alt
    assert "complete" not in widgets.compare(GRID, "tanh", "before").alt
    with pytest.raises(ValueError, match="no recorded run of relu with before; there are: sigmoid before, sigmoid com"):
        widgets.compare(GRID, "relu", "complete")


def test_chooser_offers_what_is_recorded_and_follows_the_menus():
    chooser = widgets.chooser(GRID)
    activation, placement = (w for w in _widgets(chooser.view.children[0]) if isinstance(w, ipywidgets.Dropdown))
    assert activation.options == ("sigmoid", "tanh") and placement.options == ("before", "complete")
    assert _picture(chooser) == widgets.compare(GRID, "sigmoid", "complete").png(DPI)
    activation.value, placement.value = "tanh", "before"
    assert _picture(chooser) == widgets.compare(GRID, "tanh", "before").png(DPI)
    assert {type(w).__name__ for w in _widgets(chooser.view)} <= CORE
    with pytest.raises(ValueError, match="no recorded runs"):
        widgets.chooser([])


def test_chooser_trains_its_choice_live_with_a_new_seed_also_when_the_menu_changes():
    async def scene():
        chooser = widgets.chooser(GRID)
        chooser.live.start()
        await _until(lambda: chooser.live.runs and chooser.live.runs[0].curve)
        (run,) = chooser.live.runs
        assert [run.config[k] for k in ("activation", "placement", "seed")] == ["sigmoid", "complete", 2]
        activation = next(w for w in _widgets(chooser.view) if isinstance(w, ipywidgets.Dropdown))
        activation.value = "tanh"
        await _until(lambda: chooser.live.arms["complete"][0].config["activation"] == "tanh")
        assert chooser.live.running and "sigmoid, complete, live" in _status(chooser.live)
        chooser.live.stop()
        await chooser.live.done()
        assert list(chooser.live.arms) == ["before (vanilla BN)", "complete", "sigmoid, complete, live"]
        _button(chooser, "Clear").click()
        assert _picture(chooser) == widgets.compare(GRID, "tanh", "complete").png(DPI)

    asyncio.run(scene())


def test_chooser_shows_what_goes_wrong_behind_a_menu():
    chooser = widgets.chooser([run for run in GRID if run.config["activation"] == "sigmoid"] + GRID[:2])
    placement = [w for w in _widgets(chooser.view) if isinstance(w, ipywidgets.Dropdown)]
    placement[0].value = "tanh"  # of which only "complete" is recorded, so that vanilla BN's curve is missing
    assert "no recorded run of tanh with before" in str(chooser.error)
    assert "no recorded run of tanh with before" in chooser.view.children[1].value
    placement[0].value = "sigmoid"
    assert chooser.error is None and chooser.view.children[1].value == ""


def test_debounced_calls_once_after_the_last():
    async def scene():
        calls = []
        call = display.debounced(lambda: calls.append(1), 0.05)
        for _ in range(5):
            call()
        assert not calls
        await asyncio.sleep(0.2)
        assert calls == [1]

    clock.run(scene())
