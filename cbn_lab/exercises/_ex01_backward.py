"""Exercise 1.2: the backward pass of batch norm."""

from functools import partial

import torch

from cbn_lab.exercises._ex01_forward import case
from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import call, close


def batch_norm_backward(dy, x, weight, eps):
    """dy, x [N, C]; weight [C]. dy is dF/dy. Returns (dx, dweight, dbias), of shapes [N, C], [C], [C]."""
    raise NotImplementedError


def batch_norm_backward_solution(dy, x, weight, eps):
    centred = x - x.mean(0)
    sigma = torch.sqrt((centred**2).mean(0) + eps)
    xhat = centred / sigma
    dbias, dweight = dy.sum(0), (dy * xhat).sum(0)
    g = weight * dy
    dx = (g - g.mean(0) - xhat * (g * xhat).mean(0)) / sigma
    return dx, dweight, dbias


def _backward(dy, x, weight, eps, *, mean=1.0, projection=1.0, n_over=1.0, correction=0, use_weight=True, divide=True,
              keep_eps=True):
    sigma = torch.sqrt(x.var(0, correction=correction) + (eps if keep_eps else 0.0))
    xhat, n = (x - x.mean(0)) / sigma, len(x)
    g = weight * dy if use_weight else dy
    scale = n_over if n_over != "n" else n
    dx = g - mean * scale * g.mean(0) - projection * scale * xhat * (g * xhat).mean(0)
    return dx / sigma if divide else dx, (dy * xhat).sum(0), dy.sum(0)


def _means_over_channels(dy, x, weight, eps):
    sigma = _sigma(x, eps)
    xhat, g = (x - x.mean(0)) / sigma, weight * dy
    return ((g - g.mean(1, keepdim=True) - xhat * (g * xhat).mean(1, keepdim=True)) / sigma,)


def _sigma(x, eps):
    return torch.sqrt(x.var(0, correction=0) + eps)


def _changed(part, change):
    """The solution with one of its three parts changed."""
    def answer(dy, x, weight, eps):
        parts = list(batch_norm_backward_solution(dy, x, weight, eps))
        parts[part] = change(parts[part], dy, x, weight)
        return tuple(parts)

    return answer


def _swapped(dy, x, weight, eps):
    dx, dweight, dbias = batch_norm_backward_solution(dy, x, weight, eps)
    return dx, dbias, dweight


