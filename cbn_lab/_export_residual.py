"""The lines of `cbn_lab.export` for residual nets: a class Residual, as `models.residual` adds its shortcuts."""

import re

from cbn_lab._export_text import listed, wrapped

# widths of the stages (the first with the stem), residual blocks in each, whether shortcuts project
RESNETS = {"resnet20": ((16, 32, 64), 3, False), "resnet56": ((16, 32, 64), 9, False),
           "resnet18": ((64, 128, 256, 512), 2, True)}
BODY = ["stem", "*(Residual(c_in, c_out, c_out // c_in) for c_in, c_out in zip(widths, widths[1:]))"]


def layer_widths(name: str) -> list[int]:
    """Channels behind each weight layer: the stem, then two in a residual block."""
    stages, count, _ = RESNETS[name]
    return [stages[0], *(width for width in stages for _ in range(2 * count))]


def residual(name: str, channels: int, block: list[str], cut: int, *, shift: bool,
             low: str) -> tuple[list[str], list[str]]:
    """(the class Residual, the lines for stem and widths).

    block   the layers of a block as expressions in c_in, c_out, stride; the shortcut joins before layer `cut`
    shift   whether the weight layer's bias is the pre-shift of a CBN layer, which stands behind the sum
    low     what rounds the shift there to 16 bits, or ""
    """
    stages, count, projection = RESNETS[name]
    linear, nonlinear = block[:cut], block[cut:]
    if shift:
        linear = [part.replace("padding=1", "padding=1, bias=False") for part in linear]
    projected = [part.replace(", 3, stride, padding=1", ", 1, stride") for part in linear]
    lines = [
        "class Residual(nn.Module):", "    def __init__(self, c_in, c_out, stride):", "        super().__init__()",
        *wrapped(f"        self.first = nn.Sequential({_joined(block)})"),
        *wrapped(f"        self.linear = nn.Sequential({_joined(linear, c_in='c_out', stride=1)})"),
        *wrapped(f"        self.nonlinear = nn.Sequential({_joined(nonlinear)})"),
        *(["        self.bias = nn.Parameter(zeros(c_out))  # the second pre-shift, behind the sum"] if shift else [])]
    if projection:
        lines += wrapped(f"        self.shortcut = nn.Sequential({_joined(projected)}) if c_in < c_out else "
                         "nn.Identity()")
    else:
        lines.append("        self.extra = c_out - c_in  # channels of zeros in the shortcut")
    shortcut = "self.shortcut(x)"
    if not projection:
        shortcut = "(nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra)) if self.extra else x)"
    lines += ["", "    def forward(self, x):", "        y = self.linear(self.first(x))", f"        y = y + {shortcut}",
              f"        return self.nonlinear({f'y + self.bias[:, None, None]{low}' if shift else 'y'})"]
    widths = listed([stages[0], *(width for width in stages for _ in range(count))])
    stem = _joined(block, c_in=channels, c_out=stages[0], stride=1)
    return [*lines, ""], [*wrapped(f"stem = nn.Sequential({stem})"), f"widths = {widths}"]


def _joined(parts: list[str], **values) -> str:
    text = ", ".join(parts)
    for name, value in values.items():
        text = re.sub(rf"\b{name}\b", str(value), text)
    return text
