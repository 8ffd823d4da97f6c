"""Block diagrams say what the modules do: slots, shortcut, shapes and parameters, for a reader's own placement too."""

import re

import pytest
import torch
from torch import nn

from cbn_lab import blocks, figures, models
from cbn_lab.figures.diagrams import COMPLETE
from cbn_lab.figures.rows import grouped, model_paths
from cbn_lab.figures.steps import block_path
from cbn_lab.norms import CompleteBatchNorm2d


def _texts(figure):
    return [text.get_text() for text in figure.fig.axes[0].texts if text.get_text()]


def _kinds(path):
    return [[step.kind for step in line] for line in path.lines]


@pytest.mark.parametrize(("placement", "kinds"), [
    ("none", "weight activation"), ("before", "weight norm activation"), ("after", "weight activation norm"),
    ("before_weight", "norm weight activation"), ("both", "weight norm activation norm"),
    ("complete", "weight shift activation norm shift")])
def test_block_diagrams_follow_the_definition_of_the_placements(placement, kinds):
    block = blocks.block(nn.Conv2d(3, 4, 3, bias=blocks.needs_bias(placement)), "tanh", placement)
    assert _kinds(block_path(block)) == [kinds.split()]
    figure = figures.block_diagram(placement, "tanh")
    boxes = [text for text in _texts(figure) if text != COMPLETE]
    assert boxes[0] == placement and boxes[-1] == "next\nlayer" and len(boxes) == 2 + len(kinds.split())
    assert boxes[1 + kinds.split().index("activation")] == "Tanh"
    has_bias = placement in ("none", "after", "before_weight")
    assert f"Conv2d {'with' if has_bias else 'no'} bias" in figure.alt
    assert (COMPLETE in _texts(figure)) == (COMPLETE in figure.alt) == (placement == "complete")
    assert "our reconstruction" in COMPLETE


def test_block_diagrams_are_read_off_the_layer():
    figure = figures.block_diagram("complete", "relu", shift_lr_multiplier=4, gamma=None, center=False)
    assert "then 4x shift, then ReLU, then divide by RMS, then 4x shift." in figure.alt
    assert "BatchNorm2d no γ, β" in figures.block_diagram("before", affine=False).alt
    linear = figures.block_diagram("before", layer=lambda bias: nn.Linear(3, 5, bias=bias))
    assert "Linear no bias, then BatchNorm1d γ, β" in linear.alt
    several = figures.block_diagram(["before", "complete"])
    assert "before:" in several.alt and "complete:" in several.alt and several.png()


@pytest.fixture
def own_placement():
    class ScaledAndShiftedSigmoid(nn.Sigmoid):
        pass

    def build(weight, activation, options):
        return blocks.Parts(weight, nn.Sequential(ScaledAndShiftedSigmoid(), nn.PReLU()),
                            norm_in=nn.GroupNorm(1, weight.in_channels), norm=nn.Identity(),
                            norm_out=nn.LayerNorm(4))

    blocks.register("own", build, bias=True)
    yield "own"
    del blocks._REGISTRY["own"]


def test_a_readers_own_placement_is_read_by_its_slots(own_placement):
    block = blocks.block(nn.Conv2d(3, 4, 3, padding=1), "tanh", own_placement)
    (steps,) = block_path(block).lines
    assert [(step.slot, step.parameters) for step in steps] == [
        ("norm_in", 6), ("weight", 3 * 4 * 9 + 4), ("norm", 0), ("activation", 0), ("activation", 1), ("norm_out", 8)]
    figure = figures.block_diagram(own_placement)
    assert "ScaledAnd\nShifted\nSigmoid" in _texts(figure)
    assert "GroupNorm γ, β, then Conv2d with bias, then Identity no γ, β, then Scaled" in figure.alt
    assert "LayerNorm γ, β." in figure.alt and figure.png()


@pytest.mark.parametrize("placement", blocks.placements())
@pytest.mark.parametrize("name, options", [("mlp", {}), ("convnet", {}), ("resnet18", {}),
                                           ("resnet18", {"join": "preactivated"})])
