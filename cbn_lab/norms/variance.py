"""Four ways to a variance that agree on paper and not in float32, and how far off each is.

All take x [n, C] and return the biased variance [C], the sum of squares around the mean over n, in the format of x.
Notebook 01, section 6, draws their errors against the mean. Sources: Welford, Technometrics 4(3), 1962; Chan, Golub
and LeVeque, The American Statistician 37(3), 1983, who bound the relative error of each (their table 1).
"""

from collections.abc import Callable

import torch
from torch import Tensor

Moments = tuple[int, Tensor, Tensor]  # n, mean [C], sum of squares around the mean [C]


def one_pass(x: Tensor) -> Tensor:
    """E[x^2] - E[x]^2: the difference of two numbers of size mean^2, each rounded to 7 digits in float32."""
    return x.square().mean(0) - x.mean(0).square()


def two_pass(x: Tensor) -> Tensor:
    """The mean first, then the mean of the squared distances from it."""
    return (x - x.mean(0)).square().mean(0)


def welford(x: Tensor) -> Tensor:
    """One value after the other, with the mean and the sum of squares so far; the values are read once.

    >>> welford(torch.tensor([[1.0], [2.0], [6.0]])) * 3        # mean 3; 4 + 1 + 9
    tensor([14.])
    """
    mean, m2 = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    for count, value in enumerate(x, start=1):
        before = value - mean
        mean = mean + before / count
        m2 = m2 + before * (value - mean)
    return m2 / len(x)


def in_parts(x: Tensor, merge: Callable[[Moments, Moments], Moments], parts: int = 8) -> Tensor:
    """Moments of each of `parts` parts by two passes, as on so many GPUs, joined by `merge`."""
    pieces = [(len(part), part.mean(0), (part - part.mean(0)).square().sum(0)) for part in x.chunk(parts)]
    total = pieces[0]
    for piece in pieces[1:]:
        total = merge(total, piece)
    return total[2] / total[0]


def relative_errors(method: Callable[[Tensor], Tensor], mean: float, *, values: int = 256, channels: int = 16,
                    seed: int = 0) -> list[float]:
    """|method(x) - v| / v per channel, for x normal with this mean and variance 1 in float32.

    v is the variance of the very same, already rounded, values in float64; so this is the method's error alone.
    """
    generator = torch.Generator().manual_seed(seed)
    x = (mean + torch.randn(values, channels, generator=generator, dtype=torch.float64)).float()
    exact = two_pass(x.double())
    return ((method(x).double() - exact).abs() / exact).tolist()
