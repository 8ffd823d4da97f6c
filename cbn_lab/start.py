"""The small runs of notebook 00: five activations, six placements, three seeds, on the bundled digits.

    python -m cbn_lab.start --out results/start

trains what is not recorded yet (90 runs of about 3 s on one thread). Model, batch size, peak learning rate and weight
decay are those of the structure ablation (`cbn_lab.ablation`), taken over as they are: nothing was tuned on the digits.
Only the number of epochs was chosen, so that a run takes a few seconds.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cbn_lab import blocks, data, figures, runs, sweep
from cbn_lab.ablation import ACTIVATIONS, SEEDS
from cbn_lab.train import TrainConfig


def config(activation: str, placement: str, seed: int = 0) -> TrainConfig:
    """1,415 digits of 8 x 8 pixels, 10 epochs of 11 steps. fp32, so that it means the same on every processor."""
    return TrainConfig(data="digits", model="convnet", activation=activation, placement=placement, epochs=10,
                       batch_size=128, lr=0.1, momentum=0.9, weight_decay=5e-4, decay_norm=True, seed=seed,
                       device="cpu", precision="fp32", log_every=4)


def plan() -> list[TrainConfig]:
    """Every recorded run, seed by seed."""
    return [config(f, p, seed) for seed in SEEDS for f in ACTIVATIONS for p in blocks.placements()]


def experiment(seed: int = 0, root=None) -> list[TrainConfig]:
    """The notebook's experiment, Sigmoid with vanilla BN and with our CBN: CIFAR-10 where it is found, else digits.

    CIFAR-10 in small: 3 epochs of 100 steps, without crops as in the ablation, evaluated on 1,000 other images after
    each. With its picture, the pair takes about 45 s of one core with bf16 units.
    """
    pair = [config("sigmoid", placement, seed) for placement in ("before", "complete")]
    if data.available(root)["cifar10"].startswith("missing"):
        return pair
    return [replace(c, data="cifar10", train_images=100 * 128, validation_images=1000, epochs=3, crop_padding=0,
                    precision="auto", log_every=5) for c in pair]


def folder() -> Path:
    """results/start of this checkout. RecordError where the package was installed without one."""
    return runs.stored("start", "python -m cbn_lab.start --out results/start")


def records(root=None) -> list[runs.Run]:
    """The runs recorded in the folder `root` (None: this checkout's), in the order of `plan`."""
    order = {(c.activation, c.placement, c.seed): i for i, c in enumerate(plan())}
    return sorted(runs.load_all(folder() if root is None else root), key=lambda run: order[tuple(
        run.config[key] for key in ("activation", "placement", "seed"))])


def gains(trained: Sequence[runs.Run], baseline: str = "before") -> dict[str, dict[str, list[float]]]:
    """placement -> activation -> accuracy minus the baseline's in points, seed by seed where both were run."""
    table = figures.accuracies(trained, "placement", _accuracy(trained))
    return {placement: {name: figures.paired(values, table[baseline].get(name, {})) for name, values in row.items()}
            for placement, row in table.items() if placement != baseline}


def _accuracy(trained: Sequence[runs.Run]) -> str:
    """The accuracy that these finished runs have: on test images, else on validation images."""
    return "test_accuracy" if "test_accuracy" in trained[0].final else "validation_accuracy"


def sentence(trained: Sequence[runs.Run], placement: str = "complete", baseline: str = "before") -> str:
    """What two placements ended with, seed by seed, in words; for unfinished runs, that there is nothing to compare."""
    finished = [run for run in trained if run.status == "finished"]
    if {run.config["placement"] for run in finished} != {placement, baseline}:
        return "Not all of these runs were finished, so there is nothing to compare yet."
    metric = _accuracy(finished)
    said = [_compared(finished, placement, baseline, "train_loss", -1, digits=3, unit=""),
            _compared(finished, placement, baseline, metric, 100, digits=1, unit=" %")]
    config = finished[0].config
    return f"{config['activation'].capitalize()} on {config['data']}, {config['epochs']} epochs: {'; '.join(said)}."


def _compared(finished, placement, baseline, metric, factor, digits, unit) -> str:
    """`factor` scales the numbers; a negative one says that less is better."""
    ours, theirs = ({run.config["seed"]: abs(factor) * run.final[metric] for run in finished
                     if run.config["placement"] == name} for name in (placement, baseline))
    differences = figures.paired(ours, theirs)
    better, count = sum(factor * d > 0 for d in differences), len(differences)
    numbers = [figures.spread(list(values.values()), digits, unit=unit) for values in (ours, theirs)]
    verdict = f", {'higher' if factor > 0 else 'lower'} in {better} of {count} seeds" if count > 1 else ""
    what = "mean training loss of the last epoch" if metric == "train_loss" else metric.replace("_", " ")
    return f"{what} {numbers[0]} with {placement} against {numbers[1]} with {baseline}{verdict}"


def main(arguments: list[str] | None = None) -> int:
    return sweep.main(plan(), "results/start", "Record the runs of notebook 00 that are missing.", arguments)


if __name__ == "__main__":
    sys.exit(main())
