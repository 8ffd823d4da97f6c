"""The playground: what is shown is that of the network that Start trains, and one change costs one redraw.

Warnings are errors, so a keyword that ipywidgets does not know fails here. In a browser: tests/browser/. The state
behind it: test_slots.py.
"""

import asyncio
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import clock
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import activations, blocks, data, export, figures, share, start, widgets
from cbn_lab.probes import layers
from cbn_lab.runs import Run
from cbn_lab.train import Trainer
from cbn_lab.widgets import board, knobs, slots
from cbn_lab.widgets.playground import diagram, look

CORE = {"VBox", "HBox", "Button", "FloatProgress", "FloatText", "HTML", "Image", "Dropdown", "IntSlider", "FloatSlider",
        "FloatLogSlider", "Checkbox", "BoundedIntText", "Text", "Textarea", "Label"}  # the same in ipywidgets 7.7 and 8
SMALL = replace(share.DEFAULT, model="mlp", model_options={"depth": 2, "width": 8}, train_images=256, epochs=2)


@pytest.fixture
def registered():
    """Removes what a test registers."""
    before = dict(blocks._REGISTRY), dict(activations._REGISTRY)
    yield
    for registry, kept in zip((blocks._REGISTRY, activations._REGISTRY), before, strict=True):
        registry.clear()
        registry.update(kept)


def _playground(config=SMALL, **options):
    return widgets.playground(config, **{"records": []} | options)


def _widgets(view):
    yield view
    for child in getattr(view, "children", ()):
        yield from _widgets(child)


def _words(playground):
    return re.sub(r"<[^>]+>", " ", playground._words.value)


def _picture(playground):
    return bytes(playground._diagram.value)


def _summary(config):
    images = data.load(config.data, "train").subset(slice(256))
    batch = data.normalize(images.images, images), images.labels
    return layers.summary(Trainer(config).model, F.cross_entropy, batch, statistics="batch")


def _assert_shows(playground, config):
    """The table and the diagram are those of the network that training these settings begins with."""
    assert playground.config == config and playground.error is None
    rows = _summary(config)
    body = re.search(r"<tbody>.*</tbody>", figures.layer_table(rows), re.DOTALL)
    assert body[0] in playground._table.value
    assert slots.sentence(config) in _words(playground)


def test_it_shows_the_network_that_training_begins_with():
    playground = _playground()
    _assert_shows(playground, SMALL)
    total = sum(p.numel() for p in Trainer(SMALL).model.parameters())
    assert f"{total:,} parameters" in playground._table.value
    assert _picture(playground).startswith(b"\x89PNG")


def test_only_core_widgets_each_with_a_description():
    for widget in _widgets(_playground().view):
        kind = type(widget).__name__
        assert kind in CORE
        if hasattr(widget, "description") and kind not in ("HTML", "FloatProgress"):
            assert widget.description, f"a {kind} has no description"
        if kind == "Image":
            assert widget.layout.max_width == "100%"


@pytest.mark.parametrize("slot, placement", [("norm_in", "before_weight"), ("norm", "before"), ("norm_out", "after"),
                                             ("complete", "none")])
def test_a_click_on_a_slot_rebuilds_the_network(slot, placement):
    playground = _playground()
    diagram = _picture(playground)
    playground.board.slots[slot].click()
    _assert_shows(playground, replace(SMALL, placement=placement))
    assert _picture(playground) != diagram
    assert playground.board.placement.value == placement


