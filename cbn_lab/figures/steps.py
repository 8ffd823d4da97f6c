"""What a block does to its input, one step after the other, read off the module itself. Data for `figures.diagrams`.

Nothing here asks for a placement by name: whatever `cbn_lab.blocks` builds, a reader's own placement included, is read
by the slots that are filled, and so are the layers of a residual block with their shortcut.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

SLOTS = ("norm_in", "weight", "norm", "activation", "norm_out")
COMPLETE = "complete batch norm (our reconstruction)"
NO_SHAPES: Mapping = MappingProxyType({})
_GREEK = {"weight": "γ", "bias": "β"}


@dataclass(frozen=True)
class Step:
    """One box. `kind`: weight, norm, activation, shift, sum or copy. `shape`: of what leaves it, for one image.

    `layer` names the layer that the step is a part of, where it is not the whole of it.
    """

    kind: str
    label: str
    slot: str
    parameters: int = 0
    shape: tuple[int, ...] | None = None
    layer: str = ""


@dataclass(frozen=True)
class Path:
    """The steps of a block. A residual block has two or three lines, and a shortcut up to the sum in the last one.

    `tap`: the line at whose beginning the shortcut leaves the path. `title`: what the row is called, where it has no
    weights of its own. `end`: what comes next.
    """

    lines: tuple[tuple[Step, ...], ...]
    shortcut: tuple[Step, ...] | None = None  # None: the block has none; empty: the identity
    tap: int = 0
    title: str = ""
    end: str = "next\nlayer"


def block_path(block, shapes: Mapping = NO_SHAPES) -> Path:
    """The path through what `blocks.block` made, or some slots of it; a residual block; or an output layer.

    `shapes`: submodule -> shape of what leaves it, for one image. ValueError for another module.
    """
    from cbn_lab.residual import PreactivatedBlock, ResidualBlock

    if isinstance(block, PreactivatedBlock):
        first, weight = block.branch
        lines = (*(tuple(_block_steps(part, shapes)) for part in (block.rest, first, weight)), (_sum(block, shapes),))
        return Path((*lines[:2], lines[2] + lines[3]), tuple(_shortcut_steps(block.shortcut, shapes)),
                    tap=int(block.projects), end="next")
    if not isinstance(block, ResidualBlock):
        return Path((tuple(_block_steps(block, shapes)),))
    second = (*_half_block(block.linear, ("norm_in", "norm"), shapes), _sum(block.linear, shapes),
              *_half_block(block.nonlinear, ("activation", "norm_out"), shapes))
    return Path((tuple(_block_steps(block.branch, shapes)), second), tuple(_shortcut_steps(block.shortcut, shapes)))


def filled_slots(module) -> dict:
    """Name of the slot -> what is in it, in order, of a block or of a part of one; empty for another module."""
    slots = dict(module.named_children())
    return slots if set(slots) <= set(SLOTS) else {}


def _sum(module, shapes) -> Step:
    return Step("sum", "+", "sum", shape=shapes.get(module))


def _block_steps(block, shapes) -> Iterator[Step]:
    numbered = dict(block.named_children())
    if _is_weight(block):
        yield from _slot_steps("weight", block, shapes)
    elif slots := filled_slots(block):
        for slot, module in slots.items():
            yield from _slot_steps(slot, module, shapes)
    elif list(numbered) == ["0", "1"] and _is_weight(numbered["1"]):  # an output layer behind an input norm
        yield from _half_block(block, ("norm_in", "norm"), shapes)
    else:
        raise ValueError(f"a {type(block).__name__} is no block that can be drawn: expected what "
                         "blocks.block(weight_layer, activation, placement) returns, or a residual block of a network")


def _is_weight(module) -> bool:
    from torch import nn

    return isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))


def _half_block(sequence, slots: tuple[str, str], shapes) -> Iterator[Step]:
    """Steps of a sequence whose layers are numbered: slots[0] up to the weight layer or activation, then slots[1]."""
    slot = slots[0]
    for module in sequence:
        yield from _slot_steps("weight" if _is_weight(module) else slot, module, shapes)
        if _is_weight(module) or slot == "activation":
            slot = slots[1]


def _shortcut_steps(shortcut, shapes) -> Iterator[Step]:
    from torch import nn

    from cbn_lab.models import Subsample

    if isinstance(shortcut, nn.Sequential):
        yield from _half_block(shortcut, ("norm_in", "norm"), shapes)
    elif isinstance(shortcut, Subsample):
        every = {2: "2nd", 3: "3rd"}.get(shortcut.stride, f"{shortcut.stride}th")
        yield Step("copy", f"every {every}\npixel, zeros\nappended", "shortcut", shape=shapes.get(shortcut))


def _slot_steps(slot: str, module, shapes) -> Iterator[Step]:
    from torch import nn

    from cbn_lab.norms.complete import CompleteBatchNormBase

    shape, count = shapes.get(module), _count(module)
    if isinstance(module, CompleteBatchNormBase):
        yield from _complete_steps(slot, module, shape)
    elif isinstance(module, nn.Sequential) and len(module):
        for part in module:
            yield from _slot_steps(slot, part, shapes)
    elif slot == "weight":
        bias = "no" if getattr(module, "bias", None) is None else "with"
        yield Step("weight", f"{_name(module)}\n{bias} bias", slot, count, shape)
    elif slot == "activation":
        yield Step("activation", _name(module), slot, count, shape)
    else:
        yield Step("norm", f"{_name(module)}\n{_learned(module)}", slot, count, shape)


def _learned(norm) -> str:
    names = [_GREEK.get(name, name) for name, _ in norm.named_parameters()]
    return "no γ, β" if not names else ", ".join(names) if len(names) < 3 else f"{len(names)} parameters"


def _complete_steps(slot: str, layer, shape) -> Iterator[Step]:
    factor = f"{layer.shift_lr_multiplier:g}x shift"
    yield from _affine_steps(slot, shape, layer.standardize_before, layer.gamma_before, layer.pre_shift, factor)
    yield Step("activation", _name(layer.activation), slot, _count(layer.activation), shape, COMPLETE)
    yield from _affine_steps(slot, shape, layer.standardize_after, layer.gamma_after, layer.post_shift, factor)


def _affine_steps(slot, shape, standardize, gamma, shift, factor: str) -> Iterator[Step]:
    if standardize is not None:
        label = "standardize" if standardize.center and standardize.scale else (
            "divide by\nRMS" if standardize.scale else "subtract\nmean")
        yield Step("norm", label, slot, 0, shape, COMPLETE)
    affine = {label: parameter for label, parameter in (("γ", gamma), (factor, shift)) if parameter is not None}
    if affine:
        yield Step("shift", ",\n".join(affine), slot, sum(p.numel() for p in affine.values()), shape, COMPLETE)


def _name(module, longest: int = 12) -> str:
    """The name of the module's class, a long one broken before its capital letters."""
    lines = [""]
    for word in re.findall(r"[A-Z]*[^A-Z]+|[A-Z]+", type(module).__name__):
        if lines[-1] and len(lines[-1] + word) > longest:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def _count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
