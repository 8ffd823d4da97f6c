"""Two numbers first: operations and bytes of a training image, the speed that they allow, and how far we are from it.

For a network and a placement, `kernels` counts operations and bytes of each operation of a step. On a machine that
does P operations and moves B bytes per second, an operation takes at least max(operations / P, bytes / B); the sum over
a step is the least time of kernels that run one after the other and keep nothing in a cache, and images over it is the
limit. For GPUs P and B are those of the makers' data sheets (`SHEETS`); for the machine at hand, CPU or GPU, they are
measured in the same run, by a product of matrices and by a copy. There the step is measured, too, and torch's profiler
says what its time goes to. On a CPU, whose caches hold a map or several, a step may be faster than this limit.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from cbn_lab import data
from cbn_lab.bench import kernels
from cbn_lab.bench.kernels import KINDS, Kernel
from cbn_lab.bench.measure import Row, alternate
from cbn_lab.bench.throughput import random_images
from cbn_lab.train import TrainConfig, Trainer

NETS = {"convnet": {"model_options": {"widths": (32, 32, 64, 64, 128, 128)}}, "resnet20": {}, "resnet18": {},
        "resnet9": {}}
PLACEMENTS = ("before", "complete")
TIMED_ON_CPU = ("convnet", "resnet20")  # the others take seconds a step there
GPU_BATCH, CPU_BATCH = 512, 128  # images in a mini-batch
# Dense operations/s on matrix units in bf16 (T4: fp16, it has no bf16) and bytes/s, from NVIDIA's data sheets of the
# H200, H100 (both SXM, half of the figure "with sparsity"), A100 (SXM, 80 GB) and T4.
SHEETS = {"NVIDIA H200": (989.5e12, 4.8e12), "NVIDIA H100": (989.5e12, 3.35e12), "NVIDIA A100": (312e12, 2.039e12),
          "NVIDIA T4": (65e12, 0.32e12)}


def measure(*, repeats: int, root=None, nets=NETS, timed=None, batch_size: int | None = None, steps: int = 3):
    """Rows for what a net asks, for its limit on each GPU, and, for the nets `timed`, for the distance here."""
    on_gpu = torch.cuda.is_available()
    timed = timed if timed is not None else tuple(nets) if on_gpu else TIMED_ON_CPU
    batch_size = batch_size or (GPU_BATCH if on_gpu else CPU_BATCH)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = "cifar10" if not data.available(root)["cifar10"].startswith("missing") else \
            random_images(folder, (steps + 2) * batch_size)
        for net, sizes in nets.items():
            for placement in PLACEMENTS:
                config = TrainConfig(data=place, model=net, placement=placement, batch_size=batch_size, crop_padding=4,
                                     flip=True, train_images=(steps + 2) * batch_size, epochs=10_000, **sizes)
                rows += _asked(f"{net}, {placement}", _count(replace(config, precision="bf16"), root))
                if net in timed:
                    rows.append(_distance(f"{net}, {placement}", config, root, repeats, steps))
        source = data.load(place, "train", root=root).source
    return rows, None, {"train": source}


def least_seconds(kernel: Kernel, batch_size: int, operations: float, bandwidth: float) -> float:
    """Of one operation, per image, on a machine of so many operations and bytes per second."""
    return max(kernel.flop / operations, (kernel.bytes + kernel.step_bytes / batch_size) / bandwidth)


def by_kind(costs: list[Kernel], value) -> dict[str, float]:
    """The sum of `value(kernel)` over the kernels of each kind."""
    sums = dict.fromkeys(KINDS, 0.0)
    for kernel in costs:
        sums[kernel.kind] += value(kernel)
    return sums


def _asked(name: str, costs: list[Kernel], batch_size: int = GPU_BATCH) -> list[Row]:
    moved = by_kind(costs, lambda k: k.bytes + k.step_bytes / batch_size)
    flop, size = sum(k.flop for k in costs), sum(moved.values())
    rows = [Row(f"{name}: operations per image", flop / 1e9, "GFLOP"),
            Row(f"{name}: bytes per image", size / 1e6, "MB", notes={"batch_size": batch_size, "MB": _mega(moved)})]
    for device, (operations, bandwidth) in SHEETS.items():
        seconds = by_kind(costs, lambda k, o=operations, b=bandwidth: least_seconds(k, batch_size, o, b))
        speed = 1 / sum(seconds.values())
        rows.append(Row(f"{name}: limit on {device}", speed, "images/s", notes={
            "operations_alone": operations / flop, "bytes_alone": bandwidth / size,
            "microseconds_per_image": _micro(seconds), "seconds_per_epoch_of_cifar10": 50_000 / speed}))
    return rows


def _count(config: TrainConfig, root) -> list[Kernel]:
    return kernels.count(Trainer(replace(config, batch_size=n), root=root) for n in (2, 4))


def _distance(name: str, config: TrainConfig, root, repeats: int, steps: int) -> Row:
    """Least time of a step here over its measured time, with both by kind."""
    trainer, costs = Trainer(config, root=root), _count(config, root)
    batch_size, device = trainer.batch_size, trainer.config.device
    batches = _endless(trainer)
    trainer.model.train()

    def train():
        for _ in range(steps):
            _step(trainer, batches)
        _wait(device)

    product, copy = machine(device, trainer._input_dtype())
    seconds = alternate({"steps": train, "product": product.run, "copy": copy.run}, repeats)
    images = steps * batch_size

    def least(product_seconds: float, copy_seconds: float) -> dict[str, float]:
        here = product.amount / product_seconds, copy.amount / copy_seconds
        return by_kind(costs, lambda k: least_seconds(k, batch_size, *here))

    parts = zip(seconds["steps"], seconds["product"], seconds["copy"], strict=True)
    distance = median(images * sum(least(p, c).values()) / took for took, p, c in parts)  # each with its own repeat
    took, p, c = (median(seconds[arm]) for arm in ("steps", "product", "copy"))
    spent = shares(trainer, batches, steps)
    return Row(f"{name}: least time over measured time here", distance, "", seconds=seconds, notes={
        "images_per_second": round(images / took), "limit": round(1 / sum(least(p, c).values())),
        "batch_size": batch_size, "precision": trainer.config.precision, "threads": torch.get_num_threads(),
        "operations_per_second": product.amount / p, "bytes_per_second": copy.amount / c,
        "least_microseconds_per_image": _micro(least(p, c)),
        "share_of_time": {kind: round(share, 3) for kind, share in spent.items()}})


class _Work:
    """Something to time, and how many operations or bytes it is."""

    def __init__(self, run, amount: float, device: str):
        self._run, self.amount, self.device = run, amount, device

    def run(self) -> None:
        self._run()
        _wait(self.device)


def machine(device: str, dtype: torch.dtype) -> tuple[_Work, _Work]:
    """A product of square matrices of random numbers, and a copy that is larger than any cache."""
    side = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.randint(256, (64 * side**2,), dtype=torch.uint8, device=device)  # 67 MB, on a GPU 4.3 GB
    target = torch.empty_like(source)
    return (_Work(lambda: torch.mm(a, b), 2 * side**3, device),
            _Work(lambda: target.copy_(source), 2 * source.numel(), device))


def shares(trainer: Trainer, batches: Iterator, steps: int) -> dict[str, float]:
    """The share of each kind in the time of some steps: of the device's kernels on a GPU, of the processor on a CPU.

    "waiting" is what no kernel accounts for: Python and torch's own work, during which a GPU may have nothing to do.
    """
    on_gpu = trainer.config.device.startswith("cuda")
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    _wait(trainer.config.device)
    with profile(activities=activities) as found:
        began = time.perf_counter()
        for _ in range(steps):
            _step(trainer, batches)
        _wait(trainer.config.device)
        wall = time.perf_counter() - began
    spent = defaultdict(float)
    for event in found.events():
        kind = _kind_of(event)
        if kind is not None:
            spent[kind] += 1e-6 * (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
    return {kind: spent[kind] / wall for kind in KINDS} | {"waiting": max(0.0, 1 - sum(spent.values()) / wall)}


def _kind_of(event) -> str | None:
    """By the names of the event and of what called it; None for what is not an operation of torch."""
    if not event.name.startswith("aten::"):
        return None
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    outermost = [name for name in names if name == "data" or not name.startswith(("autograd", "Profiler"))]
    if "data" in outermost:
        return "data"
    return next((kind for kind in map(kernels.kind, reversed(outermost)) if kind != "elementwise"), "elementwise")


def _step(trainer: Trainer, batches: Iterator) -> None:
    with record_function("data"):
        batch = next(batches)
    trainer._sgd_step(*batch)


def _endless(trainer: Trainer) -> Iterator:
    epoch = 0
    while True:
        yield from trainer.training.shuffled(trainer.config.seed, epoch, trainer.batch_size, flip=True,
                                             pad=trainer.config.crop_padding)
        epoch += 1


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _mega(values: dict) -> dict:
    return {kind: round(1e-6 * value, 4) for kind, value in values.items()}


def _micro(values: dict) -> dict:
    return {kind: round(1e6 * value, 3) for kind, value in values.items()}
