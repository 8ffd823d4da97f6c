"""Exercise 8.5: batch normalization of activations in half precision: what has to be done in float32."""

import torch

from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import call, close, same


def half_norm(x, running_mean, momentum=0.1, eps=1e-5):
    """BN in training mode, without gamma and beta: (y in the dtype of x, the new running mean in float32).

    x [n, C], bf16 or fp16; running_mean [C], float32, is not changed itself; eps is added to the biased variance.
    """
    raise NotImplementedError


def _half_norm(x, running_mean, momentum=0.1, eps=1e-5):
    wide = x.float()
    mean = wide.mean(0)
    variance = (wide - mean).square().mean(0)
    y = (wide - mean) / (variance + eps).sqrt()
    return y.to(x.dtype), running_mean.lerp(mean, momentum)


def _wrong_output(moments, finish=lambda wide, mean, variance, eps: (wide - mean) / (variance + eps).sqrt()):
    """A mistake in y alone. moments(x) -> (mean, variance)."""
    def wrong(x, running_mean, momentum=0.1, eps=1e-5):
        mean, variance = moments(x)
        y = finish(x.float(), mean.float(), variance.float(), eps)
        return y.to(x.dtype), _half_norm(x, running_mean, momentum, eps)[1]

    return wrong


def _wrong_running(update):
    """A mistake in the running mean alone. update(running, mean, momentum, dtype of x) -> the new one."""
    def wrong(x, running_mean, momentum=0.1, eps=1e-5):
        new = update(running_mean, x.float().mean(0), momentum, x.dtype)
        return _half_norm(x, running_mean, momentum, eps)[0], new

    return wrong


def _moments(x):
    wide = x.float()
    return wide.mean(0), wide.var(0, correction=0)


def _rounded_mean(x):
    return x.mean(0), _moments(x)[1]


def _half_squares(x):
    mean = x.float().mean(0)
    return mean, (x.float() - mean).to(x.dtype).square().float().mean(0)


def _one_pass(x):
    mean = x.float().mean(0)
    return mean, x.float().square().mean(0) - mean.square()


def _unbiased(x):
    return x.float().mean(0), x.float().var(0)


def _all_in_half(x, running_mean, momentum=0.1, eps=1e-5):
    mean = x.mean(0)
    variance = (x - mean).square().mean(0)
    return (x - mean) / (variance + eps).sqrt(), running_mean.lerp(mean.float(), momentum)


_ROUNDED = ("the mean is rounded to the dtype of x before it is subtracted: near 50 the numbers of bf16 are 0.25 "
            "apart, and the whole output is shifted")
_OVERFLOW = ("the squares are taken in fp16, where a deviation of 300 has a square beyond the largest number, "
             "65,504: the variance is infinite and y is 0 or NaN")
_ONE_PASS = ("the variance is lost for a mean of 2,000: a mean of squares minus the square of the mean cancels, in "
             "float32 as well. Subtract the mean first")
_RUNNING = ("the running mean is rounded to half precision, or the batch's mean that it takes in was: keep both in "
            "float32, or updates smaller than half a step of the format are lost")
_HALVES = {
    "unbiased": ("the variance divides by n - 1; BN normalizes with that over n", _wrong_output(_unbiased)),
    "no eps": ("eps is missing", _wrong_output(_moments, lambda x, m, v, eps: (x - m) / v.sqrt())),
    "eps outside": ("eps is added to the standard deviation; it belongs to the variance, under the root",
                    _wrong_output(_moments, lambda x, m, v, eps: (x - m) / (v.sqrt() + eps))),
    "divided by the variance": ("this divides by the variance; take its root",
                                _wrong_output(_moments, lambda x, m, v, eps: (x - m) / (v + eps))),
}
_RUNNINGS = {
    "momentum": ("the running mean keeps 0.1 of its old value; torch's momentum is the weight of the new one",
                 _wrong_running(lambda running, mean, momentum, dtype: mean.lerp(running, momentum))),
    "added": ("the old running mean keeps its whole weight; it has to get 1 - momentum",
              _wrong_running(lambda running, mean, momentum, dtype: running + momentum * mean)),
    "unchanged": ("the running mean has not moved", _wrong_running(lambda running, mean, momentum, dtype: running)),
}


