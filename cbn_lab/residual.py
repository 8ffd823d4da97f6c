"""Networks with shortcuts, for `models`: the CIFAR ResNets, ResNet-18 and a ResNet-9-class net."""

import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab._block_maker import BlockMaker, conv, require_positive, require_size, with_head


def resnet(make: BlockMaker, num_classes, in_channels, image_size, *, widths, blocks_per_stage,
           projection) -> nn.Module:
    """A stem and stages of equally many blocks; each stage but the first halves the image."""
    require_size("a ResNet", image_size, 2 ** (len(widths) - 1))
    layers, channels = [make.block(conv(in_channels, widths[0]))], widths[0]
    for stage, width in enumerate(widths):
        for i in range(blocks_per_stage):
            stride = 2 if stage > 0 and i == 0 else 1
            layers.append(ResidualBlock(make, channels, width, stride, projection))
            channels = width
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
    no parameters) or, with `projection`, a 1x1 weight layer (option B) normalized like the branch.
    """

    def __init__(self, make: BlockMaker, in_channels: int, out_channels: int, stride: int, projection: bool):
        super().__init__()
        self.branch = make.block(conv(in_channels, out_channels, stride))
        second = make.parts(conv(out_channels, out_channels))
        self.linear = nn.Sequential(*second.linear().values())
        self.nonlinear = nn.Sequential(*second.nonlinear().values())
        if in_channels == out_channels and stride == 1:
            self.shortcut = nn.Identity()
        elif projection:
            self.shortcut = make.shortcut(conv(in_channels, out_channels, stride, kernel=1))
        else:
            self.shortcut = Subsample(stride, out_channels - in_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.nonlinear(self.linear(self.branch(x)) + self.shortcut(x))


class Subsample(nn.Module):
    """[N, C, H, W] -> [N, C + extra, H/stride, W/stride]: every stride-th pixel, `extra` zero channels appended."""

    def __init__(self, stride: int, extra: int):
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
