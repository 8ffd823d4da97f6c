"""Fold the norms of a network into its weight layers: `fold(model)`. The algebra, with a picture, is in `folded`.

A network is flattened into steps. The norms among them are affine maps in eval mode, and each moves into the nearest
weight layer that it can reach.
"""

import copy
import inspect
from collections import Counter
from dataclasses import dataclass

from torch import fx, nn

from cbn_lab.norms import complete, folded
from cbn_lab.norms.batch_norm import BatchNorm1d, BatchNorm2d
from cbn_lab.norms.folded import Affine, ChannelAffine, FoldedConv

__all__ = ["ChannelAffine", "FoldedConv", "fold"]

_NORMS_1D = (nn.BatchNorm1d, nn.InstanceNorm1d, BatchNorm1d, complete.CompleteBatchNorm1d)
_NORMS_2D = (nn.BatchNorm2d, nn.InstanceNorm2d, BatchNorm2d, complete.CompleteBatchNorm2d)


def fold(module: nn.Module) -> nn.Module:
    """A copy of `module` in eval mode that computes the same without norms; `module` itself is left as it is.

    The copy has the names, dtypes and devices of the original. Where a norm stood there is an `nn.Identity` if a
    weight layer (nn.Linear, Conv1d, Conv2d) behind or before it took over its affine map, otherwise a `ChannelAffine`;
    a CompleteBatchNorm becomes its activation between what is left of its two maps. A zero-padded convolution with a
    norm before it becomes a `FoldedConv`. On its way a map may pass dropout and pools (average without padded zeros;
    max if its scales are positive), and spreads over the pixels at an `nn.Flatten`. Maps move within nn.Sequential,
    nested ones included, and between children of a module with its own `forward` if torch.fx can trace that, which
    tells who feeds whom (as in torchvision's ResNets); otherwise they stay there, as `ChannelAffine`.

    Equal is the output of the whole, up to rounding: a child alone may compute something else than its original.
    Taken for granted: batched inputs; that a Sequential in an untraceable module is called as a whole; that an
    `nn.Linear` beside a 1d norm gets [N, C], unless a convolution stands before it. The result is for inference: its
    parameters need no gradient, its train mode means nothing (dropout would come back), and it does not follow later
    training of `module`. What is computed in 16 bits is rounded in other places than before.

    Norms are BatchNorm (torch's, SyncBatchNorm and ours), Standardize, CompleteBatchNorm and any module with a method
    `eval_affine() -> (scale, offset)`. Raises ValueError for one without running statistics (or LayerNorm,
    GroupNorm, ...), with a forward hook on it, or whose class overrides BatchNorm's forward.
    """
    root = nn.Sequential(copy.deepcopy(module).eval())
    _fold_slots(root, ["0"], merge=True)
    return root[0].eval().requires_grad_(False)


@dataclass
class _Step:
    """One operation, and the slot where what becomes of it will stand. `op` None: nothing is left of it."""

    parent: nn.Module
    name: str
    op: nn.Module | Affine | None
    axes: int | None  # of its output, where known


def _fold_slots(root: nn.Module, paths: list[str], merge: bool) -> None:
    """Fold, in place, the submodules at `paths`, each of which feeds the next one and nothing else."""
    steps: list[_Step] = []
    for path in paths:
        parent, name = root.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
        _expand(parent._modules[name], parent, name, steps, merge)
    if merge:
        for i, step in enumerate(steps):
            if isinstance(step.op, Affine):
                _move(step, steps[:i][::-1], ahead=False) or _move(step, steps[i + 1:], ahead=True)
    for step in steps:
        if step.op is not None:
            step.parent.add_module(step.name, step.op.layer() if isinstance(step.op, Affine) else step.op)


def _expand(module: nn.Module, parent: nn.Module, name: str, steps: list[_Step], merge: bool) -> None:
    """Append the steps of `module`, to stand as `name` in `parent`. A sequence used twice becomes two new ones."""
    if isinstance(module, complete.CompleteBatchNormBase):
        _require_unhooked(module)
        first, second = folded.affines_of(module)
        parts = _new_sequence(parent, name)
        _append(first, parts, "before", steps, _axes_of_norm(module, steps))
        _expand(module.activation, parts, "activation", steps, merge)
        _append(second, parts, "after", steps, _axes_of_norm(module, steps))
    elif folded.is_norm(module):
        _require_unhooked(module)
        _append(folded.affine_of(module), parent, name, steps, _axes_of_norm(module, steps))
    elif _is_sequence(module):
        parts = _new_sequence(parent, name)
        for key, child in module._modules.items():
            _expand(child, parts, key, steps, merge)
    else:
        _fold_inside(module, merge)
        _append(module, parent, name, steps, _axes_behind(module, steps))


def _append(op, parent, name, steps, axes) -> None:
    parent.add_module(name, nn.Identity())  # what stays if the op moves away; it also keeps the order of the names
    steps.append(_Step(parent, name, None if isinstance(op, Affine) and op.is_identity() else op, axes))


