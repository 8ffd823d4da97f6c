"""Probes: what a network's loss looks like around its weights, measured without moving them.

    curvature    eigenvalues and trace of the Hessian and of the Gauss-Newton matrix, whole and per layer
    gradients    mean, second moment and variance of the gradient over mini-batches; gradient noise scale
    landscape    loss and gradient along the gradient (Santurkar et al. 2018)
    depth        growth of the squared gradient from layer to layer (Yang et al. 2019)
    shift        internal covariate shift: a layer's gradient before and after the layers below move (Santurkar et al.)
    effects      the three effects side by side: L, E||g||^2, tr Cov[g]
    inputs       what enters each weight layer, and the gradient that arrives at its output
    layers       one row for each weight layer: moments and spectrum of what enters, gradient of the weight; fast

Every probe takes `statistics`, without a default, because the two answers differ: "batch" is train mode (norms use the
statistics of the mini-batch, recomputed wherever the loss is evaluated; dropout is on, with one mask), "running" is
eval mode. Every probe leaves the model and the random state as they were, counts its gradient evaluations, and gives
raw values beside scale-free ones (times ||w||^2 of the parameters concerned). Submodules are imported on first use.
"""

from importlib import import_module

_SUBMODULES = ("curvature", "gradients", "landscape", "depth", "shift", "effects", "inputs", "layers")


def __getattr__(name: str):
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES])
