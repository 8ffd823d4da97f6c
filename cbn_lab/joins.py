"""How the shortcut of a residual net joins with our reconstruction of CBN: recorded runs and probes of the forms.

    python -m cbn_lab.joins

trains what is not recorded yet. What is run, and what decides, was written before the first run in
results/residual/PROTOCOL.md; the forms themselves are in `cbn_lab.residual`.
"""

import argparse
import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev

import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from cbn_lab import data, grid, runs, sweep
from cbn_lab.ablation import ACTIVATIONS, SEEDS
from cbn_lab.config import TrainConfig
from cbn_lab.residual import PreactivatedBlock, ResidualBlock
from cbn_lab.runs import Run
from cbn_lab.train import Trainer

CANDIDATES = ("normalized", "preactivated")
PROBED = ("tanh", "relu", "selu")
PROBE_STEPS = (0, 78, 156, 234)
PROBE_IMAGES = 128
Arm = tuple[str, str]  # placement, join
Pair = tuple[float, float]  # peak learning rate, weight decay


@dataclass(frozen=True)
class Setting:
    """Arms that are compared on one part of the grid, whose `setting` says whether each is tuned.

    `options` says in what the runs differ from those of the part.
    """

    label: str
    part: grid.Part
    arms: tuple[Arm, ...]
    options: Mapping = field(default_factory=dict)

    def config(self, activation: str, placement: str, join: str, seed: int, pair: Pair | None = None) -> TrainConfig:
        """The grid's run, but for the options; the form "activated" is the grid's own, with the grid's name.

        `pair` is peak learning rate and weight decay, without it the common ones.
        """
        pair = pair or grid.COMMON[self.part.size]
        found = replace(self.part.config(activation, placement, seed, *pair), **self.options)
        return found if join == "activated" else replace(found, model_options={"join": join})

    def search(self, activation: str, placement: str, join: str) -> list[TrainConfig]:
        """The runs by which learning rate and weight decay of an arm are chosen, the common ones first."""
        return [self.config(activation, placement, join, SEEDS[0], pair) for pair in grid.SEARCH[self.part.size]]

    def choice(self, activation: str, placement: str, join: str, found: Mapping[str, Run]) -> Pair | None:
        """(lr, weight_decay) of an arm; None while a tuned one's search is not recorded to its end."""
        if self.part.setting == "common":
            return grid.COMMON[self.part.size]
        return grid.tuned([found.get(grid.name(config)) for config in self.search(activation, placement, join)])

    def plan(self, found: Mapping[str, Run]) -> dict[str, TrainConfig]:
        """name -> every run that the grid does not have: the search of tuned arms, then the seeds, seed by seed.

        It ends with the search until `found` (see `grid.recorded`) has all of that, the grid's part of it included.
        """
        arms = [(f, *arm) for arm in self.arms for f in ACTIVATIONS]
        choices = {arm: self.choice(*arm, found) for arm in arms}
        planned = [config for arm in arms for config in self.search(*arm)] if self.part.setting == "tuned" else []
        if None not in choices.values():
            planned += [self.config(*arm, seed, pair) for seed in SEEDS for arm, pair in choices.items()]
        of_grid = self.of_grid()
        return {name: config for config in planned if (name := grid.name(config)) not in of_grid}

    def of_grid(self) -> set[str]:
        """Names of the grid's own runs of these arms: the form activated, at the common setting."""
        return {grid.name(self.part.config(f, placement, seed, *grid.COMMON[self.part.size]))
                for f in ACTIVATIONS for placement, _ in self.arms for seed in SEEDS}


_FORMS = (("before", "activated"), ("complete", "activated"), ("complete", "normalized"))
SHORT = Setting("small, ResNet-20, CIFAR-10", grid.Part("small", "cifar10", "resnet20"),
                (*_FORMS, ("complete", "preactivated"), ("before", "preactivated")))
OTHER_DATA = Setting("small, ResNet-20, CIFAR-100", grid.Part("small", "cifar100", "resnet20"), _FORMS)
LONG = Setting("ResNet-20, CIFAR-10, 4 epochs of 10,000 images", SHORT.part, _FORMS,
               {"train_images": 10_000, "epochs": 4})
TUNED = Setting(f"{SHORT.label}, tuned", replace(SHORT.part, setting="tuned"), _FORMS)
TUNED_OTHER_DATA = Setting(f"{OTHER_DATA.label}, tuned", replace(OTHER_DATA.part, setting="tuned"),
                           (("before", "activated"), ("complete", "normalized")))
SETTINGS = (SHORT, OTHER_DATA, LONG, TUNED, TUNED_OTHER_DATA)
LOOKED_INTO = (SHORT, TUNED)  # of which there are probes


def probes(setting: Setting, found: Mapping[str, Run]) -> list[TrainConfig]:
    """Runs that are trained again to be looked into; in fp32, so that the probe sees what is trained.

    Those of tuned arms once `found` (see `grid.recorded`) has their search.
    """
    choices = {(f, *arm): setting.choice(f, *arm, found) for f in PROBED for arm in setting.arms}
    return [replace(setting.config(*arm, SEEDS[0], pair), precision="fp32") for arm, pair in choices.items() if pair]


def probe(config: TrainConfig, *, root=None) -> Run:
    """Train and look at PROBE_STEPS: "shares" and "gradients" of the residual blocks, from the first to the last."""
    trainer = Trainer(config, root=root)
    provenance = runs.provenance(trainer.config.device, trainer.sources())
    first = trainer.training.subset(slice(PROBE_IMAGES))
    batch = data.normalize(first.images, first), first.labels
    points = [{"step": 0, "epoch": 0.0} | look(trainer.model, *batch)]
    for progress in trainer.run():
        if progress.step in PROBE_STEPS:
            points.append({"step": progress.step, "epoch": progress.epoch} | look(trainer.model, *batch))
    final = {key: number for key, number in trainer.final().items() if key != "images_per_second"}
    return Run(_probe_settings(config), points, final, provenance, "finished")


