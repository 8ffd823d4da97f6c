"""The one training loop: `train(config)` yields progress records, `fit(config)` runs to the end and records the run.

SGD with Nesterov momentum and a one-cycle or stepped learning rate; images stay uint8 on the device and are cropped,
flipped and normalized there (photographs: cut by the processes that decode them); bf16 autocast where the processor has
bf16 units. Nothing waits for the device between two records. The order of the images, the crops and the flips depend on
(seed, epoch) alone, so a run can stop and go on anywhere.
"""

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import _checkpoint, _evaluation, _memory, _recording, _setup, data, distributed, runs
from cbn_lab._evaluation import evaluate
from cbn_lab._progress import DivergedError, Progress, require_finite
from cbn_lab._setup import initial_model
from cbn_lab.config import TrainConfig, require

__all__ = ["DivergedError", "Progress", "TrainConfig", "Trainer", "evaluate", "fit", "initial_model", "train"]

CHECKPOINT_SECONDS = 30.0  # least time between two checkpoints


def train(config: TrainConfig, *, root=None, checkpoint=None, resume: bool = False, download: bool = False,
          workers: int | None = None) -> Iterator[Progress]:
    """Train and yield a `Progress` about 20 times an epoch; stop iterating to stop training.

    `root` is the folder that holds the data, which is fetched only with `download=True`; `workers` processes decode
    photographs (None: one for each core), which changes no number. With a `checkpoint` path the state is written there
    every half minute and after each epoch, and `resume=True` goes on from it. Raises DivergedError when the loss is not
    finite, and whatever `data.load` and `models.build` raise.
    """
    trainer = Trainer(config, root=root, download=download, workers=workers)
    if resume and checkpoint is not None:
        trainer.restore(checkpoint, missing_ok=True)
    return trainer.run(checkpoint)


