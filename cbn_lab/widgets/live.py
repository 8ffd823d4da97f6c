"""Training that draws itself while the notebook stays usable: a task on the kernel's own event loop.

The task takes one progress record after the other from `Trainer.run()` and gives the loop a turn in between, so Stop
works, other cells run, and there is no thread. Where no loop runs (plain Python), `start()` trains to the end at once.
"""

import asyncio
import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import ipywidgets

from cbn_lab import figures
from cbn_lab.runs import Run
from cbn_lab.train import TrainConfig, Trainer
from cbn_lab.widgets.display import Shown, one_line

TASK = "cbn-lab live training"  # two trainings at once would only slow each other down, so a new one ends the old one
PAUSE_SECONDS = 0.003  # after each record; a click takes several turns of the loop to get through, more than sleep(0)
FRAME_SECONDS = 0.25  # at most 4 pictures a second; where drawing is slow, at most a third of the time is spent on it


class LiveTraining(Shown):
    """Trains `configs` one after the other and draws the curves as they grow, over those of `recorded`.

    Show it as the last expression of a cell. `start()` and `stop()` are what the buttons call; `await done()` waits and
    returns the runs. Started again, it trains the next seeds and lays the new curves over the old ones. A failure is
    shown in one line, kept in `error`, and raised by `done()`.

    configs   what to train, in turn; a `log_every` of None becomes 1, so that Stop never waits long
    recorded  label -> runs, drawn from the beginning
    label     config -> name of the arm that a live run joins
    root      folder of the data

    Where the settings hold validation images out, live runs are evaluated on those alone, never on the test images.
    """

    def __init__(self, configs: Sequence[TrainConfig], *, recorded: Mapping[str, Sequence[Run]] | None = None,
                 label: Callable[[TrainConfig], str] = lambda config: str(config.placement), root=None):
        self._label, self._root = label, root
        self._task: asyncio.Task | None = None
        self._start = ipywidgets.Button(description="Start", button_style="primary")
        self._stop = ipywidgets.Button(description="Stop", disabled=True)
        self._bar = ipywidgets.FloatProgress(min=0.0, max=1.0)
        self._status, self._caption = ipywidgets.HTML(), ipywidgets.HTML()
        self._image = ipywidgets.Image(format="png")
        self._image.layout.max_width = "100%"
        self._start.on_click(lambda button: self.start())
        self._stop.on_click(lambda button: self.stop())
        row = ipywidgets.HBox([self._start, self._stop, self._bar, self._status])
        row.layout.flex_flow = "row wrap"
        self.view = ipywidgets.VBox([row, self._image, self._caption])
        self.view.observe(self._when_closed, "comm")
        self.show(configs, recorded)

    def show(self, configs: Sequence[TrainConfig], recorded: Mapping[str, Sequence[Run]] | None = None) -> None:
        """Stop and forget what was trained live, and stand ready to train `configs` over `recorded`."""
        self.stop()
        self._task = None  # a task that is still ending sees by this that the view is no longer its own
        self._configs = [config if config.log_every else replace(config, log_every=1) for config in configs]
        self._recorded = {name: list(group) for name, group in (recorded or {}).items()}
        self._live: list[tuple[str, Run]] = []
        self._rounds = 0
        self._last_frame = self._frame_cost = 0.0
        self.error: Exception | None = None
        self._bar.value = 0.0
        self._set_buttons(running=False)
        self._status.value = ""
        self._draw()

    @property
    def runs(self) -> list[Run]:
        """The live runs so far; one that is not over, or was stopped, has status "interrupted"."""
        return [run for _, run in self._live]

    @property
    def arms(self) -> dict[str, list[Run]]:
        """label -> runs: the recorded ones and the live ones so far, as they are drawn."""
        arms = {name: list(group) for name, group in self._recorded.items()}
        for label, run in self._live:
            arms.setdefault(label, []).append(run)
        return arms

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to train; returns at once where an event loop runs, else after the last epoch."""
        if self.running:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self._train())
            if self.error is not None:
                raise self.error from None
            return
        for task in asyncio.all_tasks(loop):
            if task.get_name() == TASK:
                task.cancel()
        self._task = loop.create_task(self._train(), name=TASK)

    def stop(self) -> None:
        """End the training after its present record; what was trained stays in the picture."""
        if self.running:
            self._task.cancel()

    def close(self) -> None:
        """End the training and remove the view."""
        self.view.close()

    def _when_closed(self, change) -> None:
        if change.new is None:
            self.stop()

    async def done(self) -> list[Run]:
        """Wait for the end of the training (starting it if it never was) and return the live runs.

        Raises what the training raised. Interrupting the kernel while a cell waits here stops the training as well.
        """
        if self._task is None:
            self.start()
        try:
            if self.running:
                await asyncio.wait([self._task])
        except asyncio.CancelledError:
            self.stop()
            raise
        if self.error is not None:
            raise self.error
        return self.runs

    def figure(self) -> figures.Figure | None:
        """What the image shows; None as long as there is nothing to draw."""
        return figures.learning_curves(self.arms) if self.arms else None

    async def _train(self) -> None:
        """One round: each setting once, with seeds that no round before has used."""
        mine = self._task = asyncio.current_task()
        fresh = self._rounds * (1 + max(c.seed for c in self._configs) - min(c.seed for c in self._configs))
        configs = [replace(config, seed=config.seed + fresh) for config in self._configs]
        self._rounds += 1
        self.error = None
        self._set_buttons(running=True)
        began = time.perf_counter()
        try:
            for number, config in enumerate(configs):
                await self._train_one(config, number, began)
            ending = f"finished in {time.perf_counter() - began:.0f} s"
        except asyncio.CancelledError:
            ending = "stopped"
        except Exception as error:
            self.error, ending = error, one_line(error)
        if mine is self._task:
            self._set_buttons(running=False)
            self._status.value = ending
            self._draw()

    async def _train_one(self, config: TrainConfig, number: int, began: float) -> None:
        arm = self._label(config)
        self._status.value = f"{arm}, seed {config.seed}: loading the data"
        await asyncio.sleep(0)
        trainer = Trainer(config, root=self._root)
        if config.validation_images:
            trainer.held_out.pop("test")
        live = Run(trainer.config.record(), trainer.curve, {}, {}, "interrupted")  # its curve grows with the trainer's
        self._live.append((arm, live))
        for progress in trainer.run():
            done = (number + progress.step / progress.steps) / len(self._configs)
            left = (time.perf_counter() - began) * (1 - done) / done
            self._bar.value = done
            self._status.value = (f"{arm}, seed {config.seed}: epoch {progress.epoch:.1f} of {config.epochs}, "
                                  f"about {left:.0f} s left")
            if time.perf_counter() > self._last_frame + max(FRAME_SECONDS, 2 * self._frame_cost):
                self._draw()
            await asyncio.sleep(PAUSE_SECONDS)
        self._live[-1] = (arm, replace(live, final=trainer.final(), status="finished"))

    def _draw(self) -> None:
        began = time.perf_counter()
        figure = self.figure()
        if figure is not None:
            self._image.value = figure.png()
            self._caption.value = f"<p>{html.escape(figure.alt)}</p>"
        self._last_frame = time.perf_counter()
        self._frame_cost = self._last_frame - began

    def _set_buttons(self, running: bool) -> None:
        self._start.disabled, self._stop.disabled = running, not running
        self._start.description = "Start" if not self._rounds else "Next seed"


def watch(configs: Sequence[TrainConfig], **options) -> LiveTraining:
    """A `LiveTraining` that has been started."""
    live = LiveTraining(configs, **options)
    live.start()
    return live
