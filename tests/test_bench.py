"""The bench: its arms compute the same thing, its records are complete, its verdicts follow from its limits.

No test looks at a time: that is what `cbn-lab bench` itself is for.
"""

import json
import os
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

import cbn_lab
from cbn_lab import bench, models, share
from cbn_lab.bench import (
    block,
    gpu,
    imports,
    kernels,
    limits,
    live,
    measure,
    playground,
    probes,
    stack,
    student,
    throughput,
)
from cbn_lab.bench.measure import Row
from cbn_lab.train import TrainConfig, Trainer

TINY = ((4, 3, 6, 6), 5)


def test_arms_alternate_and_the_first_round_does_not_count():
    calls = []
    seconds = measure.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert calls == ["a", "b"] * 4
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_ratio_is_the_median_over_repeats_of_the_ratio_within_a_repeat():
    """A machine that slows down by 10 in the last rounds changes both arms, and not the ratio."""
    assert measure.ratio({"a": [2.0, 20.0, 2.2, 20.0, 2.1], "b": [1.0, 10.0, 1.0, 10.0, 1.0]}, "a", "b") == 2.0


@pytest.mark.parametrize("value, sense, verdict", [(1.0, "<=", "ok"), (1.2, "<=", "MISSED"), (1.0, ">=", "MISSED"),
                                                   (1.1, ">=", "ok"), (float("nan"), "<=", "MISSED")])
def test_verdict(value, sense, verdict):
    assert Row("a", value, limit=1.1, sense=sense).verdict() == verdict
    assert Row("a", value).verdict() == ""


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_both_blocks_start_with_equal_convolutions_and_have_equally_many_parameters(activation):
    torch.manual_seed(0)
    x = torch.randn(TINY[0], dtype=torch.float64)
    blocks = {name: b.double() for name, b in block.pair(TINY[0][1], TINY[1], activation).items()}
    complete, vanilla = blocks["complete"], blocks["vanilla"]
    torch.testing.assert_close(complete.weight(x), vanilla[0](x), rtol=0, atol=0)
    # Both standardize; the complete block after the activation: the vanilla block's layers in another order.
    expected = vanilla[1](vanilla[2](vanilla[0](x)))
    torch.testing.assert_close(complete(x), expected, rtol=1e-9, atol=1e-9)
    shifts, gamma = 2, 1
    assert [len(list(b.parameters())) for b in (complete, vanilla)] == [1 + shifts + gamma, 1 + 2]


def test_passes_reach_input_and_parameters(monkeypatch):
    x = torch.randn(TINY[0], requires_grad=True)
    reached = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a: reached.append(grad(*a)))
    pair = block.pair(TINY[0][1], TINY[1], "relu")
    block.passes(pair["complete"], x, torch.float32, 2)
    assert len(reached) == 2 and len(reached[0]) == 5 and all(g.isfinite().all() for g in reached[0])


def test_saved_memory_counts_each_map_once():
    """A map that two operations keep counts once: the sigmoid's output is the norm's input. SiLU keeps its input."""
    x = torch.randn(8, 4, 16, 16, requires_grad=True)
    for activation, maps in ((torch.nn.Identity(), 1), (torch.nn.Sigmoid(), 1), (torch.nn.SiLU(), 2)):
        net = torch.nn.Sequential(activation, torch.nn.BatchNorm2d(4))
        assert block.saved_bytes(net, x) / (x.numel() * 4) == pytest.approx(maps, abs=0.1)
    assert block.maps_per_block("vanilla", (8, 4, 16, 16), "relu") == pytest.approx(2, abs=0.1)
    assert block.maps_per_block("complete", (8, 4, 16, 16), "relu") == pytest.approx(2, abs=0.1)


def test_students_net_is_ours_with_placement_before():
    """Equal weights, equal images: equal loss and gradients, so the two loops do the same work."""
    widths, images = (4, 6, 8), torch.randn(5, 3, 16, 16, dtype=torch.float64)
    theirs = student.make_model(widths, 10).double()
    ours = models.build("convnet", num_classes=10, image_size=16, activation="relu", placement="before",
                        widths=widths).double()
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other)
    results = []
    for model in (ours, theirs):
        loss = torch.nn.functional.cross_entropy(model(images), torch.arange(5))
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_students_script_learns():
    generator = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = generator.integers(0, 100, (64, 8, 8, 3), dtype=np.uint8)
    images += (155 * labels[:, None, None, None]).astype(np.uint8)
    torch.manual_seed(0)
    loader = student.make_loader(images, labels, (0.5,) * 3, (0.25,) * 3, batch_size=16)
    losses = list(islice(student.train(student.make_model((8,), 2), loader), 24))
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])


