"""The structure ablation from menus: activation, setting, metric, values or gains over vanilla BN."""

from collections.abc import Sequence

import ipywidgets

from cbn_lab import ablation, evidence, figures
from cbn_lab.runs import Run
from cbn_lab.widgets.explorer import Explorer

SETTINGS = {"small": 20_000, "long": 45_000}  # training images, which tell the two settings apart
METRICS = ("test_accuracy", "validation_accuracy", "train_loss")
ALL = "all"


def ablation_at(records: Sequence[Run], activation: str = ALL, setting: str = "small", metric: str = METRICS[0],
                gains: bool = False) -> figures.Figure:
    """The structures of `ablation.ROWS` that are recorded in one setting, for one activation or "all".

    With `gains` each run minus vanilla BN's with the same seed. ValueError for an unknown setting, and where nothing is
    recorded.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting must be one of {', '.join(SETTINGS)}, got {setting!r}")
    chosen = [run for run in evidence.of_setting(list(records), train_images=SETTINGS[setting])
              if activation in (ALL, run.config["activation"])]
    if not chosen:
        raise ValueError(f"no run of {activation} in the {setting} setting is recorded; see cbn_lab.ablation")
    return figures.ablation(chosen, ablation.ROWS, metric=metric, gains=gains)


def ablation_explorer(records: Sequence[Run]) -> Explorer:
    """Menus over `ablation_at`. ValueError if no run of the ablation is among the records."""
    chosen = {name: evidence.of_setting(list(records), train_images=images) for name, images in SETTINGS.items()}
    settings = [(f"{name}: {runs[0].config['train_images']:,} images, {runs[0].config['epochs']} epochs", name)
                for name, runs in chosen.items() if runs]
    if not settings:
        raise ValueError(f"none of the {len(records)} records is a run of the ablation; see cbn_lab.ablation")
    there = {run.config["activation"] for runs in chosen.values() for run in runs}
    controls = {
        "activation": ipywidgets.Dropdown(
            description="activation", options=[ALL, *(f for f in ablation.ACTIVATIONS if f in there)]),
        "setting": ipywidgets.Dropdown(description="setting", options=settings),
        "metric": ipywidgets.Dropdown(description="metric", options=[(m.replace("_", " "), m) for m in METRICS]),
        "gains": ipywidgets.Dropdown(description="show", options=[("values", False), ("minus vanilla BN", True)]),
    }
    return Explorer(ablation_at, list(controls.values()), lambda of: {
        "records": records} | {key: control.value for key, control in controls.items()})
