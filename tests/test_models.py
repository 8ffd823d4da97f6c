"""Models: published parameter counts, every activation and placement, per-layer lists, the residual form."""

import pytest
import torch
from torch import nn

from cbn_lab import blocks, models, norms
from cbn_lab.norms.complete import CompleteBatchNormBase

# Trainable parameters of the nets with vanilla BN and 10 classes, as published implementations count them.
# VGG16: with the 4,224 convolution biases that BN makes redundant and we leave out, the usual 14,728,266.
# ResNet-9: 10 less where the output layer has no bias, 2,240 more where the convolutions have some.
PUBLISHED = {"resnet20": 269_722, "resnet56": 853_018, "resnet18": 11_173_962, "vgg16": 14_728_266 - 4_224,
             "resnet9": 6_573_130}
SMALL = {"mlp": 12, "convnet": 12, "resnet20": 12, "resnet9": 12}
SLIM = {"resnet9": {"width": 4}}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    assert parameters(models.build(name, num_classes=10, placement="before")) == PUBLISHED[name]


@pytest.mark.parametrize("placement", blocks.placements())
@pytest.mark.parametrize("name", SMALL)
def test_every_placement_trains_one_step(name, placement):
    model = models.build(name, num_classes=7, in_channels=2, image_size=SMALL[name], activation="swish",
                         placement=placement, **SLIM.get(name, {}))
    logits = model(torch.randn(4, 2, SMALL[name], SMALL[name]))
    assert logits.shape == (4, 7)
    logits.logsumexp(1).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet56", "resnet9"])
def test_large_models_run_at_their_smallest_size(name):
    size = 32 if name == "vgg16" else 8
    model = models.build(name, num_classes=3, image_size=size, activation="tanh").eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, size, size)).shape == (1, 3)


@pytest.mark.parametrize("name", ["convnet", "resnet20", "mlp"])
def test_arms_of_one_seed_start_with_the_same_weights(name):
    weights = []
    for placement in blocks.placements():
        torch.manual_seed(5)
        model = models.build(name, num_classes=10, activation="tanh", placement=placement)
        weights.append([p for p in model.parameters() if p.dim() > 1])
    assert all(torch.equal(a, b) for other in weights[1:] for a, b in zip(weights[0], other, strict=True))
    wide = max(weights[0], key=torch.numel)
    assert float(wide.detach().std()) == pytest.approx(wide[0].numel() ** -0.5, rel=0.05)


def test_the_default_convnet_halves_the_image_at_every_second_layer_and_biases_are_zero():
    model = models.build("convnet", num_classes=10, placement="none")
    assert [layer.weight.stride[0] for layer in model[:6]] == [1, 2, 1, 2, 1, 2]
    assert [layer.weight.out_channels for layer in model[:6]] == [16, 16, 32, 32, 64, 64]
    assert all(not p.any() for p in model.parameters() if p.dim() == 1)


def test_activation_and_placement_per_layer():
    model = models.build("convnet", num_classes=10, widths=(4, 8, 8), activation=("tanh", "relu", "selu"),
                         placement=("before", "complete", "none"), norm_options={"eps": 0.1})
    first, second, third = model[:3]
    assert isinstance(first.activation, nn.Tanh)
    assert first.norm.eps == 0.1
    assert isinstance(second.activation.activation, nn.ReLU)
    assert isinstance(third.activation, nn.SELU)
    assert third.weight.bias is not None
    resnet = models.build("resnet20", num_classes=10, activation=["relu"] * 18 + ["sigmoid"])
    assert isinstance(resnet[9].nonlinear[0].activation, nn.Sigmoid)


@pytest.mark.parametrize("name", ["convnet", "resnet20", "resnet18", "mlp"])
def test_with_the_reconstruction_every_weight_layer_but_the_first_reads_a_standardized_input(name):
    """Second moment 1 at init for every channel of every input but the image: the point of the placement."""
    torch.manual_seed(0)
    model = models.build(name, num_classes=10, image_size=16, activation="sigmoid", placement="complete").double()
    seconds = []
    for layer in model.modules():
        if isinstance(layer, CompleteBatchNormBase):
            layer.register_forward_hook(lambda _, __, y: seconds.append((y**2).mean([0, *range(2, y.dim())])))
        if isinstance(layer, blocks.CompleteBlock):
            layer.register_forward_hook(lambda _, __, y: seconds.append((y**2).mean([0, *range(2, y.dim())])))
    model(torch.randn(32, 3, 16, 16, dtype=torch.float64))
    second = torch.cat(seconds).detach()
    # eps = 1e-5 is not negligible beside the small variance of a Sigmoid's output: the moment is v / (v + eps)
    assert float(second.min()) > 0.97
    assert float(second.max()) <= 1.0


