"""Networks with shortcuts, for `models`: the CIFAR ResNets, ResNet-18 and a ResNet-9-class net.

A layer is linear(x), then nonlinear: f with the norms around it (`blocks`). How a ResNet's shortcut joins two layers:

    activated      x' = nonlinear2(linear2(layer1(x)) + shortcut(x))            He et al. 2016a; the default
    normalized     x' = nonlinear2(BN(linear2(layer1(x))) + shortcut(x))        where linear2 ends without a norm
    preactivated   s' = weight2(rest1(weight1(rest0(s)))) + shortcut(s)         He et al. 2016b

In the last one the sum s itself goes from block to block: the `rest` of a layer (f and all norms behind its weight)
stands before the next weight layer, and the last one before the pool. The first block is like the others: its shortcut
takes the output of the stem's weights, where He et al. 2016b activate before the two paths part. Which form suits
`complete` was the question of results/residual/PROTOCOL.md; its rule chose "normalized".
"""

import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import blocks
from cbn_lab._block_maker import BlockMaker, conv, require_positive, require_size, with_head

JOINS = ("activated", "normalized", "preactivated")


def resnet(make: BlockMaker, num_classes, in_channels, image_size, *, widths, blocks_per_stage, projection,
           join: str = "activated") -> nn.Module:
    """A stem and stages of equally many blocks; each stage but the first halves the image. `join` is one of JOINS."""
    require_size("a ResNet", image_size, 2 ** (len(widths) - 1))
    if join not in JOINS:
        raise ValueError(f"unknown join {join!r}; known: {', '.join(JOINS)}")
    ends = [(width, 2 if stage > 0 and i == 0 else 1) for stage, width in enumerate(widths)
            for i in range(blocks_per_stage)]
    starts = [widths[0], *(width for width, _ in ends)]
    if join == "preactivated":
        weight, rest = _halves(make.parts(conv(in_channels, widths[0])))
        layers = [weight]
        for start, (width, stride) in zip(starts, ends, strict=False):
            block, rest = _preactivated(make, rest, start, width, stride, projection)
            layers.append(block)
        layers.append(rest)
    else:
        layers = [make.block(conv(in_channels, widths[0]))]
        layers += [ResidualBlock(make, start, width, stride, projection, normalized=join == "normalized")
                   for start, (width, stride) in zip(starts, ends, strict=False)]
    return with_head(make, layers, widths[-1], num_classes)


def resnet9(make: BlockMaker, num_classes, in_channels, image_size, width: int = 64) -> nn.Module:
    """Convolutions of 1, 2, 4 and 8 times `width` channels, pooled after all but the first; residual pairs at 2 and 8.

    The layers of D. Page's "How to train your ResNet 4" (2018). Different here: the shortcut is added before the last
    activation of its pair, as in every network of ours (there: after it), the output layer has a bias, and the
    logits are not multiplied by 1/8.
    """
    require_positive(width=width)
    require_size("resnet9", image_size, 8)
    layers, channels = [make.block(conv(in_channels, width))], width
    for factor, pair in ((2, True), (4, False), (8, True)):
        layers += [make.block(conv(channels, factor * width)), nn.MaxPool2d(2)]
        channels = factor * width
        if pair:
            layers.append(ResidualBlock(make, channels, channels, stride=1, projection=False))
    return with_head(make, layers, channels, num_classes, pool=nn.AdaptiveMaxPool2d)


class ResidualBlock(nn.Module):
    """out = nonlinear(linear(branch(x)) + shortcut(x)): two blocks; the shortcut joins inside the second, see `blocks`.

    The shortcut is the identity where shapes agree; otherwise subsampling with zero channels appended (option A,
    no parameters) or, with `projection`, a 1x1 weight layer (option B) normalized like the branch. With `normalized`,
    a branch that ends without a norm gets a BN there, and so does a projection. ValueError with placement "none" then.
    """

    def __init__(self, make: BlockMaker, in_channels: int, out_channels: int, stride: int, projection: bool,
                 normalized: bool = False):
        super().__init__()
        self.branch = make.block(conv(in_channels, out_channels, stride))
        second = make.parts(conv(out_channels, out_channels))
        add_norm = normalized and second.norm is None
        added = [make.batch_norm(out_channels)] if add_norm else []
        self.linear = nn.Sequential(*second.linear().values(), *added)
        self.nonlinear = nn.Sequential(*second.nonlinear().values())
        if in_channels == out_channels and stride == 1:
            self.shortcut = nn.Identity()
        elif projection:
            weight = make.shortcut(conv(in_channels, out_channels, stride, kernel=1))
            self.shortcut = nn.Sequential(*weight, make.batch_norm(out_channels)) if add_norm else weight
        else:
            self.shortcut = Subsample(stride, out_channels - in_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.nonlinear(self.linear(self.branch(x)) + self.shortcut(x))


class PreactivatedBlock(nn.Module):
    """out = branch(rest(s)) + shortcut(s), where `rest` is the layer before without its weight.

    The shortcut is as in `ResidualBlock`; a projection takes rest(s), as in He et al. 2016b, and no norm stands behind
    it. Before its weights stands what the placement puts before those of the branch.
    """

    def __init__(self, rest: nn.Module, branch: nn.Module, shortcut: nn.Module, projects: bool):
        super().__init__()
        self.rest, self.branch, self.shortcut, self.projects = rest, branch, shortcut, projects

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        x = self.rest(s)
        return self.branch(x) + self.shortcut(x if self.projects else s)


def _preactivated(make: BlockMaker, rest: nn.Module, in_channels: int, out_channels: int, stride: int,
                  projection: bool) -> tuple[PreactivatedBlock, nn.Module]:
    """(block, the rest of its second layer, which belongs to what comes next)."""
    first = make.block(conv(in_channels, out_channels, stride))
    weight, rest_of_second = _halves(make.parts(conv(out_channels, out_channels)))
    same = in_channels == out_channels and stride == 1
    projects = projection and not same
    if same:
        shortcut = nn.Identity()
    elif projects:
        shortcut, _ = _halves(make.shortcut_parts(conv(in_channels, out_channels, stride, kernel=1)))
    else:
        shortcut = Subsample(stride, out_channels - in_channels)
    return PreactivatedBlock(rest, nn.Sequential(first, weight), shortcut, projects), rest_of_second


def _halves(parts: blocks.Parts) -> tuple[nn.Module, nn.Module]:
    """(the weight layer with a norm of its input, f with the norms around it)."""
    rest = parts.linear() | parts.nonlinear()
    weight = {slot: rest.pop(slot) for slot in ("norm_in", "weight") if slot in rest}
    return blocks.sequence(weight), blocks.sequence(rest)


class Subsample(nn.Module):
    """[N, C, H, W] -> [N, C + extra, H/stride, W/stride]: every stride-th pixel, `extra` zero channels appended."""

    def __init__(self, stride: int, extra: int):
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
