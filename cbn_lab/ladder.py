"""From the script that a student writes to the library's loop, one change at a time, and what each change gives.

    python -m cbn_lab.ladder --out results/speed [--root data] [--device cuda] [--model resnet18]

measures every rung on this device and writes one record (see `cbn_lab.speeds`). A rung is a class that takes over all
of the rung above and replaces one thing. All train the same net (placement `before`, ReLU) on the same images, CIFAR-10
or, where it is missing, noise of its shape: the speed does not depend on what the images show. The rungs alternate in
one run (A B C A B C ...), so that a machine that slows down does so for all of them.

They share a process, and on a CPU the memory that it keeps between steps (`cbn_lab._memory`), which the library's loop
asks for: it is no rung. `cbn-lab bench --only throughput` has the script run without it, in a process of its own.
"""

import argparse
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from statistics import fmean

import torch
from torch import nn

from cbn_lab import _memory, data, speeds
from cbn_lab.bench import student
from cbn_lab.bench.measure import alternate
from cbn_lab.bench.throughput import WIDTHS, random_images
from cbn_lab.train import TrainConfig, Trainer, initial_model

LEAST_REPEATS = 5
CPU, GPU = {"batch_size": 128, "steps": 10}, {"batch_size": 512, "steps": 20}
CIFAR_IMAGES = 50_000


class Student:
    """PIL images and transforms in a DataLoader, float32, channels first; the loss is read in every step."""

    title, numbers = "the usual script", "these are what the others are compared with"
    memory = torch.contiguous_format

    def __init__(self, config: TrainConfig, training: data.Dataset, root=None):
        self.config, self.training, self.root = config, training, root
        self.model = initial_model(config, training).to(config.device, memory_format=self.memory).train()
        self.criterion, self.optimizer, self.feed = nn.CrossEntropyLoss(), self.make_optimizer(), self.batches()

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images, labels, device = self.training.images.numpy(), self.training.labels.numpy(), self.config.device
        loader = student.make_loader(images, labels, self.training.mean, self.training.std, self.config.batch_size)
        while True:
            for images, labels in loader:
                yield images.to(device), labels.to(device)

    def make_optimizer(self):
        c = self.config
        return torch.optim.SGD(self.model.parameters(), c.lr, c.momentum, weight_decay=c.weight_decay, nesterov=True)

    def step(self, images, labels):
        self.optimizer.zero_grad()
        loss = self.criterion(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def part(self) -> float:
        """Train for `log_every` steps; their mean loss."""
        losses = []
        for _ in range(self.config.log_every):
            images, labels = next(self.feed)
            losses.append(self.step(images, labels).item())  # the processor waits here for the device
        return fmean(losses)


class NoWaiting(Student):
    title, numbers = "no .item() in a step", "the same"

    def part(self):
        losses = []
        for _ in range(self.config.log_every):
            images, labels = next(self.feed)
            losses.append(self.step(images, labels).detach())
        return torch.stack(losses).mean().item()  # waits once a part


class OnDevice(NoWaiting):
    title = "images on the device"
    numbers = "another order and other crops, which a seed gives back; with the same ones, the same up to rounding"

    def batches(self):
        c, training = self.config, self.training.to(self.config.device)  # all of them, uint8, once
        for epoch in itertools.count():
            for images, labels in training.shuffled(c.seed, epoch, c.batch_size, pad=c.crop_padding, flip=c.flip):
                yield data.normalize(images, training).contiguous(memory_format=self.memory), labels


class ChannelsLast(OnDevice):
    title, numbers = "channels last", "the same up to rounding"
    memory = torch.channels_last


class HalfPrecision(ChannelsLast):
    title, numbers = "half precision", "rounded to 8 significant bits (bf16) or 11 (fp16): other losses, alike in size"

    @cached_property
    def scaler(self):
        return torch.amp.GradScaler(self.device_type, enabled=self.config.precision == "fp16")

    def step(self, images, labels):
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.config.precision]
        self.optimizer.zero_grad()
        with torch.autocast(self.device_type, half):
            loss = self.criterion(self.model(images), labels)
        self.scaler.scale(loss).backward()  # with bf16 the scaler does nothing
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    @property
    def device_type(self):
        return self.config.device.split(":")[0]


class FusedOptimizer(HalfPrecision):
    title, numbers = "fused optimizer", "the same up to rounding"

    def make_optimizer(self):
        c = self.config
        return torch.optim.SGD(self.model.parameters(), c.lr, c.momentum, weight_decay=c.weight_decay, nesterov=True,
                               fused=True)


