"""Exercise 1.1: what batch norm computes in train mode."""

from functools import partial

import torch
from torch import Tensor

from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
from cbn_lab.exercises.tools import call, close


def batch_norm_train(x, weight, bias, eps):
    """x [N, C] or [N, C, H, W]; weight, bias [C]; eps a number. Returns y, of the shape of x."""
    raise NotImplementedError


def batch_norm_train_solution(x, weight, bias, eps):
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    centred = x - x.mean(axes, keepdim=True)
    var = (centred**2).mean(axes, keepdim=True)
    return weight.view(shape) * centred / torch.sqrt(var + eps) + bias.view(shape)


def _channel_axes(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.dim()))


def _root(var, eps):
    return (var + eps).sqrt()


def _forward(x, weight, bias, eps, *, axes=_channel_axes, correction=0, divisor=_root, affine="w * xhat + b"):
    mean = x.mean(axes(x), keepdim=True)
    var = x.var(axes(x), correction=correction, keepdim=True)
    per_channel = [1, -1] + [1] * (x.dim() - 2)
    w, b, xhat = weight.view(per_channel), bias.view(per_channel), (x - mean) / divisor(var, eps)
    return {"w * xhat + b": w * xhat + b, "w * (xhat + b)": w * (xhat + b), "xhat": xhat}[affine]


def _one_pass(x, weight, bias, eps):
    axes, per_channel = _channel_axes(x), [1, -1] + [1] * (x.dim() - 2)
    mean = x.mean(axes, keepdim=True)
    var = (x**2).mean(axes, keepdim=True) - mean**2
    return weight.view(per_channel) * (x - mean) / torch.sqrt(var + eps) + bias.view(per_channel)


def _constant_statistics(x, weight, bias, eps, mean_of=Tensor.detach, var_of=Tensor.detach):
    axes, per_channel = _channel_axes(x), [1, -1] + [1] * (x.dim() - 2)
    mean, var = mean_of(x).mean(axes, keepdim=True), var_of(x).var(axes, correction=0, keepdim=True)
    return weight.view(per_channel) * (x - mean) / torch.sqrt(var + eps) + bias.view(per_channel)


def _channels_mixed(x, weight, bias, eps):
    return _forward(x.reshape(-1, x.shape[1]), weight, bias, eps).reshape(x.shape)


def _other_squares(x, weight, bias, eps, *, square=lambda centred, x: centred**2, over=lambda x: 1, top=None):
    """The right formula with another sum of squares, or with another numerator."""
    axes, per_channel = _channel_axes(x), [1, -1] + [1] * (x.dim() - 2)
    centred = x - x.mean(axes, keepdim=True)
    var = square(centred, x).sum(axes, keepdim=True) / over(x)
    return weight.view(per_channel) * (top(x) if top else centred) / torch.sqrt(var + eps) + bias.view(per_channel)


