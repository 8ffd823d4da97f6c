r"""What enters a weight layer: moments of f(z), the spectrum of E[hh^T], and its factor in the layer's curvature.

z = W h with gradient delta at z. The gradient of W is delta h^T and the Gauss-Newton block of W is E[hh^T (x) H_z], so
trace and top eigenvalue of E[hh^T] = Cov h + (E h)(E h)^T stand in the bounds of `cbn_lab.theory.layer_bounds`.
BN before the activation makes every channel of z have mean beta and standard deviation gamma; h = f(z) is then
described by `activations.moments(name, beta, gamma)` **if z is normal**, an assumption that the notebook measures.

Arrays are float64, samples are rows: h is [n, N].
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cbn_lab import activations

ORDER = 64  # degree at which Hermite series are cut; `covariance` bounds what that costs


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of a second-moment matrix, the largest first."""

    eigenvalues: np.ndarray

    @property
    def trace(self) -> float:
        """tr E[hh^T] = E||h||^2."""
        return float(self.eigenvalues.sum())

    @property
    def top(self) -> float:
        return float(self.eigenvalues[0])

    @property
    def share(self) -> float:
        """Top eigenvalue over trace, between 1/N (all directions alike) and 1 (a single direction); free of scale."""
        return self.top / self.trace

    @cached_property
    def effective_rank(self) -> float:
        """exp of the entropy of the shares: the number of directions, N if all eigenvalues are equal, 1 for a single
        one (Roy and Vetterli 2007)."""
        share = self.eigenvalues / self.trace
        share = share[share > 0]
        return float(np.exp(-(share * np.log(share)).sum()))


def spectrum(mean: float, variance: float, width: int, covariance: float = 0.0) -> Spectrum:
    r"""Of E[hh^T] for N = width channels of equal mean m and variance v, any two of them with covariance c.

    $E[hh^T] = (m^2 + c)\,11^T + (v - c)\,I$: the vector of ones has eigenvalue N (m^2 + c) + v - c, everything
    orthogonal to it v - c. With c = 0, independent channels, that is N m^2 + v and v (LeCun, Bottou, Orr and Mueller
    1998, section 4.3). ValueError unless v >= 0 and -v/(N-1) <= c <= v, which every covariance matrix satisfies.
    """
    if width < 1 or not variance >= 0:
        raise ValueError(f"need a width of at least 1 and a variance >= 0, got {width} and {variance}")
    lowest = -variance / (width - 1) if width > 1 else 0.0
    slack = 1e-9 * variance
    if not lowest - slack <= covariance <= variance + slack:
        raise ValueError(f"{width} channels of variance {variance:g} can have a common covariance between {lowest:g} "
                         f"and {variance:g}, got {covariance:g}")
    values = np.full(width, max(variance - covariance, 0.0))
    values[0] = max(width * (mean * mean + covariance) + variance - covariance, 0.0)
    return Spectrum(np.sort(values)[::-1])


def second_moment(h: np.ndarray) -> np.ndarray:
    """E[hh^T] [N, N] over the rows of h [n, N], about zero: the mean is not subtracted."""
    h = _matrix("h", h)
    return h.T @ h / len(h)


def measured(h: np.ndarray) -> Spectrum:
    """The spectrum of E[hh^T] over the rows of h [n, N]; at most n eigenvalues are not 0."""
    return Spectrum(np.linalg.eigvalsh(second_moment(h))[::-1].clip(min=0.0))


def hermite(name: str, mean: float = 0.0, std: float = 1.0, order: int = ORDER) -> np.ndarray:
    r"""Coefficients a_0 .. a_order of f(mean + std x) in the Hermite polynomials orthonormal under x ~ N(0, 1).

    a_0 is the mean of f(z) and $\sum_{k\ge1} a_k^2$ its variance. $a_k = E[f(mean + std\,x)\,He_k(x)]/\sqrt{k!}$ by
    the quadrature of `activations.moments`; the polynomials by their recurrence, which is stable.
    """
    if not std > 0:
        raise ValueError(f"need a std > 0, got {std}: a constant pre-activation has no series")
    z, weight = activations.normal_quadrature(mean, std)
    x, weighted = (z - mean) / std, weight * activations.evaluate(name, z)
    previous, polynomial = np.zeros_like(x), np.ones_like(x)
    coefficients = []
    for k in range(order + 1):
        coefficients.append(weighted @ polynomial)
        previous, polynomial = polynomial, (x * polynomial - math.sqrt(k) * previous) / math.sqrt(k + 1)
    return np.array(coefficients)


