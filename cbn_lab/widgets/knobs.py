"""The playground's controls that are no slots: network, data and training, and the switches of the complete layer.

Each group shows settings (`show`) without calling anybody, and calls `on_change(**settings)` for what the user does.
"""

import math
from collections.abc import Callable

import ipywidgets

from cbn_lab import data, models
from cbn_lab.train import TrainConfig
from cbn_lab.widgets import labels, slots

SMALL = {"train_images": 3840, "validation_images": 1000}  # of CIFAR: 30 steps of 128 images an epoch, see `start`
EVERYTHING = {"train_images": None, "validation_images": 0}
WIDTHS, MULTIPLIERS = (8, 16, 32, 64, 128, 256), (1.0, 4.0, 9.0, 16.0, 25.0)
DEEPEST = 40


class Knobs:
    """A row of controls that can be set without being heard."""

    def __init__(self, controls: list):
        self.controls = {control.description: control for control in controls}
        self._quiet = False
        for control in controls:
            control.layout.margin = "2px 1em 2px 2px"
        self.view = ipywidgets.HBox(controls)
        self.view.layout.flex_flow = "row wrap"

    def _heard(self, control, call: Callable) -> None:
        control.observe(lambda change: None if self._quiet else call(change.new), "value")

    def show(self, config: TrainConfig) -> None:
        self._quiet = True
        try:
            self._set(config)
        finally:
            self._quiet = False


class Network(Knobs):
    """Model, data, depth and width."""

    def __init__(self, on_change: Callable, root):
        self._on_change, self._datasets = on_change, datasets(root)
        self._model = _menu("model", models.names(), "13em")
        self._data = _menu("data", self._datasets, "19em")
        self._depth = ipywidgets.IntSlider(description="depth", min=1, max=DEEPEST)
        self._width = _menu("width", WIDTHS, "10em")
        self._depth.layout.width, self._depth.style.description_width = "20em", "initial"
        super().__init__([self._model, self._data, self._depth, self._width])
        self._heard(self._model, lambda name: on_change(model=name, model_options={}))
        self._heard(self._data, lambda words: on_change(**self._datasets[words]))
        self._heard(self._depth, lambda depth: self._resize(depth, self._width.value))
        self._heard(self._width, lambda width: self._resize(self._depth.value, width))

    def _resize(self, depth: int, width: int) -> None:
        self._on_change(model_options=labels.sized(self._model.value, depth, width))

    def _set(self, config: TrainConfig) -> None:
        _choose(self._model, config.model)
        _choose(self._data, self._words(config))
        size = labels.size(config.model, config.model_options)
        for control in (self._depth, self._width):  # out of sight, and out of reach of the keyboard, but in their place
            control.disabled, control.layout.visibility = size is None, "visible" if size else "hidden"
        if size is not None:
            self._depth.max = max(DEEPEST, size[0])
            self._depth.value = size[0]
            _choose(self._width, size[1])

    def _words(self, config: TrainConfig) -> str:
        """The line of the data menu for these settings; others, such as restored ones, get a line of their own."""
        wanted = {name: getattr(config, name) for name in ("data", *EVERYTHING)}
        for words, settings in self._datasets.items():
            if settings == wanted:
                return words
        words = f"{config.record()['data']} ({config.train_images or 'all'} images)"
        self._datasets[words] = wanted
        return words