def test_throughput_trains_both_arms_and_names_what_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no ./data here
    monkeypatch.delenv("CBN_LAB_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    rows, skipped, sources = throughput.measure(repeats=2, widths=(4,), batch_size=8, steps=2)
    assert skipped is None and sources["train"].startswith("random.npz")
    assert [row.limit for row in rows] == [3.0, 3.0, None, None]
    assert all(row.value > 0 and len(times) == 2 for row in rows for times in row.seconds.values())


def test_random_images_are_only_a_stand_in():
    config = throughput._config("cifar10", (4,), batch_size=8, steps=2)
    assert config.data == "cifar10" and config.train_images % (config.log_every * config.batch_size) == 0


def test_block_and_records(tmp_path):
    rows, skipped, sources = block.measure(repeats=1, shapes=(TINY, TINY), seconds=0.0)
    assert skipped is None and len(rows) == 2 * 2 * len(block.settings()) + 2
    record = json.loads(bench.save("block", rows, sources, tmp_path).read_text())
    assert {"device", "versions", "commit", "date", "threads"} <= set(record["provenance"])
    assert len(record["rows"]) == len(rows)
    for row in record["rows"]:
        assert row["limit"] is not None and row["passed"] is (row["value"] <= row["limit"])
    assert len(record["rows"][0]["seconds"]["complete"]) == 3
    assert bench.table(rows).count("\n") == len(rows) - 1


def test_probes_are_timed_against_gradients_of_the_same_batch():
    rows, skipped, sources = probes.measure(repeats=2, batch_size=4, images=64, widths=(3, 4))
    assert skipped is None and "train" in sources
    assert [row.limit for row in rows] == 6 * [6.0] + [2.0, 60.0]
    assert all(row.value > 0 and len(times) == 2 for row in rows for times in row.seconds.values())
    counted, effects = rows[-2:]
    assert counted.notes["gradient_evaluations"] == 1 + 3 * counted.notes["products"]
    assert effects.notes["gradient_evaluations"] == counted.notes["gradient_evaluations"] + 50
    assert effects.unit == "s" and effects.sense == "<="


def test_a_missed_limit_is_an_exit_code_and_a_skipped_entry_is_not(tmp_path, monkeypatch, capsys):
    results = {"block": ([Row("slow", 2.0, limit=1.1)], None, {}), "gpu": ([], "skipped, there is no GPU", {})}
    for name, result in results.items():
        monkeypatch.setattr({"block": block, "gpu": gpu}[name], "measure", lambda result=result, **_: result)
    assert bench.main(["gpu"], out=tmp_path) == 0
    assert "skipped" in capsys.readouterr().out and not os.listdir(tmp_path)
    assert bench.main(["block"], out=tmp_path) == 1
    assert "MISSED" in capsys.readouterr().out and os.listdir(tmp_path) == ["block.json"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_entry_is_skipped():
    assert gpu.measure(repeats=5) == ([], "skipped, there is no GPU", {})


def test_imports_in_fresh_interpreters():
    rows, _, _ = imports.measure(repeats=1)
    assert [row.name for row in rows[:3]] == list(imports.STATEMENTS)
    assert rows[3].value == 0, "theory must not import torch"
    assert set(bench.ENTRIES) <= {path.removesuffix(".py") for path in os.listdir(os.path.dirname(bench.__file__))}
    assert cbn_lab.__version__


def test_each_change_in_the_playground_is_timed_until_its_picture(monkeypatch):
    """Two nets small enough for a test; only the one named in LIMITED has a limit."""
    tiny = replace(share.DEFAULT, model="mlp", model_options={"width": 4, "depth": 1})
    monkeypatch.setattr(playground, "NETS", {"convnet": tiny, "other": tiny})
    rows, skipped, sources = playground.measure(repeats=2)
    assert skipped is None and "digits" in sources["train"]
    assert [row.name for row in rows] == [f"{change}, {net}" for net in ("convnet", "other")
                                          for change in playground.CHANGES] + list(playground.EXPLORERS)
    assert all(len(row.seconds["change"]) == 2 and min(row.seconds["change"]) > 0 for row in rows)
    assert [row.limit for row in rows] == [playground.LIMIT] * 3 + [None] * 3 + [playground.LIMIT] * 4


def test_an_explorer_that_shows_nothing_new_is_not_timed():
    meter, _ = playground._slack_meter()
    with pytest.raises(RuntimeError, match="slow: no new picture"):
        playground._explorer_row("slow", meter, lambda turn: None, 2)


def test_live_training_is_measured_with_one_widget_and_with_two(monkeypatch):
    monkeypatch.setattr(live, "SECONDS", 0.2)
    tiny = replace(share.DEFAULT, model="mlp", model_options={"width": 4, "depth": 1}, epochs=100_000, log_every=1)
    monkeypatch.setattr(live, "SETTING", tiny)
    rows, skipped, sources = live.measure(repeats=2)
    assert skipped is None and "digits" in sources["train"]
    assert [row.name.split(",")[1] for row in rows] == 4 * [" one widget"] + 4 * [" 2 widgets at once"]
    assert [(row.limit, row.sense) for row in rows] == 2 * [(2.0, ">="), (1 / 3, "<="), (1.0, "<="), (1.0, "<=")]
    assert all(row.value >= 0 for row in rows) and rows[2].value > 0 and len(rows[3].seconds["stop"]) == 2


def net(**change) -> TrainConfig:
    return replace(TrainConfig(model="convnet", model_options={"widths": (4, 6)}, train_images=16, device="cpu",
                               precision="fp32", placement="before"), **change)


def counted(config: TrainConfig) -> list[kernels.Kernel]:
    return kernels.count(Trainer(replace(config, batch_size=n)) for n in (2, 4))


@pytest.mark.parametrize("change", [{}, {"placement": "complete", "precision": "bf16"}, {"model": "mlp",
                                                                                        "model_options": {"width": 4}}])
def test_operations_are_those_of_torchs_counter(change):
    trainer = Trainer(net(batch_size=8, **change))
    batches = trainer.training.shuffled(0, 0, 8, pad=1)
    trainer.model.train()
    with torch.utils.flop_counter.FlopCounterMode(display=False) as expected:
        trainer._sgd_step(*next(batches))
    assert sum(k.flop for k in counted(net(**change))) == pytest.approx(expected.get_total_flops() / 8)


def test_operations_of_a_convolution_by_hand():
    """2 per multiply-add, 9 taps: forward once, backward twice, the first layer without a gradient of its input."""
    first, second, head = 64 * 4 * 1 * 9, 16 * 6 * 4 * 9, 10 * 6
    assert sum(k.flop for k in counted(net())) == 2 * (2 * first + 3 * second + 3 * head)


@pytest.mark.parametrize("precision, size", [("fp32", 4), ("bf16", 2)])
def test_a_fused_norm_moves_eight_maps(precision, size):
    maps = size * (64 * 4 + 16 * 6)  # bytes of the two layers' maps
    for placement, norms in (("before", 1), ("complete", 1), ("both", 2), ("none", 0)):
        found = counted(net(placement=placement, precision=precision))
        assert sum(k.bytes for k in found if k.kind == "norm") == 8 * maps * norms
        assert all(k.bytes >= 0 and k.step_bytes >= 0 for k in found)


def test_the_bytes_of_convolutions_by_hand():
    """Maps of 1 x 64, 4 x 64 and 6 x 16 values; the gradient is read for each of input, weights and bias."""
    image, first, second = 64, 256, 96
    forward = (image + first) + (first + second)
    backward = (2 * first + image) + (3 * second + 2 * first)  # the image gets no gradient
    head = 3 * (6 + 10)
    found = counted(net(placement="none"))
    assert sum(k.bytes for k in found if k.kind == "convolution, product") == 4 * (forward + backward + head)


def test_an_operation_takes_as_long_as_the_slower_of_its_two_demands():
    kernel = kernels.Kernel("mm", "convolution, product", flop=600.0, bytes=20.0, step_bytes=40.0)
    assert limits.least_seconds(kernel, 4, operations=100.0, bandwidth=1000.0) == 6.0
    assert limits.least_seconds(kernel, 4, operations=1e9, bandwidth=10.0) == 3.0
    assert limits.least_seconds(kernel, 1, operations=1e9, bandwidth=10.0) == 6.0


def test_the_bytes_of_relu_and_of_the_optimizer_by_hand():
    found = counted(net())
    maps = 4 * (64 * 4 + 16 * 6)
    relu = [k for k in found if k.name in ("relu", "threshold_backward")]
    assert sum(k.bytes for k in relu) == 5 * maps  # read, write; output and gradient read, gradient written
    weights = sum(p.numel() for p in Trainer(net()).model.parameters())
    sgd = [k for k in found if k.kind == "optimizer"]
    assert {k.bytes for k in sgd} == {0} and sum(k.step_bytes for k in sgd) == pytest.approx(20 * weights, rel=0.05)


def test_steps_of_different_operations_are_not_compared():
    with pytest.raises(ValueError, match="steps on 2 and on 4 images are not made of the same operations"):
        kernels.count([Trainer(net(batch_size=2)), Trainer(net(batch_size=4, placement="none"))])


def test_limits_lie_below_what_operations_and_what_bytes_allow(monkeypatch):
    monkeypatch.setattr(limits.data, "available", lambda root: {"cifar10": "missing: the test brings its own"})
    shares, measured = limits.shares, []  # before they are rounded: after a pause in one, the others may round to 0
    monkeypatch.setattr(limits, "shares", lambda *a: measured.append(shares(*a)) or measured[-1])
    tiny = {"convnet": {"model_options": {"widths": (4,)}}}
    rows, skipped, sources = limits.measure(repeats=1, nets=tiny, timed=("convnet",), batch_size=8, steps=1)
    assert skipped is None and sources["train"].startswith("random.npz")
    assert len(rows) == len(limits.PLACEMENTS) * (2 + len(limits.SHEETS) + 1)
    for row in rows:
        if "limit on" in row.name:
            assert row.value <= min(row.notes["operations_alone"], row.notes["bytes_alone"]) * (1 + 1e-9)
            assert 1e6 / sum(row.notes["microseconds_per_image"].values()) == pytest.approx(row.value, rel=0.05)
        if "here" in row.name:
            assert row.value > 0 and sum(row.notes["share_of_time"].values()) == pytest.approx(1, abs=0.01)
            rounded = 1 + 0.5 * row.value  # both are whole numbers
            assert row.value * row.notes["limit"] == pytest.approx(row.notes["images_per_second"], 0.01, rounded)
    kinds = ("convolution, product", "norm", "elementwise", "data", "optimizer")
    assert len(measured) == len(limits.PLACEMENTS) and all(found[kind] > 0 for found in measured for kind in kinds)
    by_name = {row.name: row.value for row in rows}
    assert by_name["convnet, before: limit on NVIDIA H200"] > by_name["convnet, before: limit on NVIDIA T4"]


def test_the_gpu_entry_runs_on_a_processor_at_toy_size(tmp_path):
    place = throughput.random_images(str(tmp_path), 64)
    toy = net(data=place, model="resnet9", model_options={"width": 2}, batch_size=16, train_images=64, epochs=1)
    rows, skipped, sources = gpu.measure(
        repeats=2, device="cpu", place=place, batch_size=8, steps=2, models={"convnet": {"widths": (4,)}},
        ways={"eager": {}, "again": {"log_every": 2}}, recipe=lambda seed: replace(toy, seed=seed))
    assert skipped is None and "train" in sources
    assert [row.name.split(",")[-1].strip() for row in rows] == [
        "eager", *(f"time of {p} over before" for p in gpu.PLACEMENTS[1:]), "time again over eager",
        "training time of the recipe for 94 %", "mean of 3 seeds"]
    limited = {row.name: row.limit for row in rows if row.limit is not None}
    assert limited == {"convnet, time of complete over before": 1.10,
                       "test accuracy of the recipe, mean of 3 seeds": 0.94}
    seconds, accuracy = rows[-2:]
    assert len(seconds.seconds["run"]) == len(accuracy.notes["test_accuracy"]) == 3 and not accuracy.passed
    with pytest.raises(ValueError, match="more than the 64"):
        gpu.measure(repeats=2, device="cpu", place=place, batch_size=64, steps=2)


def test_the_recipe_for_94_is_our_layer_on_the_whole_of_cifar10_without_tricks():
    config = gpu.to_94(5)
    assert (config.seed, config.placement, config.train_images, config.validation_images) == (5, "complete", None, 0)
    assert models.block_count(config.model, **config.model_options) == 8


def test_stacks_are_timed_beside_single_runs(monkeypatch):
    monkeypatch.setattr(stack, "NETS", 2)
    rows, skipped, sources = stack.measure(repeats=1, settings={"mlp": {
        "model": "mlp", "model_options": {"width": 4}, "batch_size": 8, "device": "cpu"}}, steps=2)
    assert skipped is None and "digits" in sources["train"]
    assert [row.name for row in rows] == ["one by one over a stack of 2, mlp"] and rows[0].value > 0


def test_what_a_gpu_gives_has_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    for entry, name in (("limits", "limits-nvidia-h200.json"), ("block", "block.json")):
        assert bench.save(entry, [Row("a", 1.0)], {}, tmp_path).name == name
