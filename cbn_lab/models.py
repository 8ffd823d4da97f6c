"""Networks by name, each with any activation and placement, the same for all layers or one per layer.

    mlp                  depth hidden layers of one width
    convnet              3x3 convolutions (VGG style), average pool, linear; any depth and widths
    vgg16                13 convolutions and 5 max pools, one linear layer (Simonyan and Zisserman 2015, CIFAR form)
    resnet20, resnet56   CIFAR ResNets with parameter-free shortcuts (He et al. 2016, section 4.2, option A)
    resnet18             ImageNet ResNet-18 with a 3x3 stem of stride 1 and no max pool (the usual CIFAR form)
    resnet9              8 convolutions, 3 max pools and 2 residual pairs (Page 2018; what differs: `residual`)
    resnet50             torchvision's, rebuilt by `convert`: stem of stride 2 and max pool, for images of 64 and more

`convert(module, placement, activation)` rebuilds the blocks of any other network.

Weights are drawn LeCun-normal, N(0, 1/fan_in), for every activation, so that arms of a comparison start alike:
with one seed of torch's global generator, nets that differ in activation or placement alone get the same weights.
Biases are 0.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from cbn_lab._arguments import require_known
from cbn_lab._block_maker import BlockMaker, conv, require_positive, require_size, with_head
from cbn_lab.convert import convert, rebuild
from cbn_lab.residual import ResidualBlock, Subsample, resnet, resnet9

__all__ = ["ResidualBlock", "Subsample", "block_count", "build", "convert", "names", "sizes"]

_VGG16_WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def names() -> list[str]:
    return list(_REGISTRY)


def build(name: str, *, num_classes: int, in_channels: int = 3, image_size: int = 32,
          activation: str | Sequence[str] = "relu", placement: str | Sequence[str] = "complete",
          norm_options: dict | None = None, **size) -> nn.Module:
    """A new network, [N, in_channels, image_size, image_size] -> logits [N, num_classes].

    `activation` and `placement` are names, or one name per block (mlp and convnet: layers; vgg16: 13; resnets: the
    stem and two per residual block, resnet50: three; resnet9: 8). `norm_options` go to every block with a norm (see
    `blocks.block`).
    `size`: mlp takes `width` and `depth`, convnet takes `widths` and `strides`, resnet9 takes `width`; resnet20, 56 and
    18 take `join`, how a shortcut joins two layers (`cbn_lab.residual`).

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
    make = BlockMaker(activation, placement, norm_options or {})
    model = _REGISTRY[name](make, num_classes, in_channels, image_size, **size)
    make.require_all_used()
    _lecun_normal(model, generator)
    return model


def block_count(name: str, **size) -> int:
    """How many blocks, each with its own activation and placement, `build(name, ..., **size)` makes. Errors as there.

    Counted on the network itself, made without memory for its weights.
    """
    _require_model(name, size)
    make = BlockMaker("identity", "before", {})  # a placement with a norm, which the join "normalized" asks for
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


def _mlp(make, num_classes, in_channels, image_size, width: int = 128, depth: int = 3) -> nn.Module:
    require_positive(width=width, depth=depth)
    inputs = [in_channels * image_size**2, *[width] * (depth - 1)]
    hidden = [make.block(partial(nn.Linear, n, width)) for n in inputs]
    return nn.Sequential(nn.Flatten(), *hidden, make.head(width, num_classes))


def _convnet(make, num_classes, in_channels, image_size, widths: Sequence[int] = (16, 16, 32, 32, 64, 64),
             strides: Sequence[int] | None = None) -> nn.Module:
    """Default strides: 2 at every second layer, the six-layer net of the structure ablation."""
    if not isinstance(widths, (list, tuple)) or not widths:
        raise ValueError(f"convnet needs widths, a list of one number per layer, got {widths!r}")
    strides = strides or [1 + i % 2 for i in range(len(widths))]
    require_positive(widths=widths, strides=strides)
    if len(strides) != len(widths):
        raise ValueError(f"convnet got {len(widths)} widths but {len(strides)} strides; give one stride per width")
    ins = [in_channels, *widths[:-1]]
    layers = [make.block(conv(i, o, s)) for i, o, s in zip(ins, widths, strides, strict=True)]
    return with_head(make, layers, widths[-1], num_classes)


def _vgg16(make, num_classes, in_channels, image_size) -> nn.Module:
    require_size("vgg16", image_size, 32)
    layers, channels = [], in_channels
    for width in _VGG16_WIDTHS:
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers.append(make.block(conv(channels, width)))
            channels = width
    return with_head(make, layers, channels, num_classes)


def _resnet50(make, num_classes, in_channels, image_size) -> nn.Module:
    require_size("resnet50", image_size, 32)
    from torchvision.models import resnet50  # takes seconds to import, and only this network needs it

    given = resnet50(num_classes=num_classes)
    if in_channels != 3:
        given.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    return rebuild(given, make)


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
    "resnet20": partial(resnet, widths=(16, 32, 64), blocks_per_stage=3, projection=False),
    "resnet56": partial(resnet, widths=(16, 32, 64), blocks_per_stage=9, projection=False),
    "resnet18": partial(resnet, widths=(64, 128, 256, 512), blocks_per_stage=2, projection=True),
    "resnet9": resnet9,
    "resnet50": _resnet50,
}