def _new_sequence(parent: nn.Module, name: str) -> nn.Sequential:
    parent.add_module(name, nn.Sequential())
    return parent._modules[name]


def _fold_inside(module: nn.Module, merge: bool) -> None:
    """Fold, in place, what stands inside a module with its own forward."""
    children = [name for name, child in module._modules.items() if child is not None]
    if merge and _has_norms(module):
        chains = _chains(module)
        for chain in [[name] for name in children] if chains is None else chains:
            if any(_has_norms(module.get_submodule(path)) for path in chain):
                _fold_slots(module, chain, merge=True)
    for name in children:  # left over are those of which the forward also uses a part: no map may move in there
        if _has_norms(module._modules[name]):
            _fold_slots(module, [name], merge=False)


def _chains(module: nn.Module) -> list[list[str]] | None:
    """The submodules that `module.forward` calls, one list for those that only feed each other; None if unknown."""
    if any(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
           for p in inspect.signature(module.forward).parameters.values()):
        return None  # a trace is right for one value of an optional argument, not for the others
    try:
        graph = _Tracer().trace(copy.copy(module))  # a copy, because a forward may keep what it was given
    except Exception:  # the forward depends on values or shapes; what it then raises can be anything
        return None
    times = Counter(node.target for node in graph.nodes if node.op == "call_module")
    used = {*times, *(node.target for node in graph.nodes if node.op == "get_attr")}
    names = Counter(id(child) for _, child in module.named_modules(remove_duplicate=False))

    def is_whole(path: str) -> bool:
        """Known by one name, and neither a part of it nor what it is a part of is used as well."""
        return names[id(module.get_submodule(path))] == 1 and not any(
            a.startswith(b + ".") for other in used for a, b in ((path, other), (other, path)))

    chains: dict[str, list[str]] = {}  # by the last path in it
    for node in graph.nodes:
        if node.op == "call_module" and is_whole(node.target):
            source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
            feeds = (isinstance(source, fx.Node) and source.op == "call_module" and source.target in chains
                     and len(source.users) == 1 and times[source.target] == times[node.target] == 1)
            chains[node.target] = [*(chains.pop(source.target) if feeds else []), node.target]
    return list(chains.values())


class _Tracer(fx.Tracer):
    """Looks at one forward only: submodules are black boxes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def call_module(self, m, forward, args, kwargs):
        if m not in self.submodule_paths:  # made by the forward itself, as a slice of a Sequential is
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def _move(step: _Step, others: list[_Step], ahead: bool) -> bool:
    """Fold the affine map of `step` into the first of `others` that takes it; False if something stands in the way."""
    affine, axes, flattened = step.op, step.axes, False
    takers = (*folded.WEIGHT, Affine if ahead else FoldedConv)
    for other in others:
        op, kind = other.op, _kind(other.op)
        if op is None:
            continue
        if axes is not None and folded.AXES.get(kind, axes) != axes:
            return False  # `op` works on other axes than the channels of the map
        if kind in takers:
            size = folded.channels(op, ahead)
            if size != len(affine.scale) and not (flattened and size % len(affine.scale) == 0):
                return False
            affine = affine.spread(size)
            other.op = (folded.before if ahead else folded.behind)(op, affine.scale, affine.offset)
            step.op = None
            return True
        if ahead and _flattens(op):
            axes, flattened = 2, True
        elif kind is object or not folded.commutes(op, affine.scale):
            return False
        axes = folded.AXES.get(kind, axes)
    return False


def _kind(op) -> type:
    """The exact class, since a subclass may compute something else; a hook may, too, or look at what passes."""
    return object if isinstance(op, nn.Module) and _is_hooked(op) else type(op)


def _flattens(op) -> bool:
    return _kind(op) is nn.Flatten and op.start_dim == 1 and op.end_dim == -1


def _axes_of_norm(module: nn.Module, steps: list[_Step]) -> int | None:
    axes = steps[-1].axes if steps else None
    if isinstance(module, _NORMS_2D):
        return 4
    return axes if axes in (2, 3) or not isinstance(module, _NORMS_1D) else None


def _axes_behind(module: nn.Module, steps: list[_Step]) -> int | None:
    axes = steps[-1].axes if steps else None
    if isinstance(module, nn.Flatten):
        return 2 if _flattens(module) else None
    return axes if isinstance(module, nn.Linear) else folded.AXES.get(type(module), axes)


def _is_sequence(module: nn.Module) -> bool:
    """nn.Sequential, or a subclass that says it computes the same as one (`blocks.CompleteBlock`)."""
    if getattr(module, "computes_as_sequence", False):
        _require_unhooked(module)
        return True
    return type(module).forward is nn.Sequential.forward and not _is_hooked(module)


def _has_norms(module: nn.Module) -> bool:
    return any(folded.is_norm(m) or isinstance(m, complete.CompleteBatchNormBase) for m in module.modules())


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _require_unhooked(module: nn.Module) -> None:
    if _is_hooked(module):
        raise ValueError(f"cannot fold {type(module).__name__} with a forward hook on it: what the hook watches is "
                         "gone afterwards; take the hook off first (handle.remove())")
