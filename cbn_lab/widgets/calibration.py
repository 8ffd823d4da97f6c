"""The calibration of a student's guesses: below each result, and on its own."""

import ipywidgets

from cbn_lab import figures, predictions, progress
from cbn_lab.predictions import Calibration
from cbn_lab.widgets.display import Shown, one_line
from cbn_lab.widgets.verdicts import in_words, lines

DPI = 100


class CalibrationPanel:
    """One sentence and the picture."""

    def __init__(self):
        self._words, self._image = ipywidgets.HTML(), ipywidgets.Image(format="png")
        self._image.layout.max_width, self._image.layout.align_self = "100%", "flex-start"
        self.view = ipywidgets.VBox([self._words, self._image])

    def show(self, found: Calibration | None) -> None:
        figure = figures.calibration(found)
        self._image.value = figure.png(DPI)
        self._words.value = lines("" if found is None else found.sentence()) + in_words(figure)

    def say(self, error: Exception) -> None:
        self._words.value = one_line(error)


class MyCalibration(Shown):
    """The calibration of all guesses in the student's file. The stored notebook shows an empty one."""

    def __init__(self):
        again = ipywidgets.Button(description="Look again")
        again.on_click(lambda _: self.redraw())
        self._panel = CalibrationPanel()
        self.error: Exception | None = None
        self.view = ipywidgets.VBox([again, self._panel.view])
        self.redraw()

    def figure(self) -> figures.Figure:
        return figures.calibration(None)

    def redraw(self) -> None:
        try:
            self._panel.show(predictions.calibration(predictions.load().values()))
            self.error = None
        except progress.ProgressError as error:
            self.error = error
            self._panel.say(error)


def my_calibration() -> MyCalibration:
    """How often the student's guesses of each confidence were right, from their own file."""
    return MyCalibration()
