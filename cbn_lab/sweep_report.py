"""What a sweep shows: a bar with the time that remains, and at the end a table of what was recorded."""

import json
import shutil
import sys
from collections.abc import Sequence
from statistics import fmean

from tqdm import tqdm

from cbn_lab import runs
from cbn_lab.config import TrainConfig

_DIGITS, _CIFAR = 1415, 50_000  # training images; other data count as CIFAR
_FINAL = ("validation_accuracy", "test_accuracy")  # the first that all have: where images are held out, these decide


class Bar:
    """One bar over the whole plan on a terminal, elsewhere a line per run that has ended, on standard error.

    A run counts by its expected work: epochs times images. How long a unit of it takes is learned per kind of run (data
    and network) from the records in the folder and from the runs under way, and so is the time that remains.
    """

    def __init__(self, plan: dict[str, TrainConfig], recorded: Sequence[runs.Run], jobs: int):
        self.failures, self.trained, self._jobs = {}, 0, jobs
        self._kind = {name: kind(config) for name, config in plan.items()}
        self._work = {name: work(config) for name, config in plan.items()}
        self._done = dict.fromkeys(plan, 0.0) | {runs.name(run.config): 1.0 for run in recorded}
        self._ended = {runs.name(run.config) for run in recorded}
        self._pace = {name: seconds for name, seconds in map(_pace, recorded) if seconds}
        self._bar = None

    def __enter__(self):
        if sys.stderr.isatty() and len(self._ended) < len(self._work):
            size = shutil.get_terminal_size()
            self._bar = tqdm(total=1.0, ncols=size.columns, nrows=size.lines,
                             bar_format="{percentage:3.0f}% |{bar}| {desc}")
            self._show()
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def note(self, event) -> None:
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

    def _end(self, event) -> None:
        self._done[event.name] = 1.0
        self._ended.add(event.name)
        line = event.line
        if event.status == "failed":
            self.failures[event.name] = line
            line = f"failed: {event.name}: {line}"
        else:
            self.trained += 1
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
                          for name in self._work if name not in self._ended], self._rates(), self._jobs)

    def _rates(self) -> dict[str, float]:
        """Kind -> seconds per unit of work."""
        known: dict[str, list[float]] = {}
        for name, seconds in self._pace.items():
            known.setdefault(self._kind[name], []).append(seconds / self._work[name])
        return {key: fmean(values) for key, values in known.items()}


def kind(config: TrainConfig) -> str:
    """What decides how long an image takes. Activation and norm change that too, but by less than the rest."""
    return json.dumps([config.data, config.model, config.model_options, config.device, config.precision], default=list)


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


def _pace(run: runs.Run) -> tuple[str, float | None]:
    """Name and seconds of a run that was recorded on this device."""
    here = run.provenance["device"] == runs.device_name(run.config["device"])
    last = run.curve[-1] if run.curve else {}
    return runs.name(run.config), last.get("seconds") if here and run.status == "finished" else None


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
