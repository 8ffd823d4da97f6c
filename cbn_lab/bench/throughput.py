"""Images per second of our training loop, over those of the script a student would write: same net, same batch.

The script runs in a process of its own, as a student would run it: in ours it would gain from the memory that our loop
has the C library keep (`cbn_lab._memory`).
"""

import multiprocessing
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from cbn_lab import data
from cbn_lab.bench import student
from cbn_lab.bench.measure import Row, alternate, ratio
from cbn_lab.train import TrainConfig, Trainer

WIDTHS = (32, 32, 64, 64, 128, 128)
LIMIT = 3.0  # on two CPU cores with bf16 units
PLACEMENTS = ("before", "after", "complete")


def measure(*, repeats: int, root=None, widths=WIDTHS, batch_size: int = 128, steps: int = 10):
    """Rows for ours (the student's net, and the complete block) over the student's, and for what placements cost."""
    with tempfile.TemporaryDirectory() as folder:
        place = "cifar10" if not data.available(root)["cifar10"].startswith("missing") else \
            random_images(folder, 10 * steps * batch_size)
        config = _config(place, widths, batch_size, steps)
        ours = {placement: _our_steps(config, placement, root) for placement in PLACEMENTS}
        with _student(place, root, widths, batch_size, steps) as theirs:
            seconds = alternate({"student": theirs} | ours, repeats)
        source = data.load(place, "train", root=root).source
    return _rows(seconds, steps * batch_size), None, {"train": source}


@contextmanager
def _student(*arguments):
    """A function that has the student's script train for some steps, and waits; `arguments` as of `_serve`."""
    here, there = multiprocessing.Pipe()
    script = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, torch.get_num_threads(),
                                                                                *arguments), daemon=True)
    script.start()
    there.close()  # only the other process has it: if that dies, `recv` says so

    def train():
        here.send("train")
        here.recv()

    try:
        yield train
    finally:
        here.close()
        script.join()


def _serve(connection, threads: int, place: str, root, widths, batch_size: int, steps: int) -> None:
    """The student's process: train for `steps` steps whenever asked to, until the other side is closed."""
    torch.set_num_threads(threads)
    training = data.load(place, "train", root=root)
    loader = student.make_loader(training.images.numpy(), training.labels.numpy(), training.mean, training.std,
                                 batch_size)
    losses = student.train(student.make_model(widths, training.num_classes), loader)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        connection.send(list(islice(losses, steps)))


def _config(place: str, widths, batch_size: int, steps: int) -> TrainConfig:
    """Ten times `steps` an epoch, and more epochs than will be run: no evaluation falls into a measured part."""
    return TrainConfig(data=place, model="convnet", model_options={"widths": widths}, crop_padding=4, flip=True,
                       train_images=10 * steps * batch_size, batch_size=batch_size, log_every=steps, epochs=1000,
                       evaluate_every=0, device="cpu")


def _our_steps(config: TrainConfig, placement: str, root):
    """A function that trains for `config.log_every` steps when it is called."""
    records = Trainer(replace(config, placement=placement), root=root).run()
    return lambda: next(records)


def _rows(seconds: dict[str, list[float]], images: int) -> list[Row]:
    speed = {arm: round(images / float(np.median(times))) for arm, times in seconds.items()}
    notes = {"images_per_second": speed, "threads": torch.get_num_threads()}
    rows = [Row(f"throughput, {arm}, over the student's script", ratio(seconds, "student", arm), limit=LIMIT,
                sense=">=", seconds={name: seconds[name] for name in ("student", arm)}, notes=notes)
            for arm in ("before", "complete")]
    return rows + [Row(f"training time, {arm} over before", ratio(seconds, arm, "before"),
                       seconds={name: seconds[name] for name in (arm, "before")}, notes=notes)
                   for arm in ("after", "complete")]


def random_images(folder: str, n: int) -> str:
    """The path of an .npz with noise of CIFAR-10's shape: the speed does not depend on what the images show."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", n), ("test", 10)):
        arrays[f"x_{split}"] = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = generator.integers(0, 10, count)
    path = Path(folder) / "random.npz"
    np.savez(path, class_names=np.array([str(i) for i in range(10)]), **arrays)
    return str(path)
