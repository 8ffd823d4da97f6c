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
from torch import nn

from cbn_lab import activations
from cbn_lab.norms.standardize import Standardize, channel


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
        x = x * channel(gamma, x).to(x.dtype)  # the cast keeps bf16 maps in bf16: a float32 factor would promote
    if shift is not None:
        x = x + channel(shift, x).to(x.dtype)
    return x


def _eval_affine(standardize, gamma, shift, module):
    reference = module.standardize_after.one if module.standardize_before is None else module.standardize_before.one
    scale, offset = torch.ones_like(reference), torch.zeros_like(reference)
    if standardize is not None:
        scale, offset = standardize.eval_affine()
    if gamma is not None:
        scale, offset = scale * gamma, offset * gamma
    return scale.detach(), (offset if shift is None else offset + shift).detach()


def _parameter(fill, size: int, wanted: bool) -> nn.Parameter | None:
    return nn.Parameter(fill(size)) if wanted else None


def _require_choice(name: str, value, choices) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
