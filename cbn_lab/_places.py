"""Where the runs of a sweep are trained: in this process, or in several that end with it."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import torch

from cbn_lab.config import TrainConfig
from cbn_lab.train import DivergedError, fit

NOTE_SECONDS = 0.2  # between two events of one run
END_SECONDS = 10.0  # for a process to keep what was recorded


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


class Here:
    """One run at a time, in this process."""

    def __init__(self, prepare: Callable | None):
        self._task = None
        if prepare is not None:
            prepare()

    @property
    def free(self) -> bool:
        return self._task is None

    @property
    def busy(self) -> bool:
        return self._task is not None

    def start(self, task: Task) -> None:
        self._task = task

    def work(self, note: Note, seconds: float) -> None:
        """Train what was started, to its end; without a task, wait."""
        if self._task is None:
            time.sleep(seconds)
        else:
            note(trained(self._task, note))
            self._task = None

    def close(self) -> None:
        pass


@dataclass
class _Worker:
    process: multiprocessing.Process
    pipe: multiprocessing.connection.Connection
    task: Task | None = None


class Processes:
    """`jobs` runs at a time, each in a process that takes the next one afterwards; on `gpus` in turn."""

    def __init__(self, jobs: int, prepare: Callable | None, gpus: list[str]):
        self._jobs, self._prepare, self._gpus = jobs, prepare, gpus
        self._workers: list[_Worker] = []

    @property
    def free(self) -> bool:
        return sum(worker.task is not None for worker in self._workers) < self._jobs

    @property
    def busy(self) -> bool:
        return any(worker.task for worker in self._workers)

    def start(self, task: Task) -> None:
        idle = [worker for worker in self._workers if worker.task is None]
        worker = idle[0] if idle else self._new()
        worker.task = task
        try:
            worker.pipe.send(task)
        except OSError:  # it has died; `work` sees that too, and says so
            pass

    def _new(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        gpu = self._gpus[len(self._workers) % len(self._gpus)] if self._gpus else None
        process = context.Process(target=_serve, args=(theirs, self._prepare, gpu))
        with _deaf_to_interrupts():
            process.start()
        theirs.close()  # so that `ours` ends with the process
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]

    def work(self, note: Note, seconds: float) -> None:
        """Pass on what the processes say, after waiting for at most so many seconds."""
        if not self.busy:
            time.sleep(seconds)
        for pipe in wait([worker.pipe for worker in self._workers if worker.task], seconds):
            worker = next(worker for worker in self._workers if worker.pipe is pipe)
            try:
                event = pipe.recv()
            except (EOFError, OSError):
                event = self._died(worker)
            if event.status is not None:
                worker.task = None
            note(event)

    def _died(self, worker: _Worker) -> Event:
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        code = worker.process.exitcode
        why = f"ended with exit code {code}" if code >= 0 else \
            f"was ended by {signal.Signals(-code).name}; of SIGKILL, too little memory is the likely reason"
        return Event(worker.task.name, 0.0, status="failed", line=f"its process {why}")

    def close(self) -> None:
        """End the processes; those that train keep what was recorded, if they can do that within ten seconds."""
        for worker in self._workers:
            if worker.task is None:
                worker.pipe.close()
            else:
                worker.process.terminate()
        end = time.monotonic() + END_SECONDS
        try:
            for worker in self._workers:
                worker.process.join(max(0.0, end - time.monotonic()))
        finally:  # also after a second Ctrl-C
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()
            self._workers = []


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
    if config.compile:
        torch.compiler.reset()


def _serve(pipe, prepare: Callable | None, gpu: str | None) -> None:
    """The life of one process: a task, its events, and again, until the sweep closes the pipe or is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the sweep passes it on as SIGTERM
    signal.signal(signal.SIGTERM, interrupt)
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before torch looks for one
    try:
        if prepare is not None:
            prepare()
        while True:
            task = pipe.recv()
            if task.config.device == "cpu":
                torch.set_num_threads(1)
            pipe.send(trained(task, pipe.send))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass


def _end_with_the_sweep() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def interrupt(*_) -> None:
    """A signal handler: end as Ctrl-C does."""
    raise KeyboardInterrupt


@contextmanager
def _deaf_to_interrupts():
    """Processes started here ignore Ctrl-C from their first moment on, not only once Python has imported torch."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