class Library(FusedOptimizer):
    """`cbn_lab.train.Trainer` as it is: with a schedule, the accuracy, checks and records as well."""

    title = "the library's loop"
    numbers = "a learning rate that changes with each step: other losses, on purpose"
    options: dict = {}

    def __init__(self, config, training, root=None):
        self.records = Trainer(replace(config, **self.options), root=root).run()

    def part(self):
        return next(self.records).loss


class Compiled(Library):
    title, numbers, options = "compile", "the same up to rounding", {"compile": True}


class Graphs(Library):
    title, numbers, options = "CUDA graphs", "the same", {"cuda_graphs": True}


class CompiledGraphs(Compiled):
    title, options = "compile and CUDA graphs", {"compile": True, "cuda_graphs": True}


EAGER = (Student, NoWaiting, OnDevice, ChannelsLast, HalfPrecision, FusedOptimizer, Library)
RUNGS = (*EAGER, Compiled, Graphs, CompiledGraphs)


def above(rung: type) -> type | None:
    """The rung that this one changes one thing of; None for the first."""
    return rung.__mro__[1] if rung is not Student else None


def config(*, device: str = "auto", model: str = "convnet", batch_size: int | None = None, steps: int | None = None,
           **settings) -> TrainConfig:
    """The settings of all rungs: `steps` SGD steps are one timed part. Half precision is bf16, or fp16 on a GPU
    without it (a CPU without bf16 units computes bf16 all the same, slowly)."""
    device = TrainConfig(device=device).resolved().device
    usual = CPU if device == "cpu" else GPU
    batch_size, steps = batch_size or usual["batch_size"], steps or usual["steps"]
    precision = TrainConfig(device=device).resolved().precision
    parts = max(1, min(10, CIFAR_IMAGES // (steps * batch_size)))  # an epoch is whole parts
    sizes = {"widths": WIDTHS} if model == "convnet" else {}
    return replace(TrainConfig(
        data="cifar10", model=model, model_options=sizes, placement="before", train_images=parts * steps * batch_size,
        batch_size=batch_size, decay_norm=True, crop_padding=4, flip=True, device=device, log_every=steps, epochs=1000,
        evaluate_every=0, precision="bf16" if precision == "fp32" else precision), **settings)


@contextmanager
def images_for(settings: TrainConfig, root=None):
    """(settings, training images): CIFAR-10, or noise of its shape, whose file is there as long as the context."""
    with tempfile.TemporaryDirectory() as folder:
        if settings.data == "cifar10" and data.available(root)["cifar10"].startswith("missing"):
            settings = replace(settings, data=random_images(folder, settings.train_images))
        yield settings, data.load(settings.data, "train", root=root).subset(slice(settings.train_images))


def measure(settings: TrainConfig, *, repeats: int = LEAST_REPEATS, root=None, rungs: Sequence[type] | None = None,
            note: str = "") -> speeds.Speeds:
    """Images/s of each rung (all that the device can do by default), `repeats` parts each, alternating.

    ValueError for fewer than 5 repeats.
    """
    if repeats < LEAST_REPEATS:
        raise ValueError(f"repeats must be at least {LEAST_REPEATS}, so that a median means something; got {repeats}")
    rungs = rungs or (EAGER if settings.device == "cpu" else RUNGS)
    if settings.device == "cpu":
        _memory.keep_freed()  # for all rungs, whether or not the library's is among them
    with images_for(settings, root) as (settings, training):
        arms = {rung.title: rung(settings, training, root).part for rung in rungs}
        seconds = alternate(arms, repeats)
    images = settings.log_every * settings.batch_size
    return speeds.Speeds(
        settings=settings.record(), above={rung.title: above(rung).title for rung in rungs if above(rung) in rungs},
        images_per_second={title: [images / s for s in times] for title, times in seconds.items()},
        provenance=speeds.provenance(settings.device, {"train": training.source}), note=note)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder for the record, such as results/speed")
    parser.add_argument("--root", help="folder that holds CIFAR-10")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--model", default="convnet", help="a name of cbn_lab.models")
    parser.add_argument("--batch-size", type=int, help="images per step (default: 128; on a GPU 512)")
    parser.add_argument("--steps", type=int, help="SGD steps in a timed part (default: 10; on a GPU 20)")
    parser.add_argument("--repeats", type=int, default=9, help="timed parts of each rung")
    parser.add_argument("--note", default="", help="what else a reader should know, such as who shares the machine")
    options = parser.parse_args(arguments)
    settings = config(device=options.device, model=options.model, batch_size=options.batch_size, steps=options.steps)
    found = measure(settings, repeats=options.repeats, root=options.root, note=options.note)
    print(found.table())
    print(f"-> {os.path.relpath(speeds.save(found, options.out))}")


if __name__ == "__main__":
    main()
