"""Notebook 02: internal covariate shift, the gradient behind a norm, effective smoothness, growth with depth."""

import math

import torch

from cbn_lab.exercises import _ex02_probes
from cbn_lab.exercises.core import Mutant, Spec
from cbn_lab.exercises.tools import call, close


def squared_gradient(z, above, gamma):
    """Squared norm of dL/dz per channel, [C], for y = gamma * zhat + beta, without eps.

    z: input of the norm [N, C]; above: dL/dy [N, C]; gamma: [C].
    """
    raise NotImplementedError


def _squared_gradient(z, above, gamma):
    n = len(z)
    sigma = z.std(0, correction=0)
    zhat = (z - z.mean(0)) / sigma
    left = above.square().sum(0) - above.sum(0) ** 2 / n - (above * zhat).sum(0) ** 2 / n
    return gamma**2 / sigma**2 * left


def _parts(z, above, gamma):
    n, sigma = len(z), z.std(0, correction=0)
    zhat = (z - z.mean(0)) / sigma
    return n, gamma**2 / sigma**2, above.square().sum(0), above.sum(0) ** 2, (above * zhat).sum(0) ** 2


def _with(formula):
    return lambda z, above, gamma: formula(*_parts(z, above, gamma))


def _unbiased(z, above, gamma):
    return _squared_gradient(z, above, gamma) * (len(z) - 1) / len(z)


def _with_eps(z, above, gamma, eps=1e-5):
    centred = z - z.mean(0)
    zhat = centred / (centred.square().mean(0) + eps).sqrt()
    gradient = gamma / (centred.square().mean(0) + eps).sqrt() * (above - above.mean(0) - zhat * (above * zhat).mean(0))
    return gradient.square().sum(0)


def _unbiased_throughout(z, above, gamma):
    n, sigma = len(z), z.std(0)
    zhat = (z - z.mean(0)) / sigma
    return gamma**2 / sigma**2 * (above.square().sum(0) - above.sum(0) ** 2 / n - (above * zhat).sum(0) ** 2 / n)


def _unbiased_zhat(z, above, gamma):
    n, factor, square, ones, hat = _parts(z, above, gamma)
    return factor * (square - ones / n - hat * (n - 1) / n**2)


def _over_all_channels(z, above, gamma):
    n, sigma = len(z), z.std(correction=0)
    zhat = (z - z.mean()) / sigma
    return gamma**2 / sigma**2 * (above.square().sum(0) - above.sum(0) ** 2 / n - (above * zhat).sum(0) ** 2 / n)


def _scaled_zhat(z, above, gamma):
    n, factor, square, ones, hat = _parts(z, above, gamma)
    return factor * (square - ones / n - gamma**2 * hat / n)


def _raw_input(z, above, gamma):
    n, factor, square, ones, _ = _parts(z, above, gamma)
    return factor * (square - ones / n - (above * z).sum(0) ** 2 / n)


_THROUGH = {
    "sigma of n - 1": ("this divides by the unbiased variance; the norm divides by the biased one (correction=0)",
                       _unbiased),
    "bound only": ("both subtracted terms are missing: this is what is left of the statement as a bound, and it is too "
                   "large", _with(lambda n, f, s, one, hat: f * s)),
    "no mean term": ("the term with the sum of the gradient is missing: the norm removes the mean",
                     _with(lambda n, f, s, one, hat: f * (s - hat / n))),
    "no zhat term": ("the term with zhat is missing: the norm removes the direction of zhat as well as the mean",
                     _with(lambda n, f, s, one, hat: f * (s - one / n))),
    "not divided by n": ("the two inner products are not divided by n", _with(
        lambda n, f, s, one, hat: f * (s - one - hat))),
    "means": ("the inner products became means, so that they are divided by n squared; divide their squares by n, once",
              _with(lambda n, f, s, one, hat: f * (s - one / n**2 - hat / n**2))),
    "added": ("the two terms are added; they are what is taken away", _with(
        lambda n, f, s, one, hat: f * (s + one / n + hat / n))),
    "factor not squared": ("the factor in front is gamma / sigma; it is squared, like the gradient",
                           _with(lambda n, f, s, one, hat: f.sqrt() * (s - one / n - hat / n))),
    "without gamma": ("gamma is missing in front", lambda z, above, gamma: _squared_gradient(
        z, above, torch.ones_like(gamma))),
    "z itself": ("the second inner product uses z; it uses zhat, which is centred and divided by sigma", _raw_input),
    "root": ("this is the norm; asked for is its square", lambda z, above, gamma: _squared_gradient(
        z, above, gamma).sqrt()),
    "summed": ("this is the sum over the channels; give one number for each", lambda z, above, gamma: _squared_gradient(
        z, above, gamma).sum()),
}

