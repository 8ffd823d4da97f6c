"""Recorded speeds from menus: which device, and what each change is compared with."""

from collections.abc import Mapping

import ipywidgets

from cbn_lab import figures
from cbn_lab.widgets.explorer import Explorer

ALL = "all"


def speeds_at(records: Mapping, device: str = ALL, over: str | None = None) -> figures.Figure:
    """Label -> `speeds.Speeds`, all of them or the one with the label `device`; `over` as in `figures.speed_ladder`.

    ValueError for an unknown label.
    """
    if device != ALL and device not in records:
        raise ValueError(f"no record is called {device!r}; there are: {', '.join(records) or 'none'}")
    return figures.speed_ladder(dict(records) if device == ALL else {device: records[device]}, over=over)


def speed_explorer(records: Mapping) -> Explorer:
    """Menus over `speeds_at`. ValueError if the records have no rung in common, or if there is none."""
    rungs = [list(found.images_per_second) for found in records.values()]
    shared = [rung for rung in rungs[0] if all(rung in others for others in rungs)] if rungs else []
    if not shared:
        raise ValueError("there are no records with a rung in common; `cbn_lab.ladder` makes one")
    controls = {
        "device": ipywidgets.Dropdown(description="device", options=[ALL, *records]),
        "over": ipywidgets.Dropdown(description="compared with",
                                    options=[("the one it changes", None), *((rung, rung) for rung in shared)]),
    }
    return Explorer(speeds_at, list(controls.values()), lambda of: {
        "records": records} | {key: control.value for key, control in controls.items()})
