"""Exercise 6.3: the forward pass of our CBN, a reconstruction, from its four parts."""

import torch
from torch import nn

from cbn_lab import activations
from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
from cbn_lab.exercises.tools import call, close

EPS = 1e-5
PARAMETERS = ("stored_a", "gamma", "stored_s")


class MyCompleteBatchNorm(nn.Module):
    """gamma * standardize(f(z + a)) + s in train mode, with fast shifts; z is [N, C, H, W]. A reconstruction."""

    def __init__(self, channels, activation, k=9.0):
        super().__init__()
        self.f, self.k = activations.get(activation), k
        self.stored_a = nn.Parameter(torch.zeros(channels))
        self.gamma = nn.Parameter(torch.ones(channels))
        self.stored_s = nn.Parameter(torch.zeros(channels))

    def forward(self, z):
        raise NotImplementedError


def standardize(h, eps=EPS):
    mean = h.mean(dim=(0, 2, 3), keepdim=True)
    variance = h.var(dim=(0, 2, 3), correction=0, keepdim=True)
    return (h - mean) / torch.sqrt(variance + eps)


class _CompleteBatchNorm(MyCompleteBatchNorm):
    def forward(self, z):
        per_channel = (1, -1, 1, 1)
        a = (self.k**0.5 * self.stored_a).view(per_channel)
        s = (self.k**0.5 * self.stored_s).view(per_channel)
        return self.gamma.view(per_channel) * standardize(self.f(z + a)) + s


def _by(axes, correction=0):
    def normalize(h):
        spread = h.var(axes, correction=correction, keepdim=True) + EPS
        return (h - h.mean(axes, keepdim=True)) / torch.sqrt(spread)

    return normalize


def _eps_outside(h):
    return (h - h.mean((0, 2, 3), keepdim=True)) / (h.var((0, 2, 3), correction=0, keepdim=True).sqrt() + EPS)


def _detached(h):
    """The right values, with statistics that count as constants in the backward pass."""
    mean, var = h.mean((0, 2, 3), keepdim=True).detach(), h.var((0, 2, 3), correction=0, keepdim=True).detach()
    return (h - mean) / torch.sqrt(var + EPS)


# Each is y as a function of z, f, the stored shifts a and s, gamma g (all [1, C, 1, 1]) and the root r of k.
VARIANTS = {
    "multiplier k": ("the shifts are multiplied by k; the factor is its square root",
                     lambda z, f, a, g, s, r: g * standardize(f(z + r * r * a)) + r * r * s),
    "no multiplier": ("the shifts are applied as they are stored; a = sqrt(k) stored_a, and s likewise",
                      lambda z, f, a, g, s, r: g * standardize(f(z + a)) + s),
    "slow post-shift": ("only the shift before the activation is fast; the one behind has the factor sqrt(k) too",
                        lambda z, f, a, g, s, r: g * standardize(f(z + r * a)) + s),
    "slow pre-shift": ("only the shift behind the activation is fast; the one before has the factor sqrt(k) too",
                       lambda z, f, a, g, s, r: g * standardize(f(z + a)) + r * s),
    "vanilla order": ("the standardization stands before the activation, as in vanilla BN; here it stands behind",
                      lambda z, f, a, g, s, r: g * f(standardize(z + r * a)) + r * s),
    "pre-shift behind f": ("the first shift has no effect: it is missing, or added behind the activation, where the "
                           "standardization removes it",
                           lambda z, f, a, g, s, r: g * standardize(f(z) + r * a) + r * s),
    "gamma inside": ("gamma is applied before the standardization, which divides it out again",
                     lambda z, f, a, g, s, r: standardize(g * f(z + r * a)) + r * s),
    "no gamma": ("gamma is missing", lambda z, f, a, g, s, r: standardize(f(z + r * a)) + r * s + 0 * g),
    "gamma times shift": ("gamma multiplies the last shift as well; it scales the standardized signal alone",
                          lambda z, f, a, g, s, r: g * (standardize(f(z + r * a)) + r * s)),
    "no activation": ("the activation is missing", lambda z, f, a, g, s, r: g * standardize(z + r * a) + r * s),
    "not standardized": ("the standardization is missing", lambda z, f, a, g, s, r: g * f(z + r * a) + r * s),
    "only centred": ("the mean is subtracted, but nothing divides by the standard deviation",
                     lambda z, f, a, g, s, r: g * (f(z + r * a) - f(z + r * a).mean((0, 2, 3), keepdim=True)) + r * s),
    "unbiased variance": ("the variance divides by n - 1; normalization uses 1/n",
                          lambda z, f, a, g, s, r: g * _by((0, 2, 3), 1)(f(z + r * a)) + r * s),
    "instance statistics": ("mean and variance are taken per image; they run over the batch too",
                            lambda z, f, a, g, s, r: g * _by((2, 3))(f(z + r * a)) + r * s),
    "layer statistics": ("mean and variance run over the channels; each channel has its own",
                         lambda z, f, a, g, s, r: g * _by((0, 1, 2, 3))(f(z + r * a)) + r * s),
    "eps outside the root": ("eps is added to the standard deviation; it belongs to the variance, inside the root",
                             lambda z, f, a, g, s, r: g * _eps_outside(f(z + r * a)) + r * s),
    "statistics detached": ("the output is right, but the gradient is not that of the formula: mean and variance "
                            "depend on z too, so let autograd see them (no detach, no no_grad)",
                            lambda z, f, a, g, s, r: g * _detached(f(z + r * a)) + r * s),
}


