"""What a run says about itself on its way, and how it says that it has diverged."""

from dataclasses import asdict, dataclass, field

import torch


class DivergedError(RuntimeError):
    """The loss stopped being finite; the message says at which step and what to try."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands. Loss (nats) and accuracy are means over the training batches since the last record.

    `lr` is the rate of the next step; `seconds` and `images_per_second` count training alone, not evaluation.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    accuracy: float
    lr: float
    images_per_second: float
    seconds: float
    evaluation: dict = field(default_factory=dict)

    @property
    def remaining_seconds(self) -> float:
        return self.seconds / self.step * (self.steps - self.step)

    def entry(self) -> dict:
        """For the curve of a recorded run."""
        numbers = asdict(self)
        del numbers["steps"], numbers["evaluation"]
        return numbers | self.evaluation


def require_finite(losses: torch.Tensor, trainer, what: str = "loss", step: int | None = None) -> None:
    """DivergedError if one of the losses of the steps after `trainer.step`, or of `step`, is not finite."""
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        config = trainer.config
        unnormalized = " or a placement with a normalization" if config.placement == "none" else ""
        step = trainer.step + int(bad[0]) + 1 if step is None else step
        raise DivergedError(
            f"the {what} is {float(losses[bad[0]])} at step {step} of {trainer.steps} (peak learning rate "
            f"{config.lr:g}): most likely the learning rate is too high; try lr={config.lr / 3:.2g}"
            f"{unnormalized}{', or precision fp32' if config.precision != 'fp32' else ''}")
