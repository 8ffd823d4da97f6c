"""The lines of `cbn_lab.export` for one block: a placement as the expressions of its layers, by plain PyTorch names."""

from dataclasses import dataclass

from cbn_lab import blocks

NORM_OPTIONS = ("eps", "momentum", "affine", "track_running_stats")


@dataclass(frozen=True)
class Slots:
    """A block as expressions in c_in, c_out, stride and activation."""

    layers: tuple[str, ...]
    bias: bool
    fixed: tuple[str, ...] = ()
    shifts: bool = False


@dataclass(frozen=True)
class _Half:
    """What stands before or behind the activation of a CBN layer: an expression or None, and what in it is fixed."""

    expression: str | None
    fixed: tuple[str, ...] = ()


def block_slots(placement: str, options: dict, dims: int) -> Slots:
    if placement == "complete":
        return _complete(options, dims)
    bias = blocks.needs_bias(placement)
    norm = norm_layer(dims, "c_out", options)
    layers = [_weight(dims, bias), "activation"]
    if placement in ("before", "both"):
        layers.insert(1, norm)
    if placement in ("after", "both"):
        layers.append(norm)
    if placement == "before_weight":
        layers.insert(0, norm_layer(dims, "c_in", options))
    return Slots(tuple(layers), bias)


def _complete(options: dict, dims: int) -> Slots:
    """The structure of `norms.CompleteBatchNorm2d`. The pre-shift is the weight layer's bias where it stands alone."""
    where, gamma = options.get("standardize", "after"), options.get("gamma", "after")
    pre_shift, post_shift = options.get("pre_shift", True), options.get("post_shift", True)
    gamma_before = gamma in ("before", "both")
    bias = pre_shift and where == "after" and not gamma_before
    before = _half(where != "after", gamma_before, pre_shift and not bias, options, dims)
    after = _half(where != "before", gamma in ("after", "both"), post_shift, options, dims)
    layers, fixed = [_weight(dims, bias)], []
    for half in (before, _Half("activation"), after):
        if half.expression:
            fixed += [f".{len(layers)}.{name}" for name in half.fixed]
            layers.append(half.expression)
    return Slots(tuple(layers), bias, tuple(fixed), pre_shift or post_shift)


def _half(standardized: bool, gamma: bool, shift: bool, options: dict, dims: int) -> _Half:
    fixed = (() if gamma else ("weight",)) + (() if shift else ("bias",))
    if not standardized:
        return _Half("Affine(c_out)" if gamma or shift else None, fixed)
    for switch, name in (("center", "ScaleOnly"), ("scale", "CenterOnly")):
        if not options.get(switch, True):
            return _Half(f"{name}(c_out)", fixed)
    return _Half(norm_layer(dims, "c_out", options | {"affine": gamma or shift}), fixed if gamma or shift else ())


def norm_layer(dims: int, features: str, options: dict) -> str:
    defaults = {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True}
    given = "".join(f", {name}={options[name]!r}" for name in NORM_OPTIONS
                    if options.get(name, defaults[name]) != defaults[name])
    return f"nn.BatchNorm{dims}d({features}{given})"


def _weight(dims: int, bias: bool) -> str:
    sizes = "nn.Conv2d(c_in, c_out, 3, stride, padding=1" if dims == 2 else "nn.Linear(c_in, c_out"
    return f"{sizes}{'' if bias else ', bias=False'})"
