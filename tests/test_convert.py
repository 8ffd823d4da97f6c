"""convert: equal outputs for vanilla on torchvision's networks, other placements against formulas, what is kept."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from cbn_lab import blocks, models, norms
from cbn_lab.convert import ConvertedInTwoModes, TraceError, convert
from cbn_lab.norms.complete import CompleteBatchNormBase

# One of each kind, the smallest; blocks counted in the network's table.
NETS = {"resnet18": 17, "densenet121": 121, "mobilenet_v2": 52, "mobilenet_v3_small": 34,
        "efficientnet_b0": 49, "regnet_y_400mf": 49, "regnet_x_400mf": 67, "mnasnet0_5": 52, "shufflenet_v2_x0_5": 56,
        "googlenet": 59}
X = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def shaken(model):
    """In float64, with norms that have learned something, and biases that are not 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for m in model.double().modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                m.weight.uniform_(0.5, 1.5, generator=generator)
                m.bias.normal_(0, 0.3, generator=generator)
                m.running_mean.normal_(0, 0.2, generator=generator)
                m.running_var.uniform_(0.5, 2, generator=generator)
            elif getattr(m, "bias", None) is not None:
                m.bias.normal_(0, 0.3, generator=generator)
    return model


def named(name, **options):
    torch.manual_seed(0)
    if name == "googlenet":
        options["init_weights"] = False
    return shaken(torchvision.models.get_model(name, weights=None, num_classes=5, **options))


def outputs(model, x):
    torch.manual_seed(3)  # of the dropout
    y = model(x)
    return [y] if torch.is_tensor(y) else [part for part in y if part is not None]


def assert_same_function(given, converted, x=X):
    """In train mode, and in eval mode after one step of SGD: so gradients and statistics are the same as well."""
    for model in (given, converted):
        model.train()
    before, after = outputs(given, x), outputs(converted, x)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)
    for model, y in ((given, before), (converted, after)):
        sum(part.square().mean() for part in y).backward()
        torch.optim.SGD(model.parameters(), lr=1e-3).step()
        model.eval()
    with torch.no_grad():
        for a, b in zip(outputs(given, x), outputs(converted, x), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NETS)
def test_vanilla_computes_what_torchvisions_network_does(name):
    given = named(name)
    converted = convert(given, "before")
    assert len(converted.report.blocks) == NETS[name] and not converted.report.kept
    assert all(block.carried for block in converted.report.blocks)
    assert_same_function(given, converted)


def test_vanilla_of_a_vgg_whose_redundant_biases_go():
    layers = torchvision.models.vgg.make_layers([4, "M", 6, 8, "M"], batch_norm=True)
    given = shaken(nn.Sequential(layers, nn.Flatten(), nn.Linear(8 * 16 * 16, 5)))
    converted = convert(given, "before")
    assert [m.bias is None for m in converted.modules() if isinstance(m, nn.Conv2d)] == [True] * 3
    assert_same_function(given, converted)


def test_vanilla_of_inception():
    given = named("inception_v3", aux_logits=False, init_weights=False)
    converted = convert(given, "before")
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    assert not converted.report.kept and len(converted.report.blocks) == 94
    for mode in (True, False):
        with torch.no_grad():
            for a, b in zip(outputs(given.train(mode), x), outputs(converted.train(mode), x), strict=True):
                torch.testing.assert_close(b, a)


def test_auxiliary_heads_work_in_train_mode_alone():
    given = named("googlenet")
    converted = convert(given.eval(), "complete", "tanh")
    assert isinstance(converted, ConvertedInTwoModes) and not converted.training
    assert torch.is_tensor(converted(X)) and len(converted.train()(X)) == 3
    twin = copy.deepcopy(converted).eval()
    state = {key: value + 1 if value.is_floating_point() and "extra" not in key else value
             for key, value in converted.state_dict().items()}
    with torch.no_grad():
        was = converted.eval()(X)
        twin.load_state_dict(state)
        assert torch.equal(converted(X), was) and not torch.allclose(twin(X), was)


def test_tensors_outside_of_layers_go_along():
    class Scaled(Residual):
        def __init__(self):
            super().__init__()
            self.scale, self.drop = nn.Parameter(torch.tensor(2.0)), 0.5
            self.register_buffer("offset", torch.tensor(3.0))

        def forward(self, x):
            y = super().forward(x * self.scale)
            return F.dropout(y, self.drop, self.training) + self.offset if self.training else y

    given = shaken(Scaled())
    converted = convert(given, "before")
    assert isinstance(converted, ConvertedInTwoModes)
    assert {"scale", "offset"} <= converted.state_dict().keys()
    assert_same_function(given, converted, SMALL)