def test_a_double_click_is_one_click(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(board, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    playground = _playground()
    playground.board.slots["norm"].click()
    playground.board.slots["norm"].click()
    assert playground.config.placement == "before"
    playground.board.slots["norm_out"].click()
    assert playground.config.placement == "both"
    now[0] += 0.5
    playground.board.slots["norm_out"].click()
    assert playground.config.placement == "before"
    playground.board.activation.value = "relu"  # after which a click, however soon, is one of its own
    playground.board.slots["norm_out"].click()
    assert playground.config.placement == "both"


def test_slots_say_in_words_whether_they_are_filled():
    playground = _playground(replace(SMALL, placement="both"))
    said = {slot: button.description for slot, button in playground.board.slots.items()}
    assert said == {"norm_in": "+ norm", "norm": "norm  ×", "norm_out": "norm  ×", "complete": "+ complete BN (ours)"}
    assert [playground.board.slots[slot].tooltip for slot in ("norm_in", "norm")] == [
        "put a norm before the weight layer", "take out the norm before the activation"]
    playground.board.slots["norm_in"].click()
    assert "so the norm moved to its place before the weight layer" in _words(playground)


def test_one_layer_is_changed_and_the_others_are_not():
    playground = _playground()
    playground.board.layer.value = 1
    playground.board.activation.value = "tanh"
    playground.board.slots["norm"].click()
    _assert_shows(playground, replace(SMALL, activation=("sigmoid", "tanh"), placement=("complete", "before")))
    assert "Layer 2: weight → norm → tanh" in _words(playground)
    assert all(control.disabled for control in playground.structure.controls.values())
    assert "some layers have a plain norm" in playground._why.value
    assert playground.board.slots["norm"].description == "norm  ×"
    playground.board.layer.value = -1
    said = {slot: button.description for slot, button in playground.board.slots.items()}
    assert said == {"norm_in": "+ norm", "norm": "norm in 1/2", "norm_out": "+ norm",
                    "complete": "complete BN (ours) in 1/2"}
    assert dict(playground.board.activation.options)["2 different"] == playground.board.activation.value
    playground.board.placement.value = "after"
    assert playground.config.placement == "after"
    assert playground.config.activation == ("sigmoid", "tanh")


def test_a_layer_that_is_gone_is_no_longer_selected():
    playground = _playground()
    playground.board.layer.value = 1
    playground.network.controls["depth"].value = 1
    assert playground.board.layer.value == -1 and playground.config.model_options["depth"] == 1
    _assert_shows(playground, playground.config)


@pytest.mark.parametrize("control, value, option", [
    ("pre-shift", False, {"pre_shift": False}), ("gamma", "none", {"gamma": None}),
    ("shift multiplier k", 1.0, {"shift_lr_multiplier": 1.0}), ("standardize", "both", {"standardize": "both"}),
    ("subtract the mean", False, {"center": False})])
def test_a_switch_of_the_complete_layer(control, value, option):
    playground = _playground()
    playground.structure.controls[control].value = value
    _assert_shows(playground, replace(SMALL, norm_options=option))
    playground.board.slots["norm"].click()
    assert playground.config.norm_options == {} and playground.structure.controls[control].value == value
    playground.board.slots["complete"].click()
    assert playground.config.norm_options == option


@pytest.mark.parametrize("group, control, value, change", [
    ("training", "learning rate", 0.31622776, {"lr": 0.32}), ("training", "exact rate", 0.01234567, {"lr": 0.01234567}),
    ("training", "batch size", 2, {"batch_size": 2}),
    ("training", "epochs", 5, {"epochs": 5}), ("training", "seed", 3, {"seed": 3}),
    ("network", "width", 32, {"model_options": {"depth": 2, "width": 32}}),
    ("network", "depth", 3, {"model_options": {"depth": 3, "width": 8}}),
    ("network", "model", "convnet", {"model": "convnet", "model_options": {}})])
def test_a_control_sets_what_it_says(group, control, value, change):
    playground = _playground()
    getattr(playground, group).controls[control].value = value
    _assert_shows(playground, replace(SMALL, **change))


def test_another_seed_leaves_the_diagram_as_it_is(monkeypatch):
    playground = _playground()
    monkeypatch.setattr(sys.modules[look.__module__], "diagram", None)  # fails when called
    playground.training.controls["seed"].value = 4
    _assert_shows(playground, replace(SMALL, seed=4))


@pytest.mark.parametrize("layer, alt", [(None, "layer 1: Conv2d.*layers 2–3: Conv2d"), (5, r"^[^:]*layers 6–7: ")])
def test_of_a_residual_net_the_first_blocks_or_the_chosen_one_are_drawn(layer, alt):
    config = replace(share.DEFAULT, model="resnet20", placement="before")
    shown = diagram(look(config)[0], config, layer=layer)
    assert re.search(alt, shown.alt.removeprefix("Order of operations in a block. ")) and "layers 8" not in shown.alt


def test_networks_of_fixed_size_have_no_depth_to_move():
    playground = _playground()
    playground.network.controls["model"].value = "resnet20"
    for name in ("depth", "width"):
        assert playground.network.controls[name].disabled
        assert playground.network.controls[name].layout.visibility == "hidden"
    assert len(playground.board.layer.options) == 1 + 19 and playground.error is None


def test_settings_that_no_control_offers_are_shown_as_they_are():
    odd = replace(SMALL, lr=0.00123, batch_size=5000, model_options={"depth": 50, "width": 7}, seed=2**21,
                  norm_options={"shift_lr_multiplier": 3.0, "eps": 1e-3})
    playground = _playground(odd)
    _assert_shows(playground, odd)
    assert playground.network.controls["depth"].value == 50 and playground.network.controls["width"].value == 7
    assert playground.structure.controls["shift multiplier k"].value == 3.0
    playground.structure.controls["gamma"].value = "none"
    assert playground.config == replace(odd, norm_options=odd.norm_options | {"gamma": None})


@pytest.mark.parametrize("rate", [2e-5, 1e-5, 50.0])
def test_a_rate_beyond_the_slider_is_shown_as_it_is(rate):
    playground = _playground(replace(SMALL, lr=rate))
    for control in ("learning rate", "exact rate"):
        assert playground.training.controls[control].value == pytest.approx(rate)
    assert playground.config.lr == rate


def test_a_typed_rate_is_kept_to_its_last_digit_and_a_wrong_one_is_said():
    playground = _playground()
    typed = playground.training.controls["exact rate"]
    typed.value = 0.0123456
    assert "lr=0.0123456" in playground.code.state and playground.training.controls["learning rate"].value == 0.0123456
    typed.value = -1.0
    assert "lr" in str(playground.error) and playground.config.lr == 0.0123456
    playground.training.controls["learning rate"].value = 0.1
    assert playground.error is None and typed.value == 0.1


def test_a_table_whose_diagram_could_not_be_drawn_does_not_outlive_its_settings(monkeypatch):
    playground = _playground()
    with monkeypatch.context() as broken:
        broken.setattr(sys.modules["cbn_lab.widgets.playground"], "diagram", lambda *arguments: 1 / 0)
        playground.set(replace(SMALL, activation="relu"))
        assert isinstance(playground.error, ZeroDivisionError) and playground._found.value == ""
    playground.set(SMALL)
    _assert_shows(playground, SMALL)


def test_an_error_is_one_line_and_the_controls_stay_usable():
    playground = _playground()
    playground.network.controls["model"].value = "vgg16"
    assert isinstance(playground.error, ValueError) and "needs images of at least 32x32" in _words(playground)
    assert "\n" not in playground._words.value
    assert {part.layout.visibility for part in (playground._diagram, playground._table)} == {"hidden"}
    playground.network.controls["model"].value = "mlp"
    assert {part.layout.visibility for part in (playground._diagram, playground._table)} == {"visible"}
    _assert_shows(playground, replace(SMALL, model_options={}))


@pytest.mark.parametrize("wrong, message", [
    ({"model": "lenet"}, "unknown model 'lenet'"), ({"activation": "sine"}, "unknown activation 'sine'"),
    ({"placement": ("before", "mine")}, "unknown placement 'mine'"),
    ({"activation": ("tanh",) * 3}, "activation lists 3 names, but mlp has 2 layers"),
    ({"model_options": {"widths": [3]}}, "no 'widths'")])
def test_settings_that_cannot_be_shown_change_nothing(wrong, message):
    playground = _playground()
    playground.set(replace(SMALL, **wrong))
    assert message in str(playground.error) and playground.config == SMALL
    playground.board.slots["norm"].click()
    _assert_shows(playground, replace(SMALL, placement="before"))


def test_registered_names_join_the_menus(registered):
    activations.register("sine", type("Sine", (nn.Module,), {"forward": lambda self, z: torch.sin(z)}))
    blocks.register("twice", lambda weight, activation, options: blocks.Parts(
        weight, activations.module(activation), norm=nn.BatchNorm1d(weight.out_features)), bias=True)
    playground = _playground()
    playground.board.activation.value, playground.board.placement.value = "sine", "twice"
    _assert_shows(playground, replace(SMALL, activation="sine", placement="twice"))


def test_ten_slider_steps_lead_to_one_redraw(monkeypatch):
    looks = []
    monkeypatch.setattr(sys.modules[look.__module__], "look", lambda *a: looks.append(a) or look(*a))

    async def scene():
        playground = _playground()
        looks.clear()
        for depth in range(3, 13):
            playground.network.controls["depth"].value = depth
        assert looks == []
        await asyncio.sleep(0.4)
        assert [config.model_options["depth"] for config, *_ in looks] == [12]
        for rate in range(10):
            playground.training.controls["learning rate"].value = 10 ** (-rate / 10)
        await asyncio.sleep(0.4)
        assert len(looks) == 1, "the learning rate changes nothing before training"
        await _no_tasks()

    clock.run(scene())


async def _no_tasks():
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def _record(config, seed):
    curve = [{"step": i, "epoch": i / 2, "loss": 1 / i + seed, "test_accuracy": 1 - 1 / (i + 1)} for i in (1, 2, 3)]
    return Run(replace(config, seed=seed).resolved().record(), curve, {"train_loss": 0.1}, {"device": "a test"})


def test_recorded_runs_of_these_settings_are_shown_and_no_others():
    records = [_record(SMALL, seed) for seed in (1, 0)] + [_record(replace(SMALL, placement="before"), 5)]
    playground = _playground(records=records)
    assert list(playground.live.arms.values()) == [[records[1], records[0]]]
    playground.board.slots["norm"].click()
    assert [run.config["seed"] for group in playground.live.arms.values() for run in group] == [5]
    playground.training.controls["epochs"].value = 3
    assert playground.live.arms == {} and "not recorded" in playground._found.value


def test_pinned_curves_stay_to_compare_with():
    records = [_record(SMALL, 0), _record(replace(SMALL, placement="before"), 5)]
    playground = _playground(records=records)
    assert not playground._pin.disabled and playground._unpin.disabled
    playground._pin.click()
    assert playground._pin.disabled
    playground.board.slots["norm"].click()
    assert [runs[0].config["placement"] for runs in playground.live.arms.values()] == ["complete", "before"]
    playground.training.controls["epochs"].value = 7
    assert list(playground.live.arms) == ["sigmoid, complete, mlp, depth 2, width 8, train images 256, epochs 2"]
    playground._unpin.click()
    assert playground.live.arms == {} and playground._pin.disabled and playground._unpin.disabled


async def _until(condition, seconds=120.0):
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nothing happened")


def test_a_training_goes_on_with_its_settings_and_the_next_takes_the_new_ones():
    async def scene():
        playground = _playground(replace(SMALL, epochs=5000))
        playground.live.start()
        await _until(lambda: playground.live.runs)
        playground.board.slots["norm"].click()
        playground.training.controls["epochs"].value = 1
        await _until(lambda: "keeps its own" in playground._found.value)
        assert playground.live.running
        playground.live.stop()
        await playground.live.done()
        playground.live.start()
        first, second = await playground.live.done()
        assert [run.config["placement"] for run in (first, second)] == ["complete", "before"]
        assert [run.config["epochs"] for run in (first, second)] == [5000, 1]
        assert [run.status for run in (first, second)] == ["interrupted", "finished"]
        assert len(playground.live.arms) == 2
        await _no_tasks()

    asyncio.run(scene())


def test_two_playgrounds_train_at_once():
    async def scene():
        both = [_playground(replace(SMALL, epochs=5000)), _playground(replace(SMALL, epochs=5000, placement="after"))]
        for playground in both:
            playground.live.start()
        await _until(lambda: all(p.live.runs and len(p.live.runs[0].curve) > 3 for p in both))
        both[0].live.stop()
        await both[0].live.done()
        assert both[1].live.running
        both[1].live.close()
        await _until(lambda: not both[1].live.running)

    asyncio.run(scene())


def test_start_takes_the_change_that_was_made_just_before():
    async def scene():
        playground = _playground()
        await asyncio.sleep(0.3)
        playground.training.controls["epochs"].value = 3
        playground.live.start()  # before what is shown has settled
        (run,) = await playground.live.done()
        assert run.config["epochs"] == 3

    asyncio.run(scene())


def test_what_cannot_be_trained_says_so_again_at_start():
    playground = _playground()
    playground.network.controls["model"].value = "vgg16"
    with pytest.raises(ValueError, match="needs images of at least 32x32"):
        playground.live.start()
    assert "needs images" in str(playground.live.error)


def test_the_records_of_the_course_are_found():
    playground = widgets.playground()
    assert [run.config for group in playground.live.arms.values() for run in group] == [
        start.config("sigmoid", "complete", seed).resolved().record() for seed in (0, 1, 2)]


def test_start_trains_what_is_shown():
    playground = _playground()
    playground.board.slots["norm"].click()
    playground.live.start()
    (run,) = playground.live.runs
    assert run.status == "finished" and run.config["placement"] == "before"


def test_the_state_follows_and_restores():
    playground = _playground()
    playground.board.layer.value = 0
    playground.board.slots["norm_out"].click()
    playground.training.controls["batch size"].value = 2
    state = playground.code.state
    assert share.decode(state) == playground.config != SMALL
    playground.code.give()
    first, second = (line.lstrip("# ") for line in playground.code.code.splitlines()[:2])
    assert state in f"{first.removesuffix(export.GOES_ON)}{second}"
    other = _playground(share.DEFAULT)
    other.code._state.value = state
    other.code.restore()
    _assert_shows(other, playground.config)
    other.code._state.value = "cbn1 activation=sine"
    other.code.restore()
    assert "unknown activation 'sine'" in str(other.code.error) and other.config == playground.config


def test_two_playgrounds_do_not_know_of_each_other():
    one, other = _playground(), _playground()
    one.board.slots["norm"].click()
    one.structure.controls["gamma"].value = "before"
    assert other.config == SMALL and other.structure.values == slots.STRUCTURE
    _assert_shows(other, SMALL)


def test_the_static_picture_is_that_of_the_settings():
    playground = _playground()
    assert playground.figure().png() == widgets.playground_figure(SMALL).png()
    playground.board.slots["norm"].click()
    assert "BatchNorm1d" in playground.figure().alt and "second moment" in playground.figure().alt.lower()


def test_data_that_are_not_here_are_not_offered(monkeypatch):
    monkeypatch.setattr(data, "available", lambda root: {"digits": "here", "cifar10": "here",
                                                         "cifar100": "missing: nowhere"})
    assert list(knobs.datasets()) == ["digits", "cifar10 (3,840 images)", "cifar10 (all images)"]