def look(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """The mean loss in nats, and of each residual block the shortcut's share in its sum and the gradient of that loss.

    share = Var[shortcut] / (Var[shortcut] + Var[branch]), each the mean over the channels; the gradient is the norm of
    that with respect to the block's output.

    images [B, C, H, W], normalized; labels [B]. In train mode, on a copy: the model stays as it is.
    """
    model = copy.deepcopy(model).train()
    found = [module for module in model.modules() if isinstance(module, (ResidualBlock, PreactivatedBlock))]
    shares, outputs, parts = [], [], {}

    def keep(module, _, output):
        parts[module] = float(output.detach().var((0, 2, 3), correction=0).mean())

    def join(block, _, output):
        output.retain_grad()
        outputs.append(output)
        shares.append(parts[block.shortcut] / (parts[block.shortcut] + parts[_end(block)]))

    for block in found:
        block.shortcut.register_forward_hook(keep)
        _end(block).register_forward_hook(keep)
        block.register_forward_hook(join)
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return {"loss": float(loss.detach()), "shares": shares,
            "gradients": [float(output.grad.norm()) for output in outputs]}


def _end(block: nn.Module) -> nn.Module:
    """What gives the branch's part of the sum."""
    return block.linear if isinstance(block, ResidualBlock) else block.branch


def _probe_settings(config: TrainConfig) -> dict:
    return config.resolved().record() | {"probe": {"steps": list(PROBE_STEPS), "images": PROBE_IMAGES}}


def records(setting: Setting = SHORT, root=None) -> dict[tuple[str, str, str], dict[int, Run]]:
    """(activation, placement, join) -> seed -> run, those of the grid with them; `root` is a results folder."""
    return arms_of(_found(root), setting)


def arms_of(found: Mapping[str, Run], setting: Setting = SHORT) -> dict[tuple[str, str, str], dict[int, Run]]:
    """The same from name -> run; a tuned arm is empty until its search is recorded."""
    arms = {}
    for f in ACTIVATIONS:
        for arm in setting.arms:
            pair = setting.choice(f, *arm, found)
            named = {} if pair is None else {s: grid.name(setting.config(f, *arm, s, pair)) for s in SEEDS}
            arms[f, *arm] = {seed: found[name] for seed, name in named.items() if name in found}
    return arms


def probed(setting: Setting = SHORT, root=None) -> dict[tuple[str, str, str], Run]:
    """(activation, placement, join) -> probed run; `root` is a results folder."""
    found = _found(root)
    named = {_key(config): runs.name(_probe_settings(config)) for config in probes(setting, found)}
    return {key: found[name] for key, name in named.items() if name in found}


def _found(root) -> dict[str, Run]:
    return _recorded(folder() if root is None else Path(root) / "residual")


def _recorded(out: str | Path) -> dict[str, Run]:
    """name -> run, in a folder for residual forms and in the grid's beside it."""
    return grid.recorded(Path(out).parent / "grid") | grid.recorded(out)


def _key(config: TrainConfig) -> tuple[str, str, str]:
    return config.activation, config.placement, config.model_options.get("join", "activated")


def gains(arms: Mapping, ours: Arm, theirs: Arm, metric: str) -> dict[tuple[str, int], float]:
    """(activation, seed) -> accuracy of one arm minus that of another, in points."""
    return {(f, seed): 100 * (grid.final(run, metric) - grid.final(arms[f, *theirs][seed], metric))
            for f in ACTIVATIONS for seed, run in arms[f, *ours].items() if seed in arms[f, *theirs]}


def better(differences: Sequence[float]) -> bool:
    """Rule 1: the mean is positive by more than two of its standard errors."""
    return len(differences) > 1 and fmean(differences) > 2 * stdev(differences) / len(differences) ** 0.5


def chosen(arms: Mapping) -> str:
    """The form of `complete` by rule 1 from the arms of SHORT; "activated" where no candidate, whole, is better."""
    means = {}
    for join in CANDIDATES:
        found = list(gains(arms, ("complete", join), ("complete", "activated"), "validation_accuracy").values())
        if len(found) == len(ACTIVATIONS) * len(SEEDS) and better(found):
            means[join] = fmean(found)
    return max(means, key=means.get, default="activated")


def still_missing(out: str | Path) -> list[TrainConfig]:
    """What `out` lacks. The grid's runs are looked up beside it: without them no tuned arm gets beyond its search."""
    found = _recorded(out)
    planned = {name: config for setting in SETTINGS for name, config in setting.plan(found).items()}
    return [config for name, config in planned.items() if name not in found]


def folder() -> Path:
    """results/residual of this checkout. RecordError where the package was installed without one."""
    return runs.stored("residual", "python -m cbn_lab.joins")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Record what is missing of the residual forms: runs, then probes.")
    parser.add_argument("--out", default="results/residual")
    parser.add_argument("--root", help="folder that holds cifar10.npz and cifar100.npz, or torchvision's folders")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one per core)")
    options = parser.parse_args(arguments)
    if code := sweep.rounds(lambda: still_missing(options.out), options.out, root=options.root, jobs=options.jobs):
        return code
    found = _recorded(options.out)
    planned = {runs.name(_probe_settings(c)): c for setting in LOOKED_INTO for c in probes(setting, found)}
    missing = [config for name, config in planned.items() if name not in found]
    for config in tqdm(missing, unit="probe", disable=not missing):
        runs.save(probe(config, root=options.root), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
