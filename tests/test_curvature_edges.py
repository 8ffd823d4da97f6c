"""Curvature where it is easy to go wrong: known spectra, kinks, masks, frozen, unused and tied parameters, errors."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cbn_lab import models
from cbn_lab.probes import curvature

PROBES = (curvature.lambda_max, curvature.lambda_min, curvature.gauss_newton_max, curvature.trace)
EMPTY = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1)


class Point(nn.Module):
    """Its output is its parameter, whatever the input: the Hessian of the loss is what loss_fn makes it."""

    def __init__(self, n):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(1, 2, n, dtype=torch.float64))

    def forward(self, inputs):
        return self.w


def quadratic(spectrum, seed=0):
    """(loss_fn with 1/2 w'Aw + b'w, A) with the given eigenvalues and random eigenvectors."""
    generator = np.random.default_rng(seed)
    q, _ = np.linalg.qr(generator.standard_normal((len(spectrum), len(spectrum))))
    a = torch.from_numpy((q * np.asarray(spectrum, dtype=float)) @ q.T)
    a = (a + a.T) / 2
    return (lambda w, labels: 0.5 * w @ a @ w + w.sum()), a.numpy()


def measure(probe, spectrum, **options):
    return probe(Point(len(spectrum)), quadratic(spectrum)[0], EMPTY, statistics="batch", **options)


@given(st.lists(st.integers(-1000, 1000).map(lambda i: i / 10), min_size=1, max_size=60), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_any_spectrum(spectrum, copies):
    """Every size, dense and Lanczos; indefinite, definite and degenerate ones."""
    spectrum = spectrum + copies * [max(spectrum)]
    width = max(map(abs, spectrum)) or 1.0
    for probe, truth in ((curvature.lambda_max, max(spectrum)), (curvature.lambda_min, min(spectrum))):
        found = measure(probe, spectrum)
        assert found.value == pytest.approx(truth, rel=1e-9, abs=1e-5 * width)
        assert found.residual <= 1e-5 * width
        norm = Point(len(spectrum)).w.square().sum().item()
        assert found.scale_free == pytest.approx(norm * found.value)


@pytest.mark.parametrize("spectrum", [
    [3.0], [-3.0], [0.0], [1.0, 2.0], 40 * [5.0], 40 * [-5.0], [7.0] + 59 * [0.0], [-7.0] + 59 * [0.0], 100 * [0.0],
    [1e-9] + 99 * [0.0], 20 * [1e6] + 40 * [-1e-6], list(np.linspace(-1, 1, 300)), list(np.linspace(-2, -1, 100)),
    list(np.geomspace(1e-8, 1e3, 80))], ids=lambda s: f"{len(s)} from {s[0]:.0e}")
def test_awkward_spectra(spectrum):
    """One parameter; degenerate; of rank one; zero; ends in the middle of nothing, where ARPACK's own tolerance, which
    is relative to the eigenvalue, is never met."""
    width = max(map(abs, spectrum))
    assert measure(curvature.lambda_max, spectrum).value == pytest.approx(max(spectrum), rel=1e-9, abs=2e-6 * width)
    assert measure(curvature.lambda_min, spectrum).value == pytest.approx(min(spectrum), rel=1e-9, abs=2e-6 * width)
    exact = measure(curvature.trace, spectrum, products=max(len(spectrum), 2))
    assert exact.value == pytest.approx(sum(spectrum), rel=1e-9, abs=1e-12 * width * len(spectrum))


def test_an_end_at_zero_in_a_wide_spectrum_is_cheap():
    """The stop is relative to the width; relative to the eigenvalue it would come late."""
    found = measure(curvature.lambda_min, [*range(1, 11), *np.geomspace(1e-12, 1e-6, 400)])
    assert found.value == pytest.approx(0, abs=1e-5) and found.products < 60


def test_a_trace_takes_the_products_that_it_was_given():
    found = measure(curvature.trace, list(np.linspace(1, 2, 100)), products=7)
    assert found.products == 7 and found.estimate.low < 150 < found.estimate.high


@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_a_loss_linear_in_the_parameters_has_no_curvature(n):
    for probe in PROBES:
        found = probe(Point(n), lambda w, labels: 3 * w.sum(), EMPTY, statistics="batch")
        assert found.value == found.scale_free == 0 and found.gradient_evaluations == 1
    # Linear, but not so for autograd: the gradient has a graph through the last batch's sum.
    found = curvature.lambda_max(Point(n), lambda w, labels: (w.sum() ** 2).sqrt(), EMPTY, statistics="batch")
    assert found.value == pytest.approx(0, abs=1e-9)


def net_and_batch(activation="tanh", dtype=torch.float64, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh() if activation == "tanh" else nn.ReLU(),
                        nn.Linear(6, 3)).to(dtype)
    return net, (torch.randn(8, 4).to(dtype), torch.arange(8) % 3)


def dense(net, loss_fn, batch, before=lambda: None):
    names, shapes = zip(*[(n, p.shape) for n, p in net.named_parameters() if p.requires_grad], strict=True)
    copied = copy.deepcopy(net)

    def loss(vector):
        before()
        pieces = vector.split([s.numel() for s in shapes])
        named = {n: piece.view(s) for n, piece, s in zip(names, pieces, shapes, strict=True)}
        return loss_fn(torch.func.functional_call(copied, named, batch[0]), batch[1])

    vector = torch.cat([p.detach().flatten() for p in net.parameters() if p.requires_grad])
    return torch.autograd.functional.hessian(loss, vector).numpy()


@pytest.mark.parametrize("loss_fn", [
    F.cross_entropy, lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    lambda z, y: -z.log_softmax(1)[:, 0].mean(),
    lambda z, y: F.mse_loss(z, F.one_hot(y, 3).to(z.dtype)), lambda z, y: z.pow(4).sum() - 3 * z.square().mean()])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_any_loss_and_a_kink_in_the_activation(loss_fn, activation):
    net, batch = net_and_batch(activation)
    values = np.linalg.eigvalsh(dense(net, loss_fn, batch))
    found = [probe(net, loss_fn, batch, statistics="batch").value for probe in PROBES[:2]]
    np.testing.assert_allclose(found, values[[-1, 0]], rtol=1e-7, atol=1e-8 * np.abs(values).max())


def test_gauss_newton_is_the_hessian_of_a_linear_model_and_never_negative():
    torch.manual_seed(0)
    linear = nn.Linear(20, 3).double()
    batch = torch.randn(9, 20, dtype=torch.float64), torch.arange(9) % 3
    options = {"statistics": "running"}
    top = [probe(linear, F.cross_entropy, batch, **options).value
           for probe in (curvature.lambda_max, curvature.gauss_newton_max)]
    assert top[0] == pytest.approx(top[1], rel=1e-9)
    bottom = curvature.lambda_min(linear, F.cross_entropy, batch, **options)
    assert bottom.value == pytest.approx(0, abs=1e-6 * top[0])


def test_dropout_has_one_mask_in_all_products():
    net, batch = net_and_batch()
    net.insert(3, nn.Dropout(0.5))
    state = torch.get_rng_state()
    values = np.linalg.eigvalsh(dense(net, F.cross_entropy, batch, before=lambda: torch.set_rng_state(state)))
    torch.set_rng_state(state)
    for _ in range(2):
        found = curvature.lambda_max(net, F.cross_entropy, batch, statistics="batch")
        assert found.value == pytest.approx(values[-1], rel=1e-8)
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_parameters_are_left_out_and_said_to_be():
    net, batch = net_and_batch()
    net[0].requires_grad_(False)
    values = np.linalg.eigvalsh(dense(net, F.cross_entropy, batch))
    found = curvature.lambda_max(net, F.cross_entropy, batch, statistics="batch")
    assert found.value == pytest.approx(values[-1], rel=1e-8)
    assert found.scope.left_out == 2 and "2 without requires_grad left out" in str(found)
    assert "0.weight" not in found.scope.parameters
    assert set(curvature.per_layer(curvature.lambda_max, net, F.cross_entropy, batch, statistics="batch")) == {"1", "3"}
    with pytest.raises(ValueError, match="requires a gradient"):
        curvature.lambda_max(net, F.cross_entropy, batch, statistics="batch", parameters=["0.weight", "0.bias"])
    net.requires_grad_(False)
    for probe in PROBES:
        with pytest.raises(ValueError, match="requires a gradient"):
            curvature.per_layer(probe, net, F.cross_entropy, batch, statistics="batch")


def test_parameters_that_the_loss_does_not_use_count_with_zeros():
    net, batch = net_and_batch()
    before = [probe(net, F.cross_entropy, batch, statistics="batch").value for probe in PROBES[:3]]
    net.register_parameter("unused", nn.Parameter(torch.ones(5, dtype=torch.float64)))
    after = [probe(net, F.cross_entropy, batch, statistics="batch") for probe in PROBES[:3]]
    np.testing.assert_allclose([found.value for found in after], before, rtol=1e-8)
    assert all(found.scope.numbers == sum(p.numel() for p in net.parameters()) for found in after)
    for probe in PROBES:
        assert probe(net, F.cross_entropy, batch, statistics="batch", parameters="unused").value == 0


def test_a_tied_weight_is_one_parameter():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    net[2].weight = net[0].weight
    batch = torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 3
    values = np.linalg.eigvalsh(dense(net, F.cross_entropy, batch))
    found = curvature.lambda_max(net, F.cross_entropy, batch, statistics="running")
    assert found.value == pytest.approx(values[-1], rel=1e-8) and found.scope.numbers == len(values)
    both = curvature.lambda_max(net, F.cross_entropy, batch, statistics="running",
                                parameters=["2.weight", "0.weight"])
    assert both.scope.numbers == 16
    one = curvature.lambda_max(net, F.cross_entropy, batch, statistics="running", parameters="0.weight")
    assert both.value == pytest.approx(one.value)


def test_tensors_that_are_zero_have_no_scale():
    net, batch = net_and_batch()
    nn.init.zeros_(net[0].bias), nn.init.zeros_(net[3].bias)
    d = np.concatenate([np.full(p.numel(), float(p.detach().norm())) for p in net.parameters()])
    kept = d > 0
    matrix = (d[:, None] * dense(net, F.cross_entropy, batch) * d)[np.ix_(kept, kept)]
    for probe, end in ((curvature.lambda_max, -1), (curvature.lambda_min, 0)):
        found = probe(net, F.cross_entropy, batch, statistics="batch")
        assert found.scale_free == pytest.approx(np.linalg.eigvalsh(matrix)[end], rel=1e-8)
        zeros = probe(net, F.cross_entropy, batch, statistics="batch", parameters=["0.bias", "3.bias"])
        assert zeros.scale_free == 0


@pytest.mark.parametrize("placement", ["before", "complete"])
def test_layout_and_precision_do_not_matter(placement):
    torch.manual_seed(0)
    net = models.build("convnet", num_classes=3, image_size=8, placement=placement, widths=(4, 6))
    inputs, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 3
    double = copy.deepcopy(net).double()
    for probe in PROBES[:3]:
        exact = probe(double, F.cross_entropy, (inputs.double(), labels), statistics="batch")
        other = probe(copy.deepcopy(net).to(memory_format=torch.channels_last), F.cross_entropy,
                      (inputs.to(memory_format=torch.channels_last), labels), statistics="batch")
        assert other.value == pytest.approx(exact.value, rel=1e-4)
        assert other.scale_free == pytest.approx(exact.scale_free, rel=1e-4)
        assert (exact.scope.precision, other.scope.precision) == ("float64", "float32")


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_probes_leave_no_trace_say_what_they_did_and_repeat(probe, statistics):
    net, batch = net_and_batch()
    net.append(nn.Dropout(0.3))
    net[1].eval()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = copy.deepcopy(net.state_dict()), torch.get_rng_state(), [module.training for module in net.modules()]
    with torch.no_grad():
        found = probe(net, F.cross_entropy, batch, statistics=statistics)
    torch.testing.assert_close((net.state_dict(), torch.get_rng_state(), [m.training for m in net.modules()]), before,
                               rtol=0, atol=0)
    assert [p.grad is None for p in net.parameters()] == [False] + 5 * [True] and net[0].weight.grad.eq(1).all()
    assert found == probe(net, F.cross_entropy, batch, statistics=statistics)
    assert found.gradient_evaluations == 1 + 3 * found.products
    for said in ("63 parameters", "mini-batch of 8", statistics + " statistics", str(found.gradient_evaluations)):
        assert said in str(found)
    assert found.scope.squared_norm == pytest.approx(sum(float(p.detach().square().sum()) for p in net.parameters()))


def test_the_first_vector_does_not_matter():
    values = [measure(curvature.lambda_max, list(np.linspace(-3, 2, 90)), seed=seed).value for seed in range(3)]
    np.testing.assert_allclose(values, 2.0, rtol=1e-8)


@pytest.mark.parametrize("probe", PROBES)
def test_errors(probe):
    net, batch = net_and_batch()
    with pytest.raises(TypeError, match="statistics"):
        probe(net, F.cross_entropy, batch)
    with pytest.raises(ValueError, match="no parameter '7.weight'.*0.weight"):
        probe(net, F.cross_entropy, batch, statistics="batch", parameters=["7.weight"])
    with pytest.raises(ValueError, match="loss of this batch is nan"):
        probe(net, lambda z, y: z.sum() * torch.nan, batch, statistics="batch")
    with pytest.raises(ValueError, match="no second derivative"):
        probe(Point(40), lambda w, y: (w - w.detach()).abs().pow(1.5).sum(), EMPTY, statistics="batch")


def test_errors_of_options(monkeypatch):
    net, batch = net_and_batch()
    for options, message in (({"matrix": "fisher"}, "'hessian', 'gauss_newton'"), ({"products": 1}, "at least 2"),
                             ({"confidence": 95}, "between 0 and 1")):
        with pytest.raises(ValueError, match=message):
            curvature.trace(net, F.cross_entropy, batch, statistics="batch", **options)
    with pytest.raises(ValueError, match="tolerance must be positive"):
        curvature.lambda_max(net, F.cross_entropy, batch, statistics="batch", tolerance=0)
    monkeypatch.setattr(curvature, "_RESTARTS", 1)
    monkeypatch.setattr(curvature, "_MOST_VECTORS", 20)
    with pytest.raises(RuntimeError, match="larger tolerance"):
        measure(curvature.lambda_max, list(np.linspace(0, 1, 500)))
    pair = nn.Module()
    pair.forward = lambda x: (net(x), x)
    pair.net = net
    with pytest.raises(ValueError, match="one tensor, got tuple"):
        curvature.gauss_newton_max(pair, lambda z, y: F.cross_entropy(z[0], y), batch, statistics="batch")
