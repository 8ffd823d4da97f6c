"""Moments of the stochastic gradient: unbiased by exact enumeration, intervals that cover, naive twins, rescaling."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cbn_lab import data, models, norms
from cbn_lab.probes import gradients
from cbn_lab.probes._estimates import estimate, products

MOMENTS = ("second", "squared_mean", "variance")


def _net(seed=0, norm=True, features=3):
    torch.manual_seed(seed)
    layers = [nn.Linear(features, 5, bias=not norm), nn.BatchNorm1d(5) if norm else nn.Identity(), nn.Tanh(),
              nn.Linear(5, 2)]
    net = nn.Sequential(*layers).double()
    if norm:
        nn.init.normal_(net[1].weight), nn.init.normal_(net[1].bias)
    return net


def _data(n=8, features=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, features, generator=generator, dtype=torch.float64),
            torch.randint(0, 2, (n,), generator=generator))


def _batches(count=50, size=4, n=400, seed=2):
    x, y = _data(n)
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(n, generator=generator)[:size] for _ in range(count)]
    return [(x[r], y[r]) for r in rows]


def _gradient(model, batch):
    loss = F.cross_entropy(model(batch[0]), batch[1])
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def _population(draws):
    """Exact moments of a draw that takes each row with equal probability."""
    mean = draws.mean(0)
    return {"second": draws.square().sum(1).mean(), "squared_mean": mean.square().sum(),
            "variance": (draws - mean).square().sum(1).mean()}


@pytest.mark.parametrize("n", [3, 4])
def test_estimates_are_unbiased_by_enumeration_of_all_mini_batches(n):
    x, y = _data(5)
    net = _net()
    rows = [_gradient(net, (x[list(r)], y[list(r)])) for r in itertools.combinations(range(5), 3)]  # 10 batches
    exact = _population(torch.stack(rows))
    found = [estimate(products(torch.stack(draws))) for draws in itertools.product(rows, repeat=n)]
    for name in MOMENTS:
        average = math.fsum(getattr(m, name).value for m in found) / len(found)
        assert average == pytest.approx(float(exact[name]), rel=1e-10), name
    plug_in = math.fsum(float(torch.stack(d).mean(0).square().sum()) for d in itertools.product(rows, repeat=n))
    bias = plug_in / len(found) - float(exact["squared_mean"])
    assert bias == pytest.approx(float(exact["variance"]) / n, rel=1e-10), "the bias that the estimate corrects"


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 12), p=st.integers(1, 9), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
def test_estimates_and_jackknife_against_a_naive_twin(n, p, scale, seed):
    g = scale * torch.randn(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1

    def naive(g):
        k = len(g)
        pairs = [float(g[i] @ g[j]) for i in range(k) for j in range(k) if i != j]
        second = sum(float(row @ row) for row in g) / k
        squared_mean = sum(pairs) / len(pairs)
        return {"second": second, "squared_mean": squared_mean, "variance": float(g.var(0).sum())}

    found, whole = estimate(products(g)), naive(g)
    without = [naive(torch.cat([g[:i], g[i + 1:]])) if n > 2 else None for i in range(n)]
    for name in MOMENTS:
        values = torch.tensor([w[name] for w in without], dtype=torch.float64)
        error = math.sqrt((n - 1) / n * float((values - values.mean()).square().sum()))
        assert getattr(found, name).value == pytest.approx(whole[name], rel=1e-8, abs=1e-10 * whole["second"])
        if n > 3:  # the variance of two draws is the least that a twin without one draw can have
            assert getattr(found, name).standard_error == pytest.approx(error, rel=1e-6, abs=1e-9 * whole["second"])
    assert found.identity_error < 1e-12


def test_products_in_parts_and_of_parts_put_together(monkeypatch):
    g = torch.randn(6, 50, dtype=torch.float64)
    whole = products(g)
    monkeypatch.setattr("cbn_lab.probes._estimates._COLUMNS", 7)
    halves = products(g[:, :20]) + products(g[:, 20:])
    for name in ("inner", "centred"):
        torch.testing.assert_close(getattr(halves, name), getattr(whole, name))
        torch.testing.assert_close(getattr(products(3 * g), name), getattr(whole.times(9.0), name))


@pytest.mark.parametrize(("p", "mean", "lowest"), [(1, 1.0, 0.91), (3, 1.0, 0.91), (40, 0.3, 0.91), (40, 0.0, 0.91)])
def test_the_intervals_cover(p, mean, lowest):
    """600 trials with n = 50: the share that holds the true value has a standard error of 0.9 points around 95 %."""
    generator = torch.Generator().manual_seed(3)
    spread = torch.arange(1, p + 1, dtype=torch.float64) ** -0.5
    spread = spread / spread.norm()
    truth = {"second": 1 + mean**2, "squared_mean": mean**2, "variance": 1.0,
             "noise_to_signal": 1 / mean**2 if mean else math.inf}
    held = dict.fromkeys(truth, 0)
    for _ in range(600):
        draws = mean * p**-0.5 + torch.randn(50, p, generator=generator, dtype=torch.float64) * spread
        found = estimate(products(draws))
        for name, value in truth.items():
            held[name] += getattr(found, name).low <= value <= getattr(found, name).high
    assert all(lowest < count / 600 <= 1.0 for count in held.values()), held
    if p == 3:
        assert all(count / 600 < 0.975 for count in held.values()), f"wider than they say: {held}"


def test_a_variance_far_below_the_mean_keeps_its_digits():
    noise = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near, far = estimate(products(1e-4 * noise)).variance, estimate(products(100 + 1e-4 * noise)).variance
    assert far.value == pytest.approx(near.value, rel=1e-6)
    assert (far.low, far.high) == pytest.approx((near.low, near.high), rel=1e-6)


def test_a_mean_lost_in_the_noise_has_no_upper_end_to_its_noise_scale():
    draws = torch.randn(50, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ratio = estimate(products(draws)).noise_to_signal
    assert ratio.high == math.inf and 0 < ratio.low < math.inf
    clear = estimate(products(draws + 3)).noise_to_signal
    assert clear.low < clear.value < clear.high < 2 * clear.value


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("norm", [True, False])
def test_moments_of_a_net_against_a_naive_twin(statistics, norm):
    net, batches = _net(norm=norm), _batches()
    found = gradients.moments(net, F.cross_entropy, batches, statistics=statistics)
    net.train(statistics == "batch")
    draws = torch.stack([_gradient(net, batch) for batch in batches])
    second, variance = draws.square().sum(1).mean(), draws.var(0).sum()
    assert found.second.value == pytest.approx(float(second), rel=1e-10)
    assert found.variance.value == pytest.approx(float(variance), rel=1e-10)
    assert found.squared_mean.value == pytest.approx(float(draws.mean(0).square().sum() - variance / 50), rel=1e-9)
    assert found.raw.identity_error < 1e-12
    assert found.gradient_evaluations == found.batches == 50 and found.batch_size == 4
    assert found.parameters == sum(p.numel() for p in net.parameters())
    expected = 4 * found.variance.value / found.squared_mean.value
    assert gradients.noise_scale(net, F.cross_entropy, batches, statistics=statistics).estimate.value == pytest.approx(
        expected)


def test_layers_add_up_and_bear_their_own_weights():
    net, batches = _net(), _batches()
    found = gradients.moments(net, F.cross_entropy, batches, statistics="batch")
    assert list(found.layers) == ["0", "1", "3"]
    for kind, name in itertools.product(("raw", "scale_free"), MOMENTS):
        parts = [getattr(getattr(layer, kind), name).value for layer in found.layers.values()]
        assert math.fsum(parts) == pytest.approx(getattr(getattr(found, kind), name).value, rel=1e-9)
    weight = float(net[0].weight.detach().square().sum())
    first = found.layers["0"]
    assert first.scale_free.second.value == pytest.approx(weight * first.raw.second.value, rel=1e-12)


def test_the_noise_scale_is_the_one_of_single_samples_where_there_are_no_batch_statistics():
    """Batches of b drawn with replacement: the covariance is tr Sigma / b, so b tr Cov_b / ||G||^2 is the same."""
    net, (x, y) = _net(norm=False), _data(30)
    single = _population(torch.stack([_gradient(net, (x[i:i + 1], y[i:i + 1])) for i in range(30)]))
    exact = float(single["variance"] / single["squared_mean"])
    generator = torch.Generator().manual_seed(5)
    rows = [torch.randint(0, 30, (3,), generator=generator) for _ in range(800)]
    found = gradients.noise_scale(net, F.cross_entropy, [(x[r], y[r]) for r in rows], statistics="running")
    assert found.estimate.low < exact < found.estimate.high
    assert found.estimate.high < 2 * found.estimate.low, "an interval too wide to tell"


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_rescaling_the_weights_before_a_norm_moves_raw_values_only(factor):
    net, batches = _net(), _batches()
    net[1].eps = 1e-30  # eps is the one thing that knows the weights' scale
    before = gradients.moments(net, F.cross_entropy, batches, statistics="batch").layers["0"]
    with torch.no_grad():
        net[0].weight.mul_(factor)
    after = gradients.moments(net, F.cross_entropy, batches, statistics="batch").layers["0"]
    for name in MOMENTS:
        assert getattr(after.raw, name).value == pytest.approx(getattr(before.raw, name).value / factor**2, rel=1e-8)
        assert getattr(after.scale_free, name).value == pytest.approx(getattr(before.scale_free, name).value, rel=1e-8)


def test_nothing_is_left_changed_and_results_repeat():
    net = nn.Sequential(_net()[:3], nn.Dropout(0.5), nn.Linear(5, 2, dtype=torch.float64)).eval()
    net[0].train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    one, other = (gradients.moments(net, F.cross_entropy, iter(_batches()), statistics="batch") for _ in range(2))
    assert str(one) == str(other)
    assert torch.equal(torch.get_rng_state(), random)
    assert not net.training and net[0].training and not net[1].training
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_dropout_masks_are_part_of_the_noise():
    """One layer, a constant loss slope: without fresh masks every batch of equal samples would give one gradient."""
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1, bias=False)).double()
    distinct = torch.linspace(0, 1e-9, 200, dtype=torch.float64).view(50, 4, 1)
    batches = [(1 + d.expand(4, 3), torch.zeros(4)) for d in distinct]
    found = gradients.moments(net, lambda out, _: out.mean(), batches, statistics="batch")
    # Of 4 entries 2 * Bernoulli(1/2), averaged: variance 1/4 for each of 3 weights.
    assert found.variance.low < 0.75 < found.variance.high
    assert found.variance.value > 0.3


def test_frozen_parameters_are_left_out():
    net = _net()
    net[0].weight.requires_grad_(False)
    found = gradients.moments(net, F.cross_entropy, _batches(), statistics="batch")
    assert list(found.layers) == ["1", "3"] and not net[0].weight.requires_grad
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        gradients.moments(net.requires_grad_(False), F.cross_entropy, _batches(), statistics="batch")


def _windows():
    x, y = _data(400)
    return [(x[i:i + 16], y[i:i + 16]) for i in range(50)]


def _with(position, batch):
    batches = _batches()
    batches[position] = batch
    return batches


x0, y0 = _data(4, seed=9)


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        (_batches(49), "got 49 batches; the variance needs at least 50"),
        ([], "got 0 batches"),
        (_with(7, (x0[:3], y0[:3])), "batch 7 has 3 samples and those before 4"),
        ([*_batches(49, size=8), _batches(49, size=8)[3]], "batches 3 and 49 share 8 of their 8 samples"),
        (_windows(), "they overlap"),
        ([_batches()[0]] * 50, "all 50 batches hold the same 4 samples"),
        (_with(0, x0), "batch 0 must be a pair"),
        (_with(5, (x0 * math.nan, y0)), "the loss of this batch is nan"),
        ([(x[:1], y[:1]) for x, y in _batches()], "batch of one"),
    ],
    ids=["49", "none", "unequal", "twice", "windows", "all the same", "no pair", "nan", "one"],
)
def test_what_is_refused(batches, said):
    net = _net()
    random = torch.get_rng_state()
    with pytest.raises(ValueError, match=said):
        gradients.moments(net, F.cross_entropy, batches, statistics="batch")
    assert torch.equal(torch.get_rng_state(), random) and net.training


def test_an_infinite_gradient_at_a_finite_loss_is_refused_by_name():
    net = nn.Linear(3, 1, bias=False).double()
    nn.init.zeros_(net.weight)
    with pytest.raises(ValueError, match="gradient of weight is not finite on batch 0"):
        gradients.moments(net, lambda out, _: out.square().sum().sqrt(), _batches(), statistics="batch")


def test_statistics_has_no_default_and_other_words_are_refused():
    with pytest.raises(TypeError, match="statistics"):
        gradients.moments(_net(), F.cross_entropy, _batches())
    with pytest.raises(ValueError, match="statistics must be"):
        gradients.moments(_net(), F.cross_entropy, _batches(), statistics="train")


def test_a_batch_of_one_is_fine_with_running_statistics():
    batches = [(x[:1], y[:1]) for x, y in _batches()]
    assert gradients.moments(_net(), F.cross_entropy, batches, statistics="running").batch_size == 1


@settings(max_examples=15, deadline=None)
@given(n=st.integers(3, 300), share=st.floats(0.1, 1.0), seed=st.integers(0, 10**6))
def test_independent_batches_are_never_called_overlapping(n, share, seed):
    from cbn_lab.probes._overlap import refuse_overlap

    generator = torch.Generator().manual_seed(seed)
    size = min(max(1, int(share * n)), n - 1)
    refuse_overlap([set(torch.randperm(n, generator=generator)[:size].tolist()) for _ in range(50)])


def test_drawn_batches_are_independent_normalized_and_repeatable():
    digits = data.load("digits", "train")
    batches = list(gradients.draw(digits, batch_size=32, count=60, seed=4))
    again = list(gradients.draw(digits, batch_size=32, count=60, seed=4))
    assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(batches, again, strict=True))
    assert len(batches) == 60 and batches[0][0].shape == (32, 1, 8, 8)
    assert not torch.equal(batches[0][0], next(gradients.draw(digits, batch_size=32, seed=5))[0])
    assert abs(torch.cat([x for x, _ in batches]).mean()) < 0.05
    with pytest.raises(ValueError, match="between 1 and the data set's 1415"):
        next(gradients.draw(digits, batch_size=2000))


def test_it_says_what_it_measured():
    found = gradients.moments(_net(), F.cross_entropy, _batches(), statistics="running")
    said = str(found)
    for part in ("50 mini-batches of 4", "running statistics", "95 %", "50 gradient evaluations", str(found.variance)):
        assert part in said
    assert "batch size 4" in str(found.noise_scale)


@pytest.mark.parametrize("placement", ["none", "before", "after", "before_weight", "both", "complete"])
def test_every_placement_and_our_own_norms(placement):
    options = {"norm": "batch_norm_written_out"} if placement not in ("none", "complete") else {}
    torch.manual_seed(0)
    net = models.build("convnet", num_classes=10, in_channels=1, image_size=8, activation="tanh", placement=placement,
                       norm_options=options, widths=(4, 4))
    assert placement in ("none", "complete") or any(isinstance(m, norms.BatchNorm2d) for m in net.modules())
    batches = gradients.draw(data.load("digits", "train"), batch_size=16)
    found = gradients.moments(net, F.cross_entropy, batches, statistics="batch")
    assert found.second.value > found.variance.value > 0 and found.raw.identity_error < 1e-9
