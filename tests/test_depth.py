"""Growth of the squared gradient with depth: the rates of Yang et al. 2019, and a naive twin for the profile."""

import math
from statistics import stdev

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import activations, models
from cbn_lab.probes import depth


def test_relu_grows_at_the_rate_that_yang_et_al_report():
    """1.480 a layer at batch 128 (infinite width). Six seeds at width 1000: standard error 0.0014 a mean; 4 of them."""
    found = depth.growth("relu", "before", statistics="batch", width=1000, depth=16, seeds=range(6))
    error = found.rate.standard_error
    assert error < 0.003
    assert abs(found.rate.value - 1.480) < 0.006, f"{found.rate}"
    assert abs(found.rate.value - math.pi / (math.pi - 1)) > 0.006, "that is the rate of an infinite batch"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("relu", 1.478, 1.491), ("tanh", 1.19, 1.19), ("sigmoid", 1.04, 1.04), ("selu", 1.08, 1.08),
     ("swish", 1.26, 1.24)],
)
def test_swapping_the_order_does_not_cure_it(name, before, after):
    """The Monte-Carlo values of width 1000, depth 25 at batch 128, here at width 300: within 3 %, the seeds' spread."""
    for placement, expected in (("before", before), ("after", after)):
        found = depth.growth(name, placement, statistics="batch", width=300, depth=14, seeds=range(3))
        assert found.rate.value == pytest.approx(expected, rel=0.03), (placement, str(found.rate))
        assert found.rate.low > 1.0


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("placement", ["before", "after", "before_weight", "both", "complete"])
def test_every_placement_with_a_norm_grows_at_the_predicted_rate(placement, statistics):
    found = depth.growth("relu", placement, statistics=statistics, width=300, depth=12, seeds=(0, 1))
    assert found.rate.value == pytest.approx(depth.predicted("relu"), rel=0.05)
    assert found.weight_rate.value == pytest.approx(depth.predicted("relu"), rel=0.08)


def test_a_smaller_batch_grows_faster_and_no_norm_shrinks():
    small = depth.growth("relu", statistics="batch", width=300, depth=12, batch_size=16, seeds=(0, 1))
    assert small.rate.value > 1.53
    none = depth.growth("relu", "none", statistics="batch", width=300, depth=12, seeds=(0, 1))
    assert none.rate.value == pytest.approx(0.5, rel=0.05)  # E f'^2 = 1/2, and nothing is divided by
    assert none.weight_rate.value == pytest.approx(1.0, rel=0.1)  # signal and gradient shrink alike, one up, one down


def test_prediction_in_closed_form():
    """ReLU: E f'^2 = 1/2, Var f = 1/2 - 1/(2 pi). Linear: 1. z + b he_2: (1 + 4 b^2)/(1 + 2 b^2)."""
    assert depth.predicted("relu") == pytest.approx(math.pi / (math.pi - 1), abs=1e-8)
    assert depth.predicted("identity") == pytest.approx(1.0, abs=1e-8)
    with torch.no_grad():
        assert depth.predicted("relu") == pytest.approx(math.pi / (math.pi - 1), abs=1e-8)

    class Mixed(nn.Module):
        def forward(self, z):
            return z + 0.5 * (z * z - 1)

    activations.register("test_mixed", Mixed)
    try:
        assert depth.predicted("test_mixed") == pytest.approx((1 + 4 * 0.25) / (1 + 2 * 0.25), abs=1e-8)
    finally:
        del activations._REGISTRY["test_mixed"]


@pytest.mark.parametrize("name", activations.names())
def test_prediction_by_autograd_on_a_fine_grid(name):
    z = torch.linspace(-12, 12, 400_000, dtype=torch.float64, requires_grad=True)  # an even number: 0 is no point
    f = activations.get(name)(z)
    (slope,) = torch.autograd.grad(f.sum(), z)
    weight = torch.exp(-0.5 * z.detach() ** 2) / math.sqrt(2 * math.pi) * (24 / 399_999)
    variance = weight @ (f.detach() - weight @ f.detach()).square()
    assert depth.predicted(name) == pytest.approx(float(weight @ slope.square() / variance), abs=1e-7)
    assert depth.predicted(name) > 1.0 or name == "identity"


def _net(placement="before"):
    torch.manual_seed(0)
    return models.build("convnet", num_classes=3, in_channels=1, image_size=8, activation="tanh", placement=placement,
                        widths=(4, 6)).double()


