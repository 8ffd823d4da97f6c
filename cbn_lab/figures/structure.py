"""Pictures that need no runs: images, moments of the activations, where the normalization stands in a block."""

from collections.abc import Iterable, Iterator

from matplotlib.patches import FancyBboxPatch

from cbn_lab import activations, blocks
from cbn_lab.figures.style import MARKS, Figure, axes, styled

_FILL = {"weight": "#cfe4f2", "norm": "#fbe3b5", "activation": "#cdeadd", "shift": "#f3dbe8", "end": "#ffffff"}


@styled
def moments(names: Iterable[str], *, mean: float = 0.0, std: float = 1.0) -> Figure:
    """E[f(z)^2] = E[f(z)]^2 + Var f(z) for z ~ N(mean, std^2): one bar per activation, its two parts side by side."""
    names = list(names)
    values = {name: activations.moments(name, mean, std) for name in names}
    fig, (axis,) = axes(size=(8, 1.3 + 0.5 * len(names)))
    rows, dark, light = range(len(names)), MARKS[5].colour, MARKS[4].colour
    squares = [m.mean**2 for m in values.values()]
    axis.barh(rows, squares, color=light, edgecolor="black", hatch="//", height=0.6, label="squared mean")
    axis.barh(rows, [m.variance for m in values.values()], left=squares, color=dark, edgecolor="black", height=0.6,
              label="variance")
    for row, m in zip(rows, values.values(), strict=True):
        axis.annotate(f"{m.second:.3f}", (m.second, row), xytext=(5, 0), textcoords="offset points", va="center")
    axis.set_yticks(rows, names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, 1.14 * max(m.second for m in values.values()))
    axis.set_xlabel(f"second moment of f(z), z ~ N({mean:g}, {std:g}²)")
    axis.grid(axis="y", visible=False)
    fig.legend(loc="outside upper center", ncols=2)
    said = "; ".join(f"{name} {m.mean:z.3f}, {m.variance:.3f}, {m.second:.3f}" for name, m in values.items())
    return Figure(fig, f"Mean, variance and second moment of f(z) for z normal with mean {mean:g} and standard "
                       f"deviation {std:g}: {said}.")


@styled
def images(dataset, count: int = 10) -> Figure:
    """The first `count` images of a data set, with their classes."""
    fig, panels = axes(count, size=(1.0 * count, 1.35))
    names = [dataset.class_names[label] for label in dataset.labels[:count].tolist()]
    for axis, image, name in zip(panels, dataset.images[:count].cpu().numpy(), names, strict=True):
        axis.imshow(image if image.shape[2] == 3 else image[:, :, 0], cmap="gray", vmin=0, vmax=255)
        axis.set_title(name)
        axis.set_axis_off()
    size = f"{dataset.image_size} x {dataset.image_size} pixels"
    return Figure(fig, f"{count} of {len(dataset):,} images of {size}, of the classes {', '.join(names)}.")


@styled
def block_diagram(placements: str | Iterable[str], activation: str = "relu", **norm_options) -> Figure:
    """What one block does to its input, in order; read off the module that `blocks.block` makes."""
    placements = [placements] if isinstance(placements, str) else list(placements)
    steps = {name: list(block_steps(_block(name, activation, norm_options))) for name in placements}
    longest = max(len(row) for row in steps.values()) + 1
    fig, (axis,) = axes(size=(2.2 + 1.45 * longest, 0.35 + 0.85 * len(steps)))
    axis.set_axis_off()
    axis.set_xlim(-1.6, longest - 0.4)
    axis.set_ylim(len(steps) - 0.5, -0.5)
    for y, (name, row) in enumerate(steps.items()):
        axis.text(-1.58, y, name, va="center", weight="bold")
        for x, (kind, label) in enumerate([*row, ("end", "next\nlayer")]):
            _box(axis, x, y, kind, label)
    said = ". ".join(f"{name}: {', then '.join(' '.join(label.split()) for _, label in row)}"
                     for name, row in steps.items())
    return Figure(fig, f"Order of operations in a block. {said}.")


def _box(axis, x, y, kind, label):
    axis.add_patch(FancyBboxPatch((x - 0.38, y - 0.26), 0.76, 0.52, boxstyle="round,pad=0,rounding_size=0.06",
                                  facecolor=_FILL[kind], edgecolor="black", linestyle=":" if kind == "end" else "-"))
    axis.text(x, y, label, ha="center", va="center", fontsize=10.5, linespacing=1.15)
    if x:
        axis.annotate("", (x - 0.38, y), (x - 0.62, y), arrowprops={"arrowstyle": "-|>", "color": "black"})


def _block(placement, activation, norm_options):
    from torch import nn

    layer = nn.Conv2d(3, 4, 3, bias=blocks.needs_bias(placement))
    return blocks.block(layer, activation, placement, **norm_options)


def block_steps(block) -> Iterator[tuple[str, str]]:
    """(kind, label) of each step of a block; kind is weight, norm, activation or shift."""
    from cbn_lab.norms.complete import CompleteBatchNormBase

    for slot, module in block.named_children():
        if slot == "weight":
            yield "weight", f"{type(module).__name__}\n{'with' if module.bias is not None else 'no'} bias"
        elif isinstance(module, CompleteBatchNormBase):
            yield from _complete_steps(module)
        elif slot == "activation":
            yield "activation", type(module).__name__
        else:
            yield "norm", _norm_label(module)


def _norm_label(module) -> str:
    affine = getattr(module, "affine", False)
    return f"{type(module).__name__}\n" + ("γ, β" if affine else "no γ, β")


def _complete_steps(layer) -> Iterator[tuple[str, str]]:
    shift = f"{layer.shift_lr_multiplier:g}x shift"
    yield from _half(layer.standardize_before, layer.gamma_before, layer.pre_shift, shift)
    yield "activation", type(layer.activation).__name__
    yield from _half(layer.standardize_after, layer.gamma_after, layer.post_shift, shift)


def _half(standardize, gamma, shift, shift_label) -> Iterator[tuple[str, str]]:
    if standardize is not None:
        yield "norm", "standardize" if standardize.center and standardize.scale else (
            "divide by\nRMS" if standardize.scale else "subtract\nmean")
    affine = [label for label, part in (("γ", gamma), (shift_label, shift)) if part is not None]
    if affine:
        yield "shift", ",\n".join(affine)
