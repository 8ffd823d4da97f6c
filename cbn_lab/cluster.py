"""The runs of a sweep on a Ray cluster: `cbn-lab sweep grid.toml --cluster ADDRESS`, with the extra `cluster`.

"local" starts a Ray of its own on this machine, without a dashboard, which listens on 127.0.0.1 alone and ends with the
sweep. Any other address is that of a running cluster. This package is sent along; the data must be on every node, under
the same `root`. A run takes one GPU where the cluster has some and its settings allow that, else one core, and what
"auto" means is asked there. Records come back as text and are written here. Checkpoints stay behind, so that a run that
is stopped begins again; of a node that is lost, the runs count as failed, and the next sweep trains them.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

import cbn_lab
from cbn_lab import runs
from cbn_lab._places import cores
from cbn_lab._tasks import Event, Note, Task, require_jobs, resolved, sentence, trained
from cbn_lab.config import TrainConfig

# Ray takes 127.0.0.1 for the machine's address on the network, unless it is told that there will be no other machine:
# the second variable does that on every system. The first keeps it from reporting its use.
_ALONE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_OBJECT_STORE = 100 * 2**20  # bytes; settings and records are small


class Cluster:
    """One run on each GPU of a Ray cluster, or on each core; with `jobs`, no more than that."""

    def __init__(self, address: str, jobs: int | None, prepare: Callable | None):
        require_jobs(jobs)
        if address == "local":  # before Ray is imported, which reads them then
            os.environ |= _ALONE
        try:
            import ray
        except ImportError:
            raise ValueError("a sweep on a cluster needs Ray: pip install 'cbn-lab[cluster]'") from None
        self._ray, self._jobs, self._prepare = ray, jobs, prepare
        self._commit = runs.commit()
        self._running: dict[object, Task] = {}
        try:
            ray.init(**_how(address, jobs), log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises many kinds, and plain Exception
            ray.shutdown()
            raise ValueError(f"Ray at {address!r} could not be reached or started: {sentence(error)}") from error

    def resolved(self, configs: Sequence[TrainConfig]) -> list[TrainConfig]:
        """The settings as they are meant where they will be trained."""
        wanted = "auto" if any(config.device != "cpu" for config in configs) else "cpu"
        ask = self._ray.remote(resolved).options(max_retries=0, **self._resources(wanted))
        try:
            return self._ray.get(ask.remote(list(configs)))
        except self._ray.exceptions.RayTaskError as error:
            raise ValueError(sentence(error.cause)) from None

    @property
    def jobs(self) -> int:
        """Runs at a time; nodes may come and go."""
        resources = self._ray.cluster_resources()
        there = int(resources.get("GPU", 0) or resources.get("CPU", 1))
        return max(1, min(there, self._jobs or there))

    @property
    def free(self) -> bool:
        return len(self._running) < self.jobs

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def start(self, task: Task) -> None:
        run = self._ray.remote(_run).options(max_retries=0, **self._resources(task.config.device))
        self._running[run.remote(task.name, task.config, task.root, self._prepare)] = task

    def _resources(self, device: str) -> dict:
        gpu = device != "cpu" and self._ray.cluster_resources().get("GPU", 0) >= 1
        return {"num_cpus": 1, "num_gpus": int(gpu)}

    def work(self, note: Note, seconds: float) -> None:
        """Write the records that have come, after waiting for at most so many seconds."""
        if not self._running:
            time.sleep(seconds)
            return
        done, _ = self._ray.wait(list(self._running), timeout=seconds)
        for reference in done:
            task = self._running.pop(reference)
            try:
                event, text = self._ray.get(reference)
                if text is not None:
                    self._save(text, task.out)
            except self._ray.exceptions.RayError as error:
                event = Event(task.name, 0.0, status="failed", line=sentence(error))
            note(event)

    def _save(self, text: str, out: Path) -> None:
        record = json.loads(text)
        record.pop("schema")
        run = runs.Run(**record)
        if run.provenance["commit"] is None:  # the package was sent there without its history
            run = replace(run, provenance=run.provenance | {"commit": self._commit})
        runs.save(run, out)

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running = {}
        self._ray.shutdown()


def _how(address: str, jobs: int | None) -> dict:
    """Arguments of ray.init."""
    if address != "local":
        return {"address": address, "runtime_env": {"py_modules": [str(Path(cbn_lab.__file__).parent)]}}
    return {"address": "local", "num_cpus": jobs or cores(), "include_dashboard": False,
            "_node_ip_address": "127.0.0.1", "object_store_memory": _OBJECT_STORE}


def _run(name: str, config: TrainConfig, root: str | None, prepare: Callable | None) -> tuple[Event, str | None]:
    """On a node: the last event of a run, and its record as text if there is one."""
    if prepare is not None:
        prepare()
    if config.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        task = Task(name, config, Path(folder), root)
        event = trained(task, lambda _: None)
        return event, task.record.read_text() if task.record.exists() else None
