"""Activation functions by name, and their moments under a normal pre-activation.

One registry: a name leads to the function in NumPy (for theory, without torch), to the `torch.nn.Module`
(for training) and to whether the function is positively homogeneous, f(a z) = a f(z) for a > 0.
A class registered here joins every model, figure and command of the course.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017, eq. 14


@dataclass(frozen=True)
class Moments:
    """Mean, variance and second moment of f(z), with second = variance + mean^2."""

    mean: float
    variance: float
    second: float


@dataclass(frozen=True)
class _Activation:
    factory: Callable  # () -> nn.Module
    function: Callable | None  # NumPy float64 array -> array; None: evaluate the module instead
    homogeneous: bool


def _sigmoid(z):
    return np.exp(-np.logaddexp(0.0, -z))  # 1 / (1 + exp(-z)), without overflow at large |z|


def _selu(z):
    return _SELU_SCALE * np.where(z > 0, z, _SELU_ALPHA * np.expm1(np.minimum(z, 0.0)))


def _gelu(z):
    return z * 0.5 * np.vectorize(math.erfc)(-z / math.sqrt(2.0))


def _torch_module(name: str) -> Callable:
    """Factory of `torch.nn.<name>`; torch is imported when the module is made, not before."""

    def make():
        from torch import nn

        return getattr(nn, name)()

    return make


def _lecun_tanh():
    from cbn_lab._lecun_tanh import LeCunTanh

    return LeCunTanh()


_REGISTRY: dict[str, _Activation] = {
    "sigmoid": _Activation(_torch_module("Sigmoid"), _sigmoid, False),
    "tanh": _Activation(_torch_module("Tanh"), np.tanh, False),
    "relu": _Activation(_torch_module("ReLU"), lambda z: np.maximum(z, 0.0), True),
    "selu": _Activation(_torch_module("SELU"), _selu, False),
    "swish": _Activation(_torch_module("SiLU"), lambda z: z * _sigmoid(z), False),
    "gelu": _Activation(_torch_module("GELU"), _gelu, False),
    "softplus": _Activation(_torch_module("Softplus"), lambda z: np.logaddexp(0.0, z), False),
    "lecun_tanh": _Activation(_lecun_tanh, lambda z: 1.7159 * np.tanh(2.0 / 3.0 * z), False),
    "softsign": _Activation(_torch_module("Softsign"), lambda z: z / (1.0 + np.abs(z)), False),
    "identity": _Activation(_torch_module("Identity"), lambda z: z, True),
}


def names() -> list[str]:
    """The registered names, the five of the course first."""
    return list(_REGISTRY)


def _lookup(name: str) -> _Activation:
    if name not in _REGISTRY:
        raise ValueError(
            f"unknown activation {name!r}; known: {', '.join(names())} (add your own with activations.register)"
        )
    return _REGISTRY[name]


def get(name: str):
    """A new `nn.Module` that applies the activation elementwise. ValueError for an unknown name."""
    return _lookup(name).factory()


def module(activation):
    """The `nn.Module` of a name; a module is returned as it is. TypeError for anything else."""
    if isinstance(activation, str):
        return get(activation)
    if isinstance(activation, type) or not hasattr(activation, "forward"):
        raise TypeError(f"activation must be a name ({', '.join(names())}) or an nn.Module such as nn.Tanh(), "
                        f"got {activation!r}")
    return activation


def is_homogeneous(name: str) -> bool:
    """Whether f(a z) = a f(z) for every a > 0, so that the scale of z passes through f."""
    return _lookup(name).homogeneous


def register(name: str, factory: Callable, *, homogeneous: bool = False) -> None:
    """Make `name` usable wherever an activation is named.

    `factory()` returns a new elementwise `nn.Module`; an `nn.Module` class without required arguments
    is such a factory. ValueError if the name is taken by one of the built-in activations, TypeError if
    `factory()` is no module.
    """
    if name in _REGISTRY and _REGISTRY[name].function is not None:
        raise ValueError(f"the name {name!r} belongs to a built-in activation; choose another")
    if not callable(factory) or (hasattr(factory, "forward") and not isinstance(factory, type)):
        raise TypeError(f"factory must be callable and return a new nn.Module each time, got {factory!r}; "
                        "pass the class or a function, not a finished module")
    try:
        made = factory()
    except TypeError as error:  # a function of z, or a class with required arguments
        raise TypeError(f"factory() must return a new nn.Module, but calling it without arguments failed: {error}; "
                        "for a function f of z, pass a module class whose forward is f") from error
    if not hasattr(made, "forward"):
        raise TypeError(f"factory() must return a new nn.Module, got {made!r}")
    _REGISTRY[name] = _Activation(factory, None, homogeneous)


def moments(name: str, mean: float = 0.0, std: float = 1.0) -> Moments:
    r"""Moments of f(z) for z ~ N(mean, std^2), by quadrature in float64.

    $E[f(z)] = \int f(z)\,\varphi(z)\,dz$. Gauss-Hermite nodes converge only as 1/n where f has a kink
    (ReLU and SELU at 0), so the line is cut at 0 and into short panels with Gauss-Legendre nodes each:
    accurate to about 1e-12 for every built-in activation, kinks included.

    Raises ValueError for an unknown name or a standard deviation that is negative or not finite.
    """
    _lookup(name)
    if not (math.isfinite(mean) and math.isfinite(std) and std >= 0):
        raise ValueError(f"need a finite mean and a finite std >= 0, got mean={mean}, std={std}")
    if std == 0:
        value = float(evaluate(name, np.array([float(mean)]))[0])
        return Moments(value, 0.0, value * value)
    z, weight = normal_quadrature(mean, std)
    f = evaluate(name, z)
    first = float(weight @ f)
    variance = float(weight @ (f - first) ** 2)
    return Moments(first, variance, variance + first * first)


def normal_quadrature(mean: float, std: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights with sum(weight * f(z)) ~ E f(z), z ~ N(mean, std^2), std > 0, f smooth but for a kink at 0.

    No node is 0 itself. The mass beyond 12 standard deviations, which is left out, is 1e-32.
    """
    edges = mean + std * np.linspace(-12.0, 12.0, 97)
    if edges[0] < 0.0 < edges[-1]:
        edges = np.unique(np.append(edges, 0.0))
    node, node_weight = np.polynomial.legendre.leggauss(16)
    half = np.diff(edges)[:, None] / 2.0
    z = (edges[:-1, None] + half * (node + 1.0)).ravel()
    density = np.exp(-0.5 * ((z - mean) / std) ** 2) / (std * math.sqrt(2.0 * math.pi))
    weight = (half * node_weight).ravel() * density
    return z, weight / weight.sum()


def evaluate(name: str, z: np.ndarray) -> np.ndarray:
    """f(z) elementwise for float64 z, without torch for the built-in activations. ValueError for an unknown name."""
    activation = _lookup(name)
    if activation.function is not None:
        return activation.function(z)
    import torch

    with torch.no_grad():
        return activation.factory().double().eval()(torch.from_numpy(z)).numpy()
