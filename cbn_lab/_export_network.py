"""The lines of `cbn_lab.export` that build the network: the same modules as `models.build`, by plain PyTorch names."""

import math
import re
from dataclasses import dataclass
from itertools import groupby

from cbn_lab import blocks
from cbn_lab._export_classes import own_classes
from cbn_lab._export_residual import BODY, RESNETS, layer_widths, residual
from cbn_lab._export_text import listed, wrapped
from cbn_lab.config import TrainConfig

_VGG16 = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
_POOLED = (2, 4, 7, 10, 13)  # how many of them stand before each max pool
LOW = {"bf16": ".bfloat16()", "fp16": ".half()"}
MODELS = ("mlp", "convnet", "vgg16", *RESNETS)
_ACTIVATIONS = {"sigmoid": "nn.Sigmoid", "tanh": "nn.Tanh", "relu": "nn.ReLU", "selu": "nn.SELU", "swish": "nn.SiLU",
                "gelu": "nn.GELU", "softplus": "nn.Softplus", "lecun_tanh": "LeCunTanh", "softsign": "nn.Softsign",
                "identity": "nn.Identity"}
_PLACEMENTS = ("none", "before", "after", "before_weight", "both", "complete")
_NORM_OPTIONS = ("eps", "momentum", "affine", "track_running_stats")



@dataclass(frozen=True)
class Network:
    """Lines for own classes and for `model`, and what the other parts of the script must know about it.

    frozen      endings of the names of parameters that do not train
    forward     a function for the logits where shifts are not used as they are stored
    """

    classes: list[str]
    model: list[str]
    frozen: tuple[str, ...]
    forward: list[str]


@dataclass(frozen=True)
class _Layer:
    c_in: int
    c_out: int
    stride: int
    activation: str
    placement: str


@dataclass(frozen=True)
class _Half:
    """What stands before or behind the activation of a CBN layer: an expression or None, and what in it is fixed."""

    expression: str | None
    fixed: tuple[str, ...] = ()


def describe(config: TrainConfig, channels: int, size: int, classes: int) -> Network:
    """ValueError for what plain PyTorch has no name for."""
    layers = _layers(config, channels, size)
    options = _known_options(config, layers)
    dims = 1 if config.model == "mlp" else 2
    slots = {layer.placement: _slots(layer.placement, options, dims) for layer in layers}
    residual_class, model = _blocks(config, channels, layers, slots)
    body, places = _body(config.model, len(layers))
    last = layers[-1]
    head = [f"nn.Linear({last.c_out}, {classes})"]
    if last.placement == "before_weight":
        head.insert(0, _norm(1, str(last.c_out), options))
    if dims == 2:
        head = ["nn.AdaptiveAvgPool2d(1)", "nn.Flatten()", *head]
    layout = ".to(memory_format=channels_last)" * (dims == 2)  # kernels as in fit
    model += wrapped(f"model = nn.Sequential({', '.join([*body, *head])}){layout}")
    shifts = [place for place, layer in zip(places, layers, strict=True) if slots[layer.placement].shifts]
    k = float(options.get("shift_lr_multiplier", 9.0))
    own = own_classes(options, dims, low=config.precision != "fp32")
    used = [line for name, lines in own.items() if any(name in m for m in (*residual_class, *model)) for line in lines]
    return Network([*used, *residual_class], model,
                   tuple(dict.fromkeys(name for slot in slots.values() for name in slot.fixed)),
                   _forward(shifts, len(layers), k) if shifts and k != 1 else [])


