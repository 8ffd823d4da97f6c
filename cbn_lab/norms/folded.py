r"""The algebra of folding: norms in eval mode as affine maps, and weight layers that absorb them.

In eval mode a norm is a fixed affine map per channel, y_c = scale_c x_c + offset_c, for batch norm with

    scale = weight / sqrt(running_var + eps)        offset = bias - running_mean * scale

A weight layer absorbs the map that stands *behind* it without further ado: W' = scale W, b' = scale b + offset.
*Before* it, W'[o, c] = W[o, c] scale_c and b'[o] = b[o] + sum_c W[o, c] offset_c, for a linear layer and for a
convolution without padding. With zero padding the last line is wrong, since the zeros are put around the image *after*
the normalization and get no offset. One channel, offset 1, a 3x3 kernel of ones, padding 1; the offset's share is

    0 0 0 0 0 0          4 6 6 4          the number of taps inside the image: a map B, constant in the interior
    0 1 1 1 1 0          6 9 9 6          only. With K[o, u, v] = sum_c W[o, c, u, v] offset_c,
    0 1 1 1 1 0    ->    6 9 9 6
    0 1 1 1 1 0          6 9 9 6              conv(pad(scale x + offset)) = conv'(pad(x)) + B,    B = conv_K(pad(1)),
    0 1 1 1 1 0          4 6 6 4
    0 0 0 0 0 0                           as `FoldedConv` computes it. (Padding with -offset/scale fails at scale 0.)

The other paddings (reflect, replicate, circular) copy normalized pixels, offset included: there b' above is right.
Everything is computed in float64 and rounded once to the layer's dtype.
"""

import copy
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from cbn_lab.norms import batch_norm, complete

CONV = (nn.Conv1d, nn.Conv2d)
WEIGHT = (nn.Linear, *CONV)
_INERT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_AVERAGE = (nn.AvgPool1d, nn.AvgPool2d)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
_MAX = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
# The number of axes of a layer's input (and of a pool's output). A linear layer may get more than two; its features
# then are not the channels, so that nothing may be folded into it.
AXES = {kind: int(kind.__name__[-2]) + 2 for kind in (*CONV, *_AVERAGE, *_ADAPTIVE, *_MAX)} | {nn.Linear: 2}

_InstanceNorm = nn.modules.instancenorm._InstanceNorm
_BATCH_NORM = (nn.modules.batchnorm._NormBase, batch_norm._BatchNorm)  # torch's instance norms are _NormBase, too
_FORWARDS = (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward, _InstanceNorm.forward,
             batch_norm._BatchNorm.forward)
_OWN_STATISTICS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class ChannelAffine(nn.Module):
    """y = scale * x + offset per channel, [N, C, ...]: a norm in eval mode that no weight layer could absorb."""

    def __init__(self, scale: Tensor, offset: Tensor):
        super().__init__()
        self.scale, self.offset = nn.Parameter(scale), nn.Parameter(offset)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        return (x * self.scale.view(shape) + self.offset.view(shape)).to(x.dtype)

    def extra_repr(self) -> str:
        return str(len(self.scale))


class FoldedConv(nn.Module):
    """conv(x) + offset(1): a zero-padded convolution with the affine map of a norm before it, borders included.

    `conv` holds the scaled weights and no bias; `offset` has one input channel, the kernel K of the module's
    docstring and the bias, and is applied to an image of ones: 1/C_in of the convolution's work for one image.
    """

    def __init__(self, conv: nn.Module, offset: nn.Module):
        super().__init__()
        self.conv, self.offset = conv, offset

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.offset(x.new_ones(1, 1, *x.shape[2:]))


@dataclass
class Affine:
    """scale, offset: float64 [C], on its way to a weight layer; `like` has the dtype and device it came with."""

    scale: Tensor
    offset: Tensor
    like: Tensor

    def is_identity(self) -> bool:
        return bool((self.scale == 1).all() and (self.offset == 0).all())

    def spread(self, size: int) -> "Affine":
        """The map of [N, size] = flattened [N, C, ...]: one number per channel becomes one per pixel."""
        pixels = size // len(self.scale)
        return Affine(self.scale.repeat_interleave(pixels), self.offset.repeat_interleave(pixels), self.like)

    def layer(self) -> ChannelAffine:
        return ChannelAffine(self.scale.to(self.like), self.offset.to(self.like))


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, _BATCH_NORM + _OWN_STATISTICS) or hasattr(module, "eval_affine")


