"""Where data sets lie on the disk and how each layout is read: .npz, torchvision's CIFAR, image folders.

`find` gives a Place; `Place.read(split)` gives images uint8 [N, H, W, C], labels int64 [N] and the class
names, all checked. Whatever is missing or damaged raises DataError. Used by cbn_lab.data, where the layouts
are described.
"""

import os
import shlex
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

NAMES = ("digits", "cifar10", "cifar100")
_KEYS = "x_train, y_train, x_test, y_test and class_names"
_TORCHVISION = {"cifar10": ("CIFAR10", "cifar-10-batches-py"), "cifar100": ("CIFAR100", "cifar-100-python")}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")

Split = tuple[np.ndarray, np.ndarray, tuple[str, ...]]  # images, labels, class names


class DataError(ValueError):
    """A data set is missing or damaged; the message says which file, what was expected and what to do."""


@dataclass(frozen=True)
class Place:
    """A data set on the disk: its name in records, a stamp that changes when its files do, its reader."""

    label: str
    stamp: tuple
    read: Callable[[str], Split]


def find(name: str, root, download: bool) -> Place:
    """The Place of "digits", "cifar10", "cifar100", "imagefolder:PATH" or the path of an .npz."""
    if name == "digits":
        path = Path(__file__).with_name("digits.npz")
        return Place(path.name, _stamp(path), partial(read_npz, path, factor=15))
    if name in _TORCHVISION:
        return _find_cifar(name, root, download)
    if name.startswith("imagefolder:"):
        folder = Path(name.removeprefix("imagefolder:")).expanduser()
        return Place(f"imagefolder:{folder.name}", _stamp(*folder.rglob("*")), partial(read_folder, folder))
    if not name.endswith(".npz"):
        raise DataError(f"unknown data set {name!r}; expected {', '.join(NAMES)}, imagefolder:PATH or the "
                        "path of an .npz file")
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected an .npz file with {_KEYS}, so correct the path")
    return Place(path.name, _stamp(path), partial(read_npz, path))


def _find_cifar(name: str, root, download: bool) -> Place:
    folder_name = _TORCHVISION[name][1]
    chosen = [Path(place) for place in (root, os.environ.get("CBN_LAB_DATA")) if place]
    roots = [*chosen, Path("data"), Path("~/.cache/cbn-lab")]  # "~" stays in messages: notebooks store them
    for place in map(Path.expanduser, roots):
        npz, folder = place / f"{name}.npz", place / folder_name
        if npz.is_file():
            return Place(npz.name, _stamp(npz), partial(read_npz, npz))
        if folder.is_dir():
            return Place(folder_name, _stamp(*folder.iterdir()), partial(read_torchvision, name, place))
    if download:
        target = (chosen[0] if chosen else roots[-1]).expanduser()
        _torchvision(name, target, train=True, download=True)
        return _find_cifar(name, target, download=False)
    looked = ", ".join(f"{place / name}.npz, {place / folder_name}" for place in roots)
    raise DataError(f"{name} was found at none of {looked}; put a {name}.npz with {_KEYS} there, or unpack "
                    f"torchvision's {folder_name} there, or ask for a download from cs.toronto.edu with "
                    "download=True")


def _stamp(*paths: Path) -> tuple:
    files = [path.resolve() for path in sorted(paths) if path.is_file()]
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def read_npz(path: Path, split: str, factor: int = 1) -> Split:
    """One split of an .npz, no pickles; the arrays of the other split are not read."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is truncated or no .npz (zip) file; copy or make it again with {_KEYS}")
    wanted = (f"x_{split}", f"y_{split}", "class_names")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [key for key in wanted if key not in arrays]
            read = [arrays[key] for key in wanted if not missing]
    except Exception as error:  # zipfile, zlib, numpy and the operating system each raise their own
        if "allow_pickle" in str(error):
            raise DataError(f"{path} holds pickled Python objects, which could run code when read; expected "
                            f"plain arrays {_KEYS}, so save it again without objects") from None
        raise DataError(f"{path} is damaged ({error}); copy or make it again") from error
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; expected {_KEYS}, so save it again with all")
    images, labels, class_names = checked(*read, path)
    return images * np.uint8(factor) if factor > 1 else images, labels, class_names


def _torchvision(name: str, root: Path, *, train: bool, download: bool):
    """torchvision's reader, which compares every file with its published MD5 before it unpickles any."""
    from torchvision import datasets  # takes seconds to import, and only this layout needs it

    class_name, folder_name = _TORCHVISION[name]
    try:
        with warnings.catch_warnings():  # numpy 2.4 warns of these old pickles: pytorch/vision#9340
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
            return getattr(datasets, class_name)(root, train=train, download=download)
    except (RuntimeError, OSError) as error:
        if download:
            raise DataError(f"downloading {name} to {root} failed ({error}); check the connection, or put "
                            f"{name}.npz there") from error
        raise DataError(f"{root / folder_name} is incomplete or damaged (a file is missing or its MD5 is not "
                        "the published one); delete the folder and unpack or download it again") from error


