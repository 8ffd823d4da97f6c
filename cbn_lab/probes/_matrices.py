"""Symmetric matrices that are known by their products with vectors: the Hessian and the Gauss-Newton matrix.

Both differentiate *gradients* (double backward), which is exact through every norm; `torch.func`'s derivatives of
`jacrev` and `jacfwd` are not (tests/test_curvature.py shows it). The graph of the first gradient is built once and
used by every product, so a product is one backward pass through that graph. Memory: about three times what the
training step of the same batch keeps.

Vectors are float64 NumPy arrays, all parameters one after the other, whatever the model's precision: Lanczos vectors
must be orthogonal to more digits than float32 has.
"""

from collections.abc import Callable

import numpy as np
import torch

from cbn_lab.probes._frozen import Frozen, require_graph

# What a product costs, in gradients (forward and backward) of the same batch: two by counting operations; on CPUs 2.0
# (no norm) to 3.3 (norms, whose double backward is composed of many passes); the bench's entry `probes` measures it.
GRADIENTS_PER_PRODUCT = 3


class Matrix:
    """A symmetric matrix A [n, n] over some parameters; `matrix @ vector` is A v, and is counted."""

    def __init__(self, name: str, parameters: dict[str, torch.Tensor], multiply: Callable):
        """`multiply`: list of tensors shaped like the parameters -> the same list of A v; None: A is zero."""
        self.name, self.parameters = name, parameters
        self._multiply = multiply
        self.products = 0
        self.size = sum(p.numel() for p in parameters.values())

    @property
    def gradient_evaluations(self) -> int:
        """The gradient whose graph is kept, and the products."""
        return 1 + GRADIENTS_PER_PRODUCT * self.products

    def __matmul__(self, vector: np.ndarray) -> np.ndarray:
        if self._multiply is None:
            return np.zeros(self.size)
        self.products += 1
        product = _flat(self._multiply(self._shaped(vector)), self.parameters.values())
        if not np.isfinite(product).all():
            raise ValueError(f"a product with the {self.name} is not finite: the loss has no second derivative here "
                             "(the square root of 0, for instance), or it overflows; try model.double()")
        return product

    def dense(self) -> np.ndarray:
        """All of A, by n products; the average with its transpose, which differs by rounding only."""
        columns = np.stack([self @ unit for unit in np.eye(self.size)])
        return (columns + columns.T) / 2

    def per_tensor(self, numbers) -> np.ndarray:
        """[n]: one number for each tensor of parameters, repeated for each of its entries."""
        return np.repeat(list(numbers), [p.numel() for p in self.parameters.values()])

    def norms(self) -> np.ndarray:
        """[n]: at each entry the Euclidean norm of the tensor that it belongs to."""
        return self.per_tensor(float(p.detach().double().norm()) for p in self.parameters.values())

    def _shaped(self, vector: np.ndarray) -> list[torch.Tensor]:
        tensor = torch.from_numpy(np.ascontiguousarray(vector))
        pieces = tensor.split([p.numel() for p in self.parameters.values()])
        return [piece.to(p).view(p.shape) for piece, p in zip(pieces, self.parameters.values(), strict=True)]


def hessian(probe: Frozen, loss_fn: Callable, batch, parameters: dict[str, torch.Tensor]) -> Matrix:
    """H = d^2 loss / dw^2. A product is d(g . v)/dw with the graph of the gradient g (Pearlmutter 1994)."""
    inputs = list(parameters.values())
    loss = probe.loss(loss_fn, batch)
    require_graph(loss)
    gradient = _gradient(loss, inputs)
    curved = [g is not None and g.requires_grad for g in gradient]  # without a graph: constant, as in a linear loss

    def multiply(vectors):
        outputs = [g for g, keep in zip(gradient, curved, strict=True) if keep]
        along = [v for v, keep in zip(vectors, curved, strict=True) if keep]
        return torch.autograd.grad(outputs, inputs, along, retain_graph=True, allow_unused=True)

    return Matrix("Hessian", parameters, multiply if any(curved) else None)


def gauss_newton(probe: Frozen, loss_fn: Callable, batch, parameters: dict[str, torch.Tensor]) -> Matrix:
    """G = J^T H_z J: J is the Jacobian of the outputs z of the whole batch, H_z the loss's Hessian in z.

    J v is the derivative of u -> J^T u, which is linear, so its value at u = 0 serves for all v. J holds all outputs
    of the batch, so the paths between samples through batch statistics are in it.
    """
    inputs = list(parameters.values())
    outputs, loss = probe.outputs_and_loss(loss_fn, batch)
    require_graph(loss)
    if not isinstance(outputs, torch.Tensor):
        raise ValueError("the Gauss-Newton matrix needs a model whose output is one tensor, got "
                         f"{type(outputs).__name__}")
    free = outputs.detach().requires_grad_()
    slope, = _gradient(loss_fn(free, batch[1]), [free])
    if slope is None or not slope.requires_grad or not outputs.requires_grad:
        return Matrix("Gauss-Newton matrix", parameters, None)
    u = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(outputs, inputs, u, create_graph=True, allow_unused=True)
    reached = [p is not None for p in pulled]

    def multiply(vectors):
        found = [p for p, keep in zip(pulled, reached, strict=True) if keep]
        along = [v for v, keep in zip(vectors, reached, strict=True) if keep]
        jv, = torch.autograd.grad(found, [u], along, retain_graph=True)
        hjv, = torch.autograd.grad(slope, [free], jv, retain_graph=True)
        return torch.autograd.grad(outputs, inputs, hjv, retain_graph=True, allow_unused=True)

    return Matrix("Gauss-Newton matrix", parameters, multiply if any(reached) else None)


def selected(model, names=None) -> tuple[dict[str, torch.Tensor], int]:
    """The parameters (of those in `names`) that require gradients, and how many were left out because they do not.

    A tensor that the model holds under several names counts once. Raises ValueError for unknown names, and where
    nothing is left.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    names = list(known) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"the model has no parameter {', '.join(map(repr, unknown))}; it has {', '.join(known)}")
    named = {}
    for name in names:
        if not any(known[name] is other for other in named.values()):
            named[name] = known[name]
    trainable = {name: p for name, p in named.items() if p.requires_grad}
    if not trainable:
        raise ValueError("no parameter that requires a gradient is left to probe; use requires_grad_(True) on the "
                         "layers that are to be measured")
    return trainable, len(named) - len(trainable)


def _gradient(loss: torch.Tensor, inputs: list[torch.Tensor]) -> tuple:
    """With its graph; None for inputs that the loss does not depend on."""
    if not loss.requires_grad:
        return (None,) * len(inputs)
    return torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)


def _flat(tensors, parameters) -> np.ndarray:
    """One float64 vector; None reads as zeros."""
    return np.concatenate([np.zeros(p.numel()) if t is None else
                           t.detach().to("cpu", torch.float64).numpy().reshape(-1)
                           for t, p in zip(tensors, parameters, strict=True)])