def _blocks(config: TrainConfig, channels: int, layers: list[_Layer], slots: dict) -> tuple[list[str], list[str]]:
    """(the class Residual, if any, the lines that make the blocks)."""
    if config.model not in RESNETS:
        return [], _block_lines(layers, slots)
    if config.model_options:
        raise ValueError(f"the script of {config.model} knows no model options, got "
                         f"{', '.join(config.model_options)}; leave them out, or export model 'convnet'")
    first, block = layers[0], slots[layers[0].placement]
    if len({(layer.activation, layer.placement) for layer in layers}) > 1 or block.fixed:
        raise ValueError(f"the script of {config.model} has one activation and one placement for all blocks, and no "
                         "CBN layer in which a gamma or shift is left out beside others; export with these, or model "
                         "'convnet'")
    parts = [re.sub(r"\bactivation\b", f"{_ACTIVATIONS[first.activation]}()", part) for part in block.layers]
    complete = first.placement == "complete"  # its layer begins behind the sum, whatever it begins with
    return residual(config.model, channels, parts, 1 if complete else block.layers.index("activation"),
                    shift=complete and block.bias, low=LOW.get(config.precision, ""))


def _body(model: str, layers: int) -> tuple[list[str], list[int]]:
    """(what stands in `model` before the head, where the blocks are then)."""
    places = list(range(layers))
    if model == "vgg16":
        body = [part for first, end in zip((0, *_POOLED), _POOLED, strict=False)
                for part in (f"*blocks[{first or ''}:{end}]", "nn.MaxPool2d(2)")]
        return body, [i + sum(end <= i for end in _POOLED) for i in places]
    if model == "mlp":
        return ["nn.Flatten()", "*blocks"], [i + 1 for i in places]
    return BODY if model in RESNETS else ["*blocks"], places