def test_all_parameters_of_a_model_stand_in_its_diagram(name, options, placement):
    model = models.build(name, num_classes=10, image_size=16, placement=placement, activation="tanh", **options)
    total = sum(p.numel() for p in model.parameters())
    paths = model_paths(model, (3, 16, 16))
    assert sum(s.parameters for path in paths.values() for line in path.lines for s in line) + sum(
        s.parameters for path in paths.values() for s in path.shortcut or ()) == total
    layers = list(dict.fromkeys(n for group in paths for n in group))
    assert layers == list(range(1, len(layers) + 1)) and list(paths)[-1] == ()
    assert sum(s.parameters for path in grouped(paths).values() for line in path.lines for s in line) + sum(
        s.parameters for path in grouped(paths).values() for s in path.shortcut or ()) == total


def test_shapes_are_those_of_a_forward_pass_and_the_model_stays_as_it_was():
    model = models.build("resnet20", num_classes=10, in_channels=1, image_size=8, placement="both")
    model[0].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    paths = model_paths(model, (1, 8, 8))
    (first, second) = paths[8, 9].lines
    assert {step.shape for step in (*first, *second)} == {(32, 4, 4)}
    assert {step.shape for step in paths[2, 3].lines[0]} == {(16, 8, 8)}
    assert [step.shape for step in paths[()].lines[0]] == [(10,)]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("placement", "first", "second", "shortcut"), [
    ("none", "weight activation", "weight sum activation", "weight"),
    ("before", "weight norm activation", "weight norm sum activation", "weight norm"),
    ("before_weight", "norm weight activation", "norm weight sum activation", "norm weight"),
    ("both", "weight norm activation norm", "weight norm sum activation norm", "weight norm"),
    ("after", "weight activation norm", "weight sum activation norm", "weight"),
    ("complete", "weight shift activation norm shift", "weight sum shift activation norm shift", "weight")])
def test_residual_blocks_show_where_the_shortcut_joins(placement, first, second, shortcut):
    model = models.build("resnet18", num_classes=10, placement=placement, activation="sigmoid")
    paths = model_paths(model)
    assert paths[2, 3].shortcut == ()
    projection = paths[6, 7]
    assert _kinds(projection) == [first.split(), second.split()]
    assert [step.kind for step in projection.shortcut] == shortcut.split()
    assert all(step.slot == step.kind for line in projection.lines for step in line
               if step.kind in ("weight", "sum", "activation"))
    figure = figures.model_diagram(model, layers=[3, 6])
    begins = "BatchNorm2d γ, β" if placement == "before_weight" else "Conv2d"
    assert re.search(rf"layers 2–3: .* plus the shortcut \(identity\).* layers 6–7: .* plus the shortcut \({begins}",
                     figure.alt)
    assert "layers 2–3" in figure.alt and "layer 1:" not in figure.alt and "output" not in figure.alt and figure.png()


@pytest.mark.parametrize("name, activation, placement, join", [
    *((name, "tanh", placement, "preactivated") for name in ("resnet20", "resnet18") for placement in (
        "none", "before", "after", "before_weight", "both")),
    ("resnet18", "selu", "both", "activated"), ("resnet18", "selu", "after", "normalized")])
def test_steps_of_a_residual_net_are_drawn_in_the_order_in_which_they_run(name, activation, placement, join):
    """The shortcut is computed last, behind the branch; its arithmetic alone is no layer."""
    model = models.build(name, num_classes=3, image_size=8, placement=placement, activation=activation, join=join)
    ran = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.Tanh, nn.SELU)):
            module.register_forward_hook(lambda module, *_: ran.append(type(module).__name__))
    model(torch.zeros(2, 3, 8, 8))
    drawn = []
    for path in model_paths(model).values():
        for step in (step for line in path.lines for step in line):
            drawn += [step] if step.kind != "sum" else [part for part in path.shortcut if part.kind != "copy"]
    assert [step.label.split("\n")[0] for step in drawn] == ran


@pytest.mark.parametrize(("placement", "rest"), [
    ("none", "activation"), ("before", "norm activation"), ("before_weight", "activation"),
    ("both", "norm activation norm"), ("after", "activation norm"), ("complete", "shift activation norm shift")])
