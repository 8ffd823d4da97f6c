"""One run of a sweep: where its record goes, how it is trained, and what is said about it meanwhile."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cbn_lab import runs
from cbn_lab.config import TrainConfig
from cbn_lab.train import DivergedError, fit

NOTE_SECONDS = 0.2  # between two events of one run


@dataclass(frozen=True)
class Task:
    """One run, its settings resolved, and where its record goes."""

    name: str
    config: TrainConfig
    out: Path
    root: str | None

    @property
    def record(self) -> Path:
        return self.out / f"{self.name}.json"

    def ended(self) -> bool:
        """Whether it is recorded to its end, be that a divergence."""
        return self.record.exists() and self.load().status != "interrupted"

    def load(self) -> runs.Run:
        return runs.load(self.record)


def tasks(configs: Sequence[TrainConfig], out, root=None) -> list[Task]:
    """One for each different run, in the order of the configs, which are resolved."""
    named = {runs.name(config.record()): config for config in configs}
    return [Task(name, config, Path(out), root) for name, config in named.items()]


@dataclass(frozen=True)
class Event:
    """Where a run stands: `fraction` of its steps, and the `seconds` that a whole run takes at this pace.

    `status` is None as long as it is trained, then "finished", "diverged" or "failed", with a line for people.
    """

    name: str
    fraction: float
    seconds: float | None = None
    status: str | None = None
    line: str = ""


Note = Callable[[Event], object]


def resolved(configs: Sequence[TrainConfig]) -> list[TrainConfig]:
    """The settings as they are meant on this machine."""
    return [config.resolved() for config in configs]


def trained(task: Task, note: Note) -> Event:
    """Train one run, or the rest of it. Raises KeyboardInterrupt where it was stopped, after saving."""
    pace, last = _Pace(task), 0.0

    def progress(state) -> None:
        nonlocal last
        seconds = pace(state.step / state.steps)
        if time.monotonic() - last > NOTE_SECONDS:
            last = time.monotonic()
            note(Event(task.name, state.step / state.steps, seconds))

    try:
        run = fit(task.config, out=task.out, root=task.root, resume=True, on_progress=progress)
        status, line = run.status, run.summary()
    except DivergedError as error:
        status, line = "diverged", f"{task.name}: {error}"
    except Exception as error:
        status, line = "failed", sentence(error)
    _tidy(task.config)
    if status == "interrupted":
        raise KeyboardInterrupt
    return Event(task.name, 1.0, pace(1.0) if status == "finished" else None, status, line)


class _Pace:
    """How many seconds a whole run takes, from what of it was done since this object was made."""

    def __init__(self, task: Task):
        self._begun = time.perf_counter()
        self._from = None if task.record.with_suffix(".ckpt").exists() else 0.0

    def __call__(self, fraction: float) -> float | None:
        if self._from is None:  # resumed: the checkpoint's fraction is that of the first call
            self._from, self._begun = fraction, time.perf_counter()
        done = fraction - self._from
        return (time.perf_counter() - self._begun) / done if done > 0 else None


def sentence(error: Exception) -> str:
    """An error as one line."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "the device has too little memory for this run; try a smaller batch_size, or fewer jobs"
    return text if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {text}"


def _tidy(config: TrainConfig) -> None:
    """Leave nothing to the next run: no memory, and none of the graphs, of which torch.compile keeps only a few."""
    gc.collect()
    if config.device.startswith("cuda"):
        torch.cuda.empty_cache()
    if config.compile or config.cuda_graphs:
        torch.compiler.reset()


def require_jobs(jobs: int | None) -> None:
    if jobs is not None and (not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1):
        raise ValueError(f"jobs must be at least 1, a whole number, or None, got {jobs!r}")
