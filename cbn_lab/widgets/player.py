"""Recorded runs as if they were being trained: play, scrub and speed over the picture that live training draws."""

import asyncio
import html
import itertools
import time
from collections.abc import Callable, Mapping, Sequence

import ipywidgets

from cbn_lab import figures
from cbn_lab.figures.frames import CurveFrames
from cbn_lab.figures.selection import require_records
from cbn_lab.figures.style import encoded
from cbn_lab.runs import Run
from cbn_lab.widgets.cells import Background
from cbn_lab.widgets.display import Shown, debounced, one_line
from cbn_lab.widgets.pace import FRAME_SECONDS

TASK = "cbn-lab player"
DPI = 80  # smaller than in print: drawing a frame takes half as long
DOUBLE_CLICK_SECONDS = 0.4
SPEEDS = [(f"in {seconds} s", float(seconds)) for seconds in (5, 10, 20, 40)]


class Curves:
    """Learning curves and their sentence below. `cost` is how long the last ones took to draw and encode, in s."""

    def __init__(self):
        self.image, self.caption = ipywidgets.Image(format="png"), ipywidgets.HTML()
        self.image.layout.max_width = "100%"
        self.cost = 0.0
        self._frames = CurveFrames()

    def draw(self, shown: Mapping) -> None:
        """`shown` are the arguments of `figures.learning_curves`."""
        began = time.perf_counter()
        pixels, alt = self._frames.pixels(**shown, dpi=DPI)
        self.image.value = encoded(pixels)
        self.cost = time.perf_counter() - began
        self.caption.value = f"<p>{html.escape(alt)}</p>"


class Transport:
    """Play or Pause, a slider over the epochs, a menu of speeds, and where the runs were recorded.

    `moved()` is called when the epoch is another: once after the last of quick changes, while playing once a frame.
    `cost()` is what it takes, in seconds. Without an event loop Play shows the end at once.
    """

    def __init__(self, moved: Callable[[], None], cost: Callable[[], float]):
        self._moved, self._cost, self._clicked = moved, cost, -DOUBLE_CLICK_SECONDS
        self._button = ipywidgets.Button(description="Play")
        self._slider = ipywidgets.FloatSlider(description="Epoch", min=0.0, max=1.0, value=1.0, step=0.01,
                                              readout_format=".1f")
        self._speed = ipywidgets.Dropdown(description="Whole run", options=SPEEDS, value=10.0)
        self._speed.layout.width = "13em"
        self._source = ipywidgets.HTML()
        self._button.on_click(lambda button: self._click())
        self._settled = debounced(self._redraw)
        self._slider.observe(self._scrubbed, "value")
        row = ipywidgets.HBox([self._button, self._slider, self._speed])
        row.layout.flex_flow = "row wrap"
        self.view = ipywidgets.VBox([row, self._source])
        self.background = Background(TASK)
        self._drawn = 1.0

    def show(self, recorded: Mapping[str, Sequence[Run]]) -> None:
        """Stand at the end of these runs; without any, nothing of this is seen. What was playing is stopped."""
        self.background.abandon()
        self._button.description = "Play"
        self.view.layout.display = None if recorded else "none"
        epochs = float(max((run.config["epochs"] for group in recorded.values() for run in group), default=1))
        self._slider.unobserve(self._scrubbed, "value")
        self._slider.max, self._slider.step = epochs, epochs / 100
        self._slider.value = self._drawn = epochs
        self._slider.observe(self._scrubbed, "value")
        self._source.value = f"<p>{html.escape(source(recorded))}</p>" if recorded else ""

    @property
    def epoch(self) -> float | None:
        """Up to which to show the runs; None at the end, for all of them."""
        return None if self._slider.value >= self._slider.max else self._slider.value

    @epoch.setter
    def epoch(self, value: float) -> None:
        self._slider.value = value

    @property
    def playing(self) -> bool:
        return self.background.running

    def play(self) -> None:
        """From where the slider stands, from the beginning if that is the end."""
        if not self.background.start(self._play):
            self._slider.value = self._slider.max

    def pause(self) -> None:
        self.background.stop()

    def _click(self) -> None:
        """A second click right after the first is one of a double click, not the wish to pause."""
        since, self._clicked = time.perf_counter() - self._clicked, time.perf_counter()
        if since > DOUBLE_CLICK_SECONDS:
            self.pause() if self.playing else self.play()

    async def _play(self) -> None:
        mine = self.background.task
        self._button.description = "Pause"
        if self.epoch is None:
            self._slider.value = 0.0
        try:
            last = time.perf_counter()
            while self.epoch is not None and mine is self.background.task:
                self._redraw()
                await asyncio.sleep(max(FRAME_SECONDS, 2 * self._cost()))
                now = time.perf_counter()
                step = (now - last) / self._speed.value * self._slider.max
                self._slider.value, last = min(self._slider.max, self._slider.value + step), now
            self._redraw()
        finally:
            if mine is self.background.task:
                self._button.description = "Play"

    def _scrubbed(self, change) -> None:
        self._settled()

    def _redraw(self) -> None:
        if self._slider.value != self._drawn:
            self._drawn = self._slider.value
            self._moved()


def source(recorded: Mapping[str, Sequence[Run]]) -> str:
    """"Recorded on DEVICE, seeds 0, 1, 2." from the runs' provenance; by arm where that is not the same for all."""
    origins = {label: _origin(group) for label, group in recorded.items()}
    if len(set(origins.values())) == 1:
        return f"Recorded on {next(iter(origins.values()))}."
    return f"Recorded. {'; '.join(f'{label}: {origin}' for label, origin in origins.items())}."


def _origin(group: Sequence[Run]) -> str:
    seeds: dict[str, list[int]] = {}
    for run in group:
        seeds.setdefault(run.provenance.get("device", "an unnamed device"), []).append(run.config["seed"])
    return " and ".join(f"{device}, seed{'s' * (len(of_device) > 1)} {', '.join(map(str, sorted(of_device)))}"
                        for device, of_device in seeds.items())


class Player(Shown):
    """Plays `recorded` (label -> runs) in the picture of `figures.learning_curves`; shows all of them at first.

    `transport` moves it: `transport.epoch = 3.5`, `transport.play()`. An error is shown in one line, and is kept in
    `error`.
    """

    def __init__(self, recorded: Mapping[str, Sequence[Run]]):
        self._recorded = {label: list(group) for label, group in recorded.items()}
        require_records(itertools.chain(*self._recorded.values()))
        self.curves, self._trouble = Curves(), ipywidgets.HTML()
        self.error: Exception | None = None
        self.transport = Transport(self._redraw, lambda: self.curves.cost)
        self.view = ipywidgets.VBox([self.transport.view, self._trouble, self.curves.image, self.curves.caption])
        self.transport.background.ends_with(self.view)
        self.transport.show(self._recorded)
        self.curves.draw(self._shown())

    def figure(self) -> figures.Figure:
        """The runs up to the epoch at which the slider stands."""
        return figures.learning_curves(**self._shown())

    def _shown(self) -> dict:
        return {"runs": self._recorded, "upto": self.transport.epoch}

    def close(self) -> None:
        """Stop and remove the view."""
        self.view.close()

    def _redraw(self) -> None:
        try:
            self.curves.draw(self._shown())
            self.error, self._trouble.value = None, ""
        except Exception as error:  # on the event loop nobody else would show it
            self.error, self._trouble.value = error, one_line(error)
