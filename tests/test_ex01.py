"""Answers to the exercises of notebook 01 that are not among their mutants: right ones in another style, wrong ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab.exercises import exercise
from cbn_lab.exercises.ex01 import EXERCISES
from cbn_lab.exercises.grading import grade


def outcome(id, answer):
    card = grade(exercise(id).spec, answer)
    return card.outcome, card.message


def _forward_by_matrices(x, weight, bias, eps):
    """Channels in rows, statistics by matrix products, affine map by einsum."""
    rows = x.movedim(1, 0).flatten(1)
    n = rows.shape[1]
    centred = rows @ (torch.eye(n, dtype=x.dtype) - 1 / n)
    xhat = centred * (centred.pow(2).sum(1, keepdim=True) / n + eps) ** -0.5
    y = torch.einsum("c,cn->cn", weight, xhat) + bias[:, None]
    return y.reshape(x.movedim(1, 0).shape).movedim(0, 1)


def _forward_in_float64(x, weight, bias, eps):
    var, mean = torch.var_mean(x.double(), [0, *range(2, x.dim())], correction=0, keepdim=True)
    shape = [1, -1] + [1] * (x.dim() - 2)
    return (((x - mean) / (var + eps) ** 0.5) * weight.reshape(shape) + bias.reshape(shape)).to(x.dtype)


def _backward_by_jacobian(dy, x, weight, eps):
    n, c = x.shape
    dx = torch.empty_like(x)
    sigma = ((x - x.mean(0)).pow(2).mean(0) + eps) ** 0.5
    xhat = (x - x.mean(0)) / sigma
    for j in range(c):
        jacobian = (np.eye(n) - 1 / n - np.outer(xhat[:, j], xhat[:, j]) / n) / sigma[j].item()
        dx[:, j] = torch.from_numpy(jacobian) @ dy[:, j] * weight[j]
    return [dx, torch.einsum("nc,nc->c", dy, xhat), dy.T @ torch.ones(n, dtype=x.dtype)]


def _update_by_data(running_mean, running_var, x, momentum):
    values = x.detach().movedim(1, -1).reshape(-1, x.shape[1])
    running_mean *= 1 - momentum
    running_mean += momentum * values.mean(0)
    unbiased = ((values - values.mean(0)) ** 2).sum(0) / (len(values) - 1)
    running_var[:] = (1 - momentum) * running_var + momentum * unbiased
    return running_mean, running_var


def _merge_by_shares(a, b):
    n = a[0] + b[0]
    mean = (a[0] / n) * a[1] + (b[0] / n) * b[1]
    return n, mean, a[2] + b[2] + a[0] * (a[1] - mean) ** 2 + b[0] * (b[1] - mean) ** 2


class _ByTorch(nn.BatchNorm1d):
    """torch's own kernel under the constructor of the exercise."""

    def __init__(self, num_features, dims, eps=1e-5, momentum=0.1):
        super().__init__(num_features, eps, momentum)

    def _check_input_dim(self, input):
        pass


@pytest.mark.parametrize(("id", "answer"), [
    ("1.1", _forward_by_matrices), ("1.1", _forward_in_float64), ("1.2", _backward_by_jacobian),
    ("1.3", _update_by_data), ("1.4", 7.0), ("1.4", torch.tensor(7)), ("1.5", _merge_by_shares), ("1.6", _ByTorch),
], ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_right_answer_in_another_style_is_accepted(id, answer):
    assert outcome(id, answer)[0] == "correct", outcome(id, answer)


def _forward(change):
    def answer(x, weight, bias, eps):
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        return change(x, x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True), weight.view(shape),
                      bias.view(shape), eps)

    return answer


