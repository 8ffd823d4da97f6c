"""Exercises 4.2 and 4.3: what rescaled weights do to the three effects, and a second moment that does not care."""

import torch

from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import array, call, close, same


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
    "second moment kept": ("the gradient changes too, and E||g||² with it: differentiate F(a w) = F(w) once",
                           lambda L, s, v, a: (L / a**2, s, v / a**2)),
    "order": ("the three are right but in another order; expected (L, E||g||², Var[g])",
              lambda L, s, v, a: (s / a**2, v / a**2, L / a**2)),
    "curvature kept": ("the curvature changes too: differentiate F(a w) = F(w) twice",
                       lambda L, s, v, a: (L, s / a**2, v / a**2)),
}


def _check_rescaled(student):
    for numbers in ((7.0, 0.5, 0.3, 2.0), (1.5, 40.0, 39.0, 10.0), (0.2, 3.0, 0.7, 0.25), (5.0, 2.0, 1.0, 3.0)):
        found = array(call(student, *numbers))
        require(found.shape == (3,), f"your function returns something of shape {list(found.shape)}; expected the "
                                     "three numbers (L, E||g||², Var[g])")
        where = "L = {:g}, E||g||² = {:g}, Var[g] = {:g}, a = {:g}".format(*numbers)
        wanted, a = _rescaled(*numbers), numbers[-1]
        if not same(found, wanted):
            for said, wrong in _RESCALED.values():
                require(not same(found, wrong(*numbers)), said)
        for what, got, right, at_w in zip(("L", "E||g||²", "Var[g]"), found, wanted, numbers, strict=False):
            powers = {f"your {what} goes with a to the power {k}; count again how many derivatives there are in it, "
                      "and whether it is a square": at_w * float(a) ** k for k in (-6, -4, -3, -1, 0, 1, 2, 4)}
            close(got, right, where, what=what, mistakes=powers)
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
                          says=said) for name, (said, wrong) in _RESCALED.items()}
    | {"cube": Mutant(lambda L, s, v, a: (L / a**3, s / a**2, v / a**2), says="your L goes with a to the power -3")},
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
    "mean square": ("||W||² and ||g||² are both sums of squares over the entries; one of them here is a mean",
                    lambda w, g: sum((a**2).sum() * (b**2).mean() for a, b in zip(w, g, strict=True))),
}
_FURTHER = {  # named by the check as well, but not among the listed mutants
    "per mini-batches minus one": ("n-1 is for deviations from an estimated mean; nothing is subtracted here, so E is "
                                   "a plain mean over n",
                                   lambda w, g: sum((a**2).sum() * (b**2).sum() / (len(b) - 1)
                                                    for a, b in zip(w, g, strict=True))),
    "divided by layers": ("this divides by the number of layers, len(gradients); the mini-batches are the rows of each "
                          "tensor, len(gradients[0])", lambda w, g: sum((a**2).sum() * (b**2).sum() / len(g)
                                                                        for a, b in zip(w, g, strict=True))),
    "variance": ("this is the variance; in E||g||² the mean gradient is not subtracted",
                 lambda w, g: sum((a**2).sum() * b.var(0).sum() for a, b in zip(w, g, strict=True))),
    "spectral norm": ("||W|| is the length of all entries of W as one vector (Frobenius), not its largest singular "
                      "value", lambda w, g: sum(torch.linalg.matrix_norm(a.reshape(len(a), -1), 2)**2 * (b**2).sum()
                                                / len(b) for a, b in zip(w, g, strict=True))),
    "square root": ("this is the square root of what is asked",
                    lambda w, g: _scale_free_second(w, g) ** 0.5),
}

_OF_SEVERAL = ("mean over layers", "first layer only", "one norm for all", "divided by layers")  # one layer: not seen


def _check_free(student):
    torch.manual_seed(0)
    for n, shapes in ((5, [(4, 2), (3, 4), (2,)]), (6, [(3, 4)]), (50, [(2, 3, 3, 3), (5, 8)])):
        weights = [torch.randn(s, dtype=torch.float64) * (i + 1) for i, s in enumerate(shapes)]
        gradients = [torch.randn(n, *s, dtype=torch.float64) / (i + 1) + 0.3 for i, s in enumerate(shapes)]
        for factors in ((1.0,) * len(shapes), (0.5, 3.0, 10.0)):
            w = [a * f for a, f in zip(weights, factors, strict=False)]
            g = [b / f for b, f in zip(gradients, factors, strict=False)]
            where = f"layers of shapes {shapes}, weights times {factors[:len(shapes)]}, n = {n}"
            mistakes = {said: wrong(w, g) for name, (said, wrong) in (_FREE | _FURTHER).items()
                        if len(shapes) > 1 or name not in _OF_SEVERAL}
            found = array(call(student, w, g))
            require(found.size == 1, f"your function returns {found.size} numbers; asked is one, the sum over layers")
            close(found, _scale_free_second(w, g), where, mistakes=mistakes)


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
             for name, (said, wrong) in _FREE.items()}
    | {"a list": Mutant(lambda weights, gradients: [_scale_free_second([w], [g]) for w, g in
                                                    zip(weights, gradients, strict=True)], says="asked is one")},
    why="It is the second moment of the gradient with respect to $u_\\ell=W_\\ell/\\|W_\\ell\\|$. One factor for the "
        "whole net, $\\|w\\|^2\\,\\mathbb E\\|g\\|^2$, is not invariant when layers are rescaled differently, or when "
        "a layer without a norm behind it, like the last, keeps its scale.")
