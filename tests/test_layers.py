"""The summary of the weight layers: equal to a slow twin in NumPy, in the order of execution, the model untouched."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cbn_lab import activations, blocks, models
from cbn_lab.probes import layers

SIZES = {"mlp": {"width": 9, "depth": 2}, "convnet": {"widths": (4, 5, 6)}, "resnet20": {}}


def make(name="convnet", activation="swish", placement="complete", seed=0):
    torch.manual_seed(seed)
    return models.build(name, num_classes=10, in_channels=2, image_size=6, activation=activation, placement=placement,
                        **SIZES[name]).double()


def a_batch(n=7, channels=2, classes=10):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(n, channels, 6, 6, generator=generator, dtype=torch.float64),
            torch.randint(classes, (n,), generator=generator))


def twin(model, batch, training=True):
    """Weight layers that are called -> (input, gradient), by hooks and .backward() on a copy."""
    model = copy.deepcopy(model).train(training)
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: (m, args[0].clone())}))
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    return {name: (h.detach().numpy(), m.weight.grad.numpy(), m.weight.detach().numpy())
            for name, (m, h) in seen.items()}


def slow_row(h, gradient, weight):
    """The numbers of one row, in loops and by the definitions."""
    channels = [h[:, c].ravel() for c in range(h.shape[1])]
    values = np.concatenate(channels)
    matrix = np.array([[float(np.mean(a * b)) for b in channels] for a in channels])
    eigenvalues = np.linalg.svd(matrix, compute_uv=False)
    share = eigenvalues[0] / eigenvalues.sum()
    rank = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    length = math.sqrt(sum(g * g for g in gradient.ravel()))
    return {"shape": h.shape[1:], "mean": values.mean(), "variance": values.var(), "second": np.mean(values**2),
            "top_share": share, "rank": rank, "gradient": length,
            "scale_free": length * math.sqrt(sum(w * w for w in weight.ravel()))}


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("name, placement", [(n, p) for n in ("mlp", "convnet") for p in blocks.placements()]
                         + [("resnet20", "complete"), ("resnet20", "before_weight")])
def test_rows_are_those_of_the_slow_twin(name, placement, statistics):
    model, batch = make(name, placement=placement), a_batch()
    expected = twin(model, batch, training=statistics == "batch")
    rows = layers.summary(model, F.cross_entropy, batch, statistics=statistics)
    assert [row.name for row in rows] == list(expected)
    for row in rows:
        for key, value in slow_row(*expected[row.name]).items():
            assert getattr(row, key) == pytest.approx(value, rel=1e-9, abs=1e-13), (row.name, key)


@given(name=st.sampled_from(["mlp", "convnet"]), placement=st.sampled_from(blocks.placements()),
       activation=st.sampled_from(activations.names()), seed=st.integers(0, 1000), n=st.integers(4, 12))
@settings(max_examples=25)
def test_what_holds_for_every_net(name, placement, activation, seed, n):
    model = make(name, activation, placement, seed)
    rows = layers.summary(model, F.cross_entropy, a_batch(n), statistics="batch")
    assert sum(r.parameters + r.norm_parameters for r in rows) == sum(p.numel() for p in model.parameters())
    for row in rows:
        assert row.second == pytest.approx(row.variance + row.mean**2)
        if row.second:
            assert 1 / row.shape[0] - 1e-9 <= row.top_share <= 1 + 1e-9
            assert 1 - 1e-9 <= row.rank <= row.shape[0] + 1e-9


@pytest.mark.parametrize("name", models.names())
def test_every_parameter_of_every_network_stands_in_one_row(name):
    torch.manual_seed(0)
    model = models.build(name, num_classes=4, image_size=32, placement="both",
                         **({} if name != "mlp" else {"width": 8}))
    counts = layers._parameters(model, {k: m for k, m in model.named_modules() if isinstance(m, layers._KINDS)})
    assert sum(map(sum, counts.values())) == sum(p.numel() for p in model.parameters())
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):  # two norms behind it, each with gamma and beta; one on a shortcut
            norms = 1 if "shortcut" in name or "downsample" in name else 2
            assert counts[name] == [module.weight.numel(), norms * 2 * module.out_channels], name


def test_norm_parameters_stand_with_the_layer_that_they_serve():
    rows = layers.summary(make("resnet20", placement="before"), F.cross_entropy, a_batch(), statistics="batch")
    assert [r.norm_parameters for r in rows] == [32] * 7 + [64] * 6 + [128] * 6 + [0]
    assert [r.parameters for r in rows[:2]] == [2 * 16 * 9, 16 * 16 * 9]
    complete = layers.summary(make("convnet"), F.cross_entropy, a_batch(), statistics="batch")
    assert [r.norm_parameters for r in complete] == [12, 15, 18, 0]  # shift, gamma, shift
    before_weight = layers.summary(make("mlp", placement="before_weight"), F.cross_entropy, a_batch(),
                                   statistics="batch")
    assert [r.norm_parameters for r in before_weight] == [144, 18, 18]  # the head has one too
    assert [r.parameters for r in before_weight] == [73 * 9, 90, 100]


def test_kinds_and_shapes_are_in_words():
    rows = layers.summary(make("convnet"), F.cross_entropy, a_batch(), statistics="batch")
    assert [(r.kind, r.shape) for r in rows] == [("convolution 3x3", (2, 6, 6)), ("convolution 3x3", (4, 6, 6)),
                                                 ("convolution 3x3", (5, 3, 3)), ("linear", (6,))]


def test_our_reconstruction_keeps_the_second_moment_at_one():
    rows = layers.summary(make("convnet", "sigmoid").float(), F.cross_entropy,
                          (a_batch(64)[0].float(), a_batch(64)[1]), statistics="batch")
    for row in rows[1:-1]:  # the head's input has been averaged over pixels
        assert row.second == pytest.approx(1, abs=0.01) and row.mean == pytest.approx(0, abs=1e-5)
    vanilla = layers.summary(make("convnet", "sigmoid", "before"), F.cross_entropy, a_batch(64), statistics="batch")
    assert all(row.top_share > 0.7 and row.mean > 0.4 for row in vanilla[1:])


def test_a_large_mean_leaves_the_variance_its_digits():
    """In float32, 1e4^2 has no digit left for a variance of 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    images = torch.randn(50, 2, 6, 6) + 1e4
    row, = layers.summary(model, F.cross_entropy, (images, a_batch(50, classes=3)[1]), statistics="batch")
    assert row.variance == pytest.approx(images.double().var(correction=0).item(), rel=1e-9)


