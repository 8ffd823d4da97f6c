"""What torchrun tells the processes that it starts, in environment variables, and whether it still lives."""

import os
import signal
import threading
import time

LOOK_SECONDS = 1.0  # between two looks at whether torchrun lives
END_SECONDS = 30.0  # from SIGTERM to SIGKILL, as torchrun itself gives them


def world_size() -> int:
    """How many processes train together: 1 where WORLD_SIZE is not set, or is empty, as on some clusters.

    With more than 1, the other variables have been checked. ValueError says what is wrong with which, and what to do.
    """
    size = _number("WORLD_SIZE", 1, None, default=1)
    if size > 1:
        _number("RANK", 0, size - 1)
        _number("LOCAL_RANK", 0, size - 1, default=0)
        _number("MASTER_PORT", 1, 2**16 - 1)
        _require(bool(_word("MASTER_ADDR")), "MASTER_ADDR is not set")
    return size


def _word(name: str) -> str:
    return os.environ.get(name, "").strip()


def _number(name: str, least: int, most: int | None, default: int | None = None) -> int:
    word = _word(name)
    if not word and default is not None:
        return default
    _require(bool(word), f"{name} is not set")
    expected = f"{least} or more" if most is None else f"from {least} to {most}"
    _require(word.isdecimal() and least <= int(word) and (most is None or int(word) <= most),
             f"{name} must be a whole number, {expected}, got {word!r}")
    return int(word)


def _require(condition: bool, fault: str) -> None:
    if not condition:
        beside = "" if "WORLD_SIZE" in fault else f"WORLD_SIZE is {_word('WORLD_SIZE')}, but "
        raise ValueError(
            f"in the environment, {beside}{fault}. torchrun sets WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and "
            "MASTER_PORT for each of the processes that train together: start with torchrun --nproc-per-node N -m "
            "cbn_lab.cli train ...; to train in one process, unset WORLD_SIZE")


def is_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


class Watch:
    """A look, every second, at whether the torchrun that started this process still lives, until `close`.

    A torchrun that gets SIGKILL cannot end its processes, which would train on, unseen. Each of them sends SIGTERM to
    itself then, and SIGKILL later on, as torchrun would have done. (Not PR_SET_PDEATHSIG, which Linux alone has and
    which ties a process to the thread that started it.) A process that something else started is left alone: it may be
    meant to outlive its parent.
    """

    def __init__(self):
        self._parent, self._closed = None, threading.Event()
        if os.name == "posix" and is_torchrun():
            self._parent = os.getppid()
            threading.Thread(target=self._look, daemon=True).start()

    def orphaned(self) -> bool:
        """Whether torchrun is gone."""
        return self._parent is not None and os.getppid() != self._parent

    def close(self) -> None:
        self._closed.set()

    def _look(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            if self.orphaned():
                signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)  # this one may wait for a signal
                time.sleep(END_SECONDS)  # also where `close` was called: what ends after it can hang as well
                os.kill(os.getpid(), signal.SIGKILL)
