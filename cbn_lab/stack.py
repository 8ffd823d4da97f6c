"""Several short runs at once, for nets so small that starting their kernels takes longer than running them.

Measured on one core of an AMD EPYC (Zen 4), torch 2.15, bf16, eight nets on the digits that differ in seed
(results/bench/stack.json, written while the machine had other work): three times as fast as one by one for convnet
(4, 8, 8) and for an mlp of width 16, both on batches of 16; no gain, 0.8 to 1.1 in three measurements, for the default
convnet on batches of 128, whose kernels are not small there. So it is for small nets on a CPU. On a GPU, where kernels
have to be much larger to matter, it is not measured yet: `cbn-lab bench --only stack` does it.

The weights of n nets are the rows of one matrix [n, D]; forward and backward pass are the single net's under
`torch.func.vmap`, and the update is SGD written out. Statistics and running moments are each net's own, so every run
is the run that `train.fit` gives, up to rounding: with its buffers stacked, too, batch norm is exact. (The norm options
center=False, scale=False and momentum=None are exact as well, but slow: vmap takes one net after the other there, and
torch warns about it.)
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from cbn_lab import data, runs
from cbn_lab._evaluation import full
from cbn_lab.config import TrainConfig, require
from cbn_lab.train import Progress, Trainer, initial_model

MAY_DIFFER = ("seed", "lr", "weight_decay")


def fit(configs: Sequence[TrainConfig], *, out=None, root=None, download: bool = False,
        on_progress: Callable[[list[Progress]], None] | None = None) -> list[runs.Run]:
    """Train all to the end; one `Run` for each, saved in the folder `out` if there is one.

    The settings may differ in seed, lr and weight_decay alone (ValueError). `provenance["stacked"]` is their number;
    seconds and images_per_second of a run are those of its net while all trained. A net whose loss is not finite ends
    as "diverged" and leaves the others alone. There are no checkpoints.
    """
    stack = Stack(configs, root=root, download=download)
    provenance = runs.provenance(stack.trainer.config.device, stack.trainer.sources()) | {"stacked": len(configs)}
    for progress in stack.run():
        if on_progress is not None:
            on_progress(progress)
    done = [runs.Run(config.record(), curve, final, provenance, "finished" if final else "diverged")
            for config, curve, final in zip(stack.configs, stack.curves, stack.finals(), strict=True)]
    if out is not None:
        for run in done:
            runs.save(run, out)
    return done


class Stack:
    """The nets of `configs`, all at the same step: `weights` [n, D], one row a net, and their stacked `buffers`."""

    def __init__(self, configs: Sequence[TrainConfig], *, root=None, download: bool = False):
        self.configs = [config.resolved() for config in configs]
        _require_alike(self.configs)
        self.trainer = trainer = Trainer(self.configs[0], root=root, download=download)  # for its images and schedule
        device = trainer.config.device
        nets = [initial_model(config, trainer.training).to(device) for config in self.configs]
        self.net = copy.deepcopy(nets[0]).to("meta")  # its code: weights and buffers are passed in
        parameters, self.buffers = torch.func.stack_module_state(nets)
        self.shapes = {name: value.shape for name, value in parameters.items()}  # [n, ...]
        self.weights = torch.cat([p.detach().flatten(1) for p in parameters.values()], 1).requires_grad_()
        self.velocity = torch.zeros_like(self.weights)
        decays = torch.cat([p.new_full((p[0].numel(),), float(p.dim() > 2 or trainer.config.decay_norm))
                            for p in parameters.values()])  # 1 where a weight decays
        self.decay = torch.outer(self._per_net("weight_decay"), decays)  # [n, D]
        self.lrs = torch.outer(self._shape_of_schedule(), self._per_net("lr"))  # [steps + 1, n]
        self.step, self.seconds = 0, 0.0
        self.curves: list[list[dict]] = [[] for _ in nets]
        self.diverged = [False] * len(nets)
        self.epoch_losses = torch.zeros(len(nets), dtype=torch.float64)

    def _per_net(self, setting: str) -> torch.Tensor:
        return torch.tensor([getattr(config, setting) for config in self.configs], dtype=self.weights.dtype,
                            device=self.weights.device)

    def _shape_of_schedule(self) -> torch.Tensor:
        """Rate over peak rate at each step: the single run's schedule, which is proportional to its peak."""
        trainer, rates = self.trainer, []
        for _ in range(trainer.steps + 1):
            rates.append(trainer.optimizer.param_groups[0]["lr"] / trainer.config.lr)
            if len(rates) <= trainer.steps:
                trainer.optimizer.step()  # there are no gradients: it does nothing, but the schedule asks for it
                trainer.schedule.step()
        return torch.tensor(rates, dtype=self.weights.dtype, device=self.weights.device)

    def run(self) -> Iterator[list[Progress]]:
        """Train to the end, or until all have diverged; one `Progress` a net, as often as in a single run."""
        per_epoch = self.trainer.steps_per_epoch
        log_every = self.trainer.config.log_every or max(1, per_epoch // 20)
        for epoch in range(self.trainer.config.epochs):
            self.epoch_losses.zero_()
            batches = self._batches(epoch)
            for start in range(0, per_epoch, log_every):
                yield self._steps(batches, min(log_every, per_epoch - start))
                if all(self.diverged):
                    return

    def _batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each net's own mini-batches, joined: augmented uint8 images [n * B, H, W, C] and labels [n * B]."""
        config, images = self.trainer.config, self.trainer.training
        n, b, device = len(self.configs), self.trainer.batch_size, self.weights.device
        plans = [data.epoch_plan(len(images), c.seed, epoch, pad=config.crop_padding, flip=config.flip)
                 for c in self.configs]
        order = torch.stack([order for order, _ in plans]).to(device)  # [n, N]
        dy, dx, flip = (torch.stack([getattr(draws, name) for _, draws in plans]).to(device)
                        for name in ("dy", "dx", "flip"))
        for first in range(0, self.trainer.steps_per_epoch * b, b):
            batch = (slice(n), slice(first, first + b))
            draws = data.Augmentation(dy[batch].flatten(), dx[batch].flatten(), flip[batch].flatten(),
                                      config.crop_padding)
            rows = order[batch].flatten()
            yield data.augmented_batch(images, rows, draws), images.labels[rows]

    def _steps(self, batches: Iterator, count: int) -> list[Progress]:
        """SGD steps on the next `count` mini-batches; the device is read once, at the end."""
        began = time.perf_counter()
        self.net.train()
        losses, hits = zip(*(self._sgd_step(*next(batches)) for _ in range(count)), strict=True)
        losses = torch.stack(losses).double().cpu()  # [count, n]
        correct = torch.stack(hits).sum(0).cpu()
        self.epoch_losses += losses.sum(0)
        took = time.perf_counter() - began
        self.seconds += took
        evaluation = self._evaluation()
        speed, rates = count * self.trainer.batch_size / took, self.lrs[self.step].cpu()
        progress = [Progress(self.step, self.trainer.steps, self.step / self.trainer.steps_per_epoch,
                             float(losses[:, i].mean()), int(correct[i]) / (count * self.trainer.batch_size),
                             float(rates[i]), speed, self.seconds, evaluation[i]) for i in range(len(self.configs))]
        for i, finite in enumerate(losses.isfinite().all(0)):
            self.diverged[i] |= not finite
            if not self.diverged[i]:
                self.curves[i].append(progress[i].entry())
        return progress

    def _sgd_step(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, right answers) of each net, [n], before a step of SGD with Nesterov momentum m, as in torch.optim:

            g = gradient + decay w,    v <- m v + g,    w <- w - lr (g + m v)
        """
        n, m = len(self.configs), self.trainer.config.momentum
        logits = self._logits(self._pixels(images).unflatten(0, (n, -1)).contiguous(), 0)
        losses = F.cross_entropy(full(logits).flatten(0, 1), labels, reduction="none").view(n, -1).mean(1)
        gradient, = torch.autograd.grad(losses.sum(), self.weights)  # a net's loss depends on its own row alone
        with torch.no_grad():
            gradient.addcmul_(self.decay, self.weights)
            self.velocity.mul_(m).add_(gradient)
            self.weights.addcmul_(self.lrs[self.step, :, None], gradient.add_(self.velocity, alpha=m), value=-1)
        self.step += 1
        return losses.detach(), (logits.detach().argmax(2).flatten() == labels).view(n, -1).sum(1)

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        return data.normalize(images, self.trainer.training, self.trainer._input_dtype())

    def _logits(self, pixels: torch.Tensor, each: int | None) -> torch.Tensor:
        """[n, B, classes]; `each` is 0 for images [n, B, C, H, W] and None for the same [B, C, H, W] for all nets."""
        sizes = [shape[1:].numel() for shape in self.shapes.values()]
        parameters = {name: row.view(shape) for (name, shape), row
                      in zip(self.shapes.items(), self.weights.split(sizes, 1), strict=True)}

        def one(parameters, buffers, pixels):
            return torch.func.functional_call(self.net, (parameters, buffers), (pixels,))

        with _Casts(pixels.dtype):
            return torch.func.vmap(one, in_dims=(0, 0, each))(parameters, self.buffers, pixels)

    def _evaluation(self) -> list[dict]:
        """Per net what `Trainer` records where an evaluated epoch has just ended, else nothing."""
        trainer = self.trainer
        epoch, inside = divmod(self.step, trainer.steps_per_epoch)
        last, every = self.step == trainer.steps, trainer.config.evaluate_every
        numbers: list[dict] = [{} for _ in self.configs]
        if inside or not (last or (every and epoch % every == 0)):
            return numbers
        for split in list(trainer.held_out)[: None if last else 1]:
            losses, accuracies = self.evaluate(split)
            for entry, loss, accuracy in zip(numbers, losses.tolist(), accuracies.tolist(), strict=True):
                entry |= {f"{split}_loss": loss, f"{split}_accuracy": accuracy}
        return numbers

    @torch.no_grad()
    def evaluate(self, split: str = "test") -> tuple[torch.Tensor, torch.Tensor]:
        """(mean losses in nats, accuracies), float64 [n] each, on held-out images in eval mode."""
        images = self.trainer.held_out[split]
        n, loss, correct = len(self.configs), 0.0, 0
        self.net.eval()
        for pixels, labels in images.in_order(1000):
            logits = full(self._logits(self._pixels(pixels), None))
            every = labels.expand(n, -1)
            losses = F.cross_entropy(logits.flatten(0, 1), every.flatten(), reduction="none")
            loss = loss + losses.view(n, -1).sum(1).double()
            correct = correct + (logits.argmax(2) == every).sum(1)
        return loss.cpu() / len(images), correct.cpu().double() / len(images)

    def finals(self) -> list[dict]:
        """The numbers that each run is judged by; empty for one that diverged."""
        trainer, finals = self.trainer, []
        speed = trainer.steps * trainer.batch_size / self.seconds
        for i, curve in enumerate(self.curves):
            evaluation = {} if self.diverged[i] else \
                {k: v for k, v in curve[-1].items() if k.startswith(("validation_", "test_"))}
            finals.append({} if self.diverged[i] else evaluation | {
                "train_loss": float(self.epoch_losses[i]) / trainer.steps_per_epoch, "images_per_second": speed})
        return finals


class _Casts(TorchFunctionMode):
    """Convolutions and products in `dtype`, norms in the dtype of their moments, in place of autocast.

    Autocast does not reach into vmap, and vmap's batch norm takes no lower precision than its moments have (torch
    2.11 to 2.15).
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (F.conv2d, F.linear):
            args = [a.to(self.dtype) if isinstance(a, torch.Tensor) else a for a in args]
        elif function is F.batch_norm:
            args = [args[0].to(args[1].dtype), *args[1:]]
        elif function is F.adaptive_avg_pool2d:
            args = [args[0].contiguous(), *args[1:]]  # of other strides vmap would pool one net after the other
        return function(*args, **(kwargs or {}))


def _require_alike(configs: list[TrainConfig]) -> None:
    require(len(configs) > 0, "a stack needs at least one setting, got none")
    first = asdict(configs[0])
    for config in configs[1:]:
        other = [name for name, value in asdict(config).items() if value != first[name] and name not in MAY_DIFFER]
        require(not other, f"the runs of a stack may differ in {', '.join(MAY_DIFFER)} alone, these also in "
                f"{', '.join(other)}; make a stack of each")
    require(configs[0].image_size is None, "a stack keeps its images in memory: leave image_size out")
    require(configs[0].precision in ("fp32", "bf16"), f"a stack trains in fp32 or bf16, got {configs[0].precision}")
    require(not (configs[0].compile or configs[0].cuda_graphs), "a stack is not compiled: set compile and cuda_graphs "
            "to False")
