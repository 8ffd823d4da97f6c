"""Internal covariate shift against a naive twin, and where it must vanish."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import models
from cbn_lab.probes import shift


def _net(placement="before", activation="tanh"):
    torch.manual_seed(0)
    return models.build("mlp", num_classes=3, in_channels=1, image_size=2, activation=activation, placement=placement,
                        width=6, depth=3).double()


def _batch(n=10):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(n, 1, 2, 2, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (n,), generator=generator))


def _gradients(net, batch):
    loss = F.cross_entropy(net(batch[0]), batch[1])
    named = dict(net.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("placement", ["none", "before", "after", "both", "complete"])
def test_against_a_naive_twin(placement, statistics):
    net, batch, step = _net(placement), _batch(), 0.3
    state, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    passes = []
    counter = net.register_forward_hook(lambda *_: passes.append(1))
    found = shift.internal(net, F.cross_entropy, batch, statistics=statistics, step=step)
    counter.remove()
    assert found.gradient_evaluations == len(passes)
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    net.train(statistics == "batch")
    start = _gradients(net, batch)
    order = list(dict.fromkeys(name.rpartition(".")[0] for name in start))
    assert list(found.layers) == order and found.gradient_evaluations == len(order)
    for i, layer in enumerate(order):
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                if name.rpartition(".")[0] in order[:i]:
                    p -= step * start[name]
        own = [name for name in start if name.rpartition(".")[0] == layer]
        a = torch.cat([start[name].flatten() for name in own])
        b = torch.cat([_gradients(moved, batch)[name].flatten() for name in own])
        one = found.layers[layer]
        assert one.difference == pytest.approx(float((b - a).norm()), rel=1e-9, abs=1e-15)
        assert (one.before, one.after) == pytest.approx((float(a.norm()), float(b.norm())), rel=1e-9)
        assert one.cosine == pytest.approx(float(F.cosine_similarity(a, b, dim=0)), abs=1e-9)
        assert one.relative == pytest.approx(one.difference / one.before)
    assert found.layers[order[0]].difference == 0.0 < found.layers[order[-1]].difference


def test_it_shrinks_with_the_step_and_says_what_it_measured():
    net, batch = _net(), _batch()
    large, small = (shift.internal(net, F.cross_entropy, batch, statistics="batch", step=s) for s in (1e-3, 1e-5))
    last = list(large.layers)[-1]
    assert large.layers[last].difference == pytest.approx(100 * small.layers[last].difference, rel=0.02)
    assert small.layers[last].cosine == pytest.approx(1.0, abs=1e-6)
    for part in ("step of 0.001", "mini-batch of 10", "batch statistics", f"{large.gradient_evaluations} gradient"):
        assert part in str(large)


def test_a_layer_without_a_gradient_has_no_shift():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).double()
    found = shift.internal(net, lambda out, _: 0 * out.sum(), (torch.randn(4, 2).double(), torch.zeros(4)),
                           statistics="running", step=0.1)
    assert [(s.difference, s.cosine, s.relative) for s in found.layers.values()] == [(0.0, 1.0, 0.0)] * 2


@pytest.mark.parametrize("step", [0.0, -1.0, math.inf, math.nan])
def test_steps_that_are_refused(step):
    with pytest.raises(ValueError, match="positive, finite"):
        shift.internal(_net(), F.cross_entropy, _batch(), statistics="batch", step=step)


def test_other_refusals():
    with pytest.raises(TypeError, match="statistics"):
        shift.internal(_net(), F.cross_entropy, _batch(), step=0.1)
    with pytest.raises(ValueError, match="not finite|loss of this batch is nan"):
        shift.internal(_net("none", "relu"), F.cross_entropy, _batch(), statistics="batch", step=1e300)
    with pytest.raises(ValueError, match="no parameter"):
        shift.internal(_net().requires_grad_(False), F.cross_entropy, _batch(), statistics="batch", step=0.1)
