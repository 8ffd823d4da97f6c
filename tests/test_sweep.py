"""Sweeps: every run once, whatever fails, is stopped, is killed or runs beside it; and what they say."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cbn_lab import _places, _tasks, cli, locks, norms, runs, sweep, sweep_preview, sweep_report
from cbn_lab.config import TrainConfig
from cbn_lab.train import fit

TINY = TrainConfig(model_options={"widths": [4]}, train_images=256, batch_size=64, epochs=1, device="cpu",
                   precision="fp32")
PLAN = [replace(TINY, placement=placement, seed=seed) for seed in (0, 1) for placement in ("before", "complete")]
LONG = [replace(TINY, activation="tanh", seed=seed, epochs=40, evaluate_every=0, log_every=4) for seed in range(4)]
PROVENANCE = {"device": "", "versions": {}, "commit": None, "date": "", "data_sources": {}}
posix = pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX systems do")


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
    assert len(failed) == 2 and "unknown activation 'rlu'" in failed[0] and "too little memory" in failed[1]
    assert any("1 diverged" in line for line in out)
    assert [line.split()[0] for line in err] == ["1/4", "2/4", "3/4", "4/4"] and "the loss is" in err[1]
    assert sorted(run.status for run in runs.load_all(tmp_path)) == ["diverged", "finished"]
    assert len(list(tmp_path.iterdir())) == 2, "neither locks nor checkpoints stay behind"


# Stopped, killed, and several at once

START = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored by what starts in the background
from test_sweep import {plan}
from cbn_lab import sweep
if __name__ == "__main__":
    summary = sweep.fill({plan}, sys.argv[1], jobs={jobs})
    print(json.dumps([summary.trained, summary.missing, summary.exit_code]))
"""


