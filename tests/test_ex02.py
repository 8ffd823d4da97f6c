"""Answers to the exercises of notebook 02 that are not among their mutants: right ones in another style, wrong ones."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from cbn_lab.exercises import _ex02_probes, ex02
from cbn_lab.exercises.grading import grade

SPECS = {spec.id: spec for spec in ex02.EXERCISES}
MORE = {"2.1": _ex02_probes.MORE_SHIFT, "2.2": ex02.MORE_THROUGH, "2.3": _ex02_probes.MORE_SMOOTH,
        "2.4": ex02.MORE_GROWTH}


@pytest.mark.parametrize(("id", "name"), [(id, name) for id, mistakes in MORE.items() for name in mistakes])
def test_further_mistakes_are_named(id, name):
    said, wrong = MORE[id][name]
    card = grade(SPECS[id], wrong)
    assert (card.outcome, card.message) == ("wrong", said)


def _shift_with_numpy(gradient, layers, step):
    start, weights, shifts = gradient(layers), list(layers), []
    for i, g in enumerate(start):
        shifts.append(np.linalg.norm((gradient(weights)[i] - g).numpy()))
        weights[i] = weights[i] - step * g
    return np.array(shifts)


def _by_autograd(z, above, gamma):
    z = z.clone().requires_grad_()
    y = gamma * (z - z.mean(0)) / z.var(0, correction=0).sqrt()
    return torch.autograd.grad(y, z, above)[0].square().sum(0)


def _in_float32(z, above, gamma):
    return _by_autograd(z.float(), above.float(), gamma.float())


def _with_vector_norms(gradient, w, steps):
    g, found = gradient(w), []
    for s in steps:
        end = w.clone().sub_(g, alpha=s)
        found.append(torch.linalg.vector_norm(gradient(end) - g) / torch.linalg.vector_norm(end - w))
    return torch.stack(found).amax()


def _exact_fractions(slope):
    a = Fraction(slope)
    return 1 / (1 - float((1 - a) ** 2 / (1 + a**2)) / math.pi)


@pytest.mark.parametrize(("id", "answer"), [
    ("2.1", _shift_with_numpy), ("2.2", _by_autograd), ("2.2", _in_float32), ("2.3", _with_vector_norms),
    ("2.4", _exact_fractions)])
def test_right_answers_in_another_style_are_accepted(id, answer):
    assert grade(SPECS[id], answer).outcome == "correct"


def _all_gradients(gradient, layers, step):
    start, weights, shifts = gradient(layers), list(layers), []
    for i in range(len(layers)):
        shifts.append(sum((a - b).norm() for a, b in zip(gradient(weights), start, strict=True)))
        weights[i] = weights[i] - step * start[i]
    return shifts


def _one_line_of_curvature(gradient, w, steps):
    g = gradient(w)
    return max(float(((g - gradient(w - s * g)) * g).sum() / (s * (g * g).sum())) for s in steps)


@pytest.mark.parametrize(("id", "answer"), [
    ("2.1", _all_gradients), ("2.3", _one_line_of_curvature),
    ("2.2", lambda z, above, gamma: ex02._with_eps(z, above, gamma, eps=1e-8)),
    ("2.4", lambda slope: 1 + (1 - slope) ** 2 / (math.pi - 1))])
def test_wrong_answers_that_nobody_listed_get_a_counter_example(id, answer):
    card = grade(SPECS[id], answer)
    assert card.outcome == "wrong" and "expected" in card.message and "got" in card.message
