"""The lines of `cbn_lab.export` for residual nets: a class Residual for each of the joins of `cbn_lab.residual`."""

import re
from dataclasses import dataclass

from cbn_lab import models
from cbn_lab._export_slots import Slots
from cbn_lab._export_text import listed, wrapped
from cbn_lab.config import TrainConfig

RESNETS = ("resnet20", "resnet56", "resnet18")
_INIT = ["class Residual(nn.Module):", "    def __init__(self, c_in, c_out, stride):", "        super().__init__()"]


@dataclass(frozen=True)
class Residual:
    """Lines of a residual net.

    block    the class Residual
    sizes    those that make the stem, and the arguments of the blocks
    body     what stands in `model` before the pool
    plain    parts of the names of biases that are no shifts of a CBN layer
    """

    block: list[str]
    sizes: list[str]
    body: list[str]
    plain: tuple[str, ...]


@dataclass(frozen=True)
class _Parts:
    """The layers of a block, as expressions: all, in the order without a shortcut; up to the sum; behind the sum."""

    whole: list[str]
    linear: list[str]
    nonlinear: list[str]


def layer_sizes(config: TrainConfig, channels: int) -> list[tuple[int, int, int]]:
    """(channels in, channels out, stride) of each weight layer: the stem, then two in a residual block."""
    size = _size(config)
    found = [(channels, size["widths"][0], 1)]
    for stage, width in enumerate(size["widths"]):
        for i in range(size["blocks_per_stage"]):
            found += [(found[-1][1], width, 2 if stage and not i else 1), (width, width, 1)]
    return found


def residual(config: TrainConfig, channels: int, slots: Slots, activation: str, norm: str) -> Residual:
    """`activation`: the expression of one; `norm`: of a batch norm for c_out channels.

    A pre-shift that is the bias of a weight layer elsewhere stands behind the sum as a layer Shift of its own.
    """
    size, layers = _size(config), layer_sizes(config, channels)
    join, projection = size["join"], size["projection"]
    parts = _parts(config.placement, slots, activation, preactivated=join == "preactivated")
    added = [norm] if join == "normalized" and parts.linear[-1].startswith("nn.Conv2d") else []
    shortcut = [part.replace(", 3, stride, padding=1", ", 1, stride") for part in parts.linear] + added
    lines = _preactivated(parts, shortcut, projection) if join == "preactivated" else \
        _activated(parts, added, shortcut, projection)
    blocks = layers[1::2]
    widths = [f"widths = {listed([layers[0][1], *(c_out for _, c_out, _ in blocks)])}"]
    body = ["stem", "*(Residual(c_in, c_out, c_out // c_in) for c_in, c_out in zip(widths, widths[1:]))"]
    if any(stride != c_out / c_in for c_in, c_out, stride in blocks):
        widths.append(f"strides = {listed([stride for _, _, stride in blocks])}")
        body[1] = "*(Residual(*sizes) for sizes in zip(widths, widths[1:], strides))"
    stem = parts.linear if join == "preactivated" else parts.whole
    if join == "preactivated":
        body += [_joined([part], c_out=layers[-1][1]) for part in parts.nonlinear]
    stem = _joined(stem, c_in=channels, c_out=layers[0][1], stride=1)
    return Residual([*lines, ""], [*wrapped(f"stem = nn.Sequential({stem})"), *widths], body,
                    (".linear", *["shortcut"] * bool(projection)) if added else ())


def _size(config: TrainConfig) -> dict:
    return models.sizes(config.model) | config.model_options


def _parts(placement: str | list, slots: Slots, activation: str, *, preactivated: bool) -> _Parts:
    """Cut behind the weights of a preactivated block, or of a CBN layer, which stands as a whole behind the sum; else
    before the activation."""
    complete = "complete" in placement  # a name, or a list of equal names
    weight = next(i for i, part in enumerate(slots.layers) if part.startswith("nn.Conv2d"))
    cut = weight + 1 if preactivated or complete else slots.layers.index("activation")
    whole = [re.sub(r"\bactivation\b", activation, part) for part in slots.layers]
    linear, nonlinear = whole[:cut], whole[cut:]
    if complete and slots.bias:
        linear = [part.replace("padding=1", "padding=1, bias=False") for part in linear]
        nonlinear = ["Shift(c_out)", *nonlinear]
    return _Parts(whole, linear, nonlinear)


def _activated(parts: _Parts, added: list[str], shortcut: list[str], projection: bool) -> list[str]:
    """`added`: the norm that a normalized join puts at the end of the branch, if any."""
    second = _joined([*parts.linear, *added], c_in="c_out", stride=1)
    return [*_INIT, *wrapped(f"        self.first = nn.Sequential({_joined(parts.whole)})"),
            *wrapped(f"        self.linear = nn.Sequential({second})"),
            *wrapped(f"        self.nonlinear = nn.Sequential({_joined(parts.nonlinear)})"),
            *_shortcut(shortcut, projection), "", "    def forward(self, x):", "        y = self.linear(self.first(x))",
            _added("x", "x", projection), "        return self.nonlinear(y + x)"]


def _preactivated(parts: _Parts, shortcut: list[str], projection: bool) -> list[str]:
    branch = f"{_joined(parts.whole)}, {_joined(parts.linear, c_in='c_out', stride=1)}"
    return [*_INIT, *wrapped(f"        self.rest = nn.Sequential({_joined(parts.nonlinear, c_out='c_in')})"),
            *wrapped(f"        self.branch = nn.Sequential({branch})"), *_shortcut(shortcut, projection), "",
            "    def forward(self, s):  # s: a sum before its f and norms",
            "        x = self.rest(s)", "        y = self.branch(x)", _added("s", "x", projection),
            "        return y + s"]


def _shortcut(projected: list[str], projection: bool) -> list[str]:
    if projection:
        return wrapped(f"        self.shortcut = nn.Sequential({_joined(projected)}) if stride > 1 else None")
    return ["        self.stride, self.extra = stride, c_out - c_in  # channels of zeros in the shortcut"]


def _added(whole: str, projects: str, projection: bool) -> str:
    """`whole` becomes the shortcut; with `projection` its weights take `projects`. It is computed behind the branch, as
    in the library: the order decides how gradients lie in memory, and so on kernels and rounding."""
    if projection:
        return f"        {whole} = self.shortcut({projects}) if self.shortcut else {whole}"
    return (f"        {whole} = nn.functional.pad({whole}[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra)) "
            f"if self.stride > 1 else {whole}")


def _joined(parts: list[str], **values) -> str:
    text = ", ".join(parts)
    for name, value in values.items():
        text = re.sub(rf"\b{name}\b", str(value), text)
    return text