MORE_THROUGH = {
    "sigma of n - 1 throughout": ("z.std(0) is the unbiased standard deviation; the norm uses the biased one, "
                                  "correction=0, in zhat and in front", _unbiased_throughout),
    "zhat of n - 1": ("zhat is divided by the unbiased standard deviation; the norm uses the biased one, as in front",
                      _unbiased_zhat),
    "over all channels": ("mean and sigma are those of all channels together; each channel has its own, over axis 0",
                          _over_all_channels),
    "gamma in zhat": ("gamma went into zhat; it stands in front only", _scaled_zhat),
    "mean over the batch": ("this is divided by n as a whole; a squared norm is a sum over the samples",
                            lambda z, above, gamma: _squared_gradient(z, above, gamma) / len(z)),
    "gamma not squared": ("gamma is not squared in front; the whole factor is, like the gradient",
                          lambda z, above, gamma: _squared_gradient(z, above, gamma) / gamma),
}
"""More mistakes that the check names, beyond the mutants: name -> (message, answer)."""


def _check_squared_gradient(student):
    generator = torch.Generator().manual_seed(0)
    for n, c, scale, mean in ((7, 3, 0.4, 1.0), (16, 2, 5.0, -2.0), (3, 4, 1.0, 0.0), (40, 1, 0.02, 3.0)):
        z = scale * torch.randn(n, c, generator=generator, dtype=torch.float64) + mean
        above = torch.randn(n, c, generator=generator, dtype=torch.float64) + 0.5
        gamma = torch.linspace(0.5, 3.0, c, dtype=torch.float64)
        known = _THROUGH | MORE_THROUGH if (n, c) == (7, 3) else {}
        mistakes = {said: wrong(z, above, gamma) for said, wrong in known.values()}
        mistakes["there is an eps in it (the default of torch's layer, say); the equality is for eps = 0"] = \
            _with_eps(z, above, gamma)
        close(call(student, z, above, gamma), _squared_gradient(z, above, gamma),
              f"z of shape {[n, c]} with standard deviation about {scale}", mistakes=mistakes)


THROUGH = Spec(
    id="2.2", title="what a norm does to a gradient",
    task="Write the right side of the equality: the squared norm of the gradient at the norm's *input*, per channel, "
         "from the gradient at its output.",
    stub=squared_gradient, reference=_squared_gradient, check=_check_squared_gradient,
    hints=("Three terms in a bracket, one factor in front. Everything is per channel: sums run over axis 0.",
           "$\\sigma$ is the biased standard deviation, `z.std(0, correction=0)`, and $\\hat z$ is z, centred and "
           "divided by it.",
           "`(above**2).sum(0) - above.sum(0)**2 / n - (above * zhat).sum(0)**2 / n`, times `gamma**2 / sigma**2`."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _THROUGH.items()},
    why="The norm does not see a shift of z, nor a stretch. So the gradient at z has no part along $\\mathbf 1$ and "
        "none along $\\hat z$: two squares are taken away. Whether the whole shrinks is decided by "
        "$\\gamma/\\sigma$, which may well exceed 1.")


def growth_of_leaky_relu(slope):
    """E f'(z)² / Var f(z) for z ~ N(0, 1) and f(z) = z for z > 0, slope * z otherwise."""
    raise NotImplementedError


def _growth_of_leaky_relu(slope):
    second = (1 + slope**2) / 2  # E f'^2, and E f^2 as well
    mean = (1 - slope) / math.sqrt(2 * math.pi)
    return second / (second - mean**2)


def _ratio(top, second, mean):
    """top / (second - mean^2), each a function of the slope; None where the denominator is not positive."""
    def answer(a):
        bottom = second(a) - mean(a) ** 2
        return top(a) / bottom if bottom else math.inf

    return answer


def _half(a):
    return (1 + a * a) / 2


def _mean(a):
    return (1 - a) / math.sqrt(2 * math.pi)


