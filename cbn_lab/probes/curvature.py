"""Curvature of the loss of one mini-batch in the parameters: how fast the gradient turns when the weights move.

    lambda_max, lambda_min    ends of the Hessian's spectrum, by value and not by magnitude: L, and the most negative
    gauss_newton_max          top eigenvalue of G = J^T H_z J, the Hessian without the curvature of the network itself
    trace                     of either matrix, by random products, with a confidence interval
    per_layer                 any of these for the diagonal block of each layer

    found = lambda_max(model, F.cross_entropy, (images, labels), statistics="batch")
    print(found)        # what was measured, in a sentence
    found.value, found.residual, found.scale_free, found.gradient_evaluations

Scale-free values are those of the same loss as a function of w/||w||, tensor by tensor: with D = diag(||w||), the norm
of the tensor at each of its entries, they belong to D A D instead of A. For one tensor that is value * ||w||^2. If the
loss does not change under W -> aW (a weight layer directly before a norm), A's block scales by 1/a^2, and the
scale-free values stay. A tensor that is zero (a bias at the start) has no scale and is left out of them.

The eigenvalues are those of ARPACK's restarted Lanczos method (scipy's eigsh), in float64 over products in the model's
own precision. The error of an eigenvalue is at most the residual ||A v - value v||, and usually of the order of its
square. In float32 products carry rounding of about 1e-6 of the spectrum's width, which hides an eigenvalue smaller
than that: probe `copy.deepcopy(model).double()`. At a kink (ReLU at exactly 0) the derivatives are autograd's choice,
and what is measured is the curvature of the smooth piece around the weights.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from scipy.stats import t as student
from torch import nn

from cbn_lab.probes import _matrices
from cbn_lab.probes._estimates import Estimate
from cbn_lab.probes._frozen import STATISTICS, frozen
from cbn_lab.probes._matrices import Matrix

_DENSE = 32  # up to this size all of the matrix costs less than a Lanczos run, and ARPACK needs n > 1
# Lanczos vectors between restarts are few at first (the residual is looked at then), many where that does not converge,
# and then never more than 1 GiB of them.
_RESTARTS, _MOST_VECTORS, _MOST_NUMBERS = 20, 200, 2**27
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
_ENDS = {"LA": "largest", "SA": "smallest"}
_KINDS = {"hessian": _matrices.hessian, "gauss_newton": _matrices.gauss_newton}


@dataclass(frozen=True)
class Scope:
    """What was measured on: which parameters, which batch, which statistics."""

    parameters: tuple[str, ...]
    numbers: int
    left_out: int  # tensors that do not require gradients
    squared_norm: float
    batch_size: int
    statistics: str
    precision: str

    def __str__(self) -> str:
        where = self.parameters[0] if len(self.parameters) == 1 else f"{len(self.parameters)} tensors"
        without = f"; {self.left_out} without requires_grad left out" if self.left_out else ""
        return (f"{self.numbers:,} parameters ({where}{without}), one mini-batch of {self.batch_size}, "
                f"{STATISTICS[self.statistics]}, {self.precision}")


@dataclass(frozen=True)
class Eigenvalue:
    """`value` with its residual ||A v - value v||, ||v|| = 1; both again for the scale-free D A D.

    `products` are products with the matrix; `gradient_evaluations` their cost, in gradients of the same batch.
    """

    what: str
    value: float
    residual: float
    scale_free: float
    scale_free_residual: float
    products: int
    gradient_evaluations: int
    scope: Scope

    def __str__(self) -> str:
        return (f"The {self.what}: {self.value:.4g} (residual {self.residual:.1g}), scale-free {self.scale_free:.4g} "
                f"(residual {self.scale_free_residual:.1g}). {self.scope}; {self.gradient_evaluations} gradient "
                "evaluations.")


@dataclass(frozen=True)
class Trace:
    """Estimates with intervals at `confidence`; exact, with intervals of length 0, for matrices that are small."""

    what: str
    estimate: Estimate
    scale_free_estimate: Estimate
    confidence: float
    products: int
    gradient_evaluations: int
    scope: Scope

    @property
    def value(self) -> float:
        return self.estimate.value

    @property
    def scale_free(self) -> float:
        return self.scale_free_estimate.value

    def __str__(self) -> str:
        return (f"The {self.what}: {self.estimate}, scale-free {self.scale_free_estimate} "
                f"({100 * self.confidence:g} % intervals). {self.scope}; {self.gradient_evaluations} gradient "
                "evaluations.")


def lambda_max(model: nn.Module, loss_fn: Callable, batch, *, statistics: str,
               parameters: Iterable[str] | None = None, tolerance: float | None = None, seed: int = 0) -> Eigenvalue:
    """The largest eigenvalue of the Hessian of loss_fn(model(inputs), labels) (the largest, not the largest in size).

    batch = (inputs, labels); statistics "batch" (train mode) or "running" (eval mode); parameters: names of those
    concerned, default all that require gradients. `tolerance` is the residual aimed at, relative to the spectrum's
    width: 1e-6 in float64, 1e-3 in float32. `seed` draws the first vector.

    Raises ValueError for unknown parameters, a loss that is cut off from the model, or a loss or curvature that is not
    finite; RuntimeError when the tolerance is not reached; and what `frozen` refuses.
    """
    return _eigenvalue("hessian", "LA", model, loss_fn, batch, statistics, parameters, tolerance, seed)


def lambda_min(model: nn.Module, loss_fn: Callable, batch, *, statistics: str,
               parameters: Iterable[str] | None = None, tolerance: float | None = None, seed: int = 0) -> Eigenvalue:
    """The smallest eigenvalue of the Hessian, negative where the loss is not convex. See `lambda_max`."""
    return _eigenvalue("hessian", "SA", model, loss_fn, batch, statistics, parameters, tolerance, seed)


def gauss_newton_max(model: nn.Module, loss_fn: Callable, batch, *, statistics: str,
                     parameters: Iterable[str] | None = None, tolerance: float | None = None,
                     seed: int = 0) -> Eigenvalue:
    """The largest eigenvalue of the Gauss-Newton matrix J^T H_z J, z the outputs. See `lambda_max`.

    For a loss that is convex in the outputs (cross-entropy, squared error) the matrix has no negative eigenvalues;
    for cross-entropy it is the Fisher information with labels drawn from the model (Martens 2020, section 9).
    """
    return _eigenvalue("gauss_newton", "LA", model, loss_fn, batch, statistics, parameters, tolerance, seed)


def trace(model: nn.Module, loss_fn: Callable, batch, *, statistics: str, matrix: str = "hessian",
          parameters: Iterable[str] | None = None, products: int = 30, confidence: float = 0.95,
          seed: int = 0) -> Trace:
    """The trace of the "hessian" or "gauss_newton" matrix: the mean of z'Az over random signs z (Hutchinson 1990).

    The interval is Student's over the `products` draws. It covers 91 % instead of 95 % where a single eigenvalue makes
    the trace. Up to `products` parameters the trace is exact. (Hutch++, Meyer et al. 2021, deflates large eigenvalues
    with two thirds of the products. At 30 on small ConvNets its interval was shorter only for a trained net without
    norms, by 1.8; in five other cases it was longer, by 1.3 to 1.6: most of the variance lies in the many small ones.)

    Raises ValueError for an unknown `matrix`, fewer than 2 products, a confidence outside (0, 1), and what `lambda_max`
    refuses.
    """
    if matrix not in _KINDS:
        raise ValueError(f"matrix must be one of {', '.join(map(repr, _KINDS))}, got {matrix!r}")
    if products < 2:
        raise ValueError(f"products must be at least 2, since the interval is taken from their spread, got {products}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; 0.95 is usual")
    with frozen(model, statistics=statistics) as probe:
        chosen, left_out = _matrices.selected(model, parameters)
        a = _KINDS[matrix](probe, loss_fn, batch, chosen)
        raw, free = _hutchinson(a, products, confidence, np.random.default_rng(seed))
        return Trace(f"trace of the {a.name}", raw, free, confidence, a.products, a.gradient_evaluations,
                     _scope(a, left_out, batch, statistics))


def per_layer(probe: Callable, model: nn.Module, loss_fn: Callable, batch, *, statistics: str, **options) -> dict:
    """`probe` (one of this module's) for every module that owns parameters which require gradients, by module path.

    Each is a diagonal block: only the parameters of that one module move. The largest eigenvalue of the whole is at
    least that of every block.
    """
    layers: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    if not layers:
        _matrices.selected(model)  # says so
    return {layer: probe(model, loss_fn, batch, statistics=statistics, parameters=names, **options)
            for layer, names in layers.items()}


def _eigenvalue(kind, end, model, loss_fn, batch, statistics, names, tolerance, seed) -> Eigenvalue:
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance must be positive, a residual relative to the spectrum's width, got {tolerance}")
    with frozen(model, statistics=statistics) as probe:
        chosen, left_out = _matrices.selected(model, names)
        a = _KINDS[kind](probe, loss_fn, batch, chosen)
        tolerance = tolerance or max(_TOLERANCES[p.dtype] for p in chosen.values())
        multiply = a.dense().__matmul__ if a.size <= _DENSE else a.__matmul__
        what = f"{_ENDS[end]} eigenvalue of the {a.name}"
        value, residual = _extreme(multiply, a.size, end, tolerance, seed, what)
        norms = a.norms()
        if len(chosen) == 1 or not norms.any():
            free, free_residual = float(value * norms[0] ** 2), float(residual * norms[0] ** 2)
        else:
            free, free_residual = _extreme(*_scaled(multiply, norms), end, tolerance, seed, f"scale-free {what}")
        return Eigenvalue(what, value, residual, free, free_residual, a.products, a.gradient_evaluations,
                          _scope(a, left_out, batch, statistics))


def _scaled(multiply: Callable, norms: np.ndarray) -> tuple[Callable, int]:
    """v -> D A D v on the entries where D = diag(norms) is not 0, and how many these are."""
    kept = np.flatnonzero(norms)
    scale = norms[kept]

    def product(vector):
        full = np.zeros(len(norms))
        full[kept] = scale * vector
        return scale * multiply(full)[kept]

    return product, len(kept)


def _extreme(multiply: Callable, n: int, end: str, tolerance: float, seed: int, what: str) -> tuple[float, float]:
    """The largest ("LA") or smallest ("SA") eigenvalue of an n x n symmetric matrix, and its residual."""
    if n <= _DENSE:
        return _extreme_dense(np.stack([multiply(unit) for unit in np.eye(n)]), end)
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(n)
    width = _width(multiply, start)
    if width == 0:  # a random vector is in the kernel of no other matrix than 0
        return 0.0, 0.0
    # ARPACK's tolerance is relative to the eigenvalue itself, which may be 0 in the middle of a wide spectrum (smallest
    # eigenvalue of a Gauss-Newton matrix). Shifted by the width, it is relative to the width; Lanczos vectors stay.
    shift = width if end == "LA" else -width
    operator = LinearOperator((n, n), matvec=lambda v: multiply(v.ravel()) + shift * v.ravel(), dtype=np.float64)
    options = {"which": end, "v0": start, "tol": tolerance, "maxiter": _RESTARTS}
    if "rng" in inspect.signature(eigsh).parameters:  # since SciPy 1.17, which draws vectors of its own
        options["rng"] = rng
    for vectors in (20 if tolerance < 1e-4 else 12, min(_MOST_VECTORS, max(20, _MOST_NUMBERS // n))):
        try:
            _, found = eigsh(operator, 1, ncv=min(n, vectors), **options)
            return _rayleigh(multiply, found[:, 0])
        except ArpackNoConvergence:  # an end crowded with eigenvalues: once more, between fewer restarts
            continue
    raise RuntimeError(f"the {what} was not found to a residual of {tolerance:g} of the spectrum's width; give a "
                       "larger tolerance, or a float64 copy of model and batch if they are float32")


def _extreme_dense(a: np.ndarray, end: str) -> tuple[float, float]:
    _, vectors = np.linalg.eigh((a + a.T) / 2)
    return _rayleigh(a.__matmul__, vectors[:, -1 if end == "LA" else 0])


def _rayleigh(multiply: Callable, vector: np.ndarray) -> tuple[float, float]:
    """v'Av, the value with the smallest residual ||A v - value v||, and that residual. v is made a unit vector."""
    vector = vector / np.linalg.norm(vector)
    product = multiply(vector)
    value = float(vector @ product)
    return value, float(np.linalg.norm(product - value * vector))


def _width(multiply: Callable, vector: np.ndarray) -> float:
    """max |eigenvalue|, roughly and from below, by three steps of the power method."""
    width = 0.0
    for _ in range(3):
        vector = multiply(vector / np.linalg.norm(vector))
        width = float(np.linalg.norm(vector))
        if width == 0:
            break
    return width


def _hutchinson(a: Matrix, products: int, confidence: float, rng) -> tuple[Estimate, Estimate]:
    """tr A and tr D A D = tr D^2 A, by that many products; exactly from n, if these are no more."""
    weights = np.stack([np.ones(a.size), a.norms() ** 2])  # [2, n]
    if a.size <= products:
        exact = weights @ a.dense().diagonal()
        return tuple(Estimate(float(value), 0.0, float(value), float(value)) for value in exact)
    draws = []
    for _ in range(products):
        z = rng.choice([-1.0, 1.0], a.size)
        draws.append(weights @ (z * (a @ z)))
    values, errors = np.mean(draws, axis=0), np.std(draws, axis=0, ddof=1) / products**0.5
    half = student.ppf((1 + confidence) / 2, products - 1) * errors
    return tuple(Estimate(*map(float, row)) for row in zip(values, errors, values - half, values + half, strict=True))


def _scope(a: Matrix, left_out: int, batch, statistics: str) -> Scope:
    squared_norm = sum(float(p.detach().double().square().sum()) for p in a.parameters.values())
    precision = " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in a.parameters.values()}))
    return Scope(tuple(a.parameters), a.size, left_out, squared_norm, len(batch[1]), statistics, precision)
