"""The three effects from menus: activation, placements, raw or scale-free, matched loss or matched step."""

import html
from collections.abc import Sequence

import ipywidgets

from cbn_lab import activations, blocks, figures
from cbn_lab.effects_evidence import MATCHED, SCALES
from cbn_lab.runs import Run
from cbn_lab.widgets.display import Shown, debounced, one_line


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


class Dashboard(Shown):
    """Controls over `effects`; every one redraws the same picture. A failure is one line, and is kept in `error`."""

    def __init__(self, records: Sequence[Run]):
        self._records = list(records)
        there = {key: {run.config[key] for run in self._records} for key in ("activation", "placement")}
        self._activation = ipywidgets.Dropdown(
            description="Activation", options=[name for name in activations.names() if name in there["activation"]])
        self._placements = [ipywidgets.Checkbox(value=True, description=name, indent=False)
                            for name in blocks.placements() if name in there["placement"]]
        self._matched = ipywidgets.ToggleButtons(
            description="Matched", options=[(f"training {m}" if m == "loss" else m, m) for m in MATCHED])
        self._scale = ipywidgets.ToggleButtons(
            description="Scale", options=[(s.replace("_", "-"), s) for s in SCALES])
        self._image = ipywidgets.Image(format="png")
        self._image.layout.max_width = "100%"
        self._caption = ipywidgets.HTML()
        self.error: Exception | None = None
        redraw = debounced(self._redraw)
        for control in (self._activation, self._matched, self._scale, *self._placements):
            control.observe(lambda change: redraw(), "value")
        ticks = ipywidgets.HBox(self._placements)
        ticks.layout.flex_flow = "row wrap"
        self.view = ipywidgets.VBox([self._activation, ticks, self._matched, self._scale, self._image, self._caption])
        self._redraw()

    def figure(self) -> figures.Figure:
        chosen = [box.description for box in self._placements if box.value]
        return effects(self._records, self._activation.value, chosen, matched=self._matched.value,
                       scale=self._scale.value)

    def _redraw(self) -> None:
        try:
            figure = self.figure()
            self._image.value, self._caption.value = figure.png(), f"<p>{html.escape(figure.alt)}</p>"
            self.error = None
        except Exception as error:  # on the event loop nobody else would show it
            self.error, self._caption.value = error, one_line(error)


def dashboard(records: Sequence[Run]) -> Dashboard:
    """Of the records of one data set. ValueError if there are none, or of several."""
    data = sorted({run.config["data"] for run in records})
    if len(data) != 1:
        raise ValueError(f"the dashboard shows one data set, got {', '.join(data) or 'no records'}; choose with "
                         "cbn_lab.effects_evidence.of_data")
    return Dashboard(records)