@pytest.mark.parametrize("name", ["convnet", "resnet20", "mlp"])
def test_with_before_weight_every_weight_layer_reads_a_normalized_input(name):
    """The output layer too, and the image: second moment 1 of every channel."""
    torch.manual_seed(0)
    model = models.build(name, num_classes=10, image_size=16, activation="tanh", placement="before_weight").double()
    seconds = {}
    for path, layer in model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.register_forward_hook(lambda _, inputs, __, path=path: seconds.update(
                {path: (inputs[0].detach() ** 2).mean([0, *range(2, inputs[0].dim())])}))
    model(torch.randn(32, 3, 16, 16, dtype=torch.float64))
    assert len(seconds) == sum(isinstance(layer, (nn.Linear, nn.Conv2d)) for layer in model.modules())
    for path, second in seconds.items():
        assert float(second.min()) > 0.97, path
        assert float(second.max()) <= 1.0, path


def test_the_residual_sum_stands_before_the_activation():
    torch.manual_seed(0)
    model = models.build("resnet20", num_classes=10, activation="tanh", placement="complete").double()
    block = model[1]
    x = torch.randn(4, 16, 6, 6, dtype=torch.float64)
    h = block.branch(x)
    total = torch.nn.functional.conv2d(h, block.linear[0].weight, padding=1) + x
    expected = torch.tanh(total)
    expected = (expected - expected.mean((0, 2, 3), keepdim=True)) / torch.sqrt(
        expected.var((0, 2, 3), keepdim=True, correction=0) + 1e-5)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)
    assert isinstance(block.nonlinear[0], norms.CompleteBatchNorm2d)


def test_resnet9_written_out():
    """Page's layers: 1, 2, 4, 8 times the width, a pool behind all but the first, pairs at 2 and 8, a pool to 1x1."""
    torch.manual_seed(0)
    model = models.build("resnet9", num_classes=5, activation="tanh", placement="none", width=3, image_size=16).double()
    weights = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [w.out_channels for w in weights] == [3, 6, 6, 6, 12, 24, 24, 24]
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)

    def pair(x, first, second):
        return torch.tanh(second(torch.tanh(first(x))) + x)

    pool = torch.nn.functional.max_pool2d
    prep, one, a, b, two, three, c, d = weights
    h = pool(torch.tanh(one(torch.tanh(prep(x)))), 2)
    h = pool(torch.tanh(two(pair(h, a, b))), 2)
    h = pair(pool(torch.tanh(three(h)), 2), c, d)
    torch.testing.assert_close(model(x), model[-1](h.amax((2, 3))))


@pytest.mark.parametrize("name, size, count", [("mlp", {"depth": 30, "width": 64}, 30), ("convnet", {}, 6),
                                               ("convnet", {"widths": [4, 4, 4]}, 3), ("vgg16", {}, 13),
                                               ("resnet20", {}, 19), ("resnet18", {}, 17), ("resnet9", {}, 8)])
def test_as_many_blocks_as_lists_may_have_names(name, size, count):
    assert models.block_count(name, **size) == count
    models.build(name, num_classes=2, activation=["tanh"] * count, placement=["before"] * count, **size)
    with pytest.raises(ValueError, match=f"lists {count + 1} names, but the network has {count} blocks"):
        models.build(name, num_classes=2, activation=["tanh"] * (count + 1), **size)


@pytest.mark.parametrize("name", models.names())
def test_sizes_written_out_build_the_same_network(name):
    plain, written = (parameters(models.build(name, num_classes=3, **size)) for size in ({}, models.sizes(name)))
    assert plain == written


def test_blocks_of_an_unknown_network_cannot_be_counted():
    with pytest.raises(ValueError, match="unknown model 'lenet'"):
        models.block_count("lenet")
    with pytest.raises(TypeError, match="no 'depth'; known: widths, strides"):
        models.block_count("convnet", depth=3)


def test_subsampling_shortcut():
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    y = models.Subsample(2, 3)(x)
    assert y.shape == (1, 5, 2, 2)
    assert torch.equal(y[:, :2], x[:, :, ::2, ::2])
    assert not y[:, 2:].any()


