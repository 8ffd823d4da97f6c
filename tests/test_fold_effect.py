"""What folding changes: outputs against the unfolded net, the border by a loop over the taps, costs by counting."""

import itertools

import pytest
import torch
from torch import nn

from cbn_lab import blocks, figures, norms, widgets
from cbn_lab.norms import fold_effect
from cbn_lab.widgets.fold import PADDINGS, two_layers


def _compare(net, size=5, n=2):
    torch.manual_seed(1)
    return fold_effect.compare(net, torch.randn(n, 1, size, size, dtype=torch.float64))


def _norm_then_conv(padding=1, offset=0.7):
    torch.manual_seed(0)
    norm = norms.BatchNorm2d(1).double()
    norm.running_mean.fill_(-offset), norm.running_var.fill_(2.0)
    return nn.Sequential(norm, nn.Conv2d(1, 3, 3, padding=padding)).double()


@pytest.mark.parametrize(("placement", "padding", "affine"),
                         list(itertools.product(blocks.placements(), PADDINGS, (True, False))))
def test_folding_changes_no_output_and_leaves_no_scale(placement, padding, affine):
    found = _compare(two_layers(placement, "tanh", padding, affine))
    assert found.error().max() < 1e-13 and found.error().shape == found.output[:, 0].shape
    assert found.folded_cost.norms == 0 and found.folded_cost.weight_layers == found.cost.weight_layers
    wrong = bool((found.error(careless=True) > 1e-9).any())
    assert wrong == (padding == "zeros" and placement not in ("none", "before"))
    assert wrong == bool(found.folded_cost.offset_maps)


def test_the_careless_error_is_the_offset_that_the_padding_does_not_have():
    net = _norm_then_conv().eval()
    found = _compare(net)
    norm, conv = net
    offset = float(-norm.running_mean / torch.sqrt(norm.running_var + norm.eps))
    expected = torch.zeros(3, 5, 5, dtype=torch.float64)
    for i, j, u, v in itertools.product(range(5), range(5), range(3), range(3)):
        if not (0 <= i + u - 1 < 5 and 0 <= j + v - 1 < 5):
            expected[:, i, j] += conv.weight[:, 0, u, v].detach() * offset
    torch.testing.assert_close(found.careless[0] - found.output[0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.error(careless=True)[1], expected.abs().amax(0), rtol=0, atol=1e-12)


def test_the_net_that_was_given_is_left_as_it_was():
    net = _norm_then_conv()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    _compare(net)
    assert net.training and isinstance(net[0], norms.BatchNorm2d)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("n", [1, 3])
def test_costs_are_of_one_image(n):
    found = _compare(_norm_then_conv(), n=n)
    assert found.cost == fold_effect.Cost(weight_layers=3 * 25 * 9, norms=25, offset_maps=0,
                                          stored=2 + 2 + 27 + 3)
    assert found.folded_cost == fold_effect.Cost(weight_layers=3 * 25 * 9, norms=0, offset_maps=3 * 25 * 9,
                                                 stored=27 + 27 + 3)


def test_a_norm_with_nowhere_to_go_keeps_its_cost():
    found = _compare(nn.Sequential(norms.BatchNorm2d(1), nn.ReLU()).double())
    assert found.folded_cost.norms == found.cost.norms == 25 and found.folded_operations == ("ChannelAffine", "ReLU")


def test_a_complete_layer_is_one_map_with_a_scale():
    found = _compare(two_layers("complete", "tanh", "zeros", True))
    assert found.operations == ("Conv2d", "shift", "Tanh", "standardize, gamma, shift", "Conv2d")
    assert found.folded_operations == ("Conv2d", "Tanh", "Conv2d + offset map")
    assert found.cost.norms == 4 * 25
    both = blocks.block(nn.Conv2d(1, 4, 3), "tanh", "complete", standardize="both", gamma="both")
    found = _compare(nn.Sequential(both).double())
    assert found.cost.norms == 2 * 4 * 9 and found.operations[1] == "standardize, gamma, shift"


def test_the_picture_marks_the_pixels_that_a_constant_bias_gets_wrong():
    found = _compare(_norm_then_conv())
    figure = figures.fold_effect(found, channel=2)
    before, after, wrong, _ = figure.fig.axes
    assert torch.equal(torch.tensor(before.images[0].get_array()), found.output[0, 2])
    assert torch.equal(torch.tensor(after.images[0].get_array()), found.folded[0, 2])
    (crosses,) = wrong.lines
    assert {(x, y) for x, y in zip(*crosses.get_data(), strict=True)} == {
        (x, y) for x in range(5) for y in range(5) if {x, y} & {0, 4}}
    assert "16 of 25 pixels wrong" in wrong.get_xlabel() and "16 of 25 pixels are wrong" in figure.alt
    assert "norms 25 before, 0 after; offset maps 0 before, 675 after; stored numbers 34 before, 57 after" in figure.alt
    assert "A constant bias is right at every pixel" in figures.fold_effect(_compare(_norm_then_conv(padding=0))).alt


def test_the_widget_draws_what_its_menus_say():
    view = widgets.fold_explorer()
    assert view.figure().alt == widgets.folded("complete", "tanh", "zeros", True).alt
    for name, value in {"placement": "after", "activation": "relu", "padding": "none",
                        "learned scale and shift (affine)": False}.items():
        before = bytes(view.image.value)
        view.controls[name].value = value
        assert view.error is None and bytes(view.image.value) != before, name
    assert view.figure().alt == widgets.folded("after", "relu", "none", False).alt
    assert ("complete (our reconstruction)", "complete") in view.controls["placement"].options
    with pytest.raises(ValueError, match="padding must be one of zeros, none, got 'reflect'"):
        widgets.folded(padding="reflect")


def test_the_widget_leaves_the_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = two_layers("both", "relu", "zeros", True)(torch.ones(2, 1, 4, 4, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    torch.testing.assert_close(two_layers("both", "relu", "zeros", True)(torch.ones(2, 1, 4, 4, dtype=torch.float64)),
                               first)