def test_the_given_network_is_left_as_it_is():
    given = named("resnet18")
    given.layer1.eval()
    state, modes = copy.deepcopy(given.state_dict()), [m.training for m in given.modules()]
    given.fc.weight.requires_grad_(False)
    converted = convert(given, "complete", "tanh")
    converted(X).sum().backward()
    assert given.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in given.state_dict().items())
    assert [m.training for m in given.modules()] == modes and all(p.grad is None for p in given.parameters())
    assert not any(m.training for m in converted.layer1.modules()) and converted.layer2.training
    assert not converted.fc.weight.requires_grad


class Residual(nn.Module):
    """One ReLU for all, sums in place; `act` says how the activation is written."""

    def __init__(self, act=None, bias=False, features=3):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, bias=bias), nn.Conv2d(4, 4, 1, bias=bias)
        self.skip = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4))
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.act = act or nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        out += self.skip(x)
        return self.act(out)


def standardized(h):
    return (h - h.mean((0, 2, 3), keepdim=True)) / torch.sqrt(h.var((0, 2, 3), keepdim=True, correction=0) + 1e-5)


SMALL = torch.randn(6, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_the_shortcut_joins_before_the_activation_as_in_our_own_networks():
    given = shaken(Residual())
    c1, c2, skip = given.conv1, given.conv2, given.skip[0]
    total = c2(standardized(torch.tanh(c1(SMALL)))) + skip(SMALL)
    complete = convert(given, "complete", "tanh")
    torch.testing.assert_close(complete(SMALL), standardized(torch.tanh(total)))
    assert sum(isinstance(m, CompleteBatchNormBase) for m in complete.modules()) == 2
    total = c2(torch.relu(c1(SMALL))) + skip(SMALL)
    torch.testing.assert_close(convert(given, "none")(SMALL), torch.relu(total))
    total = c2(standardized(torch.relu(c1(SMALL)))) + skip(SMALL)
    torch.testing.assert_close(convert(given, "after")(SMALL), standardized(torch.relu(total)))
    h = standardized(torch.relu(given.bn1(c1(SMALL))))
    total = given.bn2(c2(h)) + given.skip(SMALL)
    torch.testing.assert_close(convert(given, "both")(SMALL), standardized(torch.relu(total)))
    total = c2(standardized(torch.relu(c1(standardized(SMALL))))) + skip(standardized(SMALL))
    torch.testing.assert_close(convert(given, "before_weight")(SMALL), torch.relu(total))


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet9", "convnet", "mlp"])
def test_a_network_of_our_own_becomes_what_is_built_so(name):
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    size = {"width": 4} if name == "resnet9" else {}

    def built(placement):
        torch.manual_seed(0)
        return models.build(name, num_classes=4, image_size=8, placement=placement, activation="tanh", **size).double()

    for placement in ("both", "complete", "before_weight") if name == "resnet18" else blocks.placements():
        converted, expected = convert(built("before"), placement), built(placement)
        assert sum(p.numel() for p in converted.parameters()) == sum(p.numel() for p in expected.parameters())
        torch.testing.assert_close(converted(x), expected(x))


def test_biases_come_and_go_with_the_placement():
    for placement in blocks.placements():
        for bias in (True, False):
            given = shaken(Residual(bias=bias))
            weights = [m for m in convert(given, placement).modules() if isinstance(m, nn.Conv2d)]
            assert len(weights) == 3
            assert all((m.bias is not None) == blocks.needs_bias(placement) for m in weights)
            assert bias or not blocks.needs_bias(placement) or all(not m.bias.any() for m in weights)
            expected = [given.conv1.weight, given.conv2.weight, given.skip[0].weight]
            assert all(any(torch.equal(m.weight, w) for w in expected) for m in weights)


@pytest.mark.parametrize("act", [F.relu, torch.relu, lambda x: F.relu(x, inplace=True), lambda x: x.relu(),
                                 lambda x: x.relu_(), lambda x: F.leaky_relu(x, 0.3), torch.sigmoid, F.hardswish,
                                 lambda x: F.gelu(x, approximate="tanh"), lambda x: x.tanh(), F.silu,
                                 lambda x: F.elu(x, alpha=0.5), F.softplus])
def test_functions_are_activations_too(act):
    class Functional(Residual):
        def forward(self, x):
            out = act(self.bn1(self.conv1(x)))
            return act(torch.add(self.bn2(self.conv2(out)), self.skip(x)))

    given = shaken(Functional())
    assert len(convert(given, "before").report.blocks) == 2
    assert_same_function(copy.deepcopy(given), convert(given, "before"), SMALL)
    tanh = convert(given, "complete", "tanh")
    assert sum(type(m) is nn.Tanh for m in tanh.modules()) == 2
    total = given.conv2(standardized(torch.tanh(given.conv1(SMALL)))) + given.skip[0](SMALL)
    torch.testing.assert_close(tanh(SMALL), standardized(torch.tanh(total)))


def test_a_shared_activation_with_parameters_stays_shared():
    given = shaken(Residual(act=nn.PReLU()))
    converted = convert(given, "before")
    assert sum(p.numel() for p in given.parameters()) == sum(p.numel() for p in converted.parameters())
    assert_same_function(given, converted, SMALL)


class PreActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(6)
        self.conv1, self.conv2 = nn.Conv2d(4, 6, 1, bias=False), nn.Conv2d(6, 4, 1)
        self.last, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        out = self.conv1(F.relu(self.bn1(x), inplace=True))
        x = x + self.conv2(F.relu(self.bn2(out), inplace=True))
        return self.fc(F.relu(self.last(x), inplace=True).mean((2, 3)))


def test_pre_activation():
    given = shaken(PreActivation())
    assert_same_function(copy.deepcopy(given), convert(given, "before"), SMALL)

    def by_hand(f):
        x = given.stem(SMALL)
        x = x + given.conv2(f(given.conv1(f(x))))
        return given.fc(f(x).mean((2, 3)))

    # In place, as it was written, the activation would now overwrite what the shortcut reads.
    torch.testing.assert_close(convert(given, "none")(SMALL), by_hand(torch.relu))
    torch.testing.assert_close(convert(given, "after")(SMALL), by_hand(lambda x: standardized(torch.relu(x))))
    complete = convert(given, "complete", "tanh")
    torch.testing.assert_close(complete(SMALL), by_hand(lambda x: standardized(torch.tanh(x))))
    report = convert(given, "before_weight").report
    assert set(report.inputs) == {"conv2", "fc"} and len(report.blocks) == 3


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_before_weight_normalizes_the_input_of_every_weight_layer(name):
    torch.manual_seed(0)
    model = convert(torchvision.models.get_model(name, num_classes=4), "before_weight").double()
    seconds = {}
    for path, layer in model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.register_forward_pre_hook(lambda _, inputs, path=path: seconds.update(
                {path: (inputs[0].detach() ** 2).mean([0, *range(2, inputs[0].dim())])}))
    model(torch.randn(4, 3, 64, 64, dtype=torch.float64))
    assert len(seconds) == sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in model.modules())
    off = {path: float((s - 1).abs().max()) for path, s in seconds.items() if (s - 1).abs().median() > 0.01}
    assert not off


