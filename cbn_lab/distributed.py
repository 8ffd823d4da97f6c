"""Training in several processes, one per device, as torchrun starts them: the process group and what the ranks share.

    torchrun --nproc-per-node 4 -m cbn_lab.cli train ...

Every rank runs the same program on its share of each batch. In a single process `ranks()` is 1, the functions below
return what they are given, and nothing is started. Collectives on GPU tensors go through NCCL, all others through gloo.

Where all ranks are on one machine, gloo and NCCL are kept to the loopback interface. torchrun itself opens two ports
on all interfaces (torch 2.15), for its rendezvous and for its key-value store.
"""

import inspect
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cbn_lab import _launcher

TIMEOUT_SECONDS = 600.0  # for a rank that neither answers nor ends; one that ends is noticed at once (gloo)
_STORE_SECONDS = 5.0  # for torchrun's key-value store to answer
_state = SimpleNamespace(store=None, stopping=False, terminated=False, torchrun=None)


class SharedError(ValueError):
    """What was wrong on one rank or more, raised on every rank."""


class LostRankError(RuntimeError):
    """Another rank has ended, or has not answered for TIMEOUT_SECONDS."""


def ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if ranks() > 1 else 0


def local_rank() -> int:
    """The number of this process among those on its machine, and of the GPU that it takes."""
    return int(os.environ.get("LOCAL_RANK") or rank()) if ranks() > 1 else 0