def _shaped(layer):
    return layer.f, *(p.view(1, -1, 1, 1) for p in (layer.stored_a, layer.gamma, layer.stored_s)), layer.k**0.5


def mutant(variant):
    class Layer(MyCompleteBatchNorm):
        def forward(self, z):
            return variant(z, *_shaped(self))

    return Layer


def _check(student):
    torch.manual_seed(0)
    for name, channels, k, spread in (("tanh", 3, 4.0, 1.0), ("sigmoid", 2, 9.0, 3.0), ("swish", 1, 2.0, 0.1)):
        layer = _built(student, channels, name, k)
        twin, frozen = (_twin(kind, layer, channels, name, k)
                        for kind in (_CompleteBatchNorm, mutant(VARIANTS["statistics detached"][1])))
        for size in (spread, 1e-3):
            z = size * torch.randn(6, channels, 4, 3, dtype=torch.float64) + 0.5
            where = f"activation {name}, {channels} channels, k = {k:g}, z of size {size:g}"
            close(call(layer, z), twin(z), where,
                  mistakes={said: variant(z, *_shaped(twin)) for said, variant in VARIANTS.values()})
        _compare_gradients(layer, twin, frozen, z, where)
    require(_built(student, 5, "relu").k == 9, "the default of k is 9")


def _built(student, *arguments):
    """The layer in float64, with parameters that are not 0 and 1."""
    layer = student(*arguments)
    require(isinstance(layer, nn.Module), "the class is not an nn.Module")
    for name in PARAMETERS:
        parameter = getattr(layer, name, None)
        require(isinstance(parameter, nn.Parameter) and parameter.shape == arguments[:1],
                f"the layer has no parameter `{name}` of shape [{arguments[0]}]: keep `__init__` as it was given, only "
                "`forward` is missing")
        nn.init.normal_(parameter, 0.7, 0.5)
    return layer.double()


def _twin(kind, layer, *arguments):
    """A layer of another kind with the same parameters."""
    twin = kind(*arguments).double()
    twin.load_state_dict({name: getattr(layer, name).detach() for name in PARAMETERS})
    return twin


def _compare_gradients(layer, twin, frozen, z, where) -> None:
    probe = torch.randn_like(z)
    expected, detached = (_gradients(module, z, probe) for module in (twin, frozen))
    try:
        got = _gradients(layer, z, probe)
    except RuntimeError as error:
        raise Wrong("the output is right, but autograd finds no way back through it to z and the parameters: no "
                    f"`detach`, no `no_grad`, no `.data` ({error})") from None
    for name, one, other, wrong in zip(("z", *PARAMETERS), got, expected, detached, strict=True):
        close(one, other, where, what=f"the output is right, but the gradient for {name}",
              mistakes={VARIANTS["statistics detached"][0]: wrong})


def _gradients(module, z, probe):
    z = z.clone().requires_grad_()
    output = (module(z) * probe).sum()
    return torch.autograd.grad(output, (z, *(getattr(module, name) for name in PARAMETERS)))


LAYER = Spec(
    id="6.3", title="build the layer from its four parts",
    task="Write the forward pass of our reconstruction of CBN in train mode: fast shift, activation, standardization, "
         "gamma and fast shift. You may use `standardize` of section 2.",
    stub=MyCompleteBatchNorm, reference=_CompleteBatchNorm, check=_check,
    hints=("Follow the order of the formula from the inside to the outside: what touches z first?",
           "The shifts are stored as $\\tilde a$, $\\tilde s$ and applied as $\\sqrt k\\,\\tilde a$, "
           "$\\sqrt k\\,\\tilde s$. A parameter [C] meets a map [N, C, H, W] after `.view(1, -1, 1, 1)`.",
           "Add the first shift to `z`, apply `self.f`, then `standardize`; multiply the result by gamma, and only "
           "then add the second shift."),
    mutants={name: Mutant(mutant(VARIANTS[name][1]), says=VARIANTS[name][0]) for name in (
        "multiplier k", "no multiplier", "slow post-shift", "vanilla order", "pre-shift behind f", "gamma inside",
        "gamma times shift", "only centred", "unbiased variance", "instance statistics", "eps outside the root",
        "statistics detached")},
    why="This is `norms.CompleteBatchNorm2d` in train mode; that layer adds running statistics for eval mode and a "
        "fused kernel. What leaves it has the second moment $\\gamma^2 v/(v+\\varepsilon) + k\\tilde s^2$ per channel, "
        "whatever $f$ is. It agrees with the abstract of Peng, Yu and Yu; whether it is their layer is unknown.")
