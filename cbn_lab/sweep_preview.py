"""What a sweep would train, and how long that may take: `cbn-lab sweep --dry-run`."""

import json
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from tqdm import tqdm

from cbn_lab._places import local
from cbn_lab._setup import initial_model, splits
from cbn_lab._tasks import Task, sentence, tasks
from cbn_lab.config import TrainConfig
from cbn_lab.sweep_report import kind, rates, remaining, timed, work

_NETWORK = ("data", "image_size", "model", "model_options", "activation", "placement", "norm_options")


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
    steps, to see how long they take. Of the others, the first of each network is built, to see whether it can be.
    """
    place = local(configs, jobs, prepare)
    plan = tasks(place.resolved(configs), out, root)
    recorded, missing = [task for task in plan if task.ended()], [task for task in plan if not task.ended()]
    known, problems = rates([task.load() for task in recorded]), []
    first = {kind(task.config): task for task in reversed(missing) if kind(task.config) not in known}
    if missing and place.jobs > 1 and prepare is not None:
        prepare()  # otherwise it has been called
    with _threads(1 if place.jobs > 1 else torch.get_num_threads()):
        for key, task in first.items():
            try:
                known[key] = timed(task.config, root)
            except Exception as error:
                problems.append(f"{task.name}: {sentence(error)}")
    tried = {task.name for task in first.values()}
    _add_impossible(problems, [task for task in missing if task.name not in tried], root)
    seconds = remaining([(kind(task.config), work(task.config)) for task in missing], known, place.jobs)
    return Preview([task.name for task in recorded], [task.name for task in missing], place.jobs, seconds, problems)


def _add_impossible(problems: list[str], tasks: Sequence[Task], root) -> None:
    """A line about each run whose network cannot be built, say for an unknown name; each reason once."""
    networks, images = set(), {}
    for task in tasks:
        settings = task.config.record()
        network = json.dumps([settings.get(name) for name in _NETWORK], default=list)
        if network in networks:
            continue
        networks.add(network)
        try:
            data = task.config.data, task.config.image_size
            if data not in images:
                images[data] = splits(task.config, root, download=False)[0]
            initial_model(task.config, images[data])
        except Exception as error:
            line = sentence(error)
            if not any(problem.endswith(line) for problem in problems):
                problems.append(f"{task.name}: {line}")


@contextmanager
def _threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
