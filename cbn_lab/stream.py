"""Class-folder sets of photographs that do not fit into memory: decoded in worker processes while the network trains.

    cbn-lab train --data imagefolder:PATH --model resnet50 --image-size 224 --workers 8 --placement before \\
        --epochs 90 --batch-size 256 --schedule steps --lr 0.1 --weight-decay 1e-4 --decay-norm

is the 90-epoch recipe of ResNet-50 on ILSVRC2012 (He et al. 2016, with the crops of Szegedy et al. 2015; here with
Nesterov momentum and weights drawn as in `models`; no warm-up), with --placement complete for our reconstruction of
CBN. PATH holds train/CLASS/ and val/CLASS/ (or test/CLASS/) with JPEG, PNG, WebP or other files of any size.
ILSVRC2012's validation images come in one folder: sort them into class folders first. A damaged file ends a run where
it is first met, and a checkpoint is refused once names or sizes have changed (below: `source`), so check beforehand:

    cbn-lab doctor --photographs PATH

What it costs, by arithmetic; at full size nothing was run:

    operations   4.09e9 multiply-adds = 8.2 GFLOP an image forward, three times that with the backward pass;
                 90 epochs x 1,281,167 images x 24.5 GFLOP = 2.8e18; 90 evaluations of 50,000 images add 3.7e16
    time         115.3e6 images / rate: 12.8 hours at 2,500 images/s; 7.9 hours at 100 TFLOP/s sustained
    decoding     rate x seconds an image = cores: 2.2 ms for a drawn JPEG of 500 x 375 pixels and 77 kB (2.9 ms for
                 evaluation; processor time of one core of a two-core AMD EPYC server, Pillow 13.0, median of 7 times
                 40 images) make 6 cores for 2,500 images/s; with fewer `--workers` the GPU waits
    ranks        N ranks take 1/N of each batch, so 1/N of the operations and of the decoding each, and exchange
                 2 (N - 1) / N x 102 MB of gradients a step (25.6e6 float32): 5,004 steps an epoch
    memory       2 x workers batches of 38.5 MB (256 x 224 x 224 x 3) in shared memory, 0.6 GB for 8 workers
    at the start a look at the names and sizes of all files: 1.5 s for 50,000 of them on the same server's own disk

Order and crops are a function of (seed, epoch) alone, whatever the number of workers, and a run that goes on in the
middle of an epoch decodes nothing of what it skips. Workers are forked on Linux, since a fork has the list of files
at once and touches neither the GPU nor locks of torch (elsewhere they are spawned), and end with the epoch.
"""

import hashlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from cbn_lab import _photographs
from cbn_lab._data_files import IMAGE_SUFFIXES, DataError, how_to_find_all, is_hidden, split_folder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ILSVRC2012's RGB in [0, 1], as usual
_EVALUATION_BYTES = 2**25  # of a batch in `in_order`: a thousand large photographs would fill a GPU