def test_inputs_of_rank_one_and_of_zeros():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3, dtype=torch.float64))
    images, labels = a_batch(5, classes=3)
    line = torch.ones(5, 1, 1, 1, dtype=torch.float64) * images[:1]
    row, = layers.summary(model, F.cross_entropy, (line, labels), statistics="batch")
    assert (row.top_share, row.rank) == pytest.approx((1, 1))
    row, = layers.summary(model, F.cross_entropy, (0 * line, labels), statistics="batch")
    assert math.isnan(row.top_share) and math.isnan(row.rank) and row.second == row.gradient == 0


def test_an_overflow_is_no_failure_of_its_own():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.Sigmoid(), nn.Linear(3, 3)).double()
    images, labels = a_batch(5, classes=3)
    with pytest.raises(ValueError, match="the loss of this batch is nan"):
        layers.summary(model, F.cross_entropy, (images * torch.nan, labels), statistics="batch")
    assert not any(m._forward_pre_hooks for m in model.modules())
    row, _ = layers.summary(model, F.cross_entropy, (images * 1e200, labels), statistics="batch")
    assert row.second == math.inf and math.isnan(row.rank)


def test_layers_in_place_frozen_weights_and_other_dimensions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 4))
    model.double()[0].weight.requires_grad_(False)
    batch = (torch.randn(5, 2, 6, dtype=torch.float64), torch.arange(5) % 4)
    conv, head = layers.summary(model, F.cross_entropy, batch, statistics="batch")
    assert (conv.kind, conv.shape, conv.norm_parameters, head.norm_parameters) == ("convolution 3", (2, 6), 6, 0)
    assert conv.gradient > 0 and not model[0].weight.requires_grad
    spoiled = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4)).double()
    spoiled[0].register_forward_hook(lambda module, arguments, output: arguments[0].zero_())
    row = layers.summary(spoiled, F.cross_entropy, (batch[0][:, 0].clone(), batch[1]), statistics="batch")[0]
    assert row.second == pytest.approx(float(batch[0][:, 0].square().mean()))


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_the_model_is_left_as_it_was(statistics):
    model, batch = make(), a_batch()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    layers.summary(model, F.cross_entropy, batch, statistics=statistics)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes and torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_what_cannot_be_measured_is_refused():
    batch, line = a_batch(4), nn.Linear(6, 6).double()
    with pytest.raises(ValueError, match="'0' is called twice"):
        layers.summary(nn.Sequential(line, line, nn.Flatten()), F.cross_entropy, batch, statistics="batch")
    assert not line._forward_pre_hooks
    with pytest.raises(ValueError, match="no linear layer and no convolution"):
        layers.summary(nn.Sequential(nn.Tanh()), F.cross_entropy, batch, statistics="batch")
    normed = nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)).double()
    with pytest.raises(TypeError, match="the weight of '0' is computed from other parameters"):
        layers.summary(nn.Sequential(normed, nn.Flatten()), F.cross_entropy, batch, statistics="batch")
    with pytest.raises(ValueError, match="the gradient of '1' is not finite"):
        layers.summary(nn.Sequential(nn.Flatten(), nn.Linear(72, 3).double()),
                       lambda out, labels: (out * 0).sum().sqrt(), batch, statistics="batch")
    with pytest.raises(ValueError, match="statistics must be"):
        layers.summary(make(), F.cross_entropy, batch, statistics="train")


@pytest.mark.parametrize("loss_fn", [lambda out, y: F.cross_entropy(out.detach(), y),
                                     lambda out, y: (out.argmax(1) == y).double().mean()])
def test_a_loss_that_is_cut_off_from_the_model_is_named(loss_fn):
    with pytest.raises(ValueError, match="the loss is cut off from the model.*detach"):
        layers.summary(make(), loss_fn, a_batch(), statistics="batch")


def test_an_input_may_be_given_by_name():
    class Named(nn.Sequential):
        def forward(self, x):
            return self[1](input=self[0](x))

    torch.manual_seed(0)
    model, batch = Named(nn.Flatten(), nn.Linear(72, 10)).double(), a_batch()
    plain = nn.Sequential(*model)
    assert layers.summary(model, F.cross_entropy, batch, statistics="batch") == \
        layers.summary(plain, F.cross_entropy, batch, statistics="batch")


def test_a_layer_that_the_loss_does_not_see_has_no_gradient():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.Linear(5, 3)).double()
    model[1].register_forward_hook(lambda module, arguments, output: output.detach())
    rows = layers.summary(model, F.cross_entropy, a_batch(4, classes=3), statistics="batch")
    assert rows[0].gradient == 0 < rows[1].gradient
