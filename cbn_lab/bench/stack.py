"""Nets trained as one stack over the same nets trained one after the other: time of equal steps on the digits.

What decides is how long the kernels of a step take beside what starting them costs; so a net of the usual size stands
here beside two that are too small for their kernels to matter. All eight nets of a stack differ in seed.
"""

from dataclasses import replace
from statistics import median

import torch

from cbn_lab import data
from cbn_lab.bench.measure import Row, alternate, ratio
from cbn_lab.stack import Stack
from cbn_lab.train import TrainConfig, Trainer

NETS = 8
SETTINGS = {
    "convnet, batches of 128": {},
    "convnet (4, 8, 8), batches of 16": {"model_options": {"widths": (4, 8, 8)}, "batch_size": 16},
    "mlp of width 16, batches of 16": {"model": "mlp", "model_options": {"width": 16}, "batch_size": 16},
}


def measure(*, repeats: int, root=None, settings=SETTINGS, steps: int = 5):
    rows = []
    for name, change in settings.items():
        config = TrainConfig(epochs=repeats + 1, evaluate_every=0, log_every=steps, **change)  # a part is no more
        config = replace(config, train_images=1400 // (steps * config.batch_size) * steps * config.batch_size)
        configs = [replace(config, seed=seed) for seed in range(NETS)]
        together, alone = Stack(configs, root=root).run(), [Trainer(one, root=root).run() for one in configs]
        seconds = alternate({"stack": lambda together=together: next(together),
                             "one by one": lambda alone=alone: [next(records) for records in alone]}, repeats)
        milliseconds = {arm: 1e3 * median(times) / steps / NETS for arm, times in seconds.items()}
        rows.append(Row(f"one by one over a stack of {NETS}, {name}", ratio(seconds, "one by one", "stack"),
                        seconds=seconds, notes={"threads": torch.get_num_threads(),
                                                "milliseconds_per_step_and_net": milliseconds}))
    return rows, None, {"train": data.load("digits", "train", root=root).source}
