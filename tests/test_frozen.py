"""What a probe may do to a model: nothing that remains."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import blocks, models
from cbn_lab.probes._frozen import frozen


def make(placement="complete", **options):
    torch.manual_seed(3)
    net = models.build("convnet", num_classes=3, image_size=6, placement=placement, widths=(4, 5), **options)
    net.append(nn.Dropout(0.5))
    return net.double()


def a_batch(n=6):
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(n, 3, 6, 6, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (n,), generator=generator))


def everything(net):
    """All that must not change: values and identities of tensors, gradients, modes, random state."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return ({name: (id(t), t.detach().clone(), t.requires_grad) for name, t in tensors.items()},
            {name: (id(p.grad), None if p.grad is None else p.grad.clone()) for name, p in net.named_parameters()},
            [module.training for module in net.modules()], torch.get_rng_state())


def spoil(net, batch):
    """Whatever a careless probe might do."""
    net(batch[0]).sum().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0).requires_grad_(False)
        for buffer in net.buffers():
            buffer.add_(1)
    net.train(not net.training)
    torch.manual_seed(99)


@pytest.mark.parametrize("placement, statistics, fails",
                         list(product(blocks.placements(), ("batch", "running"), (False, True))))
def test_everything_is_put_back(placement, statistics, fails):
    net, batch = make(placement), a_batch()
    net[0].eval()
    first, second = list(net.parameters())[:2]
    first.grad, own = torch.ones_like(first), torch.ones_like(first)
    second.requires_grad_(False)
    before = everything(net)
    if fails:
        with pytest.raises(ZeroDivisionError), frozen(net, statistics=statistics):
            spoil(net, batch)
            raise ZeroDivisionError
    else:
        with frozen(net, statistics=statistics):
            spoil(net, batch)
    torch.testing.assert_close(everything(net), before, rtol=0, atol=0)
    torch.testing.assert_close(first.grad, own)


def test_graphs_that_others_hold_survive_a_probe():
    net, batch = make(), a_batch()
    graph = net(batch[0]).square().sum()
    with frozen(net, statistics="batch") as probe:
        probe.loss(F.cross_entropy, batch).backward()
    assert all(p.grad is None for p in net.parameters())
    graph.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_running_statistics_stand_still_and_are_not_used_under_batch():
    net, batch = make(), a_batch()
    before = copy.deepcopy(dict(net.named_buffers()))
    with frozen(net, statistics="batch") as probe:
        losses = [probe.loss(F.cross_entropy, batch) for _ in range(2)]
    assert losses[0] == losses[1], "the dropout mask is the same at each call"
    torch.testing.assert_close(dict(net.named_buffers()), before, rtol=0, atol=0)
    with frozen(net, statistics="running") as probe:
        assert probe.loss(F.cross_entropy, batch) != losses[0]
        assert probe.loss(F.cross_entropy, batch) == F.cross_entropy(net.eval()(batch[0]), batch[1])


def test_shared_buffers_stay_shared():
    net = make()
    net[1].activation.standardize_after.running_mean = net[0].activation.standardize_after.running_mean
    with frozen(net, statistics="batch"):
        shared = {id(net[i].activation.standardize_after.running_mean) for i in (0, 1)}
        assert len(shared) == 1


@pytest.mark.parametrize("outside", [torch.no_grad, torch.inference_mode,
                                     lambda: torch.autocast("cpu", torch.bfloat16)])
def test_gradients_are_recorded_in_full_precision_whatever_is_set_outside(outside):
    net, batch = make().float(), a_batch()
    inputs = batch[0].float()
    with outside(), frozen(net, statistics="batch") as probe:
        loss = probe.loss(F.cross_entropy, (inputs, batch[1]))
        assert net(inputs).dtype == torch.float32
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("statistics", ["train", None, "Batch"])
def test_statistics_must_be_known(statistics):
    with pytest.raises(ValueError, match='"batch".*or "running"'), frozen(make(), statistics=statistics):
        pass


def test_statistics_has_no_default():
    with pytest.raises(TypeError, match="statistics"), frozen(make()):
        pass


@pytest.mark.parametrize("placement", ["before", "complete"])
def test_a_norm_without_running_statistics_has_no_running_mode(placement):
    net = make(placement, norm_options={"track_running_stats": False})
    with pytest.raises(ValueError, match="keeps no running statistics"), frozen(net, statistics="running"):
        pass


def test_instance_norm_needs_no_running_statistics():
    with frozen(nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4)), statistics="running"):
        pass


@pytest.mark.parametrize("norm", ["batch_norm", "batch_norm_written_out"])
def test_a_batch_of_one_is_refused_where_a_norm_sees_one_value(norm):
    torch.manual_seed(0)
    net = models.build("mlp", num_classes=3, image_size=6, placement="before", width=4, depth=1,
                       norm_options={"norm": norm}).double()
    with frozen(net, statistics="batch") as probe, pytest.raises(ValueError, match="batch of one"):
        probe.loss(F.cross_entropy, a_batch(1))
    with frozen(net, statistics="running") as probe:
        assert probe.loss(F.cross_entropy, a_batch(1)).isfinite()
    with frozen(make("before"), statistics="batch") as probe:  # images: several values per channel
        assert probe.loss(F.cross_entropy, a_batch(1)).isfinite()


@pytest.mark.parametrize("loss_fn, message", [
    (lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="none"), r"one number.*\[6\]"),
    (lambda outputs, labels: 1.0, "one number.*float"),
    (lambda outputs, labels: outputs.sum() * torch.nan, "loss of this batch is nan"),
    (lambda outputs, labels: outputs.sum() * 0 + torch.inf, "loss of this batch is inf"),
])
def test_losses_that_have_no_derivative(loss_fn, message):
    with frozen(make(), statistics="batch") as probe, pytest.raises(ValueError, match=message):
        probe.loss(loss_fn, a_batch())


@pytest.mark.parametrize("dtype, hint", [(torch.uint8, "data.normalize"), (torch.float32, "torch.float64")])
def test_inputs_of_another_type(dtype, hint):
    inputs, labels = a_batch()
    with frozen(make(), statistics="batch") as probe, pytest.raises(TypeError, match=hint):
        probe.loss(F.cross_entropy, (inputs.to(dtype), labels))


def test_low_precision_is_refused():
    with pytest.raises(TypeError, match="float32 or float64"), frozen(make().bfloat16(), statistics="batch"):
        pass


def test_batches_are_pairs():
    with frozen(make(), statistics="batch") as probe, pytest.raises(ValueError, match="pair"):
        probe.loss(F.cross_entropy, a_batch()[0])
