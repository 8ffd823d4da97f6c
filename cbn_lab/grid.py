"""The evidence grid: activations x placements x networks x data, at one common setting and tuned arm by arm.

    python -m cbn_lab.grid --size small     # on two CPU cores
    python -m cbn_lab.grid --size full      # on one GPU

trains what is not recorded yet, in the order of `plan`, and can be stopped and started at will. What is run, how an arm
is tuned and which outcome counts for which claim is written in results/GRID.md, before the first run.

An arm is an activation and a placement; a part is all arms of one network on one data set, at one size and setting.
Later runs depend on recorded ones: a tuned arm's seeds on its search, further seeds on whether the first three decide.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, stdev

import torch

from cbn_lab import runs, sweep
from cbn_lab.ablation import ACTIVATIONS, SEEDS
from cbn_lab.config import TrainConfig
from cbn_lab.runs import Run

COMPARED = ("complete", "before")  # the two arms of the main comparisons, and the first to be tuned
OTHERS = ("after", "none", "both")
PLACEMENTS = COMPARED + OTHERS
FURTHER_SEEDS = (3, 4)
CLASSES = {"cifar10": 10, "cifar100": 100}
NETS = ("convnet", "vgg16", "resnet20", "resnet18")

_STRIDES = [1, 2, 1, 2, 1, 2, 1, 1]
_SHARED = dict(validation_images=5_000, momentum=0.9, decay_norm=False, flip=True, precision="bf16")
_SIZES = {
    "small": _SHARED | dict(device="cpu", train_images=10_000, epochs=3, batch_size=64, crop_padding=0, log_every=13,
                            evaluate_every=0),
    "full": _SHARED | dict(device="cuda", train_images=45_000, epochs=30, batch_size=512, crop_padding=4, log_every=8,
                           evaluate_every=5),
}
_NETS = {
    ("small", "convnet"): {"model_options": {"widths": [16, 16, 32, 32, 64, 64, 128, 128], "strides": _STRIDES}},
    ("small", "resnet20"): {"train_images": 5_000},
    ("full", "convnet"): {"model_options": {"widths": [64, 64, 128, 128, 256, 256, 512, 512], "strides": _STRIDES}},
}
_RATES = {"small": (0.1, 0.03, 0.3), "full": (0.3, 0.1, 1.0)}
_DECAYS = (5e-4, 5e-5)
SEARCH = {size: tuple((lr, decay) for lr in rates for decay in _DECAYS) for size, rates in _RATES.items()}
COMMON = {size: pairs[0] for size, pairs in SEARCH.items()}  # peak learning rate, weight decay


@dataclass(frozen=True)
class Part:
    """All arms of one network on one data set; `size` is "small" or "full", `setting` "common" or "tuned"."""

    size: str
    data: str
    model: str
    setting: str = "common"

    def config(self, activation: str, placement: str, seed: int, lr: float, weight_decay: float) -> TrainConfig:
        """Nothing is left to the machine ("auto"), so that a run has the same name everywhere."""
        return _named(self, activation, placement, seed, lr, weight_decay)[1]

    def search(self, activation: str, placement: str) -> dict[str, TrainConfig]:
        """name -> run by which an arm's learning rate and weight decay are chosen, the common setting first."""
        return dict(_named(self, activation, placement, SEEDS[0], *pair) for pair in SEARCH[self.size])

    def seeds(self, activation: str, placement: str, pair: tuple[float, float], seeds) -> dict[str, TrainConfig]:
        """name -> run of an arm at (lr, weight_decay)."""
        return dict(_named(self, activation, placement, seed, *pair) for seed in seeds)

    def choice(self, activation: str, placement: str, found: Mapping[str, Run]) -> tuple[float, float] | None:
        """(lr, weight_decay) of an arm; None while a tuned one's search is not recorded to its end (see `tuned`)."""
        if self.setting == "common":
            return COMMON[self.size]
        return tuned([found.get(key) for key in self.search(activation, placement)])

    def arm(self, activation: str, placement: str, found: Mapping[str, Run]) -> dict[int, Run]:
        """seed -> recorded run of one arm; empty while the arm is not tuned."""
        pair = self.choice(activation, placement, found)
        planned = {} if pair is None else self.seeds(activation, placement, pair, (*SEEDS, *FURTHER_SEEDS))
        return {config.seed: found[key] for key, config in planned.items() if key in found}


@cache
def _named(part: Part, activation, placement, seed, lr, weight_decay) -> tuple[str, TrainConfig]:
    """A run and the name of its record. (A plan asks for each some dozen times, and a name takes a third of a ms.)"""
    options = _SIZES[part.size] | _NETS.get((part.size, part.model), {})
    config = TrainConfig(data=part.data, model=part.model, activation=activation, placement=placement, seed=seed, lr=lr,
                         weight_decay=weight_decay, **options)
    return name(config), config


def name(config: TrainConfig) -> str:
    """The name of a run's record, on machines without the device as well."""
    return runs.name(config.record())


