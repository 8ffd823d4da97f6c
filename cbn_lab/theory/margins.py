"""What sampled numbers may be off by, stated once: margins for means of draws, and a test that needs no tail.

Two questions come up where an expectation cannot be enumerated.

1. Is a signed mean 0 (the gradient's bias), or at least 0 (the slack of a bound)? `root_margin`: a sum S of n
   martingale differences with quadratic variation [S] = sum X^2 and predictable variation <S> = sum E[X^2 | past] obeys
   P(|S| >= z sqrt(Q)) <= 2 exp(-z^2/2) for a fixed Q = [S]/3 + 2 <S>/3 (Delyon 2009, Electronic J. Probab. 14). We take
   z = 7 (5e-11). Q is observed, not fixed, so this is a margin and not a theorem; z leaves room for that. What the
   problem claims about the variance enters <S>, so a skewed noise whose rare outcomes were not drawn is not blamed.
2. Is the mean of a non-negative X at most a claimed m (a variance, a second moment)? `wealth`: betting against the
   claim. prod(1 + lambda (X/m - 1)) is a non-negative supermartingale if the claim is true, whatever the tail of X, so
   it ever exceeds 1/delta with probability at most delta (Ville 1939; Waudby-Smith and Ramdas 2024). No moment of X but
   the claimed one is needed: the margin is exact, also for heavy tails, and at every step at once.
"""

import numpy as np

Z = 7.0
DELTA = 1e-9
BETS = np.array([0.001, 0.004, 0.015, 0.05, 0.15, 0.35, 0.7])  # shares of the wealth; small ones find small excesses


def root_margin(observed, claimed=0.0):
    """Margin of a sum: z sqrt([S]/3 + 2/3 max(<S>, [S])), from [S] = sum X^2 and what is claimed of sum E X^2."""
    return Z * np.sqrt(observed / 3 + 2 / 3 * np.maximum(observed, claimed))


def mean_margin(draws: np.ndarray) -> float:
    """Margin of the mean of independent draws with unknown variance: z sqrt(sum (x - mean)^2) / n."""
    if draws.size < 2 or np.all(draws == draws.flat[0]):
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        margin = Z * float(np.sqrt(np.sum((draws - draws.mean()) ** 2)) / draws.size)
    return margin if np.isfinite(margin) else np.inf


def log_wealth(ratios: np.ndarray) -> np.ndarray:
    """log prod(1 + lambda (X/m - 1)) of draws X/m >= 0, one number for each bet lambda."""
    return np.log1p(BETS[:, None] * (np.asarray(ratios, dtype=float).reshape(1, -1) - 1)).sum(axis=1)


def refuted(log_wealths: np.ndarray) -> bool:
    """Whether the claim `mean <= m` is refuted at level DELTA: the mean wealth of the bets reaches 1/DELTA."""
    return bool(np.logaddexp.reduce(log_wealths) - np.log(len(BETS)) >= np.log(1 / DELTA))


def tail_index(draws: np.ndarray) -> float:
    """Hill's estimate (1975) of the tail index of positive draws, from the largest 2 %: above it moments are infinite.

    An indication, not a test: no finite sample shows an infinite moment. nan for fewer than 1,000 draws.
    """
    draws = np.sort(draws[draws > 0])
    if draws.size < 1000:
        return float("nan")
    top = draws[-draws.size // 50:]
    spread = float(np.mean(np.log(top[1:] / top[0])))
    return 1 / spread if spread > 0 else float("inf")
