"""fold() against the network it came from, in float64, with random running statistics, gammas (0 and < 0 among them),
shifts and biases; and against the fold that forgets the borders."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cbn_lab import ablation, blocks, models
from cbn_lab.norms import (
    BatchNorm1d,
    BatchNorm2d,
    CompleteBatchNorm1d,
    CompleteBatchNorm2d,
    Standardize,
    fold,
    folded,
    folding,
)
from cbn_lab.norms.folding import ChannelAffine, FoldedConv

ACTIVATIONS = ["sigmoid", "tanh", "relu", "selu", "swish", "identity"]


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` in float64 with random weights, biases, gammas, shifts and running statistics."""
    draw = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
            if tensor.dim() > 1:
                tensor.normal_(0.0, tensor[0].numel() ** -0.5, generator=draw)
            elif tensor.dim() == 1 and name.split(".")[-1] not in ("one", "zero"):
                tensor.normal_(generator=draw)
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)
                elif name.endswith(("weight", "gamma_before", "gamma_after")):
                    tensor.add_(tensor.sign())[::4] = 0.0
                else:
                    tensor.mul_(0.3)  # offsets that do not drown the image, or errors deep inside would stay there
    return module


def count(module: nn.Module, kind) -> int:
    return sum(isinstance(m, kind) for m in module.modules())


@torch.no_grad()
def equal(module: nn.Module, *inputs: torch.Tensor, affines: int | None = None) -> nn.Module:
    """Assert that the fold has no norms, `affines` maps left, and the output of `module` in eval mode."""
    result = fold(module)
    assert not any(folding._has_norms(m) for m in result.modules())
    want = copy.deepcopy(module).eval()(*inputs)
    error = (result(*inputs) - want).abs().max() / want.abs().max()
    assert error < 1e-12, f"relative error {error:.1e}\n{result}"
    if affines is not None:
        assert count(result, ChannelAffine) == affines, result
    return result


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


LAYERS = {
    "linear": lambda i, o, bias, padding: nn.Linear(i, o, bias=bias),
    "conv1d": lambda i, o, bias, padding: nn.Conv1d(i, o, 3, padding=padding, bias=bias),
    "conv2d": lambda i, o, bias, padding: nn.Conv2d(i, o, (3, 2), padding=padding, stride=(1, 2), bias=bias),
    "grouped": lambda i, o, bias, padding: nn.Conv2d(i, o, 3, padding=padding, dilation=2, groups=2, bias=bias),
}
SHAPES = {"linear": (5, 4), "conv1d": (2, 4, 11), "conv2d": (2, 4, 9, 13), "grouped": (2, 4, 13, 15)}


@pytest.mark.parametrize("placement", blocks.placements())
@pytest.mark.parametrize("kind", LAYERS)
def test_every_placement_activation_and_layer(placement, kind):
    for seed, (activation, padding) in enumerate(itertools.product(ACTIVATIONS, (0, 1, 2))):
        bias = blocks.needs_bias(placement)
        layers = [LAYERS[kind](i, o, bias, padding) for i, o in ((4, 6), (6, 8))]
        net = nn.Sequential(*(blocks.block(layer, activation, placement) for layer in layers))
        result = equal(shaken(net, seed), images(*SHAPES[kind]))
        # Left are only the maps of the last norm behind the last activation: all the others have a weight layer to go.
        left = placement in ("after", "both", "complete") and activation != "identity"
        assert count(result, ChannelAffine) == left, (activation, result)


@st.composite
def geometries(draw):
    groups, spatial = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 2]))

    def per_axis(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(spatial))

    kernel, dilation, stride = per_axis(1, 4), per_axis(1, 2), per_axis(1, 3)
    mode = draw(st.sampled_from(["zeros", "zeros", "zeros", "reflect", "replicate", "circular"]))
    padding = per_axis(0, 4 if mode == "zeros" else 2)
    if draw(st.integers(0, 3)) == 0:
        padding, stride = "same", (1,) * spatial
    size = [draw(st.integers(1, 6)) + d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if mode != "zeros":
        size = [s + 4 for s in size]
    conv = (nn.Conv1d, nn.Conv2d)[spatial - 1](
        groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3)), kernel, stride=stride, padding=padding,
        dilation=dilation, groups=groups, bias=draw(st.booleans()), padding_mode=mode)
    return conv, size


