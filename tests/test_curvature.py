"""Curvature: products against finite differences, eigenvalues and traces against dense twins, invariances, edges."""

import copy
import re
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cbn_lab import activations, blocks, models
from cbn_lab.probes import _matrices, curvature
from cbn_lab.probes._frozen import frozen

CBN_VARIANTS = {
    "complete, standardize before": {"standardize": "before", "gamma": "before", "shift_lr_multiplier": 1.0},
    "complete, standardize both": {"standardize": "both", "gamma": "both"},
    "complete, no centring": {"center": False},
    "complete, no scaling": {"scale": False},
    "complete, no shifts": {"pre_shift": False, "post_shift": False, "gamma": None},
}
# name -> (placement, norm options): every placement with every norm it can hold, and the variants of CBN.
NETS = {name: (name, {}) for name in blocks.placements()}
NETS |= {f"{name}, written out": (name, {"norm": "batch_norm_written_out"})
         for name in blocks.placements() if name not in ("none", "complete")}
NETS |= {name: ("complete", options) for name, options in CBN_VARIANTS.items()}
BOTH = ("batch", "running")


def small(name="before", activation="tanh", model="mlp", **more):
    """A net of 60 to 200 parameters in float64, with shifts, gammas and running statistics that are not the initial."""
    placement, options = NETS[name]
    torch.manual_seed(0)
    size = {"image_size": 2, "width": 5, "depth": 2} if model == "mlp" else {"image_size": 5, "widths": (3, 3)}
    net = models.build(model, num_classes=3, in_channels=2, activation=activation, placement=placement,
                       norm_options=options | more, **size).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for _ in range(3):
            net(a_batch(model, seed=7)[0])
    return net


def a_batch(model="mlp", n=6, seed=5):
    generator = torch.Generator().manual_seed(seed)
    side = 2 if model == "mlp" else 5
    inputs = torch.randn(n, 2, side, side, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (n,), generator=generator)


