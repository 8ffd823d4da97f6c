"""Live training and the player: what stays in the picture, what ends a training, how often is drawn."""

import asyncio
import contextlib
import html
import types

import clock
import ipywidgets
import pytest
from IPython.core.events import EventManager, available_events
from test_widgets import _button, _config, _long, _losses, _only, _picture, _record, _status, _until

from cbn_lab import figures, start, widgets
from cbn_lab.train import DivergedError, fit
from cbn_lab.widgets import cells, pace, player
from cbn_lab.widgets import live as live_module

ARMS = {"vanilla": [_record(seed=s) for s in (0, 1)], "ours": [_record(placement="complete", seed=s) for s in (0, 1)]}


def _named(config):
    return f"{config.activation}, {config.placement}"


def test_a_second_run_with_other_settings_is_laid_over_the_first():
    live = widgets.watch([_config("before")], label=_named)
    first = live.runs[0]
    live.show([_config("complete", activation="tanh", lr=0.05)], keep=True)
    assert _button(live, "Start"), "these settings were not trained yet"
    live.start()
    assert list(live.arms) == ["relu, before", "tanh, complete"]
    assert live.runs[0] is first and _losses(live.runs[1]) == _losses(
        fit(_config("complete", activation="tanh", lr=0.05, log_every=1)))
    assert _button(live, "Next seed")
    live.show([_config("before")], keep=True)
    live.start()
    assert [run.config["seed"] for run in live.arms["relu, before"]] == [0, 1]
    live.show([_config("before")])
    assert live.runs == [], "without `keep` all is forgotten"


def test_a_training_goes_on_with_its_own_settings_when_they_change():
    async def scene():
        live = widgets.watch([_long()], label=_named)
        await _until(lambda: live.runs and live.runs[0].curve)
        live.show([_config("complete")], {"recorded": [_record()]}, keep=True)
        before = len(live.runs[0].curve)
        await _until(lambda: len(live.runs[0].curve) > before)
        assert live.running and "relu, before" in _status(live) and list(live.arms) == ["recorded", "relu, before"]
        live.stop()
        await live.done()
        live.start()
        await live.done()
        assert list(live.arms) == ["recorded", "relu, before", "relu, complete"]
        assert [run.status for run in live.runs] == ["interrupted", "finished"]

    asyncio.run(scene())


def test_an_arm_of_the_same_name_and_other_settings_says_what_differs():
    live = widgets.LiveTraining([_config()], recorded={"before": [_record()]})
    for settings in ({}, {"lr": 0.05}, {"lr": 0.05, "seed": 1}, {"model_options": {"width": 4, "depth": 1}},
                     {"model_options": {"width": 4, "depth": 1}, "lr": 0.05}, {"lr": 0.05, "seed": 2}):
        live.show([_config(**settings)], {"before": [_record()]}, keep=True)
        live.start()
    names = [f"before, live{what}" for what in ("", ", lr 0.05", ", width 4, depth 1", ", lr 0.05, width 4, depth 1")]
    assert list(live.arms) == ["before", *names]
    assert len(live.arms["before, live, lr 0.05"]) == 3
    assert live.figure().alt.count("training loss") == 5
    live.show([_config()], keep=True)
    assert list(live.arms) == names, "also when the recorded ones go"


def test_clear_takes_live_runs_out_of_the_picture_but_not_the_one_under_way():
    live = widgets.LiveTraining([_config()], recorded={"recorded": [_record()]})
    untouched = _picture(live)
    live.start()
    assert _picture(live) != untouched
    _button(live, "Clear").click()
    assert live.runs == [] and _picture(live) == untouched and _status(live) == ""
    assert _button(live, "Start") and _button(live, "Clear").disabled
    live.start()
    assert live.runs[0].config["seed"] == 0, "its seeds are free again"

    async def scene():
        live.show([_long()], keep=True)
        live.start()
        await _until(lambda: len(live.runs) == 2 and live.runs[1].curve)
        _button(live, "Clear").click()
        assert len(live.runs) == 1 and live.running
        live.stop()
        await live.done()
        assert len(live.runs) == 1

    asyncio.run(scene())


def test_a_double_click_on_start_starts_one():
    async def scene():
        live = widgets.LiveTraining([_config()])
        button = _button(live, "Start")
        button.click()
        button.click()
        await live.done()
        assert len(live.runs) == 1

    asyncio.run(scene())


