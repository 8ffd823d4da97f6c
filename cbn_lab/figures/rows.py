"""The blocks of a whole network, each read by `figures.steps`, equal ones in one row. Data for `figures.diagrams`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cbn_lab.figures.steps import NO_SHAPES, Path, Step, block_path, filled_slots

OUTPUT = "output layer"
CLOSING = "after the last block"


def model_paths(model, image_shape: Sequence[int] | None = None) -> dict[tuple[int, ...], Path]:
    """(layer, ...) -> path, for the blocks of a network of `models.build`, in order; () is the output layer.

    Layers are counted from 1, as in the lists of activations and placements. With `image_shape` = (C, H, W) the steps
    carry shapes, found by sending images of zeros through the network; its state is put back.

    In a preactivated net a row has the layers of its weights. What stands behind the weights of one layer begins the
    next row; for the last layer it is a row of its own, under that layer as well.

    ValueError if the model holds no block that can be read, or takes no image of that shape.
    """
    from cbn_lab.residual import PreactivatedBlock, ResidualBlock

    shapes = NO_SHAPES if image_shape is None else _shapes(model, image_shape)
    found: dict[tuple[int, ...], Path] = {}
    count = 0
    for child in model.children():
        if isinstance(child, (ResidualBlock, PreactivatedBlock)):
            found[count + 1, count + 2] = block_path(child, shapes)
            count += 2
        elif slots := filled_slots(child):
            count += "weight" in slots
            path = block_path(child, shapes)
            found[count,] = path if "activation" in slots else replace(path, end="next")
            if "weight" not in slots:
                found[count,] = replace(path, title=CLOSING)
    if not found:
        raise ValueError(f"this {type(model).__name__} holds no block of cbn_lab.blocks; a diagram can be drawn of the "
                         "networks of cbn_lab.models.build")
    return found | {(): block_path(list(model.children())[-1], shapes)}


def grouped(paths: Mapping[tuple[int, ...], Path]) -> dict[str, Path]:
    """Equal blocks as one: "layers 1–6" -> path. Of several, the parameters are added up and the shapes left out."""
    groups: dict[Path, list[tuple[int, ...]]] = {}
    for layers, path in paths.items():
        groups.setdefault(_bare(path), []).append(layers)
    return {bare.title or _layer_names([n for layers in group for n in layers]): _joined([paths[layers]
                                                                                         for layers in group])
            for bare, group in groups.items()}


def _bare(path: Path) -> Path:
    """The same path without numbers: equal for blocks that do the same."""
    def bare(steps):
        return tuple(replace(step, parameters=0, shape=None) for step in steps)

    return replace(path, lines=tuple(map(bare, path.lines)),
                   shortcut=None if path.shortcut is None else bare(path.shortcut))


def _joined(paths: Sequence[Path]) -> Path:
    if len(paths) == 1:
        return paths[0]

    def join(parts: Iterable[tuple[Step, ...]]):
        return tuple(replace(steps[0], parameters=sum(step.parameters for step in steps), shape=None)
                     for steps in zip(*parts, strict=True))

    lines = tuple(join(lines) for lines in zip(*(path.lines for path in paths), strict=True))
    return replace(paths[0], lines=lines,
                   shortcut=None if paths[0].shortcut is None else join(path.shortcut for path in paths))


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
