"""The three effects from menus: activation, placements, raw or scale-free, matched loss or matched step."""

from collections.abc import Sequence

import ipywidgets

from cbn_lab import activations, blocks, figures
from cbn_lab.effects_evidence import MATCHED, SCALES
from cbn_lab.runs import Run
from cbn_lab.widgets.explorer import Explorer


def effects(records: Sequence[Run], activation: str, placements: Sequence[str], *, matched: str = "loss",
            scale: str = "scale_free") -> figures.Figure:
    """The recorded three effects of some placements at one activation.

    ValueError, listing what there is, where an arm has no record, or for no placement at all.
    """
    return figures.effect_curves(arms(records, activation, placements), matched=matched, scale=scale)


def arms(records: Sequence[Run], activation: str, placements: Sequence[str]) -> dict[str, list[Run]]:
    """placement -> its runs with this activation, in the order of the registry."""
    if not placements:
        raise ValueError("tick at least one placement")
    groups = {}
    for name in (name for name in blocks.placements() if name in placements):
        groups[name] = [run for run in records
                        if (run.config["activation"], run.config["placement"]) == (activation, name)]
        if not groups[name]:
            there = ", ".join(sorted({f"{run.config['activation']} {run.config['placement']}" for run in records}))
            raise ValueError(f"no recorded measurement of {activation} with {name}; there are: {there or 'none'}")
    return groups


def dashboard(records: Sequence[Run]) -> Explorer:
    """Controls over `effects`, of the records of one data set. ValueError if there are none, or of several."""
    data = sorted({run.config["data"] for run in records})
    if len(data) != 1:
        raise ValueError(f"the dashboard shows one data set, got {', '.join(data) or 'no records'}; choose with "
                         "cbn_lab.effects_evidence.of_data")
    there = {key: {run.config[key] for run in records} for key in ("activation", "placement")}
    activation = ipywidgets.Dropdown(description="activation",
                                     options=[name for name in activations.names() if name in there["activation"]])
    matched = ipywidgets.Dropdown(description="matched",
                                  options=[(f"training {m}" if m == "loss" else m, m) for m in MATCHED])
    scale = ipywidgets.Dropdown(description="scale", options=[(s.replace("_", "-"), s) for s in SCALES])
    boxes = [ipywidgets.Checkbox(description=name, value=True, indent=False)
             for name in blocks.placements() if name in there["placement"]]

    def settings(controls) -> dict:
        return {"records": records, "activation": activation.value, "matched": matched.value, "scale": scale.value,
                "placements": [box.description for box in boxes if box.value]}

    return Explorer(effects, [activation, matched, scale, [ipywidgets.Label("placements:"), *boxes]], settings)