@dataclass(frozen=True, eq=False)
class Stream:
    """One split of a class-folder set: what `data.Dataset` is, but for `images`, which are decoded as they are needed.

    files, labels  names in `folder`, and classes [N], in an order drawn once, so that any part is a fair sample
    image_size     pixels a side of what comes out
    device         where the images go; `workers`: processes that decode (0: this one)
    source         folder, split, number of files, first 12 hex digits of sha256(their names and sizes in bytes)
    """

    folder: str
    files: np.ndarray
    labels: torch.Tensor
    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    device: torch.device
    workers: int
    in_channels: int = 3

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def subset(self, indices) -> "Stream":
        """The images `indices` (a slice, or integers)."""
        if not isinstance(indices, slice):
            indices = torch.as_tensor(indices, dtype=torch.int64)
        labels = self.labels[indices]
        source = f"{self.source}, {len(labels)} of its {len(self)} images"
        files = self.files[indices if isinstance(indices, slice) else indices.numpy()]
        return replace(self, files=files, labels=labels, source=source)

    def to(self, device) -> "Stream":
        return replace(self, device=torch.device(device))

    def shuffled(self, seed: int, epoch: int, batch_size: int, *, start: int = 0, pad: int = 0, flip: bool = False,
                 rank: int = 0, ranks: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The mini-batches of one epoch, from number `start` on: uint8 images [b, S, S, 3] and labels [b].

        A random part of each photograph, resized, mirrored at random with `flip`; order, parts and mirrors depend on
        (seed, epoch) alone. A last incomplete mini-batch is left out; with several `ranks` each gets its share.
        Raises ValueError for a `pad`, which is for images of one size; DataError, with its name, for a damaged file.
        """
        if pad:
            raise ValueError(f"crop_padding={pad} is for images of one size; photographs are cut at random, so leave "
                             "it out")
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        order = torch.randperm(len(self), generator=generator).numpy()
        places = [np.arange(first + rank * batch_size // ranks, first + (rank + 1) * batch_size // ranks)
                  for first in range(start * batch_size, len(self) - batch_size + 1, batch_size)]
        return self._decoded(order, places, (seed, epoch, flip))

    def in_order(self, batch_size: int, *, rank: int = 0,
                 ranks: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The middle of every photograph, in batches of at most `batch_size`, and of at most 32 MB."""
        size = max(1, min(batch_size, _EVALUATION_BYTES // (3 * self.image_size**2)))
        places = [np.arange(first, min(first + size, len(self)))
                  for first in range(rank * size, len(self), ranks * size)]
        return self._decoded(np.arange(len(self)), places, None)

    def _decoded(self, order: np.ndarray, places: list[np.ndarray], draws: tuple | None) -> Iterator:
        work = _Work(self.folder, self.files, self.labels, order, self.image_size, draws)
        for images, labels, fault in results(work, places, self.workers, pin_memory=self.device.type == "cuda"):
            if fault:
                raise DataError(f"{fault}; {how_to_find_all(Path(self.folder).parent)}")
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


@dataclass(frozen=True)
class _Work:
    """What a worker needs: `work[places]` are the images at these places of the order, their labels, and an error.

    `draws`: (seed, epoch, flip), of which each place has its own random numbers; None: nothing random.
    """

    folder: str
    files: np.ndarray
    labels: torch.Tensor
    order: np.ndarray
    image_size: int
    draws: tuple | None

    def __getitem__(self, places: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, str]:
        rows = self.order[places]
        images = np.zeros((len(rows), self.image_size, self.image_size, 3), np.uint8)
        try:
            for image, row, place in zip(images, rows, places, strict=True):
                image[:] = self._image(os.path.join(self.folder, os.fsdecode(self.files[row])), int(place))
        except DataError as error:  # torch would bury the sentence in the worker's traceback
            return torch.from_numpy(images), self.labels[rows], str(error)
        return torch.from_numpy(images), self.labels[rows], ""

    def _image(self, path: str, place: int) -> np.ndarray:
        if self.draws is None:
            return _photographs.for_evaluation(path, self.image_size)
        seed, epoch, flip = self.draws
        return _photographs.for_training(path, self.image_size, np.random.default_rng([seed, epoch, place]), flip)


def results(work, places: list, workers: int, *, pin_memory: bool = False) -> Iterator:
    """work[place] for each of the `places`, in order, computed by at most `workers` processes (0: by this one).

    They end with the last result. Raises DataError where one of them is lost.
    """
    workers = min(workers, len(places))
    with _ctrl_c_later(), warnings.catch_warnings():  # of more workers than cores, of forks beside threads: asked for
        warnings.simplefilter("ignore")
        found = iter(DataLoader(
            work, batch_size=None, sampler=places, num_workers=workers, collate_fn=_as_it_is, pin_memory=pin_memory,
            generator=torch.Generator(),  # not torch's global one
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None))
    for i in range(len(places)):
        try:
            result = next(found)
            if i == len(places) - 1:
                next(found, None)  # ends the workers
        except RuntimeError as error:
            raise DataError(f"a process that decodes images ended ({str(error).splitlines()[0]}); use fewer "
                            "workers, smaller batches, or more shared memory") from error
        yield result


def load(folder, split: str, image_size: int, *, device="cpu", workers: int | None = None,
         mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> Stream:
    """The split "train" or "test" (the folder test or, where that has no class folders, val) of a class-folder set.

    Looks at the names and sizes of all files, at no content. `workers` None: one for each core of this process.
    Raises DataError, in one sentence, where folders are missing or empty, or classes differ between the splits.
    """
    folder = Path(folder).expanduser()
    place, names = split_folder(folder, split)
    digest, files, labels = hashlib.sha256(), [], []
    for label, name in enumerate(names):
        try:
            found = list(_images(place / name, name))
        except OSError as error:  # a link to nowhere or in a circle, a folder that may not be read
            raise DataError(f"{place / name} cannot be read to its end ({error.strerror}: "
                            f"{str(error.filename)[:300]}); mend or remove that") from error
        if not found:
            raise DataError(f"{place / name} has no images; expected {', '.join(IMAGE_SUFFIXES)} files, so add some or "
                            "remove the folder")
        digest.update("".join(f"{file}\0{size}\n" for file, size in found).encode(errors="surrogateescape"))
        files += [os.fsencode(file) for file, _ in found]
        labels += [label] * len(found)
    source = (f"imagefolder:{folder.resolve().name}, {split}, {len(files)} files, sha256 of names and sizes "
              f"{digest.hexdigest()[:12]}")
    order = np.random.default_rng(0).permutation(len(files))
    return Stream(str(place), np.array(files)[order], torch.tensor(labels)[torch.from_numpy(order)], tuple(names),
                  image_size, mean, std, source, torch.device(device), cores() if workers is None else workers)


def cores() -> int:
    """Processor cores for each rank of a run: those that this process may use, among the ranks of this machine."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _images(folder: Path, name: str) -> Iterator[tuple[str, int]]:
    """(name, bytes) of the image files in `folder` and the folders in it, sorted; hidden ones are left out."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = f"{name}/{entry.name}"
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _images(Path(entry.path), path)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            yield path, entry.stat().st_size


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C waits for the end of this, and processes forked in it do nothing at theirs: this one ends them.

    Without it, one that comes amid a fork is lost, or kills a half-begun process.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda *details: came.append(details))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(*came[0])


def _as_it_is(batch):
    return batch
