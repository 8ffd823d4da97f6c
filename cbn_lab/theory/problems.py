"""Problems to run SGD on, with the constants that are claimed about them; bring your own, or take one whose constants
are known exactly.

A problem of your own needs a value, a gradient and a stochastic gradient; w is a float64 vector [d]:

    from cbn_lab import theory
    problem = theory.Problem(
        value=lambda w: 0.5 * w @ w, gradient=lambda w: w,
        oracle=lambda w, rng: w + 0.1 * rng.standard_normal(w.shape),
        start=[1.0, 2.0], L=1.0, sigma2=0.02, f_star=0.0)
    state = theory.run(problem, step=0.5, steps=40)
    print(theory.chain().check(state))      # None: every line holds

The constants are claims, to be confirmed or refuted by the run. `oracle` may know more than how to sample: see
`cbn_lab.theory.oracles`. The more it knows, the more is exact.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import resources

import numpy as np

from cbn_lab.theory import oracles


@dataclass(frozen=True, eq=False)
class Problem:
    """Minimize value(w) by w <- w - step * g, g from the oracle, from `start`.

    value      w -> float
    gradient   w -> [d], the gradient of `value`
    oracle     (w, rng) -> [d], or an object as in `oracles`; None: no noise
    L          claimed Lipschitz constant of the gradient
    sigma2     claimed bound of Var[g | w] for ONE draw (a mini-batch divides it); None: nothing is claimed
    f_star     claimed lower bound of value
    G2         claimed bound of E|g|^2; None: the largest E|g_k|^2 of the run is taken
    mu, mu_G, M, M_V   Bottou, Curtis, Nocedal, Assumption 4.3: gradient . E g >= mu |gradient|^2,
               |E g| <= mu_G |gradient|, Var[g] <= M + M_V |gradient|^2 (of one draw). M of None is sigma2
    vectorized value and gradient map [..., d] to [...] and [..., d]: much faster
    quadratic  (A, c, f0) if value is f0 + (w - c)' A (w - c) / 2: expectations in closed form
    """

    value: Callable
    gradient: Callable
    oracle: object
    start: np.ndarray
    L: float
    sigma2: float | None = None
    f_star: float = 0.0
    G2: float | None = None
    mu: float = 1.0
    mu_G: float = 1.0
    M: float | None = None
    M_V: float = 0.0
    name: str = "a problem"
    vectorized: bool = False
    quadratic: tuple | None = field(default=None, repr=False)

    def __post_init__(self):
        start = np.atleast_1d(np.asarray(self.start, dtype=float))
        if start.ndim != 1 or not np.all(np.isfinite(start)):
            raise ValueError(f"start must be a vector of finite numbers, got shape {list(start.shape)}")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "oracle", self.oracle or oracles.Exact(self.gradients))
        for name in ("L", "sigma2", "G2", "mu", "mu_G", "M", "M_V"):
            claim = getattr(self, name)
            if claim is not None and not claim >= 0:
                raise ValueError(f"the claimed {name} is {claim}; a number >= 0 is needed")

    @property
    def d(self) -> int:
        return self.start.size

    def claim(self, **constants) -> "Problem":
        """The same problem with other claims (or another oracle, or start)."""
        return replace(self, **constants)

    def batched(self, size: int) -> "Problem":
        """The same problem with the mean of `size` independent draws of its oracle."""
        return replace(self, oracle=oracles.MiniBatch(self.oracle, size))

    def values(self, w: np.ndarray) -> np.ndarray:
        """[..., d] -> [...]"""
        if self.vectorized:
            return np.asarray(self.value(w), dtype=float)
        flat = [float(np.asarray(_or_nan(self.value, x), dtype=float).reshape(())) for x in w.reshape(-1, self.d)]
        return np.array(flat).reshape(w.shape[:-1])

    def gradients(self, w: np.ndarray) -> np.ndarray:
        """[..., d] -> [..., d]. ValueError if the gradient of a point has another shape than the point."""
        if self.vectorized:
            return np.asarray(self.gradient(w), dtype=float)
        flat = [np.asarray(_or_nan(self.gradient, x, np.full(self.d, np.nan)), dtype=float)
                for x in w.reshape(-1, self.d)]
        wrong = next((g.shape for g in flat if g.size != self.d), None)
        if wrong is not None:
            raise ValueError(f"gradient(w) has shape {list(wrong)}; [{self.d}] is needed, as of w")
        return np.array(flat).reshape(w.shape)


def quadratic(spectrum, *, sigma: float = 0.0, noise: oracles.Noise | None = None, start=None, center=None,
              rotation_seed: int | None = None, **claims) -> Problem:
    """(w - c)' A (w - c) / 2 with the given eigenvalues, and additive noise with E|g - gradient|^2 = sigma^2 * v.

    v is the variance of `noise` (1 for Gaussian). L = max |spectrum|, f* = 0 (-inf with a negative eigenvalue),
    sigma2 = sigma^2 v, or sigma^2 where v is infinite: a claim that is then false. `rotation_seed`: random axes.
    """
    spectrum = np.asarray(spectrum, dtype=float)
    d = spectrum.size
    axes = np.eye(d)
    if rotation_seed is not None:
        axes = np.linalg.qr(np.random.default_rng(rotation_seed).standard_normal((d, d)))[0]
    A = axes * spectrum @ axes.T
    A = (A + A.T) / 2
    c = np.zeros(d) if center is None else np.asarray(center, dtype=float)

    def gradient(w):
        return (w - c) @ A

    oracle = oracles.Additive(gradient, sigma, noise) if sigma else oracles.Exact(gradient)
    variance = getattr(oracle, "variance", 0.0)
    given = {"L": float(np.abs(spectrum).max()), "f_star": 0.0 if spectrum.min() >= 0 else -np.inf,
             "sigma2": variance if np.isfinite(variance) else sigma**2}
    return Problem(lambda w: np.einsum("...i,ij,...j->...", w - c, A, w - c) / 2, gradient,
                   start=np.ones(d) if start is None else start, vectorized=True, quadratic=(A, c, 0.0),
                   **{"oracle": oracle, "name": f"quadratic, d = {d}"} | given | claims)


def log_sum(d: int = 2, *, sigma: float = 0.0, noise: oracles.Noise | None = None, start=None, **claims) -> Problem:
    """sum_i log(1 + w_i^2 / 2): not convex (its second derivative is negative beyond |w_i| = sqrt 2), f* = 0, L = 1.

    The second derivative of log(1 + x^2/2) is (1 - x^2/2) / (1 + x^2/2)^2. With t = x^2/2 >= 0 it is 1 at t = 0, falls
    to its minimum -1/8 at t = 3 and rises towards 0: between -1/8 and 1, and 1 is attained.
    """
    def gradient(w):
        return w / (1 + w**2 / 2)

    oracle = oracles.Additive(gradient, sigma, noise) if sigma else oracles.Exact(gradient)
    variance = getattr(oracle, "variance", 0.0)
    given = {"L": 1.0, "f_star": 0.0, "sigma2": variance if np.isfinite(variance) else sigma**2}
    return Problem(lambda w: np.log1p(w**2 / 2).sum(axis=-1), gradient, vectorized=True,
                   start=np.full(d, 3.0) if start is None else start,
                   **{"oracle": oracle, "name": f"sum of log(1 + x²/2), d = {d}"} | given | claims)


def kink(*, start: float = 0.95, claimed_L: float = 1.0, **claims) -> Problem:
    """|w|: the slope jumps at 0, so no L is large enough. Without noise."""
    return Problem(lambda w: np.abs(w).sum(axis=-1), np.sign, start=[start], vectorized=True,
                   **{"oracle": None, "L": claimed_L, "sigma2": 0.0, "name": "|w|"} | claims)


def least_squares(X, y, *, batch: int = 1, replacement: bool = True, start=None, radius: float = 2.0,
                  **claims) -> Problem:
    """mean_i (x_i . w - y_i)^2 / 2 over n rows, mini-batches of `batch`.

    L = lambda_max(X'X) / n and f* are exact. The variance of one draw is bounded on a ball only: sigma2 is the exact
    variance's bound for |w - w*| <= radius |start - w*|, mean |x_i|^2 (|x_i| R + |r_i|)^2 with r the residuals at w*.
    """
    X, y = _rows(X, y)
    n, d = X.shape
    best = np.linalg.lstsq(X, y, rcond=None)[0]
    residuals, norms = X @ best - y, np.linalg.norm(X, axis=1)
    start = np.zeros(d) if start is None else np.asarray(start, dtype=float)
    R = radius * np.linalg.norm(start - best)

    def per_sample(w):
        return (w @ X.T - y)[..., None] * X

    given = {"L": float(np.linalg.eigvalsh(X.T @ X / n)[-1]), "f_star": float(residuals @ residuals / (2 * n)),
             "sigma2": float(np.mean(norms**2 * (norms * R + np.abs(residuals)) ** 2))}
    return Problem(lambda w: ((w @ X.T - y) ** 2).mean(axis=-1) / 2, lambda w: (w @ X.T - y) @ X / n, start=start,
                   vectorized=True, **{"oracle": oracles.FiniteSum(per_sample, n, batch, replacement=replacement),
                                       "name": f"least squares, n = {n}, d = {d}, b = {batch}"} | given | claims)


def logistic(X, y, *, batch: int = 1, replacement: bool = True, start=None, **claims) -> Problem:
    """mean_i log(1 + exp(-y_i x_i . w)), y_i = +-1. L = lambda_max(X'X) / (4 n): a sigmoid's slope is at most 1/4.

    f* = 0 is a lower bound, |per-sample gradient| < |x_i|, so sigma2 = G2 = mean |x_i|^2.
    """
    X, y = _rows(X, y)
    if set(np.unique(y)) - {-1.0, 1.0}:
        raise ValueError(f"the labels must be -1 and 1, got {np.unique(y)[:5]}")
    n, d = X.shape
    Z = X * y[:, None]

    def per_sample(w):
        return -_sigmoid(-w @ Z.T)[..., None] * Z

    second = float(np.mean((X**2).sum(axis=1)))
    given = {"L": float(np.linalg.eigvalsh(X.T @ X / n)[-1]) / 4, "f_star": 0.0, "sigma2": second, "G2": second}
    return Problem(lambda w: np.logaddexp(0, -w @ Z.T).mean(axis=-1), lambda w: -_sigmoid(-w @ Z.T) @ Z / n,
                   start=np.zeros(d) if start is None else start, vectorized=True,
                   **{"oracle": oracles.FiniteSum(per_sample, n, batch, replacement=replacement),
                      "name": f"logistic regression, n = {n}, d = {d}, b = {batch}"} | given | claims)


def digits(count: int = 100, classes: tuple[int, int] = (3, 8)) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` bundled training digits of two classes as rows [count, 65] with a constant, labels -1 and 1.

    Real 8 x 8 images (Alpaydin and Kaynak 1998, in scikit-learn's copy), pixels divided by 16 and by sqrt(64).
    """
    with resources.files("cbn_lab").joinpath("digits.npz").open("rb") as stream:
        stored = np.load(stream)
        images, labels = stored["x_train"].reshape(-1, 64).astype(float), stored["y_train"]
    chosen = np.flatnonzero(np.isin(labels, classes))[:count]
    if len(chosen) < count:
        raise ValueError(f"there are {len(chosen)} digits of the classes {classes}, not {count}")
    X = np.hstack([images[chosen] / images.max() / 8, np.ones((count, 1))])
    return X, np.where(labels[chosen] == classes[1], 1.0, -1.0)


def _or_nan(function: Callable, w: np.ndarray, nan=np.nan):
    """function(w); nan where Python's own arithmetic overflows or leaves its domain, as numpy's does by itself."""
    try:
        return function(w)
    except ArithmeticError:
        return nan
    except ValueError as error:
        if "math domain" in str(error) or str(error).startswith("expected a"):  # the second from Python 3.14 on
            return nan
        raise


def _rows(X, y) -> tuple[np.ndarray, np.ndarray]:
    X, y = np.asarray(X, dtype=float), np.asarray(y, dtype=float).reshape(-1)
    if X.ndim != 2 or len(X) != len(y):
        raise ValueError(f"X must be [n, d] and y [n], got {list(X.shape)} and {list(y.shape)}")
    return X, y


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))