def read_torchvision(name: str, root: Path, split: str) -> Split:
    """One split of torchvision's cifar-10-batches-py or cifar-100-python in `root`."""
    data = _torchvision(name, root, train=split == "train", download=False)
    return checked(data.data, np.array(data.targets), np.array(data.classes), root / _TORCHVISION[name][1])


def read_folder(folder: Path, split: str) -> Split:
    """One split of torchvision's ImageFolder layout; the label is the class's place in the sorted names."""
    place, names = split_folder(folder, split)
    files, labels = [], []
    for label, path in enumerate(place / class_name for class_name in names):
        images = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES
                        and not any(map(is_hidden, file.relative_to(path).parts)))
        if not images:
            raise DataError(f"{path} has no images; expected {', '.join(IMAGE_SUFFIXES)} files, so add "
                            "some or remove the folder")
        files += images
        labels += [label] * len(images)
    return checked(_decode(files, folder), np.array(labels), np.array(names), place)


def split_folder(folder: Path, split: str) -> tuple[Path, list[str]]:
    """The folder of a split, and the names of its class folders, sorted. The split "test" may lie in val as well."""
    layout = f"expected {folder}/train/CLASS/*.png and {folder}/test (or val)/CLASS/*.png"
    # ILSVRC2012 has both: val, with labels, and test, all images in one folder.
    place = folder / ("val" if split == "test" and not _class_folders(folder / "test") and (folder / "val").is_dir()
                      else split)
    if not place.is_dir():
        raise DataError(f"there is no folder {place}; {layout}, so make it or correct the path")
    names = _class_folders(place)
    if not names:
        raise DataError(f"{place} has no class folders; {layout}, so make a folder for each class")
    if split == "test" and names != (of_train := _class_folders(folder / "train")):
        odd = sorted(set(names) ^ set(of_train))
        raise DataError(f"{place} and {folder / 'train'} have different class folders ({', '.join(odd[:5])}"
                        f"{' ...' * (len(odd) > 5)} in one alone); expected the same in both, so rename, add or remove "
                        "some")
    return place, names


def _class_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.is_dir() and not is_hidden(path.name))


def is_hidden(name: str) -> bool:
    """What programs leave beside photographs: ._0.jpg of macOS is none, .ipynb_checkpoints no class."""
    return name.startswith(".")


def how_to_find_all(folder: Path) -> str:
    """The end of an error about one of the photographs in `folder`: there may be more."""
    return f"`cbn-lab doctor --photographs {shlex.quote(str(folder))}` lists all such files"


def _decode(files: list[Path], folder: Path) -> np.ndarray:
    """All files as RGB in one array, uint8 [N, H, W, 3]. `folder`: that of the whole set."""
    from cbn_lab import _photographs  # needs Pillow, which comes with torchvision; no other layout does

    remedy = "so resize the images, or give an image_size (--image-size) to have them cut and resized"
    images = None
    for i, path in enumerate(tqdm(files, desc="decoding images", unit="image", leave=False)):
        try:
            pixels = _photographs.whole(path)
        except DataError as error:
            raise DataError(f"{error}; {how_to_find_all(folder)}") from error
        size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
        if images is None:
            if pixels.shape[0] != pixels.shape[1]:
                raise DataError(f"{path} has {size}; expected squares of one size, {remedy}")
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise DataError(f"{path} has {size} but {files[0]} has {images.shape[2]} x {images.shape[1]}; expected one "
                            f"size, {remedy}")
        images[i] = pixels
    return images


def checked(images: np.ndarray, labels: np.ndarray, class_names: np.ndarray, where: Path) -> Split:
    """The arrays as a Split; DataError where they cannot be one."""
    if fault := _fault(images, labels, class_names):
        raise DataError(f"{where}: {fault}; correct that and save it again")
    return np.ascontiguousarray(images), labels.astype(np.int64), tuple(class_names.tolist())


def _fault(images: np.ndarray, labels: np.ndarray, class_names: np.ndarray) -> str | None:
    """What is wrong with the arrays of a split and what was expected."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0 or images.shape[3] > 4:
        return (f"the images are {images.dtype} of shape {images.shape}; expected uint8 [N, H, W, C], at "
                "least one image and at most 4 channels")
    if images.shape[1] != images.shape[2]:
        return (f"the images have {images.shape[2]} x {images.shape[1]} pixels; expected squares (crop, pad "
                "or resize them)")
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        return f"the labels are {labels.dtype} of shape {labels.shape}; expected integers [N]"
    if len(labels) != len(images):
        return f"there are {len(images)} images and {len(labels)} labels; expected one label an image"
    if class_names.dtype.kind != "U" or class_names.ndim != 1:
        return f"class_names are {class_names.dtype} of shape {class_names.shape}; expected strings [K]"
    if labels.min() < 0 or labels.max() >= len(class_names):
        return (f"the labels run from {labels.min()} to {labels.max()}; expected 0 to {len(class_names) - 1} "
                f"for {len(class_names)} class_names")
    return None
