"""Sweeps: every run once, whatever fails, is stopped, is killed or runs beside it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import held
import pytest
import torch

from cbn_lab import _places, _tasks, norms, runs, sweep
from cbn_lab.config import TrainConfig
from cbn_lab.train import fit

TINY = TrainConfig(model_options={"widths": [4]}, train_images=256, batch_size=64, epochs=1, device="cpu",
                   precision="fp32")
PLAN = [replace(TINY, placement=placement, seed=seed) for seed in (0, 1) for placement in ("before", "complete")]
LONG = [replace(TINY, activation="tanh", seed=seed, epochs=40, evaluate_every=0, log_every=4) for seed in range(4)]
PROVENANCE = {"device": "", "versions": {}, "commit": None, "date": "", "data_sources": {}}
pytestmark = pytest.mark.timeout(600)
posix = pytest.mark.skipif(os.name != "posix" or shutil.which("ps") is None,
                           reason="signals are sent as POSIX systems do, and ps says which processes are left")


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes of a sweep have it: the order of sums depends on that."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _name(config) -> str:
    return runs.name(config.resolved().record())


def _untimed(run) -> tuple:
    timed = ("seconds", "images_per_second")
    return ([{k: v for k, v in entry.items() if k not in timed} for entry in run.curve],
            {k: v for k, v in run.final.items() if k not in timed})


def _written(folder) -> dict:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_sweep_trains_what_is_missing_once_and_as_one_run_alone_would(tmp_path):
    fit(PLAN[1], out=tmp_path)
    before = _written(tmp_path)
    summary = sweep.fill([*PLAN, PLAN[0]], tmp_path)
    assert (summary.trained, summary.missing, summary.failures, summary.exit_code) == (3, [], {}, 0)
    assert list(summary.records) == [_name(config) for config in PLAN]
    written = _written(tmp_path)
    assert set(written) == {f"{_name(config)}.json" for config in PLAN} and before.items() <= written.items()
    _require_as_alone(summary, tmp_path)
    assert sweep.fill(PLAN, tmp_path).trained == 0
    assert _written(tmp_path).items() >= written.items()


def _require_as_alone(summary, folder) -> None:
    for config in PLAN[:3]:
        path = runs.save(fit(config), folder / "alone")
        assert _untimed(summary.records[path.stem]) == _untimed(runs.load(path))


def deadly():
    """Make known a norm whose making ends the process at once, as too little memory does."""
    norms.register("deadly", lambda *_: os.kill(os.getpid(), signal.SIGKILL))


@posix
def test_runs_in_processes_are_the_same_and_one_that_is_killed_fails_alone(tmp_path):
    plan = [replace(PLAN[0], norm_options={"norm": "deadly"}), *PLAN]
    summary = sweep.fill(plan, tmp_path, jobs=2, prepare=deadly)
    assert list(summary.failures) == [_name(plan[0])] == summary.missing and summary.exit_code == 1
    assert "SIGKILL" in summary.failures[_name(plan[0])] and summary.trained == len(PLAN)
    assert {run.provenance["threads"] for run in summary.records.values()} == {1}
    _require_as_alone(summary, tmp_path)


@pytest.mark.parametrize(("status", "ended"), [("finished", True), ("diverged", True), ("interrupted", False)])
def test_a_diverged_run_has_ended_and_an_interrupted_one_has_not(tmp_path, status, ended):
    assert not sweep.recorded(TINY, tmp_path)
    final = {"train_loss": 1.0} if status == "finished" else {}
    runs.save(runs.Run(TINY.resolved().record(), [], final, PROVENANCE, status), tmp_path)
    assert sweep.recorded(TINY, tmp_path) == ended
    assert not sweep.recorded(replace(TINY, seed=1), tmp_path)


def test_runs_that_fail_or_diverge_do_not_end_the_others(tmp_path, monkeypatch, capsys):
    plan = [replace(TINY, activation="rlu"), replace(TINY, lr=1e30), replace(TINY, seed=7), TINY]

    def full(config, **options):
        if config.seed == 7:
            raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")
        return fit(config, **options)

    monkeypatch.setattr(_tasks, "fit", full)
    assert sweep.command(plan, tmp_path, jobs=1) == 1
    out, err = (text.splitlines() for text in capsys.readouterr())
    failed = [line for line in out if line.startswith("failed: ")]
    assert out[out.index(failed[0]) - 1] == "2 of 4 runs failed; the same command tries them again:"
    assert len(failed) == 2 and "unknown activation 'rlu'" in failed[0] and "too little memory" in failed[1]
    assert any("1 diverged" in line for line in out)
    assert [line.split()[0] for line in err] == ["1/4", "2/4", "3/4", "4/4"] and "the loss is" in err[1]
    assert sorted(run.status for run in runs.load_all(tmp_path)) == ["diverged", "finished"]
    assert len(list(tmp_path.iterdir())) == 2, "neither locks nor checkpoints stay behind"


@contextmanager
def files_of_at_most(size: int):
    """A disk that is full, as far as an ordinary user can make one."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_in_a_sentence_and_leaves_nothing_half_done(tmp_path):
    with files_of_at_most(1000):  # enough for locks, not for a checkpoint or a record
        summary = sweep.fill(PLAN[:1], tmp_path)
        with pytest.raises(OSError, match=r"\.json cannot be written \(.+\); make room there, or give another folder"):
            runs.save(runs.Run(TINY.resolved().record(), [{}] * 1000, {}, PROVENANCE), tmp_path)
    [line] = summary.failures.values()
    assert line.startswith(str(tmp_path)) and ".ckpt cannot be written (" in line and "make room there" in line
    assert not list(tmp_path.iterdir())
    with files_of_at_most(10), pytest.raises(OSError, match=r"\.lock cannot be written .+; make room there"):
        sweep.fill(PLAN[:1], tmp_path)
    assert not list(tmp_path.iterdir())
    assert sweep.fill(PLAN[:1], tmp_path).trained == 1


