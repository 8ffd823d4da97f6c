"""Locks of runs: one holder, stale ones of killed processes recognized, also by several at once."""

import os
import subprocess
import sys
import threading
import time

import pytest

from cbn_lab import locks


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
    ("damaged", locks.STALE_SECONDS - 60, False),
    (f"{HERE[0]}\nx\ny", locks.STALE_SECONDS + 60, True),
], ids=["alive", "ended", "number given out again", "other machine", "other machine, long ago", "being written",
        "killed while it was written", "damaged", "damaged, long ago"])
def test_stale_locks_are_recognized(text, age, free, tmp_path):
    path = tmp_path / "run.lock"
    path.write_text(text() if callable(text) else text)
    os.utime(path, (time.time() - age,) * 2)
    with locks.Locks(tmp_path) as ours:
        assert ours.claim("run") == free
        assert (path.read_text() == locks._signature(os.getpid())) == (free or age == 1e6)


def test_only_locks_of_runs_are_cleared_away(tmp_path):
    others = {"uv.lock": "version = 1\nrevision = 3\n\n[[package]]\n", "model.lock": "", "odd.lock": "\n\n"}
    for name, text in others.items() | {("digits-mlp-relu-none-s0-0123abcd.lock", "")}:
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (0, 0))
    with locks.Locks(tmp_path):
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == others


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
        end = time.monotonic() + 60
        while (tmp_path / "run.lock").stat().st_mtime == 0:
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)
