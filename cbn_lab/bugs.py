"""What the bugs of the gallery do to training: the recorded runs of notebook 01, on the bundled digits.

    python -m cbn_lab.bugs --out results/bugs

trains what is not recorded yet (72 runs of 1 to 3 s on one thread). Two settings: the convnet of `cbn_lab.start`, where
a channel has at least 128 values in a batch, and an MLP with batches of 8, where it has 8. Neither was tuned.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

from cbn_lab import norms, runs, start, sweep
from cbn_lab.ablation import SEEDS
from cbn_lab.figures import spread
from cbn_lab.norms import gallery
from cbn_lab.train import TrainConfig

LETTERS = {bug.layer.__name__: letter for letter, bug in gallery.SUSPECTS.items()}
LAYERS = {"Correct": gallery.Correct} | {bug.layer.__name__: bug.layer for bug in gallery.SUSPECTS.values()}
SETTINGS = {"convnet, batches of 128": {},
            "MLP, batches of 8": {"model": "mlp", "model_options": {"width": 64, "depth": 3}, "batch_size": 8,
                                  "epochs": 4, "lr": 0.02}}


def config(layer: str, setting: str, seed: int = 0) -> TrainConfig:
    """ReLU, the norm before the activation; `layer` is "batch_norm" (torch's) or a name of `LAYERS`."""
    changes = {"norm_options": {"norm": layer}, "log_every": 1000} | SETTINGS[setting]
    return replace(start.config("relu", "before", seed), **changes)


def plan() -> list[TrainConfig]:
    return [config(layer, setting, seed) for setting in SETTINGS for layer in ("batch_norm", *LAYERS) for seed in SEEDS]


def table(records: Sequence[runs.Run]) -> list[tuple]:
    """Layer, then for each setting training loss of the last epoch and test accuracy, as mean and range."""
    rows = [("layer", *(f"{what}, {setting}" for setting in SETTINGS for what in ("loss (nats)", "accuracy (%)")))]
    for layer in ("batch_norm", *LAYERS):
        cells = []
        for setting in SETTINGS:
            finals = [run.final for run in of(records, layer, setting)]
            cells += [spread([final["train_loss"] for final in finals], 3),
                      spread([100 * final["test_accuracy"] for final in finals])]
        label = f"{LETTERS[layer]}: {layer}" if layer in LETTERS else layer
        rows.append((label, *(cell.replace(f", {len(SEEDS)} seeds", "") for cell in cells)))
    return rows


def of(records: Sequence[runs.Run], layer: str, setting: str) -> list[runs.Run]:
    """The runs of one layer in one setting, by seed."""
    wanted = config(layer, setting)
    found = [run for run in records if run.config["norm_options"] == wanted.norm_options
             and (run.config["model"], run.config["batch_size"]) == (wanted.model, wanted.batch_size)]
    return sorted(found, key=lambda run: run.config["seed"])


def register() -> None:
    """Make the layers known to `norm_options`."""
    for name, layer in LAYERS.items():
        norms.register(name, layer)


def main(arguments: list[str] | None = None) -> int:
    return sweep.main(plan(), "results/bugs", "Record the runs of notebook 01 that are missing.", arguments,
                      prepare=register)


if __name__ == "__main__":
    sys.exit(main())
