r"""What standardizing behind the activation guarantees for every activation, and what it does not.

It holds for every layer that ends in standardization, scale and shift, in train mode: for our reconstruction of CBN,
and for BN moved behind the activation as well.

**Theorem.** Let f be any function. Let x_c be the n values of f in channel c over a batch (samples and positions), v_c
their variance with 1/n, eps > 0, r_c = v_c/(v_c + eps), and $y_c = \gamma_c (x_c - \bar x_c)/\sqrt{v_c+eps} + s_c$.
Then over the same n values

1. y_c has mean s_c, variance gamma_c^2 r_c and second moment gamma_c^2 r_c + s_c^2;
2. tr E[yy^T] = sum_c (gamma_c^2 r_c + s_c^2), between ||s||^2 and ||gamma||^2 + ||s||^2, whatever f is;
3. with d_c = |gamma_c| sqrt(r_c),
   max(||s||^2, max_c E y_c^2, tr/min(n, N)) <= lambda_max(E[yy^T]) <= lambda_max(dd^T + |s||s|^T) <= tr.
   The second bound is attained for every f that takes two values and n >= 2: by a batch whose channels are equal up to
   sign after the standardization. So no smaller bound in d and s holds for all batches; at s = 0 it is the trace.

Proof. (1) The mean of x_c - mean is 0 and its mean square v_c; divide by v_c + eps, scale, shift: the mixed term has
the factor 0. (2) Sum over c; 0 <= r_c < 1. (3) Below: all eigenvalues are >= 0, they add up to the trace, and at most
min(n, N) of them are not 0. For a unit vector u, lambda_max >= u^T E[yy^T] u; take u = e_c, and if s is not 0 u =
s/||s||, for which u^T E[yy^T] u >= (u^T E y)^2 = ||s||^2. Above: E[yy^T] = Cov + ss^T with |Cov_ij| <= d_i d_j
(Cauchy-Schwarz), so u^T E[yy^T] u <= |u|^T (dd^T + |s||s|^T) |u|. Equality: let f(z) be a on one part of the batch and
b on the rest, in every channel; a and b exchanged where gamma_c s_c < 0. All v_c are equal, and the standardized
channels are +- one signal: y_c = t_c (d_c q + |s_c|) with E q = 0, E q^2 = 1 and signs t_c. So E[yy^T] = dd^T +
|s||s|^T up to the signs of rows and columns. The trace of that matrix is tr E[yy^T], and its eigenvalues are >= 0. QED

**What it does not say.** (a) At s = 0, nothing from above about lambda_max beyond the trace. The mean spike is gone at
s = 0 and comes back with s: ||s||^2 <= lambda_max. Correlated channels make a spike of their own that no centring
removes. (b) Nothing about delta, so about B and H: the backward pass multiplies by gamma_c/sqrt(v_c + eps), which is
large where f(z) varies little. (c) A channel that is constant over the batch (a dead ReLU) has r_c = 0 and keeps s_c^2
alone. (d) The values are those of this batch: in eval mode, behind a pooling layer, or on the pixels that one tap of a
strided or padded convolution sees, the moments are others. (e) A fixed trace is not a small one: with gamma = 1 and s =
0 it is N, for Sigmoid more than the N (m^2 + v) of vanilla BN. (f) Both bounds of the layer are upper bounds: a smaller
right side does not make the left side smaller. (g) Nothing about training: layers that share the guarantee can train
differently.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Channels:
    """Mean, variance and second moment per channel, each [N], over the n values that were standardized."""

    mean: np.ndarray
    variance: np.ndarray
    second: np.ndarray
    samples: int | None = None

    @property
    def trace(self) -> float:
        """tr E[yy^T]."""
        return float(self.second.sum())

    @property
    def top_interval(self) -> tuple[float, float]:
        """What part 3 of the theorem says about the top eigenvalue of E[yy^T]: (at least, at most)."""
        rank = len(self.second) if self.samples is None else min(self.samples, len(self.second))
        mean_square, own = float(self.mean @ self.mean), float(self.variance.sum())
        lowest = max(mean_square, float(self.second.max()), self.trace / rank)
        overlap = float(np.sqrt(self.variance) @ np.abs(self.mean))  # of d and |s|: the sum has two eigenvalues
        return lowest, (own + mean_square) / 2 + float(np.hypot((own - mean_square) / 2, overlap))


def behind_standardization(variance, gamma, shift, *, eps: float = 1e-5, samples: int | None = None) -> Channels:
    """The theorem's moments of gamma * standardize(f(z)) + shift, from the batch variances [N] of f(z).

    `gamma` and `shift` as they are applied (a fast shift is sqrt(k) times what is stored), numbers or [N]. ValueError
    for a negative variance or an eps that is not positive.
    """
    variance = np.atleast_1d(np.asarray(variance, dtype=np.float64))
    if variance.ndim != 1 or not (variance >= 0).all():
        raise ValueError(f"variance must be one number >= 0 per channel, got {variance}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    gamma, shift = (np.broadcast_to(np.asarray(p, dtype=np.float64), variance.shape) for p in (gamma, shift))
    own = gamma**2 * variance / (variance + eps)
    return Channels(shift, own, own + shift**2, samples)


def backward_factor(variance, gamma, *, eps: float = 1e-5) -> np.ndarray:
    """gamma/sqrt(v + eps) per channel: what standardization does to the gradient on its way down, point (b).

    The rest of BN's backward pass is a projection and shortens it (`cbn_lab.theory.algebra.batch_norm_backward`).
    """
    return np.abs(gamma) / np.sqrt(np.asarray(variance, dtype=np.float64) + eps)
