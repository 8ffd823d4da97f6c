"""The playground's state: a `TrainConfig` and what a click makes of it. Pure functions; no widget in here.

A block has three slots for a norm, around its weight layer and its activation:

    [norm_in] -> weight -> [norm] -> activation -> [norm_out]          the shifts and gammas of a norm belong to it

and the whole of our reconstruction of CBN, `complete`, may stand in place of the activation. Which slots a placement
fills is read off the module that `blocks` builds, so a placement that a student registers can be clicked together, too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

from torch import nn

from cbn_lab import activations, blocks, models
from cbn_lab.norms.complete import CompleteBatchNormBase
from cbn_lab.train import TrainConfig

SLOTS = {"norm_in": "before the weight layer", "norm": "before the activation", "norm_out": "after the activation"}
COMPLETE = "complete"  # the fourth thing to click: the layer in place of the activation
STRUCTURE = {"pre_shift": True, "post_shift": True, "gamma": "after", "standardize": "after", "center": True,
             "scale": True, "shift_lr_multiplier": 9.0}  # the switches and the reconstruction's own setting of them
_KNOWN_AS = {"before": ", vanilla BN", "complete": ", our reconstruction of CBN"}


@dataclass(frozen=True)
class Filling:
    """Which slots hold a norm, and whether the activation is a complete layer."""

    norms: frozenset[str] = frozenset()
    complete: bool = False

    @property
    def empty(self) -> bool:
        return not (self.norms or self.complete)


def filling(placement: str) -> Filling:
    """What this placement fills. ValueError for an unknown name; whatever a student's own placement raises."""
    try:
        parts = blocks.parts(nn.Conv2d(2, 2, 1, bias=blocks.needs_bias(placement)), "relu", placement)
    except (AttributeError, TypeError):  # a student's placement may be for linear layers alone
        parts = blocks.parts(nn.Linear(2, 2, bias=blocks.needs_bias(placement)), "relu", placement)
    return Filling(frozenset(slot for slot in SLOTS if getattr(parts, slot) is not None),
                   isinstance(parts.activation, CompleteBatchNormBase))


def with_filling(wanted: Filling) -> str | None:
    """The first registered placement that fills exactly these slots, or None."""
    for name in blocks.placements():
        try:
            if filling(name) == wanted:
                return name
        except Exception:  # a student's placement that cannot be built is shown as broken when it is chosen by name
            continue
    return None


def click(placement: str, slot: str) -> tuple[str, str]:
    """(the placement after a click on a slot, or on `complete`; a sentence where that was not just in or out).

    An empty slot receives a norm, a filled one loses it. Where no placement is registered for the result, the norm
    moves: it stays in the clicked slot alone, or is gone. ValueError for an unknown slot.
    """
    if slot not in (*SLOTS, COMPLETE):
        raise ValueError(f"there is no slot {slot!r}; known: {', '.join((*SLOTS, COMPLETE))}")
    now = filling(placement)
    if slot == COMPLETE:
        return with_filling(Filling() if now.complete else Filling(complete=True)), ""
    if now.complete:
        return with_filling(Filling(frozenset({slot}))), "The complete layer made way for the plain norm."
    found = with_filling(Filling(now.norms ^ {slot}))
    if found is not None:
        return found, ""
    alone = Filling(frozenset({slot} - now.norms))
    here = " and ".join(text for name, text in SLOTS.items() if name in now.norms ^ {slot})
    became = f"the norm moved to its place {SLOTS[slot]}" if alone.norms else "all norms were taken out"
    return with_filling(alone), f"No placement with a norm {here} is registered, so {became}."


def count(config: TrainConfig) -> int:
    """How many layers (blocks) have an activation and a placement. Errors as in `models.block_count`."""
    return _count(config.model, json.dumps(config.model_options, sort_keys=True))


@lru_cache  # asked a dozen times a click
def _count(model: str, options: str) -> int:
    return models.block_count(model, **json.loads(options))


def require_known(config: TrainConfig) -> TrainConfig:
    """The settings, if they name an existing network with as many blocks as its lists have names, and known names.

    ValueError otherwise, such as for settings that somebody else wrote, with a placement of their own.
    """
    layers = count(config)
    for what, check in (("activation", activations.is_homogeneous), ("placement", blocks.needs_bias)):
        names = listed(config, what)
        if len(names) != layers:
            raise ValueError(f"{what} lists {len(names)} names, but {config.model} has {layers} layers; give one name "
                             "per layer, or one for all")
        for name in dict.fromkeys(names):
            check(name)
    return config


def listed(config: TrainConfig, what: str) -> list[str]:
    """The "activation" or "placement" of each layer."""
    value = getattr(config, what)
    return [value] * count(config) if isinstance(value, str) else list(value)