def _values(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def _same(x: Tensor) -> Tensor:
    return x


_FORWARD = {  # the mistake -> (an answer that makes it, the message)
    "unbiased variance": (partial(_forward, correction=1),
                          "you divide by the root of the unbiased variance (the sum of squares over n - 1, torch's "
                          "default in `x.var`). The batch is normalized with the biased one, over n"),
    "eps outside": (partial(_forward, divisor=lambda var, eps: var.sqrt() + eps),
                    "eps stands outside the root: you divide by sqrt(var) + eps, expected sqrt(var + eps)"),
    "no eps": (partial(_forward, divisor=lambda var, eps: var.sqrt()),
               "eps is missing: divide by sqrt(var + eps), so that a constant channel does not divide by zero"),
    "divides by the variance": (partial(_forward, divisor=lambda var, eps: var + eps),
                                "you divide by the variance, not by its root"),
    "bias before weight": (partial(_forward, affine="w * (xhat + b)"),
                           "the bias is multiplied by the weight: expected weight * xhat + bias"),
    "no affine map": (partial(_forward, affine="xhat"),
                      "the output is xhat; weight and bias are not applied to it"),
    "axes of layer norm": (partial(_forward, axes=lambda x: tuple(range(1, x.dim()))),
                           "each sample is normalized by its own mean and variance; that is layer norm. Batch norm "
                           "takes them per channel, over the batch and all positions"),
    "axes of instance norm": (partial(_forward, axes=lambda x: tuple(range(2, x.dim())) or (0,)),
                              "each image is normalized by itself, over H and W only; that is instance norm. "
                              "Average over the images of the batch too"),
    "batch axis alone": (partial(_forward, axes=lambda x: (0,)),
                         "every pixel position has its own mean and variance. For images, average over H and W as "
                         "well as over N: one mean per channel"),
    "all axes": (partial(_forward, axes=lambda x: tuple(range(x.dim()))),
                 "all channels share one mean and one variance: leave axis 1 out of the average"),
    "one-pass variance": (_one_pass,
                          "at a mean of 10,000 in float32 your output is far off. E[x^2] - E[x]^2 subtracts two "
                          "numbers of size 1e8 to get one of size 1; subtract the mean first and square then"),
    "constant statistics": (_constant_statistics,
                            "the gradient does not flow through mean and variance: they depend on x too, so take "
                            "away `detach`, `no_grad`, `.data` or `.item()`"),
}
_ALSO = {  # the message -> an answer that makes the mistake; tried in tests/test_ex01.py
    "two things at once: `x.std` divides by n - 1 where n is asked for, and eps stands outside the root":
        partial(_forward, correction=1, divisor=lambda var, eps: var.sqrt() + eps),
    "two things at once: `x.std` divides by n - 1 where n is asked for, and eps is missing":
        partial(_forward, correction=1, divisor=lambda var, eps: var.sqrt()),
    "the sum of squares is not divided by n": _other_squares,
    "you divide the sum of squares by the number of images; n is the number of values per channel, N H W":
        partial(_other_squares, over=len),
    "your variance is the mean of x^2; subtract the mean before you square":
        partial(_other_squares, square=lambda centred, x: x**2, over=_values),
    "`reshape(-1, C)` mixes the channels, as they are not the last axis: `x.movedim(1, -1)` first": _channels_mixed,
    "the mean is not subtracted; only the divisor is right":
        partial(_other_squares, over=_values, top=_same),
    "the weight is not applied": lambda x, w, b, eps: _forward(x, torch.ones_like(w), b, eps),
    "the bias is not added": lambda x, w, b, eps: _forward(x, w, 0 * b, eps),
}
_CASES = (((4, 3, 2, 5), 0.3, 1.0, 0.5), ((8, 3), 0.05, 2.0, -1.0), ((3, 3), 1e-5, 1.0, 0.0),
          ((5, 1), 0.1, 0.2, 3.0), ((3, 3, 3, 3), 1e-3, 0.1, 1.0), ((1, 4, 3, 2), 0.2, 1.0, 2.0),
          ((6, 2), 1e-5, 3e-3, 0.0), ((2, 4), 1.0, 5.0, 9.0))


def case(shape, scale=1.0, offset=0.0, seed=0):
    """x, weight, bias in float64; every channel and every sample has its own mean and scale."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    channel = torch.arange(shape[1], dtype=x.dtype).view(1, -1, *[1] * (len(shape) - 2))
    sample = torch.arange(shape[0], dtype=x.dtype).view(-1, *[1] * (len(shape) - 1))
    x = scale * (x * (1 + 0.5 * channel) + channel + 0.2 * sample) + offset
    return x, torch.linspace(0.5, -2.0, shape[1], dtype=x.dtype), torch.linspace(-1.0, 1.5, shape[1], dtype=x.dtype)


def check_forward(student) -> None:
    for number, (shape, eps, scale, offset) in enumerate(_CASES):
        x, weight, bias = case(shape, scale, offset, seed=number)
        y = call(student, x, weight, bias, eps)
        require(isinstance(y, Tensor), f"your function returns {type(y).__name__}; expected a tensor, made with "
                                       "torch's operations, so that autograd can differentiate it")
        mistakes = {message: answer(x, weight, bias, eps) for answer, message in _FORWARD.values()}
        mistakes |= {message: answer(x, weight, bias, eps) for message, answer in _ALSO.items()}
        close(y, batch_norm_train_solution(x, weight, bias, eps), f"x of shape {list(shape)}, eps = {eps}",
              what="y", mistakes=mistakes)
    _check_float32(student)
    _check_gradient(student)


def _check_float32(student) -> None:
    x, weight, bias = (part.float() for part in case((32, 3, 4, 4), offset=1e4))
    y = student(x.clone(), weight, bias, 1e-5)
    require(y.dtype == torch.float32, f"for a float32 input the output is {y.dtype}; expected the format of the input")
    exact = batch_norm_train_solution(x.double(), weight.double(), bias.double(), 1e-5)
    if not torch.allclose(y.double(), exact, rtol=0, atol=5e-3):
        raise Wrong(_FORWARD["one-pass variance"][1])


_DETACHED = {
    _FORWARD["constant statistics"][1]: _constant_statistics,
    "the gradient does not flow through the mean: it depends on x too":
        partial(_constant_statistics, var_of=_same),
    "the gradient does not flow through the variance: it depends on x too":
        partial(_constant_statistics, mean_of=_same),
}


def _check_gradient(student) -> None:
    leaves = [part.requires_grad_() for part in case((8, 3))]
    y = student(*leaves, 0.1)
    require(y.requires_grad, "the output is not connected to the input: autograd finds no way through your function. "
                             "Take away `no_grad`, `detach`, `.data`, `.item()` or numpy")
    require(not _has_node(y.grad_fn, "BatchNorm"), "this is torch's own batch norm; write its four lines yourself")
    loss_weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).cos().view(y.shape)
    found = torch.autograd.grad((y * loss_weights).sum(), leaves, allow_unused=True)
    wanted = torch.autograd.grad((batch_norm_train_solution(*leaves, 0.1) * loss_weights).sum(), leaves)
    for name, mine, right in zip(("x", "weight", "bias"), found, wanted, strict=True):
        require(mine is not None, f"no gradient reaches {name}: is it detached on the way?")
        mistakes = {message: torch.autograd.grad((answer(*leaves, 0.1) * loss_weights).sum(), leaves)[0]
                    for message, answer in _DETACHED.items()} if name == "x" else {}
        close(mine, right, what=f"the gradient that autograd finds for {name}", mistakes=mistakes)


def _has_node(node, name: str) -> bool:
    """Is there a step of this name in the autograd graph?"""
    return node is not None and (name in node.name() or any(_has_node(n, name) for n, _ in node.next_functions))


FORWARD = Spec(
    id="1.1", title="batch norm in train mode",
    task="Write the transform of section 2 with torch's operations, for `[N, C]` and for `[N, C, H, W]`. Autograd must "
         "find its way through it. No `torch.nn`, no `F.batch_norm`.",
    stub=batch_norm_train, reference=batch_norm_train_solution, check=check_forward,
    hints=("Which axes are averaged over? All but that of the channels. `keepdim=True` saves a lot of thought.",
           "`weight` has the shape `[C]`. To multiply `[N, C, H, W]` it has to become `[1, C, 1, 1]`.",
           "Subtract the mean first. The variance is the mean of the squares of *that*: divided by n, not n - 1."),
    mutants={name: Mutant(answer, message) for name, (answer, message) in _FORWARD.items()},
    why="Centring first costs a second pass over the values and keeps all digits. `x.var(axes, correction=0)` does "
        "the same inside. One more thing to notice: the code has one line for both shapes, because a convolution's "
        "channel is treated like a feature that has N H W samples.")
