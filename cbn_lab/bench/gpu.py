"""Images per second on a GPU: ResNet-18 (CIFAR stem) and the ConvNet, each placement over `before`."""

from dataclasses import replace
from statistics import median

import torch

from cbn_lab import data
from cbn_lab.bench.measure import Row, alternate, ratio
from cbn_lab.train import TrainConfig, Trainer

PLACEMENTS = ("before", "none", "after", "both", "complete")
MODELS = {"resnet18": {}, "convnet": {"widths": (32, 32, 64, 64, 128, 128)}}


def measure(*, repeats: int, root=None, batch_size: int = 512, steps: int = 30, models=MODELS):
    if not torch.cuda.is_available():
        return [], "skipped, there is no GPU", {}
    found = data.available(root)["cifar10"]
    if found.startswith("missing"):
        return [], f"skipped, CIFAR-10 is {found}", {}
    rows, images = [], steps * batch_size
    for model, sizes in models.items():
        config = TrainConfig(data="cifar10", model=model, model_options=sizes, batch_size=batch_size, device="cuda",
                             train_images=50_000 // images * images,  # whole parts: each is timed over `steps` steps
                             log_every=steps, epochs=1000, evaluate_every=0)
        seconds = alternate({p: _steps(replace(config, placement=p), root) for p in PLACEMENTS}, repeats)
        notes = {"images_per_second": {p: round(images / median(times)) for p, times in seconds.items()}}
        rows += [Row(f"{model}, time of {p} over before", ratio(seconds, p, "before"), notes=notes,
                     seconds={name: seconds[name] for name in (p, "before")}) for p in PLACEMENTS[1:]]
    return rows, None, {"train": data.load("cifar10", "train", root=root).source}


def _steps(config: TrainConfig, root):
    records = Trainer(config, root=root).run()
    return lambda: next(records)
