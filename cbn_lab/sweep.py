"""Many runs: `fill(configs, folder)` trains those that the folder does not hold yet, and each of them once.

A run is found by its name, `runs.name(config.resolved().record())`, which depends on every setting. A run that diverged
has ended too; one that was stopped goes on from its checkpoint. Several sweeps may fill one folder at a time
(`cbn_lab.locks`). Ctrl-C and SIGTERM keep what was recorded. A run that fails is reported at the end, in a line, and
the others are trained nevertheless.

`jobs` is how many runs are trained at a time. With 1 they are trained in this process, with the threads that torch has
here. With more, each has a process of its own, which takes the next run when it has ended one: on a CPU with one thread
each, since two runs with one thread are faster than one after the other with two; on several GPUs in turn. `None`
means, on a CPU, the processor's cores; on GPUs, one run on each, since the loop is made to keep one busy (small nets
may gain from more: nothing here measures that, so say how many).
"""

import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cbn_lab import runs
from cbn_lab._places import Event, Here, Processes, Task, cores, gpus, interrupt
from cbn_lab.config import TrainConfig
from cbn_lab.locks import Locks
from cbn_lab.sweep_report import Bar, table

LOOK_SECONDS = 1.0  # between two looks at what other sweeps have in hand


@dataclass(frozen=True)
class Summary:
    """What a sweep leaves: every record of its configs, in their order, and what went wrong."""

    records: list[runs.Run]
    trained: int
    missing: int
    failures: dict[str, str]
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """0 all there, 1 a run failed, 130 stopped by Ctrl-C or SIGTERM."""
        return 130 if self.interrupted else 1 if self.failures else 0

    def __str__(self) -> str:
        """The table of results, and a line about each run that failed."""
        return "\n".join([*table(self.records), *(f"failed: {name}: {line}" for name, line in self.failures.items())])


def recorded(config: TrainConfig, out) -> bool:
    """Whether `out` holds this run to its end (a diverged run has ended too)."""
    return _ended(Path(out) / f"{runs.name(config.resolved().record())}.json")


def _ended(record: Path) -> bool:
    return record.exists() and runs.load(record).status != "interrupted"


def fill(configs: Sequence[TrainConfig], out, *, root=None, jobs: int | None = 1,
         prepare: Callable[[], object] | None = None) -> Summary:
    """Train what `out` does not hold yet, in the order given, and return what it holds then.

    `root` is the folder that holds the data. `prepare`, a function of a module, is called once in each process that
    trains, to register layers or models. Runs that another sweep has in hand are waited for, and taken over if that
    sweep is killed. ValueError for a wrong `jobs` and for settings that are impossible on this machine.
    """
    out = Path(out)
    plan = {runs.name(config.record()): config for config in (config.resolved() for config in configs)}
    tasks = [Task(name, config, out, root) for name, config in plan.items()]
    missing = [task for task in tasks if not _ended(task.record)]
    jobs = _jobs(jobs, missing)
    known = [runs.load(task.record) for task in tasks if task not in missing]
    interrupted = False
    with _stoppable(), Locks(out) as locks, Bar(plan, known, jobs) as bar:
        place = Here(prepare) if jobs == 1 else Processes(jobs, prepare, _gpus_in_turn(missing))
        try:
            _train(missing, locks, place, bar)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            place.close()
    records = [runs.load(task.record) for task in tasks if task.record.exists()]
    ended = sum(run.status != "interrupted" for run in records)
    return Summary(records, bar.trained, len(tasks) - ended, bar.failures, interrupted)


def _train(tasks: Sequence[Task], locks: Locks, place, bar: Bar) -> None:
    """Every task that nobody else has in hand; then those that others had, until they are recorded."""
    waiting = deque(tasks)

    def note(event: Event) -> None:
        if event.status is not None:
            locks.release(event.name)
        bar.note(event)

    while waiting or place.busy:
        for _ in range(len(waiting)):
            if not place.free:
                break
            task = waiting.popleft()
            if not locks.claim(task.name):
                waiting.append(task)
            elif _ended(task.record):  # by another sweep, meanwhile
                locks.release(task.name)
                bar.found(task.name)
            else:
                place.start(task)
        place.work(note, LOOK_SECONDS)


def _jobs(jobs: int | None, tasks: Sequence[Task]) -> int:
    """The number of runs at a time that `fill`'s argument means for these tasks."""
    if jobs is None:
        jobs = len(gpus()) if any(task.config.device != "cpu" for task in tasks) else cores()
    elif not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise ValueError(f"jobs must be at least 1, a whole number, or None, got {jobs!r}")
    return max(1, min(jobs, len(tasks)))


def _gpus_in_turn(tasks: Sequence[Task]) -> list[str]:
    """The GPUs to deal the processes to; none where the settings themselves name one, or the CPU."""
    return gpus() if all(task.config.device == "cuda" for task in tasks) else []


@contextmanager
def _stoppable():
    """SIGTERM ends what is done here as Ctrl-C does; signals reach the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
