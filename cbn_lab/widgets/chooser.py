"""Activation and placement from two menus: the recorded curves of the choice over vanilla BN's, and a live run."""

from collections.abc import Sequence

import ipywidgets

from cbn_lab import activations, blocks, figures, start
from cbn_lab.runs import Run
from cbn_lab.widgets.display import Shown, debounced, one_line
from cbn_lab.widgets.live import LiveTraining

VANILLA = "before"


def compare(records: Sequence[Run], activation: str, placement: str) -> figures.Figure:
    """The recorded learning curves of one choice over those of vanilla BN with the same activation.

    ValueError, listing what there is, where the records have no such run.
    """
    return figures.learning_curves(arms(records, activation, placement))


def arms(records: Sequence[Run], activation: str, placement: str) -> dict[str, list[Run]]:
    """label -> recorded runs: vanilla BN's, then the choice's."""
    groups = {}
    for name in dict.fromkeys((VANILLA, placement)):
        label = f"{name} (vanilla BN)" if name == VANILLA else name
        groups[label] = [run for run in records
                         if (run.config["activation"], run.config["placement"]) == (activation, name)]
        if not groups[label]:
            there = ", ".join(sorted({f"{run.config['activation']} {run.config['placement']}" for run in records}))
            raise ValueError(f"no recorded run of {activation} with {name}; there are: {there or 'none'}")
    return groups


class Chooser(Shown):
    """Two menus over `compare`, with live runs of the same small setting (`cbn_lab.start.config`) and a new seed.

    What is trained live stays in the picture when a menu changes, and a training under way goes on.
    """

    def __init__(self, records: Sequence[Run]):
        self._records = list(records)
        self._activation = _menu("Activation", activations.names(), self._records, "activation")
        self._placement = _menu("Placement", blocks.placements(), self._records, "placement")
        if "complete" in self._placement.options:
            self._placement.value = "complete"
        self.live = LiveTraining([self._config()], recorded=self._arms(), label=_label)
        self._trouble = ipywidgets.HTML()
        self.error: Exception | None = None
        for menu in (self._activation, self._placement):
            menu.observe(self._changed(), "value")
        menus = ipywidgets.HBox([self._activation, self._placement])
        menus.layout.flex_flow = "row wrap"
        self.view = ipywidgets.VBox([menus, self._trouble, self.live.view])

    def figure(self) -> figures.Figure:
        return compare(self._records, self._activation.value, self._placement.value)

    def _changed(self):
        redraw = debounced(self._redraw)
        return lambda change: redraw()

    def _redraw(self) -> None:
        try:
            self.live.show([self._config()], self._arms(), keep=True)
            self.error, self._trouble.value = None, ""
        except Exception as error:  # on the event loop nobody else would show it
            self.error, self._trouble.value = error, one_line(error)

    def _arms(self) -> dict[str, list[Run]]:
        return arms(self._records, self._activation.value, self._placement.value)

    def _config(self):
        new = 1 + max(run.config["seed"] for run in self._records)
        return start.config(self._activation.value, self._placement.value, seed=new)


def _label(config) -> str:
    return f"{config.activation}, {config.placement}, live"


def _menu(description: str, registered: list[str], records: Sequence[Run], key: str) -> ipywidgets.Dropdown:
    there = {run.config[key] for run in records}
    return ipywidgets.Dropdown(description=description, options=[name for name in registered if name in there])


def chooser(records: Sequence[Run]) -> Chooser:
    """Menus of the activations and placements that have records. ValueError if there are none."""
    if not records:
        raise ValueError("there are no recorded runs to choose from; see cbn_lab.start")
    return Chooser(records)
