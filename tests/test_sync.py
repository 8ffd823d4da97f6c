"""Two gloo ranks with unequal shares of a batch, against one process that holds the whole batch."""

import copy
import datetime
import doctest

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cbn_lab import norms
from cbn_lab.norms import CompleteBatchNorm2d, sync
from cbn_lab.norms.sync import synchronized_moments

AXES = (0, 2, 3)
RANKS = 2
STRUCTURES = {"default": {}, "no centring": {"center": False}, "both": {"standardize": "both", "gamma": "both"}}
SHARES = {"unequal": (5, 2), "equal": (3, 3), "one rank is empty": (4, 0), "one image each": (1, 1)}


def a_batch(n: int, offset: float = 0.0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 3, 4, 2, generator=generator, dtype=torch.float64)
    drift = torch.linspace(-2, 2, n, dtype=torch.float64).view(n, 1, 1, 1)  # the ranks' means differ
    return (x + drift + offset).to(dtype)


def layer_step(x: torch.Tensor, share: slice, layer: torch.nn.Module) -> dict:
    """One train step of a CompleteBatchNorm2d on some images of x: output, gradients, buffers."""
    layer = copy.deepcopy(layer)
    leaf = x[share].clone().requires_grad_()
    y = layer(leaf)
    (y.sin() * torch.arange(1.0, x.numel() + 1, dtype=x.dtype).view(x.shape)[share].cos()).sum().backward()
    return {"output": y.detach(), "gradient": leaf.grad, "parameters": [p.grad for p in layer.parameters()],
            "buffers": [b.clone() for b in layer.buffers()]}


def a_layer(structure: str, sync: bool) -> torch.nn.Module:
    layer = CompleteBatchNorm2d(3, "tanh", sync=sync, **STRUCTURES[structure]).double()
    for i, parameter in enumerate(layer.parameters()):
        torch.nn.init.constant_(parameter, 0.5 + 0.1 * i)
    return layer


def loss_of(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
    """Uses mean and var unevenly over channels and positions, so that no part of the gradient vanishes."""
    y = (x - mean.view(1, -1, 1, 1)) * torch.rsqrt(var + 1e-3).view(1, -1, 1, 1)
    weight = torch.arange(1.0, 25.0, dtype=x.dtype).view(3, 4, 2).sin()
    return (y.sin() * weight).sum()


def run_share(x: torch.Tensor) -> dict:
    """Moments, gradient, and gradient of the squared gradient norm, as one rank sees them."""
    x = x.clone().requires_grad_()
    mean, var, count = synchronized_moments(x, AXES)
    (grad,) = torch.autograd.grad(loss_of(x, mean, var), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), x)
    return {"mean": mean.detach(), "var": var.detach(), "count": float(count),
            "grad": grad.detach(), "second": second}


def layer_input(share: tuple[int, int]) -> torch.Tensor:
    x = a_batch(sum(share))
    return x[:, :, :1, :1] if share == SHARES["one image each"] else x


