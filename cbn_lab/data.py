"""Images that live as uint8 on the device: loading, normalization, and crops and flips drawn per image.

    digits            bundled: UCI optical digits, 8 x 8, grey, 10 classes, 1,415 train and 382 test images
    cifar10, cifar100 NAME.npz or torchvision's files, looked for in: the argument `root`, $CBN_LAB_DATA, ./data,
                      ~/.cache/cbn-lab
    PATH.npz          x_train, x_test uint8 [N, H, W, C]; y_train, y_test integers [N]; class_names strings [K]
    imagefolder:PATH  PATH/train/CLASS/*.png and PATH/test (or val)/CLASS/*.png, images of one size

Everything is held in memory, decoded: N * H * W * C bytes (CIFAR-10: 154 MB for the train split).

The digits are the 1,797 images of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, UCI
Machine Learning Repository, doi 10.24432/C50P49, CC BY 4.0) that scikit-learn distributes as `load_digits`, with
their values 0-16 times 15, so 0-240. The rows stand in the order of the original file, one filled-in form of about
128 digits after the other, and a form is one person's hand. A shuffled split would put every hand on both sides and
flatter the test accuracy, so the split keeps the order and cuts between two forms: the first eleven forms train, the
last three test.
"""

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

NAMES = ("digits", "cifar10", "cifar100")
_KEYS = ("x_train", "y_train", "x_test", "y_test", "class_names")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_TORCHVISION = {"cifar10": ("CIFAR10", "cifar-10-batches-py"), "cifar100": ("CIFAR100", "cifar-100-python")}
_TRAIN_STATISTICS: dict[tuple, tuple] = {}  # (file stamps) -> (mean, std): so that loading "test" after "train" is quick


class DataError(ValueError):
    """A data set is missing or damaged; the message says which file, what was expected and what to do."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set, on one device.

    images  uint8 [N, H, W, C]; labels int64 [N]; mean, std: per channel, of the *train* split, for pixels in [0, 1];
    source  file name, split and the first 12 hex digits of sha256(image bytes + label bytes)
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        return self.images.shape[3]

    @property
    def image_size(self) -> int:
        return self.images.shape[1]

    def subset(self, indices) -> "Dataset":
        """The images at `indices` (a slice, a list or an int64 tensor); mean and std stay those of the train split."""
        if not isinstance(indices, slice):
            indices = torch.as_tensor(indices, dtype=torch.int64, device=self.labels.device)
        images, labels = self.images[indices], self.labels[indices]
        return replace(self, images=images, labels=labels, source=f"{self.source}, {len(labels)} of {len(self)}")

    def to(self, device) -> "Dataset":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


# --- batches ---------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, eq=False)
class Augmentation:
    """Where each of n images is cropped from its padded self, and whether it is mirrored.

    dy, dx int64 [n] in 0..2 pad: upper left corner of the crop (`pad` is the centre); flip bool [n].
    """

    dy: torch.Tensor
    dx: torch.Tensor
    flip: torch.Tensor
    pad: int

    def to(self, device) -> "Augmentation":
        return replace(self, dy=self.dy.to(device), dx=self.dx.to(device), flip=self.flip.to(device))


def augmentation(n: int, generator: torch.Generator, *, pad: int, flip: bool) -> Augmentation:
    """Draw one crop and one flip (probability 1/2) for each of n images.

    The draws come from a CPU generator whatever device the images are on, so a seed means the same everywhere.
    """
    dy, dx = torch.randint(0, 2 * pad + 1, (2, n), generator=generator)
    mirrored = torch.rand(n, generator=generator) < 0.5 if flip else torch.zeros(n, dtype=torch.bool)
    return Augmentation(dy, dx, mirrored, pad)


def augmented_batch(dataset: Dataset, indices: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    """uint8 [B, H, W, C]: each image zero-padded by `pad` on every side, cropped and flipped by its own draw.

    The padding is black (0 in uint8, so before normalization), the standard CIFAR recipe.
    """
    device, pad = dataset.images.device, augmentation.pad
    images = dataset.images[indices.to(device)]
    a = augmentation.to(device)
    b, h, w, _ = images.shape
    padded = torch.nn.functional.pad(images, (0, 0, pad, pad, pad, pad))  # [B, H + 2 pad, W + 2 pad, C]
    x = torch.arange(w, device=device)
    x = a.dx[:, None] + torch.where(a.flip[:, None], w - 1 - x, x)  # [B, W]
    y = a.dy[:, None] + torch.arange(h, device=device)  # [B, H]
    return padded[torch.arange(b, device=device)[:, None, None], y[:, :, None], x[:, None, :]]


def normalize(images: torch.Tensor, dataset: Dataset, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(images / 255 - mean) / std: uint8 [B, H, W, C] -> [B, C, H, W] of `dtype` in channels_last memory."""
    mean, std = np.array(dataset.mean), np.array(dataset.std)
    scale = torch.tensor(1 / (255 * std), dtype=torch.float32, device=images.device)
    shift = torch.tensor(-mean / std, dtype=torch.float32, device=images.device)
    return torch.addcmul(shift, images.to(torch.float32), scale).to(dtype).permute(0, 3, 1, 2)


