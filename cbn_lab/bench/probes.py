"""What probes cost: a product with the Hessian in gradients, a probe against its own count of gradients, three effects.

The net is the default ConvNet in float32, on batches of 128 images of 32 x 32 pixels.
"""

import time

import torch
import torch.nn.functional as F

from cbn_lab import data, models
from cbn_lab.bench.measure import Row, alternate, ratio
from cbn_lab.probes import _matrices, curvature, effects, gradients
from cbn_lab.probes._frozen import frozen

PLACEMENTS = ("none", "before", "complete")
PRODUCT_LIMIT = 6.0  # gradients
EFFECTS_LIMIT = 60.0  # s, on two CPU cores
EFFECTS_REPEATS = 3
_MATRICES = {"Hessian": _matrices.hessian, "Gauss-Newton": _matrices.gauss_newton}


def measure(*, repeats: int, root=None, batch_size: int = 128, images: int = 5120, **size):
    """Rows for products of each matrix and placement, for `lambda_max` as a whole, and for `three_effects`.

    `size` goes to `models.build`. Without CIFAR-10 the images are random ones of its shape.
    """
    training = _images(root, images)
    batch = next(gradients.draw(training, batch_size=batch_size, count=1))
    rows = [_product_row(_net(placement, size), placement, matrix, batch, repeats)
            for placement in PLACEMENTS for matrix in _MATRICES]
    net = _net("complete", size)
    return [*rows, _count_row(net, batch, repeats), _effects_row(net, training, batch_size, repeats)], None, \
        {"train": training.source}


def _images(root, count: int) -> data.Dataset:
    if not data.available(root)["cifar10"].startswith("missing"):
        return data.load("cifar10", "train", root=root).subset(slice(count))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return data.Dataset(images, torch.arange(count) % 10, tuple("0123456789"), 3 * (0.5,), 3 * (0.29,),
                        f"{count} random images")


def _net(placement: str, size: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.build("convnet", num_classes=10, placement=placement, **size)


def _gradient(net, batch):
    """A function that computes one gradient; the unit of all counts."""
    weights = list(net.parameters())
    return lambda: torch.autograd.grad(F.cross_entropy(net(batch[0]), batch[1]), weights)


def _product_row(net, placement: str, name: str, batch, repeats: int) -> Row:
    with frozen(net, statistics="batch") as probe:
        matrix = _MATRICES[name](probe, F.cross_entropy, batch, _matrices.selected(net)[0])
        vector = torch.randn(matrix.size, generator=torch.Generator().manual_seed(0)).double().numpy()
        seconds = alternate({"gradient": _gradient(net, batch), "product": lambda: matrix @ vector}, repeats)
    return Row(f"{name} product over a gradient, {placement}", ratio(seconds, "product", "gradient"),
               limit=PRODUCT_LIMIT, seconds=seconds, notes={"threads": torch.get_num_threads()})


def _count_row(net, batch, repeats: int) -> Row:
    """Time over that of as many gradients as the probe says. Its limit follows from the product's."""
    found = []
    with frozen(net, statistics="batch"):
        gradient = _gradient(net, batch)
        seconds = alternate({"gradient": gradient, "probe": lambda: found.append(
            curvature.lambda_max(net, F.cross_entropy, batch, statistics="batch"))}, min(repeats, EFFECTS_REPEATS))
    count = found[0].gradient_evaluations
    return Row("lambda_max over its count of gradients, complete", ratio(seconds, "probe", "gradient") / count,
               limit=PRODUCT_LIMIT / _matrices.GRADIENTS_PER_PRODUCT, seconds=seconds,
               notes={"gradient_evaluations": count, "products": found[0].products, "value": found[0].value})


def _effects_row(net, training, batch_size: int, repeats: int) -> Row:
    seconds = []
    for _ in range(min(repeats, EFFECTS_REPEATS)):
        began = time.perf_counter()
        found = effects.three_effects(net, F.cross_entropy, gradients.draw(training, batch_size=batch_size),
                                      statistics="batch")
        seconds.append(time.perf_counter() - began)
    return Row("three effects of the ConvNet, complete", sorted(seconds)[len(seconds) // 2], "s", EFFECTS_LIMIT,
               seconds={"three effects": seconds},
               notes={"gradient_evaluations": found.gradient_evaluations, "threads": torch.get_num_threads()})