def test_a_preactivated_net_is_drawn_as_its_sums_go(placement, rest):
    model = models.build("resnet18", num_classes=10, placement=placement, activation="sigmoid", join="preactivated")
    paths = model_paths(model, (3, 32, 32))
    weight = ["norm", "weight"] if placement == "before_weight" else ["weight"]
    assert _kinds(paths[1,]) == [weight] and _kinds(paths[17,]) == [rest.split()]
    for group in ((2, 3), (6, 7)):
        assert _kinds(paths[group]) == [rest.split(), weight + rest.split(), [*weight, "sum"]]
    assert (paths[2, 3].shortcut, paths[2, 3].tap) == ((), 0), "the identity takes the sum itself"
    assert ([step.kind for step in paths[6, 7].shortcut], paths[6, 7].tap) == (weight, 1), "a projection what f gives"
    assert paths[6, 7].lines[2][-1].shape == (128, 16, 16)
    figure = figures.model_diagram(model, layers=[1, 2, 6, 17])
    behind = {"shift": "γ, 9x shift", "norm": "BatchNorm2d γ, β", "activation": "Sigmoid"}[rest.split()[-1]]
    begins = "BatchNorm2d γ, β" if placement == "before_weight" else "Conv2d"
    assert re.search(rf"layer 1: .*layers 2–3, 16–17: .* plus the shortcut \(identity\)\. layers 6–7: .* plus the "
                     rf"shortcut from behind {behind} \({begins}.*\)\. after the last block: .*{behind}", figure.alt)
    assert "output layer" not in figure.alt
    assert [text for text in _texts(figure) if text.startswith("next")] == ["next"] * 3 + ["next\nlayer"]


def test_a_shortcut_leaves_where_its_path_says():
    """Its dot stands at the block's input, or where the steps before the first weights end."""
    model = models.build("resnet18", num_classes=10, placement="before", join="preactivated")
    for block, line in ((model[1], 0), (model[3], 1)):
        (axis,) = figures.module_diagram({"a block": block}).fig.axes
        (dot,) = (line.get_ydata()[0] for line in axis.lines if line.get_marker() == "o")
        weights = [text.get_position()[1] for text in axis.texts if text.get_text().startswith("Conv2d")]
        norm = next(text.get_position()[1] for text in axis.texts if text.get_text().startswith("BatchNorm2d"))
        assert dot == (norm, weights[0])[line] and norm < weights[0]


def test_nothing_is_drawn_beyond_the_edges():
    """Not the turns at the end of a block's longest line either."""
    for join in ("activated", "preactivated"):
        model = models.build("resnet18", num_classes=10, placement="complete", join=join)
        (axis,) = figures.model_diagram(model).fig.axes
        ends = [x for line in axis.lines for x in line.get_xdata()]
        assert 0 < min(ends) and max(ends) < axis.get_xlim()[1] - 0.02


def test_an_empty_slot_of_a_preactivated_block_stands_beside_the_weights_or_the_activation():
    block = models.build("resnet20", num_classes=10, placement="none", join="preactivated")[1]
    conv = "Conv2d with bias (2,320 parameters)"
    for slot, order in (
            ("norm_in", f"a: ReLU, then nothing in norm_in, then {conv}, then ReLU, then nothing in norm_in, then "
                        f"{conv}"),
            ("norm", f"a: nothing in norm, then ReLU, then {conv}, then nothing in norm, then ReLU, then {conv}")):
        assert f"{order}, then plus" in figures.module_diagram({"a": block}, highlight=slot).alt


def test_equal_blocks_share_a_row_and_different_ones_do_not():
    model = models.build("convnet", num_classes=10, in_channels=1, image_size=8, placement="before",
                         activation=["tanh", "relu", "tanh", "tanh", "tanh", "tanh"])
    rows = grouped(model_paths(model, (1, 8, 8)))
    assert list(rows) == ["layers 1, 3–6", "layer 2", "output layer"]
    assert rows["layer 2"].lines[0][0].shape == (16, 4, 4) and rows["layers 1, 3–6"].lines[0][0].shape is None
    convolutions = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert rows["layers 1, 3–6"].lines[0][0].parameters == sum(convolutions) - convolutions[1]
    alt = figures.model_diagram(model, (1, 8, 8)).alt
    assert "layer 2: Conv2d no bias (2,304 parameters, output 16 x 4 x 4), then BatchNorm2d" in alt
    assert "16 × 4 × 4\n2,304 params" in _texts(figures.model_diagram(model, (1, 8, 8)))


