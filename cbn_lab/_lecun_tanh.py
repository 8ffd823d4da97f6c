"""LeCun's scaled tanh, which torch does not ship. A file of its own: `activations` must not import torch."""

import torch
from torch import nn


class LeCunTanh(nn.Module):
    """f(z) = 1.7159 tanh(2 z / 3), elementwise; f(+-1) = +-1 (LeCun, Bottou, Orr, Mueller 1998, section 4.4)."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return 1.7159 * torch.tanh(z * (2.0 / 3.0))