@contextmanager
def group() -> Iterator[None]:
    """Join the process group that torchrun's environment describes; in a single process, join none.

    Inside, SIGTERM (which torchrun sends to the other ranks when one is lost) and SIGINT raise KeyboardInterrupt, once;
    a torchrun that is gone counts as a SIGTERM. Without torchrun, a single process keeps its handler of SIGINT.
    ValueError where the environment describes no group, or where its processes cannot meet.
    """
    size = _launcher.world_size()
    _state.torchrun, _state.stopping, _state.terminated = None, False, False
    if size == 1 and not _launcher.is_torchrun():
        with _interruptible([signal.SIGTERM]):  # from kill, or a scheduler whose time is over
            yield
        return
    _state.torchrun = _launcher.Watch()
    try:
        if size > 1:
            _join()
        with _interruptible([signal.SIGTERM, signal.SIGINT]):
            yield
    finally:
        _state.torchrun.close()
        if ranks() > 1 and not _state.stopping:  # with a rank missing, it could wait; the end of the process does too
            dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process with the exit code; one that has joined a group ends without the interpreter's shutdown.

    DistributedDataParallel keeps gloo's threads beyond the end of their group (torch 2.15). That shutdown waits for
    them for seconds where a rank was lost, and at times aborts in them, after all is recorded (1 of 18 runs).
    """
    if _state.store is None:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _join() -> None:
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        _stay_on_this_machine()
    timeout = timedelta(seconds=TIMEOUT_SECONDS)
    store, number, size = _meeting_point(timeout)
    with_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if with_gpus else "gloo", store=store, rank=number, world_size=size,
                            timeout=timeout)
    if with_gpus and local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    _state.store = store


def _meeting_point(timeout: timedelta) -> tuple:
    """(key-value store, rank, number of ranks)."""
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun's, which is there before its processes
            socket.create_connection(place, _STORE_SECONDS).close()  # at once, where the next line would try and try
        return next(dist.rendezvous("env://", timeout=timeout))
    except OSError as error:
        raise ValueError("torchrun does not answer at {}, port {} ({}): it has ended; start it again"
                         .format(*place, error)) from error
    except RuntimeError as error:
        raise ValueError("the processes that train together could not meet at {}, port {}, as MASTER_ADDR and "
                         "MASTER_PORT say ({}); start them all, on a port that is free"
                         .format(*place, str(error).splitlines()[0])) from error


def _stay_on_this_machine() -> None:
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback is not None:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)


@contextmanager
def _interruptible(signals: Iterable[int]) -> Iterator[None]:
    previous = {number: signal.signal(number, _stop) for number in signals} \
        if threading.current_thread() is threading.main_thread() else {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(number: int, _) -> None:
    if not _state.stopping:  # else what was recorded is being saved already
        _state.stopping, _state.terminated = True, number == signal.SIGTERM
        raise KeyboardInterrupt


def why_stopped() -> str:
    """In words, after a KeyboardInterrupt."""
    if _orphaned():
        return "torchrun was killed"
    if not _state.terminated:
        return "interrupted"
    return "stopped by SIGTERM" if _state.torchrun is None else \
        "stopped by SIGTERM, which torchrun sends when it is stopped or a rank was lost"


def _orphaned() -> bool:
    return _state.torchrun is not None and _state.torchrun.orphaned()


@contextmanager
def watching() -> Iterator[None]:
    """Inside, a collective that fails raises LostRankError."""
    try:
        yield
    except RuntimeError as error:
        if ranks() == 1 or isinstance(error, LostRankError):
            raise
        if not (isinstance(error, dist.DistError) or re.search("gloo|NCCL", str(error))):
            raise
        _state.stopping = True
        raise LostRankError(why_stopped() if _orphaned() else "a rank was lost: it ended, or did not answer in time") \
            from error


def first_to(key: str) -> bool:
    """True on the first rank that asks, rank 0 missing or not: of several that end, one says why."""
    if _state.store is None or _orphaned():  # a torchrun that is gone leaves all ranks, and has taken its store along
        return rank() == 0
    try:
        _state.store.set_timeout(timedelta(seconds=_STORE_SECONDS))
        return _state.store.add(key, 1) == 1
    except RuntimeError:  # whoever keeps the store is gone
        return True


def together(work: Callable):
    """`work()` of this rank, once all have done it; if it fails on one, every rank raises (the others SharedError)."""
    if ranks() == 1:
        return work()
    value, failure = None, None
    try:
        value = work()
    except Exception as error:
        failure = error
    failures = gathered(None if failure is None else f"{failure}")
    if failure is not None:
        raise failure
    for number, text in enumerate(failures):
        if text is not None:
            raise SharedError(f"rank {number}: {text}")
    return value


def from_rank_zero(work: Callable):
    """What `work()` returns on rank 0, the only one that does it; if it fails, every rank raises."""
    value = together(lambda: work() if rank() == 0 else None)
    if ranks() > 1:
        box = [value]
        dist.broadcast_object_list(box)
        value = box[0]
    return value


def require_equal(**values) -> None:
    """SharedError on every rank unless each of these words is the same on all of them."""
    if ranks() == 1:
        return
    found = gathered(values)
    for number, others in enumerate(found):
        for name, value in others.items():
            if value != found[0][name]:
                raise SharedError(f"rank {number} has other {name} than rank 0: {value}; {found[0][name]}")


def gathered(value) -> list:
    """The value of each rank, on every rank."""
    found = [None] * ranks()
    dist.all_gather_object(found, value)
    return found


def summed(tensor: Tensor) -> Tensor:
    """The sum over all ranks, on every rank; in a single process the tensor as it is."""
    if ranks() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def replicated(model: nn.Module) -> nn.Module:
    """`model` for training: its backward pass leaves the mean over the ranks' gradients in each of them."""
    if ranks() == 1:
        return model
    wrapper = nn.parallel.DistributedDataParallel
    named = "forward_sync_buffers" in inspect.signature(wrapper).parameters  # what torch 2.15 calls it
    # Statistics are shared when they are read (`share_buffers`), not in every step: training does not depend on them.
    off = {"forward_sync_buffers" if named else "broadcast_buffers": False}
    return wrapper(model, gradient_as_bucket_view=True, **off)


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give every rank the running statistics of rank 0, as DistributedDataParallel does.

    Those of a rank are statistics of its shares of the batches. With synchronized norms all ranks have the same.
    """
    if ranks() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
