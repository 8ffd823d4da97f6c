"""The training loop: it learns, repeats, resumes bit for bit, stops with a reason, and leaves nothing behind."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import config, data, models, runs, train
from cbn_lab.train import DivergedError, TrainConfig, Trainer

QUICK = TrainConfig(model="mlp", model_options={"width": 16, "depth": 2}, activation="tanh", train_images=200,
                    batch_size=32, epochs=2, device="cpu", precision="fp32", log_every=2)
TIMES = ("seconds", "images_per_second")


def without_times(curve):
    return [{key: value for key, value in entry.items() if key not in TIMES} for entry in curve]


@pytest.mark.parametrize("placement", ["before", "complete"])
def test_it_learns_the_digits(placement):
    run = train.fit(TrainConfig(placement=placement, activation="relu", epochs=5, device="cpu", precision="fp32"))
    assert run.final["test_accuracy"] > 0.8
    assert run.final["train_loss"] < 0.7 < run.curve[0]["loss"]
    assert run.status == "finished"


def test_a_run_repeats_and_another_seed_does_not():
    first, again, other = (train.fit(replace(QUICK, seed=seed)) for seed in (1, 1, 2))
    assert without_times(first.curve) == without_times(again.curve)
    assert first.curve[0]["loss"] != other.curve[0]["loss"]


def test_training_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    train.fit(QUICK)
    assert torch.equal(before, torch.get_rng_state())


def test_progress_counts_and_estimates():
    records = list(train.train(QUICK))
    assert [r.step for r in records] == [2, 4, 6, 8, 10, 12]  # 200 images: 6 batches of 32, the last 8 images left out
    assert records[-1].epoch == 2.0
    assert records[0].steps == 12
    assert [bool(r.evaluation) for r in records] == [False, False, True, False, False, True]
    assert records[0].remaining_seconds == pytest.approx(5 * records[0].seconds)
    assert records[-1].remaining_seconds == 0
    assert records[-1].lr < 1e-4 < records[0].lr < max(r.lr for r in records) <= QUICK.lr


@pytest.mark.parametrize("decay_norm", [True, False])
def test_the_steps_are_nesterov_sgd_with_the_rates_of_the_schedule(decay_norm):
    """Three steps against the update rule written out; the first at a 25th of the peak rate."""
    config = replace(QUICK, train_images=96, epochs=1, decay_norm=decay_norm, weight_decay=0.1, lr=0.05, log_every=1)
    trainer = Trainer(config)
    twin = copy.deepcopy(trainer.model)
    order, crops = data.epoch_plan(96, config.seed, 0, pad=1, flip=False)
    velocity, lr = [torch.zeros_like(p) for p in twin.parameters()], trainer.schedule.get_last_lr()[0]
    assert lr == pytest.approx(config.lr / 25)
    for i, progress in enumerate(trainer.run()):
        batch = slice(32 * i, 32 * i + 32)
        images = data.augmented_batch(trainer.training, order[batch], crops[batch])
        logits, labels = twin(data.normalize(images, trainer.training)), trainer.training.labels[order[batch]]
        loss = F.cross_entropy(logits, labels)
        assert progress.loss == pytest.approx(float(loss.detach()), rel=1e-5)
        assert progress.accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        for p, v, g in zip(twin.parameters(), velocity, gradients, strict=True):
            g = g + (0.1 * p.detach() if p.dim() > 1 or decay_norm else 0.0)
            v.mul_(0.9).add_(g)
            p.data.sub_(lr * (g + 0.9 * v))
        lr = progress.lr
    for ours, expected in zip(trainer.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_crops_and_flips_follow_the_settings():
    """The first mini-batch of the second epoch, twice: as it is drawn by hand and as the network gets it."""
    for pad, flip in ((2, True), (0, False)):
        trainer = Trainer(replace(QUICK, crop_padding=pad, flip=flip, epochs=2))
        seen = []
        trainer.model.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(inputs[0]) if module.training else None)
        list(trainer.run())
        order, draws = data.epoch_plan(200, QUICK.seed, 1, pad=pad, flip=flip)
        expected = data.augmented_batch(trainer.training, order[:32], draws[:32])
        assert torch.equal(seen[trainer.steps_per_epoch], data.normalize(expected, trainer.training))


def test_the_seed_draws_the_weights():
    first, again, other = (Trainer(replace(QUICK, seed=seed)).model[1].weight.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_final_loss_is_the_mean_of_the_last_epoch():
    run = train.fit(QUICK)
    assert run.final["train_loss"] == pytest.approx(sum(entry["loss"] for entry in run.curve[-3:]) / 3)


def test_bf16_reaches_the_model():
    for precision, expected in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        trainer, seen = Trainer(replace(QUICK, precision=precision)), set()
        trainer.model[1].weight.register_forward_hook(
            lambda _, inputs, output, seen=seen: seen.update((inputs[0].dtype, output.dtype)))
        next(trainer.run())
        trainer.evaluate("test")
        assert seen == {expected}


def test_bf16_stays_close_to_float32():
    losses = [train.fit(replace(QUICK, precision=precision)).final["train_loss"] for precision in ("fp32", "bf16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_stopped_run_goes_on_and_ends_bit_identical(tmp_path, monkeypatch, stop_after):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    config = replace(QUICK, placement="complete", validation_images=50)
    whole = Trainer(config)
    for _ in whole.run():
        pass
    stopped = Trainer(config)
    for i, _ in enumerate(stopped.run(tmp_path / "c.ckpt"), 1):
        if i == stop_after:
            break
    resumed = Trainer(config)
    resumed.restore(tmp_path / "c.ckpt")
    assert 0 < resumed.step < resumed.steps
    for _ in resumed.run():
        pass
    assert without_times(resumed.curve) == without_times(whole.curve)
    assert resumed.final()["train_loss"] == whole.final()["train_loss"]
    for a, b in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_is_written_at_the_end_of_each_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", math.inf)
    path, trainer = tmp_path / "c.ckpt", Trainer(QUICK)
    assert [path.exists() for _ in zip(range(3), trainer.run(path), strict=False)] == [False, False, True]
    resumed = Trainer(QUICK)
    resumed.restore(path)
    assert (resumed.step, resumed.seconds) == (6, trainer.seconds)


def test_ctrl_c_keeps_what_was_recorded_and_resume_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)

    def interrupt(progress):
        if progress.step == 6:
            raise KeyboardInterrupt

    run = train.fit(QUICK, out=tmp_path, on_progress=interrupt)
    assert (run.status, run.final, run.curve[-1]["step"]) == ("interrupted", {}, 6)
    assert runs.load_all(tmp_path) == [runs.load(next(tmp_path.glob("*.json")))]
    (checkpoint,) = tmp_path.glob("*.ckpt")
    Path(f"{checkpoint}.123.part").touch()  # as a process leaves it that is killed while it writes
    resumed = train.fit(QUICK, out=tmp_path, resume=True)
    assert without_times(resumed.curve) == without_times(train.fit(QUICK).curve)
    assert [run.status for run in runs.load_all(tmp_path)] == ["finished"]
    assert not list(tmp_path.glob("*.ckpt*"))


def test_a_checkpoint_of_other_settings_or_damaged_is_refused(tmp_path):
    path = tmp_path / "c.ckpt"
    trainer = Trainer(QUICK)
    trainer.save(path)
    with pytest.raises(ValueError, match="other settings"):
        Trainer(replace(QUICK, lr=0.2)).restore(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="cannot be read"):
        Trainer(QUICK).restore(path)


def _write_digits(path, n):
    """An .npz of the first n digits of each split."""
    digits = {split: data.load("digits", split) for split in ("train", "test")}
    arrays = {f"x_{split}": images.images[:n].numpy() for split, images in digits.items()}
    labels = {f"y_{split}": images.labels[:n].numpy() for split, images in digits.items()}
    np.savez(path, **arrays, **labels, class_names=np.array(digits["train"].class_names))


def test_a_record_of_other_data_is_not_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    configs = [replace(QUICK, data=tmp_path / name / "own.npz", train_images=64, epochs=1) for name in "ab"]
    _write_digits(configs[0].data, 100)
    _write_digits(configs[1].data, 99)
    first = train.fit(configs[0], out=tmp_path / "runs")
    with pytest.raises(ValueError, match="same settings on other data"):
        train.fit(configs[1], out=tmp_path / "runs")
    train.fit(configs[0], out=tmp_path / "runs")
    (record,) = runs.load_all(tmp_path / "runs")
    assert record.provenance["data_sources"] == first.provenance["data_sources"]


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    path = tmp_path / "own.npz"
    config = replace(QUICK, data=path, train_images=64)
    _write_digits(path, 100)
    Trainer(config).save(tmp_path / "c.ckpt")
    Trainer(config).restore(tmp_path / "c.ckpt")
    _write_digits(path, 99)
    with pytest.raises(ValueError, match=r"data have changed since the checkpoint .*own.npz.*; now own.npz"):
        Trainer(config).restore(tmp_path / "c.ckpt")


def test_settings_that_are_equal_in_the_record_resume_each_other(tmp_path):
    """A list from a notebook, a tuple from the command line."""
    config = replace(QUICK, model="convnet", model_options={"widths": [4, 4]}, activation=["tanh", "relu"])
    Trainer(config).save(tmp_path / "c.ckpt")
    Trainer(replace(config, model_options={"widths": (4, 4)}, activation=("tanh", "relu"))).restore(tmp_path / "c.ckpt")


def test_a_loss_that_is_not_finite_stops_with_step_and_reason(tmp_path):
    config = replace(QUICK, placement="none", activation="relu", lr=1e6, epochs=20)
    with pytest.raises(DivergedError, match=r"at step \d+ of 120 .*learning rate is too high; try lr=3.3e\+05 or a pl"):
        train.fit(config, out=tmp_path)
    (run,) = runs.load_all(tmp_path)
    assert run.status == "diverged"
    assert all(math.isfinite(entry["loss"]) for entry in run.curve)


class BreaksDown(nn.Module):
    """Logits that are not finite from the third call on."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(64, 10), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x.flatten(1)) / (self.calls < 3)


