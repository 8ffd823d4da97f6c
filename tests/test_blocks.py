"""Blocks: each placement is the composition it says, for every weight layer; own norms and placements join."""

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import nn

from cbn_lab import blocks, norms

LAYERS = {
    "linear": (lambda bias: nn.Linear(4, 6, bias=bias), (8, 4)),
    "conv1d": (lambda bias: nn.Conv1d(4, 6, 3, padding=1, bias=bias), (8, 4, 9)),
    "conv2d": (lambda bias: nn.Conv2d(4, 6, 3, padding=1, bias=bias), (8, 4, 5, 5)),
    "conv2d, groups, stride, dilation": (
        lambda bias: nn.Conv2d(4, 6, 3, stride=2, dilation=2, groups=2, padding=2, bias=bias), (8, 4, 9, 9)),
    "conv2d, padding same": (lambda bias: nn.Conv2d(4, 6, 3, padding="same", bias=bias), (8, 4, 5, 5)),
    "conv2d, circular": (
        lambda bias: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=bias), (8, 4, 5, 5)),
}


def standardize(x):
    """BatchNorm at its initial parameters, written out."""
    axes = [d for d in range(x.dim()) if d != 1]
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(axes, keepdim=True) + 1e-5)


FORMULAS = {
    "none": lambda weight, x: torch.tanh(weight(x)),
    "before": lambda weight, x: torch.tanh(standardize(weight(x))),
    "after": lambda weight, x: standardize(torch.tanh(weight(x))),
    "before_weight": lambda weight, x: torch.tanh(weight(standardize(x))),
    "both": lambda weight, x: standardize(torch.tanh(standardize(weight(x)))),
    "complete": lambda weight, x: standardize(torch.tanh(weight(x))),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("placement", blocks.placements())
@pytest.mark.parametrize("bias", [True, False])
def test_a_block_is_what_its_placement_says(layer, placement, bias):
    make, shape = LAYERS[layer]
    weight = make(bias).double()
    block = blocks.block(weight, "tanh", placement).double()
    x = torch.randn(shape, dtype=torch.float64) + 0.5
    torch.testing.assert_close(block(x), FORMULAS[placement](weight, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_shift_added_by_the_weight_layer_is_the_plain_sequence(layer):
    make, shape = LAYERS[layer]
    block = blocks.block(make(True), "sigmoid", "complete").double()
    nn.init.normal_(block.activation.pre_shift)
    nn.init.normal_(block.activation.post_shift)
    x = torch.randn(shape, dtype=torch.float64)
    ours, plain = block(x), block.activation(block.weight(x))
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    weight = torch.arange(ours.numel(), dtype=torch.float64).sin().reshape(ours.shape)
    for one, other in zip(*(torch.autograd.grad((y * weight).sum(), list(block.parameters())) for y in (ours, plain)),
                          strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("layer", ["linear", "conv2d"])
def test_hooks_on_the_parts_of_a_complete_block_are_called(layer):
    """They see the plain sequence: the weight layer's own output, and what the rest makes of it."""
    make, shape = LAYERS[layer]
    block, seen = blocks.block(make(False), "tanh", "complete"), {}
    nn.init.constant_(block.activation.pre_shift, 0.3)
    x = torch.randn(shape)
    expected = block(x)
    for name, part in block.named_children():
        part.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
    torch.testing.assert_close(block(x), expected)
    torch.testing.assert_close(seen["weight"][1], block.weight(x))
    assert torch.equal(seen["activation"][0], seen["weight"][1])
    pruned = blocks.block(make(False), "tanh", "complete")
    torch.nn.utils.prune.l1_unstructured(pruned.weight, "weight", amount=0.5)  # a forward_pre_hook sets the weight
    for _ in range(2):
        pruned(x).sum().backward()


def test_the_complete_block_saves_no_more_maps_than_the_vanilla_block():
    """Both keep two maps besides the input: what the norm standardizes and what the activation needs."""
    x = torch.randn(8, 16, 12, 12)

    def saved_elements(placement):
        block = blocks.block(nn.Conv2d(16, 16, 3, padding=1, bias=False), "relu", placement)
        storages = {}

        def note(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = block(x)
        assert output.requires_grad
        return sum(n for n in storages.values() if n >= x.numel())

    assert saved_elements("complete") <= saved_elements("before") <= 3 * x.numel()


def test_norm_options_reach_the_norm():
    block = blocks.block(nn.Linear(3, 5), "relu", "both", eps=0.5, momentum=0.3, affine=False)
    assert (block.norm.eps, block.norm_out.momentum, block.norm.weight) == (0.5, 0.3, None)
    block = blocks.block(nn.Linear(3, 5), "relu", "complete", gamma=None, shift_lr_multiplier=4)
    assert block.activation.gamma_after is None
    written_out = blocks.block(nn.Linear(3, 5), "relu", "before", norm="batch_norm_written_out")
    assert type(written_out.norm) is norms.BatchNorm1d


def test_an_own_norm_and_an_own_placement_join():
    norms.register("own", lambda num_features, dims, **options: nn.Identity())
    blocks.register("twice", lambda weight, activation, options: blocks.Parts(
        weight, nn.Sequential(nn.Tanh(), nn.Tanh())), bias=True)
    try:
        linear, x = nn.Linear(3, 5), torch.randn(4, 3)
        assert torch.equal(blocks.block(linear, "relu", "before", norm="own")(x), F.relu(linear(x)))
        assert "twice" in blocks.placements()
        assert blocks.needs_bias("twice")
        assert torch.equal(blocks.block(linear, "relu", "twice")(x), linear(x).tanh().tanh())
    finally:
        del norms._REGISTRY["own"], blocks._REGISTRY["twice"]


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="unknown placement 'behind'; known: none, before, after"):
        blocks.block(nn.Linear(3, 5), "relu", "behind")
    with pytest.raises(ValueError, match="unknown activation"):
        blocks.block(nn.Linear(3, 5), "rlu", "before")
    with pytest.raises(TypeError, match=r"nn.Linear, nn.Conv1d or nn.Conv2d, got Conv3d"):
        blocks.block(nn.Conv3d(3, 5, 3), "relu", "before")
    with pytest.raises(ValueError, match="takes no norm options, got eps"):
        blocks.block(nn.Linear(3, 5), "relu", "none", eps=1.0)
    with pytest.raises(TypeError, match="callable"):
        blocks.register("mine", "before", bias=True)
    with pytest.raises(ValueError, match="'complete' belongs to a built-in placement"):
        blocks.register("complete", lambda weight, activation, options: blocks.Parts(weight, nn.Tanh()), bias=True)
    with pytest.raises(TypeError, match="placement 'complete' has no 'gama'; known: pre_shift, post_shift, gam"):
        blocks.block(nn.Linear(3, 5), "relu", "complete", gama=None)
    for placement in blocks.placements():
        with pytest.raises(TypeError, match=r"an nn.Module such as nn.Tanh\(\), got <class"):
            blocks.block(nn.Linear(3, 5), nn.ReLU, placement)
