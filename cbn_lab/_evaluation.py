"""Loss and accuracy on held-out images, in one go or batch by batch."""

from collections.abc import Generator

import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import data, distributed


def evaluate(model: nn.Module, dataset: data.Dataset, *, batch_size: int = 1000,
             dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """(mean cross-entropy in nats, accuracy in [0, 1]) of `model` in eval mode.

    The mode of each of its modules is restored afterwards, an interrupted evaluation included.
    """
    return result(evaluating(model, dataset, batch_size, dtype))


def result(turns: Generator):
    """What a generator returns, after all its turns."""
    while True:
        try:
            next(turns)
        except StopIteration as end:
            return end.value


@torch.no_grad()  # of a generator: in force while it runs, not between two turns
def evaluating(model: nn.Module, dataset: data.Dataset, batch_size: int, dtype: torch.dtype,
               rank: int = 0, ranks: int = 1) -> Generator[None, None, tuple[float, float]]:
    """`evaluate`, with a turn after each batch; several ranks share the batches, and all get the same numbers."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    loss, correct = 0.0, 0
    batch_size = min(batch_size, -(-len(dataset) // ranks))
    try:
        for images, labels in dataset.in_order(batch_size, rank=rank, ranks=ranks):
            logits = full(model(data.normalize(images, dataset, dtype)))
            loss = loss + F.cross_entropy(logits, labels, reduction="sum").double()
            correct = correct + (logits.argmax(1) == labels).sum()
            yield None
    finally:
        for module, training in modes:
            module.training = training
    numbers = torch.tensor([float(loss), float(correct)], dtype=torch.float64)
    loss, correct = (distributed.summed(numbers) if ranks > 1 else numbers).tolist()
    return loss / len(dataset), correct / len(dataset)


def full(logits: torch.Tensor) -> torch.Tensor:
    """In float32, or float64 where they are: a loss needs more than 16 bits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
