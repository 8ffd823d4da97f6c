"""Sliders over probes along the gradient: which moment of training, and which step on the line."""

import html
from collections.abc import Mapping, Sequence

import ipywidgets

from cbn_lab import figures
from cbn_lab.widgets.display import Shown, debounced, one_line


class LandscapeExplorer(Shown):
    """Two sliders over `figures.along_gradient`; the numbers at the chosen step stand below the picture.

    records  arm -> training step -> a `probes.landscape.Landscape` per seed, equal training steps for all arms

    `values` are the chosen training step and the number of the chosen step on the line. An error is shown in one line
    and kept in `error`.
    """

    def __init__(self, records: Mapping[str, Mapping[int, Sequence]]):
        self._records = records
        self._times = list(next(iter(records.values())))
        steps = len(next(iter(next(iter(records.values())).values()))[0].steps)
        self._time = ipywidgets.IntSlider(description="training", value=len(self._times) // 2, min=0,
                                          max=len(self._times) - 1, readout=False)
        self._step = ipywidgets.IntSlider(description="step", value=steps - 1, min=0, max=steps - 1, readout=False)
        self._caption, self._trouble = ipywidgets.HTML(), ipywidgets.HTML()
        self._image = ipywidgets.Image(format="png")
        self._image.layout.max_width = "100%"
        self.error: Exception | None = None
        redraw = debounced(self._redraw)
        for slider in (self._time, self._step):
            slider.observe(lambda change: redraw(), "value")
        row = ipywidgets.HBox([self._time, self._step])
        row.layout.flex_flow = "row wrap"
        self.view = ipywidgets.VBox([row, self._image, self._caption, self._trouble])
        self._redraw()

    @property
    def values(self) -> dict[str, int]:
        return {"training_step": self._times[self._time.value], "chosen": self._step.value}

    def figure(self) -> figures.Figure:
        return landscape_at(self._records, **self.values)

    def _redraw(self) -> None:
        try:
            figure = self.figure()
            self._image.value = figure.png()
            after = f"After {self.values['training_step']} training steps. "
            self._caption.value = f"<p>{html.escape(after + figure.alt)}</p>"
            self.error, self._trouble.value = None, ""
        except Exception as error:  # on the event loop nobody else would show it
            self.error, self._trouble.value = error, one_line(error)


def landscape_at(records: Mapping[str, Mapping[int, Sequence]], training_step: int, chosen: int) -> figures.Figure:
    """The picture behind the sliders. ValueError, with the known ones, for a training step that was not probed."""
    for arm, by_step in records.items():
        if training_step not in by_step:
            raise ValueError(f"{arm!r} was not probed after {training_step} training steps; known: "
                             f"{', '.join(map(str, by_step))}")
    return figures.along_gradient({arm: by_step[training_step] for arm, by_step in records.items()}, chosen=chosen)


def landscape_explorer(records: Mapping[str, Mapping[int, Sequence]]) -> LandscapeExplorer:
    """ValueError for arms that were not probed at the same training steps."""
    if not records or not all(records.values()) or len({tuple(by_step) for by_step in records.values()}) > 1:
        raise ValueError("every arm needs landscapes at the same training steps, at least one; got "
                         + "; ".join(f"{arm}: {list(by_step)}" for arm, by_step in records.items()))
    return LandscapeExplorer(records)
