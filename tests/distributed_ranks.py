"""What the ranks of test_distributed.py do: one process each, started once per number of ranks, many checks in it."""

import copy
import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from cbn_lab import data, distributed, train
from cbn_lab.norms import SyncBatchNorm2d
from cbn_lab.train import TrainConfig, Trainer

# 33 images: shares of 16 and 17, or 8, 8, 8 and 9
CONFIG = TrainConfig(model="convnet", model_options={"widths": [4, 6]}, activation="tanh", train_images=66,
                     batch_size=33, epochs=2, lr=0.05, device="cpu", precision="fp32", log_every=2)
PLACEMENTS = ("none", "before", "after", "both", "complete")
OPTIONS = {"before": {"momentum": None}, "complete": {"standardize": "both", "gamma": "both"}}
BREAKS_AT = 3


class Exact(Trainer):
    """In float64."""

    def _autocast(self):
        return nullcontext()

    def _input_dtype(self) -> torch.dtype:
        return torch.float64


def exact(config: TrainConfig) -> Trainer:
    return Exact(config, model=train.initial_model(config.resolved(), data.load("digits", "train")).double())


def of_placement(placement: str, sync_norm: bool) -> TrainConfig:
    return replace(CONFIG, placement=placement, sync_norm=sync_norm, norm_options=OPTIONS.get(placement, {}))


def outcome(trainer: Trainer) -> dict:
    """Everything that a whole run leaves, and the state of the network after the first record."""
    first = None
    for _ in trainer.run():
        first = first or copy.deepcopy(trainer.model.state_dict())
    return {"curve": trainer.curve, "first": first, "state": trainer.model.state_dict(),
            "evaluation": trainer.evaluate("test")}


def layer_step(layer: nn.Module, x: torch.Tensor, share: slice) -> dict:
    """One step of a norm on some images of x: output, gradients, buffers."""
    leaf = x[share].clone().requires_grad_()
    y = layer(leaf)
    (y.sin() * torch.arange(1.0, x.numel() + 1, dtype=x.dtype).view(x.shape)[share].cos()).sum().backward()
    return {"output": y.detach(), "gradient": leaf.grad, "parameters": [p.grad for p in layer.parameters()],
            "buffers": [b.clone() for b in layer.buffers()]}


def layers() -> dict[str, nn.Module]:
    made = {"plain": {}, "average": {"momentum": None}, "not affine": {"affine": False},
            "not tracked": {"track_running_stats": False}}
    return {name: SyncBatchNorm2d(3, **options).double() for name, options in made.items()}


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    drift = torch.linspace(-2, 2, 7, dtype=torch.float64).view(7, 1, 1, 1)  # the ranks' means differ
    return torch.randn(7, 3, 4, 2, generator=generator, dtype=torch.float64) + drift