def changed(config: TrainConfig, structure: Mapping, **changes) -> TrainConfig:
    """`config` with these settings, made consistent.

    Per-layer lists are cut, or continued with their last name, to the new number of layers; a list of one name becomes
    the name. Norm options are for all layers: when the kind of norm changes, they become the differences of `structure`
    from the reconstruction where every layer with a norm is complete, and none elsewhere.
    """
    new = replace(config, **changes)
    layers = count(new)
    for what in ("activation", "placement"):
        new = replace(new, **{what: joined(getattr(new, what), layers)})
    if "norm_options" not in changes and kind(new) != kind(config):
        new = replace(new, norm_options=differences(structure) if kind(new) == "complete" else {})
    return new


def joined(names: str | Sequence[str], layers: int) -> str | tuple[str, ...]:
    """One name for each layer, or just the name where all have the same."""
    if isinstance(names, str):
        return names
    names = [*names[:layers], *[names[-1]] * (layers - len(names))]
    return names[0] if len(set(names)) == 1 else tuple(names)


def assigned(config: TrainConfig, structure: Mapping, what: str, name: str, layer: int | None = None) -> TrainConfig:
    """`name` as the "activation" or "placement" of one layer (counted from 0), or of all."""
    names = listed(config, what)
    chosen = [name] * len(names) if layer is None else [*names[:layer], name, *names[layer + 1:]]
    return changed(config, structure, **{what: tuple(chosen)})


def clicked(config: TrainConfig, structure: Mapping, slot: str, layer: int | None = None) -> tuple[TrainConfig, str]:
    """The settings after a click on a slot of one layer, or of all, and a sentence where the norm moved.

    Where all layers are meant, the slot is filled in those in which it is empty; if there are none, it is emptied.
    """
    names = listed(config, "placement")
    meant = range(len(names)) if layer is None else [layer]
    filled = holding(slot, [names[i] for i in meant])
    after, said = {}, {}
    for name in dict.fromkeys(names[i] for i, full in zip(meant, filled, strict=True) if all(filled) or not full):
        after[name], said[name] = click(name, slot)
    names = [after.get(name, name) if i in meant else name for i, name in enumerate(names)]
    return changed(config, structure, placement=tuple(names)), " ".join(dict.fromkeys(filter(None, said.values())))


def holding(slot: str, placements: Sequence[str]) -> list[bool]:
    """For each placement whether it fills the slot, or is `complete`."""
    fillings = {name: filling(name) for name in dict.fromkeys(placements)}
    full = {name: one.complete if slot == COMPLETE else slot in one.norms for name, one in fillings.items()}
    return [full[name] for name in placements]


def kind(config: TrainConfig) -> str:
    """"none", "complete", "plain" or "mixed": what the layers that have a norm at all have."""
    fillings = [filling(name) for name in dict.fromkeys(listed(config, "placement"))]
    complete = {one.complete for one in fillings if not one.empty}
    return "none" if not complete else "mixed" if len(complete) == 2 else "complete" if complete.pop() else "plain"


def differences(structure: Mapping) -> dict:
    """The norm options that set these switches: those that are not the reconstruction's own."""
    return {name: value for name, value in structure.items() if value != STRUCTURE[name]}


def structure_of(config: TrainConfig) -> dict | None:
    """The value of each switch, or None where the switches do not apply."""
    if kind(config) != "complete":
        return None
    return {name: config.norm_options.get(name, own) for name, own in STRUCTURE.items()}


def switched(config: TrainConfig, name: str, value) -> TrainConfig:
    """`config` with one switch of the complete layer set. ValueError where the switches do not apply."""
    if kind(config) != "complete":
        raise ValueError(why_no_structure(config))
    options = config.norm_options | {name: value}
    return replace(config, norm_options={key: one for key, one in options.items()
                                         if key not in STRUCTURE or one != STRUCTURE[key]})


def why_no_structure(config: TrainConfig) -> str:
    """Why the switches do not apply; empty where they do."""
    switches = "These switches belong to the complete layer (our reconstruction of CBN)"
    return {"complete": "", "none": f"{switches}, and no layer has one.",
            "plain": f"{switches}, and no layer has one.",
            "mixed": f"{switches} and hold for all layers, and some layers have a plain norm."}[kind(config)]


def order(placement: str, activation: str) -> str:
    """The steps of a block in words: "weight → norm → sigmoid"."""
    filled = filling(placement)
    steps = ["norm" if "norm_in" in filled.norms else "", "weight", "norm" if "norm" in filled.norms else "",
             f"complete({activation})" if filled.complete else activation, "norm" if "norm_out" in filled.norms else ""]
    return " → ".join(step for step in steps if step)


def sentence(config: TrainConfig) -> str:
    """The order of operations in every layer: layers that follow each other and agree in one clause."""
    pairs = list(zip(listed(config, "activation"), listed(config, "placement"), strict=True))
    said, first = [], 1
    for (activation, placement), group in groupby(pairs):
        last = first + len(list(group)) - 1
        where = f"All {last} layers" if last - first + 1 == len(pairs) > 1 else (
            f"Layer {first}" if first == last else f"Layers {first} to {last}")
        said.append(f"{where}: {order(placement, activation)} (placement {placement}{_KNOWN_AS.get(placement, '')})")
        first = last + 1
    return "; ".join(said) + "."
