"""The run behind the slack meter: a small problem, a slider for each constant, assumptions to break one by one."""

import math
from collections.abc import Sequence

import numpy as np

from cbn_lab.theory import oracles, problems
from cbn_lab.theory.sgd import closed_form, run
from cbn_lab.theory.state import State

SPECTRUM = (1.0, 0.3, 0.1)  # L = 1
BREAKS = ("nothing", "L claimed too small", "step above 1/L", "step above 2/L", "biased gradient",
          "variance claimed too small", "heavy tail", "f* claimed too high", "a kink")


def meter(step: float = 0.5, claimed_L: float = 1.0, noise: float = 0.5, batch: int = 1, tail: float = math.inf,
          broken: str = "nothing", *, steps: int = 40, paths: int = 60, seed: int = 0) -> State:
    """SGD on a quadratic with L = 1, or on |w| for the kink.

    step       in units of 1/L, with the true L = 1
    claimed_L  the L that the proof is told
    noise      sigma of one draw: E|g - gradient|^2 = sigma^2 for Gaussian noise
    batch      draws that are averaged
    tail       degrees of freedom of Student's t; inf is Gaussian. The variance is infinite from 2 downwards; then
               sigma^2 is claimed all the same
    broken     one of BREAKS, on top of the other settings; ValueError for anything else
    """
    if broken not in BREAKS:
        raise ValueError(f"{broken!r} cannot be broken here; known: {', '.join(BREAKS)}")
    step = {"step above 1/L": max(step, 1.5), "step above 2/L": max(step, 2.2)}.get(broken, step)
    claimed_L = min(claimed_L, 0.5) if broken == "L claimed too small" else claimed_L
    tail = min(tail, 1.5) if broken == "heavy tail" else tail
    if broken == "a kink":
        return run(problems.kink(claimed_L=claimed_L, start=1.03), step / 4, steps, paths=paths, seed=seed)
    drawn = oracles.gaussian() if math.isinf(tail) else oracles.student_t(tail)
    problem = problems.quadratic(SPECTRUM, sigma=noise, noise=drawn, start=[1.0, 1.0, 1.0], L=claimed_L)
    if broken == "biased gradient":
        problem = problem.claim(oracle=oracles.Biased(problem.oracle, scale=0.7))
    if broken == "variance claimed too small":
        problem = problem.claim(sigma2=problem.sigma2 / 2)
    if broken == "f* claimed too high":
        problem = problem.claim(f_star=0.3)
    return run(problem.batched(batch), step, steps, paths=paths, seed=seed)


def effects(L: float, sigma2: float, distance: float, alphas: Sequence[float], steps: int = 50) -> dict:
    """Mean |grad F|^2 over `steps` steps against the step size, exactly, with its two bounds; arrays over `alphas`.

    A quadratic with eigenvalues L and L/10, Gaussian noise of variance sigma2, the start `distance` away along both
    axes. G2 is the largest E|g_k|^2 of the run, so it is not free: it contains sigma2 and the gradient. `start`:
    E|g_0|^2; `valid`: alpha <= 1/L.
    """
    problem = problems.quadratic([L, L / 10], sigma=math.sqrt(sigma2), start=[distance, distance])
    alphas = np.asarray(alphas, dtype=float)
    totals = [closed_form(problem, np.full(steps, alpha)) for alpha in alphas]
    gap, G2 = float(totals[0].value[0, 0]), np.array([total.second.max() for total in totals])
    return {"alpha": alphas, "measured": np.array([total.squared.mean() for total in totals]),
            "bound_G2": gap / (steps * alphas) + alphas * L * G2 / 2,
            "bound_sigma2": 2 * gap / (steps * alphas) + alphas * L * sigma2,
            "G2": G2, "start": float(totals[0].second[0, 0]), "valid": alphas <= 1 / L}