def _case(dtype, n: int, mean: float, std: float):
    generator = torch.Generator().manual_seed(n)
    x = (mean + std * torch.randn(n, 3, generator=generator) + torch.tensor([0.0, 0.1, 0.2])).to(dtype)
    return x, torch.full((3,), float(mean) - 0.25)


def _check(student):
    for dtype, n, mean, std, eps, blame in (
            (torch.bfloat16, 6, 0.5, 2.0, 0.5, ""), (torch.bfloat16, 64, 50.0, 1.0, 1e-5, _ROUNDED),
            (torch.float16, 40, 0.0, 400.0, 1e-5, _OVERFLOW), (torch.float16, 99, 2000.0, 2.0, 1e-5, _ONE_PASS)):
        x, running = _case(dtype, n, mean, std)
        found = call(student, x, running, 0.1, eps)
        require(isinstance(found, tuple | list) and len(found) == 2,
                "your function returns one thing, or not two; expected (y, the new running mean)")
        _check_output(found[0], x, running, eps, blame)
        _check_running(found[1], x, running)


def _check_output(y, x, running, eps: float, blame: str) -> None:
    name = str(x.dtype).removeprefix("torch.")
    got = str(getattr(y, "dtype", type(y).__name__)).removeprefix("torch.")
    require(got == name, f"y is {got} and x {name}: give back what came, or the next layer runs in another precision")
    wide = x.double()
    expected = (wide - wide.mean(0)) / (wide.var(0, correction=0) + eps).sqrt()
    step = {"bfloat16": 2**-7, "float16": 2**-10}[name]  # neighbours of 1; a rounded result is off by half of that
    if blame and y.shape == expected.shape:
        require(torch.allclose(y.double(), expected, rtol=step, atol=step), blame)
    mistakes = {said: wrong(x, running, 0.1, eps)[0] for said, wrong in _HALVES.values()}
    close(y, expected, f"{name} values with means near {float(wide.mean()):.0f}, eps = {eps:g}", what="y",
          mistakes=mistakes, rtol=step, atol=step)


def _check_running(new, x, running) -> None:
    mean = x.double().mean(0)
    expected = running.double().lerp(mean, 0.1)
    require(getattr(new, "dtype", torch.float32) in (torch.float32, torch.float64), _RUNNING)
    mistakes = {said: wrong(x, running)[1] for said, wrong in _RUNNINGS.values()}
    step = {torch.bfloat16: 2**-8, torch.float16: 2**-11}[x.dtype]  # what rounding to the format changes at most
    if not any(same(new, wrong, rtol=1e-5, atol=1e-5) for wrong in [expected, *mistakes.values()]):
        require(not same(new, expected, rtol=2 * step, atol=0), _RUNNING)
    close(new, expected, f"a mean of {float(mean[0]):.4g} after {float(running[0]):g}", what="the running mean",
          mistakes=mistakes, rtol=1e-5, atol=1e-5)


HALF = Spec(
    id="8.5", title="a norm for half precision",
    task="x is in bf16 or fp16. Write BN's forward pass in training mode so that y is right up to the rounding of x's "
         "own format, and so that the running mean does not lose small updates.",
    stub=half_norm, reference=_half_norm, check=_check,
    hints=("Which of these may be rounded to the format of x: x, the mean, the deviations, their squares, the "
           "variance, y, the running mean? Only what is stored, not what is computed with.",
           "`x.float()` at the beginning and `.to(x.dtype)` at the end, for y alone.",
           "`running_mean.lerp(mean, momentum)` moves by `momentum` of the way, in the precision of both."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in (_HALVES | _RUNNINGS).items()} | {
        "rounded mean": Mutant(_wrong_output(_rounded_mean), says=_ROUNDED),
        "squares in half": Mutant(_wrong_output(_half_squares), says=_OVERFLOW),
        "one pass": Mutant(_wrong_output(_one_pass), says=_ONE_PASS),
        "float32 out": Mutant(lambda *given: (_half_norm(*given)[0].float(), _half_norm(*given)[1]),
                              says="give back what came"),
        "running mean in half": Mutant(_wrong_running(
            lambda running, mean, momentum, dtype: running.to(dtype).lerp(mean.to(dtype), momentum).float()),
            says=_RUNNING)},
    why="x and y are maps, and halving their bytes is the point of half precision. Moments are a few numbers per "
        "channel, so float32 costs nothing there. The fused kernels do the same: half precision in memory, float32 "
        "inside.")
