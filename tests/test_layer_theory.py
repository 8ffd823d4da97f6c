"""The layer's part of the theory against closed forms, naive twins, Monte Carlo with stated error, and SymPy."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbn_lab import activations, norms
from cbn_lab.theory import algebra, guarantee, layer

FIVE = ["relu", "sigmoid", "tanh", "selu", "swish"]
# As printed in theory.md, part 2, to a unit in the last digit: mean, variance, second moment under N(0, 1), m^2/v
PRINTED = {"relu": (0.399, 0.341, 0.500, 0.467), "sigmoid": (0.500, 0.0434, 0.293, 5.75),
           "tanh": (0.0, 0.394, 0.394, 0.0), "selu": (0.0, 1.0, 1.0, 0.0), "swish": (0.206, 0.313, 0.356, 0.136)}


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("name", FIVE)
def test_the_printed_moments_and_their_monte_carlo_twins(name):
    """Two million draws: each mean within 5 standard errors of the quadrature."""
    m = activations.moments(name)
    mean, variance, second, ratio = PRINTED[name]
    np.testing.assert_allclose((m.mean, m.variance, m.second), (mean, variance, second), atol=1e-3)
    assert m.mean**2 / m.variance == pytest.approx(ratio, rel=3e-3, abs=1e-9)
    f = activations.evaluate(name, _normal(2_000_000))
    for sample, expected in ((f, m.mean), (f**2, m.second), ((f - m.mean) ** 2, m.variance)):
        assert abs(sample.mean() - expected) < 5 * sample.std() / math.sqrt(len(sample))


def test_mean_spike_26_in_theory_and_in_a_sample():
    """LeCun et al. 1998: N = 100, m = 0.5, v = 1. The sampled top eigenvalue has standard deviation sqrt(102/n) and the
    others lie in (1 -+ sqrt(N/n))^2, Marchenko and Pastur's interval, widened by one in a hundred."""
    theory = layer.spectrum(0.5, 1.0, 100)
    assert theory.top == pytest.approx(26.0, abs=1e-12) and np.all(theory.eigenvalues[1:] == 1.0)
    n = 100_000
    sample = layer.measured(0.5 + _normal(n, 100)).eigenvalues
    assert abs(sample[0] - 26.0) < 5 * math.sqrt(102 / n)
    edge = math.sqrt(100 / n)
    assert 0.99 * (1 - edge) ** 2 < sample[-1] and sample[1] < 1.01 * (1 + edge) ** 2


@given(mean=st.floats(-5, 5), variance=st.floats(0, 10), width=st.integers(1, 12), part=st.floats(0, 1))
def test_spectrum_is_that_of_the_matrix(mean, variance, width, part):
    lowest = -variance / (width - 1) if width > 1 else 0.0
    covariance = lowest + part * (variance - lowest)
    matrix = (mean**2 + covariance) * np.ones((width, width)) + (variance - covariance) * np.eye(width)
    found = layer.spectrum(mean, variance, width, covariance)
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(matrix)[::-1], atol=1e-9 * (1 + found.trace))
    assert found.trace == pytest.approx(width * (mean**2 + variance), abs=1e-9 * (1 + found.trace))


def test_share_and_effective_rank():
    flat, single = layer.spectrum(0.0, 2.0, 8), layer.spectrum(3.0, 0.0, 8)
    assert (flat.share, flat.effective_rank) == (pytest.approx(1 / 8), pytest.approx(8.0))
    assert (single.share, single.effective_rank) == (pytest.approx(1.0), pytest.approx(1.0))
    scaled = layer.Spectrum(7 * layer.spectrum(0.3, 1.0, 8).eigenvalues)
    assert scaled.share == pytest.approx(layer.spectrum(0.3, 1.0, 8).share)


def test_measured_is_the_second_moment_about_zero():
    h = _normal(7, 3) + 2.0
    naive = sum(np.outer(row, row) for row in h) / 7
    np.testing.assert_allclose(layer.second_moment(h), naive, atol=1e-13)
    found = layer.measured(h)
    assert found.trace == pytest.approx((h**2).sum(1).mean()) and np.all(np.diff(found.eigenvalues) <= 0)
    assert (layer.measured(_normal(4, 9)).eigenvalues > 1e-12).sum() == 4


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.2, 0.5), (-0.7, 2.0)])
def test_hermite_coefficients_hold_mean_and_variance(name, mean, std):
    """The series of a function with a kink converges slowly: what is missing at degree 64 is below 1 in 1,000."""
    m, a = activations.moments(name, mean, std), layer.hermite(name, mean, std)
    assert a[0] == pytest.approx(m.mean, abs=1e-12)
    assert 0.999 * m.variance < (a[1:] ** 2).sum() <= m.variance * (1 + 1e-12)


