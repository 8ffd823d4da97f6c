"""An event loop with a clock of its own, for tests of what is done after a while. No real time passes in it.

Its clock stands still while anything runs, and goes on to the next timer when nothing does: a busy machine cannot make
one timer overtake another, nor come between two changes that are meant to follow each other quickly.
"""

import asyncio
from collections.abc import Coroutine


class Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__()
        self._now, look = 1000.0, self._selector.select

        def select(timeout):
            assert timeout is not None, "nothing is left that could happen"
            self._now += timeout
            return look(0)

        self._selector.select = select

    def time(self) -> float:
        return self._now


def run(scene: Coroutine):
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(scene)


class Time:
    """In place of the module `time`: that of the loop."""

    @staticmethod
    def perf_counter() -> float:
        return asyncio.get_running_loop().time()
