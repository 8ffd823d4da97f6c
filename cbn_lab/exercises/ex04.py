"""Notebook 04: unbiased moments of a gradient, what rescaled weights do to the three effects, matched loss."""

import torch

from cbn_lab.exercises import ex04_matched
from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
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
            mistakes = {said: wrong(g) for said, about, wrong in _MOMENTS.values() if about == i and (p > 1 or i != 0)}
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


def rescaled(curvature, second, variance, a):
    """(L, E||g||², Var[g]) at the weights a w, from their values at w, for a loss with F(a w) = F(w) for all a > 0."""
    raise NotImplementedError


def _rescaled(curvature, second, variance, a):
    return curvature / a**2, second / a**2, variance / a**2


_RESCALED = {
    "nothing changes": ("the loss does not change, but its derivatives do: differentiate F(a w) = F(w) with respect "
                        "to w", lambda L, s, v, a: (L, s, v)),
    "grows": ("they shrink when the weights grow: far from the origin a step of the same length turns the weights less",
              lambda L, s, v, a: (L * a**2, s * a**2, v * a**2)),
    "all by 1/a": ("the gradient goes with 1/a; its square and the second derivative go with 1/a²",
                   lambda L, s, v, a: (L / a, s / a, v / a)),
    "curvature by 1/a": ("the curvature is a second derivative: each of the two brings a factor 1/a",
                         lambda L, s, v, a: (L / a, s / a**2, v / a**2)),
    "gradient not squared": ("the gradient goes with 1/a, so its squared norm and its variance with 1/a²",
                             lambda L, s, v, a: (L / a**2, s / a, v / a)),
    "curvature of a chain": ("L is the second derivative, not its square: 1/a², not 1/a⁴",
                             lambda L, s, v, a: (L / a**4, s / a**2, v / a**2)),
    "variance kept": ("the noise is part of the gradient and shrinks with it: Var[g] goes with 1/a² too",
                      lambda L, s, v, a: (L / a**2, s / a**2, v)),
    "variance by 1/a⁴": ("Var[g] is already a square of the gradient: 1/a², not 1/a⁴",
                         lambda L, s, v, a: (L / a**2, s / a**2, v / a**4)),
    "curvature kept": ("the curvature changes too: differentiate F(a w) = F(w) twice",
                       lambda L, s, v, a: (L, s / a**2, v / a**2)),
}


def _check_rescaled(student):
    for numbers in ((8.0, 0.5, 0.3, 2.0), (1.5, 40.0, 39.0, 10.0), (0.2, 3.0, 0.7, 0.25), (5.0, 2.0, 1.0, 3.0)):
        found = array(call(student, *numbers))
        require(found.shape == (3,), f"your function returns something of shape {list(found.shape)}; expected the "
                                     "three numbers (L, E||g||², Var[g])")
        close(found, _rescaled(*numbers), "L = {:g}, E||g||² = {:g}, Var[g] = {:g}, a = {:g}".format(*numbers),
              mistakes={said: wrong(*numbers) for said, wrong in _RESCALED.values()})
    close(call(student, 5.0, 2.0, 1.0, 1.0), (5.0, 2.0, 1.0), "a = 1")


RESCALED = Spec(
    id="4.2", title="the three effects of rescaled weights",
    task="In front of a BN the scale of the weights does not matter: $F(aw)=F(w)$ for every $a>0$. Given $L$, "
         "$\\mathbb E\\|g\\|^2$ and $\\mathrm{Var}[g]$ at $w$, return their values at $aw$.",
    stub=rescaled, reference=_rescaled, check=_check_rescaled,
    hints=("Differentiate both sides of $F(aw)=F(w)$ with respect to $w$. The left side brings a factor by the chain "
           "rule.",
           "$a\\,\\nabla F(aw)=\\nabla F(w)$. Once more: $a^2\\,\\nabla^2F(aw)=\\nabla^2F(w)$. The same holds for the "
           "loss of each mini-batch."),
    mutants={name: Mutant(lambda curvature, second, variance, a, wrong=wrong: wrong(curvature, second, variance, a),
                          says=said) for name, (said, wrong) in _RESCALED.items()},
    why="All three go with $1/a^2$. So the raw constants of such a layer say as much about the scale at which its "
        "weights were drawn as about the layer. Times $\\|w\\|^2$ they do not change.")


def scale_free_second(weights, gradients):
    """Sum over layers of ||W||² E||g_W||²: weights is a list of tensors, gradients a list of [n, *shape of W]."""
    raise NotImplementedError


def _scale_free_second(weights, gradients):
    return sum((w**2).sum() * (g**2).sum() / len(g) for w, g in zip(weights, gradients, strict=True))


