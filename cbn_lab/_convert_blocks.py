"""The modules that `cbn_lab.convert` puts in the place of what `_convert_patterns` found; the rules stand there."""

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from cbn_lab import blocks
from cbn_lab._block_maker import BlockMaker
from cbn_lab._convert_patterns import Branch, Site, Trace
from cbn_lab._convert_trace import has_hooks
from cbn_lab.norms import BatchNorm2d


@dataclass(frozen=True)
class Rebuilt:
    """One block: what stood there (paths and classes), what stands there now."""

    given: str
    now: str
    carried: bool  # whether parameters and statistics of the norm were taken over


class Builder:
    """Makes the modules of the blocks, under the paths where they will stand in the new network."""

    def __init__(self, root: nn.Module, trace: Trace, make: BlockMaker, own_activations: bool):
        self.root, self.trace, self.make, self.own = root, trace, make, own_activations
        self.modules: dict[str, nn.Module] = {}
        self.placements: list[str] = []

    def site(self, site: Site) -> tuple[list[str], str | None, Rebuilt]:
        """(path of each branch's module, path of what stands behind the sum if there is one, description)."""
        own = None if site.activation is None else self.trace.own_activation(site.activation)
        activation = "identity" if own is None else _not_in_place(own) if self.own else None
        filled = [self._parts(branch, activation, first=branch is site.branches[0]) for branch in site.branches]
        carried = [_carry(parts, self._norm(branch), bare=own is None)
                   for parts, branch in zip(filled, site.branches, strict=True)]
        self.placements.append(self.make.placement)
        first, *others = [str((branch.weight or branch.norm).target) for branch in site.branches]
        linear, nonlinear = filled[0].linear(), filled[0].nonlinear()
        rebuilt = Rebuilt(_given(site, own), _now(filled[0], site.direct), all(carried))
        if site.direct:
            self.modules[first] = blocks.sequence(linear | nonlinear)
            return [first], None, rebuilt
        parts_of_first = {"linear": blocks.sequence(linear), "nonlinear": blocks.sequence(nonlinear)}
        self.modules[first] = nn.ModuleDict(parts_of_first)
        self.modules |= {path: blocks.sequence(parts.linear()) for path, parts in zip(others, filled[1:], strict=True)}
        return [f"{first}.linear", *others], f"{first}.nonlinear", rebuilt

    def input_norm(self, path: str) -> bool:
        """Put a norm on the input of a weight layer where the placement has one there."""
        weight = self.root.get_submodule(path)
        norm_in = self.make.shortcut_parts(lambda bias: weight).norm_in
        if norm_in is not None:
            self.modules[path] = blocks.sequence({"norm_in": _like(norm_in, weight, weight), "weight": weight})
        return norm_in is not None

    def place(self) -> None:
        for path, module in self.modules.items():
            for holder in module.modules():
                if children := list(holder.children()):
                    holder.training = any(child.training for child in children)
            parent, _, name = path.rpartition(".")
            self.root.get_submodule(parent).add_module(name, module)

    def _parts(self, branch: Branch, activation, first: bool) -> blocks.Parts:
        norm = self._norm(branch)
        weight = _stand_in(norm) if branch.weight is None else self.root.get_submodule(branch.weight.target)
        layer = partial(_with_bias, weight)
        defaults = {} if "norm" in self.make.norm_options else _differing_options(norm)
        parts = self.make.parts(layer, activation, defaults) if first else self.make.shortcut_parts(layer, defaults)
        if branch.weight is None:
            parts.weight = parts.norm_in = None
        elif not blocks.needs_bias(self.make.placement) and weight.bias is not None and _adds_bias(weight):
            norm.running_mean = None if norm.running_mean is None else norm.running_mean - weight.bias.detach()
            weight.bias = None
        for module in (parts.norm_in, parts.norm, parts.activation, parts.norm_out):
            if module is not None:
                _like(module, norm, weight)
        return parts

    def _norm(self, branch: Branch) -> nn.Module:
        return self.root.get_submodule(branch.norm.target)


def _with_bias(weight: nn.Module, bias: bool) -> nn.Module:
    if bias and weight.bias is None:
        outputs = weight.out_features if isinstance(weight, nn.Linear) else weight.out_channels
        weight.bias = nn.Parameter(_kernel(weight).new_zeros(outputs))
    return weight


def _adds_bias(weight: nn.Module) -> bool:
    """Whether it adds its bias to the output and no more: not with a forward of its own, hooks, a computed bias."""
    return (type(weight).forward in (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward)
            and "forward" not in vars(weight) and not has_hooks(weight) and "bias" in weight._parameters)


def _kernel(weight: nn.Module) -> torch.Tensor:
    """A tensor as its weight is. Not the weight: where it is computed (spectral_norm), to read it takes a step."""
    return next(p for p in weight.parameters() if p.is_floating_point())


def _stand_in(norm: nn.Module) -> nn.Module:
    """A weight layer with the channels of the norm, for slots that have none."""
    if isinstance(norm, (nn.BatchNorm2d, BatchNorm2d)):
        return nn.Conv2d(norm.num_features, norm.num_features, 1, device="meta")
    return nn.Linear(norm.num_features, norm.num_features, device="meta")


def _differing_options(norm: nn.Module) -> dict:
    usual = {"eps": 1e-5, "momentum": 0.1, "track_running_stats": True}
    return {name: getattr(norm, name) for name, value in usual.items() if getattr(norm, name) != value}


def _like(module: nn.Module, norm: nn.Module, weight: nn.Module) -> nn.Module:
    """In the mode of the norm that stood there, on its device and in its dtype (the weight's if it has no tensors)."""
    tensors = [tensor for tensor in (*norm.parameters(), *norm.buffers()) if tensor.is_floating_point()]
    like = tensors[0] if tensors else _kernel(weight)
    return module.to(like.device, like.dtype).train(norm.training)


def _carry(parts: blocks.Parts, norm: nn.Module, bare: bool) -> bool:
    """Give parameters and statistics of the old norm to the new one that does the same, if there is one."""
    new = parts.norm if parts.norm is not None or not bare else parts.norm_out
    if not isinstance(new, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return False
    if not norm.affine:
        new.affine, new.weight, new.bias = False, None, None
    state = norm.state_dict()
    if new.state_dict().keys() != state.keys():
        return False
    new.load_state_dict(state)
    for mine, given in zip(new.parameters(), norm.parameters(), strict=True):
        mine.requires_grad_(given.requires_grad)
    return True


def _not_in_place(activation: nn.Module) -> nn.Module:
    """A copy for one block. One with parameters (PReLU) stays what it is, so that calls that share it still do."""
    if not any(True for _ in activation.parameters()):
        activation = copy.deepcopy(activation)
    if hasattr(activation, "inplace"):
        activation.inplace = False  # what it would overwrite may be read by a shortcut, now that the norm is elsewhere
    return activation


def _given(site: Site, own: nn.Module | None) -> str:
    branches = (f"{branch.weight.target} -> {branch.norm.target}" if branch.weight else str(branch.norm.target)
                for branch in site.branches)
    activation = "" if own is None else f" -> {type(own).__name__}"
    return " + ".join(branches) + (" -> +" if not site.direct else "") + activation


def _now(parts: blocks.Parts, direct: bool) -> str:
    def name(module: nn.Module) -> str:
        inner = f"({type(module.activation).__name__})" if hasattr(module, "activation") else ""
        return type(module).__name__ + inner

    slots = [*map(name, parts.linear().values()), *([] if direct else ["+"]), *map(name, parts.nonlinear().values())]
    return " -> ".join(slots)