def covariance(name: str, correlation, mean: float = 0.0, std: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    r"""(Cov(f(z_1), f(z_2)), bound on its error) for jointly normal z of the given correlation, elementwise.

    $\mathrm{Cov} = \sum_{k\ge1} a_k^2 \rho^k$ with the coefficients of `hermite` (Mehler's formula; O'Donnell 2014,
    *Analysis of Boolean Functions*, proposition 11.31). Cut at k = 64 the rest is at most
    $|\rho|^{65}\,(\mathrm{Var} f - \sum_{k=1}^{64} a_k^2)$. Exact at correlation 1. For a correlation matrix
    `correlation` the result is Cov of the activations, so a positive semidefinite matrix again.
    """
    rho = np.asarray(correlation, dtype=np.float64)
    if rho.size and not np.abs(rho).max() <= 1 + 1e-12:
        raise ValueError(f"a correlation lies between -1 and 1, got {float(np.abs(rho).max()):g} in absolute value")
    variance = activations.moments(name, mean, std).variance
    squares = hermite(name, mean, std) ** 2
    squares[0] = 0.0
    rest = max(variance - squares.sum(), 0.0)
    value = np.polynomial.polynomial.polyval(rho, squares)
    equal = rho == 1.0
    return np.where(equal, variance, value), np.where(equal, 0.0, np.abs(rho) ** (len(squares)) * rest)


def activation_spectrum(name: str, width: int, mean: float = 0.0, std: float = 1.0,
                        correlation: float = 0.0) -> Spectrum:
    """Of E[hh^T] for h = f(z), z normal with equal means, standard deviations and pairwise correlation.

    Correlation adds N Cov(f, f') to the top eigenvalue: a spike that no centring of h removes.
    """
    m = activations.moments(name, mean, std)
    added = float(covariance(name, correlation, mean, std)[0]) if correlation and std > 0 else 0.0
    return spectrum(m.mean, m.variance, width, added)


def spectrum_of_correlated(name: str, correlation: np.ndarray, mean: float = 0.0, std: float = 1.0) -> Spectrum:
    """Of E[hh^T] = m^2 11^T + Cov f, z jointly normal with this correlation matrix [N, N], equal means and deviations.

    With the correlation that a net's z are measured to have, the only difference left to the measured spectrum is the
    assumption that z is normal.
    """
    matrix = activations.moments(name, mean, std).mean ** 2 + covariance(name, correlation, mean, std)[0]
    return Spectrum(np.linalg.eigvalsh(matrix)[::-1].clip(min=0.0))


def squared_slope(name: str, mean: float = 0.0, std: float = 1.0) -> float:
    """E[f'(z)^2] for z ~ N(mean, std^2): what the activation does to a squared gradient on its way back.

    Central differences at the quadrature's nodes, none of which is the kink; accurate to about 1e-8.
    """
    z, weight = activations.normal_quadrature(mean, std)
    step = 1e-5 * std
    slope = (activations.evaluate(name, z + step) - activations.evaluate(name, z - step)) / (2 * step)
    return float(weight @ slope**2)


def growth(name: str, mean: float = 0.0, std: float = 1.0) -> float:
    r"""std^2 E[f'(z)^2] / Var f(z): factor on the squared gradient per layer with BN, infinite width and batch.

    At least 1 for every f, and 1 only for a straight line: with the coefficients of `hermite` it is
    $\sum k a_k^2 / \sum_{k\ge1} a_k^2$ (the Gaussian Poincare inequality). For ReLU pi/(pi - 1), the rate of Yang et
    al., ICLR 2019, section 3. The same for BN before and behind the activation. ValueError where f(z) is constant.
    """
    variance = activations.moments(name, mean, std).variance
    if variance == 0:
        raise ValueError(f"{name} of N({mean:g}, {std:g}^2) is constant: nothing to normalize")
    return std**2 * squared_slope(name, mean, std) / variance


def gauss_newton(h: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """E[hh^T (x) H_z], [N o, N o], from h [n, N] and one H_z [o, o] per sample: the curvature block of W in z = W h.

    Rows and columns follow W column by column, so that z = (h^T (x) I) vec W. With H_z the full Hessian of the loss in
    z it is the exact Hessian block of W, for z is linear in W.
    """
    h, curvature = _matrix("h", h), np.asarray(curvature, dtype=np.float64)
    if curvature.ndim != 3 or curvature.shape[0] != len(h) or curvature.shape[1] != curvature.shape[2]:
        raise ValueError(f"curvature must be [n, o, o] with n = {len(h)} samples, got shape {list(curvature.shape)}")
    block = np.einsum("ni,nj,nab->iajb", h, h, curvature, optimize=True) / len(h)
    size = h.shape[1] * curvature.shape[1]
    return block.reshape(size, size)


def kronecker_spectrum(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Eigenvalues of A (x) B from those of A and B: all products, the largest first.

    With A = E[hh^T] and B = E[H_z] that is the block of W if h and H_z are independent (Huang et al., ECCV 2020), or
    more generally if no product h_i h_j is correlated with an entry of H_z: always for one sample, for a constant H_z
    (squared loss, last layer), and for an h that is the same in all samples. See `kronecker_error` otherwise.
    """
    return np.sort(np.outer(inputs, outputs).ravel())[::-1]


def kronecker_error(h: np.ndarray, curvature: np.ndarray) -> float:
    """||E[hh^T (x) H] - E[hh^T] (x) E[H]|| / ||E[hh^T (x) H]|| in the Frobenius norm: 0 where the factors are exact."""
    exact = gauss_newton(h, curvature)
    product = np.kron(second_moment(h), np.mean(curvature, axis=0))
    return float(np.linalg.norm(exact - product) / np.linalg.norm(exact))


def _matrix(what: str, value) -> np.ndarray:
    value = np.asarray(value, dtype=np.float64)
    if value.ndim != 2 or len(value) == 0:
        raise ValueError(f"{what} must be [samples, channels] with at least one sample, got shape {list(value.shape)}")
    return value
