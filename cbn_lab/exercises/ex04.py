"""Notebook 04: unbiased moments of a gradient, what rescaled weights do to the three effects, matched loss."""

import torch

from cbn_lab.exercises import ex04_matched, ex04_scale
from cbn_lab.exercises.core import Mutant, Spec, Wrong
from cbn_lab.exercises.tools import array, call, close, same


def gradient_moments(gradients):
    """(E||g||², ||E g||², Var[g]), each unbiased, from independent draws; gradients is [n, p], one draw a row."""
    raise NotImplementedError


def _gradient_moments(gradients):
    n = len(gradients)
    second = (gradients**2).sum(dim=1).mean()
    variance = ((gradients - gradients.mean(dim=0)) ** 2).sum() / (n - 1)
    total = gradients.sum(dim=0)
    squared_mean = ((total**2).sum() - (gradients**2).sum()) / (n * (n - 1))  # over pairs of different draws
    return second, squared_mean, variance


def _plugged_in(g):
    return (g.mean(0) ** 2).sum()


def _centred(g):
    return ((g - g.mean(0)) ** 2).sum()


# name -> (what is said, which of the three it is about, what the mistake computes there)
_MOMENTS = {
    "squared norm of the mean": ("the squared norm of the mean gradient is too large by Var/n on average: its n equal "
                                 "pairs carry the noise twice. Use pairs of different draws only", 1, _plugged_in),
    "pairs divided by n²": ("there are n(n-1) pairs of different draws, not n²", 1,
                            lambda g: _gradient_moments(g)[1] * (len(g) - 1) / len(g)),
    "halves": ("this depends on the order of the draws and uses a part of the pairs only; take all pairs of different "
               "draws", 1, lambda g: g[: len(g) // 2].mean(0) @ g[len(g) // 2:].mean(0)),
    "divided by n": ("the variance is divided by n; the mean was estimated from the same draws, so divide by n-1", 2,
                     lambda g: _centred(g) / len(g)),
    "per coordinate": ("this is the mean over the coordinates; Var[g] = E||g - E g||² is their sum", 2,
                       lambda g: _centred(g) / (len(g) - 1) / g.shape[1]),
    "standard deviation": ("this is a standard deviation; the variance is its square", 2,
                           lambda g: (_centred(g) / (len(g) - 1)).sqrt()),
    "variance of the mean": ("this is the variance of the mean of n draws; asked is that of a single draw", 2,
                             lambda g: _centred(g) / (len(g) - 1) / len(g)),
    "summed over draws": ("E||g||² is a mean over the draws, not a sum", 0, lambda g: (g**2).sum()),
    "mean over coordinates": ("||g||² sums over the coordinates; only the draws are averaged", 0,
                              lambda g: (g**2).mean()),
    "norm not squared": ("this is E||g||, without the square", 0, lambda g: g.norm(dim=1).mean()),
}
_FURTHER = {  # named by the check as well, but not among the listed mutants
    "neighbours": ("these are the pairs of neighbouring draws alone: unbiased, but it throws most pairs away and "
                   "depends on their order; take all pairs of different draws", 1,
                   lambda g: (g[:-1] * g[1:]).sum(1).mean()),
    "each pair once": ("this sums each pair once, i < j, and still divides by n(n-1); there are n(n-1)/2 such pairs", 1,
                       lambda g: _gradient_moments(g)[1] / 2),
    "noise added": ("the noise makes the plug-in too large: subtract Var/n from it, do not add it", 1,
                    lambda g: _plugged_in(g) + _gradient_moments(g)[2] / len(g)),
    "cut off at 0": ("an unbiased estimate of a small number is below 0 now and then; cutting it off at 0 makes it too "
                     "large on average again", 1, lambda g: _gradient_moments(g)[1].clamp(min=0)),
    "rest of the variance of the norm": ("this takes the variance of the number ||g|| off E||g||²; take off Var[g], "
                                         "the mean squared distance of the vector g from its mean", 1,
                                         lambda g: (g**2).sum(1).mean() - g.norm(dim=1).var()),
    "variance of the norm": ("this is the variance of the number ||g||; Var[g] is the mean squared distance of the "
                             "vector g from its mean", 2, lambda g: g.norm(dim=1).var()),
    "square of the mean norm": ("this is the square of the mean of ||g||; square each first, then take the mean", 0,
                                lambda g: g.norm(dim=1).mean() ** 2),
    "second moment by n-1": ("n-1 is for deviations from an estimated mean; here nothing is subtracted, so E||g||² is "
                             "a plain mean over n", 0, lambda g: (g**2).sum() / (len(g) - 1)),
}
_WHAT = ("E||g||²", "||E g||²", "Var[g]")


def _with(position, wrong):
    def mutant(gradients):
        values = list(_gradient_moments(gradients))
        values[position] = wrong(gradients)
        return tuple(values)

    return mutant


def _three(result) -> torch.Tensor:
    found = array(result)
    if found.ndim != 1 or len(found) != 3:
        raise Wrong(f"your function returns something of shape {list(found.shape)}; expected three numbers, "
                    "(E||g||², ||E g||², Var[g])")
    return found


def _check_moments(student):
    torch.manual_seed(0)
    for n, p, size, mean in ((5, 3, 1.0, 1.0), (8, 40, 0.1, 0.0), (50, 7, 3.0, -2.0), (7, 1, 1.0, 0.5)):
        g = size * torch.randn(n, p, dtype=torch.float64) + mean
        found, wanted = _three(call(student, g)), array(_gradient_moments(g))
        where = f"n = {n} draws of {p} coordinates"
        if not same(found, wanted) and same(sorted(found), sorted(wanted)):
            raise Wrong("the three numbers are right but in another order; expected (E||g||², ||E g||², Var[g])")
        for i, what in enumerate(_WHAT):
            mistakes = {said: wrong(g) for said, about, wrong in (_MOMENTS | _FURTHER).values()
                        if about == i and (p > 1 or i != 0)}
            close(found[i], wanted[i], where, what=what, mistakes=mistakes)
    alike = torch.ones(4, 3, dtype=torch.float64)
    for i, wanted in enumerate((3.0, 3.0, 0.0)):
        close(_three(call(student, alike))[i], wanted, "four equal draws (1, 1, 1)", what=_WHAT[i])


MOMENTS = Spec(
    id="4.1", title="unbiased moments of a gradient",
    task="Write the probe behind effects (ii) and (iii). From $n$ independent draws of a gradient (one per row) "
         "estimate $\\mathbb E\\|g\\|^2$, $\\|\\mathbb E g\\|^2$ and $\\mathrm{Var}[g]=\\mathbb E\\|g-\\mathbb E "
         "g\\|^2$, each *without bias*. Then the first is exactly the sum of the other two.",
    stub=gradient_moments, reference=_gradient_moments, check=_check_moments,
    hints=("$\\mathbb E\\|g\\|^2$ is a plain mean. For the variance remember that the mean comes from the same draws.",
           "$\\|\\mathbb E g\\|^2=\\langle\\mathbb E g,\\mathbb E g'\\rangle$ for two *independent* draws $g, g'$. "
           "So average $\\langle g_i, g_j\\rangle$ over $i\\ne j$.",
           "$\\sum_{i\\ne j}\\langle g_i,g_j\\rangle=\\|\\sum_i g_i\\|^2-\\sum_i\\|g_i\\|^2$, and there are $n(n-1)$ "
           "such pairs."),
    mutants={name: Mutant(_with(about, wrong), says=said) for name, (said, about, wrong) in _MOMENTS.items()}
    | {"other order": Mutant(lambda g: _gradient_moments(g)[::-1], says="in another order"),
       "one number": Mutant(lambda g: _gradient_moments(g)[0], says="expected three numbers")},
    why="The plug-in $\\|\\bar g\\|^2$ is too large by $\\mathrm{Var}/n$ on average. Near the end of training the "
        "noise dominates, and then most of the plug-in *is* noise.")


EXERCISES = (MOMENTS, ex04_scale.RESCALED, ex04_scale.FREE, ex04_matched.MATCHED)
