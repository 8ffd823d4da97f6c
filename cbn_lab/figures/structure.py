"""Pictures that need no runs: images, and moments of the activations."""

from collections.abc import Iterable

from cbn_lab import activations
from cbn_lab.figures.style import MARKS, Figure, axes, styled


@styled
def moments(names: Iterable[str], *, mean: float = 0.0, std: float = 1.0) -> Figure:
    """E[f(z)^2] = E[f(z)]^2 + Var f(z) for z ~ N(mean, std^2): one bar per activation, its two parts side by side."""
    names = list(names)
    if not names:
        raise ValueError("there is no activation to draw; give at least one name")
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
    axis.set_xlim(0, 1.14 * max(m.second for m in values.values()) or 1.0)
    axis.set_xlabel(f"second moment of f(z), z ~ N({mean:g}, {std:g}²)")
    axis.grid(axis="y", visible=False)
    fig.legend(loc="outside upper center", ncols=2)
    said = "; ".join(f"{name} {m.mean:z.3f}, {m.variance:.3f}, {m.second:.3f}" for name, m in values.items())
    return Figure(fig, f"Mean, variance and second moment of f(z) for z normal with mean {mean:g} and standard "
                       f"deviation {std:g}: {said}.")


@styled
def images(dataset, count: int = 10) -> Figure:
    """The first `count` images of a data set, with their classes. ValueError if there are not that many."""
    if count not in range(1, len(dataset) + 1):
        raise ValueError(f"count must be from 1 to {len(dataset)}, the number of images; got {count}")
    fig, panels = axes(count, size=(1.0 * count, 1.35))
    names = [dataset.class_names[label] for label in dataset.labels[:count].tolist()]
    for axis, image, name in zip(panels, dataset.images[:count].cpu().numpy(), names, strict=True):
        axis.imshow(image if image.shape[2] == 3 else image[:, :, 0], cmap="gray", vmin=0, vmax=255)
        axis.set_title(name)
        axis.set_axis_off()
    size = f"{dataset.image_size} x {dataset.image_size} pixels"
    return Figure(fig, f"{count} of {len(dataset):,} images of {size}, of the classes {', '.join(names)}.")
