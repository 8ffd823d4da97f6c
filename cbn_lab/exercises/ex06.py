"""Notebook 06: a standardization that does not centre, the second moment behind the layer, the layer, folding.

Our CBN is a reconstruction (see `cbn_lab.norms.complete`); so is what these exercises build.
"""

import torch

from cbn_lab.exercises import ex06_fold, ex06_layer
from cbn_lab.exercises.core import Mutant, Spec
from cbn_lab.exercises.tools import call, close


def second_moment(gamma, shift, variance, eps=1e-5):
    """Batch mean of y² per channel, for y = gamma * standardize(h) + shift; variance is that of h. All are [C]."""
    raise NotImplementedError


def _second_moment(gamma, shift, variance, eps=1e-5):
    return gamma**2 * variance / (variance + eps) + shift**2


# what is said -> what the mistake computes; the mutants are made of the same functions
_MOMENTS = {
    "without eps": ("the channel with a small variance shows it: the standardized signal has the variance "
                    "v / (v + eps), not 1", lambda g, s, v, e: g**2 + s**2),
    "gamma not squared": ("gamma is not squared", lambda g, s, v, e: g * v / (v + e) + s**2),
    "shift not squared": ("the shift is not squared", lambda g, s, v, e: g**2 * v / (v + e) + s),
    "square of the sum": ("this squares a sum: the middle term 2 gamma s E h vanishes, since the standardized signal "
                          "has mean 0", lambda g, s, v, e: (g * torch.sqrt(v / (v + e)) + s) ** 2),
    "without the shift": ("this is the variance of y; the shift adds its square to the second moment",
                          lambda g, s, v, e: g**2 * v / (v + e)),
    "not standardized": ("this leaves the variance of h in; the layer divides by its root",
                         lambda g, s, v, e: g**2 * v + s**2),
    "eps beside the fraction": ("eps stands beside v in the denominator, and nowhere else",
                                lambda g, s, v, e: g**2 * v / v + e + s**2),
    "root of it": ("this is the root mean square; the second moment is its square",
                   lambda g, s, v, e: torch.sqrt(g**2 * v / (v + e) + s**2)),
    "summed": ("this is the sum over the channels; give one number for each channel",
               lambda g, s, v, e: (g**2 * v / (v + e) + s**2).sum()),
}


def _check_second_moment(student):
    cases = (([0.5, 1.0, -2.0], [0.3, -1.0, 0.7], [4.0, 0.5, 2e-5], 1e-5), ([3.0, 0.0], [0.0, 0.25], [1.0, 9.0], 0.5))
    for *vectors, eps in cases:
        gamma, shift, variance = (torch.tensor(values, dtype=torch.float64) for values in vectors)
        mistakes = {said: wrong(gamma, shift, variance, eps) for said, wrong in _MOMENTS.values()}
        where = f"gamma = {vectors[0]}, shift = {vectors[1]}, variance = {vectors[2]}, eps = {eps:g}"
        close(call(student, gamma, shift, variance, eps), _second_moment(gamma, shift, variance, eps), where,
              mistakes=mistakes)
    close(call(student, gamma, shift, variance), _second_moment(gamma, shift, variance), "eps not given",
          what="with the default eps = 1e-5 the result")


SECOND_MOMENT = Spec(
    id="6.2", title="the second moment behind the layer",
    task="A channel $h$ with batch variance $v$ is standardized, multiplied by $\\gamma$ and shifted by $s$ ($s$ as "
         "applied, the factor $\\sqrt k$ included). Write the second moment of the result, $\\varepsilon$ included.",
    stub=second_moment, reference=_second_moment, check=_check_second_moment,
    hints=("Write $y = \\gamma\\hat h + s$ and expand the square. Which of the three terms vanishes?",
           "The standardized signal has mean 0. Its variance is not quite 1: what is left of $v$ after dividing by "
           "$\\sqrt{v+\\varepsilon}$?",
           "Two terms are left: $\\gamma^2$ times the variance of the standardized signal, and $s^2$."),
    mutants={name: Mutant(lambda gamma, shift, variance, eps=1e-5, wrong=wrong: wrong(gamma, shift, variance, eps),
                          says=said) for name, (said, wrong) in _MOMENTS.items()},
    why="$\\mathbb E(\\gamma\\hat h+s)^2=\\gamma^2\\,\\mathbb E\\hat h^2+2\\gamma s\\,\\mathbb E\\hat h+s^2$. The "
        "middle term is 0, and $\\mathbb E\\hat h^2 = v/(v+\\varepsilon)$. The activation does not occur in it. By "
        "section 1 the sum over the channels bounds the squared gradient of the next weight layer, given a bound on "
        "$\\delta$.")


