"""A stack of nets: each run is the single run, whatever trains beside it."""

from dataclasses import replace

import pytest
import torch

from cbn_lab import runs, stack, train
from cbn_lab.stack import Stack
from cbn_lab.train import TrainConfig, Trainer

TINY = TrainConfig(model="convnet", model_options={"widths": (4, 6)}, activation="tanh", epochs=2, train_images=48,
                   batch_size=16, validation_images=40, log_every=2, lr=0.05, device="cpu", precision="fp32")
ARMS = [TINY, replace(TINY, seed=3), replace(TINY, lr=0.2), replace(TINY, weight_decay=0.1)]


@pytest.fixture
def double(monkeypatch):
    """Everything in float64, so that a difference is a mistake and not the growth of a rounding error."""
    initial = train.initial_model
    for module in (train, stack):
        monkeypatch.setattr(module, "initial_model", lambda *a: initial(*a).double())
    monkeypatch.setattr(Trainer, "_input_dtype", lambda self: torch.float64)
    monkeypatch.setattr(Trainer, "_autocast", lambda self: torch.autocast("cpu", enabled=False))


def flat(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("change", [
    {}, {"placement": "before", "activation": "relu"}, {"placement": "none", "momentum": 0.0},
    {"placement": "both", "decay_norm": True}, {"model": "mlp", "model_options": {"width": 5, "depth": 2}},
    {"norm_options": {"center": False, "shift_lr_multiplier": 4.0}, "evaluate_every": 0, "log_every": None},
    {"model": "resnet9", "model_options": {"width": 2}, "placement": "before_weight"},
])
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # center=False has no batching rule, see the module
def test_each_run_is_the_single_run(double, change):
    configs = [replace(config, **change) for config in ARMS]
    together = Stack(configs)
    list(together.run())
    buffers = {name: value.unbind() for name, value in together.buffers.items()}
    for i, config in enumerate(configs):
        alone = Trainer(config)
        list(alone.run())
        torch.testing.assert_close(together.weights[i].detach(), flat(alone.model), rtol=1e-8, atol=1e-10)
        for name, value in alone.model.named_buffers():
            torch.testing.assert_close(buffers[name][i], value, rtol=1e-8, atol=1e-10)
        for mine, other in zip(together.curves[i], alone.curve, strict=True):
            timed = ("seconds", "images_per_second")
            assert mine.keys() == other.keys()
            assert {k: v for k, v in mine.items() if k not in timed} == pytest.approx(
                {k: v for k, v in other.items() if k not in timed}, rel=1e-6)
        expected = alone.final()
        expected.pop("images_per_second")
        assert {k: v for k, v in together.finals()[i].items() if k in expected} == pytest.approx(expected, rel=1e-6)


def test_in_bf16_products_are_rounded_and_norms_are_not(monkeypatch):
    """One step from equal weights: as far from float32 as autocast is, and the moments are kept in float32."""
    gradients = {}
    for precision in ("fp32", "bf16"):
        config = replace(TINY, precision=precision, lr=1.0, momentum=0.0, weight_decay=0.0)
        together, alone = Stack([config, replace(config, seed=1)]), Trainer(config)
        start = flat(alone.model)
        together._sgd_step(*next(together._batches(0)))
        batch = next(alone.training.shuffled(0, 0, 16, pad=1))
        alone.model.train()
        alone._sgd_step(*batch)
        gradients[precision] = (together.weights[0].detach() - start, flat(alone.model) - start)
        assert all(value.dtype in (torch.float32, torch.int64) for value in together.buffers.values())
    exact, rounded = gradients["fp32"], gradients["bf16"]
    torch.testing.assert_close(*exact, rtol=1e-3, atol=1e-5)
    errors = [float((g - exact[1]).norm() / exact[1].norm()) for g in rounded]
    assert 1e-4 < errors[0] < 2 * errors[1] < 0.1


def test_records_say_how_many_were_stacked_and_have_the_names_of_single_runs(tmp_path):
    seen = []
    done = stack.fit(ARMS, out=tmp_path, on_progress=seen.append)
    assert {run.provenance["stacked"] for run in done} == {4}
    assert {path.stem for path in tmp_path.iterdir()} == {runs.name(c.resolved().record()) for c in ARMS}
    assert len(runs.load_all(tmp_path)) == 4
    assert all(run.status == "finished" and "test_accuracy" in run.final for run in done)
    assert len(seen) == 4 and [p.lr for p in seen[-1]] == [run.curve[-1]["lr"] for run in done]
    assert seen[-1][0].remaining_seconds == 0
    assert done[0].final["images_per_second"] == pytest.approx(2 * 48 / done[0].curve[-1]["seconds"])


def test_a_net_that_diverges_leaves_the_others_alone():
    wild = replace(TINY, lr=1e12, placement="none", activation="relu")
    calm = [replace(wild, lr=0.01), replace(wild, lr=0.01, seed=1)]
    with_it, without = stack.fit([calm[0], wild, calm[1]]), stack.fit(calm)
    assert [run.status for run in with_it] == ["finished", "diverged", "finished"]
    assert with_it[1].final == {} and len(with_it[1].curve) < len(with_it[0].curve)
    for mine, other in zip((with_it[0], with_it[2]), without, strict=True):
        assert mine.final["train_loss"] == pytest.approx(other.final["train_loss"], rel=1e-4)


def test_a_stack_ends_when_all_have_diverged():
    wild = replace(TINY, lr=1e12, placement="none", activation="relu", epochs=1000)
    assert [run.status for run in stack.fit([wild, replace(wild, seed=1)])] == ["diverged"] * 2


@pytest.mark.parametrize("configs, message", [
    ([], "at least one setting"),
    ([TINY, replace(TINY, epochs=3)], "seed, lr, weight_decay alone, these also in epochs"),
    ([TINY, replace(TINY, placement="before", batch_size=8)], "placement, batch_size"),
    ([replace(TINY, precision="fp16")], "fp32 or bf16, got fp16"),
    ([replace(TINY, data="imagefolder:zoo", image_size=32)], "keeps its images in memory: leave image_size out"),
])
def test_what_cannot_be_stacked(configs, message):
    with pytest.raises(ValueError, match=message):
        Stack(configs)
