"""Training that draws itself while the notebook stays usable: a task on the kernel's own event loop.

The task takes one step after the other from `Trainer.turns()` and gives the loop a turn in between, so Stop works,
other cells run, other widgets train at the same time, and there is no thread. Where no loop runs (plain Python),
`start()` trains to the end at once.
"""

import asyncio
import html
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import ipywidgets

from cbn_lab import figures, runs
from cbn_lab.figures.curves import marks
from cbn_lab.figures.selection import differences, word
from cbn_lab.runs import Run
from cbn_lab.train import DivergedError, TrainConfig, Trainer
from cbn_lab.widgets.cells import Background
from cbn_lab.widgets.display import TYPED_SECONDS, Shown, one_line
from cbn_lab.widgets.pace import PAUSE_SECONDS, paced
from cbn_lab.widgets.player import Curves, Transport

TASK = "cbn-lab live training"
STATUS_SECONDS = 0.1


class LiveTraining(Shown):
    """Trains `configs` one after the other and draws the curves as they grow, over those of `recorded`.

    Show it as the last expression of a cell. `start()`, `stop()` and `clear()` are what the buttons call;
    `await done()` waits and returns the runs. Started again, it trains the next seeds and lays the new curves over the
    old ones. Where there are recorded runs, they can be played like a live training. A failure is shown in one line,
    kept in `error`, and raised by `done()`. Running the cell again, or closing the view, ends the training.

    configs   what to train, in turn; a `log_every` of None becomes 1, to see the curve grow
    recorded  label -> runs, drawn from the beginning
    label     config -> name of the arm that a live run joins; where an arm of that name has other settings, what
              differs is added to the name, and ", live" where a recorded one has it
    root      folder of the data
    before_start  called when a start is about to read the settings, to bring them up to date by `show(..., keep=True)`
    on_finish called with each live run that came to its end
    on_clear  called when the live runs were taken away

    Where the settings hold validation images out, live runs are evaluated on those alone, never on the test images.
    """

    def __init__(self, configs: Sequence[TrainConfig], *, recorded: Mapping[str, Sequence[Run]] | None = None,
                 label: Callable[[TrainConfig], str] = lambda config: word(config.placement), root=None,
                 before_start: Callable[[], None] = lambda: None, on_finish: Callable[[Run], None] = lambda run: None,
                 on_clear: Callable[[], None] = lambda: None):
        self._label, self._root = label, root
        self._before_start, self._on_finish, self._on_clear = before_start, on_finish, on_clear
        self.curves = Curves()
        self._transport = Transport(self._redraw, lambda: self.curves.cost)
        self._work = Background(TASK)
        self._start = ipywidgets.Button(description="Start", button_style="primary")
        self._stop = ipywidgets.Button(description="Stop")
        self._clear = ipywidgets.Button(description="Clear")
        self._bar = ipywidgets.FloatProgress(min=0.0, max=1.0)
        self._status = ipywidgets.HTML()
        for button, act in ((self._start, self.start), (self._stop, self.stop), (self._clear, self.clear)):
            button.on_click(lambda button, act=act: act())
        row = ipywidgets.HBox([self._start, self._stop, self._clear, self._bar, self._status])
        row.layout.flex_flow = "row wrap"
        self.view = ipywidgets.VBox([row, self._transport.view, self.curves.image, self.curves.caption])
        self._work.ends_with(self.view)
        self._transport.background.ends_with(self.view)
        self.show(configs, recorded)

    def show(self, configs: Sequence[TrainConfig], recorded: Mapping[str, Sequence[Run]] | None = None, *,
             keep: bool = False) -> None:
        """Stand ready to train `configs` over `recorded`.

        What was trained live is stopped and forgotten. With `keep` it stays in the picture, and a training that is
        under way goes on with its own settings; the next start takes the new ones. ValueError for no settings.
        """
        if not configs:
            raise ValueError("there is nothing to train; give at least one TrainConfig")
        before = self._picture() if keep else None
        if not keep:
            self._work.abandon()
            self._live: list[tuple[str, Run]] = []
            self._begun: list[TrainConfig] = []  # what was started, also if nothing came of it
            self._current: Run | None = None
            self._marks: dict[str, figures.Mark] = {}
            self.error: Exception | None = None
            self._bar.value, self._status.value = 0.0, ""
        self._configs = [config if config.log_every else replace(config, log_every=1) for config in configs]
        recorded = {name: list(group) for name, group in (recorded or {}).items()}
        if not keep or recorded != self._recorded:
            self._recorded = recorded
            self._transport.show(recorded)
        self._set_buttons()
        if before is None or before != self._picture():
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
            arms.setdefault(f"{label}, live" if label in self._recorded else label, []).append(run)
        return arms

    @property
    def running(self) -> bool:
        return self._work.running

    def start(self) -> None:
        """Begin to train; returns at once where an event loop runs, else after the last epoch."""
        if self.running or self._work.start(self._train):
            return
        asyncio.run(self._train())
        if self.error is not None:
            raise self.error from None

    def stop(self) -> None:
        """End the training after its present step; what was trained stays in the picture."""
        self._work.stop()

    def clear(self) -> None:
        """Take what was trained live out of the picture, but for a run that is under way; its seeds are free again."""
        self._live = [(arm, run) for arm, run in self._live if run is self._current]
        if not self.running:
            self._begun, self.error = [], None
            self._bar.value, self._status.value = 0.0, ""
        self._set_buttons()
        self._redraw()
        self._on_clear()

    def close(self) -> None:
        """End the training and remove the view."""
        self.view.close()

    async def done(self) -> list[Run]:
        """Wait for the end of the training (starting it if it never was) and return the live runs.

        Raises what the training raised. Interrupting the kernel while a cell waits here stops the training as well.
        """
        if self._work.task is None and not self._begun:
            self.start()
        try:
            if self.running:
                await asyncio.wait([self._work.task])
        except asyncio.CancelledError:
            self.stop()
            raise
        if self.error is not None:
            raise self.error
        return self.runs

    def figure(self) -> figures.Figure:
        """What the image shows: the recorded runs up to where they are played, the live ones as far as they got.

        Empty axes, with the arms that are still to come, as long as there is nothing else.
        """
        return figures.learning_curves(**self._shown())

    def _shown(self) -> dict:
        """The arguments of `figures.learning_curves`."""
        arms, epoch = self._picture()
        self._marks |= dict(zip(arms, marks(arms, self._marks), strict=True))
        upto = None if epoch is None else dict.fromkeys(self._recorded, epoch)
        return {"runs": arms, "upto": upto, "kept": self._marks}

    def _picture(self) -> tuple[dict[str, list[Run]], float | None]:
        """(arms, epoch of the player)."""
        arms = self.arms
        for config in [] if arms else self._configs:
            arms.setdefault(self._label(config), [Run(config.record(), [], {}, {}, "interrupted")])
        return arms, self._transport.epoch

    async def _train(self) -> None:
        """One round: each setting once, with seeds that no round before has used."""
        mine = self._work.task
        self.error = None
        self._set_buttons(running=True)
        self._status.value = "starting"
        began, config = time.perf_counter(), self._configs[0]
        try:
            await asyncio.sleep(TYPED_SECONDS)
            self._before_start()
            self._begun += (configs := self._next_round())
            for number, config in enumerate(configs):
                await self._train_one(config, number / len(configs), 1 / len(configs), began)
            ending = f"finished in {time.perf_counter() - began:.0f} s"
        except asyncio.CancelledError:
            ending = "stopped"
        except Exception as error:
            if mine is self._work.task:
                self.error, ending = error, f"{html.escape(self._name(config))}: {one_line(error)}"
        if mine is self._work.task:
            self._current = None
            self._set_buttons(running=False)
            self._status.value = ending
            self._redraw()

    def _next_round(self) -> list[TrainConfig]:
        """The present settings with the first seeds, in steps of their range, that were not begun yet."""
        seeds = [config.seed for config in self._configs]
        for shift in itertools.count(0, 1 + max(seeds) - min(seeds)):
            configs = [replace(config, seed=config.seed + shift) for config in self._configs]
            if not any(config in self._begun for config in configs):
                return configs

    async def _train_one(self, config: TrainConfig, start: float, share: float, began: float) -> None:
        """One run, which is `share` of the round, beginning at `start` of it."""
        self._status.value = html.escape(f"{self._name(config)}: loading the data")
        await asyncio.sleep(PAUSE_SECONDS)
        trainer = Trainer(config, root=self._root)
        if config.validation_images:
            trainer.held_out.pop("test")
        settings = trainer.config.record()
        arm = self._arm(config, settings)
        device = {"device": runs.device_name(trainer.config.device)}
        live = self._current = Run(settings, trainer.curve, {}, device, "interrupted")  # its curve grows
        self._live.append((arm, live))
        self._set_buttons(running=True)
        said = 0.0
        try:
            async for progress in paced(trainer, self._draw, lambda: self.curves.cost):
                if time.perf_counter() > said + STATUS_SECONDS:
                    said = time.perf_counter()
                    self._report(f"{arm}, seed {config.seed}: epoch {progress.epoch:.1f} of {config.epochs}",
                                 start + share * progress.step / progress.steps, said - began)
        except DivergedError:
            self._settle(live, status="diverged")
            raise
        self._bar.value = start + share
        self._settle(live, status="finished", final=trainer.final())
        self._on_finish(self.runs[-1])

    def _name(self, config: TrainConfig) -> str:
        return f"{self._label(config)}, seed {config.seed}"

    def _report(self, where: str, done: float, seconds: float) -> None:
        self._bar.value = done
        self._status.value = html.escape(f"{where}, about {seconds * (1 - done) / done:.0f} s left")

    def _settle(self, live: Run, **result) -> None:
        self._live = [(arm, replace(run, **result) if run is live else run) for arm, run in self._live]

    def _arm(self, config: TrainConfig, settings: dict) -> str:
        """The label, made longer where recorded runs, or live ones of other settings, have it already."""
        label = self._label(config)
        label = f"{label}, live" if label in self._recorded else label
        changed = self._changed(label, settings)
        said = ", ".join([label, *(_readable(key, settings[key]) for key in changed)])
        names = itertools.chain([label, said], (f"{said} ({number})" for number in itertools.count(2)))
        return next(name for name in names if not self._changed(name, settings))

    def _changed(self, arm: str, settings: dict) -> list[str]:
        """In what these settings differ from those of a live arm; in nothing where there is no such arm."""
        return differences([*(run.config for name, run in self._live if name == arm), settings])

    def _redraw(self) -> None:
        """Draw; an error is shown, for on the event loop nobody else would see it."""
        try:
            self._draw()
        except Exception as error:
            self.error, self._status.value = error, one_line(error)

    def _draw(self) -> None:
        self.curves.draw(self._shown())

    def _set_buttons(self, running: bool | None = None) -> None:
        running = self.running if running is None else running
        self._start.disabled, self._stop.disabled, self._clear.disabled = running, not running, not self._live
        again = any(config in self._begun for config in self._configs)
        self._start.description = "Next seed" if again else "Start"


def _readable(key: str, value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {of}" for name, of in value.items()) or f"no {key}"
    return f"{key.replace('_', ' ')} {value if isinstance(value, (int, float)) else word(value)}"


def watch(configs: Sequence[TrainConfig], **options) -> LiveTraining:
    """A `LiveTraining` that has been started."""
    live = LiveTraining(configs, **options)
    live.start()
    return live
