"""What all predictions share: lock in a guess and a confidence, then Run, the verdict, the calibration so far.

Guess, confidence and outcome go to the student's own file (`cbn_lab.progress`), once for each id. When the cell is run
again the guess is there, but the result has to be asked for again.
"""

import asyncio
import html
from collections.abc import Callable, Mapping, Sequence

import ipywidgets

from cbn_lab import figures, outcomes, predictions, progress
from cbn_lab.predictions import Prediction
from cbn_lab.runs import Run
from cbn_lab.widgets.calibration import DPI, CalibrationPanel
from cbn_lab.widgets.display import Shown, debounced, one_line
from cbn_lab.widgets.guesses import CurveSheet, NumberSheet, RankingSheet
from cbn_lab.widgets.live import LiveTraining
from cbn_lab.widgets.verdicts import asked, card, explained, in_words, judged, lines, status

LEVELS = [(f"{p} %", p / 100) for p in (10, 30, 50, 70, 90)]
FOLLOW_SECONDS = 1.0  # between two pictures of a curve that is being trained
Arms = Mapping[str, Sequence[Run | float]]
Reveal = Arms | LiveTraining | Callable[[], Arms | LiveTraining]


class Predict(Shown):
    """A question, a sheet for the guess, a confidence, and Run. `prediction` is what was locked in, or None.

    `error` keeps what went wrong when the result was fetched, drawn or judged; it is shown in one line as well.
    """

    def __init__(self, id: str, question: str, sheet: RankingSheet | NumberSheet | CurveSheet, reveal: Reveal):
        self.id, self.question, self.sheet, self._reveal = id, question, sheet, reveal
        self.prediction: Prediction | None = None
        self.error: Exception | None = None
        self._arms: Arms | None = None  # the result, once it may be seen
        self._live: LiveTraining | None = None
        self._task: asyncio.Task | None = None
        self._locked, self._shown, self._note = False, False, ""
        self._build()
        self._take_up()
        self._refresh()

    def _build(self) -> None:
        question = ipywidgets.HTML(asked(self.id, self.question, self.sheet.invitation))
        event = ipywidgets.HTML(lines(f"How sure are you that {self.sheet.event}?"))
        self._sure = ipywidgets.ToggleButtons(description="Sure:", options=LEVELS, value=None)
        self._sure.style.button_width, self._sure.style.description_width = "5.5em", "initial"
        self._lock, self._change, self._run = (ipywidgets.Button(description=text) for text in (
            "Lock in my guess", "Change my guess", "Run"))
        for button in (self._lock, self._change, self._run):
            button.layout.width = "13em"
        buttons = ipywidgets.HBox([self._lock, self._change, self._run])
        buttons.layout.flex_flow = "row wrap"
        self._status, self._score, self._caption = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self._image = ipywidgets.Image(format="png")
        self._image.layout.max_width, self._image.layout.align_self = "100%", "flex-start"
        self._below = ipywidgets.VBox()  # the live training, the calibration: what Run brings
        self.view = ipywidgets.VBox([question, self.sheet.view, event, self._sure, buttons, self._status, self._score,
                                     self._image, self._caption, self._below, ipywidgets.HTML(explained())])
        self._lock.on_click(lambda _: self._lock_in())
        self._change.on_click(lambda _: self._reopen())
        self._run.on_click(lambda _: self._show_result())
        redraw = debounced(self._draw)
        self.sheet.changed = lambda: self._guess_changed(redraw)
        self._sure.observe(lambda _: self._refresh_controls(), "value")
        self.view.observe(self._when_closed, "comm")

    def figure(self) -> figures.Figure:
        """The empty sheet, whatever has been guessed: a stored notebook holds nobody's guess and no result."""
        return self.sheet.empty()

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        bundle = super()._repr_mimebundle_(include, exclude)
        words = f"Prediction {self.id}. {self.question}"
        return bundle | {"text/html": f"<p>{html.escape(words)}</p>" + bundle["text/html"],
                         "text/plain": f"{words} {bundle['text/plain']}"}

    # The guess ---------------------------------------------------------------------------------------------------

    def _guess_changed(self, redraw: Callable[[], None]) -> None:
        self._refresh_controls()
        redraw()

    def _take_up(self, *, seen: bool = False) -> bool:
        """Lock in the guess that the file holds, with `seen` only if its result was shown in a cell. False for none."""
        try:
            kept = predictions.find(self.id, self.sheet.kind, self.sheet.asked)
        except progress.ProgressError as error:
            self._note = f"Your guess cannot be kept: {error}."
            return False
        if kept is None or (seen and kept.revealed is None):
            return False
        self.prediction, self._locked = kept, True
        self.sheet.fill(kept.guess)
        self._sure.value = kept.confidence if kept.confidence in dict(LEVELS).values() else None
        return True

    def _lock_in(self) -> None:
        if self._locked or self.sheet.guess is None or self._sure.value is None:
            return
        if not self._take_up(seen=True):
            self.prediction = predictions.lock(self.id, self.sheet.kind, self.sheet.asked, self.sheet.guess,
                                               self._sure.value)
            self._locked = True
            self._keep()
        self._refresh()

    def _reopen(self) -> None:
        if self._locked and self.prediction.revealed is None:
            self._locked = self._take_up(seen=True)
            self._refresh_controls()

    def _keep(self) -> None:
        try:
            predictions.keep(self.prediction)
            self._note = ""
        except progress.ProgressError as error:
            self._note = f"Your guess was not saved: {error}."

    # The result --------------------------------------------------------------------------------------------------

    def _show_result(self) -> None:
        """What Run does: from here on the guess stays as it is."""
        if self._run.disabled:  # a second click of a double click is on its way
            return
        self._take_up(seen=True)
        self.prediction = predictions.reveal(self.prediction)
        self._keep()
        self.error = None
        try:
            found = self._reveal if isinstance(self._reveal, (LiveTraining, Mapping)) else self._reveal()
            if isinstance(found, LiveTraining):
                self._train(found)
            else:
                self._finish(found)
        except Exception as error:  # behind a button nobody else would show it
            self._fail(error)

    @property
    def _busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def _train(self, live: LiveTraining) -> None:
        """Start it, unless what it holds is a result already, and draw over the guess what has been trained so far."""
        self._live = live
        self._below.children = [live.view]
        if self._has_result(live):
            self._finish(live.arms)
            return
        live.start()
        if live.running:
            self._task = asyncio.get_running_loop().create_task(self._follow(live))
            self._refresh_controls()
        else:
            self._finish(live.arms)

    def _has_result(self, live: LiveTraining) -> bool:
        try:
            self.sheet.verdict(self.prediction.guess, live.arms)
        except ValueError:  # arms that are still missing or unfinished
            return False
        return not live.running

    async def _follow(self, live: LiveTraining) -> None:
        while live.running:
            await asyncio.sleep(FOLLOW_SECONDS)
            if live.running and self.sheet.follows:
                self._arms = live.arms
                self._draw()
        self._task = None
        if live.error is not None:
            self._fail(live.error)
        else:
            self._finish(live.arms)

    def _finish(self, arms: Arms) -> None:
        """Judge what is there, once, and draw it over the guess."""
        try:
            verdict = self.sheet.verdict(self.prediction.guess, arms)
            first = self.prediction.right is None
            self.prediction = predictions.judge(self.prediction, verdict.right, verdict.score)
            self._arms, self._shown = arms, True
            self._keep()
            self._refresh()
            self._score.value = judged(verdict, self.prediction, first)
            self._show_calibration()
        except outcomes.UnfinishedError as error:  # stopped by the reader: nothing went wrong
            self._refresh_controls()
            self._score.value = card(None, f"Not judged yet: {html.escape(str(error))}. Run trains again.")
        except Exception as error:  # in a task nobody else would show it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._refresh_controls()
        self._score.value = one_line(error)

    def _show_calibration(self) -> None:
        """Of the file; of this guess alone where the file cannot be used."""
        try:
            made = predictions.load().values()
        except progress.ProgressError:
            made = [self.prediction]
        panel = CalibrationPanel()
        panel.show(predictions.calibration(made))
        self._below.children = [panel.view] if self._live is None else [panel.view, self._live.view]

    # What is seen ------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        self._refresh_controls()
        self._draw()

    def _refresh_controls(self) -> None:
        revealed = self.prediction is not None and self.prediction.revealed is not None
        ready = self.sheet.guess is not None and self._sure.value is not None
        for control in (*self.sheet.controls, self._sure):
            control.disabled = self._locked
        self._lock.disabled = self._locked or not ready
        self._change.disabled = not self._locked or revealed
        self._run.disabled = not self._locked or self._busy or self._shown
        self._run.description = "Run" if self._locked else "Run (guess first)"
        self._lock.button_style, self._run.button_style = ("", "primary") if self._locked else ("primary", "")
        missing = [] if self.sheet.guess is not None else [self.sheet.missing]
        missing += [] if self._sure.value is not None else ["how sure you are"]
        locked = self.prediction if self._locked else None
        said = status(locked, missing, self._sure.value, training=self._busy, shown=self._shown)
        self._status.value = lines(*filter(None, (said, self._note)), role="status")

    def _draw(self) -> None:
        try:
            figure = self.sheet.figure(self._arms)
            self._image.value, self._caption.value = figure.png(DPI), in_words(figure)
        except Exception as error:  # on the event loop nobody else would show it
            self.error, self._caption.value = error, one_line(error)

    def _when_closed(self, change) -> None:
        if change.new is None and self._live is not None:
            self._live.close()