def test_activations_outside_of_the_blocks_stay():
    given = named("mobilenet_v3_small")
    converted = convert(given, "complete", "tanh")

    def counted(model, kind):
        return sum(type(m) is kind for m in model.modules())

    gates = counted(given, nn.Hardsigmoid)
    assert gates == counted(converted, nn.Hardsigmoid) > 0
    heads = 1  # classifier[1]
    assert counted(converted, nn.Hardswish) == heads and counted(converted, nn.Dropout) == counted(given, nn.Dropout)
    squeezes = sum(type(m).__name__ == "SqueezeExcitation" for m in given.modules())
    assert counted(converted, nn.ReLU) == squeezes == gates
    bare = [block for block in converted.report.blocks if block.now.endswith("(Identity)")]
    assert len(bare) == 11  # the last weight layer of each inverted residual
    assert counted(converted, nn.Tanh) == 34 - 11


def test_eps_and_momentum_go_along_and_options_win():
    given = shaken(nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3, eps=0.5, momentum=0.2), nn.Sigmoid()))
    complete = convert(given, "complete", norm_options={"shift_lr_multiplier": 4.0})
    layer = next(m for m in complete.modules() if isinstance(m, CompleteBatchNormBase))
    assert (layer.standardize_after.eps, layer.standardize_after.momentum, layer.shift_lr_multiplier) == (0.5, 0.2, 4.0)
    norm = next(m for m in convert(given, "before", norm_options={"eps": 0.1}).modules()
                if isinstance(m, nn.BatchNorm1d))
    assert (norm.eps, norm.momentum) == (0.1, 0.2) and torch.equal(norm.weight, given[1].weight)


