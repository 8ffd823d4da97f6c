"""The recorded runs of notebook 07: structure, one placement per layer, depth 30, small batches, on the digits.

    python -m cbn_lab.guided --out results/guided

trains what is not recorded yet. Every run is the setting of notebook 00 (`cbn_lab.start.config`) with one thing
changed. Nothing was tuned: the lists below were written, and committed, before the first of these runs. `one_free` and
`wide_end` were added after them, each before its own runs, to test an explanation of what `batch` showed.

    structure   the default layer of our reconstruction of CBN with one switch changed at a time
    mixed       Sigmoid, six layers: `complete` in the first or in the last n, vanilla BN in the others
    depth       an MLP of 30 layers of 64 units, every placement, every activation
    batch       mini-batches of 2 to 64, peak learning rate 0.1 B / 128 (linear scaling, Goyal et al. 2017)
    one_free    mini-batches of 2, with one layer that has no norm: the last, whose maps are 1 x 1, or the first
    wide_end    mini-batches of 2, ReLU, a norm in every layer; the last has stride 1, so that its maps are 2 x 2
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cbn_lab import blocks, runs, start, sweep
from cbn_lab.ablation import ACTIVATIONS, SEEDS
from cbn_lab.train import TrainConfig

LAYERS = 6  # of the default convnet
DEPTH, WIDTH = 30, 64
BATCHES = (64, 32, 8, 4, 2)  # 128 is in results/start
STRUCTURES = {
    "default": {},
    "plain shifts (k = 1)": {"shift_lr_multiplier": 1.0},
    "k = 25": {"shift_lr_multiplier": 25.0},
    "no pre-shift": {"pre_shift": False},
    "no post-shift": {"post_shift": False},
    "no gamma": {"gamma": None},
    "no centring": {"center": False},
    "standardize before f": {"standardize": "before", "gamma": "before"},
    "standardize before and after f": {"standardize": "both", "gamma": "both"},
}


def structure(seed: int) -> list[TrainConfig]:
    return [replace(start.config(f, "complete", seed), norm_options=dict(options))
            for options in STRUCTURES.values() if options for f in ("sigmoid", "tanh", "relu")]


def mixed(seed: int) -> list[TrainConfig]:
    """The runs with n = 0 and n = 6 are those of one placement, in results/start."""
    lists = [[*["complete"] * n, *["before"] * (LAYERS - n)] for n in range(1, LAYERS)]
    return [replace(start.config("sigmoid", "before", seed), placement=tuple(order))
            for one in lists for order in (one, one[::-1])]


def depth(seed: int) -> list[TrainConfig]:
    return [replace(start.config(f, p, seed), model="mlp", model_options={"width": WIDTH, "depth": DEPTH})
            for f in ACTIVATIONS for p in blocks.placements()]


def batch(seed: int) -> list[TrainConfig]:
    """`log_every` grows with the number of steps, so that every run has 30 records."""
    return [replace(start.config(f, p, seed), batch_size=b, lr=0.1 * b / 128, log_every=4 * 128 // b)
            for b in BATCHES for f in ("relu", "sigmoid") for p in ("none", "before", "complete")]


def one_free(seed: int) -> list[TrainConfig]:
    return [replace(config, placement=order) for config in batch(seed)
            if config.batch_size == 2 and config.placement != "none"
            for others in [[config.placement] * (LAYERS - 1)]
            for order in ((*others, "none"), ("none", *others))]


def wide_end(seed: int) -> list[TrainConfig]:
    """Eight values per channel in the last layer, where `batch` has two: as many as with mini-batches of 8."""
    return [replace(config, model_options={"strides": [1, 2, 1, 2, 1, 1]}) for config in batch(seed)
            if (config.batch_size, config.activation) == (2, "relu") and config.placement != "none"]


GROUPS = {"structure": structure, "mixed": mixed, "depth": depth, "batch": batch, "one_free": one_free,
          "wide_end": wide_end}


def plan() -> list[TrainConfig]:
    """Every recorded run, seed by seed."""
    return [config for seed in SEEDS for group in GROUPS.values() for config in group(seed)]


def records(group: str, folder=None) -> list[runs.Run]:
    """The recorded runs of one group, in the order of its list and of the seeds. ValueError for an unknown group."""
    if group not in GROUPS:
        raise ValueError(f"unknown group {group!r} of recorded runs; known: {', '.join(GROUPS)}")
    folder = start.folder().parent / "guided" if folder is None else Path(folder)
    names = [runs.name(config.resolved().record()) for seed in SEEDS for config in GROUPS[group](seed)]
    return [runs.load(path) for path in (folder / f"{name}.json" for name in names) if path.exists()]


def main(arguments: Sequence[str] | None = None) -> int:
    return sweep.main(plan(), "results/guided", "Record the runs of notebook 07 that are missing.", arguments)


if __name__ == "__main__":
    sys.exit(main())
