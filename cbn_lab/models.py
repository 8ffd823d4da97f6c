"""Networks by name, each with any activation and placement, the same for all layers or one per layer.

    mlp                  depth hidden layers of one width
    convnet              3x3 convolutions (VGG style), average pool, linear; any depth and widths
    vgg16                13 convolutions and 5 max pools, one linear layer (Simonyan and Zisserman 2015, CIFAR form)
    resnet20, resnet56   CIFAR ResNets with parameter-free shortcuts (He et al. 2016, section 4.2, option A)
    resnet18             ImageNet ResNet-18 with a 3x3 stem of stride 1 and no max pool (the usual CIFAR form)

Weights are drawn LeCun-normal, N(0, 1/fan_in), for every activation, so that arms of a comparison start alike:
with one seed of torch's global generator, nets that differ in activation or placement alone get the same weights.
Biases are 0.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import blocks
from cbn_lab._arguments import require_known

_VGG16_WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def names() -> list[str]:
    return list(_REGISTRY)


def build(name: str, *, num_classes: int, in_channels: int = 3, image_size: int = 32,
          activation: str | Sequence[str] = "relu", placement: str | Sequence[str] = "complete",
          norm_options: dict | None = None, **size) -> nn.Module:
    """A new network, [N, in_channels, image_size, image_size] -> logits [N, num_classes].

    `activation` and `placement` are names, or one name per block (mlp and convnet: layers; vgg16: 13; resnets: the
    stem and two per residual block). `norm_options` go to every block with a norm (see `blocks.block`). `size`: mlp
    takes `width` and `depth`, convnet takes `widths` and `strides`.

    Raises ValueError for unknown names, a list of the wrong length, norm options for a network without a norm, or an
    image too small for the network;
    TypeError for a size argument that the network does not have.
    """
    _require_model(name, size)
    if num_classes < 1 or in_channels < 1 or image_size < 1:
        raise ValueError(f"num_classes, in_channels and image_size must be at least 1, got {num_classes}, "
                         f"{in_channels} and {image_size}")
    # One draw before anything else, so that nets that differ only in placement or activation get the same weights.
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    make = _BlockMaker(activation, placement, norm_options or {})
    model = _REGISTRY[name](make, num_classes, in_channels, image_size, **size)
    make.require_all_used()
    _lecun_normal(model, generator)
    return model


def block_count(name: str, **size) -> int:
    """How many blocks, each with its own activation and placement, `build(name, ..., **size)` makes. Errors as there.

    Counted on the network itself, made without memory for its weights.
    """
    _require_model(name, size)
    make = _BlockMaker("identity", "none", {})
    with torch.device("meta"):
        _REGISTRY[name](make, 10, 3, 32, **size)
    return make.used


def sizes(name: str) -> dict:
    """The size arguments that `build(name, ...)` takes, with their defaults. ValueError for an unknown name."""
    _require_model(name, {})
    parameters = list(inspect.signature(_REGISTRY[name]).parameters.values())[4:]
    return {parameter.name: parameter.default for parameter in parameters}


def _require_model(name: str, size: dict) -> None:
    if name not in _REGISTRY:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(names())}")
    require_known(f"model {name!r}", size, _REGISTRY[name], given=4)


class _BlockMaker:
    """Hands out the activation and placement of one block after the other."""

    def __init__(self, activation, placement, norm_options):
        for what, value in (("activation", activation), ("placement", placement)):
            if not isinstance(value, (str, list, tuple)):
                raise TypeError(f"{what} must be a name, or a list of names, one per block, got {value!r}")
        self._per_block = {"activation": activation, "placement": placement}
        self._norm_options = norm_options
        self.used = 0

    def _next(self) -> tuple[str, str]:
        chosen = []
        for what, value in self._per_block.items():
            if isinstance(value, str):
                chosen.append(value)
            elif self.used < len(value):
                chosen.append(value[self.used])
            else:
                raise ValueError(f"{what} lists {len(value)} names, but the network has more blocks; "
                                 "give one name per block, or one name for all")
        self.used += 1
        return chosen[0], chosen[1]

    def require_all_used(self) -> None:
        for what, value in self._per_block.items():
            if not isinstance(value, str) and len(value) != self.used:
                raise ValueError(f"{what} lists {len(value)} names, but the network has {self.used} blocks")
        placements = self._per_block["placement"]
        if self._norm_options and {"none"} == ({placements} if isinstance(placements, str) else set(placements)):
            raise ValueError(f"placement 'none' has no norm and takes no norm options, got "
                             f"{', '.join(self._norm_options)}")

    def _options(self, placement: str) -> dict:
        return {} if placement == "none" else self._norm_options

    def block(self, layer: Callable) -> nn.Module:
        """`layer(bias=...)` makes the weight layer."""
        activation, placement = self._next()
        return blocks.block(layer(bias=blocks.needs_bias(placement)), activation, placement, **self._options(placement))

    def parts(self, layer: Callable) -> blocks.Parts:
        activation, placement = self._next()
        return blocks.parts(layer(bias=blocks.needs_bias(placement)), activation, placement,
                            **self._options(placement))

    def shortcut(self, layer: Callable) -> nn.Module:
        """A weight layer on a shortcut: normalized like the others of the last block's placement, not activated."""
        placement = self._last("placement")
        weight = layer(bias=blocks.needs_bias(placement))
        parts = blocks.parts(weight, "identity", placement, **self._options(placement))
        return nn.Sequential(*parts.linear().values())

    def head(self, in_features: int, num_classes: int) -> nn.Module:
        """The output layer, a weight layer too: it gets the input norm of the last block's placement, if any."""
        linear = nn.Linear(in_features, num_classes)
        placement = self._last("placement")
        parts = blocks.parts(linear, "identity", placement, **self._options(placement))
        return linear if parts.norm_in is None else nn.Sequential(parts.norm_in, linear)

    def _last(self, what: str) -> str:
        value = self._per_block[what]
        return value if isinstance(value, str) else value[self.used - 1]