_WRONG = {
    "eps fixed": ("1.1", _forward(lambda x, m, v, w, b, eps: w * (x - m) / (v + 1e-5).sqrt() + b)),
    "clamped": ("1.1", _forward(lambda x, m, v, w, b, eps: w * ((x - m) / (v + eps).sqrt()).clamp(-3, 3).relu() + b)),
    "absolute weight": ("1.1", _forward(lambda x, m, v, w, b, eps: w.abs() * (x - m) / (v + eps).sqrt() + b)),
    "weight detached": ("1.1", _forward(lambda x, m, v, w, b, eps: w.detach() * (x - m) / (v + eps).sqrt() + b)),
    "mean of the absolute values": ("1.1", _forward(lambda x, m, v, w, b, eps: w * (x - m) / ((x - m).abs().mean(
        [0, *range(2, x.dim())], keepdim=True) ** 2 + eps).sqrt() + b)),
    "features only": ("1.1", lambda x, weight, bias, eps: weight * (x - x.mean(0)) / (
        x.var(0, correction=0) + eps).sqrt() + bias),
    "in numpy": ("1.1", lambda x, weight, bias, eps: x.numpy()),
    "dx alone": ("1.2", lambda dy, x, weight, eps: dy),
    "dx of layer norm": ("1.2", lambda dy, x, weight, eps: (dy - dy.mean(1, keepdim=True), dy.sum(0), dy.sum(0))),
    "by autograd without leaves": ("1.2", lambda dy, x, weight, eps: (*torch.autograd.grad(
        (F.batch_norm(x, None, None, weight, training=True, eps=eps) * dy).sum(), (x, weight)), dy.sum(0))),
    "x is changed": ("1.3", lambda m, v, x, momentum: (x.mul_(2), v)),
    "no batch": ("1.3", lambda m, v, x, momentum: (m, v)),
    "clipped momentum": ("1.3", lambda m, v, x, momentum: exercise("1.3").spec.reference(m, v, x, min(momentum, 0.5))),
    "minus seven": ("1.4", -7), "seven and a half": ("1.4", 7.5), "text": ("1.4", "7"),
    "infinite": ("1.4", float("inf")),
    "list for a number": ("1.4", [7, 8]),
    "first part alone": ("1.5", lambda a, b: a),
    "empty part refused": ("1.5", lambda a, b: exercise("1.5").spec.reference(a, b) if b[0] else (0, *b[1:])),
    "list for a dictionary": ("1.7", ["axes"]),
    "lower case": ("1.7", {"a": "axes"}), "a list for a row": ("1.7", dict.fromkeys("ABCDEFGHIJ", ["axes"])),
}


def _xhat(x, eps):
    sigma = (x.var(0, correction=0) + eps).sqrt()
    return (x - x.mean(0)) / sigma, sigma


def _backward(change):
    """The right answer with a part changed: change(dx, dweight, dbias, dy, x, weight, xhat, sigma)."""
    def answer(dy, x, weight, eps):
        return change(*exercise("1.2").spec.reference(dy, x, weight, eps), dy, x, weight, *_xhat(x, eps))

    return answer


def _update(stored):
    def answer(running_mean, running_var, x, momentum):
        old = running_mean.clone()
        exercise("1.3").spec.reference(running_mean, running_var.clone(), x, momentum)
        running_var.lerp_(stored(x.movedim(1, -1).reshape(-1, x.shape[1]), old, running_mean), momentum)
        return running_mean, running_var

    return answer


def _all_channels(running_mean, running_var, x, momentum):
    running_mean.copy_((1 - momentum) * running_mean + momentum * x.mean())
    running_var.copy_((1 - momentum) * running_var + momentum * x.var())
    return running_mean, running_var


def _merge(change):
    def answer(a, b):
        return change(*a, *b, a[0] + b[0], b[1] - a[1])

    return answer


