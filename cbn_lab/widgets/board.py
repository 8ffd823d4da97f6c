"""One block as a row to click on: three slots for a norm, a menu of activations, the complete layer in their place."""

import time
from collections.abc import Callable, Sequence

import ipywidgets

from cbn_lab import activations, blocks
from cbn_lab.widgets.layout import row
from cbn_lab.widgets.player import DOUBLE_CLICK_SECONDS
from cbn_lab.widgets.slots import COMPLETE, SLOTS, holding

ALL, SEVERAL = -1, ""  # values of menus; None would mean that nothing is selected
_NOWHERE = "", -DOUBLE_CLICK_SECONDS


class Board:
    """The row of slots with the menus of layer and placement above it.

    on_click(slot), on_name(what, name) and on_layer(layer, None for all) are called for what the user does; `show` sets
    what the row says and calls nothing.
    """

    def __init__(self, on_click: Callable, on_name: Callable, on_layer: Callable):
        self._quiet, self._clicked = False, _NOWHERE
        self.layer = ipywidgets.Dropdown(description="layer", options=[("all", ALL)])
        self.placement = ipywidgets.Dropdown(description="placement", options=blocks.placements())
        self.activation = ipywidgets.Dropdown(description="activation", options=activations.names())
        for menu, width in ((self.layer, "14em"), (self.placement, "18em"), (self.activation, "15em")):
            menu.layout.width, menu.style.description_width = width, "initial"
            menu.layout.margin = "2px 1em 2px 2px"
        self.layer.observe(self._loud(lambda layer: on_layer(None if layer == ALL else layer)), "value")
        self.placement.observe(self._loud(lambda name: on_name("placement", name)), "value")
        self.activation.observe(self._loud(lambda name: on_name("activation", name)), "value")
        self.slots = {slot: ipywidgets.Button() for slot in (*SLOTS, COMPLETE)}
        for slot, button in self.slots.items():
            button.layout.width, button.layout.height = ("7em", "4em") if slot in SLOTS else ("15em", "auto")
            button.on_click(lambda _, slot=slot: self._click(on_click, slot))
        self.view = ipywidgets.VBox([row([self.layer, self.placement]), self._steps()])

    def _steps(self) -> ipywidgets.HBox:
        """input -> [norm_in] -> weight -> [norm] -> activation -> [norm_out] -> next layer"""
        function = ipywidgets.VBox([self.activation, self.slots[COMPLETE]])
        self.activation.layout.margin = "2px"
        function.layout.border, function.layout.padding = "1px solid #888888", "2px"
        steps = [_word("input"), self.slots["norm_in"], _word("<b>weight layer</b>"), self.slots["norm"], function,
                 self.slots["norm_out"], _word("next layer")]
        with_arrows = [item for step in steps for item in (_word("→"), step)][1:]
        return row(with_arrows)

    def _click(self, on_click: Callable, slot: str) -> None:
        """A second click on a slot right after the first is one of a double click, not the wish to undo the first."""
        last, finished = self._clicked
        if slot != last or time.perf_counter() > finished + DOUBLE_CLICK_SECONDS:
            on_click(slot)
            self._clicked = slot, time.perf_counter()  # not when it began: the second click waited meanwhile

    def _loud(self, call: Callable) -> Callable:
        return lambda change: None if self._quiet or change.new in (None, SEVERAL) else call(change.new)

    def show(self, *, layer: int | None, layers: int, placements: Sequence[str], names: Sequence[str]) -> None:
        """`placements` and `names` (activations) are those of the layers that are meant."""
        self._clicked = _NOWHERE  # whatever changed the settings: the next click on a slot is meant
        self._quiet = True
        try:
            self.layer.options = [(f"all {layers}", ALL), *((str(i + 1), i) for i in range(layers))]
            self.layer.value = ALL if layer is None else layer
            _choose(self.placement, blocks.placements(), placements)
            _choose(self.activation, activations.names(), names)
        finally:
            self._quiet = False
        for slot, place in SLOTS.items():
            _set(self.slots[slot], "norm", holding(slot, placements), f"put a norm {place}",
                 f"take out the norm {place}")
        _set(self.slots[COMPLETE], "complete BN (ours)", holding(COMPLETE, placements),
             "our reconstruction of CBN: shift, activation, standardize, gamma and shift in one layer",
             "take out the complete layer")


def _choose(menu: ipywidgets.Dropdown, registered: list[str], chosen: Sequence[str]) -> None:
    """Select the one name, or the line that says that there are several."""
    several = sorted(set(chosen))
    mixed = [] if len(several) == 1 else [(f"{len(several)} different", SEVERAL)]
    menu.options = [*mixed, *((name, name) for name in registered)]
    menu.value = several[0] if len(several) == 1 else SEVERAL


def _set(button: ipywidgets.Button, what: str, filled: Sequence[bool], put: str, take: str) -> None:
    """Say whether it is filled, in all the layers that are meant, in some or in none."""
    everywhere, count = all(filled), sum(filled)
    button.description = f"{what}  ×" if everywhere else f"{what} in {count}/{len(filled)}" if count else f"+ {what}"
    button.tooltip, button.button_style = (take, "info") if everywhere else (put, "")
    button.layout.border = "1px solid transparent" if everywhere else f"1px {'solid' if count else 'dashed'} #888888"


def _word(text: str) -> ipywidgets.HTML:
    word = ipywidgets.HTML(text)
    word.layout.margin = "2px 0.3em"
    return word