def test_the_first_bad_step_is_named_and_a_diverged_run_leaves_no_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(DivergedError, match="at step 3 of 12"):
        list(Trainer(replace(QUICK, log_every=6), model=BreaksDown()).run())
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(models, "build", lambda *_, **__: BreaksDown())
    with pytest.raises(DivergedError, match="at step 3 of 12"):
        train.fit(QUICK, out=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_validation_images_are_held_out_of_training():
    trainer = Trainer(replace(QUICK, train_images=None, validation_images=115))
    whole = data.load("digits", "train")
    assert len(trainer.training) == len(whole) - 115
    assert torch.equal(trainer.held_out["validation"].images, whole.images[-115:])
    records = list(trainer.run())
    keys = [set(r.evaluation) for r in records if r.evaluation]
    assert keys[0] == {"validation_loss", "validation_accuracy"}
    assert keys[-1] == keys[0] | {"test_loss", "test_accuracy"}


def test_fp16_with_a_scaled_loss_follows_fp32():
    """On a CPU too, where it is slow: the same steps up to half precision's rounding."""
    exact, half = (list(train.train(replace(QUICK, precision=p, epochs=1, lr=0.02))) for p in ("fp32", "fp16"))
    assert [r.loss for r in half] == pytest.approx([r.loss for r in exact], rel=0.02)
    assert [r.loss for r in half] != [r.loss for r in exact]


def test_evaluate_is_in_eval_mode_and_restores_the_mode():
    digits = data.load("digits", "test").subset(slice(0, 64))
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).train()
    before = copy.deepcopy(model.state_dict())
    loss, accuracy = train.evaluate(model, digits, batch_size=10)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    logits = model.eval()(data.normalize(digits.images, digits))
    assert loss == pytest.approx(float(F.cross_entropy(logits, digits.labels).detach()), rel=1e-5)
    assert accuracy == (logits.argmax(1) == digits.labels).float().mean().item()


