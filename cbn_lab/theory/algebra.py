r"""The algebra of the proofs, checked by SymPy: each statement as two expressions whose difference simplifies to 0.

A check proves the identity for the symbols it uses and for nothing else. Where the number of samples or channels is a
symbol, N, the check says so; where SymPy needs it as a number, the statement names the number, and the proof for every
number is the one written in the notebook.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import sympy as sp


@dataclass(frozen=True)
class Identity:
    """left = right. `scope` says for which sizes the symbols stand."""

    name: str
    left: sp.Expr
    right: sp.Expr
    scope: str = "all values of the symbols"

    @cached_property
    def residual(self) -> sp.Expr:
        """left - right, simplified: 0 where SymPy has proved the identity."""
        return sp.simplify(sp.expand(self.left - self.right))

    @property
    def proved(self) -> bool:
        return self.residual == 0


def identities() -> list[Identity]:
    """All checks, in the order in which the notebooks need them; about 3 s for all of them."""
    return [*second_moments(), *spike(), *best_step(), *batch_norm_backward(), *santurkar(), *relu_moments(),
            *guarantee()]


def second_moments(outcomes: int = 3, dimension: int = 2) -> Iterator[Identity]:
    """E||g||^2 = ||E g||^2 + Var g for a gradient with finitely many values of any probabilities."""
    p = sp.symbols(f"p1:{outcomes}", positive=True)
    p = (*p, 1 - sum(p))
    g = [sp.Matrix(sp.symbols(f"g{i}_1:{dimension + 1}", real=True)) for i in range(outcomes)]
    mean = sum((pi * gi for pi, gi in zip(p, g, strict=True)), sp.zeros(dimension, 1))
    second = sum(pi * gi.dot(gi) for pi, gi in zip(p, g, strict=True))
    variance = sum(pi * (gi - mean).dot(gi - mean) for pi, gi in zip(p, g, strict=True))
    yield Identity("second moment = squared mean + variance", second, mean.dot(mean) + variance,
                   f"{outcomes} outcomes in {dimension} dimensions, any probabilities")


def spike() -> Iterator[Identity]:
    """The eigenvalues of m^2 11^T + v I, for a symbolic number of channels N."""
    n, i = sp.Symbol("N", integer=True, positive=True), sp.Symbol("i", integer=True)
    j = sp.Symbol("j", integer=True)
    m, v = sp.symbols("m v", real=True)
    yield Identity("row of (m^2 11^T + v I) 1 = N m^2 + v", sp.summation(m**2, (j, 1, n)) + v, n * m**2 + v,
                   "every N")
    u = sp.IndexedBase("u")
    row = sp.factor_terms(sp.Sum(m**2 * u[j], (j, 1, n))) + v * u[i]
    yield Identity("row of (m^2 11^T + v I) u = v u where the entries of u sum to 0",
                   row.subs(sp.Sum(u[j], (j, 1, n)), 0), v * u[i], "every N")
    x = sp.Symbol("x")
    for size in (2, 3, 5):
        matrix = m**2 * sp.ones(size) + v * sp.eye(size)
        yield Identity(f"characteristic polynomial for N = {size}", matrix.charpoly(x).as_expr(),
                       (x - v) ** (size - 1) * (x - size * m**2 - v), f"N = {size}")


def best_step() -> Iterator[Identity]:
    """The step that minimizes Delta/(K alpha) + alpha L G^2/2, and the value there."""
    delta, steps, smooth, g, alpha = sp.symbols("Delta K L G alpha", positive=True)
    bound = delta / (steps * alpha) + alpha * smooth * g**2 / 2
    best = sp.sqrt(2 * delta / (smooth * g**2 * steps))
    yield Identity("the derivative of the bound is 0 at the best step", sp.diff(bound, alpha).subs(alpha, best),
                   sp.Integer(0))
    yield Identity("the bound at the best step", bound.subs(alpha, best), sp.sqrt(2 * delta * smooth * g**2 / steps))
    gap = (sp.sqrt(delta / (steps * alpha)) - sp.sqrt(alpha * smooth * g**2 / 2)) ** 2
    yield Identity("the bound exceeds that value by a square, so no other step is better", bound,
                   sp.sqrt(2 * delta * smooth * g**2 / steps) + gap)


def _batch_norm(count: int):
    """x, the incoming gradient g, eps, gamma, mean of n values, r = sqrt(var + eps), xhat, all in symbols."""
    x = sp.Matrix(sp.symbols(f"x1:{count + 1}", real=True))
    g = sp.Matrix(sp.symbols(f"g1:{count + 1}", real=True))
    eps, gamma = sp.symbols("epsilon gamma", positive=True)
    centred = x - sp.ones(count, 1) * sum(x) / count
    variance = centred.dot(centred) / count
    return x, g, eps, gamma, centred, variance


def batch_norm_backward(count: int = 3) -> Iterator[Identity]:
    r"""dL/dx = gamma/sqrt(v + eps) (g - mean g - xhat mean(g xhat)), and what it is orthogonal to.

    SymPy differentiates y = gamma xhat itself, so the formula is compared with the derivative, not with a derivation.
    """
    x, g, eps, gamma, centred, variance = _batch_norm(count)
    root = sp.sqrt(variance + eps)
    derivative = (gamma * centred / root).jacobian(x).T * g
    r, ones = sp.Symbol("r", positive=True), sp.ones(count, 1)
    xhat = centred / r
    formula = gamma / r * (g - ones * sum(g) / count - xhat * g.dot(xhat) / count)
    scope = f"{count} samples, any eps"
    for i in range(count):
        yield Identity(f"backward formula of BN, sample {i + 1}", derivative[i], formula[i].subs(r, root), scope)
    yield Identity("its sum over the batch is 0", formula.dot(ones), sp.Integer(0), scope)
    leak = gamma / r * g.dot(xhat) * eps / (variance + eps)
    yield Identity("its product with xhat is 0 but for eps", formula.dot(xhat).subs(r, root), leak.subs(r, root), scope)


def santurkar(count: int = 3) -> Iterator[Identity]:
    r"""||dL/dx||^2 = gamma^2/sigma^2 (||g||^2 - <1, g>^2/n - <g, xhat>^2/n) for eps = 0.

    Santurkar et al., NeurIPS 2018, Theorem 4.1, as the equality that it is with g taken at the output of BN.
    """
    x, g, _, gamma, centred, variance = _batch_norm(count)
    sigma, ones = sp.sqrt(variance), sp.ones(count, 1)
    xhat = centred / sigma
    gradient = gamma / sigma * (g - ones * sum(g) / count - xhat * g.dot(xhat) / count)
    right = gamma**2 / variance * (g.dot(g) - sum(g) ** 2 / count - g.dot(xhat) ** 2 / count)
    yield Identity("squared gradient below BN", gradient.dot(gradient), right, f"{count} samples, eps = 0")


def relu_moments() -> Iterator[Identity]:
    """Mean and second moment of ReLU(z), z ~ N(0, s^2): the scale passes through, and m^2/v has no s in it."""
    z, s = sp.Symbol("z", real=True), sp.Symbol("s", positive=True)
    density = sp.exp(-(z**2) / (2 * s**2)) / (s * sp.sqrt(2 * sp.pi))
    mean = sp.integrate(z * density, (z, 0, sp.oo))
    second = sp.integrate(z**2 * density, (z, 0, sp.oo))
    yield Identity("mean of ReLU", mean, s / sp.sqrt(2 * sp.pi))
    yield Identity("second moment of ReLU", second, s**2 / 2)
    yield Identity("mean spike m^2/v of ReLU", mean**2 / (second - mean**2), 1 / (sp.pi - 1))
    yield Identity("growth of the squared gradient, E f'^2 s^2/Var f", s**2 / 2 / (second - mean**2),
                   sp.pi / (sp.pi - 1))


def guarantee(count: int = 3) -> Iterator[Identity]:
    """The moments behind a standardization, and the top eigenvalue of its bound (`cbn_lab.theory.guarantee`)."""
    x, _, eps, gamma, centred, variance = _batch_norm(count)
    s = sp.Symbol("s", real=True)
    y = gamma * centred / sp.sqrt(variance + eps) + s * sp.ones(count, 1)
    scope = f"{count} samples, any eps"
    yield Identity("mean behind the standardization is s", sum(y) / count, s, scope)
    yield Identity("second moment is gamma^2 v/(v + eps) + s^2", y.dot(y) / count,
                   gamma**2 * variance / (variance + eps) + s**2, scope)
    d, shift = (sp.Matrix(sp.symbols(f"{name}1:4", real=True)) for name in "ds")
    root, a, b, c = sp.Symbol("lambda"), d.dot(d), shift.dot(shift), d.dot(shift)
    yield Identity("dd^T + ss^T has the eigenvalues (a + b)/2 +- sqrt(((a - b)/2)^2 + c^2)",
                   (d * d.T + shift * shift.T).charpoly(root).as_expr(),
                   root * ((root - (a + b) / 2) ** 2 - ((a - b) / 2) ** 2 - c**2),
                   "3 channels, a = d.d, b = s.s, c = d.s; the third eigenvalue is 0")
