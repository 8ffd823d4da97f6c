"""Settings by name: a label for their curves, a key under which their records are found, depth and width."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import groupby

from cbn_lab import models, share
from cbn_lab.runs import Run
from cbn_lab.train import TrainConfig
from cbn_lab.widgets.slots import STRUCTURE, joined

_INCIDENTAL = ("seed", "device", "precision", "compile", "log_every", "evaluate_every")  # may differ within an arm


def label(config: TrainConfig) -> str:
    """A name for the curves of these settings: activation, placement, and what else differs from `share.DEFAULT`."""
    parts = [_run_length(config.activation), _run_length(config.placement)]
    for field in fields(TrainConfig):
        value = getattr(config, field.name)
        if field.name in ("activation", "placement", *_INCIDENTAL) or value == getattr(share.DEFAULT, field.name):
            continue
        if field.name in ("model", "data"):
            parts.append(value)
        elif field.name == "model_options":
            parts += [_named(name, one) for name, one in _sizes(config).items()]
        elif isinstance(value, dict):
            parts += [_named(name, one) for name, one in value.items()]
        else:
            parts.append(_named(field.name, value))
    return ", ".join(parts)


def _sizes(config: TrainConfig) -> dict:
    """Depth and width where these are what the options say, else the options; without those that are the network's."""
    now, own = size(config.model, config.model_options), size(config.model, {})
    if now is None or sized(config.model, *now) != config.model_options:
        return config.model_options
    return {name: one for name, one, usual in zip(("depth", "width"), now, own, strict=True) if one != usual}


def _run_length(names) -> str:
    if isinstance(names, str):
        return names
    return "+".join(f"{len(list(group))}×{name}" for name, group in groupby(names))


def _named(name: str, value) -> str:
    if isinstance(value, bool):
        value = "on" if value else "off"
    elif isinstance(value, (list, tuple)):
        value = "-".join(map(str, value))
    elif isinstance(value, float):
        value = f"{value:g}"
    return f"{name.replace('_', ' ')} {value}"


def by_settings(records: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs, by `key` of their settings, each group in the order of its seeds."""
    found: dict[str, list[Run]] = {}
    for run in sorted(records, key=lambda run: run.config["seed"]):
        found.setdefault(key(run.config), []).append(run)
    return found


def key(settings: Mapping) -> str:
    """Equal for `TrainConfig.record()`s that differ in the seed, the device or how often they were logged alone.

    What was left out is put in as the default, and what was written out although it is the default counts as equal.
    """
    known = {field.name: field.default if field.default is not MISSING else field.default_factory()
             for field in fields(TrainConfig)}
    config = TrainConfig(**{**known, **settings, "device": "cpu", "precision": "fp32", "compile": False}).resolved()
    plain = config.record()
    for what in ("activation", "placement"):
        plain[what] = joined(plain[what], len(plain[what]))
    plain["model_options"] = models.sizes(config.model) | plain["model_options"]
    plain["norm_options"] = {name: value for name, value in plain["norm_options"].items()
                             if name not in STRUCTURE or value != STRUCTURE[name]}
    return json.dumps({name: value for name, value in plain.items() if name not in _INCIDENTAL}, sort_keys=True)


def stages(depth: int, width: int) -> dict:
    """Sizes of a convnet: three stages, each twice as wide as the last and ending with stride 2."""
    stage = [3 * i // depth for i in range(depth)]
    return {"widths": [width * 2**s for s in stage],
            "strides": [2 if i + 1 == depth or stage[i + 1] != s else 1 for i, s in enumerate(stage)]}


def sized(model: str, depth: int, width: int) -> dict:
    """The `model_options` of this depth and width: none where they are the network's own. ValueError: it has none."""
    if not has_sizes(model):
        raise ValueError(f"{model} has a fixed depth and width; choose mlp or convnet to change them")
    made = {"width": width, "depth": depth} if "depth" in models.sizes(model) else stages(depth, width)
    return {} if (depth, width) == size(model, {}) else made


def has_sizes(model: str) -> bool:
    return {"width", "depth"} <= models.sizes(model).keys() or "strides" in models.sizes(model)


def size(model: str, options: Mapping) -> tuple[int, int] | None:
    """(depth, width) of an mlp or a convnet (whose width is that of its first layer), else None."""
    if not has_sizes(model):
        return None
    sizes = models.sizes(model) | dict(options)
    return (sizes["depth"], sizes["width"]) if "depth" in sizes else (len(sizes["widths"]), sizes["widths"][0])
