"""Where the runs of a sweep are trained: in this process, or in several that end with it."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait

import torch

from cbn_lab._tasks import Event, Note, Task, require_jobs, resolved, trained
from cbn_lab.config import TrainConfig

END_SECONDS = 10.0  # for a process to keep what was recorded


class Here:
    """One run at a time, in this process."""

    jobs = 1
    resolved = staticmethod(resolved)

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
    gpu: str | None
    task: Task | None = None


class Processes:
    """`jobs` runs at a time, each in a process that takes the next one afterwards; on `gpus` in turn."""

    resolved = staticmethod(resolved)

    def __init__(self, jobs: int, prepare: Callable | None, gpus: Sequence[str] = ()):
        self.jobs, self._prepare, self._gpus = jobs, prepare, gpus
        self._workers: list[_Worker] = []

    @property
    def free(self) -> bool:
        return sum(worker.task is not None for worker in self._workers) < self.jobs

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
        taken = [worker.gpu for worker in self._workers]
        gpu = min(self._gpus, key=taken.count, default=None)  # also the one of a process that has died
        process = context.Process(target=_serve, args=(theirs, self._prepare, gpu))
        with _deaf_to_interrupts():
            process.start()
        theirs.close()  # so that `ours` ends with the process
        self._workers.append(_Worker(process, ours, gpu))
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


def local(configs: Sequence[TrainConfig], jobs: int | None, prepare: Callable | None) -> Here | Processes:
    """The place on this machine for so many runs at a time; None: see `cbn_lab.sweep`."""
    require_jobs(jobs)
    devices = {config.device for config in resolved(configs)}
    if jobs is None:
        named = len(devices - {"cpu"})  # "cuda:1" is one, however many there are
        jobs = cores() if named == 0 else len(gpus()) if "cuda" in devices else named
    in_turn = gpus() if devices - {"cpu"} == {"cuda"} else []  # none where the settings themselves name one
    return Here(prepare) if jobs == 1 else Processes(jobs, prepare, in_turn)


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
