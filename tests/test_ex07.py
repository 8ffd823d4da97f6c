"""Mistakes in the exercises of notebook 07 that its checks name beside the listed mutants, and right answers."""

import numpy as np
import pytest
import torch
from torch import nn

from cbn_lab import activations, blocks, models, norms
from cbn_lab.exercises import cards, ex07, ex07_placement
from cbn_lab.exercises.grading import grade


@pytest.mark.parametrize("name", ex07_placement._FURTHER)
def test_further_mistake_is_named(name):
    said, wrong = ex07_placement._FURTHER[name]
    assert grade(ex07_placement.PLACEMENT, wrong).message == said


def test_a_seed_that_only_one_arm_has_is_named():
    card = grade(ex07.GAP, lambda ours, theirs: ex07._gap(ours, {seed: theirs[seed] for seed in ours}))
    assert card.outcome == cards.WRONG and "only one of the two has (4)" in card.message


def _gap_in_torch(ours, theirs):
    d = torch.tensor([theirs[s] - ours[s] for s in ours.keys() & theirs.keys()], dtype=torch.float64)
    return torch.stack([d.mean(), d.std() / len(d) ** 0.5])


def _growth_by_logarithms(squared):
    return np.exp(np.mean(-np.diff(np.log(squared))))


def _two_by_formula(z, eps=1e-5):
    return (z - z.mean(0)) / np.sqrt(z.var(0) + eps)


def _two_in_float32(z, eps=1e-5):
    return nn.functional.batch_norm(torch.tensor(z, dtype=torch.float32), None, None, training=True, eps=eps)


def _with_modules(weight, activation, options):
    kind = nn.BatchNorm2d if isinstance(weight, nn.Conv2d) else nn.BatchNorm1d
    c_out, c_in = weight.weight.shape[:2]
    return blocks.Parts(weight=weight, norm_in=kind(c_in, **options), norm=kind(c_out, **options),
                        activation=activations.module(activation))


@pytest.mark.parametrize(("spec", "answer"), [
    pytest.param(ex07.GAP, _gap_in_torch, id="gap"), pytest.param(ex07.GROWTH, _growth_by_logarithms, id="growth"),
    pytest.param(ex07.TWO, _two_by_formula, id="two"), pytest.param(ex07.TWO, _two_in_float32, id="two in float32"),
    pytest.param(ex07_placement.PLACEMENT, _with_modules, id="placement")])
def test_another_style_is_right(spec, answer):
    assert grade(spec, answer).correct


def test_the_solved_placement_works_in_a_whole_net(monkeypatch):
    monkeypatch.setattr(blocks, "_REGISTRY", dict(blocks._REGISTRY))
    blocks.register("around_weight", ex07_placement._around_weight, bias=False)
    net = models.build("convnet", num_classes=10, activation="tanh", placement="around_weight")
    assert sum(isinstance(layer, norms.BatchNorm2d | nn.BatchNorm2d) for layer in net.modules()) == 12
    assert net(torch.randn(4, 3, 32, 32)).shape == (4, 10)
