"""The three effects together are the probes one by one, and in scale-free units they do not see the weights' scale."""

import copy

import pytest
import torch
import torch.nn.functional as F

from cbn_lab import data, models
from cbn_lab.probes import curvature, gradients
from cbn_lab.probes.effects import three_effects


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train").subset(slice(600))


def net(placement="before", **options):
    torch.manual_seed(0)
    return models.build("mlp", num_classes=10, in_channels=1, image_size=8, placement=placement, width=6, depth=2,
                        norm_options=options).double()


def batches(dataset, **options):
    return gradients.draw(dataset, batch_size=16, dtype=torch.float64, **options)


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_it_is_the_probes_one_by_one(digits, statistics):
    model, drawn = net(), list(batches(digits))
    found = three_effects(model, F.cross_entropy, iter(drawn), statistics=statistics)
    top = curvature.lambda_max(model, F.cross_entropy, drawn[0], statistics=statistics)
    moments = gradients.moments(model, F.cross_entropy, drawn, statistics=statistics)
    assert (found.curvature, found.gradients) == (top, moments)
    for one, value, of in ((found.raw, top.value, moments.raw), (found.scale_free, top.scale_free, moments.scale_free)):
        assert one.L == value and one.second == of.second and one.variance == of.variance
        assert one.penalty.value == pytest.approx(value * of.second.value)
        assert one.penalty.low < one.penalty.value < one.penalty.high
    assert found.gradient_evaluations == top.gradient_evaluations + len(drawn)
    for said in ("(i) The largest eigenvalue", "(ii), (iii) Gradient of", f"{statistics} statistics"):
        assert said in str(found)


def test_another_batch_for_the_curvature(digits):
    model, other = net(), next(batches(digits, seed=9, count=1))
    found = three_effects(model, F.cross_entropy, batches(digits), statistics="batch", curvature_batch=other)
    assert found.raw.L == curvature.lambda_max(model, F.cross_entropy, other, statistics="batch").value


def test_scale_free_effects_do_not_see_the_scale_of_weights_before_norms(digits):
    model = net(eps=1e-14)
    ten = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in ten.named_parameters():
            if name.endswith(".weight.weight"):
                parameter.mul_(10)
    one, other = (three_effects(m, F.cross_entropy, batches(digits), statistics="batch") for m in (model, ten))
    assert other.scale_free.L == pytest.approx(one.scale_free.L, rel=1e-5)
    for of in ("second", "variance", "penalty"):
        pair = [getattr(found.scale_free, of).value for found in (one, other)]
        assert pair[1] == pytest.approx(pair[0], rel=1e-5), of
    assert other.raw.second.value < 0.9 * one.raw.second.value


def test_too_few_batches_cost_nothing(digits):
    with pytest.raises(ValueError, match="at least 50"):
        three_effects(net(), F.cross_entropy, batches(digits, count=3), statistics="batch")