def _conv(in_channels: int, out_channels: int, stride: int = 1, kernel: int = 3) -> Callable:
    return partial(nn.Conv2d, in_channels, out_channels, kernel, stride=stride, padding=kernel // 2)


def _mlp(make, num_classes, in_channels, image_size, width: int = 128, depth: int = 3) -> nn.Module:
    _require_positive(width=width, depth=depth)
    inputs = [in_channels * image_size**2, *[width] * (depth - 1)]
    hidden = [make.block(partial(nn.Linear, n, width)) for n in inputs]
    return nn.Sequential(nn.Flatten(), *hidden, make.head(width, num_classes))


def _convnet(make, num_classes, in_channels, image_size, widths: Sequence[int] = (16, 16, 32, 32, 64, 64),
             strides: Sequence[int] | None = None) -> nn.Module:
    """Default strides: 2 at every second layer, the six-layer net of the structure ablation."""
    if not isinstance(widths, (list, tuple)) or not widths:
        raise ValueError(f"convnet needs widths, a list of one number per layer, got {widths!r}")
    strides = strides or [1 + i % 2 for i in range(len(widths))]
    _require_positive(widths=widths, strides=strides)
    if len(strides) != len(widths):
        raise ValueError(f"convnet got {len(widths)} widths but {len(strides)} strides; give one stride per width")
    ins = [in_channels, *widths[:-1]]
    layers = [make.block(_conv(i, o, s)) for i, o, s in zip(ins, widths, strides, strict=True)]
    return _with_head(make, layers, widths[-1], num_classes)


def _vgg16(make, num_classes, in_channels, image_size) -> nn.Module:
    _require_size("vgg16", image_size, 32)
    layers, channels = [], in_channels
    for width in _VGG16_WIDTHS:
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers.append(make.block(_conv(channels, width)))
            channels = width
    return _with_head(make, layers, channels, num_classes)


def _resnet(make, num_classes, in_channels, image_size, *, widths, blocks_per_stage, projection) -> nn.Module:
    _require_size("a ResNet", image_size, 2 ** (len(widths) - 1))
    layers, channels = [make.block(_conv(in_channels, widths[0]))], widths[0]
    for stage, width in enumerate(widths):
        for i in range(blocks_per_stage):
            stride = 2 if stage > 0 and i == 0 else 1
            layers.append(ResidualBlock(make, channels, width, stride, projection))
            channels = width
    return _with_head(make, layers, channels, num_classes)


class ResidualBlock(nn.Module):
    """out = nonlinear(linear(branch(x)) + shortcut(x)): two blocks; the shortcut joins inside the second, see `blocks`.

    The shortcut is the identity where shapes agree; otherwise subsampling with zero channels appended (option A,
    no parameters) or, with `projection`, a 1x1 weight layer (option B) normalized like the branch.
    """

    def __init__(self, make: _BlockMaker, in_channels: int, out_channels: int, stride: int, projection: bool):
        super().__init__()
        self.branch = make.block(_conv(in_channels, out_channels, stride))
        second = make.parts(_conv(out_channels, out_channels))
        self.linear = nn.Sequential(*second.linear().values())
        self.nonlinear = nn.Sequential(*second.nonlinear().values())
        if in_channels == out_channels and stride == 1:
            self.shortcut = nn.Identity()
        elif projection:
            self.shortcut = make.shortcut(_conv(in_channels, out_channels, stride, kernel=1))
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


def _with_head(make, layers, features, num_classes) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), make.head(features, num_classes))


def _require_positive(**sizes) -> None:
    for what, value in sizes.items():
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{what} must consist of whole numbers, at least 1, got {value!r}")


def _require_size(what: str, image_size: int, smallest: int) -> None:
    if image_size < smallest:
        raise ValueError(f"{what} needs images of at least {smallest}x{smallest}, got {image_size}x{image_size}; "
                         "use 'convnet' or 'mlp' for smaller ones")


@torch.no_grad()
def _lecun_normal(model: nn.Module, generator: torch.Generator) -> None:
    """Weights from N(0, 1/fan_in), biases 0 (LeCun et al. 1998, section 4.6)."""
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(0.0, fan_in**-0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()


_REGISTRY: dict[str, Callable] = {
    "mlp": _mlp,
    "convnet": _convnet,
    "vgg16": _vgg16,
    "resnet20": partial(_resnet, widths=(16, 32, 64), blocks_per_stage=3, projection=False),
    "resnet56": partial(_resnet, widths=(16, 32, 64), blocks_per_stage=9, projection=False),
    "resnet18": partial(_resnet, widths=(64, 128, 256, 512), blocks_per_stage=2, projection=True),
}
