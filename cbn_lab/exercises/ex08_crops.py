"""Exercise 8.2: a crop and a flip of its own for each image of a batch, without a loop."""

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import call, close


def crop_and_flip(images, dy, dx, flip, pad):
    """uint8 [B, H, W, C]: each image padded with `pad` zeros on all sides, cut to H x W, then mirrored where `flip`.

    images uint8 [B, H, W, C]; dy, dx int64 [B] in 0 .. 2 pad, the upper left corner of the cut in the padded image;
    flip bool [B]: left and right exchanged.
    """
    raise NotImplementedError


def _crop_and_flip(images, dy, dx, flip, pad):
    b, h, w, _ = images.shape
    padded = F.pad(images, (0, 0, pad, pad, pad, pad))
    rows, columns = torch.arange(h), torch.arange(w)
    columns = torch.where(flip[:, None], w - 1 - columns, columns)  # [B, W]
    y, x = dy[:, None] + rows, dx[:, None] + columns
    return padded[torch.arange(b)[:, None, None], y[:, :, None], x[:, None, :]]


def _changed(**changes):
    """A mistake that changes an argument before all is done rightly."""
    def wrong(images, dy, dx, flip, pad):
        given = {"dy": dy, "dx": dx, "flip": flip}
        given |= {name: change(dy, dx, flip, pad) for name, change in changes.items()}
        return _crop_and_flip(images, given["dy"], given["dx"], given["flip"], pad)

    return wrong


def _mirrored_first(images, dy, dx, flip, pad):
    mirrored = torch.where(flip[:, None, None, None], images.flip(2), images)
    return _crop_and_flip(mirrored, dy, dx, torch.zeros_like(flip), pad)


def _upside_down(images, dy, dx, flip, pad):
    cut = _crop_and_flip(images, dy, dx, torch.zeros_like(flip), pad)
    return torch.where(flip[:, None, None, None], cut.flip(1), cut)


def _edges_repeated(images, dy, dx, flip, pad):
    padded = F.pad(images.permute(0, 3, 1, 2).float(), (pad,) * 4, mode="replicate").permute(0, 2, 3, 1).byte()
    return _each(padded, dy, dx, flip, images.shape[1])


def _each(padded, dy, dx, flip, size):
    parts = [image[y : y + size, x : x + size] for image, y, x in zip(padded, dy, dx, strict=True)]
    return torch.stack([part.flip(1) if mirrored else part for part, mirrored in zip(parts, flip, strict=True)])


def _one_by_one(images, dy, dx, flip, pad):
    return _each(F.pad(images, (0, 0, pad, pad, pad, pad)), dy, dx, flip, images.shape[1])


_CROPS = {
    "one draw": ("all images get the draw of the first one; each has its own",
                 _changed(dy=lambda dy, dx, f, p: dy[:1].expand(len(f)), dx=lambda dy, dx, f, p: dx[:1].expand(len(f)),
                          flip=lambda dy, dx, f, p: f[:1].expand(len(f)))),
    "one flip": ("all images are mirrored if the first one is; each has its own draw",
                 _changed(flip=lambda dy, dx, f, p: f[:1].expand(len(f)))),
    "exchanged": ("dy and dx are exchanged: dy counts rows, dx columns",
                  _changed(dy=lambda dy, dx, f, p: dx, dx=lambda dy, dx, f, p: dy)),
    "shared offset": ("dy is used for rows and columns both", _changed(dx=lambda dy, dx, f, p: dy)),
    "the other way": ("the image is shifted by dy and dx instead of being cut there: that is the opposite direction",
                      _changed(dy=lambda dy, dx, f, p: 2 * p - dy, dx=lambda dy, dx, f, p: 2 * p - dx)),
    "mirrored first": ("the image is mirrored before it is cut, so that dx counts from the other side; cut first",
                       _mirrored_first),
    "not mirrored": ("the images where `flip` is True are not mirrored",
                     _changed(flip=lambda dy, dx, f, p: torch.zeros_like(f))),
    "the others": ("the images where `flip` is False are mirrored, and the others are not",
                   _changed(flip=lambda dy, dx, f, p: ~f)),
    "upside down": ("top and bottom are exchanged; a mirror exchanges left and right", _upside_down),
    "edges repeated": ("the border repeats the edge of the image; pad with zeros", _edges_repeated),
}


class _Operations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def _case(b: int, h: int, c: int, pad: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (b, h, h, c), generator=generator, dtype=torch.uint8)
    dy, dx = torch.randint(0, 2 * pad + 1, (2, b), generator=generator)
    return images, dy, dx, torch.arange(b) % 3 != 1, pad


def _check_crops(student):
    for b, h, c, pad, seed in ((5, 6, 3, 2, 0), (4, 5, 1, 4, 1)):
        arguments = _case(b, h, c, pad, seed)
        found = call(student, *arguments)
        shape = tuple(getattr(found, "shape", ()))
        require(shape != (b, c, h, h) or c == h, "the channels come first in your result; they stay last, as in images")
        mistakes = {said: wrong(*arguments) for said, wrong in _CROPS.values()}
        close(found, _crop_and_flip(*arguments), f"{b} images of {h} x {h}, pad = {pad}", mistakes=mistakes)
        require(str(getattr(found, "dtype", "")) == "torch.uint8",
                f"the result is {getattr(found, 'dtype', type(found).__name__)}; keep uint8, a quarter of the bytes")
    few, many = (_count(student, b) for b in (4, 32))
    require(many < few + 14, f"your function makes {few} tensor operations for 4 images and {many} for 32: it works "
                             "image by image, and on a GPU each operation costs a launch. Gather all of them at once")


def _count(student, b: int) -> int:
    with _Operations() as operations:
        student(*_case(b, 6, 3, 2))
    return operations.count


CROPS = Spec(
    id="8.2", title="a crop for each image, in one go",
    task="Pad all images with zeros, cut each at its own place, and mirror those that are to be mirrored. No loop over "
         "the images: gather all pixels at once.",
    stub=crop_and_flip, reference=_crop_and_flip, check=_check_crops,
    hints=("After padding (`F.pad` starts with the *last* axis), each pixel of the result is one of a padded image. "
           "In which row, in which column?",
           "Pixel (i, j) of image b comes from row dy[b] + i. Its column is dx[b] + j, or dx[b] + W - 1 - j if the "
           "image is mirrored.",
           "`padded[n, y, x]` with index tensors n [B, 1, 1], y [B, H, 1] and x [B, 1, W] gives [B, H, W, C]."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _CROPS.items()} | {
        "image by image": Mutant(_one_by_one, says="it works image by image"),
        "float": Mutant(lambda *arguments: _crop_and_flip(*arguments).float(), says="keep uint8")},
    why="The number of operations does not depend on the number of images, and none of them reads a value. "
        "`data.augmented_batch` is the same with two `index_select` in place of one index with three tensors, which "
        "was faster on a CPU (its module says how much).")