def with_vector(net, statistics):
    """(vector of all parameters, function from such a vector to the outputs), of a copy in the right mode."""
    copied = copy.deepcopy(net).train(statistics == "batch")
    shapes = {name: p.shape for name, p in copied.named_parameters()}

    def outputs(vector, inputs):
        pieces = vector.split([shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return torch.func.functional_call(copied, named, inputs)

    return torch.cat([p.detach().flatten() for p in net.parameters()]), outputs


def dense_hessian(net, loss_fn, batch, statistics):
    vector, outputs = with_vector(net, statistics)
    return torch.autograd.functional.hessian(lambda w: loss_fn(outputs(w, batch[0]), batch[1]), vector).numpy()


def dense_gauss_newton(net, loss_fn, batch, statistics):
    vector, outputs = with_vector(net, statistics)
    jacobian = torch.autograd.functional.jacobian(lambda w: outputs(w, batch[0]).flatten(), vector)
    z = outputs(vector, batch[0])
    h = torch.autograd.functional.hessian(lambda flat: loss_fn(flat.view(z.shape), batch[1]), z.detach().flatten())
    return (jacobian.T @ h @ jacobian).numpy()


def tensor_norms(net):
    return np.concatenate([np.full(p.numel(), float(p.detach().norm())) for p in net.parameters()])


def slices(net):
    ends = np.cumsum([p.numel() for p in net.parameters()])
    return {name: slice(end - p.numel(), end) for (name, p), end in zip(net.named_parameters(), ends, strict=True)}


# --- products --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics, name", list(product(BOTH, NETS)))
@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_hessian_products_are_finite_differences_of_gradients(model, statistics, name):
    net, batch = small(name, model=model), a_batch(model)
    vector, outputs = with_vector(net, statistics)
    along = torch.randn(len(vector), dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def gradient(w):
        w = w.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(outputs(w, batch[0]), batch[1]), w)[0]

    step = 1e-4  # fourth-order differences: error about step^4, rounding 1e-16 / step
    near, far = (gradient(vector + s * along) - gradient(vector - s * along) for s in (step, 2 * step))
    expected = ((8 * near - far) / (12 * step)).numpy()
    with frozen(net, statistics=statistics) as probe:
        found = _matrices.hessian(probe, F.cross_entropy, batch, _matrices.selected(net)[0]) @ along.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("statistics, name", list(product(BOTH, NETS)))
def test_gauss_newton_products_are_finite_differences_of_outputs(statistics, name):
    """v'Gv = (Jv)' H_z (Jv) with Jv by finite differences of the outputs of the whole batch."""
    net, batch = small(name), a_batch()
    vector, outputs = with_vector(net, statistics)
    along = torch.randn(len(vector), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-4
    with torch.no_grad():
        near, far = (outputs(vector + s * along, batch[0]) - outputs(vector - s * along, batch[0])
                     for s in (step, 2 * step))
        jv = (8 * near - far) / (12 * step)
        p = outputs(vector, batch[0]).softmax(1)
        # H_z of the mean cross-entropy: (diag p - p p') / n for each sample.
        expected = float(((p * jv * jv).sum(1) - (p * jv).sum(1) ** 2).mean())
    with frozen(net, statistics=statistics) as probe:
        matrix = _matrices.gauss_newton(probe, F.cross_entropy, batch, _matrices.selected(net)[0])
        assert along.numpy() @ (matrix @ along.numpy()) == pytest.approx(expected, rel=1e-7)


# --- eigenvalues and traces against dense twins ----------------------------------------------------------------------


@pytest.mark.parametrize("statistics, name", list(product(BOTH, NETS)))
def test_ends_of_the_spectrum(statistics, name):
    net, batch = small(name), a_batch()
    d = tensor_norms(net)
    for dense, probes in ((dense_hessian, {curvature.lambda_max: -1, curvature.lambda_min: 0}),
                          (dense_gauss_newton, {curvature.gauss_newton_max: -1})):
        matrix = dense(net, F.cross_entropy, batch, statistics)
        values, free = np.linalg.eigvalsh(matrix), np.linalg.eigvalsh(d[:, None] * matrix * d)
        for probe, end in probes.items():
            found = probe(net, F.cross_entropy, batch, statistics=statistics)
            assert found.value == pytest.approx(values[end], rel=1e-7, abs=1e-8 * np.abs(values).max())
            assert found.scale_free == pytest.approx(free[end], rel=1e-7, abs=1e-8 * np.abs(free).max())
            assert abs(found.value - values[end]) <= found.residual + 1e-13 <= 2e-6 * np.abs(values).max()


@pytest.mark.parametrize("statistics", BOTH)
def test_blocks_of_single_layers(statistics):
    net, batch = small("both"), a_batch()
    matrix = dense_hessian(net, F.cross_entropy, batch, statistics)
    where, d = slices(net), tensor_norms(net)
    found = curvature.per_layer(curvature.lambda_max, net, F.cross_entropy, batch, statistics=statistics)
    assert set(found) == {name.rpartition(".")[0] for name in where}
    for layer, result in found.items():
        rows = np.concatenate([np.arange(len(d))[where[name]] for name in result.scope.parameters])
        block = matrix[np.ix_(rows, rows)]
        assert result.value == pytest.approx(np.linalg.eigvalsh(block)[-1], rel=1e-7, abs=1e-10), layer
        free = np.linalg.eigvalsh(d[rows, None] * block * d[rows])[-1]
        assert result.scale_free == pytest.approx(free, rel=1e-7, abs=1e-10), layer
    whole = curvature.lambda_max(net, F.cross_entropy, batch, statistics=statistics)
    assert whole.value >= max(result.value for result in found.values())


@pytest.mark.parametrize("matrix, dense", [("hessian", dense_hessian), ("gauss_newton", dense_gauss_newton)])
def test_small_traces_are_exact(matrix, dense):
    net, batch = small("complete"), a_batch()
    twin, d = dense(net, F.cross_entropy, batch, "batch"), tensor_norms(net)
    found = curvature.trace(net, F.cross_entropy, batch, statistics="batch", matrix=matrix, products=len(d))
    assert found.value == pytest.approx(np.trace(twin), rel=1e-9)
    assert found.scale_free == pytest.approx(d**2 @ twin.diagonal(), rel=1e-9)
    assert found.estimate.low == found.value == found.estimate.high and found.products == len(d)
    layers = curvature.per_layer(curvature.trace, net, F.cross_entropy, batch, statistics="batch", matrix=matrix,
                                 products=len(d))
    assert sum(layer.value for layer in layers.values()) == pytest.approx(np.trace(twin), rel=1e-9)


def test_intervals_of_the_trace_cover():
    net, batch = small("before"), a_batch()
    twin, d = dense_hessian(net, F.cross_entropy, batch, "batch"), tensor_norms(net)
    exact = np.trace(twin), d**2 @ twin.diagonal()
    trials = 100
    found = [curvature.trace(net, F.cross_entropy, batch, statistics="batch", seed=seed) for seed in range(trials)]
    for which, truth in zip(("estimate", "scale_free_estimate"), exact, strict=True):
        estimates = [getattr(one, which) for one in found]
        covered = sum(e.low <= truth <= e.high for e in estimates)
        assert covered >= 88  # of 100 at 95 %: below that in 2 runs of 1,000, were the intervals exact
        mean, spread = np.mean([e.value for e in estimates]), np.std([e.value for e in estimates])
        assert abs(mean - truth) < 4 * spread / trials**0.5
        assert np.mean([e.standard_error for e in estimates]) == pytest.approx(spread, rel=0.3)


# --- what the statistics and the scale of the weights do -------------------------------------------------------------


def test_train_and_eval_mode_have_different_hessians():
    net, batch = small("before"), a_batch()
    for probe in (curvature.lambda_max, curvature.lambda_min, curvature.gauss_newton_max, curvature.trace):
        batch_value, running = (probe(net, F.cross_entropy, batch, statistics=s).value for s in BOTH)
        assert abs(batch_value - running) > 1e-2 * abs(running)
    none = small("none")
    values = [curvature.lambda_max(none, F.cross_entropy, batch, statistics=s).value for s in BOTH]
    assert values[0] == values[1]


SCALED = re.compile(r"\.weight\.(weight|bias)$|\.pre_shift$")  # of a block; the head's are called 3.weight, 3.1.weight


def rescaled(net, factor=10.0):
    """A copy with the weight layers of all blocks, and what is added to them before the activation, multiplied."""
    copied = copy.deepcopy(net)
    names = [name for name, _ in net.named_parameters() if SCALED.search(name)]
    assert len(names) >= 2
    with torch.no_grad():
        for name in names:
            copied.get_parameter(name).mul_(factor)
    return copied, names


def is_scale_invariant(placement, activation):
    """weight -> BN: always. weight -> f -> BN: where f(az) = a f(z). Without a norm: never."""
    return placement in ("before", "both") or (placement != "none" and activations.is_homogeneous(activation))


@pytest.mark.parametrize("placement, activation", list(product(blocks.placements(), ("relu", "tanh", "swish"))))
def test_weights_before_norms_times_ten(placement, activation):
    """Raw curvature falls to a hundredth, scale-free values stay, exactly where the loss does not see the scale."""
    options = {} if placement == "none" else {"eps": 1e-14}  # a larger one sees the scale of the weights
    net, batch = small(placement, activation, **options), a_batch()
    ten, names = rescaled(net)
    options = {"statistics": "batch", "parameters": names}
    invariant = is_scale_invariant(placement, activation)
    for probe in (curvature.lambda_max, curvature.lambda_min, curvature.gauss_newton_max):
        one, other = (probe(model, F.cross_entropy, batch, **options) for model in (net, ten))
        close = other.value == pytest.approx(one.value / 100, rel=1e-5)
        close_free = other.scale_free == pytest.approx(one.scale_free, rel=1e-5)
        assert (close, close_free) == (invariant, invariant)
    # All parameters: gammas and the head keep their scale, so the raw value does what it likes.
    one, other = (curvature.lambda_max(model, F.cross_entropy, batch, statistics="batch") for model in (net, ten))
    assert (other.scale_free == pytest.approx(one.scale_free, rel=1e-5)) == invariant
    assert other.value != pytest.approx(one.value / 100, rel=1e-2)


def test_running_statistics_see_the_scale():
    net, batch = small("before"), a_batch()
    ten, names = rescaled(net)
    one, other = (curvature.lambda_max(model, F.cross_entropy, batch, statistics="running", parameters=names)
                  for model in (net, ten))
    assert other.scale_free != pytest.approx(one.scale_free, rel=0.1)


# --- why gradients are differentiated here, and not what torch.func.jacrev returns ------------------------------------

NORMS = {
    "batch_norm": lambda z, gamma: F.batch_norm(z, None, None, gamma, None, training=True),
    "layer_norm": lambda z, gamma: F.layer_norm(z, (3,), gamma),
    "instance_norm": lambda z, gamma: F.instance_norm(z.T[None], weight=gamma)[0].T,
}
func = torch.func
FUNC_HESSIANS = {
    "hessian, which is jacfwd(jacrev)": lambda f, w: func.hessian(f)(w),
    "jacrev(jacrev)": lambda f, w: func.jacrev(func.jacrev(f))(w),
    "jacfwd(jacfwd)": lambda f, w: func.jacfwd(func.jacfwd(f))(w),
    "jacrev(jacfwd)": lambda f, w: func.jacrev(func.jacfwd(f))(w),
    "jacfwd(grad)": lambda f, w: func.jacfwd(func.grad(f))(w),
    "jacrev(grad)": lambda f, w: func.jacrev(func.grad(f))(w),
}


def normed_loss(norm):
    """A loss of 15 numbers: a weight matrix [3, 4] and gamma [3]. The weight and gamma together are what matters."""
    generator = torch.Generator().manual_seed(0)
    x, target, w = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((6, 4), (6, 3), (15,)))
    return lambda w: (NORMS[norm](x @ w[:12].view(3, 4).T, w[12:]).tanh() * target).sum(), w


def by_differences(f, w, step=1e-4):
    """Hessian from gradients, fourth order."""
    def gradient(at):
        at = at.clone().requires_grad_()
        return torch.autograd.grad(f(at), at)[0]

    rows = []
    for unit in torch.eye(len(w), dtype=w.dtype):
        near, far = (gradient(w + s * unit) - gradient(w - s * unit) for s in (step, 2 * step))
        rows.append((8 * near - far) / (12 * step))
    return torch.stack(rows)


def relative_error(found, expected):
    return float((found - expected).detach().norm() / expected.norm())


in_torch = pytest.mark.filterwarnings("ignore:.torch.jit.script. is:FutureWarning")  # forward mode calls it


@in_torch
@pytest.mark.parametrize("norm", NORMS)
def test_double_backward_and_derivatives_of_grad_are_right_through_norms(norm):
    f, w = normed_loss(norm)
    expected = by_differences(f, w)
    for way in ("jacfwd(grad)", "jacrev(grad)"):
        assert relative_error(FUNC_HESSIANS[way](f, w), expected) < 1e-8
    assert relative_error(torch.autograd.functional.hessian(f, w), expected) < 1e-8


@in_torch
@pytest.mark.xfail(reason="torch.func through norms is wrong, 10 to 100 % in torch 2.15; reported as XPASS once it is "
                          "right, which then is good news and no failure", strict=False, raises=AssertionError)
@pytest.mark.parametrize("norm, way", list(product(NORMS, list(FUNC_HESSIANS)[:4])))
def test_torch_func_is_right_through_norms(norm, way):
    """Seen in torch 2.13 and 2.15: the derivative of a jvp is wrong, and that of a jacrev where gamma is among the
    variables. Neither raises. Differentiate `grad` (see the test above)."""
    f, w = normed_loss(norm)
    assert relative_error(FUNC_HESSIANS[way](f, w), by_differences(f, w)) < 1e-8