def test_before_the_first_record_the_axes_are_there_and_say_that_nothing_has_begun():
    live = widgets.LiveTraining([_config("before"), _config("complete")])
    assert "before: not begun. complete: not begun." in live.figure().alt
    assert html.escape(live.figure().alt) in live.view.children[-1].value and _picture(live).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="at least one TrainConfig"):
        widgets.LiveTraining([])


def test_a_diverged_run_is_kept_and_called_so():
    live = widgets.LiveTraining([_config("none", lr=1e30, epochs=5)])
    with pytest.raises(DivergedError):
        live.start()
    assert [run.status for run in live.runs] == ["diverged"]
    assert live._status.value.startswith("none, seed 0: <span")  # whose it is, also after the settings have changed


def test_a_figure_that_cannot_be_drawn_is_an_error_in_the_widget(monkeypatch):
    live = widgets.LiveTraining([_config()])
    monkeypatch.setattr(live.curves, "draw", lambda shown: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        live.start()
    assert "ZeroDivisionError" in _status(live) and not live.running


def test_frames_wait_until_a_multiple_of_their_cost_was_trained(monkeypatch):
    monkeypatch.setattr(pace, "FRAME_SECONDS", 0.0)

    def frames(cost):
        live = widgets.LiveTraining([_config(epochs=4)])
        live.curves.cost, count = 0.0, []
        monkeypatch.setattr(live.curves, "draw", lambda shown: (count.append(shown), setattr(
            live.curves, "cost", cost)))
        live.start()
        return len(count)

    assert frames(cost=0.0) == 9, "one a record, and one at the end"
    assert frames(cost=1e9) == 2, "the first, and the one at the end"


# What ends a training


class Shell:
    """As much of IPython's as `cells` uses, with IPython's own events."""

    def __init__(self):
        self.events, self.parent = EventManager(self, available_events), {}

    def get_parent(self):
        return self.parent

    @contextlib.contextmanager
    def cell(self, text, **metadata):
        self.parent = {"header": {"msg_type": "execute_request"}, "content": {"code": text}, "metadata": metadata}
        self.events.trigger("pre_run_cell", types.SimpleNamespace(raw_cell=text))
        yield
        self.parent = {"header": {"msg_type": "comm_msg"}, "content": {}, "metadata": {}}


@pytest.mark.parametrize(("made", "then", "ends"), [
    (("a", {"cellId": "1"}), ("a", {"cellId": "1"}), True),
    (("a", {"cellId": "1"}), ("edited", {"cellId": "1"}), True),
    (("a", {"cellId": "1"}), ("a", {"cellId": "2"}), False),
    (("a", {"cellId": "1"}), ("b", {"cellId": "2", "deletedCells": ["1"]}), True),
    (("a", {"cellId": "1"}), ("b", {"cellId": "2", "deletedCells": ["3"]}), False),
    (("a", {}), ("a", {}), True),
    (("a", {}), ("b", {}), False),
])
def test_running_the_cell_again_ends_its_training_and_no_other(monkeypatch, made, then, ends):
    shell = Shell()
    monkeypatch.setattr(cells, "get_ipython", lambda: shell)

    async def scene():
        with shell.cell(made[0], **made[1]):
            live = widgets.LiveTraining([_long()])
        live.start()  # by a click, when no cell runs
        await _until(lambda: live.runs)
        with shell.cell(then[0], **then[1]):
            pass
        await asyncio.sleep(0.1)
        assert live.running is not ends
        live.stop()
        await live.done()
        assert shell.events.callbacks["pre_run_cell"] == [], "nothing of it is left behind"
        assert [task for task in asyncio.all_tasks() if task.get_name() == live_module.TASK] == []

    asyncio.run(scene())


def test_outside_a_notebook_there_is_no_cell(monkeypatch):
    assert cells.running_cell() is None
    shell = Shell()
    monkeypatch.setattr(cells, "get_ipython", lambda: shell)
    assert cells.running_cell() is None
    with shell.cell("text"):
        assert cells.running_cell() == ("text", "text")
    assert cells.running_cell() is None, "a click is no cell"


# Recorded runs


def _slider(widget):
    return _only(widget, ipywidgets.FloatSlider)


def test_the_player_shows_the_picture_of_live_training_up_to_the_slider():
    shown = widgets.Player(ARMS)
    assert shown.figure().alt == figures.learning_curves(ARMS).alt
    assert _picture(shown) == figures.learning_curves(ARMS).png(player.DPI)
    _slider(shown).value = 1.0
    assert shown.figure().alt == figures.learning_curves(ARMS, upto=1.0).alt != figures.learning_curves(ARMS).alt
    assert _picture(shown) == figures.learning_curves(ARMS, upto=1.0).png(player.DPI)
    live = widgets.LiveTraining([_config()], recorded=ARMS)
    _slider(live).value = 1.0
    assert _picture(live) == _picture(shown), "recorded or live, the same picture"


def test_ten_steps_of_the_slider_draw_once(monkeypatch):
    async def scene():
        shown, count = widgets.Player(ARMS), []
        draw = shown.curves.draw
        monkeypatch.setattr(shown.curves, "draw", lambda shown: (count.append(1), draw(shown)))
        for i in range(10):
            _slider(shown).value = i / 2
        await asyncio.sleep(0.3)
        assert count == [1] and _picture(shown) == figures.learning_curves(ARMS, upto=4.5).png(player.DPI)

    clock.run(scene())


def test_play_starts_over_reaches_the_end_and_can_be_paused(monkeypatch):
    monkeypatch.setattr(player, "time", clock.Time)
    monkeypatch.setattr(player, "FRAME_SECONDS", 0.01)

    async def scene():
        shown = widgets.Player(ARMS)
        _only(shown, ipywidgets.Dropdown).value = 5.0
        seen = []
        _slider(shown).observe(lambda change: seen.append(change.new), "value")
        _button(shown, "Play").click()
        await _until(lambda: len(seen) > 2)
        assert seen[0] == 0 and seen == sorted(seen) and shown.transport.playing
        shown.transport.pause()
        await _until(lambda: not shown.transport.playing)
        assert 0 < _slider(shown).value < 10 and _button(shown, "Play")
        monkeypatch.setattr(player, "DOUBLE_CLICK_SECONDS", 0.0)
        shown.transport.epoch = 9.95
        _button(shown, "Play").click()
        assert shown.transport.playing
        await _until(lambda: not shown.transport.playing)
        assert _slider(shown).value == 10 and _picture(shown) == figures.learning_curves(ARMS).png(player.DPI)

    clock.run(scene())


def test_a_double_click_on_play_plays(monkeypatch):
    monkeypatch.setattr(player, "time", clock.Time)

    async def scene():
        shown = widgets.Player(ARMS)
        button = _button(shown, "Play")
        button.click()
        button.click()
        await asyncio.sleep(0.01)
        assert shown.transport.playing and button.description == "Pause"
        shown.close()
        await _until(lambda: not shown.transport.playing)

    clock.run(scene())


def test_without_a_loop_play_shows_the_end():
    shown = widgets.Player(ARMS)
    _slider(shown).value = 2.0
    _button(shown, "Play").click()
    assert _picture(shown) == figures.learning_curves(ARMS).png(player.DPI) and not shown.transport.playing


def test_an_error_of_the_player_is_one_line_and_goes_away():
    shown = widgets.Player(ARMS)
    good = shown._recorded
    shown._recorded = {"broken": []}
    _slider(shown).value = 2.0
    assert "there are no runs to draw" in shown.view.children[1].value and isinstance(shown.error, ValueError)
    shown._recorded = good
    _slider(shown).value = 3.0
    assert shown.error is None and shown.view.children[1].value == ""


def test_it_says_where_and_with_which_seeds_was_recorded():
    records = start.records()
    of = {p: [r for r in records if (r.config["activation"], r.config["placement"]) == ("relu", p)]
          for p in ("before", "complete")}
    device = records[0].provenance["device"]
    assert player.source(of) == f"Recorded on {device}, seeds 0, 1, 2."
    assert player.source({"before": of["before"], "complete": of["complete"][:1]}) == (
        f"Recorded. before: {device}, seeds 0, 1, 2; complete: {device}, seed 0.")
    shown = widgets.LiveTraining([_config()], recorded=of)
    assert f"Recorded on {device}" in shown.view.children[1].children[1].value
    assert shown.view.children[1].layout.display is None
    shown.show([_config()])
    assert shown.view.children[1].layout.display == "none", "nothing to play"