def test_covariance_of_relu_is_the_arc_cosine_kernel():
    """Cho and Saul, NeurIPS 2009, n = 1."""
    rho = np.array([-0.95, -0.5, 0.0, 0.3, 0.8, 0.99, 1.0])
    kernel = (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho))) / (2 * np.pi) - 1 / (2 * np.pi)
    value, error = layer.covariance("relu", rho)
    assert np.all(np.abs(value - kernel) <= error + 1e-13)
    assert error[-1] == 0.0 and error[3] < 1e-30 and 0 < error[-2] < 1e-4


@pytest.mark.parametrize("name", ["tanh", "swish", "selu"])
def test_covariance_matches_monte_carlo(name):
    """Within 5 standard errors of a million pairs, away from mean 0 and deviation 1 as well."""
    x, y = _normal(2, 1_000_000, seed=3)
    for rho, mean, std in ((0.6, 0.0, 1.0), (-0.4, 0.8, 1.7)):
        m = activations.moments(name, mean, std).mean
        one, other = (activations.evaluate(name, mean + std * v) - m for v in (x, rho * x + math.sqrt(1 - rho**2) * y))
        product = one * other
        assert abs(product.mean() - layer.covariance(name, rho, mean, std)[0]) < 5 * product.std() / 1000


def test_covariance_maps_a_correlation_matrix_to_a_covariance_matrix():
    factor = _normal(6, 6)
    matrix = factor @ factor.T
    correlation = matrix / np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
    value, error = layer.covariance("tanh", correlation)
    assert value.shape == error.shape == (6, 6) and np.linalg.eigvalsh(value)[0] > 0
    np.testing.assert_allclose(np.diag(value), activations.moments("tanh").variance, atol=1e-9)


def test_correlation_gives_even_a_centred_activation_a_spike():
    plain, correlated = (layer.activation_spectrum("tanh", 100, correlation=rho) for rho in (0.0, 0.5))
    assert plain.top == pytest.approx(activations.moments("tanh").variance)
    added = float(layer.covariance("tanh", 0.5)[0])
    assert correlated.top == pytest.approx(plain.top + 99 * added) and correlated.top > 10 * plain.top
    assert correlated.trace == pytest.approx(plain.trace)
    z = math.sqrt(0.5) * (_normal(40_000, 1, seed=5) + _normal(40_000, 100, seed=6))
    assert layer.measured(np.tanh(z)).top == pytest.approx(correlated.top, rel=0.03)
    constant = layer.activation_spectrum("sigmoid", 4, mean=0.0, std=0.0, correlation=0.5)
    assert constant.top == pytest.approx(4 * 0.25) and constant.trace == pytest.approx(1.0)


def test_the_spectrum_of_correlated_channels_is_that_of_a_sample():
    """Largest and second eigenvalue within 3 %, of 100,000 draws with a correlation matrix of two groups."""
    group = np.repeat([0, 1], [12, 8])
    correlation = np.where(group[:, None] == group, 0.6, -0.3) + 0.4 * np.eye(20)
    z = _normal(100_000, 20, seed=4) @ np.linalg.cholesky(correlation).T
    for name in ("relu", "tanh"):
        theory = layer.spectrum_of_correlated(name, correlation, 0.3, 1.2).eigenvalues
        found = layer.measured(activations.evaluate(name, 0.3 + 1.2 * z)).eigenvalues
        np.testing.assert_allclose(found[:2], theory[:2], rtol=0.03)
    equal = np.full((9, 9), 0.4) + 0.6 * np.eye(9)
    np.testing.assert_allclose(layer.spectrum_of_correlated("swish", equal).eigenvalues,
                               layer.activation_spectrum("swish", 9, correlation=0.4).eigenvalues, atol=1e-9)


