"""Made photographs in class folders, for the tests of streams and of the check of photographs."""

import io

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def picture(width, height, seed=0):
    """Noise of several scales, as an image: no two places are alike, and a JPEG of it has all frequencies."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 256, (max(1, height // k), max(1, width // k), 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC) for k in (1, 4, 16)]
    return Image.fromarray(np.mean([np.asarray(layer) for layer in layers], axis=0).astype(np.uint8))


def write_set(root, splits=("train", "val"), each=4):
    seed = 0
    for split in splits:
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(each):
                seed += 1
                width, height = 40 + 7 * (seed % 5), 44 + 5 * (seed % 7)
                picture(width, height, seed).save(root / split / name / f"{i}.JPEG", quality=95)
    return root


def as_jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "jpeg", quality=95, **options)
    return file.getvalue()
