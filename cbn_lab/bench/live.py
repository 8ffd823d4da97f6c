"""Training in a widget: pictures a second, the share of the time that drawing takes, how long Stop takes.

One widget and then two at once train the start setting (digits, convnet, sigmoid, complete) over its recorded curves,
inside an event loop as in a notebook. What a browser takes to show the pictures is not in it. A pause of the loop is
how long nothing else could run, such as the answer to a click; a click takes a few turns of the loop to get through.
"""

import asyncio
import time
from dataclasses import replace
from statistics import median

import torch

from cbn_lab import data, start
from cbn_lab.bench.measure import Row

SETTING = replace(start.config("sigmoid", "complete"), epochs=100_000)
SECONDS = 2.0  # in which pictures are counted
BEAT_SECONDS = 0.001


def measure(*, repeats: int, root=None):
    """Rows for one widget and for two at once."""
    rows = [row for count in (1, 2) for row in asyncio.run(_rows(count, repeats, root))]
    return rows, None, {"train": data.load("digits", "train", root=root).source}


async def _rows(count: int, repeats: int, root) -> list[Row]:
    scenes = [await _scene(count, root) for _ in range(1 + repeats)][1:]
    frames, shares, pauses, stops = zip(*scenes, strict=True)
    what = "one widget" if count == 1 else f"{count} widgets at once"
    notes = {"threads": torch.get_num_threads(), "seconds": SECONDS}
    return [Row(f"pictures a second and widget, {what}", median(frames), "1/s", 2.0, ">=",
                notes=notes | {"repeats": frames}),
            Row(f"share of drawing, {what}", median(shares), "", 1 / 3, notes=notes | {"repeats": shares}),
            Row(f"longest pause of the loop, {what}", median(pauses), "s", 1.0, seconds={"pause": list(pauses)}),
            Row(f"Stop, {what}", median(stops), "s", 1.0, seconds={"stop": list(stops)})]


async def _scene(count: int, root) -> tuple[float, float, float, float]:
    """(pictures a second and widget, share of drawing, longest pause, seconds to stop the first widget)."""
    from cbn_lab import widgets

    recorded = {"recorded": [run for run in start.records() if run.config["activation"] == "sigmoid"
                             and run.config["placement"] == "before"]}
    lives = [widgets.watch([SETTING], recorded=recorded, root=root) for _ in range(count)]
    while not all(live.runs and live.runs[0].curve for live in lives):
        await asyncio.sleep(BEAT_SECONDS)
    costs: list[float] = []
    for live in lives:
        live.curves.caption.observe(lambda change, live=live: costs.append(live.curves.cost), "value")
    began = turn = time.perf_counter()
    longest = 0.0
    while turn < began + SECONDS:
        await asyncio.sleep(BEAT_SECONDS)
        turn, before = time.perf_counter(), turn
        longest = max(longest, turn - before)
    drawn, seconds = list(costs), turn - began
    began = time.perf_counter()
    lives[0].stop()
    await lives[0].done()
    stop = time.perf_counter() - began
    for live in lives:
        live.close()
        await live.done()
    return len(drawn) / seconds / count, sum(drawn) / seconds, longest, stop