@pytest.mark.parametrize("name", activations.names())
def test_squared_slope_is_that_of_autograd(name):
    z = torch.linspace(-9, 11, 400_001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(activations.get(name)(z).sum(), z)
    density = torch.exp(-0.5 * ((z.detach() - 1) / 0.8) ** 2) / (0.8 * math.sqrt(2 * math.pi))
    naive = float(torch.trapezoid(slope**2 * density, z.detach()))
    assert layer.squared_slope(name, 1.0, 0.8) == pytest.approx(naive, abs=2e-5)


def test_growth_is_pi_over_pi_minus_one_for_relu_and_one_for_a_line():
    assert layer.growth("relu") == pytest.approx(math.pi / (math.pi - 1), abs=1e-8)
    assert layer.growth("relu", std=3.0) == pytest.approx(math.pi / (math.pi - 1), abs=1e-8)
    assert layer.growth("identity", 0.4, 2.0) == pytest.approx(1.0, abs=1e-8)


@given(name=st.sampled_from(activations.names()), mean=st.floats(-2, 2), std=st.floats(0.2, 3))
def test_growth_is_never_below_one(name, mean, std):
    """The Gaussian Poincare inequality."""
    assert layer.growth(name, mean, std) >= 1 - 1e-7


def test_growth_is_the_mean_degree_of_the_series():
    squares = layer.hermite("tanh") ** 2
    degree = (np.arange(len(squares)) * squares).sum() / squares[1:].sum()
    assert layer.growth("tanh") == pytest.approx(degree, abs=1e-7)


def _positive(*shape, seed=0):
    factor = _normal(*shape, shape[-1], seed=seed)
    return factor @ np.swapaxes(factor, -1, -2)


def test_gauss_newton_is_the_hessian_of_a_linear_layer():
    """Against torch's second derivatives of a loss that is quadratic in z, one matrix H a sample."""
    h, curvature = _normal(5, 3), _positive(5, 2, seed=1)
    ht, ct = torch.from_numpy(h), torch.from_numpy(curvature)

    def loss(columns):
        z = ht @ columns.reshape(3, 2)  # vec W, column by column
        return 0.5 * torch.einsum("na,nab,nb->n", z, ct, z).mean()

    hessian = torch.autograd.functional.hessian(loss, torch.zeros(6, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(layer.gauss_newton(h, curvature), hessian, atol=1e-12)


def test_the_spectrum_of_the_block_is_the_product_where_the_factors_are_exact():
    sample, constant = _normal(40, 3), _positive(2)
    for h, curvature in ((sample, np.broadcast_to(constant, (40, 2, 2))),  # a constant H_z
                         (sample[:1], constant[None]),  # one sample
                         (np.tile(sample[:1], (40, 1)), _positive(40, 2, seed=2))):  # the same input in all samples
        block = np.linalg.eigvalsh(layer.gauss_newton(h, curvature))[::-1]
        product = layer.kronecker_spectrum(layer.measured(h).eigenvalues, np.linalg.eigvalsh(curvature.mean(0)))
        np.testing.assert_allclose(block, product, atol=1e-10)
        assert layer.kronecker_error(h, curvature) < 1e-12


def test_the_factors_fail_where_input_and_curvature_go_together():
    h = _normal(50, 3)
    together = (h**2).sum(1)[:, None, None] * np.eye(2)
    assert layer.kronecker_error(h, together) > 0.1
    naive = sum(np.kron(np.outer(a, a), c) for a, c in zip(h, together, strict=True)) / 50
    np.testing.assert_allclose(layer.gauss_newton(h, together), naive, atol=1e-12)


@pytest.mark.parametrize(("call", "said"), [
    (lambda: layer.spectrum(0.0, -1.0, 3), "variance >= 0"),
    (lambda: layer.spectrum(0.0, 1.0, 3, -0.6), "between -0.5 and 1, got -0.6"),
    (lambda: layer.second_moment(np.zeros(3)), r"h must be \[samples, channels\] .* got shape \[3\]"),
    (lambda: layer.hermite("relu", std=0.0), "std > 0"),
    (lambda: layer.covariance("relu", 1.1), "between -1 and 1, got 1.1"),
    (lambda: layer.gauss_newton(np.zeros((3, 2)), np.zeros((2, 4, 4))), r"n = 3 samples, got shape \[2, 4, 4\]"),
    (lambda: layer.growth("relu", -400.0, 1.0), "is constant"),
])
def test_errors_say_what_was_expected(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_the_theory_of_the_layer_does_not_import_torch():
    code = ("import sys; from cbn_lab.theory import algebra, layer; "
            "layer.activation_spectrum('relu', 9, 0.1, 1.0, 0.3); assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sympy_proves_every_identity():
    found = algebra.identities()
    assert len(found) == 22
    assert [i.name for i in found if not i.proved] == []


def test_sympy_refutes_identities_with_a_mistake_in_them():
    import sympy as sp

    for identity in (*algebra.best_step(), *algebra.spike(), *algebra.relu_moments(), *algebra.second_moments()):
        wrong = algebra.Identity(identity.name, identity.left, identity.right + sp.Symbol("v"))
        assert not wrong.proved and wrong.residual != 0
    backward = next(algebra.batch_norm_backward(2))
    x1, g1 = sp.symbols("x1 g1", real=True)
    assert not algebra.Identity("sign", backward.left, -backward.right).proved
    assert not algebra.Identity("without the mean", backward.left, backward.right.subs(g1, 0)).proved


def _complete(channels, f, gamma, shift):
    made = norms.CompleteBatchNorm1d(channels, f, shift_lr_multiplier=1.0, pre_shift=False).double()
    with torch.no_grad():
        made.gamma_after.copy_(torch.as_tensor(gamma))
        made.post_shift.copy_(torch.as_tensor(shift))
    return made


@pytest.mark.parametrize("name", activations.names())
def test_the_layer_keeps_the_guarantee_for_every_activation(name):
    z = 1.7 * _normal(64, 5) @ _normal(5, 5, seed=1) - 0.4
    gamma, shift = np.array([0.5, -1.0, 2.0, 0.0, 1.5]), np.array([0.0, 1.0, -0.5, 0.3, -2.0])
    h = activations.evaluate(name, z)
    promised = guarantee.behind_standardization(h.var(axis=0), gamma, shift, samples=64)
    y = _complete(5, name, gamma, shift)(torch.from_numpy(z)).detach().numpy()
    np.testing.assert_allclose(y.mean(0), promised.mean, atol=1e-12)
    np.testing.assert_allclose(y.var(0), promised.variance, atol=1e-12)
    np.testing.assert_allclose((y**2).mean(0), promised.second, atol=1e-12)
    found = layer.measured(y)
    assert found.trace == pytest.approx(promised.trace) and promised.trace <= (gamma**2 + shift**2).sum()
    at_least, at_most = promised.top_interval
    assert at_least <= found.top * (1 + 1e-12) and found.top <= at_most * (1 + 1e-12) and at_most <= promised.trace


@pytest.mark.parametrize("name", activations.names())
@pytest.mark.parametrize("first", [1, 8])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (1.0, -1.0, 0.5)])
def test_channels_with_one_signal_attain_the_upper_bound(name, first, shift):
    """f takes two values, the first in 1 or 8 samples of 17; exchanged where gamma times shift is negative."""
    gamma = np.array([1.0, 2.0, -0.7])
    two = np.where(gamma * shift >= 0, [[0.2], [1.4]], [[1.4], [0.2]])
    z = np.repeat(two, [first, 17 - first], axis=0)
    y = _complete(3, name, gamma, np.array(shift))(torch.from_numpy(z)).detach().numpy()
    promised = guarantee.behind_standardization(activations.evaluate(name, z).var(axis=0), gamma, shift)
    assert layer.measured(y).top == pytest.approx(promised.top_interval[1], rel=1e-12)
    if not any(shift):
        assert layer.measured(y).top == pytest.approx(promised.trace, rel=1e-12)


@given(seed=st.integers(0, 10**6), channels=st.integers(1, 6), samples=st.integers(2, 12))
def test_the_top_eigenvalue_stays_in_its_interval(seed, channels, samples):
    generator = np.random.default_rng(seed)
    gamma, shift = generator.standard_normal((2, channels))
    x = generator.standard_normal((samples, 2)) @ generator.standard_normal((2, channels))
    promised = guarantee.behind_standardization(x.var(axis=0), gamma, shift, samples=samples)
    y = gamma * (x - x.mean(0)) / np.sqrt(x.var(axis=0) + 1e-5) + shift
    at_least, at_most = promised.top_interval
    assert at_least * (1 - 1e-9) <= layer.measured(y).top <= at_most * (1 + 1e-9)


def test_a_dead_channel_keeps_its_shift_alone():
    promised = guarantee.behind_standardization([0.0, 4.0], 3.0, [0.5, 0.0])
    assert promised.second[0] == 0.25 and promised.second[1] == pytest.approx(9.0, rel=1e-5)
    assert guarantee.backward_factor(0.0, -1.0) == pytest.approx(1 / math.sqrt(1e-5))
    assert guarantee.backward_factor(0.25, -3.0, eps=1e-12) == pytest.approx(6.0)


def test_unit_variance_raises_the_trace_of_sigmoid_and_lowers_its_top_eigenvalue():
    """The second tension of theory.md, part 2: .293 -> 1 against N m^2 + v -> 1."""
    vanilla = layer.activation_spectrum("sigmoid", 64)
    behind = guarantee.behind_standardization(np.full(64, activations.moments("sigmoid").variance), 1.0, 0.0)
    assert vanilla.trace / 64 == pytest.approx(0.293, abs=5e-4) and behind.trace / 64 == pytest.approx(1.0, abs=1e-3)
    assert vanilla.top > 16 and layer.spectrum(0.0, 1.0, 64).top == 1.0


@pytest.mark.parametrize(("variance", "options", "said"), [
    ([-1.0], {}, "variance must be one number >= 0"), ([1.0], {"eps": 0.0}, "eps must be positive, got 0")])
def test_the_guarantee_refuses_what_it_does_not_cover(variance, options, said):
    with pytest.raises(ValueError, match=said):
        guarantee.behind_standardization(variance, 1.0, 0.0, **options)
