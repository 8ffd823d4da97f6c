"""The complete block against conv-BN-act from torch's modules: time of forward + backward, memory kept between them."""

import torch
from torch import nn

from cbn_lab import activations, blocks
from cbn_lab.bench.measure import Row, alternate, ratio
from cbn_lab.config import has_fast_bf16

SHAPES = (((128, 16, 32, 32), 16), ((128, 64, 16, 16), 64), ((64, 128, 8, 8), 128))  # [N, C, H, W], C_out
ACTIVATIONS = ("relu", "tanh")
LIMIT = 1.10


def settings() -> dict[str, tuple[torch.dtype, torch.memory_format]]:
    """What each arm is timed with; bf16 under autocast, where it is fast."""
    found = {"fp32 NCHW": (torch.float32, torch.contiguous_format),
             "fp32 channels_last": (torch.float32, torch.channels_last)}
    return found | ({"bf16 channels_last": (torch.bfloat16, torch.channels_last)} if has_fast_bf16() else {})


def measure(*, repeats: int, root=None, shapes=SHAPES, seconds: float = 0.05):
    """Rows for each shape, setting and activation; one time is of about `seconds` s of passes.

    Three times `repeats` short times: the shorter they are, the more alike is what else the machine does meanwhile.
    """
    rows = [_time_row(shape, channels, activation, setting, 3 * repeats, seconds)
            for shape, channels in shapes for activation in ACTIVATIONS for setting in settings()]
    shape, channels = shapes[1]
    return rows + [_memory_row(shape, activation) for activation in ACTIVATIONS], None, {}


def pair(in_channels: int, out_channels: int, activation: str) -> dict[str, nn.Module]:
    """Both blocks with equal convolution weights."""
    convolutions = [nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False) for _ in range(2)]
    convolutions[1].load_state_dict(convolutions[0].state_dict())
    complete = blocks.block(convolutions[0], activation, "complete")
    vanilla = nn.Sequential(convolutions[1], nn.BatchNorm2d(out_channels), activations.get(activation))
    return {"complete": complete, "vanilla": vanilla}


def passes(block: nn.Module, x: torch.Tensor, dtype: torch.dtype, count: int) -> None:
    """`count` times forward and backward, gradients of the input included, as inside a network."""
    leaves = [x, *block.parameters()]
    upstream = None
    for _ in range(count):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = block(x)
        if upstream is None:
            upstream = torch.ones_like(y)
        torch.autograd.grad(y, leaves, upstream)


def _time_row(shape, channels, activation, setting, repeats, seconds) -> Row:
    dtype, layout = settings()[setting]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype, memory_format=layout).requires_grad_()
    both = {name: block.to(memory_format=layout) for name, block in pair(shape[1], channels, activation).items()}
    one = alternate({"vanilla": lambda: passes(both["vanilla"], x, dtype, 3)}, repeats=1)["vanilla"][0] / 3
    count = max(1, round(seconds / one))
    times = alternate({name: lambda block=block: passes(block, x, dtype, count) for name, block in both.items()},
                      repeats)
    return Row(f"block {list(shape)} -> {channels}, {activation}, {setting}", ratio(times, "complete", "vanilla"),
               limit=LIMIT, seconds=times, notes={"passes": count, "threads": torch.get_num_threads()})


def saved_bytes(block: nn.Module, x: torch.Tensor) -> int:
    """Bytes that autograd keeps for backward, each storage once, the block's parameters not counted."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = block(x)  # keeps what was saved alive, so that no address is used twice
    for parameter in block.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    del y
    return sum(kept.values())


def maps_per_block(name: str, shape, activation: str) -> float:
    """Activation maps kept per block in a chain, where a block's output is kept by the next one."""
    x = torch.randn(shape).requires_grad_()
    sizes = [saved_bytes(nn.Sequential(*[pair(shape[1], shape[1], activation)[name] for _ in range(depth)]), x)
             for depth in (1, 3)]
    return (sizes[1] - sizes[0]) / 2 / (x.numel() * x.element_size())


def _memory_row(shape, activation) -> Row:
    maps = {name: maps_per_block(name, shape, activation) for name in ("complete", "vanilla")}
    return Row(f"maps kept for backward per block, {activation}", maps["complete"] / maps["vanilla"], limit=1.01,
               notes={"maps": maps})
