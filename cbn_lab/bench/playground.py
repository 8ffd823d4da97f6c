"""The widgets' answer: seconds from a change to the new picture, and in the playground the new statistics as well.

Changes are made on the widget, inside an event loop as in a notebook, and timed until both are in place; what a browser
then takes to show them is not in it. The learning curves follow later and are not in it either. Whether recorded runs
are there makes no difference, so none are given. The notes hold the processor's seconds as well, which say more where
other programs compute at the same time. The explorers are changed outside of an event loop, where they draw at once:
the wait for further steps of a slider (0.06 s) is not in their time.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from cbn_lab import ablation, data, share
from cbn_lab.bench.measure import Row
from cbn_lab.config import TrainConfig
from cbn_lab.runs import Run

LIMIT = 0.150  # s, on two CPU cores
AFTERWARDS_SECONDS = 0.5  # for the curves, and so that the next click is not the second of a double click
NETS = {"convnet": share.DEFAULT,
        "mlp of 30 layers": replace(share.DEFAULT, model="mlp", model_options={"depth": 30, "width": 64}),
        "resnet20": replace(share.DEFAULT, model="resnet20")}
CHANGES = {"a click on a slot": lambda playground, turn: playground.board.slots["norm"].click(),
           "another activation": lambda playground, turn: _set(playground.board.activation, ("tanh", "relu"), turn),
           "another seed": lambda playground, turn: _set(playground.training.controls["seed"], (1, 2), turn)}
LIMITED = "convnet"  # the playground's start; the others are for information


def _slack_meter():
    from cbn_lab.widgets import slack

    meter = slack.meter()
    return meter, lambda turn: setattr(meter.controls["noise σ"], "value", 0.05 * (1 + turn % 40))


def _ablation():
    """Five panels over all structures, of made-up runs."""
    from cbn_lab import widgets

    made_up = [Run(ablation.small(row, activation, seed).resolved().record(), [],
                   {metric: 0.5 + 0.01 * seed + 0.001 * i for metric in widgets.ablation.METRICS}, {}, "finished")
               for activation in ablation.ACTIVATIONS for i, row in enumerate(ablation.ROWS) for seed in (0, 1, 2)]
    explorer = widgets.ablation_explorer(made_up)
    return explorer, lambda turn: _set(explorer.controls["show"], (True, False), turn)


def _spectrum():
    from cbn_lab import widgets

    explorer = widgets.spectrum_explorer(ablation.ACTIVATIONS)
    control = next(control for control in explorer.controls.values() if hasattr(control, "step"))
    return explorer, lambda turn: _set(control, (control.min, control.max), turn)


def _fold():
    from cbn_lab import widgets

    explorer = widgets.fold_explorer()
    return explorer, lambda turn: _set(explorer.controls["activation"], ("relu", "selu"), turn)


EXPLORERS = {"a step of the slack meter": _slack_meter, "another view of the ablation, 5 panels": _ablation,
             "a step of the spectrum explorer": _spectrum, "another activation, folding": _fold}


def measure(*, repeats: int, root=None):
    """A row for each net and change, and for each explorer."""
    rows = [asyncio.run(_row(net, config, name, change, repeats)) for net, config in NETS.items()
            for name, change in CHANGES.items()]
    rows += [_explorer_row(name, *explorer(), repeats) for name, explorer in EXPLORERS.items()]
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


def _explorer_row(name: str, explorer, change: Callable, repeats: int) -> Row:
    seconds, worked = [], []
    for turn in range(1 + repeats):
        before, began, busy = bytes(explorer.image.value), time.perf_counter(), time.process_time()
        change(turn)
        seconds.append(time.perf_counter() - began)
        worked.append(time.process_time() - busy)
        if explorer.error is not None or explorer.image.value == before:
            raise RuntimeError(f"{name}: no new picture ({explorer.error or 'the old one stands'})")
    notes = {"threads": torch.get_num_threads(), "processor_seconds": worked[1:]}
    return Row(name, median(seconds[1:]), "s", LIMIT, seconds={"change": seconds[1:]}, notes=notes)


def _set(control, values: tuple, turn: int) -> None:
    """One of the two values, in turns."""
    control.value = values[turn % 2]
