"""The structure ablation: every row of the table from which our CBN was reconstructed, as runs to record.

    python -m cbn_lab.ablation --out results/ablation --jobs 2

trains what is not recorded yet, in the order of `plan()`, and can be stopped and started at will. What is run, and how
the defaults of `CompleteBatchNorm2d` follow from it, is written in results/PROTOCOL.md.
"""

import sys
from dataclasses import dataclass

from cbn_lab import sweep
from cbn_lab.train import TrainConfig

ACTIVATIONS = ("sigmoid", "tanh", "relu", "selu", "swish")
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """One structure: `placement` and `options` for `blocks.block`; `layer` is the same as a CompleteBatchNorm2d."""

    label: str
    layer: dict
    placement: str = "complete"

    @property
    def options(self) -> dict:
        return self.layer if self.placement == "complete" else {}


def _layer(k: float, **options) -> dict:
    return {"shift_lr_multiplier": float(k)} | options


_BEFORE = {"standardize": "before", "gamma": "before", "post_shift": False}

ROWS: dict[str, Row] = {
    "vanilla": Row("conv, BN, act (vanilla)", _layer(1, **_BEFORE), "before"),
    "swapped": Row("conv + bias, act, BN (swapped)", _layer(1), "after"),
    "standardize": Row("conv + bias, act, standardize", _layer(1, gamma=None, post_shift=False)),
    "gamma_only": Row("conv + bias, act, standardize, gamma", _layer(1, post_shift=False)),
    "affine_before": Row("conv, gamma & shift, act, standardize", _layer(1, gamma="before", post_shift=False)),
    "rms": Row("conv + bias, act, divide by RMS", _layer(1, gamma=None, post_shift=False, center=False)),
    "both": Row("conv, BN, act, BN (both)", _layer(1, standardize="both", gamma="both"), "both"),
    "vanilla_9x": Row("conv, standardize, gamma, 9x shift, act", _layer(9, **_BEFORE)),
    "pre_9x": Row("conv, 9x shift, act, standardize", _layer(9, gamma=None, post_shift=False)),
    "post_9x": Row("conv, act, standardize, 9x shift", _layer(9, gamma=None, pre_shift=False)),
    "shifts_4x": Row("conv, 4x shift, act, standardize, 4x shift", _layer(4, gamma=None)),
    "shifts_9x": Row("conv, 9x shift, act, standardize, 9x shift", _layer(9, gamma=None)),
    "shifts_25x": Row("conv, 25x shift, act, standardize, 25x shift", _layer(25, gamma=None)),
    "gamma_4x": Row("conv, 4x shift, act, standardize, gamma, 4x shift", _layer(4)),
    "gamma_9x": Row("conv, 9x shift, act, standardize, gamma, 9x shift", _layer(9)),
    "gamma_25x": Row("conv, 25x shift, act, standardize, gamma, 25x shift", _layer(25)),
}

REFERENCES = ("vanilla", "swapped")
CANDIDATES = ("gamma_4x", "gamma_9x", "gamma_25x", "shifts_9x")  # for the defaults; "gamma_9x" holds them until beaten


def small(row: str, activation: str, seed: int, decay_norm: bool = True) -> TrainConfig:
    """20,000 images, 3 epochs: the setting in which the structure was found."""
    return TrainConfig(data="cifar10", train_images=20_000, validation_images=10_000, epochs=3, log_every=39,
                       evaluate_every=0, **_common(row, activation, seed, decay_norm))


def long(row: str, activation: str, seed: int, decay_norm: bool = True) -> TrainConfig:
    """45,000 images, 8 epochs; the last 5,000 training images are held out to choose with."""
    return TrainConfig(data="cifar10", train_images=45_000, validation_images=5_000, epochs=8, log_every=117,
                       **_common(row, activation, seed, decay_norm))


def _common(row, activation, seed, decay_norm) -> dict:
    if row not in ROWS:
        raise ValueError(f"unknown row {row!r} of the ablation; known: {', '.join(ROWS)}")
    return dict(model="convnet", activation=activation, placement=ROWS[row].placement, norm_options=ROWS[row].options,
                batch_size=128, lr=0.1, momentum=0.9, weight_decay=5e-4, decay_norm=decay_norm, crop_padding=0,
                flip=True, seed=seed, device="cpu", precision="bf16")


def plan() -> list[TrainConfig]:
    """Every run, by value: a stop at any point leaves tables that are whole as far as they go."""
    first, second = (*REFERENCES, "gamma_9x"), tuple(row for row in CANDIDATES if row != "gamma_9x")
    variants = ("shifts_4x", "gamma_4x", "gamma_25x")
    main = tuple(row for row in ROWS if row not in variants)
    return [*_grid(small, main, SEEDS[:1]), *_grid(small, variants, SEEDS[:1]), *_grid(small, main, SEEDS[1:]),
            *_long(first, SEEDS[:1]), *_grid(small, variants, SEEDS[1:]),
            *_grid(small, ("gamma_9x",), SEEDS, decay_norm=False), *_long(first, SEEDS[1:]), *_long(second, SEEDS)]


def _long(rows, seeds) -> list[TrainConfig]:
    """All rows of one activation before the next activation, so that a stop leaves comparable runs."""
    return [config for seed in seeds for f in ACTIVATIONS for config in _grid(long, rows, [seed], (f,))]


def _grid(setting, rows, seeds, functions=ACTIVATIONS, **options) -> list[TrainConfig]:
    return [setting(row, f, seed, **options) for seed in seeds for row in rows for f in functions]


def row_of(config: dict) -> str | None:
    """The key in ROWS of a recorded run's structure, or None."""
    for key, row in ROWS.items():
        if config["placement"] == row.placement and config["norm_options"] == row.options:
            return key
    return None


def main(arguments: list[str] | None = None) -> int:
    return sweep.main(plan(), "results/ablation", "Record the runs of the structure ablation that are missing.",
                      arguments)


if __name__ == "__main__":
    sys.exit(main())
