"""Batch normalization written out: every line of it, with no fused kernel, and equal to torch's layer.

For every channel c, with n values of it in the batch (n = N, N*L or N*H*W), train mode computes

    mean = (1/n) sum x       var = (1/n) sum (x - mean)^2       y = weight (x - mean) / sqrt(var + eps) + bias

and moves the running statistics towards those of the batch; eval mode puts the running statistics in place of
mean and var, so that an image's output no longer depends on the images beside it. Four things are easy to get
wrong:

- two variances: the biased one (divide by n) normalizes, the unbiased one (by n - 1) goes to running_var;
- `momentum` is the weight of the *update*, new = (1 - momentum) * old + momentum * batch, unlike SGD's;
- the variance takes two passes: E[x^2] - E[x]^2 cancels (float32, mean 1e4: off by several units);
- train or eval is `self.training`; whether gradients are recorded has nothing to do with it.

Source: Ioffe & Szegedy, "Batch Normalization", ICML 2015, Algorithms 1 (train) and 2 (eval). `conformance.py`
compares these layers with torch's, case by case.
"""

import math

import torch
from torch import Tensor, nn

LOW_PRECISION = (torch.bfloat16, torch.float16)


class _BatchNorm(nn.Module):
    """What the layers below share; they differ in the input shapes they accept."""

    _version = 2  # torch's: state_dicts of version 1 had no num_batches_tracked
    shapes: dict[int, str]  # number of axes -> how it reads in a message

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1,
                 affine: bool = True, track_running_stats: bool = True):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.register_parameter("weight", nn.Parameter(torch.ones(num_features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_features)) if affine else None)
        track = track_running_stats
        self.register_buffer("running_mean", torch.zeros(num_features) if track else None)
        self.register_buffer("running_var", torch.ones(num_features) if track else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track else None)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        axes = (0, *range(2, x.dim()))                      # all but the channels': (0), (0, 2) or (0, 2, 3)
        per_channel = (1, -1, *(1 for _ in x.shape[2:]))    # [C] -> [1, C], [1, C, 1] or [1, C, 1, 1]
        z = x.float() if x.dtype in LOW_PRECISION else x    # 8 or 11 bits are too few for a sum
        if self.training or self.running_mean is None:
            mean = z.mean(axes)                             # [C]
            centred = z - mean.view(per_channel)            # the shape of x
            var = centred.square().mean(axes)               # [C], biased: 1/n
            if self.training and self.track_running_stats:
                self._update(mean.detach(), var.detach(), n=_values_per_channel(x))
        else:
            mean, var = self.running_mean.to(z.dtype), self.running_var.to(z.dtype)
            centred = z - mean.view(per_channel)
        y = centred * torch.rsqrt(var + self.eps).view(per_channel)
        if self.affine:
            y = y * self.weight.view(per_channel) + self.bias.view(per_channel)
        channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return y.to(x.dtype).contiguous(memory_format=layout)

    def _update(self, mean: Tensor, var: Tensor, n: int) -> None:
        """Move the running statistics in place: DDP, captured graphs and exports hold on to these tensors."""
        self.num_batches_tracked.add_(1)
        if n == 0:  # an empty batch is counted, as torch does, and says nothing about the statistics
            return
        for running, batch in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):
            weight = self.momentum
            if weight is None:  # the plain average over all batches: the k-th one weighs 1/k
                weight = self.num_batches_tracked.to(running.dtype).reciprocal()
            running.lerp_(batch.to(running.dtype), weight)

    def _check(self, x: Tensor) -> None:
        name, shape = type(self).__name__, list(x.shape)
        if x.dim() not in self.shapes:
            raise ValueError(
                f"{name} expected an input of shape {' or '.join(self.shapes.values())}, got {shape}. Use "
                "BatchNorm1d for features and sequences and BatchNorm2d for images; x.unsqueeze(0) adds a "
                "missing batch axis.")
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"{name} was made for {self.num_features} channels, axis 1 of an input of shape {shape} has "
                f"{x.shape[1]}. Make the layer with num_features={x.shape[1]}, or, if another axis holds the "
                "channels, move it to place 1 with x.movedim.")
        state = self.weight if self.affine else self.running_mean
        accepted = (torch.float32, torch.float64, *LOW_PRECISION) if state is None else (state.dtype,)
        if x.dtype not in accepted and not (torch.float32 in accepted and x.dtype in LOW_PRECISION):
            raise TypeError(
                f"{name} expected an input of {' or '.join(map(str, accepted))} (a float32 layer also "
                f"takes bfloat16 and float16), got {x.dtype}. Convert the input or the layer with .to(...).")
        if not self.training and self.running_mean is not None:
            return
        if _values_per_channel(x) == 1:
            raise ValueError(
                f"{name} cannot normalize {shape} by the batch's own statistics: with one value per channel "
                "the mean is that value and the variance is zero, so the output would be the bias whatever "
                "the input. Use a batch of at least 2 (DataLoader(drop_last=True) drops a last batch of 1), "
                "or call layer.eval() to predict for one input from the running statistics.")
        if self.eps <= 0:
            raise ValueError(
                f"{name} has eps={self.eps}, expected eps > 0: in train mode a channel that is constant over "
                "the batch has variance zero. Use the default, 1e-5.")

    def reset_running_stats(self) -> None:
        """Forget the batches seen: mean 0, variance 1."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest) -> None:
        if local_metadata.get("version", 1) < 2 and self.track_running_stats:
            state_dict.setdefault(prefix + "num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def extra_repr(self) -> str:
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
                f"track_running_stats={self.track_running_stats}")


class BatchNorm1d(_BatchNorm):
    """Normalize [N, C] over N, or [N, C, L] over N and L; the output has the input's shape, dtype and layout.

    `eps` stands inside the root. `momentum` is the weight of the update; None averages all batches equally.
    `affine=False` leaves out weight and bias. `track_running_stats=False` keeps no statistics: eval mode then
    uses the batch's as well. Raises ValueError for other shapes and for one value per channel where the
    batch's statistics are used, TypeError for a dtype other than the layer's (bfloat16 and float16 inputs
    suit a float32 layer).

    >>> layer = BatchNorm1d(1, eps=1e-12)
    >>> layer(torch.tensor([[1.0], [3.0]])).flatten().tolist()     # mean 2, variance 1
    [-1.0, 1.0]
    >>> layer.running_mean, layer.running_var                      # 0.9 * 0 + 0.1 * 2, 0.9 * 1 + 0.1 * 2
    (tensor([0.2000]), tensor([1.1000]))
    """

    shapes = {2: "[N, C]", 3: "[N, C, L]"}


class BatchNorm2d(_BatchNorm):
    """Normalize images [N, C, H, W] over N, H and W; channels_last stays channels_last. See BatchNorm1d."""

    shapes = {4: "[N, C, H, W]"}


def _values_per_channel(x: Tensor) -> int:
    return x.shape[0] * math.prod(x.shape[2:])