class Training(Knobs):
    """Learning rate, batch size, epochs and seed."""

    def __init__(self, on_change: Callable):
        self._on_change, self._lr = on_change, 0.1
        self._rate = ipywidgets.FloatLogSlider(description="learning rate", value=0.1, min=-3.5, max=1, step=0.1,
                                               readout_format=".2g")
        self._rate.layout.width, self._rate.style.description_width = "24em", "initial"
        self._exact = ipywidgets.FloatText(description="exact rate")  # the page rounds what a slider holds to its steps
        self._exact.layout.width, self._exact.style.description_width = "12em", "initial"
        self._whole = {"batch_size": _number("batch size", 1, 4096), "epochs": _number("epochs", 1, 1000),
                       "seed": _number("seed", 0, 10**6)}
        super().__init__([self._rate, self._exact, *self._whole.values()])
        self._heard(self._rate, self._slid)
        self._heard(self._exact, lambda rate: on_change(lr=rate))
        for name, control in self._whole.items():
            self._heard(control, lambda value, name=name: on_change(**{name: value}))

    def _slid(self, rate: float) -> None:
        """The page may send back the rate that it is shown, rounded to the slider's steps: nobody has moved it then."""
        if abs(math.log10(rate / self._lr)) > 0.51 * self._rate.step:
            self._on_change(lr=float(f"{rate:.2g}"))

    def _set(self, config: TrainConfig) -> None:
        steps = math.log10(config.lr) / self._rate.step  # a restored rate may lie beyond the slider's ends
        self._rate.min = min(self._rate.min, math.floor(steps) * self._rate.step)
        self._rate.max = max(self._rate.max, math.ceil(steps) * self._rate.step)
        self._rate.value = self._exact.value = self._lr = config.lr
        for name, control in self._whole.items():
            control.max = max(control.max, getattr(config, name))
            control.value = getattr(config, name)


class Structure(Knobs):
    """The switches of the complete layer; they keep their `values` while they do not apply.

    `on_change(name, value)`: another signature than the other groups', since norm options may hold more than these.
    """

    def __init__(self, on_change: Callable):
        self.values = dict(slots.STRUCTURE)
        self._switches = {
            "pre_shift": _checkbox("pre-shift"), "post_shift": _checkbox("post-shift"),
            "center": _checkbox("subtract the mean"), "scale": _checkbox("divide by the deviation"),
            "standardize": _menu("standardize", ("before", "after", "both"), "14em"),
            "gamma": _menu("gamma", ("before", "after", "both", "none"), "12em"),
            "shift_lr_multiplier": _menu("shift multiplier k", MULTIPLIERS, "15em"),
        }
        super().__init__(list(self._switches.values()))
        for name, control in self._switches.items():
            self._heard(control, lambda value, name=name: on_change(name, None if value == "none" else value))

    def _set(self, config: TrainConfig) -> None:
        applied = slots.structure_of(config)
        self.values = applied or self.values
        for name, control in self._switches.items():
            value = "none" if self.values[name] is None else self.values[name]
            if isinstance(control, ipywidgets.Dropdown):
                _choose(control, value)
            else:
                control.value = value
            control.disabled = applied is None


def datasets(root=None) -> dict[str, dict]:
    """The lines of the data menu -> the settings that they stand for; only data that are here."""
    found = {"digits": {"data": "digits"} | EVERYTHING}
    for name in ("cifar10", "cifar100"):
        if not data.available(root)[name].startswith("missing"):
            found |= {f"{name} ({SMALL['train_images']:,} images)": {"data": name} | SMALL,
                      f"{name} (all images)": {"data": name} | EVERYTHING}
    return found


def _menu(description: str, options, width: str) -> ipywidgets.Dropdown:
    menu = ipywidgets.Dropdown(description=description, options=[(_label(value), value) for value in options])
    menu.layout.width, menu.style.description_width = width, "initial"
    return menu


def _number(description: str, least: int, most: int) -> ipywidgets.BoundedIntText:
    number = ipywidgets.BoundedIntText(description=description, min=least, max=most, value=least)
    number.layout.width, number.style.description_width = "11em", "initial"
    return number


def _checkbox(description: str) -> ipywidgets.Checkbox:
    box = ipywidgets.Checkbox(description=description, indent=False)
    box.layout.width = "auto"
    return box


def _choose(menu: ipywidgets.Dropdown, value) -> None:
    """Select a value; one that the menu does not have, such as a restored one, joins it."""
    if value not in [known for _, known in menu.options]:
        menu.options = [*menu.options, (_label(value), value)]
    menu.value = value


def _label(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