class Trainer:
    """What `train` is made of, for those who want the model: `Trainer(config).model`, `.run()`, `.evaluate()`."""

    def __init__(self, config: TrainConfig, *, root=None, model: nn.Module | None = None, download: bool = False,
                 workers: int | None = None):
        self.config = config = config.resolved()
        if config.device == "cpu":
            _memory.keep_freed()
        self.rank, self.ranks = distributed.rank(), distributed.ranks()
        if download and self.ranks > 1:  # one process of each machine fetches what the others then find
            distributed.together(lambda: None if distributed.local_rank() else _setup.splits(config, root, True))
        self.model = distributed.together(lambda: self._begin(model, root, download, workers))
        if self.ranks > 1:
            distributed.require_equal(settings=runs.name(config.record()), images=self.sources(),
                                      weights=_setup.digest(self.model))
        self._forward = distributed.replicated(_setup.compiled(self.model, config))
        self.steps_per_epoch = len(self.training) // self.batch_size  # a last incomplete batch is left out
        self.steps = config.epochs * self.steps_per_epoch
        self.optimizer = _setup.optimizer(self.model, config)
        self.schedule = _setup.schedule(self.optimizer, config, self.steps)
        self.scaler = torch.amp.GradScaler(config.device.split(":")[0], enabled=config.precision == "fp16")
        self.step, self.seconds, self.epoch_loss, self.curve = 0, 0.0, 0.0, []
        self.saved_at = None  # the step of the last checkpoint
        if self.ranks > 1:
            _setup.settle(self)

    def _begin(self, model: nn.Module | None, root, download: bool, workers: int | None) -> nn.Module:
        config = self.config
        self.training, self.held_out = _setup.splits(config, root, download, workers)
        self.batch_size = min(config.batch_size, len(self.training))
        require(self.batch_size >= self.ranks, f"a batch of {self.batch_size} images cannot be shared by {self.ranks} "
                                               "ranks; use a larger batch_size or fewer ranks")
        model = initial_model(config, self.training) if model is None else model
        return model.to(config.device, memory_format=torch.channels_last)

    def run(self, checkpoint=None) -> Iterator[Progress]:
        """Train from the present step to the end."""
        return (progress for progress in self.turns(checkpoint) if progress is not None)

    def turns(self, checkpoint=None) -> Iterator[Progress | None]:
        """`run`, with a None after each SGD step and each batch of an evaluation: for who must do other things between.

        The numbers are those of `run`, and the time between two turns is not counted as training.
        """
        config = self.config
        log_every = config.log_every or max(1, self.steps_per_epoch // 20)
        last_saved = time.perf_counter()
        while self.step < self.steps:
            start = self.step % self.steps_per_epoch
            batches = self.training.shuffled(config.seed, self.step // self.steps_per_epoch, self.batch_size,
                                             start=start, pad=config.crop_padding, flip=config.flip,
                                             rank=self.rank, ranks=self.ranks)
            self.epoch_loss = self.epoch_loss if start else 0.0
            while start < self.steps_per_epoch:
                count = min(log_every, self.steps_per_epoch - start)
                progress = yield from self._steps(batches, count)
                start += count
                self.curve.append(progress.entry())
                if checkpoint is not None and (
                        start == self.steps_per_epoch or time.perf_counter() - last_saved > CHECKPOINT_SECONDS):
                    self.save(checkpoint)
                    last_saved = time.perf_counter()
                yield progress

    def _steps(self, batches: Iterator, count: int) -> Generator[None, None, Progress]:
        """SGD steps on the next `count` mini-batches; the device is read once, at the end."""
        self.model.train()
        losses, correct, took = [], 0, 0.0
        for _ in range(count):
            began = time.perf_counter()
            loss, hits = self._sgd_step(*next(batches))
            losses.append(loss)
            correct = correct + hits
            took += time.perf_counter() - began
            yield None
        began = time.perf_counter()
        numbers = distributed.summed(torch.cat([torch.stack(losses).double(), correct.double()[None]]).cpu())
        losses, correct = numbers[:-1] / self.ranks, int(numbers[-1])
        require_finite(losses, self)
        self.step += count
        self.epoch_loss += float(losses.sum())
        took += time.perf_counter() - began
        self.seconds += took
        images = count * self.batch_size
        evaluation = yield from self._evaluation()
        return Progress(self.step, self.steps, self.step / self.steps_per_epoch, float(losses.mean()),
                        correct / images, self.optimizer.param_groups[0]["lr"], images / took, self.seconds,
                        evaluation)

    def _sgd_step(self, images: torch.Tensor, labels: torch.Tensor):
        if self.config.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # what the last replay returned may be overwritten now
        logits = self.logits(images)
        loss = F.cross_entropy(_evaluation.full(logits), labels)
        if self.ranks > 1:  # shares may be unequal: the mean over the ranks is that of the whole batch
            loss = loss * (len(labels) * self.ranks / self.batch_size)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # fp32 and bf16: as it is
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Of uint8 images [B, H, W, C], as training computes them."""
        try:
            with self._autocast():
                return self._forward(data.normalize(images, self.training, self._input_dtype()))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(  # torch's own norms do not say what to do
                f"a norm got one value per channel, which has no variance (mini-batch of {len(images)}): use a "
                f"batch_size of at least {2 * self.ranks}, or placement 'none'") from None

    def _evaluation(self) -> Generator[None, None, dict]:
        """Held-out losses and accuracies where an evaluated epoch has just ended, else nothing."""
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        every = self.config.evaluate_every
        splits = list(self.held_out) if self.step == self.steps else list(self.held_out)[:1]
        if inside or not (self.step == self.steps or (every and epoch % every == 0)):
            return {}
        numbers = {}
        for split in splits:
            numbers[f"{split}_loss"], numbers[f"{split}_accuracy"] = yield from self._evaluating(split)
            if self.step == self.steps:  # the last step, too, may have ruined the weights
                require_finite(torch.tensor([numbers[f"{split}_loss"]]), self, f"{split} loss", self.step)
        return numbers

    def evaluate(self, split: str = "test") -> tuple[float, float]:
        """(mean loss in nats, accuracy) on held-out images in eval mode, without augmentation; called on all ranks."""
        return _evaluation.result(self._evaluating(split))

    def _evaluating(self, split: str) -> Generator[None, None, tuple[float, float]]:
        distributed.share_buffers(self.model)
        batches = _evaluation.evaluating(self.model, self.held_out[split], 1000, self._input_dtype(), self.rank,
                                         self.ranks)
        while True:
            try:
                with self._autocast():  # batch by batch: it must not be in force between two turns
                    next(batches)
            except StopIteration as end:
                return end.value
            yield None

    def sources(self) -> dict[str, str]:
        """Where the images come from, with a checksum, by split."""
        return {split: images.source for split, images in {"train": self.training, **self.held_out}.items()}

    def final(self) -> dict:
        """The numbers that a finished run is judged by."""
        evaluation = {k: v for k, v in self.curve[-1].items() if k.startswith(("validation_", "test_"))}
        speed = self.steps * self.batch_size / self.seconds
        return evaluation | {"train_loss": self.epoch_loss / self.steps_per_epoch, "images_per_second": speed}

    def _autocast(self):
        dtype = self._input_dtype()
        return torch.autocast(self.config.device.split(":")[0], dtype, enabled=dtype != torch.float32)

    def _input_dtype(self) -> torch.dtype:
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.precision, torch.float32)

    def save(self, path) -> None:
        """Write a checkpoint, on rank 0; the file appears whole or not at all."""
        _checkpoint.write(self, path)
        self.saved_at = self.step

    def restore(self, path, *, missing_ok: bool = False) -> bool:
        """Go on from a checkpoint. ValueError if it is damaged or belongs to other settings or other data.

        With `missing_ok`, False if there is none.
        """
        found = not missing_ok or distributed.from_rank_zero(Path(path).exists)
        if found:
            _checkpoint.read(self, path)
        return found


def fit(config: TrainConfig, *, out=None, root=None, resume: bool = False, download: bool = False,
        workers: int | None = None, on_progress: Callable[[Progress], None] | None = None) -> runs.Run:
    """Train to the end and return the `Run`; with a folder `out` it is saved there, with a checkpoint on the way.

    Ctrl-C ends the run with status "interrupted", a loss that is not finite with "diverged" (then DivergedError
    is raised after saving). Either way what was recorded is kept, and `resume=True` goes on from the checkpoint.
    With several ranks, rank 0 records; a lost rank ends the run with status "interrupted" and LostRankError.
    """
    trainer = Trainer(config, root=root, download=download, workers=workers)
    record = _recording.Record(trainer, out, resume)
    status, failure = "finished", None
    try:
        with distributed.watching():
            for progress in trainer.run(record.checkpoint):
                if trainer.ranks > 1 and trainer.saved_at == trainer.step:  # a rank may be killed, this one included
                    record.save("interrupted")
                if on_progress is not None:
                    on_progress(progress)
    except KeyboardInterrupt:
        status = "interrupted"
    except distributed.LostRankError as error:
        status, failure = "interrupted", error
    except DivergedError as error:
        status, failure = "diverged", error
    run = record.save(status)
    if failure is not None:
        raise failure
    return run