_GROWTH = {
    "second moment": ("this divides by E f²; the norm subtracts the mean, so divide by the variance",
                      _ratio(_half, _half, lambda a: 0.0)),
    "upside down": ("this is the inverse: what the signal's variance does, not the gradient",
                    lambda a: 1 / _growth_of_leaky_relu(a)),
    "square of the mean slope": ("this squares E f'; take the mean of f'²",
                                 _ratio(lambda a: ((1 + a) / 2) ** 2, _half, _mean)),
    "slope, not squared": ("this is E |f'| above the line; square the slope f' before taking the mean",
                           _ratio(lambda a: (1 + abs(a)) / 2, _half, _mean)),
    "positive half": ("above the line the negative half of z is missing: there f' is the slope, not 0",
                      _ratio(lambda a: 0.5, _half, _mean)),
    "mean of ReLU": ("the mean of f is that of ReLU; the negative half of z adds a part of its own",
                     _ratio(_half, _half, lambda a: _mean(0))),
    "sign of the mean": ("the negative half of z makes the mean of f smaller for a positive slope, not larger",
                         _ratio(_half, _half, lambda a: (1 + a) / math.sqrt(2 * math.pi))),
    "mean not squared": ("the mean is not squared in the variance: Var f = E f² - (E f)²",
                         lambda a: _half(a) / (_half(a) - _mean(a))),
    "root": ("this is the factor of the norm; asked for is that of the squared norm",
             lambda a: math.sqrt(_growth_of_leaky_relu(a))),
    "ReLU's": ("this is ReLU's value for every slope", lambda a: math.pi / (math.pi - 1)),
}

MORE_GROWTH = {
    "no half": ("the second moments lack the half: each side of 0 has half of the probability",
                _ratio(lambda a: 1 + a * a, lambda a: 1 + a * a, _mean)),
    "twice the mean": ("the mean of f is twice too large: E max(z, 0) is 1/sqrt(2 pi), half of E |z|",
                       _ratio(_half, _half, lambda a: 2 * _mean(a))),
    "density without root": ("the mean of f has 2 pi where its root belongs: E max(z, 0) = 1/sqrt(2 pi)",
                             _ratio(_half, _half, lambda a: (1 - a) / (2 * math.pi))),
    "mean added": ("the squared mean is added; the variance is E f² minus (E f)²",
                   lambda a: _half(a) / (_half(a) + _mean(a) ** 2)),
    "variance of the slope": ("this has the variance of f' above the line; take the mean of f'², nothing is subtracted",
                              _ratio(lambda a: _half(a) - ((1 + a) / 2) ** 2, _half, _mean)),
}


def _check_growth(student):
    slopes = (0.3, 0.01, 0.9, 1.0, 0.0, -0.4, -1.0)
    for slope in slopes:
        known = _GROWTH | MORE_GROWTH if slope == slopes[0] else {}
        mistakes = {said: wrong(slope) for said, wrong in known.values()}
        close(call(student, slope), _growth_of_leaky_relu(slope), f"slope = {slope}", mistakes=mistakes)


GROWTH = Spec(
    id="2.4", title="the growth rate of leaky ReLU",
    task="By the formula above, by which factor does the squared gradient grow in every block with a batch norm and a "
         "leaky ReLU? Write it as a function of the slope on the negative side.",
    stub=growth_of_leaky_relu, reference=_growth_of_leaky_relu, check=_check_growth,
    hints=("Half of the probability lies on each side of 0. On the one side f' is 1, on the other it is the slope.",
           "For $z\\sim\\mathcal N(0,1)$, $\\mathbb E\\max(z,0)=1/\\sqrt{2\\pi}$ and $\\mathbb E\\max(z,0)^2=1/2$.",
           "E f'² and E f² are both $(1+a^2)/2$, and E f is $(1-a)/\\sqrt{2\\pi}$."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _GROWTH.items()},
    why="$\\frac{(1+a^2)/2}{(1+a^2)/2-(1-a)^2/(2\\pi)}$. With $a=0$ it is ReLU's $\\pi/(\\pi-1)$. It is 1 for $a=1$ "
        "alone, where f is linear: what costs growth is the part of f that is not a straight line.")

EXERCISES = (_ex02_probes.SHIFT, THROUGH, _ex02_probes.SMOOTHNESS, GROWTH)