def test_norms_without_scale_or_statistics():
    given = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False, track_running_stats=False), nn.Tanh(),
                          nn.Linear(4, 2, bias=False), norms.BatchNorm1d(2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    converted = convert(given, "before")
    assert sum(p.numel() for p in converted.parameters()) == 12 + 8 + 4
    assert_same_function(given, converted, x)
    assert convert(given.train(), "complete")(x).shape == (5, 2)


def test_what_fits_no_pattern_is_named_and_kept():
    class Odd(Residual):
        def __init__(self):
            super().__init__()
            self.first, self.twice, self.both = nn.BatchNorm2d(3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.same = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = super().forward(self.first(x))
            x = self.twice(F.relu(self.twice(x)))
            z = self.both(self.same(x))
            return z * torch.sigmoid(z)

    given = shaken(Odd())
    converted = convert(given, "before")
    assert len(converted.report.blocks) == 2
    assert converted.report.kept == {
        "first": "no weight layer feeds it alone, and no activation reads it",
        "twice": "it is called more than once",
        "both": "its output is read by more than one operation, an activation among them"}
    assert "Left as it is: twice, because it is called more than once." in str(converted.report)
    assert_same_function(given, converted, SMALL)
    with pytest.raises(ValueError, match="no block found in Sequential, which keeps 1, because BatchNorm3d is"):
        convert(nn.Sequential(nn.Conv3d(1, 1, 1), nn.BatchNorm3d(1), nn.ReLU()), "complete")


def test_a_weight_layer_that_something_else_reads_stays_as_it_is():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)

        def forward(self, x):
            z = self.conv(x)
            return z + F.relu(self.bn(z))

    given = shaken(Read())
    assert_same_function(copy.deepcopy(given), convert(given, "before"), SMALL)
    z = given.conv(SMALL)
    torch.testing.assert_close(convert(given, "complete", "tanh")(SMALL), z + standardized(torch.tanh(z)))


def test_a_shared_weight_layer_keeps_its_place():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return F.relu(self.bn2(self.conv(F.relu(self.bn1(self.conv(x))))))

    given = shaken(Shared())
    assert_same_function(copy.deepcopy(given), convert(given, "before"), SMALL)
    expected = standardized(torch.relu(given.conv(standardized(torch.relu(given.conv(SMALL))))))
    torch.testing.assert_close(convert(given, "after")(SMALL), expected)


@pytest.mark.parametrize(("name", "norm"), [("squeezenet1_0", ""), ("vit_b_32", "LayerNorm"), ("swin_t", "LayerNorm"),
                                            ("convnext_tiny", "LayerNorm, LayerNorm2d")])
def test_networks_without_batch_norm_have_nothing_to_convert(name, norm):
    with torch.device("meta"):
        given = torchvision.models.get_model(name)
    with pytest.raises(ValueError, match="has no batch norm, so there is nothing to convert") as error:
        convert(given, "complete")
    assert (f"(its norms are {norm})" in str(error.value)) == bool(norm)


def test_wrong_arguments_are_named():
    class Branching(Residual):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(TraceError, match="torch.fx cannot trace Branching .* must not depend on values"):
        convert(Branching(), "complete")
    with pytest.raises(ValueError, match="unknown placement 'inside'; known"):
        convert(Residual(), "inside")
    with pytest.raises(ValueError, match="unknown activation 'swiss'"):
        convert(Residual(), "complete", "swiss")
    with pytest.raises(ValueError, match="'none' has no norm"):
        convert(Residual(), "none", norm_options={"eps": 0.1})


def test_the_result_is_a_network_like_any_other(tmp_path):
    given = shaken(Residual())
    converted = convert(given, "complete", "swish").double()
    converted(SMALL)
    torch.save(converted.state_dict(), tmp_path / "state.pt")
    other = convert(shaken(Residual()), "complete", "swish").double()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.testing.assert_close(other.eval()(SMALL), converted.eval()(SMALL))
    assert copy.deepcopy(converted).report == converted.report
    text = str(converted.report)
    assert "2 blocks rebuilt with placement 'complete' (our reconstruction of CBN):" in text
    assert "conv2 -> bn2 + skip.0 -> skip.1 -> + -> ReLU  =>  Conv2d -> + -> CompleteBatchNorm2d(SiLU)" in text
    torch.testing.assert_close(norms.fold(converted)(SMALL), converted(SMALL))
    for start in ("before", "both"):
        vanilla = convert(given, start).eval()
        vanilla(SMALL)
        folded = norms.fold(vanilla)
        torch.testing.assert_close(folded(SMALL), vanilla(SMALL))


def test_resnet50_is_torchvisions():
    model = models.build("resnet50", num_classes=1000, image_size=224, placement="before")
    assert sum(p.numel() for p in model.parameters()) == 25_557_032  # torchvision's own table
    with torch.device("meta"):
        given = torchvision.models.resnet50()
    assert sorted(p.shape for p in model.parameters()) == sorted(p.shape for p in given.parameters())
    assert models.block_count("resnet50") == 49


def test_arms_of_resnet50_start_with_the_same_weights():
    weights = []
    for placement, activation in (("before", "relu"), ("complete", "tanh")):
        torch.manual_seed(5)
        model = models.build("resnet50", num_classes=3, in_channels=1, image_size=32, placement=placement,
                             activation=activation)
        weights.append([p for p in model.parameters() if p.dim() > 1])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 3)
