"""One photograph of a file as uint8 pixels: decoded, turned upright, cut out, resized. Needs Pillow.

The cuts are those of the usual ImageNet recipe, equal to torchvision's `RandomResizedCrop` and `Resize`, `CenterCrop`
on the same box (Pillow's antialiased bilinear filter): Szegedy et al. 2015, section 6; He et al. 2016, section 3.4.
"""

import math
import os
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from cbn_lab._data_files import DataError

# EXIF's tag 0x0112, as cameras write it: what turns the stored pixels upright.
_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
          5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}
_AREA, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)

Box = tuple[int, int, int, int]  # left, top, right, bottom
Cut = Callable[[int, int], tuple[Box, tuple[int, int]]]  # width, height -> what to cut out, (width, height) to give it


def whole(path) -> np.ndarray:
    """uint8 [H, W, 3], as the file has it. Errors as in `decode`."""
    return np.asarray(decode(path, lambda width, height: ((0, 0, width, height), (width, height))))


def for_training(path, size: int, draws: np.random.Generator, flip: bool) -> np.ndarray:
    """uint8 [size, size, 3]: `random_box`, resized, mirrored with probability 1/2 if `flip`."""
    image = decode(path, lambda width, height: (random_box(width, height, draws), (size, size)))
    if flip and draws.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def for_evaluation(path, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the shorter side resized to size * 256 / 224, and the middle of that.

    Of a strip only its middle, 8 times as long as wide, is resized: a line of 20,000 pixels would take 5 GB.
    """
    shorter = round(size * 256 / 224)

    def cut(width: int, height: int):
        least = min(width, height)
        w, h = min(width, 8 * least), min(height, 8 * least)
        left, top = (width - w) // 2, (height - h) // 2
        return (left, top, left + w, top + h), (int(shorter * w / least), int(shorter * h / least))

    image = decode(path, cut)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def random_box(width: int, height: int, draws: np.random.Generator) -> Box:
    """A part of 8 to 100 % of the area with sides as 3:4 to 4:3, log-uniform, anywhere.

    After ten parts that do not fit, the largest central one whose sides are in that range.
    """
    for _ in range(10):
        area = width * height * draws.uniform(*_AREA)
        ratio = math.exp(draws.uniform(*map(math.log, _RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draws.integers(width - w + 1)), int(draws.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def decode(path, cut: Cut) -> Image.Image:
    """The part of the photograph that `cut` chooses, as RGB, resized.

    Turned upright by its EXIF orientation, as viewers show it (torchvision's ImageFolder leaves it as stored); grey,
    palette and CMYK images become RGB, transparency is dropped. A JPEG that is far larger than needed is decoded at a
    half, a quarter or an eighth of its size, always at least twice what is needed.

    DataError, with the name of the file, for what cannot be read, is no image, is damaged, or has more than 8 bits a
    channel.
    """
    try:
        with warnings.catch_warnings():  # of damaged EXIF data and the like, which change no pixel
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise DataError(f"{path} has Pillow's mode {image.mode}; expected 8 bits a channel, so convert it")
                return _cut_out(image, cut)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        content = "is of no kind that Pillow knows" if os.path.getsize(path) else "has 0 bytes"
        raise DataError(f"{path} is not a readable image (it {content}); replace or remove it") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        if isinstance(error, OSError) and error.strerror:  # of the system: no permission, a broken disk
            raise DataError(f"{path} cannot be read ({error.strerror}); mend or remove that") from error
        reason = str(error) or type(error).__name__  # a MemoryError says nothing
        raise DataError(f"{path} is not a readable image ({reason}); replace or remove it") from error


def _cut_out(image: Image.Image, cut: Cut) -> Image.Image:
    turn = _orientation(image)
    lying = turn >= 5  # stored with width and height exchanged
    width, height = image.size[::-1] if lying else image.size
    box, size = cut(width, height)
    needed = [math.ceil(2 * side * whole / (high - low)) for side, whole, low, high
              in zip(size, (width, height), box[:2], box[2:], strict=True)]
    image.draft(None, tuple(needed[::-1] if lying else needed))
    if turn in _TURNS:
        image = image.transpose(_TURNS[turn])
    if image.size != (width, height):
        scale = image.width / width, image.height / height
        box = tuple(round(edge * scale[i % 2]) for i, edge in enumerate(box))
    image = image.crop(box)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("RGB")
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # which Pillow turns by itself
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data: each kind of damage raises its own
        return 1
