r"""Complete batch normalization (CBN): our reconstruction, with its structure as arguments.

**This is a reconstruction consistent with the abstract** of Peng, Yu and Yu, "Re-Thinking the Effectiveness of
Batch Normalization and Beyond", IEEE TPAMI 46(1), 2024. Only the abstract was known to us; it says that CBN
changes where the normalization stands and modifies its structure, not how. (Conditional BN, de Vries et al. 2017,
and Cross-iteration BN, Yao et al. 2020, share the letters and are other things.)

The default layer receives the output z of a weight layer without bias and computes, per channel c,

    h = f(z + sqrt(k) a_c)                                 pre-shift, activation
    y = gamma_c (h - mean_c) / sqrt(var_c + eps) + sqrt(k) b_c       standardize, gamma, post-shift

so that what enters the *next* weight layer has the second moment gamma_c^2 + k b_c^2, whatever f is (up to eps; a
channel that f makes constant over the batch, such as a dead ReLU, keeps k b_c^2).
A shift written as sqrt(k) b receives k times the effective learning rate of a plain bias under SGD.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from cbn_lab import activations
from cbn_lab.norms.sync import synchronized_moments

_LOW_PRECISION = (torch.bfloat16, torch.float16)


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
        spread = use_batch and self.sync and _other_ranks()
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
        value = x.float() if x.dtype in _LOW_PRECISION else x  # statistics never in 16 bits
        axes = [d for d in range(x.dim()) if d != 1]
        if use_batch:
            mean, var = self._batch_moments(value, axes, update)
        else:
            mean, var = self.running_mean.to(value.dtype), self.running_var.to(value.dtype)
        scale = torch.rsqrt(var + self.eps) * weight if self.scale else weight
        y = (value - _channel(mean, x)) if self.center else value
        return (y * _channel(scale, x) + _channel(bias, x)).to(x.dtype)

    def _batch_moments(self, value, axes, update):
        if self.sync and _other_ranks():
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


class CompleteBatchNormBase(nn.Module):
    dims: tuple[int, ...]
    layout: str

    def __init__(self, num_features: int, activation: str | nn.Module = "relu", *, pre_shift: bool = True,
                 post_shift: bool = True, gamma: str | None = "after", shift_lr_multiplier: float = 9.0,
                 standardize: str = "after", center: bool = True, scale: bool = True, eps: float = 1e-5,
                 momentum: float | None = 0.1, track_running_stats: bool = True, sync: bool = False):
        super().__init__()
        _require_choice("gamma", gamma, ("before", "after", "both", None))
        _require_choice("standardize", standardize, ("before", "after", "both"))
        if not 0 < shift_lr_multiplier < math.inf:
            raise ValueError(f"shift_lr_multiplier must be positive and finite, got {shift_lr_multiplier}")
        self.num_features = num_features
        self.shift_lr_multiplier = float(shift_lr_multiplier)
        self.activation = activations.module(activation)
        options = dict(center=center, scale=scale, eps=eps, momentum=momentum,
                       track_running_stats=track_running_stats, sync=sync)
        self.standardize_before = Standardize(num_features, **options) if standardize != "after" else None
        self.standardize_after = Standardize(num_features, **options) if standardize != "before" else None
        self.gamma_before = _parameter(torch.ones, num_features, gamma in ("before", "both"))
        self.gamma_after = _parameter(torch.ones, num_features, gamma in ("after", "both"))
        self.pre_shift = _parameter(torch.zeros, num_features, pre_shift)
        self.post_shift = _parameter(torch.zeros, num_features, post_shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, ...] -> the same shape."""
        self._check(x)
        z = _affine(x, self.standardize_before, self.gamma_before, self._shift(self.pre_shift))
        return self.activate(z)

    def activate(self, z: torch.Tensor) -> torch.Tensor:
        """The second half: activation, then what stands after it. `z` already carries the pre-shift."""
        h = self.activation(z)
        return _affine(h, self.standardize_after, self.gamma_after, self._shift(self.post_shift))

    def bias_before(self) -> torch.Tensor | None:
        """The pre-shift [C] when it is all that stands before the activation: a weight layer can add it for free."""
        if self.standardize_before is None and self.gamma_before is None:
            return self._shift(self.pre_shift)
        return None

    def _shift(self, parameter: nn.Parameter | None) -> torch.Tensor | None:
        return None if parameter is None else parameter * math.sqrt(self.shift_lr_multiplier)

    def eval_affines(self):
        """((scale, offset) before the activation, (scale, offset) after it), each [C]: the layer in eval mode."""
        before = _eval_affine(self.standardize_before, self.gamma_before, self._shift(self.pre_shift), self)
        after = _eval_affine(self.standardize_after, self.gamma_after, self._shift(self.post_shift), self)
        return before, after

    def _check(self, x: torch.Tensor) -> None:
        if x.dim() not in self.dims or x.shape[1] != self.num_features:
            raise ValueError(f"{type(self).__name__}({self.num_features}) expects {self.layout} with "
                             f"C = {self.num_features}, got shape {list(x.shape)}")

    def get_extra_state(self) -> torch.Tensor:
        """k belongs to the state: the stored shifts mean nothing without it."""
        return torch.tensor(self.shift_lr_multiplier, dtype=torch.float64)

    def set_extra_state(self, state: torch.Tensor) -> None:
        stored = float(state)
        if stored != self.shift_lr_multiplier:
            raise ValueError(f"the state was saved with shift_lr_multiplier={stored:g}, this layer has "
                             f"{self.shift_lr_multiplier:g}, and its shifts would come out "
                             f"{math.sqrt(self.shift_lr_multiplier / stored):.3g} times as large; build the layer with "
                             f"shift_lr_multiplier={stored:g}")

    def extra_repr(self) -> str:
        return f"{self.num_features}, shift_lr_multiplier={self.shift_lr_multiplier:g}"