_FREE = {
    "one norm for all": ("this multiplies the whole ||w||² by the whole E||g||². It changes when one layer alone is "
                         "rescaled; each layer has a norm of its own",
                         lambda w, g: sum((a**2).sum() for a in w) * sum((b**2).sum() / len(b) for b in g)),
    "not scaled": ("this is the raw E||g||²: multiply each layer's by its ||W||²",
                   lambda w, g: sum((b**2).sum() / len(b) for b in g)),
    "norm not squared": ("||W|| is not squared: g goes with 1/a, ||g||² with 1/a², so it takes ||W||²",
                         lambda w, g: sum(a.norm() * (b**2).sum() / len(b) for a, b in zip(w, g, strict=True))),
    "divided": ("this divides by ||W||²; larger weights already have smaller gradients, so multiply",
                lambda w, g: sum((b**2).sum() / len(b) / (a**2).sum() for a, b in zip(w, g, strict=True))),
    "of the mean gradient": ("this is the squared norm of the mean gradient; take the norm of each mini-batch's "
                             "gradient and then the mean", lambda w, g: sum((a**2).sum() * (b.mean(0) ** 2).sum()
                                                                            for a, b in zip(w, g, strict=True))),
    "summed over mini-batches": ("E is the mean over the mini-batches, not their sum",
                                 lambda w, g: sum((a**2).sum() * (b**2).sum() for a, b in zip(w, g, strict=True))),
    "mean over layers": ("this is the mean over the layers; the squared norm of the whole is their sum",
                         lambda w, g: _scale_free_second(w, g) / len(w)),
    "elementwise": ("this multiplies every entry by its own weight; all entries of a layer share the factor ||W||²",
                    lambda w, g: sum(((a * b) ** 2).sum() / len(b) for a, b in zip(w, g, strict=True))),
    "first layer only": ("this is the first layer alone; sum over all of them",
                         lambda w, g: (w[0] ** 2).sum() * (g[0] ** 2).sum() / len(g[0])),
    "mean square": ("||g||² is a sum of squares over the entries, not their mean",
                    lambda w, g: sum((a**2).sum() * (b**2).mean() for a, b in zip(w, g, strict=True))),
}


def _check_free(student):
    torch.manual_seed(0)
    for n, shapes in ((6, [(3, 4)]), (5, [(4, 2), (3, 4), (2,)]), (50, [(2, 3, 3, 3), (5, 8)])):
        weights = [torch.randn(s, dtype=torch.float64) * (i + 1) for i, s in enumerate(shapes)]
        gradients = [torch.randn(n, *s, dtype=torch.float64) / (i + 1) + 0.3 for i, s in enumerate(shapes)]
        for factors in ((1.0,) * len(shapes), (0.5, 3.0, 10.0)):
            w = [a * f for a, f in zip(weights, factors, strict=False)]
            g = [b / f for b, f in zip(gradients, factors, strict=False)]
            where = f"layers of shapes {shapes}, weights times {factors[:len(shapes)]}, n = {n}"
            mistakes = {said: wrong(w, g) for name, (said, wrong) in _FREE.items()
                        if len(shapes) > 1 or name not in ("mean over layers", "first layer only", "one norm for all")}
            close(call(student, w, g), _scale_free_second(w, g), where, mistakes=mistakes)


FREE = Spec(
    id="4.3", title="a scale-free second moment, layer by layer",
    task="Each layer's weights may be rescaled by a factor of its own. Write the second moment of the gradient that "
         "does not change: $\\sum_\\ell\\|W_\\ell\\|^2\\,\\mathbb E\\|g_\\ell\\|^2$. `weights` is a list of tensors; "
         "`gradients` is a list of tensors `[n, *shape of W]`, one row per mini-batch.",
    stub=scale_free_second, reference=_scale_free_second, check=_check_free,
    hints=("One layer first: what is $\\mathbb E\\|g\\|^2$ from `n` rows, and by which factor does it change when "
           "$W\\to aW$?",
           "For each pair of `weights` and `gradients`: sum of squares of the one, times sum of squares of the other "
           "divided by `n`. Then add up the layers."),
    mutants={name: Mutant(lambda weights, gradients, wrong=wrong: wrong(weights, gradients), says=said)
             for name, (said, wrong) in _FREE.items()},
    why="It is the second moment of the gradient with respect to $u_\\ell=W_\\ell/\\|W_\\ell\\|$. One factor for the "
        "whole net, $\\|w\\|^2\\,\\mathbb E\\|g\\|^2$, is not invariant when layers are rescaled differently, or when "
        "a layer without a norm behind it, like the last, keeps its scale.")


EXERCISES = (MOMENTS, RESCALED, FREE, ex04_matched.MATCHED)