@settings(max_examples=100, deadline=None)
@given(geometries(), st.integers(0, 9))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_any_geometry_of_a_convolution_behind_a_norm(geometry, seed):
    conv, size = geometry
    norm = (nn.BatchNorm1d, nn.BatchNorm2d)[len(size) - 1](conv.in_channels)
    net = shaken(nn.Sequential(norm, conv), seed)
    x = images(2, conv.in_channels, *size)
    with torch.no_grad():
        result, want = fold(net)(x), net.eval()(x)
    assert result.shape == want.shape
    assert (result - want).abs().max() <= 1e-12 * (1 + want.abs().max())


def test_the_fold_that_forgets_the_border_is_wrong_there_and_only_there():
    net = shaken(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1))).eval()
    norm, conv = net
    x = images(2, 3, 6, 7)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    offset = norm.bias - norm.running_mean * scale
    naive = F.conv2d(x, conv.weight * scale[:, None, None], conv.bias + (conv.weight.sum((2, 3)) @ offset), padding=1)
    difference = (naive - net(x)).abs().amax((0, 1))
    assert difference[1:-1, 1:-1].max() < 1e-12
    border = torch.ones(6, 7, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert difference[border].min() > 1e-2
    assert (fold(net)(x) - net(x)).abs().max() < 1e-12


def test_the_offset_of_a_folded_conv_counts_the_taps_inside_the_image():
    norm, conv = nn.BatchNorm2d(1, eps=0.0), nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(norm.bias), nn.init.ones_(conv.weight)
    result = fold(nn.Sequential(norm, conv))[1]
    assert isinstance(result, FoldedConv)
    want = [[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]
    assert result.offset(torch.ones(1, 1, 4, 4))[0, 0].tolist() == want


def test_a_norm_of_scale_zero_folds_although_no_padding_value_would_do():
    net = shaken(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=2)))
    nn.init.zeros_(net[0].weight)
    equal(net, images(2, 4, 5, 5), affines=0)


@pytest.mark.parametrize("padding, mode, plain", [
    (1, "zeros", False), ((0, 1), "zeros", False), ("same", "zeros", False), (0, "zeros", True),
    ("valid", "zeros", True), (1, "reflect", True), (1, "replicate", True), (1, "circular", True)])
def test_only_zero_padding_needs_a_map_of_offsets(padding, mode, plain):
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=padding, padding_mode=mode))
    result = equal(shaken(net), images(2, 3, 6, 5), affines=0)
    assert type(result[1]) is (nn.Conv2d if plain else FoldedConv)


NORMS = {
    "torch": lambda: nn.BatchNorm2d(4),
    "torch, no affine": lambda: nn.BatchNorm2d(4, affine=False, eps=0.3),
    "torch, synchronized": lambda: nn.SyncBatchNorm(4),
    "written out": lambda: BatchNorm2d(4),
    "written out, no affine": lambda: BatchNorm2d(4, affine=False),
    "standardize": lambda: Standardize(4),
    "uncentred": lambda: Standardize(4, center=False),
    "unscaled": lambda: Standardize(4, scale=False),
    "instance, tracked": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "complete": lambda: CompleteBatchNorm2d(4, "tanh", sync=True),
    "complete, module": lambda: CompleteBatchNorm2d(4, nn.Sequential(nn.PReLU(), nn.Softplus()), standardize="both"),
}


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_behind_before_and_between(norm):
    make = NORMS[norm]
    for net in (make(), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), make()),
                nn.Sequential(make(), nn.Conv2d(4, 4, 3, padding=1)),
                nn.Sequential(nn.ReLU(), make(), make(), nn.Conv2d(4, 4, 3, padding=1), make(), nn.ELU(), make())):
        equal(shaken(net), images(2, 4, 5, 6))


def test_norms_of_vectors_and_sequences():
    equal(shaken(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), BatchNorm1d(5), nn.Linear(5, 2))),
          images(4, 3), affines=0)
    equal(shaken(nn.Sequential(nn.Conv1d(3, 5, 2), CompleteBatchNorm1d(5, "selu"), nn.Conv1d(5, 2, 3, padding=2))),
          images(4, 3, 9), affines=0)


SMALL = {"mlp": (dict(width=12), 8), "convnet": (dict(widths=(8, 8, 12, 12)), 9), "vgg16": ({}, 32),
         "resnet20": ({}, 16)}


