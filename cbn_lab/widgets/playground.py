"""The playground: put a norm into a slot of the block, choose activations, look at every layer, train, take the code.

Each group of controls changes one `TrainConfig` (see `slots`); from it everything below is drawn anew: the sentence,
the diagram and the table of the layers at once, what is recorded and what Start would train right after.
"""

import html
from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib
import torch.nn.functional as F

from cbn_lab import data, figures, guided, share, start
from cbn_lab.probes import layers
from cbn_lab.runs import Run
from cbn_lab.train import TrainConfig, initial_model
from cbn_lab.widgets import slots
from cbn_lab.widgets.board import Board
from cbn_lab.widgets.display import Shown, debounced, one_line
from cbn_lab.widgets.knobs import Network, Structure, Training
from cbn_lab.widgets.live import LiveTraining

IMAGES = 256  # of the training split, for the statistics
DPI = 80
SETTLE_SECONDS = 0.1  # after the last step of a slider


def look(config: TrainConfig, root=None, layer: int | None = None):
    """(diagram of the block of one layer, or of all; a `LayerSummary` for each weight layer) of the untrained network.

    The network is the one that training with this seed starts from; the statistics are of the first 256 training
    images. Raises what `data.load` and `models.build` raise, such as for images too small for the network.
    """
    training = data.load(config.data, "train", root=root)
    net = initial_model(config, training)
    batch = data.normalize(training.images[:IMAGES], training), training.labels[:IMAGES]
    chosen = None if layer is None else [layer + 1]
    diagram = figures.model_diagram(net, batch[0].shape[1:], layers=chosen)
    return diagram, layers.summary(net, F.cross_entropy, batch, statistics="batch")


def playground_figure(config: TrainConfig | None = None, root=None) -> figures.Figure:
    """The static playground: the blocks of the network, and its layers before training."""
    diagram, rows = look(config or share.DEFAULT, root)
    return figures.stacked([diagram, figures.layer_summary({"at the start": rows})])