def _batch(n=8):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (n,), generator=generator))


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("placement", ["none", "before", "complete", "before_weight"])
def test_profile_against_a_naive_twin(placement, statistics):
    net, (x, y) = _net(placement), _batch()
    found = depth.profile(net, F.cross_entropy, (x, y), statistics=statistics)
    net.train(statistics == "batch")
    steps = [x.clone().requires_grad_()]
    for child in net:
        steps.append(child(steps[-1]))
    weights = {name: [p for p in child.parameters() if p.dim() > 1] for name, child in net.named_children()}
    loss = F.cross_entropy(steps[-1], y)
    for h, squared, free in zip(steps, found.boundaries, found.boundaries_free, strict=True):
        (g,) = torch.autograd.grad(loss, h, retain_graph=True)
        assert squared == pytest.approx(float(g.square().sum()), rel=1e-10)
        assert free == pytest.approx(float(g.square().sum() * h.detach().square().sum()), rel=1e-10)
    assert set(found.weights) == {name for name, group in weights.items() if group}
    for name in found.weights:
        (weight,) = weights[name]
        (g,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert found.weights[name] == pytest.approx(float(g.square().sum()), rel=1e-10)
        assert found.weights_free[name] == pytest.approx(float(g.square().sum() * weight.detach().square().sum()))


def test_profile_leaves_everything_as_it_was():
    net = _net().eval()
    net[0].weight.requires_grad_(False)
    state, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    depth.profile(net, F.cross_entropy, _batch(), statistics="batch")
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random) and not net.training
    assert not net[0].weight.weight.requires_grad and net[1].weight.weight.requires_grad
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
    with pytest.raises(ValueError, match="batch of one|1, 6, 2, 2|one value"):
        depth.profile(nn.Sequential(nn.Flatten(), nn.Linear(64, 3).double(), nn.BatchNorm1d(3).double()),
                      F.cross_entropy, _batch(1), statistics="batch")
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


def test_growth_is_the_mean_of_its_seeds_in_the_logarithm_and_leaves_the_random_state():
    random = torch.get_rng_state()
    found = depth.growth("tanh", "after", statistics="batch", width=40, depth=9, seeds=(3, 4, 5))
    assert torch.equal(torch.get_rng_state(), random)
    logs = [math.log(p.boundaries[3] / p.boundaries[6]) / 3 for p in found.profiles]
    assert found.rate.value == pytest.approx(math.exp(sum(logs) / 3))
    assert [math.log(r) for r in found.per_seed] == pytest.approx(logs)
    half = 4.302653 * stdev(logs) / math.sqrt(3)  # Student's 97.5 % quantile with 2 degrees of freedom
    assert (math.log(found.rate.low), math.log(found.rate.high)) == pytest.approx(
        (sum(logs) / 3 - half, sum(logs) / 3 + half), rel=1e-5)
    weights = [list(p.weights.values()) for p in found.profiles]
    expected = [math.log(w[3] / w[5]) / 2 for w in weights]
    assert math.log(found.weight_rate.value) == pytest.approx(sum(expected) / 3)
    assert found.gradient_evaluations == 3
    again = depth.growth("tanh", "after", statistics="batch", width=40, depth=9, seeds=(3, 4, 5))
    assert again.rate == found.rate


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [({"seeds": (0,)}, ValueError, "at least 2 seeds"), ({"depth": 7}, ValueError, "depth of at least 8"),
     ({"statistics": "eval"}, ValueError, "statistics must be"),
     ({"placement": "behind"}, ValueError, "unknown placement"),
     ({"activation": "step"}, ValueError, "unknown activation"), ({"batch_size": 1}, ValueError, "batch of one")],
)
def test_growth_refuses(options, error, said):
    with pytest.raises(error, match=said):
        depth.growth(**{"statistics": "batch", "width": 8, "depth": 8, "seeds": (0, 1)} | options)


def test_profile_refuses_and_rate_checks_its_ends():
    with pytest.raises(TypeError, match="nn.Sequential"):
        depth.profile(nn.Linear(2, 2), F.cross_entropy, _batch(), statistics="batch")
    with pytest.raises(TypeError, match="statistics"):
        depth.profile(_net(), F.cross_entropy, _batch())
    found = depth.profile(_net(), F.cross_entropy, _batch(), statistics="batch")
    assert found.rate(0, 2) == pytest.approx((found.boundaries[0] / found.boundaries[2]) ** 0.5)
    with pytest.raises(ValueError, match="first < last"):
        found.rate(2, 2)
    flat = depth.profile(_net(), lambda out, _: 0 * out.sum(), _batch(), statistics="batch")
    with pytest.raises(ValueError, match="the gradient is zero"):
        flat.rate()


def test_it_says_what_it_measured():
    found = depth.growth("selu", "after", statistics="running", width=30, depth=8, seeds=(0, 1))
    for part in ("selu, after", f"{found.rate.value:.3f}", "width 30, 8 blocks, batch 128", "running statistics"):
        assert part in str(found)
    assert "2 layers" in str(depth.profile(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), lambda out, _: out.sum(),
                                           (torch.randn(3, 4), None), statistics="batch"))


def test_profile_of_children_that_work_in_place_is_that_of_others():
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    first, last = nn.Linear(4, 4).double(), nn.Linear(4, 3).double()
    found = [depth.profile(nn.Sequential(nn.ReLU(inplace), first, nn.ReLU(inplace), last), F.cross_entropy, (x, y),
                           statistics="batch") for inplace in (False, True)]
    assert found[0] == found[1]
    assert found[0].boundaries[2] < found[0].boundaries[3]  # the second ReLU stops some of the gradient


def test_profile_of_a_child_that_stands_twice_has_one_boundary_a_call():
    tied = nn.Linear(4, 4).double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 2])
    found = depth.profile(nn.Sequential(tied, nn.Tanh(), tied), F.cross_entropy, (x, y), statistics="batch")
    h = [x.clone().requires_grad_()]
    for layer in (tied, torch.tanh, tied):
        h.append(layer(h[-1]))
    expected = [float(g.square().sum()) for g in torch.autograd.grad(F.cross_entropy(h[-1], y), h)]
    assert found.boundaries == pytest.approx(expected, rel=1e-12)
