"""The playground's answer: seconds from a change to the new diagram and the new statistics of every layer.

Changes are made on the widget, inside an event loop as in a notebook, and timed until both are in place; what a browser
then takes to show them is not in it. The learning curves follow later and are not in it either. Whether recorded runs
are there makes no difference, so none are given. The notes hold the processor's seconds as well, which say more where
other programs compute at the same time.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from cbn_lab import data, share
from cbn_lab.bench.measure import Row
from cbn_lab.config import TrainConfig

LIMIT = 0.150  # s, on two CPU cores
AFTERWARDS_SECONDS = 0.5  # for the curves, and so that the next click is not the second of a double click
NETS = {"convnet": share.DEFAULT,
        "mlp of 30 layers": replace(share.DEFAULT, model="mlp", model_options={"depth": 30, "width": 64}),
        "resnet20": replace(share.DEFAULT, model="resnet20")}
CHANGES = {"a click on a slot": lambda playground, turn: playground.board.slots["norm"].click(),
           "another activation": lambda playground, turn: _set(playground.board.activation, ("tanh", "relu"), turn),
           "another seed": lambda playground, turn: _set(playground.training.controls["seed"], (1, 2), turn)}
LIMITED = "convnet"  # the playground's start; the others are for information


def measure(*, repeats: int, root=None):
    """A row for each net and change."""
    rows = [asyncio.run(_row(net, config, name, change, repeats)) for net, config in NETS.items()
            for name, change in CHANGES.items()]
    return rows, None, {"train": data.load("digits", "train", root=root).source}


async def _row(net: str, config: TrainConfig, name: str, change: Callable, repeats: int) -> Row:
    from cbn_lab import widgets

    playground = widgets.playground(config, records=[])
    seconds, worked = [], []
    for turn in range(1 + repeats):
        before = playground.shown()
        began, busy = time.perf_counter(), time.process_time()
        change(playground, turn)
        while playground.shown() == before:
            await asyncio.sleep(0.001)
        seconds.append(time.perf_counter() - began)
        worked.append(time.process_time() - busy)
        await asyncio.sleep(AFTERWARDS_SECONDS)
    playground.live.close()
    notes = {"threads": torch.get_num_threads(), "processor_seconds": worked[1:]}
    return Row(f"{name}, {net}", median(seconds[1:]), "s", LIMIT if net == LIMITED else None,
               seconds={"change": seconds[1:]}, notes=notes)


def _set(control, values: tuple, turn: int) -> None:
    """One of the two values, in turns."""
    control.value = values[turn % 2]
