"""Inside an epoch the processor only hands out work: no operation of a step reads a value or copies from its memory."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cbn_lab import blocks, waits
from cbn_lab.train import TrainConfig, Trainer

TINY = TrainConfig(model="convnet", model_options={"widths": (4, 6)}, train_images=64, batch_size=16, device="cpu",
                   precision="fp32", crop_padding=1, flip=True)


def started(config: TrainConfig, move=lambda trainer: None):
    """(trainer, its batches) after one step, which may prepare what the others find."""
    trainer = Trainer(config)
    move(trainer)
    trainer.model.train()
    batches = trainer.training.shuffled(0, 0, trainer.batch_size, pad=1, flip=True)
    trainer._sgd_step(*next(batches))
    return trainer, batches


@pytest.mark.parametrize("change", [{"placement": p} for p in blocks.placements()] + [
    {"precision": "bf16"}, {"precision": "fp16"}, {"model": "resnet20", "model_options": {}},
    {"norm_options": {"momentum": None}}])
def test_no_step_reads_a_value(change):
    trainer, batches = started(replace(TINY, **change))
    assert waits.count(lambda: trainer._sgd_step(*next(batches))) == 0
    assert waits.count(lambda: trainer._sgd_step(*next(batches))[0].item()) == 1


class NoCopies(TorchDispatchMode):
    """Fails where an operation on the device, here "meta", is given a tensor of the processor or makes one of it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        assert not any(t.device.type == "cpu" for t in tensors), f"{function} has a tensor that is not on the device"
        return result


def to_device(trainer: Trainer) -> None:
    trainer.training = trainer.training.to("meta")
    trainer.model.to("meta")
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    trainer.schedule = torch.optim.lr_scheduler.OneCycleLR(trainer.optimizer, 0.1, trainer.steps + 1,
                                                           cycle_momentum=False)


@pytest.mark.parametrize("placement", blocks.placements())
def test_all_of_a_step_is_on_the_device(placement):
    trainer, batches = started(replace(TINY, placement=placement), to_device)
    with NoCopies():
        loss, hits = trainer._sgd_step(*next(batches))
    assert loss.device.type == hits.device.type == "meta"


def test_a_tensor_left_on_the_processor_is_found():
    trainer, batches = started(TINY, to_device)
    images, labels = next(batches)
    with pytest.raises(AssertionError, match="not on the device"), NoCopies():
        trainer._sgd_step(images, torch.arange(16).to("meta"))
