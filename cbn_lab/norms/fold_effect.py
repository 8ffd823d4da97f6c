"""What `fold` changes in a network: its operations, its outputs, and what would go wrong at the border of an image.

A zero-padded convolution sees no offset where it reads padding (see `folded`). `compare` also computes the network
that forgets this and puts the offset of the norm before it into a constant bias.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cbn_lab.norms import complete, folded
from cbn_lab.norms.folded import ChannelAffine, FoldedConv
from cbn_lab.norms.folding import fold


@dataclass(frozen=True)
class Cost:
    """Of one image, in multiplications.

    weight_layers  of the convolutions and linear layers
    norms          of the affine maps of norms, one per value that passes; a map without a scale is a bias, and free
    offset_maps    of the convolutions of ones in `FoldedConv`, needed once per image size, whatever the batch
    stored         numbers in parameters and running statistics
    """

    weight_layers: int
    norms: int
    offset_maps: int
    stored: int


@dataclass(frozen=True, eq=False)
class Folding:
    """A network before and after `fold`: names of its operations in order, output [N, C, ...], cost.

    `careless` is the output of the folded network with a constant bias in place of each offset map.
    """

    operations: tuple[str, ...]
    folded_operations: tuple[str, ...]
    output: Tensor
    folded: Tensor
    careless: Tensor
    cost: Cost
    folded_cost: Cost

    def error(self, careless: bool = False) -> Tensor:
        """[N, ...]: largest |difference| to the original network over the channels."""
        return ((self.careless if careless else self.folded) - self.output).abs().amax(dim=1)


def compare(net: nn.Module, images: Tensor) -> Folding:
    """`net` in eval mode on `images` [N, C, H, W], and what becomes of it by `fold`. Errors as in `fold`."""
    net = copy.deepcopy(net).eval()
    quick = fold(net)
    careless = copy.deepcopy(quick)
    _forget_the_border(careless)
    with torch.no_grad():
        cost, output = _measured(net, images)
        folded_cost, after = _measured(quick, images)
        return Folding(operations(net), operations(quick), output, after, careless(images), cost, folded_cost)


def operations(net: nn.Module) -> tuple[str, ...]:
    """The leaves of `net` in order, by class name; a CompleteBatchNorm as its parts, identities left out."""
    found: list[str] = []
    for child in net.children():
        if isinstance(child, FoldedConv):
            found.append(f"{type(child.conv).__name__} + offset map")
        elif isinstance(child, complete.CompleteBatchNormBase):
            before, after = (", ".join(name for name, part in half if part is not None) for half in _halves(child))
            found += filter(None, (before, type(child.activation).__name__, after))
        elif next(child.children(), None) is not None:
            found += operations(child)
        elif not isinstance(child, nn.Identity):
            found.append(type(child).__name__)
    return tuple(found)


def _halves(layer: complete.CompleteBatchNormBase):
    """(name, part) of what stands before the activation, and of what stands after it."""
    return ((("standardize", layer.standardize_before), ("gamma", layer.gamma_before), ("shift", layer.pre_shift)),
            (("standardize", layer.standardize_after), ("gamma", layer.gamma_after), ("shift", layer.post_shift)))


def _forget_the_border(net: nn.Module) -> None:
    """Give every zero-padded convolution with an offset map the map's value in the interior as a bias, in place."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, FoldedConv):
                bias = child.offset.weight.flatten(1).sum(1)
                child.conv.bias = nn.Parameter(bias if child.offset.bias is None else bias + child.offset.bias)
                setattr(parent, name, child.conv)


def _measured(net: nn.Module, images: Tensor) -> tuple[Cost, Tensor]:
    """The cost of one image, counted by hooks, and the output of all."""
    counts = {"weight_layers": 0, "norms": 0, "offset_maps": 0}
    maps = {layer.offset for layer in net.modules() if isinstance(layer, FoldedConv)}

    def count(layer, inputs, output):
        values = output[0].numel()
        if isinstance(layer, folded.WEIGHT):
            counts["offset_maps" if layer in maps else "weight_layers"] += values * layer.weight[0].numel()
        else:
            counts["norms"] += values * _scales(layer)

    inner = {part for layer in net.modules() if isinstance(layer, complete.CompleteBatchNormBase)
             for part in layer.modules() if part is not layer}
    hooks = [layer.register_forward_hook(count) for layer in net.modules()
             if layer not in inner and (isinstance(layer, folded.WEIGHT) or _scales(layer))]
    output = net(images)
    for hook in hooks:
        hook.remove()
    stored = [*net.parameters(), *(buffer for name, buffer in net.named_buffers() if "running" in name)]
    return Cost(**counts, stored=sum(tensor.numel() for tensor in stored)), output


def _scales(layer: nn.Module) -> int:
    """How many maps with a scale a norm applies to each value."""
    if isinstance(layer, ChannelAffine):
        return 1
    if isinstance(layer, complete.CompleteBatchNormBase):
        return sum(bool((affine.scale != 1).any()) for affine in folded.affines_of(layer))
    return int(folded.is_norm(layer))