@dataclass(frozen=True)
class Stage:
    """Runs of a part that are decided upon together. `step` is "search", "seeds" or "further"."""

    part: Part
    step: str
    placements: tuple[str, ...] = PLACEMENTS

    def runs(self, found: Mapping[str, Run]) -> dict[str, TrainConfig] | None:
        """name -> run; None while they depend on runs that are not recorded."""
        return getattr(self, f"_{self.step}")(found)

    def _search(self, found):
        return {key: config for p in self.placements for f in ACTIVATIONS
                for key, config in self.part.search(f, p).items()}

    def _seeds(self, found):
        choices = {(f, p): self.part.choice(f, p, found) for p in self.placements for f in ACTIVATIONS}
        if None in choices.values():
            return None
        return {key: config for seed in SEEDS for arm, pair in choices.items()
                for key, config in self.part.seeds(*arm, pair, [seed]).items()}

    def _further(self, found):
        """Seeds 3 and 4 of both compared arms where seeds 0 to 2 do not decide, by the validation accuracy."""
        planned = {}
        for f in ACTIVATIONS:
            ours, theirs = (self.part.arm(f, p, found) for p in COMPARED)
            if not set(SEEDS) <= ours.keys() & theirs.keys():
                return None
            first = [final(ours[s], "validation_accuracy") - final(theirs[s], "validation_accuracy") for s in SEEDS]
            if not decided(first):
                for p in COMPARED:
                    planned |= self.part.seeds(f, p, self.part.choice(f, p, found), FURTHER_SEEDS)
        return planned


def _stages(size: str, *lines: str) -> tuple[Stage, ...]:
    """From lines such as "tuned cifar10 convnet: search seeds", of which a "*" means the compared arms alone."""
    stages = []
    for line in lines:
        where, steps = line.split(": ")
        setting, data, model = where.split()
        for step in steps.split():
            arms = COMPARED if step.endswith("*") else PLACEMENTS
            stages.append(Stage(Part(size, data, model, setting), step.removesuffix("*"), arms))
    return tuple(stages)


STAGES = {
    "small": _stages(
        "small", "common cifar10 convnet: seeds", "common cifar100 convnet: seeds",
        "tuned cifar10 convnet: search* seeds*", "common cifar10 resnet20: seeds", "common cifar10 convnet: further",
        "tuned cifar10 convnet: further search seeds", "common cifar100 convnet: further",
        "common cifar100 resnet20: seeds", "common cifar10 resnet20: further", "common cifar100 resnet20: further",
        "tuned cifar100 convnet: search* seeds* further search seeds"),
    "full": _stages(
        "full", "common cifar10 convnet: seeds further", "common cifar100 convnet: seeds further",
        "tuned cifar10 convnet: search* seeds* further", "common cifar10 resnet18: seeds further",
        "common cifar100 vgg16: seeds further", "tuned cifar10 convnet: search seeds",
        *(f"common {data} {model}: seeds further" for model in NETS for data in CLASSES),
        *(f"tuned {data} {model}: search* seeds* further search seeds" for model in NETS for data in CLASSES)),
}
PARTS = tuple(dict.fromkeys(stage.part for stages in STAGES.values() for stage in stages))


def tuned(search: Sequence[Run | None]) -> tuple[float, float] | None:
    """(lr, weight_decay) of the run with the highest validation accuracy after the last epoch, of equals the first.

    None while one of them is not recorded.
    """
    if None in search:
        return None
    best = max(search, key=lambda run: final(run, "validation_accuracy"))
    return best.config["lr"], best.config["weight_decay"]


def final(run: Run, metric: str) -> float:
    """A last number; for a diverged run that of a net that says nothing: accuracy 1/K, loss log K nats, K classes."""
    if run.status != "diverged":
        return run.final[metric]
    classes = CLASSES[run.config["data"]]
    return 1 / classes if metric.endswith("accuracy") else math.log(classes)


def decided(differences: Sequence[float]) -> bool:
    """Whether paired differences are convincing: three or more of one sign, their mean beyond two standard errors."""
    if len(differences) < len(SEEDS):
        return False
    one_sign = all(d > 0 for d in differences) or all(d < 0 for d in differences)
    return one_sign and abs(fmean(differences)) > 2 * stdev(differences) / len(differences) ** 0.5


def recorded(folder) -> dict[str, Run]:
    """name -> run, for the runs in a folder that came to their end (a diverged run has too)."""
    found = runs.load_all(folder) if Path(folder).is_dir() else []
    return {runs.name(run.config): run for run in found if run.status != "interrupted"}


def plan(size: str, found: Mapping[str, Run]) -> dict[str, TrainConfig]:
    """name -> every run that is known to be needed, by value: a stop leaves whole tables as far as they go.

    `found` are the recorded runs (see `recorded`). The plan ends where the next runs depend on runs in it that are not
    recorded; with those it goes on. ValueError for an unknown size.
    """
    if size not in STAGES:
        raise ValueError(f"size must be one of {', '.join(STAGES)}, got {size!r}")
    planned: dict[str, TrainConfig] = {}
    for stage in STAGES[size]:
        more = stage.runs(found)
        if more is None:
            break
        planned |= more
    return planned


def still_missing(size: str, found: Mapping[str, Run]) -> list[TrainConfig]:
    return [config for key, config in plan(size, found).items() if key not in found]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Record the runs of the evidence grid that are missing.")
    parser.add_argument("--size", choices=STAGES, default="small", help="small: CPU; full: one GPU")
    parser.add_argument("--out", default="results/grid")
    parser.add_argument("--root", help="folder that holds cifar10.npz and cifar100.npz, or torchvision's folders")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one per core, or one per GPU)")
    options = parser.parse_args(arguments)
    if options.size == "full" and not torch.cuda.is_available():
        parser.error("--size full needs a GPU, and torch finds none here; --size small is for CPUs")
    return sweep.rounds(lambda: still_missing(options.size, recorded(options.out)), options.out, root=options.root,
                        jobs=options.jobs)


if __name__ == "__main__":
    raise SystemExit(main())
