"""The three effects along training, recorded: activations x placements x seeds, at matched loss and at matched step.

    python -m cbn_lab.effects --out results/effects

measures what is not recorded yet, in the order of `plan()`, and can be stopped and started at will: a run that is
stopped begins again. What is measured, when, and what counts for which claim was written down before the first run, in
results/effects/PROTOCOL.md.

A record is a `runs.Run` whose curve holds the points at which the probes looked:

    step, epoch, loss     the loss is the mean over the schedule's mini-batches, train mode
    scheduled             whether the step is one of the schedule's
    reached               the loss levels below which this is the first check
    raw, scale_free       curvature (L) with its residual; second (E||g||^2), variance (tr Cov g) and squared_mean
                          (||E g||^2) with their standard errors
    layers                weight layer -> raw and scale_free second and variance; at some points curvature
    running               raw and scale_free in eval mode, at the end of a run of seed 0
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from cbn_lab import runs
from cbn_lab.ablation import ACTIVATIONS, SEEDS
from cbn_lab.probes import curvature, gradients
from cbn_lab.probes._frozen import frozen
from cbn_lab.train import DivergedError, TrainConfig, Trainer

PLACEMENTS = ("none", "before", "after", "complete")
SCALES = ("raw", "scale_free")
TOLERANCE = 0.01  # of an eigenvalue's residual; the eigenvalue itself is then right to about its square


@dataclass(frozen=True)
class Schedule:
    """When to look at a run, and with how many mini-batches.

    levels           training losses (nats), falling: the first check below each is a point
    steps            these are points too
    check_every      steps between two looks at the loss
    batches          independent mini-batches for E||g||^2 and Var[g]
    loss_batches     the first of them, whose mean loss is compared with the levels
    curvature_batches  the first of them, whose mean loss's Hessian is taken
    """

    levels: tuple[float, ...]
    steps: tuple[int, ...]
    check_every: int = 1
    batches: int = 64
    loss_batches: int = 16
    curvature_batches: int = 2


@dataclass(frozen=True)
class Grid:
    """A part of the protocol: how its runs are trained, and when they are looked at."""

    config: Callable[[str, str, int], TrainConfig]
    schedule: Schedule


def _digits(activation: str, placement: str, seed: int) -> TrainConfig:
    """1,415 digits of 8 x 8, 10 epochs of 22 steps."""
    return TrainConfig(data="digits", model_options={"widths": [16, 16, 32, 32]}, epochs=10, batch_size=64,
                       **_common(activation, placement, seed))


def _cifar(activation: str, placement: str, seed: int) -> TrainConfig:
    """10,000 images of 32 x 32, 4 epochs of 78 steps."""
    return TrainConfig(data="cifar10", train_images=10_000, epochs=4, batch_size=128,
                       model_options={"widths": [8, 16, 32, 64], "strides": [2, 1, 2, 2]},
                       **_common(activation, placement, seed))


def _common(activation, placement, seed) -> dict:
    return dict(model="convnet", activation=activation, placement=placement, lr=0.1, momentum=0.9, weight_decay=5e-4,
                decay_norm=False, crop_padding=0, flip=False, seed=seed, device="cpu", precision="fp32", log_every=1,
                evaluate_every=0)


DIGITS = Grid(_digits, Schedule(levels=(1.5, 1.0, 0.5, 0.2), steps=(0, 10, 22, 66, 220)))
CIFAR = Grid(_cifar, Schedule(levels=(2.1, 1.9, 1.7), steps=(0, 78, 312), check_every=4, loss_batches=8,
                              curvature_batches=1))


@dataclass(frozen=True)
class Job:
    config: TrainConfig
    schedule: Schedule

    def settings(self) -> dict:
        """What the record and its file name are made from."""
        return self.config.resolved().record() | {"effects": asdict(self.schedule)}

    def path(self, out) -> Path:
        return Path(out) / f"{runs.name(self.settings())}.json"


def plan() -> list[Job]:
    """Every run of the protocol, by value: a stop leaves whole seeds."""
    digits = [Job(DIGITS.config(f, p, s), DIGITS.schedule) for s in SEEDS for f in ACTIVATIONS for p in PLACEMENTS]
    in_turn = (("before", "complete"), ("after",), ("none",))
    cifar = [Job(CIFAR.config(f, p, s), CIFAR.schedule) for placements in in_turn
             for s in SEEDS for f in ("sigmoid", "tanh", "relu") for p in placements]
    return digits + cifar


def record(job: Job, *, root=None) -> runs.Run:
    """Train one run and measure it on the way. A loss that is not finite ends it with status "diverged"."""
    trainer = Trainer(job.config, root=root)
    provenance = runs.provenance(trainer.config.device, trainer.sources())
    points, status = [], "finished"
    try:
        points.extend(_points(trainer, job.schedule))
    except DivergedError:
        status = "diverged"
    final = {}
    if status == "finished":
        final = {key: number for key, number in trainer.final().items() if key != "images_per_second"}
    return runs.Run(job.settings(), points, final, provenance, status)


def _points(trainer: Trainer, schedule: Schedule) -> Iterator[dict]:
    """The points of one run, as they come up in training."""
    look = Look(trainer, schedule)
    open_levels = list(schedule.levels)
    if 0 in schedule.steps:
        yield look.point(reached=[])
    for progress in trainer.run():
        scheduled = progress.step in schedule.steps
        if not scheduled and (not open_levels or progress.step % schedule.check_every):
            continue
        loss = look.loss()
        reached = [level for level in open_levels if loss < level]
        open_levels = open_levels[len(reached):]
        if scheduled or reached:
            yield look.point(reached, loss)


class Look:
    """The probes on one trainer's model, with the same mini-batches every time."""

    def __init__(self, trainer: Trainer, schedule: Schedule):
        self.trainer, self.schedule = trainer, schedule
        self.batches = list(gradients.draw(trainer.training, batch_size=trainer.batch_size, count=schedule.batches,
                                           seed=trainer.config.seed))
        self.objective = MiniBatches(trainer.model, trainer.batch_size)
        first = self.batches[: schedule.curvature_batches]
        self.joined = torch.cat([x for x, _ in first]), torch.cat([y for _, y in first])

    def loss(self) -> float:
        """Mean over the first mini-batches, in nats, with their own statistics in every norm."""
        with frozen(self.trainer.model, statistics="batch") as probe, torch.no_grad():
            losses = [float(probe.loss(F.cross_entropy, b)) for b in self.batches[: self.schedule.loss_batches]]
        return sum(losses) / len(losses)

    def point(self, reached: list[float], loss: float | None = None) -> dict:
        """One entry of the curve. L of every layer is measured in runs of seed 0, at step 0 and at the second level."""
        step, first_seed = self.trainer.step, self.trainer.config.seed == 0
        entry = {"step": step, "epoch": step / self.trainer.steps_per_epoch,
                 "loss": self.loss() if loss is None else loss, "scheduled": step in self.schedule.steps,
                 "reached": reached}
        entry |= self._measured("batch")
        if first_seed and (step == 0 or self.schedule.levels[1] in reached):
            for name, found in self._layer_curvatures().items():
                entry["layers"][name] |= found
        if first_seed and step == self.trainer.steps:
            running = self._measured("running")
            entry["running"] = {key: running[key] for key in SCALES}
        return entry

    def _measured(self, statistics: str) -> dict:
        moments = gradients.moments(self.trainer.model, F.cross_entropy, self.batches, statistics=statistics)
        top = curvature.lambda_max(self.objective, F.cross_entropy, self.joined, statistics=statistics,
                                   tolerance=TOLERANCE)
        whole = {"raw": {"curvature": top.value, "residual": top.residual},
                 "scale_free": {"curvature": top.scale_free, "residual": top.scale_free_residual}}
        layers = {name: moments.layers[name] for name, _ in _weights(self.trainer.model)}
        return {scale: whole[scale] | _estimates(getattr(moments, scale)) for scale in SCALES} | {
            "layers": {name: {scale: _plain(getattr(found, scale)) for scale in SCALES}
                       for name, found in layers.items()}}

    def _layer_curvatures(self) -> dict[str, dict]:
        """weight layer -> L of the block of its weight and bias."""
        found = {}
        for name, layer in _weights(self.trainer.model):
            top = curvature.lambda_max(self.objective, F.cross_entropy, self.joined, statistics="batch",
                                       tolerance=TOLERANCE,
                                       parameters=[f"model.{name}.{own}" for own, _ in layer.named_parameters()])
            found[name] = {"curvature": {"raw": top.value, "scale_free": top.scale_free}}
        return found