@pytest.mark.parametrize(("arguments", "message"), [
    ({"name": "alexnet"}, "unknown model 'alexnet'; known: mlp, convnet"),
    ({"name": "convnet", "activation": ["relu"]}, "activation lists 1 names, but the network has more blocks"),
    ({"name": "convnet", "placement": ["none"] * 9}, "placement lists 9 names, but the network has 6 blocks"),
    ({"name": "convnet", "widths": (8, 8), "strides": (1,)}, "2 widths but 1 strides"),
    ({"name": "vgg16", "image_size": 8}, "at least 32x32, got 8x8"),
    ({"name": "resnet20", "image_size": 2}, "at least 4x4"),
    ({"name": "resnet9", "image_size": 4}, "at least 8x8"),
    ({"name": "resnet20", "join": "outside"}, "unknown join .outside.; known: activated, normalized, preactivated"),
    ({"name": "resnet20", "join": "normalized", "placement": "none"}, "no norm; use join .activated. or"),
    ({"name": "resnet9", "width": 0}, "width must consist of whole numbers, at least 1, got 0"),
    ({"name": "mlp", "num_classes": 0}, "at least 1"),
    ({"name": "mlp", "placement": "inside"}, "unknown placement"),
    ({"name": "mlp", "placement": "none", "norm_options": {"eps": 0.1}}, "'none' has no norm .* got eps"),
    ({"name": "mlp", "depth": 0}, "depth must consist of whole numbers, at least 1, got 0"),
    ({"name": "convnet", "widths": 8}, "widths, a list of one number per layer, got 8"),
    ({"name": "convnet", "widths": ()}, r"got \(\)"),
    ({"name": "convnet", "widths": (8, 0)}, "at least 1, got"),
])
def test_errors_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.build(**{"num_classes": 10} | arguments)


def test_an_unknown_size_is_refused():
    with pytest.raises(TypeError, match="model 'mlp' has no 'breadth'; known: width, depth"):
        models.build("mlp", num_classes=10, breadth=3)
    with pytest.raises(TypeError, match="model 'vgg16' has no 'widths'; known: none"):
        models.build("vgg16", num_classes=10, widths=(8,))


def test_activations_are_named():
    with pytest.raises(TypeError, match=r"activation must be a name, or a list of names, one per block, got ReLU\(\)"):
        models.build("mlp", num_classes=10, activation=nn.ReLU())


def _by_hand(model, x, activation, join):
    """The CIFAR ResNet of either new join, from the weights of `model`, in float64 and train mode; placement complete,
    whose shifts are 0 and gammas 1."""
    def standardized(z):
        z = activation(z)
        return (z - z.mean((0, 2, 3), keepdim=True)) / torch.sqrt(z.var((0, 2, 3), keepdim=True, correction=0) + 1e-5)

    def normalized(z):
        return (z - z.mean((0, 2, 3), keepdim=True)) / torch.sqrt(z.var((0, 2, 3), keepdim=True, correction=0) + 1e-5)

    def shortcut(z, w):
        if w.shape[0] == z.shape[1]:
            return z
        return torch.cat([z[:, :, ::2, ::2], torch.zeros_like(z[:, :, ::2, ::2])], 1)

    weights = [p for p in model.parameters() if p.ndim == 4]
    s = torch.conv2d(x, weights[0], padding=1)
    if join == "normalized":
        s = standardized(s)
    for first, second in zip(weights[1::2], weights[2::2], strict=True):
        stride = first.shape[0] // first.shape[1]
        inside = standardized(s) if join == "preactivated" else s
        branch = torch.conv2d(standardized(torch.conv2d(inside, first, stride=stride, padding=1)), second, padding=1)
        joined = (branch if join == "preactivated" else normalized(branch)) + shortcut(s, first)
        s = joined if join == "preactivated" else standardized(joined)
    features = (standardized(s) if join == "preactivated" else s).mean((2, 3))
    return features @ model[-1].weight.T + model[-1].bias


