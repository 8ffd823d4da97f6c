"""torch's BatchNorm with the moments of the joined batch of all processes, on a CPU as well.

nn.SyncBatchNorm runs on GPUs only and is one class for all shapes. These are nn.BatchNorm1d and nn.BatchNorm2d with the
same parameters, buffers and names, so a state moves between them; in eval mode, and in a single process, they are
those layers, fused kernel included. Otherwise `synchronized_moments` makes the statistics, composed of plain
operations: more memory, and two all-reduces in each direction.
"""

import torch
from torch import nn

from cbn_lab.norms.standardize import LOW_PRECISION, channel, other_ranks
from cbn_lab.norms.sync import synchronized_moments


class _Synchronized:
    """Before a torch BatchNorm in the order of base classes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (other_ranks() and (self.training or self.running_mean is None)):
            return super().forward(x)
        self._check_input_dim(x)
        value = x.float() if x.dtype in LOW_PRECISION else x
        mean, var, count = synchronized_moments(value, [d for d in range(x.dim()) if d != 1])
        if self.training and self.track_running_stats:
            self._update(mean.detach(), (var * (count / (count - 1))).detach())
        scale = torch.rsqrt(var + self.eps)
        if self.affine:
            scale = scale * self.weight
        y = (value - channel(mean, x)) * channel(scale, x)
        return (y + channel(self.bias, x) if self.affine else y).to(x.dtype)

    def _update(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        """In place: captured graphs and exports hold on to the buffers."""
        self.num_batches_tracked.add_(1)
        weight = self.momentum
        if weight is None:
            weight = self.num_batches_tracked.to(self.running_mean.dtype).reciprocal()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(var.to(self.running_var.dtype), weight)

    def eval_affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(scale, offset), each [C], with eval-mode output scale * x + offset."""
        if self.running_mean is None:
            raise ValueError(f"{type(self).__name__} keeps no running statistics, so its eval mode is not a fixed "
                             "affine map; build it with track_running_stats=True")
        scale = torch.rsqrt(self.running_var + self.eps)
        scale = scale * self.weight if self.affine else scale
        offset = -self.running_mean * scale
        return scale, offset + self.bias if self.affine else offset


class SyncBatchNorm1d(_Synchronized, nn.BatchNorm1d):
    """nn.BatchNorm1d over all ranks; arguments as there. Every rank must call it, forward and backward."""


class SyncBatchNorm2d(_Synchronized, nn.BatchNorm2d):
    """nn.BatchNorm2d over all ranks; arguments as there. Every rank must call it, forward and backward."""
