"""Training that waits in its middle to be ended: what a test stops has neither ended nor not begun, however slow it is.

    python -m held FOLDER train ...

is `cbn-lab train ...` whose last rank, or only process, waits at step AT, after two checkpoints of the small networks
here and with records beyond the second.
"""

import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cbn_lab.train import Trainer

AT = 30
SECONDS = 280.0  # a test that has failed meanwhile must not leave a process behind for ever


def hold(folder, at: int, which: Callable[[Trainer], bool]) -> None:
    """In this process, a trainer that `which` is true of makes a file in `folder` before step `at`, and waits."""
    sgd_step = Trainer._sgd_step

    def step(self, images, labels):
        if self.step >= at and which(self):
            (Path(folder) / f"{os.getpid()}.held").touch()
            time.sleep(SECONDS)
            raise TimeoutError("held, and nobody has ended it")
        return sgd_step(self, images, labels)

    Trainer._sgd_step = step


def waiting(folder, process, count: int = 1) -> list[int]:
    """The numbers of the processes that wait, once there are so many; `process` is the one that started them."""
    while len(found := list(Path(folder).glob("*.held"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return [int(path.stem) for path in found]


def environment() -> dict[str, str]:
    """In which a process finds this module, and the others beside it."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts in the background may ignore it
    hold(sys.argv.pop(1), AT, lambda trainer: trainer.rank == trainer.ranks - 1)
    runpy.run_module("cbn_lab.cli", run_name="__main__")
