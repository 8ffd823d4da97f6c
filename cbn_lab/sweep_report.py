"""What a sweep shows: a bar with the time that remains, and at the end a table of what was recorded."""

import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from statistics import fmean

import torch
from tqdm import tqdm

from cbn_lab import runs
from cbn_lab._tasks import Event, Task
from cbn_lab.config import TrainConfig
from cbn_lab.train import Trainer

_DIGITS, _CIFAR = 1415, 50_000  # training images; other data count as CIFAR
_FINAL = ("validation_accuracy", "test_accuracy")  # the first that all have: where images are held out, these decide


class Bar:
    """One bar over the whole plan on a terminal, elsewhere a line per run that has ended, on standard error.

    A run counts by its expected work: epochs times images. How long a unit of it takes is learned for each kind of run
    (data and network), from those under way, and before there are any from the records in the folder.
    """

    def __init__(self, tasks: Sequence[Task], recorded: Sequence[runs.Run], jobs: int):
        self.failures, self._jobs = {}, jobs
        self._kind = {task.name: kind(task.config) for task in tasks}
        self._work = {task.name: work(task.config) for task in tasks}
        self._done = dict.fromkeys(self._work, 0.0) | {runs.name(run.config): 1.0 for run in recorded}
        self._ended = {runs.name(run.config) for run in recorded}
        self._pace = {}
        self._recorded = rates(recorded)
        self._bar = None

    def __enter__(self):
        if sys.stderr.isatty() and len(self._ended) < len(self._work):
            size = shutil.get_terminal_size()
            self._bar = tqdm(total=1.0, ncols=size.columns, nrows=size.lines,
                             bar_format="{percentage:3.0f}% |{bar}| {desc}")
            self._show()
            self._bar.refresh()
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def note(self, event: Event) -> None:
        """An event of a run under way."""
        self._done[event.name] = event.fraction
        if event.seconds is not None:
            self._pace[event.name] = event.seconds
        if event.status is not None:
            self._end(event)
        self._show()

    def found(self, name: str) -> None:
        """Another sweep has recorded this run."""
        self._done[name] = 1.0
        self._ended.add(name)
        self._show()

    def _end(self, event: Event) -> None:
        self._done[event.name] = 1.0
        self._ended.add(event.name)
        line = event.line
        if event.status == "failed":
            self.failures[event.name] = line
            line = f"failed: {event.name}: {line}"
        tqdm.write(f"{self._counted()} {line}", file=sys.stderr)

    def _counted(self) -> str:
        return f"{len(self._ended)}/{len(self._work)}"

    def _show(self) -> None:
        if self._bar is None:
            return
        seconds = self.remaining()
        left = "time unknown" if seconds is None else f"{tqdm.format_interval(seconds)} left"
        failed = f", {len(self.failures)} failed" if self.failures else ""
        self._bar.set_description_str(f"{self._counted()} runs{failed}, {left}", refresh=False)
        done = sum(self._done[name] * self._work[name] for name in self._work)
        self._bar.update(done / sum(self._work.values()) - self._bar.n)

    def remaining(self) -> float | None:
        """Seconds to the end of the sweep, or None as long as nothing is known."""
        return remaining([(self._kind[name], self._work[name] * (1.0 - self._done[name]))
                          for name in self._work if name not in self._ended],
                         self._recorded | _means((self._kind[name], seconds / self._work[name])
                                                 for name, seconds in self._pace.items()), self._jobs)


def kind(config: TrainConfig) -> str:
    """What decides how long an image takes. Activation and norm change that too, but by less than the rest."""
    settings = config.record()
    return json.dumps([settings[key] for key in ("data", "model", "model_options", "device", "precision")],
                      default=list)


def work(config: TrainConfig) -> float:
    """Images to train on, over all epochs."""
    images = config.train_images or (_DIGITS if config.data == "digits" else _CIFAR) - config.validation_images
    return config.epochs * max(1, images)


def remaining(open_work: Sequence[tuple[str, float]], rates: dict[str, float], jobs: int) -> float | None:
    """Seconds for (kind, work) pairs, `jobs` at a time; a kind that is not in `rates` counts with the mean of those."""
    if not open_work:
        return 0.0
    if not rates:
        return None
    mean = fmean(rates.values())
    each = [amount * rates.get(key, mean) for key, amount in open_work]
    return max(sum(each) / jobs, max(each))


def rates(recorded: Sequence[runs.Run]) -> dict[str, float]:
    """Kind -> seconds per unit of work, from the finished runs that were recorded on this machine's devices."""
    here = {device: runs.device_name(device) for device in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]}
    pairs = []
    for run in recorded:
        if run.status == "finished" and here.get(run.config["device"]) == run.provenance["device"]:
            config = TrainConfig(**run.config)
            pairs.append((kind(config), run.curve[-1]["seconds"] / work(config)))
    return _means(pairs)


def timed(config: TrainConfig, root=None) -> float:
    """Seconds per unit of work, from the second and third SGD step of this run. Raises what training it would raise."""
    trainer = Trainer(config, root=root)
    turns = trainer.turns()
    next(turns)
    began = time.perf_counter()
    steps = sum(1 for _ in itertools.islice(turns, 2))
    return (time.perf_counter() - began) / (steps * trainer.batch_size)


def _means(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Key -> mean of its values."""
    values: dict[str, list[float]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return {key: fmean(found) for key, found in values.items()}


def table(records: Sequence[runs.Run]) -> list[str]:
    """Lines of a table: a row for each combination of the settings that differ, with the mean and range over seeds."""
    if not records:
        return ["nothing is recorded"]
    keys = [key for key in dict.fromkeys(key for run in records for key in run.config)
            if key != "seed" and len({_word(run.config.get(key)) for run in records}) > 1]
    arms: dict[tuple, list[runs.Run]] = {}
    for run in records:
        arms.setdefault(tuple(_word(run.config.get(key)) for key in keys), []).append(run)
    finished = [run for run in records if run.status == "finished"]
    metric = next((key for key in _FINAL if finished and all(key in run.final for run in finished)), _FINAL[1])
    head = [*keys, f"{metric.replace('_', ' ')} (%)", "range", "train loss", "seeds", ""]
    rows = [head, *([*arm, *_cells(group, metric)] for arm, group in arms.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(group: Sequence[runs.Run], metric: str) -> list[str]:
    finished = [run for run in group if run.status == "finished"]
    others = [f"{sum(run.status == status for run in group)} {status}" for status in runs.STATUSES[1:]
              if any(run.status == status for run in group)]
    if not finished:
        return ["-", "-", "-", "0", ", ".join(others)]
    percents = [100 * run.final[metric] for run in finished if metric in run.final]
    return [f"{fmean(percents):.2f}", f"{min(percents):.2f} to {max(percents):.2f}",
            f"{fmean(run.final['train_loss'] for run in finished):.3f}", str(len(finished)), ", ".join(others)]


def _word(value) -> str:
    """A setting in a cell of the table."""
    if isinstance(value, dict):
        return " ".join(f"{key}={_word(v)}" for key, v in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ",".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
