"""Cases of the conformance table: what the layer computes, its derivatives, few and extreme values."""

import torch
from torch import nn

from cbn_lab.norms.conformance_tools import (
    BUFFERS,
    CHANNELS,
    PARAMETERS,
    SHAPES,
    batch,
    pair,
    refuses,
    same,
    same_buffers,
    same_step,
)

# What is computed


def defaults(make):
    """A new layer has weight 1, bias 0, running mean 0, running variance 1, eps 1e-5 and momentum 0.1."""
    ours, theirs = make(CHANNELS, 1), nn.BatchNorm1d(CHANNELS)
    for name in PARAMETERS + BUFFERS:
        same(name, getattr(ours, name), getattr(theirs, name))
    x = 3e-3 * batch(8, 3, dtype=torch.float32)  # a variance of 1e-5: the output shows eps
    same("the output", ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    same_buffers(ours, theirs, rtol=1e-5, atol=1e-7)


def axes(make):
    """Each channel (axis 1) has its own mean and variance, taken over all other axes: N; N, L; N, H, W."""
    for shape, dims in SHAPES.items():
        ours, theirs = pair(make, dims)
        x = batch(*shape)
        same(f"the output for {list(shape)}", ours(x), theirs(x))


def biased_variance_normalizes(make):
    """The batch is divided by the root of the biased variance: the sum of squares over n, not n - 1."""
    ours, theirs = pair(make, 1)
    x = batch(2, 3)  # n = 2: the two variances differ by a factor of 2
    same("the output", ours(x), theirs(x))


def unbiased_variance_is_stored(make):
    """running_var moves towards the unbiased variance: the sum of squares over n - 1, not n."""
    for shape, dims in {(2, 3): 1, (1, 3, 2, 2): 2}.items():
        ours, theirs = pair(make, dims, momentum=0.5)
        x = batch(*shape)
        ours(x), theirs(x)
        same_buffers(ours, theirs, ["running_var"])


def eps_inside_the_root(make):
    """The divisor is sqrt(var + eps), not sqrt(var) + eps; in train and in eval mode."""
    for training in (True, False):
        ours, theirs = pair(make, 1, eps=0.5)
        x = batch(8, 3)
        same(f"the output with eps=0.5 and training={training}",
              ours.train(training)(x), theirs.train(training)(x))


def momentum_weighs_the_update(make):
    """new = (1 - momentum) * old + momentum * batch."""
    ours, theirs = pair(make, 2, momentum=0.3)
    for seed in (0, 1):
        x = batch(4, 3, 5, 2, seed=seed)
        ours(x), theirs(x)
    same_buffers(ours, theirs, ["running_mean", "running_var"])


def momentum_none_averages(make):
    """With momentum=None the running statistics are the plain average over all batches."""
    ours, theirs = pair(make, 1, momentum=None)
    for seed in range(3):
        x = batch(8, 3, seed=seed)
        ours(x), theirs(x)
    same_buffers(ours, theirs)


def eval_uses_running_statistics(make):
    """Eval mode normalizes with the running statistics, one value at a time if need be, and leaves them alone."""
    for shape, dims in {**SHAPES, (1, 3): 1, (1, 3, 1, 1): 2}.items():
        ours, theirs = pair(make, dims)
        ours.eval(), theirs.eval()
        same_step(ours, theirs, batch(*shape))
        same_buffers(ours, theirs)


def train_and_eval_alternate(make):
    """Switching modes between batches changes nothing else; num_batches_tracked counts the train batches."""
    ours, theirs = pair(make, 2)
    for seed, training in enumerate((True, False, True, True, False)):
        ours.train(training), theirs.train(training)
        same_step(ours, theirs, batch(4, 3, 5, 2, seed=seed))
        same_buffers(ours, theirs)


def grad_mode_is_not_train_mode(make):
    """no_grad in train mode uses the batch and updates the statistics; eval mode with gradients does neither."""
    ours, theirs = pair(make, 1)
    x = batch(8, 3)
    with torch.no_grad():
        same("the train-mode output under no_grad", ours(x), theirs(x))
    same_buffers(ours, theirs)
    ours.eval(), theirs.eval()
    same("the eval-mode output with gradients on", ours(x.requires_grad_()), theirs(x))
    same_buffers(ours, theirs)


# Derivatives


def gradients(make):
    """The gradients of input, weight and bias; in train mode they also flow through mean and variance."""
    for shape, dims in SHAPES.items():
        ours, theirs = pair(make, dims)
        same_step(ours, theirs, batch(*shape))


def double_backward(make):
    """The gradient can be differentiated again (Hessian products, gradient penalties)."""
    ours, _ = pair(make, 2)
    x = batch(2, 3, 2, 1).requires_grad_()
    torch.autograd.gradgradcheck(ours, x)


# Few values, extreme values


def one_value_is_refused(make):
    """One value per channel has variance zero: in train mode that is a ValueError, before the statistics move."""
    for shape, dims in {(1, 3): 1, (1, 3, 1): 1, (1, 3, 1, 1): 2}.items():
        ours, theirs = pair(make, dims)
        refuses(ours, batch(*shape), ValueError)
        same_buffers(ours, theirs, ["running_mean", "running_var"])


def batch_of_one_image(make):
    """One image or sequence has many values per channel, and is normalized over its positions in train mode."""
    for shape, dims in {(1, 3, 5): 1, (1, 3, 4, 2): 2}.items():
        ours, theirs = pair(make, dims)
        same_step(ours, theirs, batch(*shape))
        same_buffers(ours, theirs)


def empty_batch(make):
    """An empty batch gives an empty output and zero gradients; it is counted, the statistics stay as they are."""
    for shape, dims in {(0, 3): 1, (0, 3, 4): 1, (2, 3, 0): 1, (0, 3, 4, 4): 2}.items():
        for training in (True, False):
            ours, theirs = pair(make, dims)
            ours.train(training), theirs.train(training)
            same_step(ours, theirs, torch.zeros(shape, dtype=torch.float64))
            same_buffers(ours, theirs)


def mean_offset(make):
    """A mean of 1e4 does not spoil the variance in float32 (two passes; E[x^2] - E[x]^2 would)."""
    x = (batch(32, 3, 4, 4) + 1e4).float()  # exact in float32; torch's layer gets the same values in float64
    ours, _ = pair(make, 2, dtype=torch.float32)
    _, theirs = pair(make, 2)
    same("the output", ours(x).double(), theirs(x.double()), rtol=0, atol=5e-3)
    same("running_var", ours.running_var.double(), theirs.running_var, rtol=1e-4, atol=0)


def constant_channel(make):
    """A channel that is constant over the batch comes out as the bias, with finite gradients."""
    x = batch(8, 3)
    x[:, 1] = 7.0
    ours, theirs = pair(make, 1)
    same_step(ours, theirs, x)
    same_buffers(ours, theirs)


CASES = (
    defaults, axes, biased_variance_normalizes, unbiased_variance_is_stored, eps_inside_the_root,
    momentum_weighs_the_update, momentum_none_averages, eval_uses_running_statistics,
    train_and_eval_alternate, grad_mode_is_not_train_mode, gradients, double_backward,
    one_value_is_refused, batch_of_one_image, empty_batch, mean_offset, constant_channel,
)
