"""What a run starts with: its images, its network, and the optimizer with its schedule."""

import hashlib

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from cbn_lab import data, models
from cbn_lab.config import TrainConfig, require


def splits(config: TrainConfig, root, download: bool,
           workers: int | None = None) -> tuple[data.Dataset, dict[str, data.Dataset]]:
    """(training images, held-out images by split: the one to evaluate after each epoch first)."""
    source = dict(device=config.device, root=root, download=download, image_size=config.image_size, workers=workers)
    training = data.load(config.data, "train", **source)
    held_out = {"test": data.load(config.data, "test", **source)}
    available = len(training) - config.validation_images
    wanted = config.train_images or available
    require(wanted != 1, f"one training image of {config.data} is too few; use at least 2")
    require(0 < wanted <= available,
            f"train_images={config.train_images} and validation_images={config.validation_images} do not fit into "
            f"the {len(training)} training images of {config.data}")
    if config.validation_images:
        held_out = {"validation": training.subset(slice(available, None))} | held_out
    return (training if wanted == len(training) else training.subset(slice(0, wanted))), held_out


def initial_model(config: TrainConfig, training: data.Dataset) -> nn.Module:
    """The network that a run of `config` on these images starts with, on the CPU; torch's global state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return models.build(config.model, num_classes=training.num_classes, in_channels=training.in_channels,
                            image_size=training.image_size, activation=config.activation, placement=config.placement,
                            norm_options=_norm_options(config), **config.model_options)


def _norm_options(config: TrainConfig) -> dict:
    return config.norm_options | ({"sync": True} if config.sync_norm and config.normalizes else {})


def digest(model: nn.Module) -> str:
    """Of all parameters and buffers: whether two processes start with the same network."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:12]


def compiled(model: nn.Module, config: TrainConfig) -> nn.Module:
    if config.compile:
        return torch.compile(model, mode="reduce-overhead" if config.cuda_graphs else None)
    return torch.compile(model, backend="cudagraphs") if config.cuda_graphs else model


def optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; whether vectors (gammas, shifts, biases) decay is a setting."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay},
              {"params": vectors, "weight_decay": config.weight_decay if config.decay_norm else 0.0}]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)


def schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    """The learning rate of each of `steps` steps, and of one more, which the last progress record shows.

    "steps": lr, divided by 10 after 1/3, 2/3 and 8/9 of all steps (epochs 30, 60 and 80 of 90), without warm-up.
    """
    if config.schedule == "steps":
        ends = [round(steps * part) for part in (1 / 3, 2 / 3, 8 / 9)]
        return LambdaLR(optimizer, lambda step: 0.1 ** sum(step >= end for end in ends))
    return OneCycleLR(optimizer, max_lr=config.lr, total_steps=steps + 1, cycle_momentum=False)


def settle(trainer) -> None:
    """Let DistributedDataParallel group the gradients now: it does so by the order in which they first arrive.

    Else a run would begin with one grouping and go on with another, while one that is resumed begins again with the
    first: sums of three ranks and more would differ in their last bits. In eval mode, which leaves no trace.
    """
    config, training = trainer.config, trainer.training
    if config.compile or config.cuda_graphs:  # on GPUs alone, where no run repeats to the bit; it would compile twice
        return
    size, channels = training.image_size, training.in_channels
    black = torch.zeros(2, size, size, channels, dtype=torch.uint8, device=config.device)
    trainer.model.eval()
    logits = trainer.logits(black)
    logits.sum().backward()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.model.train()
