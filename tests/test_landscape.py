"""The probes along the gradient against naive twins and a quadratic; the equality of Santurkar et al. (Theorem 4.1)."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import models, norms
from cbn_lab.probes import landscape

STEPS = (0.05, 0.1, 0.4)


def _net(eps=1e-5):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, eps=eps), nn.Tanh(), nn.Linear(6, 3)).double()
    nn.init.normal_(net[1].weight), nn.init.normal_(net[1].bias)
    return net


def _batch(n=12):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(n, 4, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (n,), generator=generator))


def _loss_and_gradients(net, batch):
    loss = F.cross_entropy(net(batch[0]), batch[1])
    return float(loss.detach()), torch.autograd.grad(loss, list(net.parameters()))


def _naive(net, batch, step, moving=None, scale_free=False):
    """(loss at w', ||g' - g||, ratio) of one step on one line; `moving` names the parameters that move."""
    names = [name for name, _ in net.named_parameters()]
    moving = names if moving is None else moving
    _, start = _loss_and_gradients(net, batch)
    other = copy.deepcopy(net)
    lengths = {n: float(p.detach().norm()) if scale_free else 1.0 for n, p in net.named_parameters()}
    with torch.no_grad():
        for (name, parameter), gradient in zip(other.named_parameters(), start, strict=True):
            if name in moving:
                parameter -= step * lengths[name] ** 2 * gradient
    loss, end = _loss_and_gradients(other, batch)
    pairs = {n: (lengths[n] * a, lengths[n] * b) for n, a, b in zip(names, start, end, strict=True) if n in moving}
    difference = math.sqrt(sum(float((b - a).square().sum()) for a, b in pairs.values()))
    distance = step * math.sqrt(sum(float(a.square().sum()) for a, _ in pairs.values()))
    return loss, difference, difference / distance


@pytest.mark.parametrize("scale_free", [False, True])
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_whole_and_layers_against_a_naive_twin(statistics, scale_free):
    net, batch = _net(), _batch()
    net(3 * batch[0] + 1)  # running statistics of their own
    measure = landscape.probe_scale_free if scale_free else landscape.probe
    passes = []
    counter = net.register_forward_hook(lambda *_: passes.append(1))
    found = measure(net, F.cross_entropy, batch, statistics=statistics, steps=STEPS)
    counter.remove()
    assert found.gradient_evaluations == len(passes)
    twin = copy.deepcopy(net).train(statistics == "batch")
    lines = {None: found.whole} | found.layers
    assert list(found.layers) == ["0", "1", "3"]
    for layer, line in lines.items():
        moving = None if layer is None else [n for n, _ in net.named_parameters() if n.rpartition(".")[0] == layer]
        for i, step in enumerate(STEPS):
            expected = _naive(twin, batch, step, moving, scale_free)
            got = (line.losses[i], line.predictiveness[i], line.ratios[i])
            assert got == pytest.approx(expected, rel=1e-9), (layer, step)
        assert line.smoothness == max(line.ratios)
    assert found.loss == pytest.approx(_loss_and_gradients(twin, batch)[0])
    assert found.gradient_evaluations == 1 + 3 * 4
    alone = measure(net, F.cross_entropy, batch, statistics=statistics, steps=STEPS, per_layer=False)
    assert (alone.whole, alone.layers, alone.gradient_evaluations) == (found.whole, {}, 4)


class _Quadratic(nn.Module):
    """0.5 w^T A w, whatever the input: the gradient is A w."""

    def __init__(self, spectrum):
        super().__init__()
        self.w = nn.Parameter(torch.ones(len(spectrum), dtype=torch.float64))
        self.register_buffer("a", torch.tensor(spectrum, dtype=torch.float64))

    def forward(self, x):
        return (0.5 * self.a * self.w.square()).sum()


def test_on_a_quadratic_every_value_is_known():
    spectrum, steps = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64), (0.1, 0.3)
    net = _Quadratic(spectrum.tolist())
    found = landscape.probe(net, lambda out, _: out, _batch(), statistics="running", steps=steps)
    g = spectrum  # A w at w = 1
    for i, step in enumerate(steps):
        assert found.whole.losses[i] == pytest.approx(float(0.5 * (spectrum * (1 - step * g) ** 2).sum()))
        assert found.whole.predictiveness[i] == pytest.approx(float(step * (spectrum * g).norm()))
        assert found.whole.ratios[i] == pytest.approx(float((spectrum * g).norm() / g.norm()))
    assert 1.0 < found.whole.smoothness < 5.0  # between the smallest and the largest eigenvalue
    assert found.whole.squared_gradient == pytest.approx(30.0)
    assert found.whole.scale_free_smoothness == pytest.approx(3 * found.whole.smoothness)


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_rescaling_the_weights_before_a_norm_leaves_the_scale_free_curve(factor):
    net, batch = _net(eps=1e-30), _batch()
    free, raw = (measure(net, F.cross_entropy, batch, statistics="batch", steps=STEPS)
                 for measure in (landscape.probe_scale_free, landscape.probe))
    with torch.no_grad():
        net[0].weight.mul_(factor)
    after = landscape.probe_scale_free(net, F.cross_entropy, batch, statistics="batch", steps=STEPS)
    for line, same in ((after.whole, free.whole), *((after.layers[n], free.layers[n]) for n in free.layers)):
        assert line.losses == pytest.approx(same.losses, rel=1e-8)
        assert line.predictiveness == pytest.approx(same.predictiveness, rel=1e-7)
        assert line.ratios == pytest.approx(same.ratios, rel=1e-7)
    # Raw: the same points are reached with steps larger by factor^2, and the smoothness is smaller by factor^2.
    steps = [factor**2 * s for s in STEPS]
    line = landscape.probe(net, F.cross_entropy, batch, statistics="batch", steps=steps).layers["0"]
    assert line.losses == pytest.approx(raw.layers["0"].losses, rel=1e-8)
    assert line.smoothness == pytest.approx(raw.layers["0"].smoothness / factor**2, rel=1e-7)
    assert line.scale_free_smoothness == pytest.approx(raw.layers["0"].scale_free_smoothness, rel=1e-7)


def test_one_dropout_mask_for_all_points_and_nothing_left_changed():
    net = nn.Sequential(nn.Dropout(0.5), _net()).eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    found = landscape.probe(net, F.cross_entropy, _batch(), statistics="batch", steps=(1e-12, 0.1))
    assert found.whole.losses[0] == pytest.approx(found.loss, abs=1e-9), "another mask gives another loss"
    assert found.whole.predictiveness[0] < 1e-8
    assert torch.equal(torch.get_rng_state(), random) and not any(m.training for m in net.modules())
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_layer_without_influence_does_not_move():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)).double()
    net.unused = nn.Linear(2, 2).double()
    net.forward = lambda x: net[1](net[0](x))
    found = landscape.probe(net, F.cross_entropy, _batch(), statistics="running", steps=STEPS)
    assert found.layers["unused"].smoothness == 0.0
    assert found.layers["unused"].losses == (found.loss,) * 3


def test_around_spans_a_half_to_four_times_the_learning_rate():
    steps = landscape.around(0.2, count=4)
    assert steps == pytest.approx((0.1, 0.2, 0.4, 0.8))
    for bad in ((0.0, 8), (math.nan, 8), (0.1, 1)):
        with pytest.raises(ValueError, match="positive learning rate"):
            landscape.around(*bad)


@pytest.mark.parametrize(
    ("steps", "said"),
    [((), "at least one"), ((0.1, 0.0), "positive"), ((-0.1,), "positive"), ((math.inf,), "finite"),
     ((1e200,), r"at step 1e\+200")],
)
def test_steps_that_are_refused(steps, said):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with pytest.raises(ValueError, match=said):
        landscape.probe(net, F.cross_entropy, _batch(), statistics="running", steps=steps)


def test_no_direction_no_parameters_no_default_for_statistics():
    net = _net()
    with pytest.raises(ValueError, match="gradient of this batch is zero"):
        landscape.probe(net, lambda out, _: 0 * out.sum(), _batch(), statistics="batch", steps=STEPS)
    with pytest.raises(TypeError, match="statistics"):
        landscape.probe(net, F.cross_entropy, _batch(), steps=STEPS)
    with pytest.raises(ValueError, match="batch of one"):
        landscape.probe(net, F.cross_entropy, _batch(1), statistics="batch", steps=STEPS)
    with pytest.raises(ValueError, match="no parameter"):
        landscape.probe(net.requires_grad_(False), F.cross_entropy, _batch(), statistics="batch", steps=STEPS)


@pytest.mark.parametrize("placement", ["none", "before", "after", "before_weight", "both", "complete"])
def test_every_placement(placement):
    torch.manual_seed(0)
    net = models.build("convnet", num_classes=3, in_channels=1, image_size=8, activation="tanh", placement=placement,
                       widths=(4, 4)).double()
    batch = (torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.randint(0, 3, (8,)))
    found = landscape.probe(net, F.cross_entropy, batch, statistics="batch", steps=STEPS)
    moved = _naive(net.train(), batch, STEPS[1])
    assert (found.whole.losses[1], found.whole.predictiveness[1], found.whole.ratios[1]) == pytest.approx(moved)


def test_it_says_what_it_measured():
    found = landscape.probe(_net(), F.cross_entropy, _batch(), statistics="batch", steps=STEPS)
    for part in ("mini-batch of 12", "batch statistics", "3 steps from 0.05 to 0.4", "13 gradient evaluations",
                 f"{found.whole.smoothness:.3g}"):
        assert part in str(found)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d, norms.BatchNorm1d], ids=["torch", "ours"])
@pytest.mark.parametrize("gamma", [1.0, 0.3, 2.5])
def test_santurkar_theorem_4_1_is_an_equality_to_12_digits(layer, gamma):
    """||grad_y L||^2 = gamma^2/sigma^2 (||G||^2 - <1, G>^2/m - <G, yhat>^2/m), G the gradient at the norm's output."""
    m, channels = 17, 5
    generator = torch.Generator().manual_seed(int(10 * gamma))
    y = (torch.randn(m, channels, generator=generator, dtype=torch.float64)
         * torch.tensor([0.1, 0.5, 1.0, 3.0, 20.0], dtype=torch.float64) + 2).requires_grad_()
    norm = layer(channels, eps=1e-40).double()  # the theorem has no eps
    nn.init.constant_(norm.weight, gamma), nn.init.constant_(norm.bias, -0.7)
    out = norm(y)
    (above,) = torch.autograd.grad(out.sin().sum() + (out[:, :1] * out).sum(), out, retain_graph=True)
    (left,) = torch.autograd.grad(out, y, above)
    sigma = y.detach().std(0, correction=0)
    yhat = (y.detach() - y.detach().mean(0)) / sigma
    inside = above.square().sum(0) - above.sum(0) ** 2 / m - (above * yhat).sum(0) ** 2 / m
    right = gamma**2 / sigma**2 * inside
    torch.testing.assert_close(left.square().sum(0), right, rtol=1e-12, atol=0)
    # Neither subtraction is idle here, and where sigma is much below gamma the gradient grows.
    assert ((above.sum(0) ** 2 / m) > 1e-3).all() and (((above * yhat).sum(0) ** 2 / m) > 1e-3).all()
    if gamma >= 1:
        assert (left.square().sum(0) > above.square().sum(0))[0]