def rank_main(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS,
                            timeout=datetime.timedelta(seconds=60))
    torch.set_num_threads(1)
    results = {}
    for name, share in SHARES.items():
        results[name] = run_share(torch.split(a_batch(sum(share)), share)[rank])
        own = slice(0, share[0]) if rank == 0 else slice(share[0], None)
        for structure in STRUCTURES:
            results[name, structure] = layer_step(layer_input(share), own, a_layer(structure, sync=True))
    share = SHARES["unequal"]
    far = torch.split(a_batch(sum(share), offset=1e4, dtype=torch.float32), share)[rank]
    results["mean 1e4, float32"] = synchronized_moments(far, AXES)[:2]
    low = torch.split(a_batch(sum(share), dtype=torch.bfloat16), share)[rank]
    results["bfloat16"] = synchronized_moments(low, AXES)[:2]
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch was built without gloo")
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(rank_main, args=(str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("name", SHARES)
def test_two_ranks_equal_one_process(ranks, name):
    share = SHARES[name]
    whole = run_share(a_batch(sum(share)))
    for rank in ranks:
        assert rank[name]["count"] == whole["count"] == sum(share) * 8
        for key in ("mean", "var"):
            torch.testing.assert_close(rank[name][key], whole[key], rtol=1e-12, atol=1e-12)
    for key in ("grad", "second"):
        joined = torch.cat([rank[name][key] for rank in ranks])
        torch.testing.assert_close(joined, whole[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", SHARES)
def test_a_layer_on_two_ranks_equals_one_process(ranks, name, structure):
    """One image each has one value per channel on a rank: together they are two, which can be normalized."""
    one = layer_step(layer_input(SHARES[name]), slice(None), a_layer(structure, sync=False))
    two = [rank[name, structure] for rank in ranks]
    for key in ("output", "gradient"):
        torch.testing.assert_close(torch.cat([rank[key] for rank in two]), one[key], rtol=1e-9, atol=1e-11)
    for first, second, both in zip(two[0]["parameters"], two[1]["parameters"], one["parameters"], strict=True):
        torch.testing.assert_close(first + second, both, rtol=1e-9, atol=1e-11)
    for rank in two:
        torch.testing.assert_close(rank["buffers"], one["buffers"], rtol=1e-12, atol=1e-12)


def test_averaging_the_ranks_variances_would_be_caught():
    """The comparison above can fail: the batch is made so that the usual shortcut is far off."""
    shares = torch.split(a_batch(7), SHARES["unequal"])
    averaged = torch.stack([x.var(AXES, correction=0) for x in shares]).mean(0)
    assert ((averaged - a_batch(7).var(AXES, correction=0)).abs() > 0.1).all()


def test_a_mean_of_1e4_does_not_cancel(ranks):
    exact = a_batch(7).var(AXES, correction=0)
    for rank in ranks:
        torch.testing.assert_close(rank["mean 1e4, float32"][1].double(), exact, rtol=1e-3, atol=0)


def test_low_precision_inputs_are_summed_in_float32(ranks):
    x = a_batch(7, dtype=torch.bfloat16).double()
    for mean, var in (rank["bfloat16"] for rank in ranks):
        assert mean.dtype == var.dtype == torch.float32
        torch.testing.assert_close(mean.double(), x.mean(AXES), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(var.double(), x.var(AXES, correction=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", [(0,), (0, 2), (0, -1), (0, 2, 3)])
def test_one_process_gives_the_local_moments(axes):
    x = a_batch(5)
    mean, var, count = synchronized_moments(x, axes)
    torch.testing.assert_close(mean, x.mean(axes))
    torch.testing.assert_close(var, x.var(axes, correction=0))
    assert count == x.numel() / mean.numel()


def test_one_process_differentiates_twice():
    x = a_batch(2).requires_grad_()

    def normalized(x):
        mean, var, _ = synchronized_moments(x, AXES)
        return loss_of(x, mean, var)

    assert torch.autograd.gradcheck(normalized, x)
    assert torch.autograd.gradgradcheck(normalized, x)


def test_no_values_give_nan_without_a_warning():
    mean, var, count = synchronized_moments(torch.zeros(0, 3, 4, 2), AXES)
    assert count == 0 and mean.isnan().all() and var.isnan().all()


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}])
def test_a_synchronized_batch_norm_is_torchs_in_one_process(options):
    """Bit for bit, in train and in eval mode; a state goes from one to the other; it folds like torch's."""
    ours, theirs = norms.get("batch_norm", 3, 2, sync=True, **options), torch.nn.BatchNorm2d(3, **options)
    assert isinstance(ours, norms.SyncBatchNorm2d) and isinstance(norms.get("batch_norm", 3, 1, sync=True),
                                                                  norms.SyncBatchNorm1d)
    x = a_batch(7, dtype=torch.float32)
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours(2 * x), theirs(2 * x))
    fresh = torch.nn.BatchNorm2d(3, **options)
    fresh.load_state_dict(ours.state_dict())
    assert torch.equal(ours.eval()(x), theirs.eval()(x)) and torch.equal(ours(x), fresh.eval()(x))
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), ours).eval()
    torch.testing.assert_close(norms.fold(net)(x), net(x))
    scale, offset = ours.eval_affine()
    torch.testing.assert_close(scale.view(-1, 1, 1) * x + offset.view(-1, 1, 1), theirs(x))


def test_a_synchronized_batch_norm_without_running_statistics_is_no_fixed_map():
    with pytest.raises(ValueError, match="SyncBatchNorm1d keeps no running statistics"):
        norms.SyncBatchNorm1d(3, track_running_stats=False).eval_affine()
    with pytest.raises(TypeError, match="batch norm has no 'sink'; known: eps, momentum, affine"):
        norms.get("batch_norm", 3, 2, sync=True, sink=1)


def test_docstring_example():
    result = doctest.testmod(sync)
    assert result.attempted > 0 and result.failed == 0