@pytest.mark.parametrize("placement", blocks.placements())
@pytest.mark.parametrize("name", SMALL)
def test_models(name, placement):
    size, pixels = SMALL[name]
    net = models.build(name, num_classes=5, image_size=pixels, activation="tanh", placement=placement, **size)
    result = equal(shaken(net), images(1 if name == "vgg16" else 2, 3, pixels, pixels))
    if name != "resnet20":  # left are the maps of either sign before the five max pools
        pools = 5 if name == "vgg16" and placement in ("after", "both", "complete") else 0
        assert count(result, ChannelAffine) == pools


def test_a_model_with_projections_and_every_placement_in_it():
    placement = [name for name in blocks.placements() for _ in range(3)][:17]
    net = models.build("resnet18", num_classes=5, image_size=8, activation="selu", placement=placement)
    equal(shaken(net), images(2, 3, 8, 8))


def test_residual_blocks_fold_between_their_children():
    net = shaken(models.build("resnet20", num_classes=5, image_size=8, placement="complete"))
    block = equal(net, images(2, 3, 8, 8))[1]
    assert isinstance(block.linear[0], FoldedConv)  # took over what stood at the end of the branch
    assert isinstance(block.nonlinear[0].before, ChannelAffine)  # the shift behind the sum has no weight layer


@pytest.mark.parametrize("row", ablation.ROWS)
def test_every_structure_of_the_ablation(row):
    layer = ablation.ROWS[row].layer
    for activation in ablation.ACTIVATIONS:
        net = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), CompleteBatchNorm2d(4, activation, **layer))
                              for _ in range(2)), nn.Conv2d(4, 3, 3, padding=1))
        equal(shaken(net), images(2, 4, 5, 6), affines=0)


PASSING = {  # steps between activation and weight layer: (layers, expected ChannelAffines)
    "average pool": ([nn.AvgPool2d(2), nn.Conv2d(4, 3, 3, padding=1)], 0),
    "average pool, ceil": ([nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(4, 3, 3)], 0),
    "average pool, padding not counted": (
        [nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), nn.Conv2d(4, 3, 3)], 0),
    "average pool, padding counted": ([nn.AvgPool2d(3, 2, padding=1), nn.Conv2d(4, 3, 3)], 1),
    "average pool, divisor": ([nn.AvgPool2d(2, divisor_override=3), nn.Conv2d(4, 3, 3)], 1),
    "global pool, flatten": ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)], 0),
    "flatten": ([nn.Flatten(), nn.Dropout(), nn.Linear(4 * 6 * 8, 3)], 0),
    "flatten pixels only": ([nn.Flatten(2), nn.Linear(6 * 8, 3)], 1),
    "flatten rows only": ([nn.Flatten(1, 2), nn.Linear(8, 3)], 1),
    "flatten to a norm": ([nn.Flatten(), nn.BatchNorm1d(4 * 6 * 8), nn.Linear(4 * 6 * 8, 3)], 0),
    "inert": ([nn.Identity(), nn.Dropout2d(), nn.Sequential(nn.Sequential(), nn.Conv2d(4, 3, 3, padding=1))], 0),
    "max pool, scales of either sign": ([nn.MaxPool2d(2), nn.Conv2d(4, 3, 3)], 1),
    "activation": ([nn.ReLU(), nn.Conv2d(4, 3, 3)], 1),
    "zero pad": ([nn.ZeroPad2d(1), nn.Conv2d(4, 3, 3)], 1),
    "transposed": ([nn.ConvTranspose2d(4, 3, 3)], 1),
    "other axis": ([nn.Linear(8, 3)], 1),
    "nothing": ([], 1),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_a_map_passes_on_its_way(case):
    layers, left = PASSING[case]
    x = images(2, 4, 6, 8)
    equal(shaken(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), *layers)), x, affines=left)


def test_max_pools_pass_maps_of_positive_scales():
    net = shaken(nn.Sequential(nn.BatchNorm2d(4), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 3, 3, padding=1)))
    with torch.no_grad():
        net[0].weight.abs_().add_(0.1)
    equal(net, images(2, 4, 7, 9), affines=0)


