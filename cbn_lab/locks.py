"""Who trains which run, when several sweeps share a folder: a lock file per run, which only one process can create.

The file holds the machine, the process and when that process began. A sweep that was killed leaves its locks behind;
they count for nothing once their process is gone, or, where that cannot be asked because it ran on another machine,
once they have not been renewed for ten minutes.
"""

import os
import platform
import threading
import time
from contextlib import suppress
from pathlib import Path

from cbn_lab import runs

RENEW_SECONDS = 60.0
STALE_SECONDS = 600.0  # of a lock that was made on another machine
_WRITING_SECONDS = 60.0  # a file that is empty for longer belongs to a process that was killed between two statements
_OF_RUNS = f"*-{'[0-9a-f]' * 8}.lock"  # as `runs.name` ends; a folder may hold locks of other programs (uv.lock)


class Locks:
    """The locks that this process holds in `folder`, kept fresh until `release` or the end of the `with` block."""

    def __init__(self, folder):
        self.folder, self.held, self._end = Path(folder), set(), threading.Event()

    def __enter__(self):
        runs.made(self.folder)
        for path in self.folder.glob(_OF_RUNS):
            _clear(path)
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for name in list(self.held):
            self.release(name)

    def claim(self, name: str) -> bool:
        """Whether the run is this process's from now on; False where another process has it.

        OSError, in a sentence, where the disk is full or the folder may not be written; no lock is left then.
        """
        path = self._path(name)
        try:
            _clear(path)
            with open(path, "x") as file:
                self.held.add(name)  # from here on it is released at the end, whatever happens
                file.write(_signature(os.getpid()))
        except FileExistsError:
            return False
        except OSError as error:
            raise OSError(f"{path} cannot be written ({error.strerror}); make room there, or give another folder") \
                from error
        return True

    def release(self, name: str) -> None:
        self.held.discard(name)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.lock"

    def _renew(self) -> None:
        while not self._end.wait(RENEW_SECONDS):
            for name in list(self.held):
                with suppress(OSError):
                    os.utime(self._path(name))


def _clear(path: Path) -> None:
    """Remove the lock at `path` if whoever made it is gone.

    Under a lock of its own: of two sweeps that find the same stale lock, the slower one would otherwise remove the
    fresh lock of the faster.
    """
    if not _stale(path):
        return
    guard = path.with_suffix(".clearing")
    if _age(guard) > _WRITING_SECONDS:  # its process was killed between the two statements below
        guard.unlink(missing_ok=True)
    try:
        guard.touch(exist_ok=False)
    except FileExistsError:
        return
    try:
        if _stale(path):
            path.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)


def _stale(path: Path) -> bool:
    try:
        signature = path.read_text(errors="replace")
    except OSError:  # gone meanwhile
        return False
    if not signature:
        return _age(path) > _WRITING_SECONDS
    machine, process, *_ = signature.split("\n") + [""]
    if machine != platform.node() or not process.isdecimal() or os.name != "posix":  # elsewhere, or damaged
        return _age(path) > STALE_SECONDS
    return signature != _signature(int(process))


def _age(path: Path) -> float:
    """Seconds since the file was written or renewed; 0 where there is none."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _signature(process: int) -> str:
    """Machine, number and beginning of a process that runs on this machine; "" where there is none of that number.

    Numbers are given out again, and in containers soon, so the number alone would not do. Where the system does not
    say when a process began, that part is empty.
    """
    began = ""
    if os.name == "posix":  # elsewhere the next line would do more than ask
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:  # somebody else's, but alive
            pass
        with suppress(OSError):
            state, *numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            if state == "Z":  # ended, and its parent has not asked how
                return ""
            began = numbers[18]
    return f"{platform.node()}\n{process}\n{began}"
