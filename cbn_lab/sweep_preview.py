"""What a sweep would train, and how long that may take: `cbn-lab sweep --dry-run`."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from tqdm import tqdm

from cbn_lab._places import local
from cbn_lab._tasks import sentence, tasks
from cbn_lab.config import TrainConfig
from cbn_lab.sweep_report import kind, rates, remaining, timed, work


@dataclass(frozen=True)
class Preview:
    """What a sweep would do: names of runs, seconds of training (None: unknown), and what stands in the way."""

    recorded: list[str]
    missing: list[str]
    jobs: int
    seconds: float | None
    problems: list[str]

    def __str__(self) -> str:
        lines = [f"{state} {name}" for state in ("recorded", "missing") for name in getattr(self, state)]
        time = "an unknown time" if self.seconds is None else f"about {tqdm.format_interval(self.seconds)} of training"
        counted = f"{len(self.recorded)} recorded, {len(self.missing)} missing"
        if self.missing:
            counted += f": {time}, {self.jobs} at a time"
        return "\n".join([*lines, *(f"problem: {line}" for line in self.problems), counted])


def preview(configs: Sequence[TrainConfig], out, *, root=None, jobs: int | None = None,
            prepare: Callable[[], object] | None = None) -> Preview:
    """What `fill` would train on this machine, and how long that may take.

    The time comes from the records in `out`; of each kind of run that has none there, one run is begun, for three
    steps, to see how long they take.
    """
    place = local(configs, jobs, prepare)
    plan = tasks(place.resolved(configs), out, root)
    recorded, missing = [task for task in plan if task.ended()], [task for task in plan if not task.ended()]
    known, problems = rates([task.load() for task in recorded]), []
    first = {kind(task.config): task for task in reversed(missing) if kind(task.config) not in known}
    if first and place.jobs > 1 and prepare is not None:
        prepare()  # otherwise it has been called
    with _threads(1 if place.jobs > 1 else torch.get_num_threads()):
        for key, task in first.items():
            try:
                known[key] = timed(task.config, root)
            except Exception as error:
                problems.append(f"{task.name}: {sentence(error)}")
    seconds = remaining([(kind(task.config), work(task.config)) for task in missing], known, place.jobs)
    return Preview([task.name for task in recorded], [task.name for task in missing], place.jobs, seconds, problems)


@contextmanager
def _threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
