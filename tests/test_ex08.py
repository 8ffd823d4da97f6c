"""The exercises of notebook 08: right answers in another style, and what their checks rest on."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import data, waits
from cbn_lab.bench import limits
from cbn_lab.bench.kernels import Kernel
from cbn_lab.bench.measure import ratio
from cbn_lab.exercises import cards, ex08, ex08_crops, ex08_gain, ex08_half, ex08_limits, ex08_moments
from cbn_lab.exercises.grading import grade


def _loop_arguments():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    batches = [(torch.randn(5, 3, 2, 2), torch.randint(3, (5,))) for _ in range(2)]
    return model, batches, torch.optim.SGD(model.parameters(), 0.1)


def test_the_loops_waiting_lines_are_those_that_read_values(capsys):
    assert set(waits.found(ex08.a_loop, *_loop_arguments())) == ex08.WAITS.reference


def test_every_line_of_the_loop_is_judged():
    lines = range(1, len(ex08._SOURCE) + 1)
    assert all(grade(ex08.WAITS, ex08.WAITS.reference ^ {line}).outcome == cards.WRONG for line in lines)
    assert all(f"line {line} " in grade(ex08.WAITS, ex08.WAITS.reference ^ {line}).message for line in lines)


def test_waits_are_counted_and_masks_are_seen():
    x = torch.arange(4.0)
    assert waits.count(lambda: x.sum().item()) == 1 and waits.count(lambda: x[x > 1]) == 1
    assert waits.count(lambda: x[torch.tensor([1, 2])] + x[2:]) == 0


@pytest.mark.parametrize("answer", [[8, 13, 16], (7, 8, 99), "7", {"a"}, {}])
def test_odd_answers_get_a_sentence(answer):
    assert grade(ex08.WAITS, answer).outcome == cards.WRONG


def _crops_by_the_library(images, dy, dx, flip, pad):
    source = data.Dataset(images, torch.zeros(len(images)), ("a",), (0.0,), (1.0,), "")
    return data.augmented_batch(source, torch.arange(len(images)), data.Augmentation(dy, dx, flip, pad))


def _moments_by_chan(x, all_sum):
    """Count, mean and M2 of each rank; one sum makes the first two joint, one more the third."""
    n = len(x)
    own = x.sum(0) / max(n, 1)
    joint = all_sum(torch.cat([x.sum(0), torch.tensor([float(n)])]))
    mean = joint[:-1] / joint[-1]
    m2 = (x - own).square().sum(0) + n * (own - mean).square()
    return [mean, all_sum(m2) / joint[-1]]


def _limits_by_the_library(layers, values, peak, bandwidth):
    kernels = [Kernel("", "norm", operations * values, 2 * maps * values, 0) for operations, maps in layers]
    return sum(limits.least_seconds(kernel, 1, peak, bandwidth) for kernel in kernels)


def _gain_by_the_library(before, after):
    ratios = np.array(before) / np.array(after)
    return [ratio({"before": before, "after": after}, "before", "after"), ratios.min(), ratios.max()]


def _half_norm_by_torch(x, running_mean, momentum=0.1, eps=1e-5):
    running = running_mean.clone()
    return F.batch_norm(x, running, torch.ones_like(running), training=True, momentum=momentum, eps=eps), running


def _half_norm_in_float64(x, running_mean, momentum=0.1, eps=1e-5):
    wide = x.double()
    y = (wide - wide.mean(0)) / torch.sqrt(wide.var(0, correction=0) + eps)
    return y.to(x.dtype), ((1 - momentum) * running_mean + momentum * wide.mean(0)).float()


def _limits_by_the_roofline(layers, values, peak, bandwidth):
    return sum(values * operations / min(peak, bandwidth * operations / (2 * maps)) for operations, maps in layers)


def _half_norm_naive(x, running_mean, momentum=0.1, eps=1e-5):
    """What many write first: nothing is converted, and torch promotes where it has to."""
    mean = x.mean(0)
    y = (x - mean) / torch.sqrt(x.var(0, correction=0) + eps)
    return y, (1 - momentum) * running_mean + momentum * mean


def _gain_of_medians(before, after):
    """Medians, and a range of the fastest and slowest rounds: no number of it is a ratio within a round."""
    return np.median(before) / np.median(after), min(before) / min(after), max(before) / max(after)


@pytest.mark.parametrize(("spec", "answer"), [
    pytest.param(ex08_limits.LIMITS, _limits_by_the_roofline, id="limits by the roofline"),
    pytest.param(ex08_limits.LIMITS, _limits_by_the_library, id="the library's limits"),
    pytest.param(ex08_gain.GAIN, _gain_by_the_library, id="the library's ratio"),
    pytest.param(ex08_half.HALF, _half_norm_by_torch, id="torch's batch norm"),
    pytest.param(ex08_half.HALF, _half_norm_in_float64, id="a norm in float64"),
    pytest.param(ex08.WAITS, sorted(ex08.WAITS.reference), id="waits as a list"),
    pytest.param(ex08_crops.CROPS, _crops_by_the_library, id="the library's crops"),
    pytest.param(ex08_moments.MOMENTS, _moments_by_chan, id="moments by Chan's formula"),
    pytest.param(ex08.WEIGHT, lambda mine, total, ranks: torch.tensor(mine / (total / ranks)), id="weight")])
def test_another_style_is_right(spec, answer):
    card = grade(spec, answer)
    assert card.correct, card


def test_ranks_see_sums_of_all_shares():
    shares = [torch.tensor([[1.0]]), torch.tensor([[2.0], [4.0]])]
    assert ex08_moments.on_ranks(lambda x, all_sum: float(all_sum(all_sum(x.sum(0)) * len(x))), shares) == [21.0, 21.0]


@pytest.mark.parametrize(("answer", "said"), [
    (lambda x, all_sum: (all_sum(x), all_sum(x)), "different shapes"),
    (lambda x, all_sum: [all_sum(x.sum(0)) for _ in range(9)], "more than 8 sums"),
    (lambda x, all_sum: all_sum(x.sum(0)), "expected (mean, variance)")])
def test_what_processes_would_hang_on_is_named(answer, said):
    card = grade(ex08_moments.MOMENTS, answer)
    assert card.outcome == cards.WRONG and said in card.message, card


@pytest.mark.parametrize(("spec", "answer", "said"), [
    (ex08_half.HALF, ex08_half._all_in_half, "the batch's mean that it takes in was"),
    (ex08_half.HALF, _half_norm_naive, "the batch's mean that it takes in was"),
    (ex08_half.HALF, lambda x, running, momentum=0.1, eps=1e-5: x, "expected (y, the new running mean)"),
    (ex08_half.HALF, lambda x, running, momentum=0.1, eps=1e-5: ("y", running), "y is str and x bfloat16"),
    (ex08_half.HALF, lambda x, running, momentum=0.1, eps=1e-5: (x[:1], running), "shape"),
    (ex08_gain.GAIN, lambda before, after: 2.0, "expected three numbers"),
    (ex08_gain.GAIN, lambda before, after: (9.0, 1.0, 2.0), "expected"),
    (ex08_gain.GAIN, _gain_of_medians, "the ratio of two medians"),
    (ex08.WAITS, {7.5}, "whole number"),
    (ex08_limits.LIMITS, lambda layers, values, peak, bandwidth: float("nan"), "expected a finite number"),
    (ex08_limits.LIMITS, lambda layers, values, peak, bandwidth: 7.0, "layers = [(10, 6)]")])
def test_other_wrong_answers_get_a_sentence(spec, answer, said):
    card = grade(spec, answer)
    assert card.outcome == cards.WRONG and said in card.message, card


def test_the_weight_makes_the_mean_gradient_of_ranks_that_of_the_batch():
    torch.manual_seed(1)
    x, w = torch.randn(7, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64, requires_grad=True)
    shares = x.split([4, 0, 3])
    (whole,) = torch.autograd.grad((x @ w).tanh().mean(), w)
    mean = 0
    for share in shares:
        loss = (share @ w).tanh().sum() / max(len(share), 1)
        mean = mean + torch.autograd.grad(loss * ex08._share_weight(len(share), 7, 3), w)[0] / 3
    torch.testing.assert_close(mean, whole)
