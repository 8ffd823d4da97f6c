"""A loss that autograd cannot follow back to the model is named by every probe that takes a gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import models
from cbn_lab.probes import curvature, depth, effects, gradients, inputs, landscape, layers, shift
from cbn_lab.probes._frozen import frozen

PROBES = {
    "hessian": lambda net, loss: curvature.lambda_max(net, loss, a_batch(), statistics="batch"),
    "gauss_newton": lambda net, loss: curvature.gauss_newton_max(net, loss, a_batch(), statistics="batch"),
    "trace": lambda net, loss: curvature.trace(net, loss, a_batch(), statistics="batch", products=2),
    "depth": lambda net, loss: depth.profile(net, loss, a_batch(), statistics="batch"),
    "effects": lambda net, loss: effects.three_effects(net, loss, batches(), statistics="batch"),
    "gradients": lambda net, loss: gradients.moments(net, loss, batches(), statistics="batch"),
    "inputs": lambda net, loss: inputs.of_layers(net, loss, a_batch(), statistics="batch"),
    "landscape": lambda net, loss: landscape.probe(net, loss, a_batch(), statistics="batch", steps=[0.1]),
    "layers": lambda net, loss: layers.summary(net, loss, a_batch(), statistics="batch"),
    "shift": lambda net, loss: shift.internal(net, loss, a_batch(), statistics="batch", step=0.1),
}


def a_net():
    torch.manual_seed(0)
    return models.build("mlp", num_classes=3, in_channels=1, image_size=2, placement="before", width=4, depth=1)


def a_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 1, 2, 2, generator=generator), torch.arange(8) % 3


def batches():
    return [a_batch(seed) for seed in range(50)]


def under_no_grad(outputs, labels):
    with torch.no_grad():
        return F.cross_entropy(outputs, labels)


@pytest.mark.parametrize("loss_fn", [
    lambda outputs, labels: F.cross_entropy(outputs.detach(), labels),
    lambda outputs, labels: torch.tensor(F.cross_entropy(outputs, labels).item()),
    lambda outputs, labels: (outputs.argmax(1) != labels).float().mean(), under_no_grad,
], ids=["detach", "item", "argmax", "no_grad"])
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_a_loss_that_is_cut_off_is_named(probe, loss_fn):
    net = a_net()
    with pytest.raises(ValueError, match=r"cut off from the model.*with torch alone: no \.detach"):
        probe(net, loss_fn)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_a_loss_with_a_graph_is_measured(probe):
    probe(a_net(), F.cross_entropy)


def test_a_loss_without_a_graph_can_still_be_evaluated():
    with frozen(a_net(), statistics="batch") as probe:
        _, wrong = probe.outputs_and_loss(lambda outputs, labels: (outputs.argmax(1) != labels).float().mean(),
                                          a_batch())
    assert 0 <= wrong <= 1


def test_a_loss_of_the_weights_alone_has_no_gauss_newton_matrix():
    net = a_net()

    def penalty(outputs, labels):
        return sum(p.square().sum() for p in net.parameters())

    assert curvature.gauss_newton_max(net, penalty, a_batch(), statistics="batch").value == 0


def test_inputs_of_frozen_layers_have_gradients_too():
    net, batch = a_net(), a_batch()
    expected = inputs.of_layers(net, F.cross_entropy, batch, statistics="batch")
    first = next(m for m in net.modules() if isinstance(m, nn.Linear))
    first.requires_grad_(False)
    found = inputs.of_layers(net, F.cross_entropy, batch, statistics="batch")
    assert found.keys() == expected.keys() and not first.weight.requires_grad
    assert all((found[k].delta == expected[k].delta).all() for k in found)