class MiniBatches(nn.Module):
    """A model whose input is cut into mini-batches of one size, each with statistics of its own."""

    def __init__(self, model: nn.Module, size: int):
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.model(part) for part in x.split(self.size)])


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The weight layers, in order, by their path."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d)))


def _plain(moments) -> dict:
    return {"second": moments.second.value, "variance": moments.variance.value}


def _estimates(moments) -> dict:
    """Values and standard errors."""
    return _plain(moments) | {"squared_mean": moments.squared_mean.value,
                              "second_error": moments.second.standard_error,
                              "variance_error": moments.variance.standard_error,
                              "squared_mean_error": moments.squared_mean.standard_error}


def folder() -> Path:
    """results/effects of this checkout. RecordError where the package was installed without one."""
    return runs.stored("effects", "python -m cbn_lab.effects --out results/effects")


def records() -> list[runs.Run]:
    """What is recorded of the plan, in its order."""
    found = {runs.name(run.config): run for run in runs.load_all(folder())}
    return [found[name] for name in (runs.name(job.settings()) for job in plan()) if name in found]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure what is missing in the record of the three effects.")
    parser.add_argument("--out", default="results/effects")
    parser.add_argument("--root", help="folder that holds cifar10.npz or torchvision's CIFAR-10")
    parser.add_argument("--data", choices=("digits", "cifar10"), help="only this part of the plan")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    jobs = [job for job in plan() if options.data in (None, job.config.data)]
    for job in tqdm([job for job in jobs if not job.path(options.out).exists()], unit="run"):
        run = record(job, root=options.root)
        runs.save(run, options.out)
        tqdm.write(run.summary())


if __name__ == "__main__":
    main()