def affine_of(norm: nn.Module) -> Affine:
    """The norm's map in eval mode. ValueError where there is none, see `folding.fold`."""
    if hasattr(norm, "eval_affine"):
        return _described(norm, *_double(norm).eval_affine())
    kind = type(norm).__name__
    tracked = isinstance(norm, _BATCH_NORM) and norm.running_mean is not None
    if not tracked or (isinstance(norm, _InstanceNorm) and not norm.track_running_stats):
        raise ValueError(f"cannot fold {kind}: without running statistics it divides by statistics of its input in "
                         "eval mode, too, and is no fixed affine map; use BatchNorm with track_running_stats=True")
    if type(norm).forward not in _FORWARDS:
        raise ValueError(f"cannot fold {kind}: its forward is not BatchNorm's; give it a method eval_affine() that "
                         "returns (scale, offset), each [C], with eval-mode output scale * x + offset")
    norm64 = _double(norm)
    scale = torch.rsqrt(norm64.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm64.weight
    offset = -norm64.running_mean * scale
    return _described(norm, scale, offset if norm.bias is None else offset + norm64.bias)


def affines_of(norm: complete.CompleteBatchNormBase) -> list[Affine]:
    """The maps before and after the activation."""
    return [_described(norm, *pair) for pair in _double(norm).eval_affines()]


def _described(norm, scale, offset) -> Affine:
    return Affine(_exact(scale), _exact(offset), like=next(chain(norm.parameters(), norm.buffers()), scale))


def _double(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).cpu().double()  # on the CPU, since not every device has float64


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def commutes(op: nn.Module, scale: Tensor) -> bool:
    """Whether op(scale x + offset) = scale op(x) + offset, per channel and in eval mode."""
    kind = type(op)
    if kind in _AVERAGE:
        sees_padding = op.count_include_pad and op.padding not in (0, (0,), (0, 0))
        return not sees_padding and getattr(op, "divisor_override", None) is None
    return kind in _INERT or kind in _ADAPTIVE or (kind in _MAX and bool((scale > 0).all()))


def channels(layer: nn.Module | Affine, ahead: bool) -> int:
    """The channels of an affine map before the layer (`ahead` of which the layer is) or behind it."""
    if isinstance(layer, Affine):
        return len(layer.scale)
    if isinstance(layer, FoldedConv):
        layer = layer.conv
    return layer.weight.shape[1] * getattr(layer, "groups", 1) if ahead else layer.weight.shape[0]


def behind(layer: nn.Module, scale: Tensor, offset: Tensor) -> nn.Module:
    """A new layer that computes scale layer(x) + offset."""
    if isinstance(layer, FoldedConv):
        return FoldedConv(_with(layer.conv, _rows(scale, layer.conv) * _exact(layer.conv.weight), None),
                          behind(layer.offset, scale, offset))
    bias = offset if layer.bias is None else scale * _exact(layer.bias) + offset
    return _with(layer, _rows(scale, layer) * _exact(layer.weight), bias)


def before(layer: nn.Module | Affine, scale: Tensor, offset: Tensor) -> nn.Module | Affine:
    """A new layer that computes layer(scale x + offset)."""
    if isinstance(layer, Affine):
        return Affine(layer.scale * scale, layer.scale * offset + layer.offset, layer.like)
    weight, groups = _exact(layer.weight), getattr(layer, "groups", 1)  # [out, in / groups, kernel...]

    def of_inputs(vector: Tensor) -> Tensor:  # [in] -> [out, in / groups, 1...]: the inputs of each output's group
        rows = vector.view(groups, -1).repeat_interleave(len(weight) // groups, 0)
        return rows.view(*rows.shape, *[1] * (weight.dim() - 2))

    kernel = (weight * of_inputs(offset)).sum(1, keepdim=True)  # K [out, 1, kernel...]
    bias = torch.zeros(len(weight), dtype=torch.float64) if layer.bias is None else _exact(layer.bias)
    weight = weight * of_inputs(scale)
    if _pads_zeros(layer) and kernel.any():
        return FoldedConv(_with(layer, weight, None), _with(layer, kernel, bias, in_channels=1, groups=1))
    return _with(layer, weight, bias + kernel.flatten(1).sum(1))


def _rows(vector: Tensor, layer: nn.Module) -> Tensor:
    return vector.view(-1, *[1] * (layer.weight.dim() - 1))  # [out] -> [out, 1...]


def _with(layer: nn.Module, weight: Tensor, bias: Tensor | None, **attributes) -> nn.Module:
    """A new layer like `layer`, with these weights; `layer` itself may be in use elsewhere."""
    new = copy.deepcopy(layer)
    new.weight = nn.Parameter(weight.to(layer.weight))
    new.bias = None if bias is None else nn.Parameter(bias.to(layer.weight))
    for name, value in attributes.items():
        setattr(new, name, value)
    return new


def _pads_zeros(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Linear) or layer.padding_mode != "zeros" or layer.padding == "valid":
        return False
    return layer.padding == "same" or any(layer.padding)
