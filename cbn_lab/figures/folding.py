"""What folding a norm into its neighbours changes: the outputs, the border of the image, the operations."""

from cbn_lab.figures.style import Figure, nth_mark, styled
from cbn_lab.figures.style import axes as row_of_axes

_WRONG = 1e-9  # in float64; what is above it is no rounding
_COSTS = (("weight_layers", "weight layers"), ("norms", "norms"), ("offset_maps", "offset maps*"),
          ("stored", "stored numbers"))


@styled
def fold_effect(found, *, channel: int = 0) -> Figure:
    """A `norms.fold_effect.Folding` of images: first image, `channel` of the output before and after folding.

    Third: error with a constant bias instead of the offset map, the largest over channels; a cross marks each pixel
    that is wrong by more than rounding. Right: multiplications for an image, and the numbers stored.
    ValueError for a channel that the output does not have.
    """
    channels = found.output.shape[1]
    if channel not in range(channels):
        raise ValueError(f"channel must be from 0 to {channels - 1}, those of the output; got {channel!r}")
    before, after = found.output[0, channel].numpy(), found.folded[0, channel].numpy()
    exact, careless = found.error().max().item(), found.error(careless=True)[0].numpy()
    fig, panels = row_of_axes(4, size=(11, 3.8), margins=(0.1, 0.1, 0.75, 1.05, 0.3))
    low, high = min(before.min(), after.min()), max(before.max(), after.max())
    for axis, image, title in ((panels[0], before, "before folding"), (panels[1], after, "after folding")):
        axis.imshow(image, cmap="gray", vmin=low, vmax=high)
        axis.set_title(title)
    panels[1].set_xlabel(_agreement(exact))
    wrong = careless > _WRONG
    panels[2].imshow(careless, cmap="Greys", vmin=0, vmax=2 * max(careless.max(), _WRONG))  # never too dark for a cross
    rows, columns = wrong.nonzero()
    panels[2].plot(columns, rows, linestyle="", marker="x", markersize=8, color=nth_mark(0).colour)
    panels[2].set_title("with a constant bias")
    panels[2].set_xlabel(f"{wrong.sum()} of {wrong.size} pixels wrong (×)\nlargest error {careless.max():.2g}"
                         if wrong.any() else "right at every pixel")
    for axis in panels[:3]:
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
    _write_costs(panels[3], found)
    chains = [" → ".join(names) for names in (found.operations, found.folded_operations)]
    for height, which, chain in ((0.98, "before", chains[0]), (0.91, "after", chains[1])):
        fig.text(0.01, height, f"{which}: {chain}", va="top", fontsize=11)
    return Figure(fig, _sentence(found, chains, exact, wrong, careless.max()))


def _agreement(exact) -> str:
    """Not the rounding itself, which differs between machines."""
    return "equal up to rounding" if exact < _WRONG else f"largest difference {exact:.1g}"


def _write_costs(axis, found):
    axis.set_axis_off()
    lines = [("an image", "before", "after"),
             *((label, f"{getattr(found.cost, key):,}", f"{getattr(found.folded_cost, key):,}")
               for key, label in _COSTS)]
    for i, line in enumerate(lines):
        for x, cell, side in zip((-0.05, 0.75, 1.02), line, ("left", "right", "right"), strict=True):
            axis.text(x, 0.9 - 0.16 * i, cell, ha=side, va="center", fontsize=11, weight="normal" if i else "bold")
    axis.text(-0.05, 0.05, "in multiplications;\n* once per image size", fontsize=10, va="center")


def _sentence(found, chains, exact, wrong, largest) -> str:
    costs = "; ".join(f"{label.rstrip('*')} {getattr(found.cost, key):,} before, {getattr(found.folded_cost, key):,} "
                      "after" for key, label in _COSTS)
    border = (f"With a constant bias in place of the offset map {wrong.sum()} of {wrong.size} pixels are wrong, by up "
              f"to {largest:.2g}." if wrong.any() else "A constant bias is right at every pixel.")
    return (f"Folding {chains[0]} into {chains[1]}. Outputs: {_agreement(exact)}. {border} "
            f"Multiplications for an image, offset maps once per image size, and numbers stored: {costs}.")
