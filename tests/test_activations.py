"""Activations: module and NumPy function agree, moments match closed forms, print and a naive integral."""

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cbn_lab import activations

# mean, variance, second moment under N(0, 1), to three digits
PRINTED = {
    "relu": (0.399, 0.341, 0.500), "sigmoid": (0.500, 0.0434, 0.293), "tanh": (0.0, 0.394, 0.394),
    "selu": (0.0, 1.0, 1.0), "swish": (0.207, 0.313, 0.356),
}


@pytest.fixture
def own():
    """A registered activation that is gone after the test."""
    activations.register("clipped", lambda: nn.Hardtanh(-0.5, 2.0))
    yield "clipped"
    del activations._REGISTRY["clipped"]


@pytest.mark.parametrize("name", activations.names())
def test_module_and_numpy_function_are_the_same(name):
    z = torch.linspace(-30, 30, 2001, dtype=torch.float64)
    expected = activations.get(name)(z).numpy()
    np.testing.assert_allclose(activations._REGISTRY[name].function(z.numpy()), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", PRINTED)
def test_moments_match_the_printed_values(name):
    m = activations.moments(name)
    np.testing.assert_allclose((m.mean, m.variance, m.second), PRINTED[name], atol=6e-4)


def test_moments_match_closed_forms():
    relu = activations.moments("relu")
    assert relu.mean == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-13)
    assert relu.second == pytest.approx(0.5, abs=1e-13)
    shifted = activations.moments("identity", mean=-1.5, std=3.0)
    assert (shifted.mean, shifted.variance) == (pytest.approx(-1.5, abs=1e-12), pytest.approx(9.0, abs=1e-12))


@pytest.mark.parametrize("name", activations.names())
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.3, 0.4), (-2.0, 3.0)])
def test_moments_match_a_naive_integral(name, mean, std):
    z = np.linspace(mean - 11 * std, mean + 11 * std, 400_001)
    p = np.exp(-0.5 * ((z - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    f = activations.get(name)(torch.from_numpy(z)).numpy()
    first = np.trapezoid(f * p, z)
    expected = (first, np.trapezoid((f - first) ** 2 * p, z), np.trapezoid(f * f * p, z))
    m = activations.moments(name, mean, std)
    np.testing.assert_allclose((m.mean, m.variance, m.second), expected, atol=2e-8)


@given(mean=st.floats(-20, 20), std=st.floats(0.01, 10))
def test_the_second_moment_is_variance_plus_squared_mean(mean, std):
    m = activations.moments("swish", mean, std)
    assert m.variance >= 0
    assert m.second == pytest.approx(m.variance + m.mean**2, rel=1e-12)


def test_a_constant_pre_activation_has_no_variance():
    m = activations.moments("tanh", 0.7, 0.0)
    assert (m.mean, m.variance, m.second) == (pytest.approx(math.tanh(0.7)), 0.0, pytest.approx(math.tanh(0.7) ** 2))


@pytest.mark.parametrize("name", activations.names())
def test_homogeneous_is_what_it_says(name):
    z = torch.linspace(-3, 3, 50, dtype=torch.float64)
    f = activations.get(name)
    assert torch.allclose(f(2.5 * z), 2.5 * f(z)) == activations.is_homogeneous(name)


def test_an_own_activation_joins(own):
    assert own in activations.names()
    assert isinstance(activations.get(own), nn.Hardtanh)
    z = np.clip(np.random.default_rng(0).standard_normal(400_000), -0.5, 2.0)
    assert activations.moments(own).mean == pytest.approx(z.mean(), abs=5e-3)
    assert not activations.is_homogeneous(own)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="unknown activation 'rlu'; known: sigmoid, tanh, relu"):
        activations.get("rlu")
    with pytest.raises(ValueError, match="built-in"):
        activations.register("relu", nn.ReLU)
    with pytest.raises(TypeError, match="callable"):
        activations.register("mine", nn.ReLU())
    with pytest.raises(TypeError, match="a function f of z, pass a module class"):
        activations.register("mine", lambda z: z.clamp(-1, 1))
    with pytest.raises(TypeError, match="must return a new nn.Module, got 3"):
        activations.register("mine", lambda: 3)
    assert "mine" not in activations.names()
    with pytest.raises(ValueError, match="std >= 0"):
        activations.moments("relu", std=-1.0)


def test_lecun_tanh_is_one_at_one_and_pickles():
    f = activations.get("lecun_tanh")
    assert float(f(torch.ones((), dtype=torch.float64))) == pytest.approx(1.0, abs=1e-4)
    assert type(pickle.loads(pickle.dumps(f))) is type(f)


def test_moments_do_not_import_torch():
    code = "import sys; from cbn_lab import activations; activations.moments('gelu'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
