"""The playground: put a norm into a slot of the block, choose activations, look at every layer, train, take the code.

Each group of controls changes one `TrainConfig` (see `slots`); from it everything below is drawn anew: the sentence,
the diagram and the table of the layers at once, what is recorded and what Start would train right after.
"""

import functools
import html
from collections.abc import Callable, Sequence
from dataclasses import replace

import ipywidgets
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import data, figures, guided, models, share, start
from cbn_lab.probes import layers
from cbn_lab.runs import Run
from cbn_lab.train import TrainConfig, initial_model
from cbn_lab.widgets import labels, slots
from cbn_lab.widgets.board import Board
from cbn_lab.widgets.code import CodePanel
from cbn_lab.widgets.display import Shown, debounced, one_line
from cbn_lab.widgets.knobs import Network, Structure, Training
from cbn_lab.widgets.layout import button, heading, room, row, text
from cbn_lab.widgets.live import LiveTraining

IMAGES = 256  # of the training split, for the statistics
DPI = 80
SETTLE_SECONDS = 0.05  # after the last step of a slider


def look(config: TrainConfig, root=None):
    """(network of the first training step, a `LayerSummary` for each of its weight layers).

    The statistics are of the first 256 training images. Raises what `data.load` and `models.build` raise, such as for
    images too small for the network.
    """
    images = first_images(config.data, root)
    net = initial_model(config, images)
    batch = data.normalize(images.images, images), images.labels
    return net, layers.summary(net, F.cross_entropy, batch, statistics="batch")


def diagram(net: nn.Module, config: TrainConfig, root=None, layer: int | None = None) -> figures.Figure:
    """The block of one layer (counted from 0) or those of all; of a residual net the stem and the first block."""
    images = first_images(config.data, root)
    residual = any(isinstance(module, models.ResidualBlock) for module in net.modules())
    blocks = (1, 2) if residual else range(1, slots.count(config) + 1)
    return figures.model_diagram(net, (images.in_channels, images.image_size, images.image_size),
                                 layers=blocks if layer is None else [layer + 1])


@functools.lru_cache(maxsize=4)  # a click must not wait for CIFAR to be read from the disk
def first_images(name: str, root=None) -> data.Dataset:
    """The first 256 training images, in memory of their own."""
    training = data.load(name, "train", root=root).subset(slice(IMAGES))
    return replace(training, images=training.images.clone(), labels=training.labels.clone())


def playground_figure(config: TrainConfig | None = None, root=None) -> figures.Figure:
    """The static playground: the blocks of the network, and its layers before training."""
    config = share.DEFAULT if config is None else config
    net, rows = look(config, root)
    return figures.stacked([diagram(net, config, root), figures.layer_summary({"at the start": rows})])


