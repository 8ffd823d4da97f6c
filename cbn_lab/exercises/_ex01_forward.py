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


def _constant_statistics(x, weight, bias, eps):
    axes, per_channel = _channel_axes(x), [1, -1] + [1] * (x.dim() - 2)
    mean, var = x.detach().mean(axes, keepdim=True), x.detach().var(axes, correction=0, keepdim=True)
    return weight.view(per_channel) * (x - mean) / torch.sqrt(var + eps) + bias.view(per_channel)


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


def _check_gradient(student) -> None:
    leaves = [part.requires_grad_() for part in case((8, 3))]
    y = student(*leaves, 0.1)
    require(y.requires_grad, "the output is not connected to the input: autograd finds no way through your function. "
                             "Take away `no_grad`, `detach`, `.data`, `.item()` or numpy")
    loss_weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).cos().view(y.shape)
    found = torch.autograd.grad((y * loss_weights).sum(), leaves, allow_unused=True)
    wanted = torch.autograd.grad((batch_norm_train_solution(*leaves, 0.1) * loss_weights).sum(), leaves)
    for name, mine, right in zip(("x", "weight", "bias"), found, wanted, strict=True):
        require(mine is not None, f"no gradient reaches {name}: is it detached on the way?")
        constant = torch.autograd.grad((_constant_statistics(*leaves, 0.1) * loss_weights).sum(), leaves)[0]
        mistakes = {_FORWARD["constant statistics"][1]: constant} if name == "x" else {}
        close(mine, right, what=f"the gradient that autograd finds for {name}", mistakes=mistakes)


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
