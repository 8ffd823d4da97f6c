"""The lines of `cbn_lab.export` that build the network: the same modules as `models.build`, by plain PyTorch names."""

import math
import re
from dataclasses import dataclass
from itertools import groupby

from cbn_lab._export_classes import own_classes
from cbn_lab._export_residual import RESNETS, Residual, layer_sizes, residual
from cbn_lab._export_slots import NORM_OPTIONS, Slots, block_slots, norm_layer
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


def describe(config: TrainConfig, channels: int, size: int, classes: int) -> Network:
    """ValueError for what plain PyTorch has no name for."""
    layers = _layers(config, channels, size)
    options = _known_options(config, layers)
    dims = 1 if config.model == "mlp" else 2
    slots = {layer.placement: block_slots(layer.placement, options, dims) for layer in layers}
    found = _residual(config, channels, layers, slots, options) if config.model in RESNETS else None
    model = found.sizes if found else _block_lines(layers, slots)
    body, places = (found.body, list(range(len(layers)))) if found else _body(config.model, len(layers))
    last = layers[-1]
    head = [f"nn.Linear({last.c_out}, {classes})"]
    if last.placement == "before_weight":
        head.insert(0, norm_layer(1, str(last.c_out), options))
    if dims == 2:
        head = ["nn.AdaptiveAvgPool2d(1)", "nn.Flatten()", *head]
    layout = ".to(memory_format=channels_last)" * (dims == 2)  # kernels as in fit
    model = [*model, *wrapped(f"model = nn.Sequential({', '.join([*body, *head])}){layout}")]
    shifts = [place for place, layer in zip(places, layers, strict=True) if slots[layer.placement].shifts]
    k = float(options.get("shift_lr_multiplier", 9.0))
    own, block = own_classes(options, dims, low=config.precision != "fp32"), found.block if found else []
    used = [line for name, lines in own.items() if any(name in m for m in (*block, *model)) for line in lines]
    return Network([*used, *block], model,
                   tuple(dict.fromkeys(name for slot in slots.values() for name in slot.fixed)),
                   _forward(shifts, len(layers), k, found.plain if found else ()) if shifts and k != 1 else [])


def _residual(config: TrainConfig, channels: int, layers: list[_Layer], slots: dict, options: dict) -> Residual:
    first = layers[0]
    if len({(layer.activation, layer.placement) for layer in layers}) > 1 or slots[first.placement].fixed:
        raise ValueError(f"the script of {config.model} has one activation and one placement for all blocks, and no "
                         "CBN layer in which a gamma or shift is left out beside others; export with these, or model "
                         "'convnet'")
    return residual(config, channels, slots[first.placement], f"{_ACTIVATIONS[first.activation]}()",
                    norm_layer(2, "c_out", options))


def _body(model: str, layers: int) -> tuple[list[str], list[int]]:
    """(what stands in `model` before the head, where the blocks are then)."""
    places = list(range(layers))
    if model == "vgg16":
        body = [part for first, end in zip((0, *_POOLED), _POOLED, strict=False)
                for part in (f"*blocks[{first or ''}:{end}]", "nn.MaxPool2d(2)")]
        return body, [i + sum(end <= i for end in _POOLED) for i in places]
    if model == "mlp":
        return ["nn.Flatten()", "*blocks"], [i + 1 for i in places]
    return ["*blocks"], places


def _layers(config: TrainConfig, channels: int, size: int) -> list[_Layer]:
    given = config.model_options
    if config.model in RESNETS:
        sizes = layer_sizes(config, channels)
    elif config.model == "mlp":
        width, depth = given.get("width", 128), given.get("depth", 3)
        sizes = [(n, width, 1) for n in [channels * size**2, *[width] * (depth - 1)]]
    else:
        widths, strides = given.get("widths", (16, 16, 32, 32, 64, 64)), given.get("strides")
        if config.model == "vgg16":
            widths, strides = _VGG16, [1] * len(_VGG16)
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
    if not any(layer.placement == "complete" for layer in layers) and set(options) - set(NORM_OPTIONS):
        raise ValueError(f"the script knows the norm options {', '.join(NORM_OPTIONS)}, got "
                         f"{', '.join(options)}; leave the others out")
    composed = not (options.get("center", True) and options.get("scale", True))
    if composed and (options.get("momentum", 0.1) is None or not options.get("track_running_stats", True)):
        raise ValueError("the script has no norm with center=False or scale=False that averages all batches alike or "
                         "keeps no running statistics; leave momentum and track_running_stats at their defaults")
    return options


def _block_lines(layers: list[_Layer], slots: dict[str, Slots]) -> list[str]:
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


def _forward(places: list[int], blocks: int, multiplier: float, plain: tuple[str, ...]) -> list[str]:
    """`places`: of the blocks in `model` that have shifts; `plain`: parts of the names of other biases."""
    root, first, last = math.sqrt(multiplier), places[0], places[-1]
    times = int(root) if root.is_integer() else root
    shifts = f"n: {times!r} * a for n, a in model[:-1].named_parameters()"
    if len(places) < blocks:  # else all but the head, as only blocks have parameters
        where = f"({', '.join(map(str, places))},)"
        if places == list(range(first, last + 1)):
            where = f"range({last + 1})" if first == 0 else f"range({first}, {last + 1})"
        shifts = f'f"{{i}}.{{n}}": {times!r} * a for i in {where} for n, a in model[i].named_parameters()'
    chosen = " and ".join(['"bias" in n', *(f'"{part}" not in n' for part in plain)])
    return [f"def logits(model, images):  # a shift is stored as a and used as {root:.4g} a: it learns {multiplier:g} "
            "times as fast",
            *wrapped(f'    return func.functional_call(model, {{{shifts} if {chosen}}}, images)')]