def test_pools_behind_a_weight_layer_pass_maps_back_into_it():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(2), nn.Dropout(), nn.BatchNorm2d(4), nn.ReLU())
    equal(shaken(net), images(2, 4, 7, 9), affines=0)


@pytest.mark.parametrize("net", [
    nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 6),
                  nn.BatchNorm1d(6)),
    nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), CompleteBatchNorm1d(6), nn.Linear(6, 6)),
    nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3), nn.AvgPool1d(3, 1, 1, count_include_pad=False), nn.Linear(6, 3))])
def test_a_linear_layer_along_the_length_is_left_alone(net):
    """6 channels of length 6: sizes agree, axes do not."""
    assert count(equal(shaken(net), images(2, 3, 6)), ChannelAffine) > 0


class View(nn.Module):
    def forward(self, x):
        return x.reshape(len(x), -1)


def test_a_flattening_of_ones_own_is_seen_by_the_1d_norm_behind_it():
    net = nn.Sequential(nn.Conv2d(4, 3, 3), View(), nn.Linear(24, 5), nn.BatchNorm1d(5), nn.ReLU())
    equal(shaken(net), images(2, 4, 4, 6), affines=0)


# --- modules with their own forward ---------------------------------------------------------------------------------


class Own(nn.Module):
    """The layers a, b, c, ... and a forward(self, x), or (self, x, second) and so on."""

    def __init__(self, *layers, forward):
        super().__init__()
        for name, layer in zip("abcdef", layers, strict=False):
            self.add_module(name, layer)
        self.path = forward

    def forward(self, x):
        return self.path(self, x)


class Optional(Own):
    def forward(self, x, more=None):
        y = self.a(x)
        if more is None:
            y = y.sigmoid()
        return self.b(y)


def _looks_at_shape(m, x):
    if x.shape[-1] > 3:
        x = m.b(m.a(x))
    return x


def _keeps(m, x):
    m.kept = m.a(x)
    return m.b(m.kept) + m.kept


def _taps_slice(m, x):
    y = m.a[:1](x)
    return m.a[1:](y) + y


def conv(i=4, o=4, **options):
    return nn.Conv2d(i, o, 3, padding=1, **options)


def bn():
    return nn.BatchNorm2d(4)


ONE, SHARED = conv(), nn.Sequential(bn(), conv(), bn(), nn.ReLU())
OWN = {  # name: (layers, forward, expected ChannelAffines)
    "conv, norm": ([conv(), bn()], lambda m, x: m.b(m.a(x)), 0),
    "norm, conv": ([bn(), conv()], lambda m, x: m.b(m.a(x)), 0),
    "branches": ([conv(), conv(), bn(), bn()], lambda m, x: F.relu(m.c(m.a(x)) + m.d(m.b(x))), 0),
    "across Sequentials": ([nn.Sequential(conv(), nn.ReLU(), bn()), nn.Sequential(conv(), bn())],
                           lambda m, x: m.b(m.a(x)) + x, 0),
    "a function in between": ([conv(), bn()], lambda m, x: m.b(F.relu(m.a(x))), 1),
    "conv used twice": ([conv(), bn()], lambda m, x: m.b(m.a(m.a(x))), 1),
    "norm used twice": ([conv(), bn()], lambda m, x: m.b(m.b(m.a(x))), 1),
    "output used twice": ([conv(), bn()], _keeps, 1),
    "weight used, too": ([conv(), bn()], lambda m, x: m.b(m.a(x)) + F.conv2d(x, m.a.weight, padding=1), 1),
    "two names": ([ONE, bn(), ONE], lambda m, x: m.b(m.c(x)), 1),
    "looks at a shape": ([conv(), bn()], _looks_at_shape, 1),
    "looks at a shape, Sequential": ([nn.Sequential(conv(), bn()), nn.ReLU()], _looks_at_shape, 0),
    "sequence by parts": ([nn.Sequential(conv(), bn(), conv())], lambda m, x: m.a[2](m.a[1](m.a[0](x))), 0),
    "sequence by slices": ([nn.Sequential(conv(), bn(), conv())], lambda m, x: m.a[1:](m.a[:1](x)), 0),
    "slice used twice": ([nn.Sequential(conv(), bn(), conv())], _taps_slice, 0),
    "part of a sequence": ([nn.Sequential(conv(), bn(), conv())], lambda m, x: m.a(x) + m.a[0](x), 1),
    "part of a part": ([Own(nn.Sequential(conv(), bn()), forward=lambda m, x: m.a(x))],
                       lambda m, x: m.a(x) + m.a.a[0](x), 1),
    "list": ([nn.ModuleList([conv(), bn(), nn.ReLU(), bn()]), conv()],
             lambda m, x: m.b(m.a[3](m.a[2](m.a[1](m.a[0](x))))), 0),
    "dictionary": ([nn.ModuleDict({"c": conv(), "n": bn()})], lambda m, x: m.a["n"](m.a["c"](x)), 0),
    "norm never called": ([conv(), bn()], lambda m, x: m.a(x), 1),
}


