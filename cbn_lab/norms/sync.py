"""Moments of a batch that is spread over several processes, exact for unequal shares and differentiable.

With n_r values of x on rank r and n = sum_r n_r,

    mean = (1/n) sum_r sum_i x_ri        var = (1/n) sum_r M2_r,    M2_r = sum_i (x_ri - mean)^2

Counts and sums are all-reduced first, the M2 around the *joint* mean second. The mean of the ranks' variances
would leave out how far apart their means are, and E[x^2] - E[x]^2 would cancel.

Gradients are those of the sum of all ranks' losses, to any order: the derivative of an all-reduced sum is the
all-reduced sum of the derivatives. torch.distributed.nn.functional has such an operator, deprecated in torch
2.15; its successor, torch.distributed._functional_collectives, is private. Hence the eight lines of
`_AllReduce`.
"""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class _AllReduce(torch.autograd.Function):
    """The sum over all ranks, on every rank."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _AllReduce.apply(grad)


def synchronized_moments(x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor, int | Tensor]:
    """Mean, biased variance and number of values over `axes`, for all ranks of the default process group.

    Without an initialized process group these are the moments of x alone. Mean and variance have the shape of
    the remaining axes and x's dtype (float32 for bfloat16 and float16). The count is an int in a single
    process and a scalar float64 tensor across processes (reading it as an int would make a GPU wait). A rank
    may hold no values at all. If no rank holds any, mean and variance are NaN.

    Every rank must make the same calls in the same order, backward included, with the same shape outside axis
    0; otherwise the others wait until the process group's timeout.

    >>> mean, variance, count = synchronized_moments(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), axes=[0])
    >>> mean.tolist(), variance.tolist(), count
    ([2.0, 5.0], [1.0, 0.0], 2)
    """
    axes = tuple(axes)
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    total = x.sum(axes, keepdim=True)
    count = math.prod(x.shape[axis] for axis in axes)
    spread = dist.is_available() and dist.is_initialized()
    if spread:  # in float64, which holds any count exactly
        packed = torch.cat([total.double().flatten(), total.new_full((1,), count, dtype=torch.float64)])
        packed = _AllReduce.apply(packed)
        total, count = packed[:-1].view_as(total), packed[-1].detach()
    mean = (total / count).to(x.dtype)
    m2 = (x - mean).square().sum(axes, keepdim=True)
    if spread:
        m2 = _AllReduce.apply(m2.double())
    var = (m2 / count).to(x.dtype)
    return mean.squeeze(axes), var.squeeze(axes), count