# --- loading ---------------------------------------------------------------------------------------------------------

def load(name_or_path, split: str, *, device="cpu", root=None, download: bool = False) -> Dataset:
    """Load one split ("train" or "test") of a data set named as in this module's docstring.

    `download=True` lets torchvision fetch CIFAR-10/100 when no place has it. Raises DataError, one sentence, for a
    data set that is missing or damaged.
    """
    if split not in ("train", "test"):
        raise DataError(f"unknown split {split!r}; expected 'train' or 'test'")
    place = _find(str(name_or_path), root, download)
    images, labels, names = place.read(split)
    if place.stamp not in _TRAIN_STATISTICS:
        _TRAIN_STATISTICS[place.stamp] = channel_statistics(images if split == "train" else place.read("train")[0])
    mean, std = _TRAIN_STATISTICS[place.stamp]
    digest = hashlib.sha256(images)
    digest.update(labels.astype("<i8"))
    return Dataset(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device), names, mean, std,
                   f"{place.label}, {split}, sha256 {digest.hexdigest()[:12]}")


def available(root=None) -> dict[str, str]:
    """For each named data set: the file it would be read from, or the reason it is missing."""
    found = {}
    for name in NAMES:
        try:
            found[name] = _find(name, root, download=False).label
        except DataError as error:
            found[name] = f"missing: {error}"
    return found


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (divided by N) of each channel of uint8 [N, H, W, C], for pixels in [0, 1].

    From integer histograms, so exact; a constant channel gets std 1.
    """
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[3]):
        parts = np.array_split(images[..., channel], max(1, len(images) // 5000))
        p = sum(np.bincount(part.reshape(-1), minlength=256) for part in parts) / images[..., 0].size
        mean.append(float(p @ values))
        std.append(float(np.sqrt(p @ (values - mean[-1]) ** 2)) or 1.0)
    return tuple(mean), tuple(std)


@dataclass(frozen=True)
class _Place:
    """Where a data set is: what to call it, what tells a changed copy apart, and how to read a split of it."""

    label: str
    stamp: tuple
    read: Callable[[str], tuple[np.ndarray, np.ndarray, tuple[str, ...]]]


def _find(name: str, root, download: bool) -> _Place:
    if name == "digits":
        path = Path(__file__).with_name("digits.npz")
        return _Place("digits.npz", _stamp(path), lambda split: _read_npz(path, split, factor=15))
    if name.startswith("imagefolder:"):
        folder = Path(name.removeprefix("imagefolder:")).expanduser()
        return _Place(f"imagefolder:{folder.name}", _stamp(folder, *sorted(folder.rglob("*"))),
                      lambda split: _read_folder(folder, split))
    if name.endswith(".npz"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise DataError(f"there is no file {path}; give the path of an .npz with {', '.join(_KEYS)}")
        return _Place(path.name, _stamp(path), lambda split: _read_npz(path, split))
    if name not in _TORCHVISION:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(NAMES)}, imagefolder:PATH, or the path of an .npz")
    return _find_cifar(name, root, download)


def _find_cifar(name: str, root, download: bool) -> _Place:
    class_name, folder_name = _TORCHVISION[name]
    chosen = [Path(r).expanduser() for r in (root, os.environ.get("CBN_LAB_DATA")) if r]
    roots = [*chosen, Path("data"), Path("~/.cache/cbn-lab").expanduser()]
    for place in roots:
        npz, folder = place / f"{name}.npz", place / folder_name
        if npz.is_file():
            return _Place(npz.name, _stamp(npz), partial(_read_npz, npz))
        if folder.is_dir():
            return _Place(folder_name, _stamp(*sorted(folder.iterdir())), partial(_read_torchvision, name, place))
    if download:
        target = chosen[0] if chosen else roots[-1]
        _torchvision(name, target, train=True, download=True)
        return _find_cifar(name, target, download=False)
    looked = ", ".join(f"{place / name}.npz, {place / folder_name}/" for place in roots)
    raise DataError(
        f"{name} was not found (looked for {looked}); put {name}.npz there, or put torchvision's unpacked "
        f"{folder_name}/ there, or allow the download from cs.toronto.edu with download=True")


def _stamp(*paths: Path) -> tuple:
    return tuple((str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p.is_file())


def _read_npz(path: Path, split: str, factor: int = 1):
    wanted = (f"x_{split}", f"y_{split}", "class_names")
    try:
        with np.load(path, allow_pickle=False) as arrays:  # reads the directory; an array is read when asked for
            missing = [key for key in wanted if key not in arrays]
            if missing:
                raise DataError(f"{path} lacks {', '.join(missing)}; expected the arrays {', '.join(_KEYS)}")
            images, labels, names = (arrays[key] for key in wanted)
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and the operating system each have their own
        if "allow_pickle" in str(error):
            raise DataError(f"{path} holds Python objects (a pickle), which could run code when read; "
                            "save plain uint8, integer and string arrays instead") from None
        raise DataError(f"{path} cannot be read as an .npz ({error}); copy or make the file again") from error
    return _checked(images * np.uint8(factor) if factor > 1 else images, labels, names, str(path))


def _torchvision(name: str, root: Path, *, train: bool, download: bool = False):
    """torchvision's own reader: it compares each file's MD5 with the published one before it unpickles anything."""
    from torchvision import datasets  # about a second, and only this layout needs it

    class_name, folder_name = _TORCHVISION[name]
    try:
        with warnings.catch_warnings():  # numpy >= 2.4 warns about a flag in these pickles of 2009
            warnings.filterwarnings("ignore", "dtype\\(\\): align should be passed")
            return getattr(datasets, class_name)(root, train=train, download=download)
    except (RuntimeError, OSError, EOFError) as error:
        todo = "check the connection" if download else "delete the folder and download again with download=True"
        raise DataError(f"{root / folder_name} is incomplete or does not have the published checksums "
                        f"({error}); {todo}") from error


def _read_torchvision(name: str, root: Path, split: str):
    data = _torchvision(name, root, train=split == "train")
    return _checked(np.ascontiguousarray(data.data), np.array(data.targets), np.array(data.classes), _TORCHVISION[name][1])


def _read_folder(folder: Path, split: str):
    """Decode PATH/SPLIT/CLASS/* once, as RGB, into one array."""
    split_folder = folder / split
    if split == "test" and not split_folder.is_dir():
        split_folder = folder / "val"
    layout = f"expected {folder}/train/CLASS/*.png and {folder}/test (or val)/CLASS/*.png"
    if not split_folder.is_dir():
        raise DataError(f"there is no folder {folder / split}; {layout}")
    classes = sorted(p for p in split_folder.iterdir() if p.is_dir())
    if not classes:
        raise DataError(f"{split_folder} has no class folders; {layout}")
    files, labels = [], []
    for label, class_folder in enumerate(classes):
        here = sorted(p for p in class_folder.rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES)
        if not here:
            raise DataError(f"{class_folder} has no images ({', '.join(_IMAGE_SUFFIXES)}); add some or remove the folder")
        files += here
        labels += [label] * len(here)
    names = [p.name for p in classes]
    if split == "test" and names != sorted(p.name for p in (folder / "train").glob("*") if p.is_dir()):
        raise DataError(f"{split_folder} and {folder / 'train'} have different class folders; make them the same")
    images = _decode(files)
    return _checked(images, np.array(labels), np.array(names), str(split_folder))


def _decode(files: list[Path]) -> np.ndarray:
    images = None
    for i, path in enumerate(tqdm(files, desc="decoding images", unit="image", leave=False)):
        try:
            with Image.open(path) as image:
                mode, pixels = image.mode, np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
            raise DataError(f"{path} cannot be read as an image ({error}); replace or remove it") from error
        if mode.startswith(("I", "F")):
            raise DataError(f"{path} has more than 8 bits a pixel (mode {mode}); convert the images to 8 bits first")
        if images is None:
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise DataError(f"{path} is {pixels.shape[1]} x {pixels.shape[0]} pixels where {files[0]} is "
                            f"{images.shape[2]} x {images.shape[1]}; resize all images to one size first")
        images[i] = pixels
    return images


def _checked(images: np.ndarray, labels: np.ndarray, names: np.ndarray, where: str):
    """The arrays as Dataset wants them, or a DataError."""
    def need(condition, sentence):
        if not condition:
            raise DataError(f"{where}: {sentence}")

    need(images.dtype == np.uint8, f"images are {images.dtype}; expected uint8 values 0-255")
    need(images.ndim == 4 and images.shape[3] in (1, 2, 3, 4),
         f"images have the shape {images.shape}; expected [N, H, W, C] with the channels last")
    need(images.shape[1] == images.shape[2] > 0,
         f"images are {images.shape[2]} x {images.shape[1]} pixels; expected squares: crop, pad or resize them")
    need(len(images) > 0, "the split is empty; expected at least one image")
    need(labels.dtype.kind in "iu" and labels.ndim == 1,
         f"labels are {labels.dtype} of shape {labels.shape}; expected integers [N]")
    need(len(labels) == len(images), f"{len(images)} images but {len(labels)} labels; expected one label an image")
    need(names.dtype.kind == "U" and names.ndim == 1 and len(names) > 0,
         f"class_names are {names.dtype} of shape {names.shape}; expected strings [K]")
    need(labels.min() >= 0 and labels.max() < len(names),
         f"labels run from {labels.min()} to {labels.max()}; expected 0 to {len(names) - 1}, as there are "
         f"{len(names)} class names")
    return np.ascontiguousarray(images), labels.astype(np.int64), tuple(map(str, names))