def test_the_output_layers_norm_is_drawn():
    model = models.build("mlp", num_classes=7, image_size=4, placement="before_weight")
    figure = figures.model_diagram(model)
    assert "output layer: BatchNorm1d γ, β (256 parameters), then Linear with bias (903 parameters)." in figure.alt
    assert "logits" in _texts(figure) and _texts(figure).count("next\nlayer") == 1


@pytest.mark.parametrize(("slot", "marked"), [("weight", 2), ("norm_in", 2), ("activation", 5), ("norm", 2)])
def test_a_highlighted_slot_is_framed_and_marked_filled_or_empty(slot, marked):
    """weight: one box in each row; norm_in: empty in both; activation: the complete layer has four steps."""
    figure = figures.block_diagram(["before", "complete"], highlight=slot)
    (axis,) = figure.fig.axes
    framed = [patch for patch in axis.patches if patch.get_linewidth() > 3]
    assert len(framed) == marked == sum(line.get_marker() == "v" for line in axis.lines)
    assert f"Highlighted: the slot {slot}." in figure.alt
    assert figure.alt.count(f"nothing in {slot}") == {"norm_in": 2, "norm": 1}.get(slot, 0)
    dashed = [patch for patch in axis.patches if patch.get_linestyle() == "--"]
    assert len(dashed) == {"norm_in": 2, "norm": 1}.get(slot, 0)


def test_an_empty_slot_stands_in_its_place():
    for slot, order in (("norm_in", "nothing in norm_in, then Conv2d"), ("norm", "bias, then nothing in norm, then"),
                        ("norm_out", "Tanh, then nothing in norm_out")):
        assert order in figures.block_diagram("none", "tanh", highlight=slot).alt


def test_wrong_questions_are_answered():
    model = models.build("convnet", num_classes=10, placement="none")
    with pytest.raises(ValueError, match="norm_in, weight, norm, activation, norm_out, got 'middle'"):
        figures.block_diagram("before", highlight="middle")
    with pytest.raises(ValueError, match=r"among 1 to 6, got \[7\]"):
        figures.model_diagram(model, layers=[7])
    with pytest.raises(ValueError, match="holds no block"):
        figures.model_diagram(nn.Sequential(nn.Linear(2, 2)))
    for draw in (figures.block_diagram, figures.module_diagram):
        with pytest.raises(ValueError, match="no block to draw; give at least one"):
            draw({})
    with pytest.raises(ValueError, match="unknown placement 'nowhere'"):
        figures.block_diagram("nowhere")


def test_a_module_is_drawn_as_it_is():
    own = blocks.block(nn.Linear(5, 7), nn.PReLU(7), "after")
    residual = models.build("resnet18", num_classes=2, placement="none")[1]
    figure = figures.module_diagram({"mine": own, "a residual block": residual}, highlight="activation")
    assert "mine: Linear with bias (42 parameters), then PReLU (7 parameters), then BatchNorm1d γ, β (14" in figure.alt
    assert "a residual block: Conv2d with bias" in figure.alt and "plus the shortcut (identity)" in figure.alt
    for other in (nn.ReLU(), nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential()):
        with pytest.raises(ValueError, match="is no block that can be drawn"):
            figures.module_diagram({"x": other})


def test_a_structure_with_standardization_on_both_sides_shows_both():
    layer = CompleteBatchNorm2d(4, "selu", standardize="both", gamma="both")
    (steps,) = block_path(nn.ModuleDict({"weight": nn.Conv2d(3, 4, 1), "activation": layer})).lines
    assert [step.kind for step in steps] == ["weight", "norm", "shift", "activation", "norm", "shift"]
    assert [step.parameters for step in steps] == [16, 0, 8, 0, 0, 8]