class Playground(Shown):
    """See `playground`. `config` is what Start would train; `live` trains it; `error` is what the error line shows."""

    def __init__(self, config: TrainConfig, records: Sequence[Run], root=None):
        self._root, self._recorded = root, labels.by_settings(records)
        self._layer: int | None = None
        self._drawn: tuple = ()  # what the diagram and the table were last made from
        self.config, self.error = config, None
        self.network, self.training = Network(self._slide, root), Training(self._slide)
        self.structure = Structure(self._switch)
        self.board = Board(self._click, self._name, self._select)
        self.live = LiveTraining([config], label=labels.label, root=root, before_start=self._offer)
        self._pinned: dict[str, list[Run]] = {}
        self._pin = button("Pin recorded curves", "keep these recorded curves in the picture to compare with others",
                           self.pin)
        self._unpin = button("Unpin", "take the pinned curves out of the picture", self.unpin)
        self.code = CodePanel(lambda: self.config, self._restore, root=root)
        self._words, self._why = text("3.2em"), text("1.6em")
        self._diagram, self._table, self._found = ipywidgets.Image(format="png"), text("4em"), text("1.6em")
        self._diagram.layout.max_width = "100%"
        self._table.layout.max_height, self._table.layout.overflow = "24em", "auto"
        self._redraw_later = debounced(self._redraw, SETTLE_SECONDS)
        self._offer_later = debounced(self._offer, SETTLE_SECONDS)
        self.view = ipywidgets.VBox([
            heading("1 Network and data"), self.network.view,
            heading("2 Its blocks: click on a slot to put a norm there, and again to take it out"),
            self.board.view, self._why, self.structure.view, self._words, room(self._diagram, "10em"),
            heading(f"3 What enters each layer before training ({IMAGES} training images)"), self._table,
            heading("4 Training"), self.training.view, row([self._pin, self._unpin, self._found]), self.live.view,
            heading("5 Take it with you: the script, or the state as one line that restores it"), self.code.view])
        _load_optimizers()
        self.set(config)

    def figure(self) -> figures.Figure:
        return playground_figure(self.config, self._root)

    def shown(self) -> tuple[bytes, str]:
        """(PNG of the diagram, HTML of the table of layers)."""
        return bytes(self._diagram.value), self._table.value

    def set(self, config: TrainConfig) -> None:
        """Show these settings. A training that is under way goes on with its own, the next Start uses these."""
        self._change(lambda: (config, ""))

    def _restore(self, config: TrainConfig) -> None:
        """`set` for the code panel, which shows what is raised."""
        self.set(config)
        if self.error is not None:
            raise self.error

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
            config, said = make()
            self.config = slots.require_known(config)
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
        self._why.value = slots.why_no_structure(self.config) or "Inside the complete layer (our reconstruction):"

    def _redraw(self) -> None:
        """The table and the diagram, if anything changed that they depend on; then, a little later, the training."""
        try:
            self._draw()
            seen = "visible"
        except Exception as error:
            self._fail(error)
            seen = "hidden"  # what was drawn last is of another network; its room stays
        self._diagram.layout.visibility = self._table.layout.visibility = seen
        self._offer_later()

    def _draw(self) -> None:
        config = self.config
        structure = (config.data, config.model, config.model_options, config.activation, config.placement,
                     config.norm_options, self._layer)
        if (structure, config.seed) == self._drawn:
            return
        net, rows = look(config, self._root)
        known, self._drawn = structure in self._drawn, ()  # until both are drawn, neither counts as drawn
        self._table.value = figures.layer_table(rows, caption=_caption(rows))
        if not known:
            self._diagram.value = diagram(net, config, self._root, self._layer).png(DPI)
        self._drawn = structure, config.seed

    def _offer(self) -> None:
        """What is recorded of these settings, over what is pinned, and what Start would train."""
        try:
            found = self._recorded.get(labels.key(self.config.record()), [])
            current = {labels.label(self.config): found} if found else {}
            self.live.show([self.config], self._pinned | current, keep=True)
            self._pin.disabled, self._unpin.disabled = not current.keys() - self._pinned.keys(), not self._pinned
            self._found.value = "" if self.error else _offered(found, self.live.running)
            self.code.refresh()
        except Exception as error:
            self._fail(error)

    def pin(self) -> None:
        """Keep the recorded curves of these settings in the picture when the settings change."""
        if found := self._recorded.get(labels.key(self.config.record())):
            self._pinned[labels.label(self.config)] = found
        self._offer()

    def unpin(self) -> None:
        self._pinned.clear()
        self._offer()

    def _say(self, sentence: str) -> None:
        """The state in one sentence, and what was remarkable about the last change."""
        self.error = None
        self._words.value = (f'<div role="status"><b>{html.escape(slots.sentence(self.config))}</b><br>'
                             f"{html.escape(sentence)}</div>")

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._words.value = (f'<div role="alert"><b>{html.escape(slots.sentence(self.config))}</b><br>'
                             f"{one_line(error)}</div>")


def _load_optimizers() -> None:
    """The first optimizer of a process imports torch's compiler: 1.5 s of processor time (torch 2.15) in which no click
    is heard. Better while the cell runs than at Start.
    """
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


def _caption(rows) -> str:
    own, norms = (sum(getattr(row, what) for row in rows) for what in ("parameters", "norm_parameters"))
    return f"{own + norms:,} parameters, {norms:,} of them in norms and shifts"


def _offered(found: Sequence[Run], running: bool) -> str:
    if running:
        return "The next start trains these settings; a training under way keeps its own, see its label."
    if found:
        return "These settings are recorded; Start trains them here as well, with the curve over the recorded ones."
    return "These settings are not recorded; Start trains them here."


def playground(config: TrainConfig | None = None, *, records: Sequence[Run] | None = None, root=None) -> Playground:
    """The playground as a widget: model, data, a norm into a slot, activations by layer, statistics, training, code.

    config   what it starts with, `share.DEFAULT` if not given
    records  recorded runs to be found by their settings: those of notebooks 00 and 07 if not given
    root     folder of the data
    """
    if records is None:
        records = [*start.records(), *(run for group in guided.GROUPS for run in guided.records(group))]
    return Playground(share.DEFAULT if config is None else config, records, root)
