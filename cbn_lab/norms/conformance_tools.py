"""What the cases of the conformance table are made of: two layers alike, batches, comparisons with a message."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Make = Callable[..., nn.Module]

CHANNELS = 3
SHAPES = {(8, 3): 1, (4, 3, 5): 1, (4, 3, 5, 2): 2}  # shape -> dims
PARAMETERS = ("weight", "bias")
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def pair(make: Make, dims: int, *, dtype=torch.float64, **options) -> tuple[nn.Module, nn.Module]:
    """The layer under test and torch's, with the same weight, bias and running statistics, none at its default."""
    theirs = (nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d)(CHANNELS, **options).to(dtype)
    ours = make(CHANNELS, dims, **options).to(dtype)
    with torch.no_grad():
        for layer in (ours, theirs):
            for name, start in (("weight", 0.5), ("bias", -1.0), ("running_mean", 0.2), ("running_var", 0.8)):
                if getattr(theirs, name) is not None:
                    getattr(layer, name).copy_(torch.linspace(start, start + 1.5, CHANNELS))
    return ours, theirs


def batch(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    """Normal values; mean and scale differ between channels, and between the images of the batch."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    channel = torch.arange(shape[1], dtype=x.dtype).view(1, -1, *[1] * (len(shape) - 2))
    image = torch.arange(shape[0], dtype=x.dtype).view(-1, *[1] * (len(shape) - 1))
    return (x * (1 + channel) + 2 * channel + 0.3 * image).to(dtype)


def expect(condition: bool, message: str) -> None:
    """An assert that `python -O` keeps."""
    if not condition:
        raise AssertionError(message)


def same(what: str, mine: Tensor, torchs: Tensor, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    """Same shape, dtype and, within the tolerance, values."""
    expect(mine is not None, f"{what} is None, torch's is a tensor.")
    expect(mine.shape == torchs.shape, f"{what} has shape {list(mine.shape)}, torch's {list(torchs.shape)}.")
    expect(mine.dtype == torchs.dtype, f"{what} is {mine.dtype}, torch's is {torchs.dtype}.")
    difference = (mine.detach().double() - torchs.detach().double()).abs()
    worst = difference.max().item() if difference.numel() else 0.0
    close = torch.allclose(mine.double(), torchs.double(), rtol, atol, equal_nan=True)
    expect(close, f"{what} differs from torch's by up to {worst:.3g}.")


def same_buffers(ours: nn.Module, theirs: nn.Module, names: Iterable[str] = BUFFERS, **tolerance) -> None:
    """Both layers hold the same running statistics."""
    for name in names:
        same(name, getattr(ours, name), getattr(theirs, name), **tolerance)


def step(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and input gradient for a loss that weighs every output differently."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    loss_weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).cos().view(y.shape)
    (y.double() * loss_weights).sum().backward()
    return y.detach(), x.grad


def same_step(ours: nn.Module, theirs: nn.Module, x: Tensor, **tolerance) -> None:
    """Both layers give the same output and the same gradients of input, weight and bias."""
    (y, grad), (y_torch, grad_torch) = step(ours, x), step(theirs, x)
    same("the output", y, y_torch, **tolerance)
    same("the gradient of the input", grad, grad_torch, **tolerance)
    for name in PARAMETERS:
        if getattr(theirs, name) is not None:
            same(f"the gradient of {name}", getattr(ours, name).grad, getattr(theirs, name).grad, **tolerance)


def refuses(layer: nn.Module, x: Tensor, *errors: type[Exception]) -> None:
    """The layer raises one of `errors` for x, with a message; another error passes through."""
    try:
        layer(x)
    except errors as error:
        expect(str(error), f"the {type(error).__name__} for an input of shape {list(x.shape)} says nothing.")
        return
    raise AssertionError(f"an input of shape {list(x.shape)} was accepted.")