def _start(tmp_path, plan: str, jobs: int) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(START.format(plan=plan, jobs=jobs))
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def _children(process: int) -> set[int]:
    """Of a process, and theirs."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True).stdout.splitlines()
    parents = {int(pid): int(parent) for pid, parent, state in map(str.split, listed) if state[0] != "Z"}
    found = {process}
    for _ in range(3):
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found - {process}


def _alive(processes: set[int]) -> set[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True).stdout.splitlines()
    return processes & {int(pid) for pid, state in map(str.split, listed) if state[0] != "Z"}


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
    process, out = _start(tmp_path, "LONG", jobs), tmp_path / "out"
    _wait(lambda: process.poll() is not None or (list(out.glob("*.json")) and list(out.glob("*.ckpt"))))
    children = _children(process.pid)
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the sweep and to all that it started
    else:
        process.send_signal(signal.Signals[name])
    said, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    _wait(lambda: not _alive(children), 20)  # a killed sweep's processes end by themselves
    ended = {path: path.stat().st_mtime_ns for path in out.glob("*.json") if runs.load(path).status == "finished"}
    resumed = {path: torch.load(path, weights_only=True) for path in out.glob("*.ckpt")}
    assert 1 <= len(ended) < len(LONG) and resumed
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


# Locks


def test_a_run_is_locked_until_it_is_released(tmp_path):
    with locks.Locks(tmp_path) as ours, locks.Locks(tmp_path) as theirs:
        assert ours.claim("run") and not theirs.claim("run") and theirs.claim("other")
        ours.release("run")
        assert theirs.claim("run")
    assert list(tmp_path.iterdir()) == []


def _lock(machine: str, process: int, began: str) -> str:
    return f"{machine}\n{process}\n{began}"


def _ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


HERE = locks._signature(os.getpid()).split("\n")


@pytest.mark.parametrize(("text", "age", "free"), [
    (locks._signature(os.getpid()), 1e6, False),
    (lambda: _lock(HERE[0], _ended_process(), "1"), 0, True),
    pytest.param(_lock(HERE[0], os.getpid(), "1"), 0, True, marks=pytest.mark.skipif(
        not HERE[2], reason="this system does not say when a process began")),
    (_lock("elsewhere", 1, "1"), locks.STALE_SECONDS - 60, False),
    (_lock("elsewhere", 1, "1"), locks.STALE_SECONDS + 60, True),
    ("", 0, False),
    ("", 120, True),
], ids=["alive", "ended", "number given out again", "other machine", "other machine, long ago", "being written",
        "killed while it was written"])
def test_stale_locks_are_recognized(text, age, free, tmp_path):
    path = tmp_path / "run.lock"
    path.write_text(text() if callable(text) else text)
    os.utime(path, (time.time() - age,) * 2)
    with locks.Locks(tmp_path) as ours:
        assert ours.claim("run") == free
        assert (path.read_text() == locks._signature(os.getpid())) == (free or age == 1e6)


def test_of_many_that_find_a_stale_lock_one_takes_it(tmp_path):
    for attempt in range(30):
        path = tmp_path / f"{attempt}.lock"
        path.write_text(_lock(HERE[0], os.getpid(), "1") if HERE[2] else "")
        os.utime(path, (time.time() - 120,) * 2)
        takers, start, got = [locks.Locks(tmp_path) for _ in range(8)], threading.Barrier(8), []

        def take(taker, name=str(attempt), start=start, got=got):
            start.wait()
            got.append(taker.claim(name) or taker.claim(name))

        threads = [threading.Thread(target=take, args=(taker,)) for taker in takers]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert sum(got) <= 1
        assert locks.Locks(tmp_path).claim(str(attempt)) != any(got)


def test_locks_are_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.01)
    with locks.Locks(tmp_path) as ours:
        ours.claim("run")
        os.utime(tmp_path / "run.lock", (0, 0))
        _wait(lambda: (tmp_path / "run.lock").stat().st_mtime > 0)


# What is said


def _run(seed=0, accuracy=0.5, status="finished", **settings):
    final = {"test_accuracy": accuracy, "train_loss": accuracy} if status == "finished" else {}
    return runs.Run(replace(TINY, seed=seed, **settings).record(), [], final, PROVENANCE, status)


def test_the_table_has_a_row_for_each_combination_of_what_varies():
    records = [_run(0, 0.5), _run(1, 0.75), _run(0, 0.25, placement="before"), _run(1, status="diverged", lr=1.0)]
    head, *rows = sweep_report.table(records)
    assert head.split() == ["placement", "lr", "test", "accuracy", "(%)", "range", "train", "loss", "seeds"]
    assert [row.split() for row in rows] == [
        ["complete", "0.1", "62.50", "50.00", "to", "75.00", "0.625", "2"],
        ["before", "0.1", "25.00", "25.00", "to", "25.00", "0.250", "1"],
        ["complete", "1", "-", "-", "-", "0", "1", "diverged"]]
    assert sweep_report.table([]) == ["nothing is recorded"]


def test_held_out_images_are_what_the_table_shows_where_all_have_them():
    held_out = replace(_run(), final={"validation_accuracy": 0.1, "test_accuracy": 0.9, "train_loss": 1.0})
    assert "validation accuracy" in sweep_report.table([held_out])[0]
    assert "test accuracy" in sweep_report.table([held_out, _run(1)])[0]


def test_the_remaining_time_follows_the_work_and_the_kind():
    rates = {"a": 2.0, "b": 4.0}
    assert sweep_report.remaining([("a", 10), ("b", 10)], rates, jobs=1) == 60
    assert sweep_report.remaining([("a", 10), ("b", 10)], rates, jobs=3) == 40, "not less than the longest run"
    assert sweep_report.remaining([("c", 10)], rates, jobs=1) == 30
    assert sweep_report.remaining([("c", 10)], {}, jobs=1) is None and sweep_report.remaining([], {}, 1) == 0
    assert sweep_report.work(replace(TINY, epochs=3)) == 3 * 256
    assert sweep_report.work(TrainConfig(data="cifar10", epochs=2, validation_images=5000)) == 90_000


def test_a_terminal_gets_one_bar_with_the_time_that_remains(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    tasks = _tasks.tasks([config.resolved() for config in PLAN], "out")
    with sweep_report.Bar(tasks, [], jobs=2) as bar:
        assert bar.remaining() is None
        bar.note(_tasks.Event(tasks[0].name, 0.5, 100.0))
        assert bar.remaining() == pytest.approx(350 / 2)
        bar.note(_tasks.Event(tasks[0].name, 1.0, 100.0, "finished", "well done"))
        bar.found(tasks[1].name)
        assert bar.remaining() == pytest.approx(100)
    shown = terminal.getvalue()
    assert "time unknown" in shown and "02:55 left" in shown and "1/4 well done" in shown and "2/4 runs" in shown


def test_a_dry_run_says_what_is_missing_and_how_long_it_takes_and_trains_nothing(tmp_path, monkeypatch, capsys):
    fit(PLAN[0], out=tmp_path)
    seconds = runs.load_all(tmp_path)[0].curve[-1]["seconds"]
    monkeypatch.setattr(sweep_preview, "timed", lambda *_: pytest.fail("the folder knows"))
    found = sweep_preview.preview(PLAN, tmp_path, jobs=1)
    assert found.seconds == pytest.approx(3 * seconds) and found.recorded == [_name(PLAN[0])]
    monkeypatch.undo()
    other = [replace(TINY, model="mlp", model_options={"width": 8}), replace(TINY, activation="rlu", epochs=4)]
    assert sweep.command([*PLAN, *other], tmp_path, jobs=1, dry_run=True, as_json=True) == 0, "its kind is recorded"
    result = json.loads(capsys.readouterr().out)
    assert len(result["missing"]) == 5 and result["seconds"] > found.seconds
    assert len(list(tmp_path.iterdir())) == 1
    assert sweep.command([replace(TINY, data="nothing.npz")], tmp_path, jobs=1, dry_run=True) == 1
    assert "problem: nothing-" in (shown := capsys.readouterr().out) and "an unknown time" in shown


def test_json_holds_the_final_numbers_of_every_run(tmp_path, capsys):
    assert sweep.command(PLAN[:2], tmp_path, jobs=1, as_json=True) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["runs"]) == {_name(config) for config in PLAN[:2]} and result["trained"] == 2
    run = runs.load(tmp_path / f"{_name(PLAN[0])}.json")
    assert result["runs"][_name(PLAN[0])] == {"status": "finished"} | run.final


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


def test_training_needs_no_notebook_packages():
    code = ("import sys\nfor name in ('matplotlib', 'ipywidgets', 'IPython', 'ray'): sys.modules[name] = None\n"
            "from cbn_lab import sweep, gridfile")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_example_runs_are_what_its_help_says(capsys):
    assert cli.main(["sweep", str(Path(__file__).parents[1] / "results" / "example_sweep.toml"), "--dry-run", "--jobs",
                     "1"]) == 0
    assert "16 missing" in capsys.readouterr().out
