"""Standardization per channel, without parameters: the fused kernel where there is one, composed where there is not."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from cbn_lab.norms.sync import synchronized_moments

LOW_PRECISION = (torch.bfloat16, torch.float16)


class Standardize(nn.Module):
    r"""y = weight * (x - mean) / sqrt(var + eps) + bias per channel, without parameters of its own.

    Train mode (or `track_running_stats=False`): moments of the batch over all axes but the channel, var with 1/n.
    Eval mode: the running moments. running <- (1 - momentum) running + momentum batch, the running variance
    from the 1/(n-1) estimate. As in torch, `momentum` is the weight of the *update*; None averages all batches.

    `center=False` leaves the mean in and divides by sqrt(E[x^2] + eps); `running_var` then holds the running
    second moment. `scale=False` only subtracts the mean. With both, the work is one fused kernel
    (`F.batch_norm`) that saves its input and 2 C numbers for backward; the other settings and `sync=True` in a process
    group of several ranks (moments over all of them, counts taken into account) are composed and save more.
    """

    def __init__(self, num_features: int, *, center: bool = True, scale: bool = True, eps: float = 1e-5,
                 momentum: float | None = 0.1, track_running_stats: bool = True, sync: bool = False):
        super().__init__()
        if not (center or scale):
            raise ValueError("center=False and scale=False leave nothing to standardize; set one of them to True")
        if num_features < 1:
            raise ValueError(f"num_features must be the number of channels, at least 1, got {num_features}")
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps}: a channel that is constant over a batch has variance 0")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be between 0 and 1, or None for the plain average, got {momentum}")
        self.num_features, self.center, self.scale = num_features, center, scale
        self.eps, self.momentum, self.sync = eps, momentum, sync
        self.track_running_stats = track_running_stats
        # The fused CUDA kernel is only taken when weight and bias are present, so absent ones are constants.
        self.register_buffer("one", torch.ones(num_features), persistent=False)
        self.register_buffer("zero", torch.zeros(num_features), persistent=False)
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros(num_features) if tracked else None)
        self.register_buffer("running_var", torch.ones(num_features) if tracked else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if tracked else None)

    def forward(self, x: torch.Tensor, weight: torch.Tensor | None = None,
                bias: torch.Tensor | None = None) -> torch.Tensor:
        _require_dtype(x, self.one.dtype)
        use_batch = self.training or not self.track_running_stats
        spread = use_batch and self.sync and other_ranks()
        if use_batch and not spread:  # other ranks may hold more values
            _require_several_values(x)
        weight = self.one if weight is None else weight
        bias = self.zero if bias is None else bias
        update = self.training and self.track_running_stats
        if update:
            self.num_batches_tracked.add_(1)
        if spread or (x.numel() > 0 and not (self.center and self.scale)):
            return self._composed(x, weight, bias, use_batch, update)
        if update and self.momentum is None:
            return self._fused_average(x, weight, bias)
        return F.batch_norm(x, self.running_mean, self.running_var, weight, bias, use_batch,
                            self.momentum if update else 0.0, self.eps)

    def _fused_average(self, x, weight, bias):
        """momentum=None: the k-th batch weighs 1/k. k stays on the device, which a graph can capture."""
        mean, var = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        y = F.batch_norm(x, mean, var, weight, bias, True, 1.0, self.eps)  # leaves the batch's moments in mean and var
        if x.numel() > 0:
            self._move(mean, var)
        return y

    def _move(self, mean, var) -> None:
        """running <- (1 - momentum) running + momentum batch, in place: others hold on to the buffers."""
        weight = self.momentum
        if weight is None:
            weight = self.num_batches_tracked.to(self.running_mean.dtype).reciprocal()
        with torch.no_grad():
            if self.center:
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
            if self.scale:
                self.running_var.lerp_(var.to(self.running_var.dtype), weight)

    def _composed(self, x, weight, bias, use_batch, update):
        value = x.float() if x.dtype in LOW_PRECISION else x  # statistics never in 16 bits
        axes = [d for d in range(x.dim()) if d != 1]
        if use_batch:
            mean, var = self._batch_moments(value, axes, update)
        else:
            mean, var = self.running_mean.to(value.dtype), self.running_var.to(value.dtype)
        scale = torch.rsqrt(var + self.eps) * weight if self.scale else weight
        y = (value - channel(mean, x)) if self.center else value
        return (y * channel(scale, x) + channel(bias, x)).to(x.dtype)

    def _batch_moments(self, value, axes, update):
        if self.sync and other_ranks():
            mean, var, count = synchronized_moments(value, axes)
        else:
            var, mean = torch.var_mean(value, axes, correction=0)
            count = value.numel() / value.shape[1]
        if not self.center:
            var = var + mean * mean  # the second moment about zero; both terms are positive, nothing cancels
        if update:
            self._move(mean, var * (count / (count - 1)) if self.center else var)
        return mean, var

    def eval_affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(scale, offset), each [C], with eval-mode output scale * x + offset."""
        if not self.track_running_stats:
            raise ValueError("this layer keeps no running statistics, so its eval mode is not a fixed affine map; "
                             "build it with track_running_stats=True")
        scale = torch.rsqrt(self.running_var + self.eps) if self.scale else torch.ones_like(self.running_var)
        offset = -self.running_mean * scale if self.center else torch.zeros_like(scale)
        return scale, offset

    def extra_repr(self) -> str:
        return (f"{self.num_features}, center={self.center}, scale={self.scale}, eps={self.eps}, "
                f"momentum={self.momentum}, track_running_stats={self.track_running_stats}, sync={self.sync}")


def channel(vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """[C] -> [1, C, 1, ...] with as many axes as x."""
    return vector.reshape(1, -1, *[1] * (x.dim() - 2))


def other_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _require_dtype(x: torch.Tensor, dtype: torch.dtype) -> None:
    also = LOW_PRECISION if dtype == torch.float32 else ()
    if x.dtype != dtype and x.dtype not in also:
        raise TypeError(f"the layer is {dtype} and expects an input of {' or '.join(map(str, (dtype, *also)))}, got "
                        f"{x.dtype}; convert the input or the layer with .to(...)")


def _require_several_values(x: torch.Tensor) -> None:
    if x.numel() == x.shape[1] > 0:
        raise ValueError(
            f"cannot normalize shape {list(x.shape)} in train mode: each channel has one value, its variance is 0 and "
            "the output would be the shift alone, whatever the input; use a batch of at least 2 (drop a last batch "
            "of 1), or call .eval() to use the running statistics")
