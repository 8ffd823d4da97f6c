"""What one training step of a network asks of a machine, operation by operation, counted on the network itself.

Operations are those of `torch.utils.flop_counter`: 2 for a multiplication and an addition, convolutions and matrix
products alone. Bytes: each operation of torch's dispatcher reads its tensors once and writes its results once, as
large as they are. Three kinds read more:

    batch norm, forward     its input twice: moments, then the normalization
    batch norm, backward    input and gradient twice: two sums per channel, then the gradient of the input
    convolution, backward   the gradient once for each of the gradients of input, weights and bias

An operation that picks rows (`index_select`) reads as much as it writes. Views cost nothing. What stays in a cache
from one operation to the next, and what a compiler fuses, is not counted as saved: it is the traffic of eager kernels
on maps that are larger than the caches.
"""

from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

KINDS = ("convolution, product", "norm", "elementwise", "cast, copy", "data", "optimizer")
_WORDS = (("norm", ("batch_norm",)), ("convolution, product", ("conv", "addmm", "mm", "linear")),
          ("optimizer", ("_fused_sgd", "_foreach", "Optimizer.", "_amp_")),
          ("data", ("addcmul",)),  # the normalization of the images; the rest is known by where it is called
          ("cast, copy", ("_to_copy", "aten::to", "copy_", "contiguous", "clone")))
_NOT_READ = ("zero_", "fill_", "copy_")  # in-place operations that overwrite
_ROWS = ("index_select", "index", "gather")


@dataclass(frozen=True)
class Kernel:
    """One operation of a step: `flop` and `bytes` per image, `step_bytes` per step, whatever the mini-batch."""

    name: str
    kind: str
    flop: float
    bytes: float
    step_bytes: float


def kind(name: str) -> str:
    """Of an operation of torch, by its name."""
    return next((kind for kind, words in _WORDS if any(word in name for word in words)), "elementwise")


def count(trainers: Iterable) -> list[Kernel]:
    """The operations of one step of equal runs that differ in the size of their mini-batch alone (two of them).

    All costs are affine in that size, so two sizes give the share of an image and the share of a step.
    """
    (few, first), (many, second) = sorted(((t.batch_size, _step(t)) for t in trainers), key=lambda pair: pair[0])
    if [name for name, *_ in first] != [name for name, *_ in second]:
        raise ValueError(f"steps on {few} and on {many} images are not made of the same operations")
    kernels = []
    for (name, what, flop, size), (_, _, flop_of_many, size_of_many) in zip(first, second, strict=True):
        per_image = (size_of_many - size) / (many - few)
        kernels.append(Kernel(name, what, (flop_of_many - flop) / (many - few), per_image, size - few * per_image))
    return kernels


def _step(trainer) -> list[tuple[str, str, float, float]]:
    config, counter = trainer.config, _Counter()
    batches = trainer.training.shuffled(config.seed, 0, trainer.batch_size, pad=config.crop_padding, flip=config.flip)
    first = next(batches)  # the plan of the epoch is made once
    trainer.model.train()
    trainer._sgd_step(*first)  # the optimizer makes its buffers
    with counter:
        with counter.all_as("data"):
            batch = next(batches)
        trainer._sgd_step(*batch)
    return counter.found


class _Counter(TorchDispatchMode):
    """Lists (name, kind, operations, bytes) of what torch's dispatcher is asked for."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, str, float, float]] = []
        self._kind: str | None = None

    @contextmanager
    def all_as(self, kind: str):
        self._kind = kind
        try:
            yield
        finally:
            self._kind = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = function._overloadpacket.__name__
        if not (_is_view(function) or name.startswith(("empty", "new_empty", "detach"))):
            formula = flop_registry.get(function._overloadpacket)
            flop = formula(*args, **kwargs, out_val=result) if formula is not None else 0
            size = _bytes(function, name, args, kwargs, result)
            if size:
                self.found.append((name, self._kind or kind(name), flop, size))
        return result


def _is_view(function) -> bool:
    returned = [value.alias_info for value in function._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned) or "view" in function.__name__


def _bytes(function, name: str, args, kwargs, result) -> int:
    schema = function._schema
    given = {argument.name: value for argument, value in zip(schema.arguments, args, strict=False)} | kwargs
    changed = [given[a.name] for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write
               and given.get(a.name) is not None and a.name != "grads"]  # fused SGD may unscale them: not here
    fresh = [] if any(value.alias_info for value in schema.returns) else [result]
    written = _size(changed) + _size(fresh)
    if name in _ROWS:
        return 2 * written + _size(list(args[1:]))
    read = _size([value for key, value in given.items() if not (name in _NOT_READ and key == "self")])
    if "batch_norm" in name:
        read += _size(args[:2] if "backward" in name else args[:1])
    elif name == "convolution_backward":
        read += (sum(args[-1]) - 1) * _size(args[:1])
    return written + read


def _size(values) -> int:
    """Bytes behind the tensors in a nest of lists; of an expanded one, what it is expanded from."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    return sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in tensors)