class BreaksDown(nn.Module):
    """On one rank, logits that are not finite in one step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.calls = nn.Linear(64, 10), 0

    def forward(self, x):
        self.calls += self.training
        breaks = self.calls == BREAKS_AT and self.training and distributed.rank() == 1
        return self.linear(x.flatten(1)) / (0.0 if breaks else 1.0)


def failure(work) -> tuple[str, str]:
    """(kind, message) of the error that it raises."""
    try:
        work()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def resumed(folder: Path) -> dict:
    """A run, and the same stopped after the first record and gone on with: curves and last states, to the bit."""
    config = replace(CONFIG, placement="complete")
    whole, stopped, again = Trainer(config), Trainer(config), Trainer(config)
    list(whole.run())
    path = folder / "c.ckpt"
    next(stopped.run())
    stopped.save(path)
    distributed.from_rank_zero(lambda: None)  # written now
    again.restore(path)
    step = again.step
    list(again.run())
    untimed = [[{k: v for k, v in entry.items() if k not in ("seconds", "images_per_second")} for entry in run.curve]
               for run in (whole, again)]
    states = [torch.cat([v.flatten().double() for v in run.model.state_dict().values()]) for run in (whole, again)]
    return {"step": step, "curves": untimed[0] == untimed[1], "states": torch.equal(*states)}


def checks(folder: Path) -> dict:
    rank, ranks = distributed.rank(), distributed.ranks()
    results = {"ranks": ranks}
    share = slice(rank * 7 // ranks, (rank + 1) * 7 // ranks)
    for name, layer in layers().items():
        results["layer", name] = layer_step(layer, images(), share)
    for placement in PLACEMENTS:
        for sync_norm in (True, False):
            results["exact", placement, sync_norm] = outcome(exact(of_placement(placement, sync_norm)))
    results["single"] = outcome(Trainer(of_placement("complete", sync_norm=True)))
    results["resumed"] = resumed(folder)
    configs = {"per_rank": replace(CONFIG, placement="before"), "plain": replace(CONFIG, placement="none", epochs=1),
               "joined": replace(CONFIG, placement="before", sync_norm=True)}
    results["runs"] = [train.fit(config, out=folder / name) for name, config in configs.items()]
    results["diverged"] = failure(lambda: list(Trainer(replace(CONFIG, log_every=1), model=BreaksDown()).run()))
    results["small batch"] = failure(lambda: Trainer(replace(CONFIG, batch_size=ranks - 1)))
    results["other weights"] = failure(lambda: Trainer(replace(CONFIG, seed=0), model=_other_weights(rank)))
    results["other settings"] = failure(lambda: Trainer(replace(CONFIG, seed=rank)))
    missing = "digits" if rank != 1 else "missing.npz"
    results["missing data"] = failure(lambda: Trainer(replace(CONFIG, data=missing)))
    results["ranks asked for"] = failure(lambda: Trainer(replace(CONFIG, ranks=7)))
    return results


def _other_weights(rank: int) -> nn.Module:
    torch.manual_seed(rank)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def stop_at_first(ending: str, folder: Path) -> dict:
    """The last check, since no group is left afterwards: the end of one rank, as seen by all."""
    def end(progress):
        if distributed.rank() == distributed.ranks() - 1 and progress.step > 2:
            os.kill(os.getpid(), {"killed": signal.SIGKILL, "interrupted": signal.SIGINT}[ending])

    found = failure(lambda: train.fit(replace(CONFIG, seed=5, epochs=4), out=folder / "end", on_progress=end))
    return {"failure": found, "told": distributed.first_to("tell")}


def main(rank: int, ranks: int, port: int, folder: str, ending: str) -> None:
    torch.set_num_threads(1)
    distributed._STORE_SECONDS = 100.0  # a busy store is not one that is gone
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port),
                   "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
                   "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}  # as torchrun does
    folder = Path(folder)
    with distributed.group():
        torch.save(checks(folder), folder / f"rank{rank}.pt")
        torch.save(stop_at_first(ending, folder), folder / f"end{rank}.pt")


def twin(config: TrainConfig, ranks: int) -> dict:
    """`outcome` of per-rank statistics in one process, written out: each share is normalized by itself."""
    trainer = exact(config)
    model, losses = trainer.model.train(), []
    momentum, lr = {p: torch.zeros_like(p) for p in model.parameters()}, trainer.schedule.get_last_lr()[0]
    for epoch in range(config.epochs):
        order, crops = data.epoch_plan(len(trainer.training), config.seed, epoch, pad=1, flip=False)
        for first in range(0, len(order), config.batch_size):
            total, forward = 0.0, model
            for share in torch.arange(first, first + config.batch_size).split(_sizes(config.batch_size, ranks)):
                pixels = data.augmented_batch(trainer.training, order[share], crops[share])
                logits = forward(data.normalize(pixels, trainer.training, torch.float64))
                total = total + F.cross_entropy(logits, trainer.training.labels[order[share]], reduction="sum")
                unused = {name: buffer.clone() for name, buffer in model.named_buffers()}
                forward = partial(functional_call, model, unused)  # the running statistics are the first share's
            loss = total / config.batch_size
            losses.append(float(loss.detach()))
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            for p, g in zip(model.parameters(), gradients, strict=True):
                g = g + (config.weight_decay * p.detach() if p.dim() > 1 else 0.0)
                momentum[p].mul_(config.momentum).add_(g)
                p.data.sub_(lr * (g + config.momentum * momentum[p]))
            trainer.optimizer.step()  # without gradients: only the schedule asks for it
            trainer.schedule.step()
            lr = trainer.schedule.get_last_lr()[0]
    return {"losses": losses, "state": model.state_dict(), "evaluation": trainer.evaluate("test")}


def _sizes(batch: int, ranks: int) -> list[int]:
    return [(rank + 1) * batch // ranks - rank * batch // ranks for rank in range(ranks)]
