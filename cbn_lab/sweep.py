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

import argparse
import json
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass

from cbn_lab import runs
from cbn_lab._places import interrupt, local
from cbn_lab._tasks import Event, Task, tasks
from cbn_lab.cluster import Cluster
from cbn_lab.config import TrainConfig
from cbn_lab.locks import Locks
from cbn_lab.sweep_preview import preview
from cbn_lab.sweep_report import Bar, table

LOOK_SECONDS = 1.0  # between two looks at what other sweeps have in hand


@dataclass(frozen=True)
class Summary:
    """What a sweep leaves: the records of its runs by name, in their order, and what went wrong, also by name."""

    records: dict[str, runs.Run]
    missing: list[str]
    trained: int
    failures: dict[str, str]
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """0 all there, 1 a run failed, 130 stopped by Ctrl-C or SIGTERM."""
        return 130 if self.interrupted else 1 if self.failures else 0

    def __str__(self) -> str:
        """The table of results, and under a line that counts them the runs that failed, each with its reason."""
        failed = [f"failed: {name}: {line}" for name, line in self.failures.items()]
        if failed:  # each was said when it happened, long ago perhaps: the count shows that this is a list of them
            planned = self.records.keys() | self.missing
            failed.insert(0, f"{len(failed)} of {len(planned)} runs failed; the same command tries them again:")
        return "\n".join([*table(list(self.records.values())), *failed])

    def json(self) -> str:
        """The same for programs: the final numbers of each run."""
        runs = {name: {"status": run.status, **run.final} for name, run in self.records.items()}
        return json.dumps({"runs": runs} | {key: getattr(self, key) for key in ("missing", "trained", "failures",
                                                                               "interrupted")})


def recorded(config: TrainConfig, out) -> bool:
    """Whether `out` holds this run to its end (a diverged run has ended too)."""
    [task] = tasks([config.resolved()], out)
    return task.ended()


def fill(configs: Sequence[TrainConfig], out, *, root=None, jobs: int | None = 1, cluster: str | None = None,
         prepare: Callable[[], object] | None = None) -> Summary:
    """Train what `out` does not hold yet, in the order given, and return what it holds then.

    `root` is the folder that holds the data; `cluster` the address of a Ray cluster (`cbn_lab.cluster`). `prepare`, a
    function of a module, is called in each process that trains, to register layers or models. Runs that another sweep
    has in hand are waited for, and taken over if that sweep is killed. ValueError for a wrong `jobs` and for settings
    that are impossible where they are to be trained.
    """
    place = local(configs, jobs, prepare) if cluster is None else Cluster(cluster, jobs, prepare)
    with _stoppable(), closing(place):
        plan = tasks(place.resolved(configs), out, root)
        missing, known = [task for task in plan if not task.ended()], [task.load() for task in plan if task.ended()]
        started, interrupted = [], False
        with Locks(out) as locks, Bar(plan, known, place.jobs) as bar:
            try:
                _train(missing, started, locks, place, bar)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                place.close()  # while the locks are held
    records = {task.name: task.load() for task in plan if task.record.exists()}
    missing = [task.name for task in plan if not task.ended()]
    trained = sum(task.ended() for task in started)
    return Summary(records, missing, trained, bar.failures, interrupted)


def main(configs: Sequence[TrainConfig], out: str, description: str, arguments: Sequence[str] | None = None, *,
         prepare: Callable[[], object] | None = None) -> int:
    """The command line of a module that has a plan, such as `python -m cbn_lab.start`; the exit code."""
    parser = argparse.ArgumentParser(description=description)
    add_options(parser, out)
    return command(configs, **vars(parser.parse_args(arguments)), prepare=prepare)


def add_options(parser: argparse.ArgumentParser, out: str) -> None:
    """The arguments of `command` that stand on a command line."""
    parser.add_argument("--out", default=out, help="folder for records and checkpoints (default: %(default)s)")
    parser.add_argument("--root", help="folder with data sets, looked into first")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: on a CPU one per core, with one thread "
                        "each; on GPUs one per GPU)")
    parser.add_argument("--cluster", metavar="ADDRESS", help="train on this Ray cluster, or on a Ray of its own with "
                        "'local' (needs the extra `cluster`)")
    parser.add_argument("--dry-run", action="store_true", help="say what is recorded, what is missing, and how long "
                        "that may take; train nothing")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object, on the last line")


def command(configs: Sequence[TrainConfig], out, *, root=None, jobs: int | None = None, cluster: str | None = None,
            dry_run: bool = False, as_json: bool = False, prepare: Callable[[], object] | None = None) -> int:
    """`fill` with its results on standard output; the exit code: 0 all is recorded, 1 a run failed, 130 stopped."""
    if dry_run and cluster is not None:
        raise ValueError("a dry run looks at this machine alone: leave out the cluster")
    if dry_run:
        found = preview(configs, out, root=root, jobs=jobs, prepare=prepare)
        print(json.dumps(asdict(found)) if as_json else found)
        return int(bool(found.problems))
    summary = fill(configs, out, root=root, jobs=jobs, cluster=cluster, prepare=prepare)
    print(summary.json() if as_json else summary)
    if summary.interrupted:
        print(f"interrupted; what was recorded is kept. {len(summary.missing)} runs are missing; the same command goes "
              "on with them.", file=sys.stderr)
    return summary.exit_code


def rounds(missing: Callable[[], Sequence[TrainConfig]], out, *, root=None, jobs: int | None = None) -> int:
    """`command` with what is missing until nothing is, for runs that depend on recorded ones; the exit code."""
    while configs := missing():
        if code := command(configs, out, root=root, jobs=jobs):
            return code
    return 0


def _train(missing: Sequence[Task], started: list[Task], locks: Locks, place, bar: Bar) -> None:
    """Every task that nobody else has in hand; then those that others had, until they are recorded.

    Those that are begun here are noted in `started`.
    """
    waiting = deque(missing)

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
            elif task.ended():  # by another sweep, meanwhile
                locks.release(task.name)
                bar.found(task.name)
            else:
                started.append(task)
                place.start(task)
        place.work(note, LOOK_SECONDS)


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