# Stopped, killed, and several at once

START = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored by what starts in the background
from test_sweep import {plan}, {prepare}
from cbn_lab import _places, sweep
_places.END_SECONDS = 100.0  # what keeps its records on a busy machine is not killed
if __name__ == "__main__":
    summary = sweep.fill({plan}, sys.argv[1], jobs={jobs}, prepare={prepare})
    print(json.dumps([summary.trained, summary.missing, summary.exit_code]))
"""


def hold():
    """Let every run but the first wait in its middle to be stopped."""
    held.hold(os.environ["HELD"], held.AT, lambda trainer: trainer.config.seed > 0)


def go():
    """Let all runs end."""


def _start(tmp_path, plan: str, jobs: int, prepare=go) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(START.format(plan=plan, jobs=jobs, prepare=prepare.__name__))
    return subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], text=True, start_new_session=True,
                            env=held.environment() | {"HELD": str(tmp_path)}, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def _alive(session: int) -> list[str]:
    """The processes of a session: the one that `_start` began, and all that came from it."""
    listed = subprocess.run(["ps", "-A", "-o", "sid=,stat=,args="], capture_output=True, text=True).stdout.splitlines()
    return [line for line in listed if line.split()[0] == str(session) and line.split()[1][0] != "Z"]


def _stop_in_the_middle(process: subprocess.Popen, folder, jobs: int, name: str) -> None:
    """Send the signal once a run has ended and each process is in the middle of another."""
    held.waiting(folder, process, jobs)
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the sweep and to all that it started
    else:
        process.send_signal(signal.Signals[name])


def _wait(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    summary = sweep.fill(LONG, folder)
    torch.set_num_threads(before)
    return summary


@posix
@pytest.mark.parametrize(("name", "jobs"), [("SIGKILL", 2), ("SIGINT", 2), ("SIGTERM", 1)])
def test_a_stopped_sweep_goes_on_and_ends_as_if_it_had_not_been_stopped(name, jobs, uninterrupted, tmp_path):
    process, out = _start(tmp_path, "LONG", jobs, hold), tmp_path / "out"
    _stop_in_the_middle(process, tmp_path, jobs, name)
    said, err = process.communicate(timeout=140)
    assert "Traceback" not in err
    _wait(lambda: not _alive(process.pid))  # a killed sweep's processes end by themselves
    ended = {path: path.stat().st_mtime_ns for path in out.glob("*.json") if runs.load(path).status == "finished"}
    resumed = {path: torch.load(path, weights_only=True) for path in out.glob("*.ckpt")}
    assert (len(ended), len(resumed)) == (1, jobs)
    if name != "SIGKILL":
        trained, missing, code = json.loads(said)
        assert (trained, len(missing), code) == (len(ended), len(LONG) - len(ended), 130)
        assert {runs.load(path).status for path in out.glob("*.json")} == {"finished", "interrupted"}
        assert not list(out.glob("*.lock"))

    summary = sweep.fill(LONG, out)
    assert summary.trained == len(LONG) - len(ended) and not summary.missing
    assert {path: path.stat().st_mtime_ns for path in ended} == ended, "a recorded run was trained again"
    for key, run in uninterrupted.records.items():
        assert _untimed(summary.records[key]) == _untimed(run)
    for path, state in resumed.items():
        first = summary.records[path.stem].curve[0]["seconds"]
        assert first == pytest.approx(state["curve"][0]["seconds"], rel=1e-5), "it started again"
    assert {path.suffix for path in out.iterdir()} == {".json"}


@posix
def test_two_sweeps_share_the_runs_of_a_folder(uninterrupted, tmp_path):
    both = [_start(tmp_path, "LONG", 1) for _ in range(2)]
    results = [json.loads(process.communicate(timeout=200)[0]) for process in both]
    assert sum(trained for trained, _, _ in results) == len(LONG)
    assert [result[1:] for result in results] == [[[], 0]] * 2, "each waits for what the other has in hand"
    for key, run in uninterrupted.records.items():
        assert _untimed(runs.load(tmp_path / "out" / f"{key}.json")) == _untimed(run)


# Where runs are trained


@pytest.mark.parametrize("jobs", [0, -1, True, 1.5])
def test_a_wrong_number_of_jobs_is_refused(jobs, tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        sweep.fill(PLAN, tmp_path, jobs=jobs)


def test_gpus_get_the_processes_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-b")
    assert _places.gpus() == ["2", "GPU-b"]
    monkeypatch.setattr(_places, "resolved", lambda configs: [replace(config, device="cuda") for config in configs])
    place = _places.local(PLAN, None, None)
    assert place.jobs == 2 and place._gpus == ["2", "GPU-b"]
    assert _places.local(PLAN, 1, None).jobs == 1
    monkeypatch.undo()
    monkeypatch.setattr(_places, "cores", lambda: 5)
    assert (_places.local(PLAN, None, None).jobs, _places.local(PLAN, None, None)._gpus) == (5, [])


@pytest.mark.parametrize(("devices", "jobs", "in_turn"), [
    (["cuda:1"], 1, []),
    (["cuda:0", "cuda:1", "cpu"], 2, []),
    (["cuda", "cpu"], 3, ["0", "1", "2"]),
], ids=["one named", "two named and a CPU", "any GPU and a CPU"])
def test_gpus_that_the_settings_name_are_not_shared(devices, jobs, in_turn, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr(_places, "resolved", lambda configs: configs)
    place = _places.local([replace(TINY, device=device) for device in devices], None, None)
    assert (place.jobs, getattr(place, "_gpus", [])) == (jobs, in_turn)


def test_a_new_process_takes_the_gpu_of_one_that_has_died(monkeypatch):
    end = SimpleNamespace(close=lambda: None)
    context = SimpleNamespace(Pipe=lambda: (end, end), Process=lambda **_: SimpleNamespace(start=lambda: None))
    monkeypatch.setattr(_places.multiprocessing, "get_context", lambda _: context)
    place = _places.Processes(3, None, ["0", "1", "2"])
    assert [place._new().gpu for _ in range(3)] == ["0", "1", "2"]
    place._workers.pop(1)
    assert place._new().gpu == "1"


def test_training_needs_no_notebook_packages():
    code = ("import sys\nfor name in ('matplotlib', 'ipywidgets', 'IPython', 'ray'): sys.modules[name] = None\n"
            "from cbn_lab import sweep, gridfile")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
