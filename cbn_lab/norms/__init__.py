"""Normalization layers by name: `get("batch_norm", 64, dims=2)`; own layers join with `register`.

"batch_norm" is torch's fused layer, which training uses; "batch_norm_written_out" is the same function in plain
tensor operations, for reading (`BatchNorm1d`, `BatchNorm2d`). With `sync=True` the former, and the layers below, take
the moments of the joined batch of all processes. `CompleteBatchNorm1d/2d` contains the activation and
is therefore a placement of `cbn_lab.blocks`, not an entry here.
"""

from collections.abc import Callable

from torch import nn

from cbn_lab._arguments import require_known
from cbn_lab.norms.batch_norm import BatchNorm1d, BatchNorm2d
from cbn_lab.norms.complete import CompleteBatchNorm1d, CompleteBatchNorm2d
from cbn_lab.norms.folding import fold
from cbn_lab.norms.standardize import Standardize
from cbn_lab.norms.sync_batch_norm import SyncBatchNorm1d, SyncBatchNorm2d

__all__ = ["BatchNorm1d", "BatchNorm2d", "CompleteBatchNorm1d", "CompleteBatchNorm2d", "Standardize",
           "SyncBatchNorm1d", "SyncBatchNorm2d", "fold", "get", "names", "register"]


def register(name: str, factory: Callable) -> None:
    """Make `name` usable as `norm=name` in every placement.

    `factory(num_features, dims, **options)` returns an `nn.Module`; dims is 1 for [N, C] and [N, C, L], 2 for
    [N, C, H, W]. ValueError if the name is taken by one of the built-in norms.
    """
    if name in _BUILT_IN:
        raise ValueError(f"the name {name!r} belongs to a built-in norm; choose another")
    if not callable(factory):
        raise TypeError(f"factory must be callable as factory(num_features, dims, **options), got {factory!r}")
    _REGISTRY[name] = factory


def names() -> list[str]:
    return list(_REGISTRY)


def get(name: str, num_features: int, dims: int, **options) -> nn.Module:
    """A new normalization layer for `num_features` channels. ValueError for an unknown name, TypeError for an option
    that the norm does not have."""
    if name not in _REGISTRY:
        raise ValueError(f"unknown norm {name!r}; known: {', '.join(names())} (add your own with norms.register)")
    return _REGISTRY[name](num_features, dims, **options)


def _by_dims(one: type, two: type) -> Callable:
    def make(num_features, dims, **options):
        layer = one if dims == 1 else two
        require_known("batch norm", options, layer, given=1)
        return layer(num_features, **options)

    return make


def _batch_norm(num_features: int, dims: int, *, sync: bool = False, **options) -> nn.Module:
    kinds = (SyncBatchNorm1d, SyncBatchNorm2d) if sync else (nn.BatchNorm1d, nn.BatchNorm2d)
    return _by_dims(*kinds)(num_features, dims, **options)


_BUILT_IN = {
    "batch_norm": _batch_norm,
    "batch_norm_written_out": _by_dims(BatchNorm1d, BatchNorm2d),
}
_REGISTRY: dict[str, Callable] = dict(_BUILT_IN)