_NAMED = {  # frequent mistakes that are no mutants: the message still says what was done
    "std plus eps": ("1.1", _forward(lambda x, m, v, w, b, eps: w * (x - m) / (x.std(
        [0, *range(2, x.dim())], keepdim=True) + eps) + b), "outside the root"),
    "std": ("1.1", _forward(lambda x, m, v, w, b, eps: w * (x - m) / x.std([0, *range(2, x.dim())], keepdim=True) + b),
            "eps is missing"),
    "sum": ("1.1", _forward(lambda x, m, v, w, b, eps: w * (x - m) / (v * x.numel() / x.shape[1] + eps).sqrt() + b),
            "not divided by n"),
    "n counts images": ("1.1", _forward(lambda x, m, v, w, b, eps: w * (x - m) / (
        v * x.numel() / x.shape[1] / len(x) + eps).sqrt() + b), "number of images"),
    "root mean square": ("1.1", _forward(lambda x, m, v, w, b, eps: w * (x - m) / (v + m**2 + eps).sqrt() + b),
                         "mean of x^2"),
    "reshaped": ("1.1", lambda x, weight, bias, eps: exercise("1.1").spec.reference(
        x.reshape(-1, x.shape[1]), weight, bias, eps).reshape(x.shape), "mixes the channels"),
    "not centred": ("1.1", _forward(lambda x, m, v, w, b, eps: w * x / (v + eps).sqrt() + b), "mean is not subtracted"),
    "no weight": ("1.1", _forward(lambda x, m, v, w, b, eps: (x - m) / (v + eps).sqrt() + b), "weight is not applied"),
    "no bias": ("1.1", _forward(lambda x, m, v, w, b, eps: w * (x - m) / (v + eps).sqrt()), "bias is not added"),
    "mean detached": ("1.1", _forward(lambda x, m, v, w, b, eps: w * (x - m.detach()) / (v + eps).sqrt() + b),
                      "flow through the mean:"),
    "variance detached": ("1.1", _forward(lambda x, m, v, w, b, eps: w * (x - m) / (v.detach() + eps).sqrt() + b),
                          "flow through the variance:"),
    "torch's own": ("1.1", lambda x, weight, bias, eps: F.batch_norm(x, None, None, weight, bias, True, 0.1, eps),
                    "torch's own batch norm"),
    "weight twice": ("1.2", _backward(lambda dx, dw, db, dy, x, w, xhat, s: (w * dx, dw, db)), "weight twice"),
    "weight first": ("1.2", _backward(lambda dx, dw, db, dy, x, w, xhat, s: (
        (w * dy - dy.mean(0) - xhat * (dy * xhat).mean(0)) / s, dw, db)), "first term of dx alone"),
    "weight not last": ("1.2", _backward(lambda dx, dw, db, dy, x, w, xhat, s: (
        (w * dy - w * dy.mean(0) - xhat * (dy * xhat).mean(0)) / s, dw, db)), "missing in the last term"),
    "sigma twice": ("1.2", _backward(lambda dx, dw, db, dy, x, w, xhat, s: (dx / s, dw, db)), "divided by sigma twice"),
    "plus mean": ("1.2", _backward(lambda dx, dw, db, dy, x, w, xhat, s: (dx + 2 * w * dy.mean(0) / s, dw, db)),
                  "mean of g has the wrong sign"),
    "over channels": ("1.2", _backward(lambda dx, dw, db, dy, x, w, xhat, s: (
        (w * dy - (w * dy).mean(1)[:, None] - xhat * (w * dy * xhat).mean(1)[:, None]) / s, dw, db)),
        "over the channels"),
    "x - mean for xhat": ("1.2", _backward(lambda dx, dw, db, dy, x, w, xhat, s: (
        (w * dy - w * dy.mean(0) - (x - x.mean(0)) * (w * dy * xhat).mean(0)) / s, dw, db)), "x - mean where xhat"),
    "weight in dweight": ("1.2", _backward(lambda dx, dw, db, dy, x, w, xhat, s: (dx, w * dw, db)), "dweight contains"),
    "mean in dweight": ("1.2", _backward(lambda dx, dw, db, dy, x, w, xhat, s: (dx, dw / len(x), db)),
                        "dweight is the mean"),
    "sigma not in dweight": ("1.2", _backward(lambda dx, dw, db, dy, x, w, xhat, s: (dx, s * dw, db)),
                             "dweight is the sum of dy * (x - mean)"),
    "weight in dbias": ("1.2", _backward(lambda dx, dw, db, dy, x, w, xhat, s: (dx, dw, w * db)), "dbias contains"),
    "corrected twice": ("1.3", _update(lambda x, old, new: x.var(0) * len(x) / (len(x) - 1)), "counts twice"),
    "around the running mean": ("1.3", _update(lambda x, old, new: (x - new).square().sum(0) / (len(x) - 1)),
                                "around the running mean"),
    "all channels": ("1.3", _all_channels, "all channels share"),
    "exchanged": ("1.3", lambda *given: exercise("1.3").spec.reference(*given)[::-1], "wrong order"),
    "away": ("1.5", _merge(lambda na, a, sa, nb, b, sb, n, d: (n, a - d * nb / n, sa + sb + d**2 * na * nb / n)),
             "wrong way"),
    "from b": ("1.5", _merge(lambda na, a, sa, nb, b, sb, n, d: (n, b + d * nb / n, sa + sb + d**2 * na * nb / n)),
               "from mean_a"),
    "one side": ("1.5", _merge(lambda na, a, sa, nb, b, sb, n, d: (n, a + d * nb / n, sa + sb + na * (d * nb / n)**2)),
                 "one part alone"),
    "n squared": ("1.5", _merge(lambda na, a, sa, nb, b, sb, n, d: (
        n, a + d * nb / n, sa + sb + d**2 * na * nb / n**2)), "too small by n"),
    "sample variance": ("1.5", _merge(lambda na, a, sa, nb, b, sb, n, d: (
        n, a + d * nb / n, (sa + sb + d**2 * na * nb / n) / (n - 1))), "variance over n - 1"),
}