def rms(h, eps=1e-5):
    """h / sqrt(mean of h² + eps) per channel, over batch and pixels; h and the result are [N, C, H, W]."""
    raise NotImplementedError


def _rms(h, eps=1e-5):
    return h / torch.sqrt((h**2).mean(dim=(0, 2, 3), keepdim=True) + eps)


_ALL = (0, 2, 3)
_RMS = {
    "centred": ("this subtracts the mean; here it stays in", lambda h, e: (h - h.mean(_ALL, keepdim=True)) / torch.sqrt(
        h.var(_ALL, correction=0, keepdim=True) + e)),
    "variance": ("this divides by the standard deviation; the mean square of an uncentred signal is larger than its "
                 "variance", lambda h, e: h / torch.sqrt(h.var(_ALL, correction=0, keepdim=True) + e)),
    "eps outside": ("eps is added to the root; it belongs inside, to the mean square",
                    lambda h, e: h / ((h**2).mean(_ALL, keepdim=True).sqrt() + e)),
    "no eps": ("eps is missing", lambda h, e: h / (h**2).mean(_ALL, keepdim=True).sqrt()),
    "fixed eps": ("eps is an argument: use the one that is given, not 1e-5",
                  lambda h, e: h / torch.sqrt((h**2).mean(_ALL, keepdim=True) + 1e-5)),
    "per image": ("the mean runs over the pixels of one image alone; it runs over the batch too",
                  lambda h, e: h / torch.sqrt((h**2).mean((2, 3), keepdim=True) + e)),
    "per pixel": ("the mean runs over the batch alone; the pixels of a channel share one number",
                  lambda h, e: h / torch.sqrt((h**2).mean(0, keepdim=True) + e)),
    "layer norm": ("the mean runs over the channels of an image; each channel has a number of its own, and the images "
                   "share it", lambda h, e: h / torch.sqrt((h**2).mean((1, 2, 3), keepdim=True) + e)),
    "one number": ("all channels are divided by the same number; each has its own",
                   lambda h, e: h / torch.sqrt((h**2).mean() + e)),
    "no root": ("this divides by the mean square; divide by its root",
                lambda h, e: h / ((h**2).mean(_ALL, keepdim=True) + e)),
    "mean of |h|": ("this divides by the mean of |h|; square, take the mean, then the root",
                    lambda h, e: h / (h.abs().mean(_ALL, keepdim=True) + e)),
    "square of the mean": ("this squares the mean; take the mean of the squares",
                           lambda h, e: h / torch.sqrt(h.mean(_ALL, keepdim=True) ** 2 + e)),
}


def _check_rms(student):
    torch.manual_seed(0)
    for shape, scale, shift, eps in (((8, 3, 4, 5), 0.1, 0.2, 1e-2), ((2, 1, 3, 2), 10.0, 0.0, 1e-3),
                                     ((6, 4, 1, 1), 1e-2, 1e-2, 1e-5), ((5, 2, 4, 4), 1.0, -3.0, 1e-5)):
        h = scale * torch.randn(shape, dtype=torch.float64) + shift * torch.arange(1.0, shape[1] + 1).view(1, -1, 1, 1)
        mistakes = {said: wrong(h, eps) for said, wrong in _RMS.values()}
        close(call(student, h, eps), _rms(h, eps), f"h of shape {list(shape)} with eps = {eps:g}", mistakes=mistakes)
    close(call(student, h / 1000), _rms(h / 1000), "a small h", what="with the default eps = 1e-5 the result")
    close(call(student, 0 * h), 0 * h, "h = 0")


RMS = Spec(
    id="6.1", title="standardize without centring",
    task="Write the variant of the standardization that does not subtract the mean: it divides each channel by its "
         "root mean square.",
    stub=rms, reference=_rms, check=_check_rms,
    hints=("Compare with `standardize` in section 2: which of its three lines are still needed?",
           "One number for each channel: the mean of the squares over the axes 0, 2 and 3, with `keepdim=True`.",
           "Add `eps` to that mean, take the root of the sum, and divide `h` by it."),
    mutants={name: Mutant(lambda h, eps=1e-5, wrong=wrong: wrong(h, eps), says=said)
             for name, (said, wrong) in _RMS.items()},
    why="It is `CompleteBatchNorm2d(..., center=False)`, and changes the second of the four parts. The second moment "
        "is 1 (up to $\\varepsilon$), as with centring. But the mean stays in, and with it the large eigenvalue "
        "$d m^2 + v$ of section 1 (both divided by $m^2 + v$). The row \"divide by RMS\" of the ablation is this "
        "variant.")


EXERCISES = (RMS, SECOND_MOMENT, ex06_layer.LAYER, ex06_fold.FOLD)