def test_evaluate_restores_the_mode_of_each_module_even_when_it_fails():
    digits = data.load("digits", "test").subset(slice(0, 8))
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).train()
    model[1].eval()  # a frozen norm
    train.evaluate(model, digits)
    assert [module.training for module in model] == [True, False, True]
    model.append(nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="shapes"):
        train.evaluate(model, digits)
    assert [module.training for module in model] == [True, False, True, True]


def test_the_provenance_is_that_of_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "commit", lambda: "before")
    run = train.fit(QUICK, on_progress=lambda progress: monkeypatch.setattr(runs, "commit", lambda: "after"))
    assert run.provenance["commit"] == "before"


def test_an_own_model_can_be_trained():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).eval()
    trainer = Trainer(QUICK, model=model)
    list(trainer.run())
    assert trainer.model is model
    assert model[1].num_batches_tracked == trainer.steps  # trained in train mode, whatever it came in
    assert trainer.final()["test_accuracy"] > 0.3


def test_recipes_and_records_are_resolved_without_paths(tmp_path):
    assert (TrainConfig().resolved().crop_padding, TrainConfig().resolved().flip) == (1, False)
    cifar = TrainConfig(data="cifar10").resolved()
    assert (cifar.crop_padding, cifar.flip) == (4, True)
    assert TrainConfig(data=str(tmp_path / "own.npz")).record()["data"] == "own.npz"
    assert TrainConfig(data=f"imagefolder:{tmp_path}/birds").record()["data"] == "imagefolder:birds"
    assert "auto" not in TrainConfig().resolved().record().values()


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16"), (False, "fp32")])
def test_automatic_precision_is_bf16_where_that_is_fast(monkeypatch, fast, precision):
    monkeypatch.setattr(config, "has_fast_bf16", lambda device: fast)
    assert TrainConfig(device="cpu").resolved().precision == precision


