"""The bounds of one weight layer: they hold on what autograd gives, with BN above as well, and a broken assumption is
found behind the first line that fails."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cbn_lab.theory import layer_bounds
from cbn_lab.theory.layer_bounds import LayerState, chain

NAMES = [line.name for line in chain(factored=True)]


def _logistic(samples=12, inputs=4, outputs=3, seed=0, scale=1.0, mean=0.7):
    """Softmax regression: delta and H_z in closed form, per-sample gradients and the Hessian by autograd."""
    generator = torch.Generator().manual_seed(seed)
    h = mean + scale * torch.randn(samples, inputs, generator=generator, dtype=torch.float64)
    labels = torch.randint(outputs, (samples,), generator=generator)
    # A softmax that saturates would leave few digits of p (1 - p), and the two ways to H_z would differ by rounding.
    columns = (torch.randn(inputs * outputs, generator=generator, dtype=torch.float64) / 4).requires_grad_()

    def loss(vector, i=slice(None)):
        return F.cross_entropy(h[i] @ vector.reshape(inputs, outputs), labels[i])

    each = torch.stack([torch.autograd.grad(loss(columns, slice(i, i + 1)), columns)[0] for i in range(samples)])
    hessian = torch.autograd.functional.hessian(loss, columns)
    p = torch.softmax(h @ columns.detach().reshape(inputs, outputs), 1)
    delta = p - F.one_hot(labels, outputs)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    gradients = each.reshape(samples, inputs, outputs).mT
    arrays = {"h": h, "delta": delta, "curvature": curvature, "gradients": gradients, "block": hessian}
    return {name: array.detach().numpy() for name, array in arrays.items()}


@given(seed=st.integers(0, 10**4), samples=st.integers(1, 12), scale=st.floats(0.01, 3), mean=st.floats(-3, 3))
def test_every_line_holds_on_what_autograd_measures(seed, samples, scale, mean):
    state = LayerState(**_logistic(samples, seed=seed, scale=scale, mean=mean))
    assert chain().check(state) is None
    assert {row.status for row in chain().table(state)} == {"holds"}


def test_the_right_sides_are_the_naive_ones():
    given_ = _logistic()
    state = LayerState(**given_, B=1.5, H=0.8)
    h, moment = given_["h"], sum(np.outer(r, r) for r in given_["h"]) / 12
    lines, top = chain(), np.linalg.eigvalsh(moment)[-1]
    assert lines["second moment"].right(state) == pytest.approx(1.5**2 * np.trace(moment))
    assert lines["variance"].right(state) == pytest.approx(1.5**2 * (h**2).sum(1).mean())
    assert lines["gradient of the batch"].right(state) == pytest.approx(1.5**2 * top)
    assert lines["curvature"].right(state) == pytest.approx(0.8 * top)
    assert lines["curvature"].left(state) == pytest.approx(np.linalg.eigvalsh(given_["block"])[-1])
    gradient = given_["gradients"].mean(0)
    assert lines["gradient of the batch"].left(state) == pytest.approx((gradient**2).sum())
    assert lines["variance"].left(state) == pytest.approx(
        (given_["gradients"] ** 2).sum() / 12 - (gradient**2).sum())


def test_one_sample_attains_every_bound_on_the_gradient():
    state = LayerState(**_logistic(samples=1))
    for name in ("second moment", "gradient of the batch", "top eigenvalue"):
        assert chain()[name].slack(state) == pytest.approx(0.0, abs=1e-12), name
    assert chain(factored=True).check(state) is None


def test_squared_loss_in_the_last_layer_has_exact_factors():
    generator = np.random.default_rng(0)
    h, delta = generator.standard_normal((30, 4)), generator.standard_normal((30, 2))
    constant = np.broadcast_to(np.array([[2.0, 0.5], [0.5, 1.0]]), (30, 2, 2))
    assert chain(factored=True).check(LayerState(h, delta, constant)) is None


BROKEN = {
    "a claimed B that is too small": ({"B": 0.05}, "second moment", "bounded delta"),
    "a claimed H that is too small": ({"H": 0.01}, "curvature", "bounded curvature in z"),
    "a weight that is used twice": ({"gradients": 2.0}, "gradient of a sample", "W is used once per sample"),
    "the block of another layer": ({"block": 9.0}, "curvature", "the block is that of this layer"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_assumption_is_found_behind_the_first_line_that_fails(how):
    change, line, assumption = BROKEN[how]
    arrays = _logistic()
    arrays |= {k: v * arrays[k] if k in arrays else v for k, v in change.items()}
    failure = chain().check(LayerState(**arrays))
    assert (failure.line.name, failure.assumption.name) == (line, assumption)
    assert failure.left > failure.right or failure.line.relation == "="


def test_correlated_input_and_curvature_break_the_product_alone():
    failure = chain(factored=True).check(LayerState(**_logistic()))
    assert failure.line.name == "Kronecker product"
    assert failure.assumption.name == "input and curvature are uncorrelated" and "differ by" in failure.how


def _batch_norm_above(samples=8, inputs=3, outputs=2, seed=1):
    """z = W h, BN over the batch, tanh, a linear read-out, squared loss: the samples interact."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    h, target, read, columns = 1 + draw(samples, inputs), draw(samples), draw(outputs), draw(inputs * outputs)
    bn = nn.BatchNorm1d(outputs, track_running_stats=False).double()

    def above(z):
        return 0.5 * ((torch.tanh(bn(z)) @ read - target) ** 2).mean()

    def loss(vector):
        return above(h @ vector.reshape(inputs, outputs))

    z = (h @ columns.reshape(inputs, outputs)).requires_grad_()
    (delta,) = torch.autograd.grad(above(z), z)
    joint = torch.autograd.functional.hessian(above, z.detach())
    block = torch.autograd.functional.hessian(loss, columns)
    gradient = torch.autograd.functional.jacobian(loss, columns).reshape(inputs, outputs).T
    return LayerState(h.numpy(), samples * delta.numpy(), joint.numpy(), block=block.numpy()), gradient.numpy()


def test_with_batch_norm_above_the_lines_hold_with_the_joint_curvature():
    state, gradient = _batch_norm_above()
    np.testing.assert_allclose(state.per_sample.mean(0), gradient, atol=1e-13)
    np.testing.assert_allclose(state.computed_block, state.block, atol=1e-12)
    assert chain().check(state) is None
    failure = chain(factored=True).check(state)
    assert failure.line.name == "Kronecker product" and "samples interact" in failure.how
    assert failure.assumption.name == "input and curvature are uncorrelated"


def test_joint_curvature_of_samples_that_do_not_interact_is_the_per_sample_one():
    arrays = _logistic(samples=5)
    joint = np.zeros((5, 3, 5, 3))
    for i, own in enumerate(arrays["curvature"]):
        joint[i, :, i, :] = own / 5
    one, other = LayerState(**arrays), LayerState(**arrays | {"curvature": joint})
    assert other.curvature_norm == pytest.approx(one.curvature_norm)
    np.testing.assert_allclose(other.computed_block, one.computed_block, atol=1e-14)
    assert layer_bounds.PRODUCT.right(other) == pytest.approx(layer_bounds.PRODUCT.right(one))


def test_the_chain_names_each_line_once_and_every_line_has_a_proof():
    assert len(set(NAMES)) == len(NAMES) == 7 and len(chain()) == 6
    assert all(line.why and line.latex for line in chain(factored=True))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"h must be \[4, N\] and curvature \[4, 2, 2\] or \[4, 2, 4, 2\]"):
        LayerState(np.zeros((3, 5)), np.zeros((4, 2)), np.zeros((4, 2, 2)))
