"""Where a function makes the processor wait for the device: found by watching its operators, on a CPU as well.

On a GPU the processor only hands out work, until it needs a value: a number in Python, or how many entries of a mask
are True. `torch.cuda.set_sync_debug_mode("warn")` tells on a GPU; `found` tells anywhere, for the operators that read a
value. It does not see copies from the host, of which only those from pinned memory do not wait.
"""

import sys
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NUMBER = "a number is read"
SIZE = "the size of the result depends on values"
_aten = torch.ops.aten
_READERS = {_aten._local_scalar_dense.default: NUMBER, _aten.equal.default: NUMBER, _aten.nonzero.default: SIZE,
            _aten.masked_select.default: SIZE, _aten._unique2.default: SIZE}


class _Watch(TorchDispatchMode):
    def __init__(self, code):
        super().__init__()
        self.code, self.lines, self.count = code, {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        reason = _READERS.get(function)
        if function is _aten.index.Tensor and any(i is not None and i.dtype in (torch.bool, torch.uint8)
                                                  for i in args[1]):
            reason = SIZE
        if reason:
            self.count += 1
            self._note(reason)
        return function(*args, **(kwargs or {}))

    def _note(self, reason: str) -> None:
        frame = sys._getframe(1)
        while frame is not None and frame.f_code is not self.code:
            frame = frame.f_back
        if frame is not None:
            self.lines.setdefault(frame.f_lineno - self.code.co_firstlineno + 1, reason)


def found(function: Callable, *arguments) -> dict[int, str]:
    """Call the function; its lines that wait (the `def` is line 1) -> why, in the order in which they ran.

    A line that is not reached does not count, and a line that calls a function stands for what happens inside.
    """
    with _Watch(function.__code__) as watch:
        function(*arguments)
    return watch.lines


def count(function: Callable, *arguments) -> int:
    """How often a call of the function waits."""
    with _Watch(None) as watch:
        function(*arguments)
    return watch.count