@pytest.mark.parametrize("case", OWN)
def test_modules_with_their_own_forward(case):
    layers, forward, left = OWN[case]
    module, x = Own(*layers, forward=forward), images(2, 4, 6, 7)
    equal(shaken(module), x, affines=left)
    equal(shaken(nn.Sequential(bn(), module, bn(), conv())), x)
    equal(shaken(nn.Sequential(module, module)), x)


def test_an_optional_argument_keeps_its_meaning():
    """A trace with both arguments would find the norm directly behind the convolution."""
    net, x = shaken(Optional(conv(), bn(), forward=None)), images(2, 4, 6, 7)
    equal(net, x, affines=1)
    equal(net, x, x, affines=1)


def test_nothing_of_the_trace_stays_in_the_result():
    assert not hasattr(fold(shaken(Own(conv(), bn(), forward=_keeps))), "kept")


def test_a_sequence_used_twice_by_a_forward():
    equal(shaken(Own(SHARED, SHARED, forward=lambda m, x: m.b(m.a(x)))), images(2, 4, 6, 7))


def test_layers_used_twice_in_a_sequence_are_not_folded_into_one_another():
    layer, norm = conv(), nn.BatchNorm2d(4)
    x = images(2, 4, 6, 7)
    equal(shaken(nn.Sequential(layer, norm, nn.ReLU(), layer, nn.ReLU(), norm, layer)), x, affines=0)
    tied = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.Tanh(), conv())
    tied[3].weight = tied[0].weight
    equal(shaken(tied), x, affines=0)
    equal(shaken(nn.Sequential(nn.ReLU(), SHARED, SHARED)), x, affines=0)


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x) + 1


class Wrapped(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + x


def test_subclasses_and_hooked_or_parametrized_layers_are_not_taken_for_their_base():
    x = images(2, 4, 6, 7)
    odd = Doubled(4, 4, 3, padding=1)
    equal(shaken(nn.Sequential(nn.BatchNorm2d(4), odd, nn.BatchNorm2d(4))), x, affines=2)
    equal(shaken(nn.Sequential(conv(), Wrapped(nn.BatchNorm2d(4), conv()), nn.BatchNorm2d(4), nn.ReLU())), x, affines=1)
    hooked = conv()
    hooked.register_forward_hook(lambda module, inputs, output: output.square())
    equal(shaken(nn.Sequential(nn.BatchNorm2d(4), hooked, nn.BatchNorm2d(4))), x, affines=2)
    normed = nn.utils.parametrizations.weight_norm(conv())
    equal(shaken(nn.Sequential(nn.BatchNorm2d(4), normed, nn.BatchNorm2d(4))), x, affines=2)
    sequence = nn.Sequential(conv(), nn.BatchNorm2d(4))
    sequence.register_forward_hook(lambda module, inputs, output: output + 1)
    equal(shaken(nn.Sequential(sequence, nn.ReLU())), x, affines=0)


def test_torchvision_resnet_loses_every_norm_to_its_convolutions():
    net = shaken(torchvision.models.resnet18(num_classes=3))
    result = equal(net, images(1, 3, 40, 33), affines=0)
    assert isinstance(result.layer1[0].bn1, nn.Identity)
    assert type(result.layer1[0].conv1) is nn.Conv2d


class OwnNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))

    def forward(self, x):
        return x * self.weight.view(-1, 1, 1) - 3

    def eval_affine(self):
        return self.weight, torch.full_like(self.weight, -3.0)


def test_an_own_norm_folds_once_it_says_what_it_does():
    equal(shaken(nn.Sequential(conv(), OwnNorm(), nn.ReLU(), OwnNorm(), conv())), images(2, 4, 5, 5), affines=0)


