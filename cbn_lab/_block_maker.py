"""What every network of `models` is put together from: blocks handed out one after the other, convolutions, a head."""

from collections.abc import Callable
from functools import partial

from torch import nn

from cbn_lab import blocks, norms


class BlockMaker:
    """Hands out the activation and placement of one block after the other."""

    def __init__(self, activation, placement, norm_options):
        for what, value in (("activation", activation), ("placement", placement)):
            if not isinstance(value, (str, list, tuple)):
                raise TypeError(f"{what} must be a name, or a list of names, one per block, got {value!r}")
        self._per_block = {"activation": activation, "placement": placement}
        self.norm_options = norm_options
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
        if self.norm_options and {"none"} == ({placements} if isinstance(placements, str) else set(placements)):
            raise ValueError(f"placement 'none' has no norm and takes no norm options, got "
                             f"{', '.join(self.norm_options)}")

    def _options(self, placement: str) -> dict:
        return {} if placement == "none" else self.norm_options

    def block(self, layer: Callable) -> nn.Module:
        """`layer(bias=...)` makes the weight layer."""
        activation, placement = self._next()
        return blocks.block(layer(bias=blocks.needs_bias(placement)), activation, placement, **self._options(placement))

    def parts(self, layer: Callable, activation=None, norm_defaults: dict | None = None) -> blocks.Parts:
        """The slots of the next block. `activation`: this one, not the one that is due; `norm_defaults`: norm options
        where `norm_options` has none."""
        due, placement = self._next()
        return self._parts(layer, due if activation is None else activation, placement, norm_defaults)

    def shortcut(self, layer: Callable) -> nn.Module:
        """A weight layer on a shortcut: normalized like the others of the last block's placement, not activated."""
        return nn.Sequential(*self.shortcut_parts(layer).linear().values())

    def shortcut_parts(self, layer: Callable, norm_defaults: dict | None = None) -> blocks.Parts:
        return self._parts(layer, "identity", self.placement, norm_defaults)

    def _parts(self, layer, activation, placement, norm_defaults) -> blocks.Parts:
        options = self._options(placement)
        if norm_defaults and placement != "none":
            options = norm_defaults | options
        return blocks.parts(layer(bias=blocks.needs_bias(placement)), activation, placement, **options)

    def batch_norm(self, channels: int) -> nn.Module:
        """One more BN, for images, with those of the norm options that it has. ValueError with placement "none"."""
        if self.placement == "none":
            raise ValueError("placement 'none' has no norm; use join 'activated' or 'preactivated'")
        shared = ("eps", "momentum", "affine", "track_running_stats", "sync")
        return norms.get("batch_norm", channels, 2, **{k: v for k, v in self.norm_options.items() if k in shared})

    def head(self, in_features: int, num_classes: int) -> nn.Module:
        """The output layer, a weight layer too: it gets the input norm of the last block's placement, if any."""
        linear = nn.Linear(in_features, num_classes)
        norm_in = self.shortcut_parts(lambda bias: linear).norm_in
        return linear if norm_in is None else nn.Sequential(norm_in, linear)

    @property
    def placement(self) -> str:
        """Of the last block."""
        value = self._per_block["placement"]
        return value if isinstance(value, str) else value[self.used - 1]


def conv(in_channels: int, out_channels: int, stride: int = 1, kernel: int = 3) -> Callable:
    """`conv(...)(bias=...)` is the layer; padded so that stride 1 keeps the size of the image."""
    return partial(nn.Conv2d, in_channels, out_channels, kernel, stride=stride, padding=kernel // 2)


def with_head(make: BlockMaker, layers, features: int, num_classes: int, pool: type = nn.AdaptiveAvgPool2d):
    """`layers`, one value per channel, and the output layer."""
    return nn.Sequential(*layers, pool(1), nn.Flatten(), make.head(features, num_classes))


def require_size(what: str, image_size: int, smallest: int) -> None:
    if image_size < smallest:
        raise ValueError(f"{what} needs images of at least {smallest}x{smallest}, got {image_size}x{image_size}; "
                         "use 'convnet' or 'mlp' for smaller ones")


def require_positive(**sizes) -> None:
    for what, value in sizes.items():
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{what} must consist of whole numbers, at least 1, got {value!r}")