@pytest.mark.parametrize("join", ["normalized", "preactivated"])
def test_joins_written_out(join):
    torch.manual_seed(0)
    model = models.build("resnet20", num_classes=5, activation="tanh", placement="complete", image_size=8, join=join)
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model.double()(x), _by_hand(model, x, torch.tanh, join), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
@pytest.mark.parametrize("placement", ["none", "before", "after", "before_weight", "both", "complete"])
def test_joins_share_their_weights_and_train(name, placement):
    """The same initial weights for each join and placement; every parameter gets a gradient."""
    weights = {}
    for join in ("activated", "normalized", "preactivated"):
        if (placement, join) == ("none", "normalized"):
            continue
        torch.manual_seed(0)
        size = {} if name == "resnet20" else {"widths": (8, 16, 32, 64)}
        model = models.build(name, num_classes=5, activation="tanh", placement=placement, image_size=8, join=join,
                             **size)
        loss = model(torch.randn(4, 3, 8, 8)).square().sum()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        weights[join] = [p.detach().clone() for p in model.parameters() if p.ndim > 1]
    for other in weights.values():
        assert all(torch.equal(a, b) for a, b in zip(weights["activated"], other, strict=True))


@pytest.mark.parametrize("placement, more", [("before", 0), ("both", 0), ("after", 9), ("complete", 9)])
def test_a_normalized_join_adds_a_norm_where_the_branch_ends_without_one(placement, more):
    count = {}
    for join in ("activated", "normalized"):
        model = models.build("resnet20", num_classes=5, placement=placement, join=join, norm_options={"eps": 1e-3})
        found = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(norm.eps == 1e-3 for norm in found)
        count[join] = len(found)
    assert count["normalized"] - count["activated"] == more


@pytest.mark.parametrize("join", ["activated", "normalized", "preactivated"])
def test_every_join_has_as_many_blocks(join):
    assert (models.block_count("resnet20", join=join), models.block_count("resnet18", join=join)) == (19, 17)


@pytest.mark.parametrize("placement, kinds", [
    ("complete", ["Conv2d", "BatchNorm2d"]), ("after", ["Conv2d", "BatchNorm2d"]),
    ("before_weight", ["BatchNorm2d", "Conv2d", "BatchNorm2d"])])
def test_a_normalized_projection_is_one_sequence(placement, kinds):
    """Weights with a norm behind them, none nested: so the diagrams read it."""
    model = models.build("resnet18", num_classes=5, placement=placement, join="normalized", widths=(4, 8))
    [shortcut] = [m.shortcut for m in model if isinstance(getattr(m, "shortcut", None), nn.Sequential)]
    assert [type(m).__name__ for m in shortcut] == kinds


def test_an_added_norm_learns_what_the_others_learn():
    model = models.build("resnet20", num_classes=5, placement="after", join="normalized",
                         norm_options={"affine": False})
    found = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(found) == 28 and all(norm.weight is None and norm.bias is None for norm in found)


@pytest.mark.parametrize("placement", ["none", "before", "after", "before_weight", "both", "complete"])
def test_a_preactivated_projection_takes_what_the_branch_takes(placement):
    """The weights of branch and shortcut see the same input, subsampled by the stride alone; the identity sees s."""
    model = models.build("resnet18", num_classes=5, activation="tanh", placement=placement, image_size=8,
                         join="preactivated", widths=(4, 8))
    seen, blocks_of = {}, [m for m in model if hasattr(m, "rest")]
    for block in blocks_of:
        for part in (block, block.branch, block.shortcut, *block.modules()):
            part.register_forward_pre_hook(lambda module, inputs: seen.__setitem__(module, inputs[0]))
    model(torch.randn(4, 3, 8, 8))
    for block in blocks_of:
        if isinstance(block.shortcut, nn.Identity):
            assert seen[block.shortcut] is seen[block]
        else:
            first, shortcut = (next(m for m in part.modules() if isinstance(m, nn.Conv2d))
                               for part in (block.branch, block.shortcut))
            torch.testing.assert_close(seen[first], seen[shortcut])
    assert sum(isinstance(block.shortcut, nn.Identity) for block in blocks_of) == 3


def test_a_preactivated_vanilla_resnet_has_the_published_form():
    """He et al. 2016b: every weight layer of a block behind BN and ReLU, and both once more before the pool. (The first
    shortcut is not theirs, see `residual`.)"""
    model = models.build("resnet20", num_classes=10, activation="relu", placement="before", join="preactivated")
    kinds = [type(m).__name__ for m in model.modules() if not list(m.children())]
    steps = "Conv2d BatchNorm2d ReLU Conv2d BatchNorm2d ReLU Conv2d".split()
    assert kinds[:7] == steps and kinds[-5:] == ["BatchNorm2d", "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED["resnet20"], "the same layers in another order"