@pytest.mark.parametrize("name", _NAMED)
def test_a_frequent_mistake_outside_the_mutants_is_named(name):
    id, answer, said = _NAMED[name]
    assert outcome(id, answer)[0] == "wrong" and said in outcome(id, answer)[1], outcome(id, answer)


@pytest.mark.parametrize("name", _WRONG)
def test_a_wrong_answer_outside_the_mutants_is_not_accepted(name):
    id, answer = _WRONG[name]
    assert outcome(id, answer)[0] in ("wrong", "error in your code") and outcome(id, answer)[1]


class _NoEval(exercise("1.6").spec.reference):
    def forward(self, x):
        return super().forward(x) if self.training else x


class _NoCounter(exercise("1.6").spec.reference):
    def forward(self, x):
        count = self.num_batches_tracked.clone()
        y = super().forward(x)
        self.num_batches_tracked.copy_(count)
        return y


class _NoSequences(exercise("1.6").spec.reference):
    def forward(self, x):
        return super().forward(x) if x.dim() != 3 else super().forward(x.unsqueeze(-1).expand(-1, -1, -1, 2))[..., 0]


class _RefusesOneImage(exercise("1.6").spec.reference):
    def forward(self, x):
        if self.training and len(x) == 1:
            raise ValueError("a batch of one")
        return super().forward(x)


class _CountsImages(exercise("1.6").spec.reference):
    def forward(self, x):
        self.num_batches_tracked += (len(x) - 1) * self.training
        return super().forward(x)


class _RunningInTrain(exercise("1.6").spec.reference):
    def forward(self, x):
        y = super().forward(x)
        if self.training:
            y = self.eval()(x)
            self.train()
        return y


class _NoEpsInEval(exercise("1.6").spec.reference):
    def forward(self, x):
        eps = self.eps
        self.eps = eps * self.training
        y = super().forward(x)
        self.eps = eps
        return y


class _CorrectsByImages(exercise("1.6").spec.reference):
    def forward(self, x):
        n, images, before = x.numel() // x.shape[1], len(x), self.running_var.clone()
        y = super().forward(x)
        if self.training and images > 1:
            batch = (self.running_var - (1 - self.momentum) * before) * (n - 1) / n * images / (images - 1)
            self.running_var.copy_((1 - self.momentum) * before + batch)
        return y


class _NoAffineMap(exercise("1.6").spec.reference):
    def forward(self, x):
        shape = [1, -1] + [1] * (x.dim() - 2)
        return (super().forward(x) - self.bias.view(shape)) / self.weight.view(shape)


class _NoAffineMapInEval(_NoAffineMap):
    def forward(self, x):
        return exercise("1.6").spec.reference.forward(self, x) if self.training else super().forward(x)


class _KerasDefaults(exercise("1.6").spec.reference):
    def __init__(self, num_features, dims, eps=1e-3, momentum=0.01):
        super().__init__(num_features, dims, eps, momentum)


class _OtherNames(nn.Module):
    def __init__(self, num_features, dims, eps=1e-5, momentum=0.1):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(num_features))

    def forward(self, x):
        return x


@pytest.mark.parametrize(("layer", "said"), [
    (_NoEval, "eval mode"), (_NoCounter, "num_batches_tracked"), (_NoSequences, "running_var"),
    (_OtherNames, "weight"), (_RefusesOneImage, "single image"), (_CountsImages, "not for each image"),
    (_RunningInTrain, "after their update"), (_NoEpsInEval, "eps is missing in eval"),
    (_CorrectsByImages, "number of images"), (_NoAffineMap, "bias are not applied"),
    (_NoAffineMapInEval, "not applied in eval"), (_KerasDefaults, "default of eps")])
def test_a_wrong_layer_outside_the_mutants_is_named(layer, said):
    assert outcome("1.6", layer)[0] == "wrong" and said in outcome("1.6", layer)[1]


def test_there_are_mutants_enough_and_each_has_a_message_of_its_own():
    for spec in EXERCISES:
        messages = [outcome(spec.id, mutant.answer)[1] for mutant in spec.mutants.values()]
        assert 5 <= len(messages) <= 12 and len(set(messages)) == len(messages), spec.id