@pytest.mark.parametrize(("setting", "message"), [
    ({"epochs": 0}, "epochs must be at least 1"), ({"batch_size": 0}, "batch_size"),
    ({"lr": 0.0}, "lr must be positive"),
    ({"weight_decay": -1.0}, "weight_decay must not be negative"), ({"precision": "fp8"}, "'fp8'"),
    ({"train_images": 0}, "train_images"),
    ({"epochs": 2.5}, "a whole number, got 2.5"), ({"epochs": True}, "got True"), ({"seed": None}, "seed .*got None"),
    ({"lr": math.nan}, "lr must be a finite number"), ({"lr": "0.1"}, "lr must be a finite number, got '0.1'"),
    ({"momentum": 1.0}, "below 1"), ({"crop_padding": -1}, "crop_padding .*or None, got -1"),
    ({"flip": "yes"}, "flip must be True or False"), ({"device": "gpu"}, "'cuda' or 'cuda:1', got 'gpu'"),
    ({"data": None}, "a name or a path"), ({"model_options": None}, "a dictionary"),
    ({"activation": nn.ReLU()}, r"activation must consist of names, .*got ReLU\(\).*register"),
    ({"norm_options": {"eps": math.nan}}, "norm_options must consist of"),
])
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**setting)


def test_numbers_of_one_value_are_one_setting():
    config = TrainConfig(lr=np.float64(1), momentum=0, seed=np.int64(3), data=Path("digits"))
    assert repr(config) == repr(TrainConfig(lr=1.0, momentum=0.0, seed=3, data="digits"))
    assert runs.name(config.record()) == runs.name(TrainConfig(lr=1.0, momentum=0.0, seed=3).record())


def test_settings_that_do_not_fit_the_data_or_the_machine_are_refused():
    with pytest.raises(ValueError, match="train_images=1400 and validation_images=100 do not fit into the 1415"):
        Trainer(TrainConfig(train_images=1400, validation_images=100))
    with pytest.raises(ValueError, match="one training image of digits is too few"):
        Trainer(TrainConfig(train_images=1))
    with pytest.raises(ValueError, match="compile=True is for GPUs"):
        TrainConfig(device="cpu", compile=True).resolved()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds no GPU"):
            TrainConfig(device="cuda").resolved()


def test_a_batch_larger_than_the_data_is_the_whole_data():
    trainer = Trainer(replace(QUICK, batch_size=1000))
    assert (trainer.batch_size, trainer.steps) == (200, 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_turns_are_taken_after_each_step_and_evaluation_batch_and_change_nothing(precision):
    """Between two turns anything may run: neither autocast nor no_grad is in force there."""
    settings = replace(QUICK, precision=precision)
    trainer, whole = Trainer(settings), Trainer(settings)
    list(whole.run())
    turns = []
    for turn in trainer.turns():
        assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        turns.append(turn)
    assert without_times(trainer.curve) == without_times(whole.curve)
    assert turns.count(None) == 12 + 2, "12 steps, and after each of 2 epochs one batch with all the test images"
    assert [turn.step for turn in turns if turn is not None] == [2, 4, 6, 8, 10, 12]
    assert trainer.model.training and trainer.seconds < 60


def test_an_evaluation_that_is_given_up_between_two_turns_restores_the_mode():
    trainer = Trainer(replace(QUICK, train_images=32, log_every=1))
    turns = trainer.turns()
    assert next(turns) is None and trainer.model.training, "a step"
    assert next(turns) is None and not trainer.model.training, "in the evaluation"
    turns.close()
    assert trainer.model.training


@pytest.mark.parametrize("placement", ["before", "after"])
def test_a_batch_of_one_says_what_to_do(placement):
    settings = TrainConfig(data="digits", model="mlp", placement=placement, batch_size=1, train_images=8, epochs=1,
                         device="cpu")
    with pytest.raises(ValueError, match="mini-batch of 1.*at least 2, or placement 'none'"):
        next(train.train(settings))


def test_a_setting_that_came_later_is_recorded_only_where_it_is_used():
    """Older runs have no such entry and keep their names."""
    assert "cuda_graphs" not in QUICK.record()
    assert replace(QUICK, cuda_graphs=True).record() == QUICK.record() | {"cuda_graphs": True}


def test_a_last_step_that_ruins_the_weights_is_no_finished_run(tmp_path):
    """All training losses are finite: they were taken before the step."""
    config = replace(QUICK, train_images=32, epochs=1, lr=1e30, log_every=1)
    with pytest.raises(train.DivergedError, match="the test loss is nan at step 1 of 1"):
        train.fit(config, out=tmp_path)
    (run,) = runs.load_all(tmp_path)
    assert run.status == "diverged" and run.final == {}


@pytest.mark.parametrize("out", ["taken", "taken/below"])
def test_a_file_in_the_place_of_the_folder_is_said_before_training(tmp_path, out):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="a file stands there, or above it; give another one"):
        train.fit(QUICK, out=tmp_path / out, on_progress=lambda progress: pytest.fail("it trained"))
