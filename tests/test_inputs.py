"""Inputs and gradients of the weight layers: their products are autograd's gradients, and the model stays as it was."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import models
from cbn_lab.probes import inputs
from cbn_lab.theory import layer


def _batch(*shape, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return images, torch.randint(classes, shape[:1], generator=generator)


@pytest.mark.parametrize("placement", ["none", "before", "after", "before_weight", "both", "complete"])
@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_the_mean_of_delta_h_is_the_gradient_of_the_weight(name, placement):
    torch.manual_seed(0)
    size = {"width": 9, "depth": 2} if name == "mlp" else {"widths": (4, 5), "strides": (1, 2)}
    model = models.build(name, num_classes=10, in_channels=2, image_size=6, activation="swish", placement=placement,
                         **size).double()
    batch = _batch(7, 2, 6, 6)
    found = inputs.of_layers(model, F.cross_entropy, batch, statistics="batch")
    weights = {k: m.weight for k, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert set(found) == set(weights)
    gradients = torch.autograd.grad(F.cross_entropy(model(batch[0]), batch[1]), list(weights.values()))
    for key, gradient in zip(weights, gradients, strict=True):
        mean = found[key].delta.T @ found[key].h / len(found[key].h)
        np.testing.assert_allclose(mean, gradient.flatten(1).numpy(), atol=1e-12)


def test_a_convolution_gives_a_row_per_patch():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1, dtype=torch.float64)
    model = nn.Sequential(conv, nn.Flatten(), nn.LazyLinear(4, dtype=torch.float64))
    images, labels = _batch(5, 2, 6, 6, classes=4)
    model(images)
    h = inputs.of_layers(model, F.cross_entropy, (images, labels), statistics="running")["0"].h
    assert h.shape == (5 * 3 * 3, 2 * 3 * 3)
    padded = F.pad(images, (1, 1, 1, 1))
    np.testing.assert_array_equal(h[9 + 3 + 2], padded[1, :, 2:5, 4:7].flatten())  # sample 1, pixel (1, 2)


def test_the_input_of_a_net_with_the_reconstruction_has_the_promised_trace():
    torch.manual_seed(0)
    model = models.build("mlp", num_classes=10, in_channels=1, image_size=8, activation="sigmoid", width=16).double()
    found = inputs.of_layers(model, F.cross_entropy, _batch(64, 1, 8, 8), statistics="batch")
    for key in list(found)[1:]:
        assert layer.measured(found[key].h).trace == pytest.approx(16, rel=1e-3)


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_the_model_is_left_as_it_was(statistics):
    torch.manual_seed(0)
    model = models.build("mlp", num_classes=10, in_channels=1, image_size=4, width=8, placement="before").double()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    batch = _batch(9, 1, 4, 4)
    one, other = (inputs.of_layers(model, F.cross_entropy, batch, statistics=s) for s in (statistics, "batch"))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks for m in model.modules())
    last = list(one)[-1]
    assert np.allclose(one[last].h, other[last].h) == (statistics == "batch")


def test_what_cannot_be_measured_is_refused():
    batch = _batch(4, 3, classes=2)
    line = nn.Linear(3, 3).double()
    with pytest.raises(ValueError, match="'0' is called twice"):
        inputs.of_layers(nn.Sequential(line, line), F.cross_entropy, batch, statistics="batch")
    assert not line._forward_hooks
    with pytest.raises(ValueError, match="no nn.Linear and no nn.Conv2d"):
        inputs.of_layers(nn.Sequential(nn.Tanh()), F.cross_entropy, batch, statistics="batch")
    with pytest.raises(TypeError, match="groups=3"):
        inputs.of_layers(nn.Sequential(nn.Conv2d(3, 3, 1, groups=3)), F.cross_entropy, batch, statistics="batch")
    with pytest.raises(ValueError, match="'0' does not reach the loss"):
        inputs.of_layers(nn.Sequential(line, _Detach(), nn.Linear(3, 2).double()), F.cross_entropy, batch,
                         statistics="batch")


class _Detach(nn.Module):
    def forward(self, x):
        return x.detach()