# --- what the result is, and what is refused ------------------------------------------------------------------------


def test_the_given_module_and_the_random_state_are_untouched():
    net = shaken(models.build("resnet20", num_classes=3, image_size=8)).train()
    before, structure = copy.deepcopy(net.state_dict()), str(net)
    state = torch.get_rng_state()
    result = fold(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert str(net) == structure and all(m.training for m in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(m.training for m in result.modules())
    assert all(type(p) is nn.Parameter and not p.requires_grad for p in result.parameters())
    assert not {p.data_ptr() for p in result.parameters()} & {p.data_ptr() for p in net.parameters()}
    again = fold(result)
    x = images(2, 3, 8, 8)
    assert torch.equal(again(x), result(x))
    again.load_state_dict(result.state_dict())


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 6e-2)])
def test_dtype_and_layout_stay(dtype, tolerance):
    net = shaken(nn.Sequential(nn.BatchNorm2d(4), conv(), nn.BatchNorm2d(4), nn.Tanh(), nn.BatchNorm2d(4), nn.Tanh()))
    want = net.eval()(x := images(2, 4, 6, 7))
    result = fold(net.to(dtype).to(memory_format=torch.channels_last))
    assert {p.dtype for p in result.parameters()} == {dtype}
    y = result(x.to(dtype).contiguous(memory_format=torch.channels_last))
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert (y - want).abs().max() < tolerance * want.abs().max()
    assert result[1].conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_map_left_over_keeps_bf16_in_bf16():
    """As a float32 BatchNorm does under autocast."""
    affine = fold(shaken(nn.BatchNorm2d(4)).float())
    assert affine(images(2, 4, 5, 5).bfloat16()).dtype == torch.bfloat16


def test_autocast():
    net = shaken(models.build("convnet", num_classes=3, image_size=8, widths=(8, 8))).float().eval()
    x = images(2, 3, 8, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = fold(net)(x)
    assert y.dtype == torch.bfloat16
    assert (y - net(x)).abs().max() < 0.05 * net(x).abs().max()


def test_weights_are_rounded_once():
    """Sums in float64: the folded float32 layer is the rounding of the folded float64 layer."""
    net = shaken(nn.Sequential(nn.BatchNorm2d(64), nn.Conv2d(64, 8, 3, padding=1))).float()
    exact = fold(copy.deepcopy(net).double())
    for value, want in zip(fold(net).parameters(), exact.parameters(), strict=True):
        assert torch.equal(value, want.float())


class Twice(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("norm, words", [
    (nn.BatchNorm2d(4, track_running_stats=False), "without running statistics .* track_running_stats=True"),
    (BatchNorm2d(4, track_running_stats=False), "without running statistics .* track_running_stats=True"),
    (Standardize(4, track_running_stats=False), "no running statistics.* track_running_stats=True"),
    (CompleteBatchNorm2d(4, track_running_stats=False), "no running statistics.* track_running_stats=True"),
    (nn.InstanceNorm2d(4), "InstanceNorm2d: without running statistics"),
    (nn.GroupNorm(2, 4), "GroupNorm: without running statistics"),
    (nn.LayerNorm(4), "LayerNorm: without running statistics"),
    (Twice(4), "Twice: its forward is not BatchNorm's; give it a method eval_affine")])
def test_norms_that_are_no_affine_map_are_refused(norm, words):
    with pytest.raises(ValueError, match=words):
        fold(nn.Sequential(conv(), norm))


@pytest.mark.parametrize("make", [lambda: nn.BatchNorm2d(4), lambda: CompleteBatchNorm2d(4),
                                  lambda: blocks.block(conv(), "relu", "complete")])
def test_a_hook_on_a_norm_is_refused(make):
    norm = make()
    handle = norm.register_forward_hook(lambda module, inputs, output: None)
    with pytest.raises(ValueError, match=r"forward hook on it.*handle.remove\(\)"):
        fold(nn.Sequential(norm))
    handle.remove()
    fold(nn.Sequential(norm))


def test_the_table_of_axes_is_read_off_the_names_correctly():
    assert folded.AXES[nn.Conv1d] == 3 and folded.AXES[nn.AdaptiveAvgPool2d] == 4 and folded.AXES[nn.Linear] == 2
