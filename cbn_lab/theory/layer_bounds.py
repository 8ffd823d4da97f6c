r"""The bounds of one weight layer as lines of a proof: what E[hh^T] has to do with L, E||g||^2 and Var.

    from cbn_lab.theory import layer_bounds
    state = layer_bounds.LayerState(h, delta, curvature, B=..., H=...)
    layer_bounds.chain().check(state)        # None, or the first line that fails and the assumption behind it

z = W h, the layers below and above held fixed, the loss a mean over n samples. Expectations are means over these n
samples, exact. LeCun et al. 1998, section 5.3, for the curvature; the rest is Cauchy-Schwarz.

**With BN above, samples interact.** Then delta_i is n times the derivative of the batch's mean loss in z_i, and
`curvature` is its Hessian in all z together, [n, o, n, o]. The lines about the curvature and about the batch's mean
gradient hold as they stand; "the gradient of sample i" is then a name for delta_i h_i^T, whose mean is the gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cbn_lab.theory import layer
from cbn_lab.theory.inequalities import Assumption, Chain, Finding, Inequality, plain

TOLERANCE = 1e-9  # relative, of an equality between arrays that an assumption states


@dataclass(frozen=True, eq=False)
class LayerState:
    """One weight layer on n samples.

    h          [n, N] its input
    delta      [n, o] gradient of each sample's loss in z
    curvature  [n, o, o] Hessian of each sample's loss in z, or [n, o, n, o] that of the mean loss in all z
    B, H       claimed bounds on ||delta_i|| and on the curvature (see `curvature_norm`); None: the largest value here
    gradients  [n, o, N] gradients in W measured another way, by autograd, say; None: delta_i h_i^T
    block      [N o, N o] Hessian in W, column by column, measured another way; None: computed from h and curvature
    """

    h: np.ndarray
    delta: np.ndarray
    curvature: np.ndarray
    B: float | None = None
    H: float | None = None
    gradients: np.ndarray | None = None
    block: np.ndarray | None = None

    def __post_init__(self):
        n, o = np.shape(self.delta)
        if len(self.h) != n or np.shape(self.curvature) not in ((n, o, o), (n, o, n, o)):
            raise ValueError(f"with delta of shape [{n}, {o}], h must be [{n}, N] and curvature [{n}, {o}, {o}] or "
                             f"[{n}, {o}, {n}, {o}]; got {list(np.shape(self.h))} and {list(np.shape(self.curvature))}")

    @cached_property
    def inputs(self) -> layer.Spectrum:
        return layer.measured(self.h)

    @cached_property
    def outer(self) -> np.ndarray:
        """delta_i h_i^T, [n, o, N]."""
        return np.einsum("na,ni->nai", self.delta, self.h)

    @cached_property
    def per_sample(self) -> np.ndarray:
        return self.outer if self.gradients is None else np.asarray(self.gradients, dtype=np.float64)

    @cached_property
    def computed_block(self) -> np.ndarray:
        """E[hh^T (x) H_z], or with interacting samples (h (x) I)^T H_Z (h (x) I)."""
        if self.curvature.ndim == 3:
            return layer.gauss_newton(self.h, self.curvature)
        size = self.h.shape[1] * self.delta.shape[1]
        return np.einsum("ni,namb,mj->iajb", self.h, self.curvature, self.h, optimize=True).reshape(size, size)

    @cached_property
    def measured_block(self) -> np.ndarray:
        return self.computed_block if self.block is None else np.asarray(self.block, dtype=np.float64)

    @cached_property
    def top_curvature(self) -> float:
        """lambda_max of the Hessian block of W."""
        return float(np.linalg.eigvalsh(self.measured_block)[-1])

    @cached_property
    def delta_norm(self) -> float:
        return float(np.linalg.norm(self.delta, axis=1).max())

    @cached_property
    def curvature_norm(self) -> float:
        """The largest ||H_z|| of a sample in operator norm; n ||H_Z|| where samples interact, which is the same number
        where they do not."""
        if self.curvature.ndim == 3:
            return float(np.abs(np.linalg.eigvalsh(self.curvature)).max())
        n, o = self.delta.shape
        return n * float(np.abs(np.linalg.eigvalsh(self.curvature.reshape(n * o, n * o))).max())

    @property
    def delta_bound(self) -> float:
        return self.delta_norm if self.B is None else self.B

    @property
    def curvature_bound(self) -> float:
        return self.curvature_norm if self.H is None else self.H

    def second(self) -> float:
        """E||g||^2."""
        return float((self.per_sample**2).sum() / len(self.h))

    def variance(self) -> float:
        """E||g - E g||^2, from the differences."""
        return float(((self.per_sample - self.per_sample.mean(0)) ** 2).sum() / len(self.h))

    def mean_square(self) -> float:
        """||E g||^2: the squared gradient of the whole batch."""
        return float((self.per_sample.mean(0) ** 2).sum())


def _distance(actual: np.ndarray, expected: np.ndarray) -> float:
    size = float(np.linalg.norm(expected)) or 1.0
    return float(np.linalg.norm(actual - expected)) / size


def _equal(difference: float, what: str) -> Finding:
    return Finding(difference > TOLERANCE, f"{what} differ by {difference:.3g}, relative")


def _bounded(value: float, bound: float, what: str, name: str) -> Finding:
    return Finding(value > bound * (1 + TOLERANCE), f"the largest {what} is {value:.6g}, {name} = {bound:.6g}")


SHARED_ONCE = Assumption(
    "W is used once per sample", r"z = W h",
    lambda s: _equal(_distance(s.per_sample, s.outer), "the gradients and delta h^T"))
BOUNDED_DELTA = Assumption(
    "bounded delta", r"\|\delta\| \le B", lambda s: _bounded(s.delta_norm, s.delta_bound, "||delta||", "B"))
BLOCK = Assumption(
    "the block is that of this layer", r"\nabla^2_W = \mathbb E[hh^\top \otimes H_z]",
    lambda s: _equal(_distance(s.measured_block, s.computed_block), "the measured Hessian block and E[hh^T (x) H_z]"))
BOUNDED_CURVATURE = Assumption(
    "bounded curvature in z", r"\|H_z\| \le H",
    lambda s: _bounded(s.curvature_norm, s.curvature_bound, "||H_z||", "H"))


def _independent(s: LayerState) -> Finding:
    if s.curvature.ndim != 3:
        return Finding(True, "samples interact, so there is no H_z of a single sample")
    return _equal(layer.kronecker_error(s.h, s.curvature), "E[hh^T (x) H_z] and E[hh^T] (x) E[H_z]")


INDEPENDENT = Assumption(
    "input and curvature are uncorrelated", r"\mathbb E[hh^\top\otimes H_z]=\mathbb E[hh^\top]\otimes\mathbb E[H_z]",
    _independent)


def _product_top(s: LayerState) -> float:
    if s.curvature.ndim == 3:
        mean = s.curvature.mean(0)
    else:  # the mean over samples of the blocks on the diagonal, each n times its part of the mean loss
        mean = np.einsum("nanb->ab", s.curvature)
    return float(layer.kronecker_spectrum(s.inputs.eigenvalues, np.linalg.eigvalsh(mean))[0])


def _line(name: str, latex: str, left: Callable, right: Callable, **options) -> Inequality:
    return Inequality(name, latex, plain(left, right), **options)


GRADIENT = _line(
    "gradient of a sample", r"\mathbb E\|g\|^2 = \mathbb E\,\|\delta\|^2\|h\|^2", LayerState.second,
    lambda s: ((s.delta**2).sum(1) * (s.h**2).sum(1)).mean(), assumptions=(SHARED_ONCE,), relation="=",
    why="g = delta h^T, so its squared entries are delta_a^2 h_i^2")
SECOND_MOMENT = _line(
    "second moment", r"\mathbb E\|g\|^2 \le B^2\,\mathrm{tr}\,\mathbb E[hh^\top]", LayerState.second,
    lambda s: s.delta_bound**2 * s.inputs.trace, assumptions=(BOUNDED_DELTA,), previous="gradient of a sample",
    why="||delta||^2 <= B^2, and E||h||^2 is the trace")
VARIANCE = _line(
    "variance", r"\mathrm{Var}[g] \le B^2\,\mathrm{tr}\,\mathbb E[hh^\top]", LayerState.variance,
    lambda s: s.delta_bound**2 * s.inputs.trace, previous="second moment", why="Var = E||g||^2 - ||E g||^2 <= E||g||^2")
MEAN_GRADIENT = _line(
    "gradient of the batch", r"\|\mathbb E g\|^2 \le B^2\,\lambda_{\max}(\mathbb E[hh^\top])", LayerState.mean_square,
    lambda s: s.delta_bound**2 * s.inputs.top, assumptions=(BOUNDED_DELTA,), previous="gradient of a sample",
    why="E g = D^T h/n with ||D||_F^2 <= n B^2, and ||D^T h||_F <= ||D||_F ||h||_op, ||h||_op^2 = n lambda_max")
TOP = _line(
    "top eigenvalue", r"\lambda_{\max}(\mathbb E[hh^\top]) \le \mathrm{tr}\,\mathbb E[hh^\top]",
    lambda s: s.inputs.top, lambda s: s.inputs.trace, why="no eigenvalue of E[hh^T] is negative")
CURVATURE = _line(
    "curvature", r"L_W \le H\,\lambda_{\max}(\mathbb E[hh^\top])", lambda s: s.top_curvature,
    lambda s: s.curvature_bound * s.inputs.top, assumptions=(BLOCK, BOUNDED_CURVATURE),
    why="H_z <= H I, so hh^T (x) H_z <= H hh^T (x) I, sample by sample; take the mean and the largest eigenvalue")
PRODUCT = _line(
    "Kronecker product", r"L_W = \max_{i,j}\lambda_i(\mathbb E[hh^\top])\,\lambda_j(\mathbb E[H_z])",
    lambda s: s.top_curvature, _product_top, assumptions=(INDEPENDENT, BLOCK), relation="=",
    why="the eigenvalues of A (x) B are all products of theirs")


def chain(*, factored: bool = False) -> Chain:
    """The layer's lines in the order of the proof; `factored` adds the one that needs h and H_z to be uncorrelated."""
    lines = (GRADIENT, SECOND_MOMENT, VARIANCE, MEAN_GRADIENT, TOP, CURVATURE)
    return Chain((*lines, PRODUCT) if factored else lines)