class CompleteBatchNorm1d(CompleteBatchNormBase):
    """Complete batch normalization (our reconstruction, see the module) of [N, C] or [N, C, L]. Arguments as in 2d."""

    dims, layout = (2, 3), "[N, C] or [N, C, L]"


class CompleteBatchNorm2d(CompleteBatchNormBase):
    """Complete batch normalization of [N, C, H, W], activation included. **A reconstruction**, see the module.

    Arguments:
        num_features: C.
        activation: a registered name (`cbn_lab.activations`) or an elementwise module.
        pre_shift, post_shift: a learned shift per channel before the activation, and at the end.
        gamma: learned scale per channel "before" the activation, "after" it, "both", or None.
        shift_lr_multiplier: k; both shifts are stored as b and applied as sqrt(k) b. With plain SGD of step alpha
            the shift moves by k alpha times its gradient. Weight decay acts on b and is not multiplied.
        standardize: where the statistics are taken: "after" the activation (the reconstruction), "before" (vanilla
            BN), "both".
        center, scale, eps, momentum, track_running_stats, sync: see `Standardize`.

    With activation "identity", standardize="before", gamma="before", post_shift=False and multiplier 1 it is vanilla
    BN and passes the same conformance table (`cbn_lab.norms.conformance`), but for the names in its state_dict.

    Raises ValueError for a wrong shape, an unknown choice, and in train mode for one value per channel.
    """

    dims, layout = (4,), "[N, C, H, W]"


def _affine(x, standardize, gamma, shift):
    """gamma * standardize(x) + shift, each factor optional; fused into the standardization where there is one."""
    if standardize is not None:
        return standardize(x, gamma, shift)
    if gamma is not None:
        x = x * _channel(gamma, x).to(x.dtype)  # the cast keeps bf16 maps in bf16: a float32 factor would promote
    if shift is not None:
        x = x + _channel(shift, x).to(x.dtype)
    return x


def _eval_affine(standardize, gamma, shift, module):
    reference = module.standardize_after.one if module.standardize_before is None else module.standardize_before.one
    scale, offset = torch.ones_like(reference), torch.zeros_like(reference)
    if standardize is not None:
        scale, offset = standardize.eval_affine()
    if gamma is not None:
        scale, offset = scale * gamma, offset * gamma
    return scale.detach(), (offset if shift is None else offset + shift).detach()


def _channel(vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """[C] -> [1, C, 1, ...] with as many axes as x."""
    return vector.reshape(1, -1, *[1] * (x.dim() - 2))


def _parameter(fill, size: int, wanted: bool) -> nn.Parameter | None:
    return nn.Parameter(fill(size)) if wanted else None


def _require_choice(name: str, value, choices) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _other_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _require_dtype(x: torch.Tensor, dtype: torch.dtype) -> None:
    also = _LOW_PRECISION if dtype == torch.float32 else ()
    if x.dtype != dtype and x.dtype not in also:
        raise TypeError(f"the layer is {dtype} and expects an input of {' or '.join(map(str, (dtype, *also)))}, got "
                        f"{x.dtype}; convert the input or the layer with .to(...)")


def _require_several_values(x: torch.Tensor) -> None:
    if x.numel() == x.shape[1] > 0:
        raise ValueError(
            f"cannot normalize shape {list(x.shape)} in train mode: each channel has one value, its variance is 0 and "
            "the output would be the shift alone, whatever the input; use a batch of at least 2 (drop a last batch "
            "of 1), or call .eval() to use the running statistics")