def _layers(config: TrainConfig, channels: int, size: int) -> list[_Layer]:
    given = config.model_options
    if config.model == "mlp":
        width, depth = given.get("width", 128), given.get("depth", 3)
        sizes = [(n, width, 1) for n in [channels * size**2, *[width] * (depth - 1)]]
    else:
        widths, strides = given.get("widths", (16, 16, 32, 32, 64, 64)), given.get("strides")
        if config.model == "vgg16":
            widths, strides = _VGG16, [1] * len(_VGG16)
        elif config.model in RESNETS:
            widths = layer_widths(config.model)
            strides = [1 if i == 0 else b // a for i, (a, b) in enumerate(zip([1, *widths], widths, strict=False))]
        strides = strides or [1 + i % 2 for i in range(len(widths))]
        sizes = list(zip([channels, *widths[:-1]], widths, strides, strict=True))
    chosen = {}
    for what, names in (("activation", _ACTIVATIONS), ("placement", _PLACEMENTS)):
        value = getattr(config, what)
        chosen[what] = [value] * len(sizes) if isinstance(value, str) else list(value)
        for name in chosen[what]:
            if name not in names:
                raise ValueError(f"the script knows PyTorch's own names only, and {what} {name!r} is your own; export "
                                 f"with one of {', '.join(names)} and put your class into the script")
    return [_Layer(*size, f, p) for size, f, p in zip(sizes, chosen["activation"], chosen["placement"], strict=True)]


def _known_options(config: TrainConfig, layers: list[_Layer]) -> dict:
    options = dict(config.norm_options)
    if options.pop("norm", "batch_norm") != "batch_norm":
        raise ValueError(f"the script uses PyTorch's own batch norm, not norm {config.norm_options['norm']!r}; export "
                         "with norm 'batch_norm'")
    options.pop("sync", None)  # one process: nothing to synchronize with
    if not any(layer.placement == "complete" for layer in layers) and set(options) - set(_NORM_OPTIONS):
        raise ValueError(f"the script knows the norm options {', '.join(_NORM_OPTIONS)}, got "
                         f"{', '.join(options)}; leave the others out")
    composed = not (options.get("center", True) and options.get("scale", True))
    if composed and (options.get("momentum", 0.1) is None or not options.get("track_running_stats", True)):
        raise ValueError("the script has no norm with center=False or scale=False that averages all batches alike or "
                         "keeps no running statistics; leave momentum and track_running_stats at their defaults")
    return options


@dataclass(frozen=True)
class _Slots:
    """A block as expressions in c_in, c_out, stride and activation."""

    layers: tuple[str, ...]
    bias: bool
    fixed: tuple[str, ...] = ()
    shifts: bool = False


def _slots(placement: str, options: dict, dims: int) -> _Slots:
    if placement == "complete":
        return _complete(options, dims)
    bias = blocks.needs_bias(placement)
    norm = _norm(dims, "c_out", options)
    layers = [_weight(dims, bias), "activation"]
    if placement in ("before", "both"):
        layers.insert(1, norm)
    if placement in ("after", "both"):
        layers.append(norm)
    if placement == "before_weight":
        layers.insert(0, _norm(dims, "c_in", options))
    return _Slots(tuple(layers), bias)


def _complete(options: dict, dims: int) -> _Slots:
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
    return _Slots(tuple(layers), bias, tuple(fixed), pre_shift or post_shift)


def _half(standardized: bool, gamma: bool, shift: bool, options: dict, dims: int) -> _Half:
    fixed = (() if gamma else ("weight",)) + (() if shift else ("bias",))
    if not standardized:
        return _Half("Affine(c_out)" if gamma or shift else None, fixed)
    for switch, name in (("center", "ScaleOnly"), ("scale", "CenterOnly")):
        if not options.get(switch, True):
            return _Half(f"{name}(c_out)", fixed)
    return _Half(_norm(dims, "c_out", options | {"affine": gamma or shift}), fixed if gamma or shift else ())


def _norm(dims: int, features: str, options: dict) -> str:
    defaults = {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True}
    given = "".join(f", {name}={options[name]!r}" for name in _NORM_OPTIONS
                    if options.get(name, defaults[name]) != defaults[name])
    return f"nn.BatchNorm{dims}d({features}{given})"


def _weight(dims: int, bias: bool) -> str:
    sizes = "nn.Conv2d(c_in, c_out, 3, stride, padding=1" if dims == 2 else "nn.Linear(c_in, c_out"
    return f"{sizes}{'' if bias else ', bias=False'})"


def _block_lines(layers: list[_Layer], slots: dict[str, _Slots]) -> list[str]:
    """One comprehension for each run of layers with one placement; what is the same in the whole run is filled in."""
    lines = []
    for placement, run in groupby(layers, lambda layer: layer.placement):
        run = list(run)
        block, varying = ", ".join(slots[placement].layers), {}
        for name in ("c_in", "c_out", "stride", "activation"):
            values = [getattr(layer, name) for layer in run]
            if name == "activation":
                values = [_ACTIVATIONS[value] for value in values]
                block = re.sub(r"\bactivation\b", "activation()", block)
            if len(set(values)) == 1:
                block = re.sub(rf"\b{name}\b", str(values[0]), block)
            elif re.search(rf"\b{name}\b", block):
                varying[name] = listed(values)
        values = ", ".join(varying.values()) or f"range({len(run)})"
        loop = f" for {', '.join(varying) or '_'} in {f'zip({values})' if len(varying) > 1 else values}"
        lines += wrapped(f"blocks {'+=' if lines else '='} [nn.Sequential({block}){loop * (len(run) > 1)}]")
    return lines


def _forward(places: list[int], blocks: int, multiplier: float) -> list[str]:
    """`places`: of the blocks in `model` that have shifts."""
    root, first, last = math.sqrt(multiplier), places[0], places[-1]
    times = int(root) if root.is_integer() else root
    shifts = f"n: {times!r} * a for n, a in model[:-1].named_parameters()"
    if len(places) < blocks:  # else all but the head, as only blocks have parameters
        where = f"({', '.join(map(str, places))},)"
        if places == list(range(first, last + 1)):
            where = f"range({last + 1})" if first == 0 else f"range({first}, {last + 1})"
        shifts = f'f"{{i}}.{{n}}": {times!r} * a for i in {where} for n, a in model[i].named_parameters()'
    return [f"def logits(model, images):  # a shift is stored as a and used as {root:.4g} a: it learns {multiplier:g} "
            "times as fast",
            *wrapped(f'    return func.functional_call(model, {{{shifts} if "bias" in n}}, images)')]