_BACKWARD = {
    "constant statistics": (partial(_backward, mean=0.0, projection=0.0),
                            "dx treats mean and variance as constants. Both depend on all of x: two terms are missing"),
    "constant variance": (partial(_backward, projection=0.0),
                          "the term through the variance is missing in dx: subtract xhat times the mean of g * xhat"),
    "constant mean": (partial(_backward, mean=0.0),
                      "the term through the mean is missing in dx: subtract the mean of g over the batch"),
    "plus for minus": (partial(_backward, projection=-1.0),
                       "the term with xhat has the wrong sign in dx: it is subtracted"),
    "sums for means": (partial(_backward, n_over="n"),
                       "in dx you subtract sums over the batch; they are means, the sums over n"),
    "weight forgotten": (partial(_backward, use_weight=False),
                         "dx does not contain the weight: the gradient at xhat is weight * dy"),
    "sigma forgotten": (partial(_backward, divide=False),
                        "dx is not divided by sigma = sqrt(var + eps)"),
    "n - 1": (partial(_backward, correction=1),
              "your sigma is made of the variance over n - 1; the forward pass uses the one over n"),
    "eps forgotten": (partial(_backward, keep_eps=False),
                      "your sigma leaves eps out; it is the sqrt(var + eps) of the forward pass"),
    "x for xhat": (_changed(1, lambda dweight, dy, x, weight: (dy * x).sum(0)),
                   "dweight is the sum of dy * x; the weight multiplies xhat, not x"),
    "mean for sum": (_changed(2, lambda dbias, dy, x, weight: dy.mean(0)),
                     "dbias is the mean of dy over the batch; the bias is added to each y_i, so it is the sum"),
    "order": (_swapped, "dweight and dbias are exchanged: return (dx, dweight, dbias)"),
}
_ALSO = (  # (part, an answer that makes the mistake, the message); tried in tests/test_ex01.py
    (0, _changed(0, lambda dx, dy, x, weight: dx * weight), "dx contains the weight twice"),
    (0, lambda *given: (_backward(*given, use_weight=False)[0]
                        + (given[2] - 1) * given[0] / _sigma(given[1], given[3]),),
     "the weight stands in the first term of dx alone: all three terms are made of g = weight * dy"),
    (0, lambda *given: (_backward(*given, projection=0.0)[0]
                        - _backward(*given, mean=0.0, projection=0.0, use_weight=False)[0]
                        + _backward(*given, mean=0.0, use_weight=False)[0],),
     "the weight is missing in the last term of dx: it is made of g = weight * dy too"),
    (0, lambda *given: (_backward(*given)[0] / _sigma(given[1], given[3]),), "dx is divided by sigma twice"),
    (0, _means_over_channels, "the means in dx run over the channels; they are means over the batch, axis 0"),
    (0, partial(_backward, mean=-1.0), "the mean of g has the wrong sign in dx: it is subtracted"),
    (0, lambda *given: (_backward(*given, projection=0.0)[0]
                        + _sigma(given[1], given[3]) * (_backward(*given)[0] - _backward(*given, projection=0.0)[0]),),
     "the last term of dx has x - mean where xhat should stand: divide it by sigma"),
    (1, _changed(1, lambda dweight, dy, x, weight: dweight * weight),
     "dweight contains the weight: the output is weight * xhat + bias, so it is the sum of dy * xhat"),
    (1, _changed(1, lambda dweight, dy, x, weight: dweight / len(x)),
     "dweight is the mean over the batch; the weight multiplies each xhat_i, so it is the sum"),
    (1, _changed(1, lambda dweight, dy, x, weight: (dy * (x - x.mean(0))).sum(0)),
     "dweight is the sum of dy * (x - mean); xhat is that divided by sigma"),
    (2, _changed(2, lambda dbias, dy, x, weight: weight * dbias),
     "dbias contains the weight: the bias is added after it, so dbias is the sum of dy"),
)
_BACKWARD_CASES = (((8, 3), 0.3, 1.0, 0.5), ((5, 1), 0.1, 0.2, 3.0), ((3, 3), 1e-5, 1.0, 0.0), ((2, 4), 0.5, 2.0, -3.0),
                   ((16, 2), 1e-3, 1e-2, 0.0), ((7, 5), 1e-5, 10.0, 100.0))


def check_backward(student) -> None:
    for number, (shape, eps, scale, offset) in enumerate(_BACKWARD_CASES):
        x, weight, _ = case(shape, scale, offset, seed=number)
        dy = torch.randn(shape, generator=torch.Generator().manual_seed(100 + number), dtype=x.dtype) + 0.3
        with torch.no_grad():  # to write it down is the exercise; autograd would have to be switched on again
            found = call(student, dy, x, weight, eps)
        require(isinstance(found, (tuple, list)) and len(found) == 3,
                "your function returns one thing, or not three; expected the tuple (dx, dweight, dbias)")
        wanted = batch_norm_backward_solution(dy, x, weight, eps)
        wrong = {message: answer(dy, x, weight, eps) for answer, message in _BACKWARD.values()}
        where = f"[N, C] = {list(shape)}, eps = {eps}"
        for part, name in ((2, "dbias"), (1, "dweight"), (0, "dx")):
            mistakes = {message: answer[part] for message, answer in wrong.items()}
            mistakes |= {message: answer(dy, x, weight, eps)[part] for at, answer, message in _ALSO if at == part}
            close(found[part], wanted[part], where, what=name, mistakes=mistakes)


BACKWARD = Spec(
    id="1.2", title="the backward pass of batch norm",
    task="Given `dy = dF/dy`, return `(dx, dweight, dbias)` for `[N, C]`, by the formulas of section 3 and without "
         "autograd.",
    stub=batch_norm_backward, reference=batch_norm_backward_solution, check=check_backward,
    hints=("Compute `sigma` and `xhat` again, as in the forward pass. dbias and dweight are sums over the batch.",
           "The gradient at xhat is `g = weight * dy`. From it, take away its mean, and its part along xhat.",
           "`dx = (g - mean(g) - xhat * mean(g * xhat)) / sigma`, with means over the batch."),
    mutants={name: Mutant(answer, message) for name, (answer, message) in _BACKWARD.items()},
    why="Read the last line as geometry: what points along the vector of ones, or along xhat, is taken out (exactly, "
        "if eps is 0), and what is left is divided by sigma. It costs one more pass over the batch than constant "
        "statistics would.")
