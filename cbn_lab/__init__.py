"""CBN Lab: the library behind an interactive course on batch normalization.

Submodules load on first use: `import cbn_lab` costs nothing, and a notebook on theory alone does not import torch.
"""

from importlib import import_module

__version__ = "0.1.0"

_SUBMODULES = ("activations", "norms", "blocks", "models", "data", "config", "train", "runs", "share", "ablation",
               "evidence", "theory", "probes", "effects", "progress", "outcomes", "predictions", "figures", "widgets",
               "exercises")


def __getattr__(name: str):
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES])
