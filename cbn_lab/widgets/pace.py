"""How a training shares the kernel's event loop: with clicks and other cells, with other widgets, with the picture."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

from cbn_lab.train import Progress, Trainer

TURN_SECONDS = 0.02  # of training between two turns of the loop; one step where that takes longer
PAUSE_SECONDS = 0.003  # for the loop; a click takes several of its turns to get through, more than sleep(0)
FRAME_SECONDS = 0.25  # at most 4 pictures a second; where drawing is slow, at most a third of the time is spent on it


async def paced(trainer: Trainer, draw: Callable[[], None], cost: Callable[[], float]) -> AsyncIterator[Progress]:
    """The records of a training, with calls of `draw`, which takes `cost()` seconds, and turns for all else in between.

    At least 2.2 times as long as the last picture took is trained before the next: no more than a third of
    the time is spent on drawing, however many widgets train, also if the next one takes a little longer.
    """
    last_frame, last_turn, trained = time.perf_counter(), time.perf_counter(), 0.0
    for progress, seconds in _timed(trainer.turns()):
        trained += seconds
        if progress is not None:
            yield progress
            if time.perf_counter() > last_frame + FRAME_SECONDS and trained > 2.2 * cost():
                last_frame, trained = time.perf_counter(), 0.0
                draw()
        if time.perf_counter() > last_turn + TURN_SECONDS:
            await asyncio.sleep(PAUSE_SECONDS)
            last_turn = time.perf_counter()


def _timed(turns: Iterator[Progress | None]) -> Iterator[tuple[Progress | None, float]]:
    """Each turn with how long it took, in seconds."""
    while True:
        began = time.perf_counter()
        try:
            progress = next(turns)
        except StopIteration:
            return
        yield progress, time.perf_counter() - began
