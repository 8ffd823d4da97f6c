"""What a block does to its input, one step after the other, read off the module itself. Data for `figures.diagrams`.

Nothing here asks for a placement by name: whatever `cbn_lab.blocks` builds, a reader's own placement included, is read
by the slots that are filled, and so are the two blocks of a `models.ResidualBlock` with their shortcut.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

SLOTS = ("norm_in", "weight", "norm", "activation", "norm_out")
OUTPUT = "output layer"
COMPLETE = "complete batch norm (our reconstruction)"
_NO_SHAPES: Mapping = MappingProxyType({})
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
    """The steps of a block. A residual block has two lines, and a shortcut round both up to the sum in the second."""

    lines: tuple[tuple[Step, ...], ...]
    shortcut: tuple[Step, ...] | None = None  # None: the block has none; empty: the identity


def block_path(block, shapes: Mapping = _NO_SHAPES) -> Path:
    """The path through what `blocks.block` made, a `models.ResidualBlock`, or an output layer.

    `shapes`: submodule -> shape of what leaves it, for one image. ValueError for another module.
    """
    from cbn_lab.models import ResidualBlock

    if not isinstance(block, ResidualBlock):
        return Path((tuple(_block_steps(block, shapes)),))
    total = Step("sum", "+", "sum", shape=shapes.get(block.linear))
    second = (*_half_block(block.linear, ("norm_in", "norm"), shapes), total,
              *_half_block(block.nonlinear, ("activation", "norm_out"), shapes))
    return Path((tuple(_block_steps(block.branch, shapes)), second), tuple(_shortcut_steps(block.shortcut, shapes)))


def model_paths(model, image_shape: Sequence[int] | None = None) -> dict[tuple[int, ...], Path]:
    """(layer, ...) -> path, for the blocks of a network of `models.build`, in order; () is the output layer.

    Layers are counted from 1, as in the lists of activations and placements. With `image_shape` = (C, H, W) the steps
    carry shapes, found by sending images of zeros through the network; its state is put back.

    ValueError if the model holds no block that can be read, is preactivated (there a layer's parts stand in two blocks
    of the network), or takes no image of that shape.
    """
    from cbn_lab.residual import PreactivatedBlock, ResidualBlock

    if any(isinstance(child, PreactivatedBlock) for child in model.children()):
        raise ValueError("no diagram is drawn of a preactivated residual net; draw one with join 'activated' or "
                         "'normalized'")
    shapes = _NO_SHAPES if image_shape is None else _shapes(model, image_shape)
    found: dict[tuple[int, ...], Path] = {}
    count = 0
    for child in model.children():
        blocks = 2 if isinstance(child, ResidualBlock) else int(hasattr(child, "activation"))
        if blocks:
            found[tuple(range(count + 1, count + blocks + 1))] = block_path(child, shapes)
            count += blocks
    if not found:
        raise ValueError(f"this {type(model).__name__} holds no block of cbn_lab.blocks; a diagram can be drawn of the "
                         "networks of cbn_lab.models.build")
    return found | {(): block_path(list(model.children())[-1], shapes)}


def grouped(paths: Mapping[tuple[int, ...], Path]) -> dict[str, Path]:
    """Equal blocks as one: "layers 1–6" -> path. Of several, the parameters are added up and the shapes left out."""
    groups: dict[Path, list[tuple[int, ...]]] = {}
    for layers, path in paths.items():
        groups.setdefault(_bare(path), []).append(layers)
    return {_layer_names([n for layers in group for n in layers]): _joined([paths[layers] for layers in group])
            for group in groups.values()}


def _bare(path: Path) -> Path:
    """The same path without numbers: equal for blocks that do the same."""
    def bare(steps):
        return tuple(replace(step, parameters=0, shape=None) for step in steps)

    return Path(tuple(map(bare, path.lines)), None if path.shortcut is None else bare(path.shortcut))


def _joined(paths: Sequence[Path]) -> Path:
    if len(paths) == 1:
        return paths[0]

    def join(parts: Iterable[tuple[Step, ...]]):
        return tuple(replace(steps[0], parameters=sum(step.parameters for step in steps), shape=None)
                     for steps in zip(*parts, strict=True))

    lines = tuple(join(lines) for lines in zip(*(path.lines for path in paths), strict=True))
    return Path(lines, None if paths[0].shortcut is None else join(path.shortcut for path in paths))


def _layer_names(layers: Sequence[int]) -> str:
    """[1, 2, 3, 5] -> "layers 1–3, 5"; none: the output layer."""
    runs: list[list[int]] = []
    for n in layers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    words = [f"{a}" if a == b else f"{a}–{b}" for a, b in runs]
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(words)}" if words else OUTPUT


def _block_steps(block, shapes) -> Iterator[Step]:
    slots = dict(block.named_children())
    if _is_weight(block):
        yield from _slot_steps("weight", block, shapes)
    elif "weight" in slots and set(slots) <= set(SLOTS):
        for slot, module in slots.items():
            yield from _slot_steps(slot, module, shapes)
    elif list(slots) == ["0", "1"] and _is_weight(slots["1"]):  # an output layer behind an input norm
        yield from _half_block(block, ("norm_in", "norm"), shapes)
    else:
        raise ValueError(f"a {type(block).__name__} is no block that can be drawn: expected what "
                         "blocks.block(weight_layer, activation, placement) returns, or a models.ResidualBlock")


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


def _shapes(model, image_shape: Sequence[int]) -> dict:
    """Submodule -> shape of its output for one image. Two images of zeros, in eval mode, without gradients."""
    import torch

    found, modes = {}, {module: module.training for module in model.modules()}

    def note(module, inputs, output):
        found[module] = tuple(output.shape[1:])

    hooks = [module.register_forward_hook(note) for module in modes]
    like = next(model.parameters())
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(2, *image_shape, dtype=like.dtype, device=like.device))
    except RuntimeError as error:
        raise ValueError(f"image_shape must be the (channels, height, width) that this network takes, got "
                         f"{tuple(image_shape)}; torch says: {str(error).splitlines()[0]}") from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return found
