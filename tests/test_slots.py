"""The playground's state: what a click makes of the settings always builds, and is what the sentence says."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from cbn_lab import activations, blocks, guided, models, share, start
from cbn_lab.ablation import SEEDS
from cbn_lab.norms.complete import CompleteBatchNormBase
from cbn_lab.runs import Run
from cbn_lab.train import TrainConfig
from cbn_lab.widgets import labels, slots
from cbn_lab.widgets.slots import COMPLETE, SLOTS, STRUCTURE, Filling

FILLED = {"none": Filling(), "before": Filling(frozenset({"norm"})), "after": Filling(frozenset({"norm_out"})),
          "before_weight": Filling(frozenset({"norm_in"})), "both": Filling(frozenset({"norm", "norm_out"})),
          "complete": Filling(complete=True)}
MLP = replace(share.DEFAULT, model="mlp", model_options={"depth": 3, "width": 8})


@pytest.fixture
def registered():
    """Removes what a test registers."""
    before = dict(blocks._REGISTRY)
    yield
    blocks._REGISTRY.clear()
    blocks._REGISTRY.update(before)


def _sandwich(weight, activation, options):
    return blocks.Parts(weight, activations.module(activation), norm_in=torch.nn.BatchNorm2d(weight.in_channels),
                        norm_out=torch.nn.BatchNorm2d(weight.out_channels))


@pytest.mark.parametrize("placement", FILLED)
def test_each_placement_fills_its_slots_and_is_found_by_them(placement):
    assert slots.filling(placement) == FILLED[placement]
    assert slots.with_filling(FILLED[placement]) == placement


@pytest.mark.parametrize("placement, slot, result", [
    ("none", "norm", "before"), ("none", "norm_in", "before_weight"), ("none", "norm_out", "after"),
    ("before", "norm", "none"), ("before", "norm_out", "both"), ("after", "norm", "both"), ("both", "norm", "after"),
    ("both", "norm_out", "before"), ("none", COMPLETE, "complete"), ("both", COMPLETE, "complete"),
    ("complete", COMPLETE, "none")])
def test_a_click_puts_a_norm_in_or_takes_it_out(placement, slot, result):
    assert slots.click(placement, slot) == (result, "")


@pytest.mark.parametrize("placement, slot, result, said", [
    ("before", "norm_in", "before_weight",
     "before the weight layer and before the activation is registered, so the norm moved to its place before the w"),
    ("both", "norm_in", "before_weight", "No placement with a norm before the weight layer and before the activation "
                                         "and after the activation is registered"),
    ("before_weight", "norm_out", "after", "moved to its place after the activation"),
    ("complete", "norm_out", "after", "The complete layer made way")])
def test_where_no_placement_fits_the_norm_moves_and_a_sentence_says_so(placement, slot, result, said):
    found, sentence = slots.click(placement, slot)
    assert found == result and said in sentence


def test_a_registered_placement_can_be_clicked_together(registered):
    blocks.register("sandwich", _sandwich, bias=True)
    assert slots.click("after", "norm_in") == ("sandwich", "")
    assert slots.click("sandwich", "norm_out") == ("before_weight", "")
    blocks.register("broken", lambda weight, activation, options: 1 / 0, bias=True)
    assert slots.click("none", "norm") == ("before", "")
    with pytest.raises(ZeroDivisionError):
        slots.filling("broken")


def test_a_placement_without_a_way_back_loses_its_norms_and_a_sentence_says_so(registered):
    blocks.register("sandwich", _sandwich, bias=True)
    del blocks._REGISTRY["after"]
    found, said = slots.click("sandwich", "norm_in")
    assert found == "none" and said.endswith("is registered, so all norms were taken out.")


def test_there_are_no_other_slots():
    with pytest.raises(ValueError, match="no slot 'head'; known: norm_in, norm, norm_out, complete"):
        slots.click("none", "head")


def test_one_layer_or_all():
    mixed = slots.assigned(MLP, STRUCTURE, "activation", "tanh", 1)
    assert mixed.activation == ("sigmoid", "tanh", "sigmoid") and mixed.placement == "complete"
    assert slots.assigned(mixed, STRUCTURE, "activation", "sigmoid", 1) == MLP
    assert slots.assigned(mixed, STRUCTURE, "activation", "relu").activation == "relu"
    clicked, _ = slots.clicked(mixed, STRUCTURE, "norm", 2)
    assert clicked.placement == ("complete", "complete", "before")
    filled, said = slots.clicked(clicked, STRUCTURE, "norm")
    assert filled.placement == "before" and said == "The complete layer made way for the plain norm."


def test_a_click_for_all_layers_fills_where_it_is_empty_and_empties_where_all_are_full():
    config = replace(MLP, placement=("none", "after", "before"))
    filled, said = slots.clicked(config, STRUCTURE, "norm")
    assert filled.placement == ("before", "both", "before") and said == ""
    emptied, said = slots.clicked(filled, STRUCTURE, "norm")
    assert emptied.placement == ("none", "after", "none") and said == ""
    moved, said = slots.clicked(filled, STRUCTURE, "norm_in")
    assert moved.placement == "before_weight" and said.count("so the norm moved to its place before the weight") == 2
    assert slots.clicked(config, STRUCTURE, COMPLETE)[0].placement == "complete"


def test_lists_follow_the_number_of_layers():
    mixed = replace(MLP, activation=("sigmoid", "tanh", "relu"))
    longer = slots.changed(mixed, STRUCTURE, model_options={"depth": 5})
    assert longer.activation == ("sigmoid", "tanh", "relu", "relu", "relu")
    assert slots.changed(longer, STRUCTURE, model_options={"depth": 2}).activation == ("sigmoid", "tanh")
    assert slots.changed(longer, STRUCTURE, model_options={"depth": 1}).activation == "sigmoid"


def test_switches_hold_where_every_norm_is_complete_and_wait_elsewhere():
    structure = STRUCTURE | {"gamma": None, "shift_lr_multiplier": 1.0}
    changed = slots.changed(MLP, structure, norm_options=slots.differences(structure))
    assert changed.norm_options == {"gamma": None, "shift_lr_multiplier": 1.0}
    assert slots.structure_of(changed) == structure and slots.why_no_structure(changed) == ""
    with_none = slots.assigned(changed, structure, "placement", "none", 0)
    assert with_none.norm_options == changed.norm_options
    mixed = slots.assigned(changed, structure, "placement", "before", 0)
    assert mixed.norm_options == {} and slots.structure_of(mixed) is None
    assert "some layers have a plain norm" in slots.why_no_structure(mixed)
    assert "no layer has one" in slots.why_no_structure(replace(MLP, placement="none"))
    assert slots.assigned(mixed, structure, "placement", "complete", 0) == changed


def test_options_of_a_plain_norm_stay_with_it():
    plain = replace(MLP, placement="before", norm_options={"affine": False})
    assert slots.assigned(plain, STRUCTURE, "placement", "after", 1).norm_options == {"affine": False}
    assert slots.assigned(plain, STRUCTURE, "placement", "complete").norm_options == {}


def test_the_sentence_says_the_order_in_every_layer():
    assert slots.sentence(MLP) == ("All 3 layers: weight → complete(sigmoid) (placement complete, our reconstruction "
                                   "of CBN).")
    mixed = replace(MLP, activation=("tanh", "tanh", "relu"), placement=("both", "both", "before"))
    assert slots.sentence(mixed) == ("Layers 1 to 2: weight → norm → tanh → norm (placement both); "
                                     "Layer 3: weight → norm → relu (placement before, vanilla BN).")
    one = replace(MLP, model_options={"depth": 1}, placement="before_weight")
    assert slots.sentence(one) == "Layer 1: norm → weight → sigmoid (placement before_weight)."


def test_a_label_names_what_differs_from_the_default():
    assert labels.label(share.DEFAULT) == "sigmoid, complete"
    other = replace(MLP, placement=("none", "before", "before"), lr=0.3, seed=4, log_every=1, batch_size=2)
    assert labels.label(other) == "sigmoid, 1×none+2×before, mlp, width 8, batch size 2, lr 0.3"
    switched = replace(share.DEFAULT, norm_options={"pre_shift": False, "gamma": None, "shift_lr_multiplier": 1.0})
    assert labels.label(switched) == "sigmoid, complete, pre shift off, gamma None, shift lr multiplier 1"
    convnet = replace(share.DEFAULT, model_options=labels.stages(2, 4), data="cifar10")
    assert labels.label(convnet) == "sigmoid, complete, cifar10, depth 2, width 4"
    assert labels.label(replace(convnet, model_options={"widths": [4, 4]})) == "sigmoid, complete, cifar10, widths 4-4"


@pytest.mark.parametrize("depth, width, widths, strides", [
    (6, 16, [16, 16, 32, 32, 64, 64], [1, 2, 1, 2, 1, 2]), (3, 8, [8, 16, 32], [2, 2, 2]), (1, 4, [4], [2]),
    (5, 4, [4, 4, 8, 8, 16], [1, 2, 1, 2, 2])])
def test_stages_of_a_convnet(depth, width, widths, strides):
    assert labels.stages(depth, width) == {"widths": widths, "strides": strides}


def test_sizes_that_are_the_networks_own_are_left_out():
    assert labels.sized("convnet", 6, 16) == {} and labels.sized("mlp", 3, 128) == {}
    assert labels.sized("mlp", 30, 64) == {"width": 64, "depth": 30}
    assert labels.size("mlp", {"depth": 30}) == (30, 128) and labels.size("convnet", {}) == (6, 16)
    assert labels.size("resnet20", {}) is None
    with pytest.raises(ValueError, match="resnet20 has a fixed depth"):
        labels.sized("resnet20", 3, 16)


def _run(config, **record):
    return Run(config.resolved().record() | record, [], {}, {})


def test_records_are_found_by_their_settings_but_for_the_seed_and_the_device():
    config = start.config("sigmoid", "complete")
    records = labels.by_settings([_run(config, seed=seed, device="cuda", precision="bf16", log_every=9)
                                 for seed in (2, 0, 1)] + [_run(replace(config, lr=0.2))])
    assert [run.config["seed"] for run in records[labels.key(config.record())]] == [0, 1, 2]
    for other in (replace(config, lr=0.3), replace(config, placement="before"), replace(config, batch_size=64)):
        assert labels.key(other.record()) not in records


def test_settings_written_out_equal_those_left_out():
    config = TrainConfig(data="digits", placement="complete")
    written = replace(config, activation=["relu"] * 6, norm_options=dict(STRUCTURE), crop_padding=1, flip=False,
                      model_options={"widths": [16, 16, 32, 32, 64, 64]})
    assert labels.key(config.record()) == labels.key(written.record())
    assert labels.key(replace(config, norm_options={"gamma": None}).record()) != labels.key(config.record())
    assert labels.key(replace(config, activation=["relu"] * 5 + ["tanh"]).record()) != labels.key(config.record())


def test_every_recorded_run_of_the_notebooks_is_found_by_its_settings():
    plan = start.plan() + guided.plan()
    records = labels.by_settings([_run(config) for config in plan])
    assert all(len(records[labels.key(config.record())]) == len(SEEDS) for config in plan)


OPERATIONS = st.one_of(
    st.tuples(st.just("click"), st.sampled_from([*SLOTS, COMPLETE]), st.integers(0, 40)),
    st.tuples(st.just("activation"), st.sampled_from(activations.names()), st.integers(0, 40)),
    st.tuples(st.just("placement"), st.sampled_from(blocks.placements()), st.integers(0, 40)),
    st.tuples(st.just("model"), st.sampled_from(["mlp", "convnet", "resnet20"]), st.integers(1, 9)),
    st.tuples(st.just("switch"), st.sampled_from(["pre_shift", "post_shift", "center"]), st.booleans()),
)


def _after(config, structure, operation):
    what, value, number = operation
    layer = None if number >= slots.count(config) else number
    if what == "click":
        return slots.clicked(config, structure, value, layer)[0]
    if what == "model":
        options = labels.sized(value, number, 4) if labels.has_sizes(value) else {}
        return slots.changed(config, structure, model=value, model_options=options)
    if what == "switch":
        structure[value] = bool(number)
        applies = slots.structure_of(config) is not None
        return slots.changed(config, structure, norm_options=slots.differences(structure)) if applies else config
    return slots.assigned(config, structure, what, value, layer)


@settings(max_examples=60, deadline=None)
@given(st.lists(OPERATIONS, max_size=12))
def test_whatever_is_clicked_builds_and_comes_back_from_its_string(operations):
    config, structure = share.DEFAULT, dict(STRUCTURE)
    for operation in operations:
        config = _after(config, structure, operation)
    models.build(config.model, num_classes=10, in_channels=1, image_size=8, activation=config.activation,
                 placement=config.placement, norm_options=config.norm_options, **config.model_options)
    assert share.decode(share.encode(config)) == config
    assert slots.sentence(config).count("ayer") >= 1
    applied = slots.structure_of(config)
    assert applied is None or applied == structure


@settings(max_examples=40, deadline=None)
@given(st.lists(OPERATIONS, max_size=8))
def test_what_the_slots_say_is_what_the_network_has(operations):
    config, structure = slots.changed(share.DEFAULT, STRUCTURE, model="mlp", model_options={"depth": 4, "width": 4}), \
        dict(STRUCTURE)
    for operation in operations:
        if operation[0] != "model":
            config = _after(config, structure, operation)
    net = models.build("mlp", num_classes=3, in_channels=1, image_size=4, activation=config.activation,
                       placement=config.placement, norm_options=config.norm_options, width=4, depth=4)
    built = [module for module in net if hasattr(module, "activation")]
    assert len(built) == slots.count(config) == 4
    for block, placement in zip(built, slots.listed(config, "placement"), strict=True):
        norms = {name for name, _ in block.named_children()} & SLOTS.keys()
        assert slots.filling(placement) == Filling(frozenset(norms), isinstance(block.activation,
                                                                               CompleteBatchNormBase))