class Playground(Shown):
    """See `playground`. `config` is what Start would train; `live` trains it; `error` is what the error line shows."""

    def __init__(self, config: TrainConfig, records: Sequence[Run], root=None):
        self._root, self._recorded = root, slots.by_settings(records)
        self._layer: int | None = None
        self._seen: tuple = ()  # what the diagram and the table were last made from
        self.config, self.error = config, None
        self.network, self.training = Network(self._slide, root), Training(self._slide)
        self.structure = Structure(self._switch)
        self.board = Board(self._click, self._name, self._select)
        self.live = LiveTraining([config], label=live_label, root=root)
        self._sentence, self._status, self._why = _text("3em"), _text("1.6em"), _text("1.6em")
        self._diagram, self._table, self._found = ipywidgets.Image(format="png"), _text("4em"), _text("1.6em")
        self._diagram.layout.max_width = "100%"
        self._table.layout.max_height, self._table.layout.overflow = "24em", "auto"
        self._redraw_later = debounced(self._redraw, SETTLE_SECONDS)
        self._offer_later = debounced(self._offer, SETTLE_SECONDS)
        self.view = ipywidgets.VBox([
            _heading("1 Network and data"), self.network.view,
            _heading("2 A block: click on a slot to put a norm there, and again to take it out"),
            self.board.view, self._sentence, self._status, _room(self._diagram, "11em"), self.structure.view, self._why,
            _heading(f"3 Every layer before training, on {IMAGES} training images"), self._table,
            _heading("4 Training"), self.training.view, self._found, self.live.view])
        self.set(config)

    def figure(self) -> figures.Figure:
        return playground_figure(self.config, self._root)

    def set(self, config: TrainConfig) -> None:
        """Show these settings. A training that is under way goes on with its own, the next Start uses these."""
        self._change(lambda: (config, ""))

    def _slide(self, **changes) -> None:
        """From sliders and number fields, which send many changes: draw after the last."""
        self._change(lambda: (slots.changed(self.config, self.structure.values, **changes), ""), settle=True)

    def _click(self, slot: str) -> None:
        self._change(lambda: slots.clicked(self.config, self.structure.values, slot, self._layer))

    def _name(self, what: str, name: str) -> None:
        self._change(lambda: (slots.assigned(self.config, self.structure.values, what, name, self._layer), ""))

    def _switch(self, name: str, value) -> None:
        self._change(lambda: (slots.switched(self.config, name, value), ""))

    def _select(self, layer: int | None) -> None:
        self._layer = layer
        self.set(self.config)

    def _change(self, make: Callable[[], tuple[TrainConfig, str]], settle: bool = False) -> None:
        """Take over the settings that `make()` returns, with what it says about them."""
        try:
            self.config, said = make()
            self._show_controls()
            self._say(said)
        except Exception as error:  # raised in an event of the page, where nobody else would show it
            self._fail(error)
            return
        if settle:
            self._redraw_later()
        else:
            self._redraw()

    def _show_controls(self) -> None:
        count = slots.count(self.config)
        if self._layer is not None and self._layer >= count:
            self._layer = None
        meant = slice(None) if self._layer is None else slice(self._layer, self._layer + 1)
        names, placements = (slots.listed(self.config, what)[meant] for what in ("activation", "placement"))
        self.board.show(layer=self._layer, layers=count, names=names, placements=placements)
        for knobs in (self.network, self.training, self.structure):
            knobs.show(self.config)
        self._why.value = slots.why_no_structure(self.config)
        self._sentence.value = f"<b>{html.escape(slots.sentence(self.config))}</b>"

    def _redraw(self) -> None:
        """The diagram and the table, if anything changed that they depend on; then, a little later, the training."""
        config = self.config
        seen = (config.data, config.model, config.model_options, config.activation, config.placement,
                config.norm_options, config.seed, self._layer)
        if seen != self._seen:
            try:
                self._draw(*look(config, self._root, self._layer))
            except Exception as error:
                self._fail(error)
                return
            self._seen = seen
        self._offer_later()

    def _draw(self, diagram: figures.Figure, rows) -> None:
        with matplotlib.rc_context({"text.hinting": "none"}):
            self._diagram.value = diagram.png(DPI)
        self._table.value = figures.layer_table(rows)
        total = sum(row.parameters + row.norm_parameters for row in rows)
        self._sentence.value += f" {total:,} parameters; images {' × '.join(map(str, rows[0].shape))}."

    def _offer(self) -> None:
        """What is recorded of these settings, and what Start would train."""
        try:
            found = self._recorded.get(slots.key(self.config.record()), [])
            self._found.value = _found_sentence(found)
            arms = {f"{slots.label(self.config)}, recorded": found} if found else None
            self.live.show([self.config], arms)
        except Exception as error:
            self._fail(error)

    def _say(self, sentence: str) -> None:
        self.error, self._status.value = None, f'<span role="status">{html.escape(sentence)}</span>'

    def _fail(self, error: Exception) -> None:
        self.error, self._status.value = error, f'<span role="alert">{one_line(error)}</span>'


def live_label(config: TrainConfig) -> str:
    return f"{slots.label(config)}, live"


def _found_sentence(found: Sequence[Run]) -> str:
    if not found:
        return "Not recorded; Start trains it here."
    seeds = ", ".join(str(run.config["seed"]) for run in found)
    return f"Recorded with seeds {seeds}; Start trains it here as well."


def _heading(text: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(f"<h4 style='margin:0.8em 0 0.2em'>{html.escape(text)}</h4>")


def _text(height: str) -> ipywidgets.HTML:
    """Room for words that come and go: what stands below does not jump."""
    text = ipywidgets.HTML()
    text.layout.min_height = height
    return text


def _room(widget: ipywidgets.Widget, height: str) -> ipywidgets.VBox:
    """At least this height for a widget whose own height changes."""
    box = ipywidgets.VBox([widget])
    box.layout.min_height = height
    return box


def playground(config: TrainConfig | None = None, *, records: Sequence[Run] | None = None, root=None) -> Playground:
    """The playground as a widget: model, data, a norm into a slot, activations by layer, statistics, training, code.

    config   what it starts with, `share.DEFAULT` if not given
    records  recorded runs to be found by their settings: those of notebooks 00 and 07 if not given
    root     folder of the data
    """
    if records is None:
        records = [*start.records(), *(run for group in guided.GROUPS for run in guided.records(group))]
    return Playground(share.DEFAULT if config is None else config, records, root)
