"""Two convolutions and what stands between them, folded: placement, activation, padding, gamma and beta from menus."""

from functools import lru_cache

import ipywidgets
import torch
from torch import nn
from torch.nn.utils import skip_init

from cbn_lab import activations, blocks, data, figures
from cbn_lab.norms import fold_effect
from cbn_lab.widgets.explorer import Explorer

CHANNELS = 4
PADDINGS = {"zeros": 1, "none": 0}


def folded(placement: str = "complete", activation: str = "tanh", padding: str = "zeros",
           affine: bool = True) -> figures.Figure:
    """What `norms.fold` changes in `two_layers` of these settings, on the digits that the statistics come from.

    ValueError for a placement, an activation or a padding that is not known.
    """
    return figures.fold_effect(fold_effect.compare(two_layers(placement, activation, padding, affine), _digits()[:1]))


def two_layers(placement: str, activation: str, padding: str, affine: bool) -> nn.Module:
    """Block and 3 x 3 convolution in float64, shifts and scales random, statistics those of 32 digits.

    affine  False: norms without gamma and beta, and our reconstruction of CBN without gamma and shifts
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    options = {} if affine or placement == "none" else {"affine": False}
    if placement == "complete" and not affine:
        options = {"gamma": None, "pre_shift": False, "post_shift": False}
    first, second = (skip_init(nn.Conv2d, channels, CHANNELS, 3, padding=PADDINGS[padding], bias=bias)
                     for channels, bias in ((1, blocks.needs_bias(placement)), (CHANNELS, True)))
    net = nn.Sequential(blocks.block(first, activation, placement, **options), second).double()
    generator = torch.Generator().manual_seed(0)  # not the global one, which a training may be using meanwhile
    for parameter in net.parameters():
        mean, std = (0.5, 0.3) if parameter.dim() == 1 else (0.0, parameter[0].numel() ** -0.5)
        nn.init.normal_(parameter, mean, std, generator=generator)
    net(_digits())  # one batch in train mode sets the running statistics
    return net


@lru_cache(maxsize=1)
def _digits() -> torch.Tensor:
    digits = data.load("digits", "test").subset(slice(32))
    return data.normalize(digits.images, digits, torch.float64).contiguous()


def fold_explorer() -> Explorer:
    """Menus over `folded`: every registered placement and activation, padding with zeros or none, affine or not."""
    names = {name: "complete (our reconstruction)" if name == "complete" else name for name in blocks.placements()}
    controls = {
        "placement": ipywidgets.Dropdown(description="placement", options=[(names[key], key) for key in names],
                                         value="complete"),
        "activation": ipywidgets.Dropdown(description="activation", options=activations.names(), value="tanh"),
        "padding": ipywidgets.Dropdown(description="padding", options=list(PADDINGS)),
        "affine": ipywidgets.Checkbox(description="learned scale and shift (affine)", value=True, indent=False),
    }
    return Explorer(folded, list(controls.values()), lambda of: {key: c.value for key, c in controls.items()})
