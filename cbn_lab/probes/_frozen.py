"""A model that a probe may look at, and that is afterwards exactly what it was before.

    with frozen(model, statistics="batch") as probe:
        loss = probe.loss(loss_fn, batch)       # the same dropout mask at every call
        gradient = torch.autograd.grad(loss, list(model.parameters()))

Buffers are exchanged for copies while the probe runs, so that running statistics which a forward pass moves are not the
model's own. The `.grad` fields are empty meanwhile. Autocast is off: derivatives in 16 bits are mostly rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

STATISTICS = {"batch": "batch statistics (train mode)", "running": "running statistics (eval mode)"}
_PRECISIONS = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Frozen:
    """What `frozen` hands out."""

    model: nn.Module
    statistics: str
    _buffers: list[tuple[dict, str, torch.Tensor]]  # owner's dict of buffers, name, the model's own tensor
    _random_state: tuple

    def rewind(self) -> None:
        """Random state and buffers as they were at the start: the next forward pass draws the same dropout masks.

        The buffers are new copies; graphs of earlier forward passes keep theirs and stay valid.
        """
        _set_random_state(self._random_state)
        copies = {id(own): own.clone() for _, _, own in self._buffers}  # shared buffers stay shared
        for owner, name, own in self._buffers:
            owner[name] = copies[id(own)]

    def loss(self, loss_fn: Callable, batch) -> torch.Tensor:
        """loss_fn(model(inputs), labels), a scalar with its graph, from the random state and buffers of the start.

        Raises ValueError for a batch that is no pair, a loss that is no scalar or not finite, and under "batch" for a
        batch of one that a norm cannot normalize; TypeError for inputs of another dtype than the parameters'.
        """
        return self.outputs_and_loss(loss_fn, batch)[1]

    def outputs_and_loss(self, loss_fn: Callable, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(model(inputs), loss). Errors as in `loss`."""
        inputs, labels = self._pair(batch)
        self.rewind()
        try:
            outputs = self.model(inputs)
        except ValueError as error:
            if self.statistics == "batch" and len(inputs) == 1:
                raise ValueError(f'statistics="batch" needs at least two values per channel, and this batch of one '
                                 f"leaves a norm a single one ({error}); give a larger batch, or ask for "
                                 'statistics="running"') from error
            raise
        loss = loss_fn(outputs, labels)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            shape = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise ValueError(f"loss_fn(outputs, labels) must return one number as a tensor, got {shape}; "
                             'average it over the batch (reduction="mean")')
        if not torch.isfinite(loss):
            raise ValueError(f"the loss of this batch is {loss.item()}: no derivative can be measured there; look at "
                             "the inputs and the weights (a diverged run?)")
        return outputs, loss.reshape(())

    def _pair(self, batch):
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise ValueError(f"a batch must be a pair (inputs, labels), got {type(batch).__name__}")
        inputs, labels = batch
        dtype = next((p.dtype for p in self.model.parameters()), None)
        if isinstance(inputs, torch.Tensor) and dtype is not None and inputs.dtype != dtype:
            hint = "normalize them with cbn_lab.data.normalize" if inputs.dtype == torch.uint8 else \
                f"convert them with inputs.to({dtype})"
            raise TypeError(f"the parameters are {dtype} and the inputs {inputs.dtype}; {hint}")
        return inputs, labels


def gradients_of(loss: torch.Tensor, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """d loss / d tensor for each; zeros for one that the loss does not depend on.

    ValueError for a loss without a graph, from which no gradient can be taken at all.
    """
    require_graph(loss)
    return torch.autograd.grad(loss, tensors, materialize_grads=True)


def require_graph(loss: torch.Tensor) -> None:
    """ValueError for a loss that autograd cannot follow back to the model."""
    if not loss.requires_grad:
        raise ValueError("the loss is cut off from the model: autograd finds no way from it back to the parameters. "
                         "Compute it from the outputs with torch alone: no .detach(), .item(), .data, argmax, NumPy "
                         "or torch.no_grad() in the loss function or in the model")


@contextmanager
def frozen(model: nn.Module, *, statistics: str) -> Iterator[Frozen]:
    """Put `model` into the mode that `statistics` names, and put everything back at the end, after an error too.

    "batch": all modules in train mode. "running": all in eval mode. Put back: parameters and buffers (values, and the
    same tensors), `.grad`, `requires_grad`, the mode of every module, torch's random state on CPU and CUDA. Gradients
    are recorded inside, whatever is set outside.

    Raises ValueError for another `statistics`, and under "running" for a batch norm that keeps no running statistics;
    TypeError for parameters other than float32 and float64.
    """
    _check(model, statistics)
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module._buffers, name, own) for module, _ in modes for name, own in module._buffers.items()
               if own is not None]
    tensors = {id(t): (t, t.detach().clone()) for t in [*model.parameters(), *(own for _, _, own in buffers)]}
    fields = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    probe = Frozen(model, statistics, buffers, _random_state())
    with ExitStack() as stack:
        stack.callback(_restore, modes, buffers, tensors, fields, probe._random_state)
        for module, _ in modes:
            module.training = statistics == "batch"
        for parameter, _, _ in fields:
            parameter.grad = None
        probe.rewind()
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in {p.device.type for p in model.parameters()}:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield probe


def _check(model: nn.Module, statistics: str) -> None:
    if statistics not in STATISTICS:
        raise ValueError(f'statistics must be "batch" (train mode: each norm uses the mini-batch) or "running" (eval '
                         f"mode), got {statistics!r}")
    for name, parameter in model.named_parameters():
        if parameter.dtype not in _PRECISIONS:
            raise TypeError(f"{name} is {parameter.dtype}; probes need float32 or float64, since derivatives in fewer "
                            "bits are mostly rounding. Convert a copy: copy.deepcopy(model).float()")
    if statistics == "running":
        for name, module in model.named_modules():
            keeps_none = getattr(module, "track_running_stats", True) is False
            if keeps_none and not isinstance(module, nn.modules.instancenorm._InstanceNorm):
                raise ValueError(f"{name or 'the model'} ({type(module).__name__}) keeps no running statistics and "
                                 'uses the mini-batch in eval mode too; ask for statistics="batch"')


@torch.no_grad()
def _restore(modes, buffers, tensors, fields, random_state) -> None:
    for module, training in modes:
        module.training = training
    for owner, name, own in buffers:
        owner[name] = own
    for own, before in tensors.values():
        if not torch.equal(own, before):  # writing to an untouched tensor would spoil graphs that others hold
            own.copy_(before)
    for parameter, gradient, requires_grad in fields:
        parameter.requires_grad_(requires_grad)
        parameter.grad = gradient
    _set_random_state(random_state)


def _random_state() -> tuple:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None


def _set_random_state(state: tuple) -> None:
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
