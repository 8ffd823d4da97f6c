"""The ladder: each rung changes one thing and computes what it says; records are complete. No test looks at a time."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from cbn_lab import data, figures, ladder, runs, speeds, waits
from cbn_lab.bench import student

STEPS = 4
SMALL = replace(ladder.config(device="cpu", batch_size=8, steps=1), model_options={"widths": (6, 8)}, train_images=40,
                precision="fp32")


@pytest.fixture
def no_cifar(monkeypatch, tmp_path):
    monkeypatch.delenv("CBN_LAB_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def noise(no_cifar):
    with ladder.images_for(SMALL) as (settings, training):
        yield settings, training


def _losses(rung, settings, training):
    torch.manual_seed(3)  # a DataLoader draws from the global generator
    arm = rung(settings, training)
    return [arm.part() for _ in range(STEPS)]


class Planned(ladder.Student):
    """The student's rung with order, crops and flips of `data.epoch_plan`: one PIL image after the other."""

    def batches(self):
        c, training = self.config, self.training
        order, draws = data.epoch_plan(len(training), c.seed, 0, pad=4, flip=True)
        for first in range(0, len(training), c.batch_size):
            images = []
            for place in range(first, first + c.batch_size):
                image = Image.fromarray(training.images[order[place]].numpy())
                image = functional.crop(functional.pad(image, 4), int(draws.dy[place]), int(draws.dx[place]), 32, 32)
                image = functional.hflip(image) if draws.flip[place] else image
                images.append(functional.normalize(functional.to_tensor(image), training.mean, training.std))
            yield torch.stack(images), training.labels[order[first : first + c.batch_size]]


class Fused32(ladder.ChannelsLast):
    make_optimizer = ladder.FusedOptimizer.make_optimizer


def test_first_rung_is_the_script_that_a_student_writes(noise):
    settings, training = noise
    images, labels = training.images.numpy(), training.labels.numpy()
    loader = student.make_loader(images, labels, training.mean, training.std, settings.batch_size)
    state = ladder.Student(settings, training).model.state_dict()
    model = student.make_model(settings.model_options["widths"], 10)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    ours = _losses(ladder.Student, settings, training)
    torch.manual_seed(3)
    assert ours == list(islice(student.train(model, loader), STEPS))


def test_without_waiting_the_losses_are_the_same_bit_by_bit(noise):
    assert _losses(ladder.NoWaiting, *noise) == _losses(ladder.Student, *noise)


@pytest.mark.parametrize("rung", [ladder.OnDevice, ladder.ChannelsLast, Fused32])
def test_with_the_same_order_and_crops_the_losses_are_the_students(rung, noise):
    expected = _losses(Planned, *noise)
    assert _losses(rung, *noise) == pytest.approx(expected, rel=1e-4)
    assert len(set(expected)) == STEPS


def test_half_precision_is_near_and_not_the_same(noise):
    settings, training = noise
    whole = _losses(ladder.ChannelsLast, settings, training)
    half = _losses(ladder.HalfPrecision, replace(settings, precision="bf16"), training)
    assert half != whole and half == pytest.approx(whole, rel=0.05)


def test_the_library_begins_as_the_rung_above_it(noise):
    """Same weights, same first mini-batch. (The rate of its first step is another one.)"""
    settings, training = noise
    assert next(iter(_losses(ladder.Library, settings, training))) == pytest.approx(
        _losses(ladder.OnDevice, settings, training)[0], rel=1e-5)


def test_each_rung_replaces_one_thing():
    helpers = {"scaler", "device_type", "title", "numbers", "__init__", "options"}
    own = {rung: {name for name in vars(rung) if name in helpers or not name.startswith("__")} - helpers
           for rung in ladder.RUNGS}
    assert {rung.__name__: names for rung, names in own.items() if rung is not ladder.Student} == {
        "NoWaiting": {"part"}, "OnDevice": {"batches"}, "ChannelsLast": {"memory"}, "HalfPrecision": {"step"},
        "FusedOptimizer": {"make_optimizer"}, "Library": {"part"}, "Compiled": set(), "Graphs": set(),
        "CompiledGraphs": set()}
    assert [ladder.above(rung) for rung in ladder.RUNGS[-3:]] == [ladder.Library, ladder.Library, ladder.Compiled]
    assert len({rung.title for rung in ladder.RUNGS}) == len(ladder.RUNGS)


@pytest.mark.parametrize(("rung", "expected"), [(ladder.Student, STEPS), (ladder.NoWaiting, 1), (ladder.OnDevice, 1)])
def test_how_often_a_part_reads_a_loss(rung, expected, noise):
    settings, training = noise
    arm = rung(replace(settings, log_every=STEPS), training)
    arm.feed = iter(list(islice(arm.feed, STEPS)))  # what a loader reads is not counted
    assert waits.count(arm.part) == expected


def test_gpu_rungs_ask_the_trainer_for_one_option_more(monkeypatch):
    asked = []
    monkeypatch.setattr(ladder, "Trainer", lambda config, root: asked.append(config) or type("T", (), {"run": list})())
    for rung in ladder.RUNGS[-4:]:
        rung(SMALL, None)
    assert [(c.compile, c.cuda_graphs) for c in asked] == [(False, False), (True, False), (False, True), (True, True)]
    assert all(replace(c, compile=False, cuda_graphs=False) == SMALL for c in asked)


def test_measure_times_every_rung_of_a_cpu_and_says_on_what(no_cifar):
    found = ladder.measure(replace(SMALL, precision="bf16"), repeats=5, note="shared")
    assert list(found.images_per_second) == [rung.title for rung in ladder.EAGER]
    assert all(len(values) == 5 and min(values) > 0 for values in found.images_per_second.values())
    assert found.above == {rung.title: ladder.above(rung).title for rung in ladder.EAGER[1:]}
    assert found.settings["data"] == "random.npz" and found.settings["batch_size"] == 8 and found.note == "shared"
    assert {"device", "threads", "versions", "commit", "date"} <= set(found.provenance)
    assert {"torch", "torchvision", "pillow"} <= set(found.provenance["versions"])


def test_some_rungs_alone(no_cifar):
    found = ladder.measure(SMALL, rungs=(ladder.Student, ladder.OnDevice))
    assert list(found.images_per_second) == ["the usual script", "images on the device"] and found.above == {}


@pytest.mark.parametrize("rungs", [(ladder.Student,), (ladder.Student, ladder.Library)])
def test_all_rungs_of_a_cpu_have_freed_memory_kept_before_the_first_is_timed(rungs, no_cifar, monkeypatch):
    asked = []
    monkeypatch.setattr(ladder._memory, "keep_freed", lambda: asked.append("kept"))
    monkeypatch.setattr(ladder, "alternate", lambda arms, repeats: asked.append("timed") or dict.fromkeys(arms, [1.0]))
    ladder.measure(SMALL, rungs=rungs)
    assert asked[0] == "kept" and asked[-1] == "timed"


def test_too_few_repeats_are_refused():
    with pytest.raises(ValueError, match="at least 5, .* got 4"):
        ladder.measure(SMALL, repeats=4)


def test_settings_are_whole_parts_of_an_epoch():
    for settings in (ladder.config(device="cpu"), ladder.config(device="cpu", batch_size=512, steps=20), SMALL):
        assert settings.train_images % (settings.batch_size * settings.log_every) == 0
        assert settings.train_images <= ladder.CIFAR_IMAGES and settings.precision != "auto"


def test_command_writes_a_record(no_cifar, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ladder, "WIDTHS", (4, 4))
    ladder.main(["--out", str(tmp_path / "speed"), "--device", "cpu", "--batch-size", "4", "--steps", "1",
                 "--repeats", "5"])
    (found,) = speeds.records(tmp_path / "speed")
    assert found.settings["model_options"] == {"widths": [4, 4]}
    assert "the usual script" in capsys.readouterr().out


def _speeds(**changes) -> speeds.Speeds:
    return speeds.Speeds(**{
        "settings": {"model": "convnet", "batch_size": 128, "precision": "bf16", "log_every": 10},
        "images_per_second": {"slow": [100.0, 50.0, 110.0], "fast": [200.0, 150.0, 200.0]}, "above": {"fast": "slow"},
        "provenance": {"device": "A Chip (CPU)", "threads": 2}} | changes)


def test_one_repeat_and_one_step_are_said_so():
    one = _speeds(settings=_speeds().settings | {"log_every": 1}, images_per_second={"slow": [1.0]}, above={})
    assert one.setting() == "convnet, batches of 128, bf16, 1 repeat of 1 step"


def test_gains_are_taken_within_a_repeat():
    assert _speeds().gains("fast") == [2.0, 3.0, 200 / 110] and _speeds().speed("slow") == 100.0
    assert "2.00 x (1.82 to 3.00)" in _speeds().table()


def test_records_are_read_as_they_were_written(tmp_path):
    path = speeds.save(_speeds(), tmp_path)
    assert path.name == "a-chip-cpu-2-threads-convnet-b128.json"
    assert speeds.load(path) == _speeds() and speeds.records(tmp_path) == [_speeds()]
    gpu = _speeds(provenance={"device": "NVIDIA H100", "threads": 8})
    assert gpu.device == "NVIDIA H100" and speeds.save(gpu, tmp_path).name == "nvidia-h100-convnet-b128.json"
    assert speeds.records(tmp_path / "nowhere") == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 7}', json.dumps({"schema": 1, "settings": {}})])
def test_what_is_no_record_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(runs.RecordError, match=r"a\.json is not a record of cbn_lab\.ladder"):
        speeds.load(path)


@pytest.mark.parametrize(("changes", "said"), [
    ({"images_per_second": {"slow": [1.0], "fast": [1.0, 2.0]}}, "equally many"),
    ({"images_per_second": {}}, "no rung"), ({"above": {"fast": "middle"}}, "middle")])
def test_rungs_and_repeats_fit_together(changes, said):
    with pytest.raises(ValueError, match=said):
        _speeds(**changes)


def test_the_picture_in_words_has_the_records_numbers():
    alt = figures.speed_ladder({"mine": _speeds(), "yours": _speeds(above={})}).alt
    assert "mine (convnet, batches of 128, bf16, 3 repeats of 10 steps): from 100 images/s (slow) to 200 (fast)" in alt
    assert "largest single change is fast, 2.00 times (1.82 to 3.00)" in alt and "yours" in alt
    with pytest.raises(ValueError, match="no record to draw"):
        figures.speed_ladder({})


def test_recorded_speeds_can_be_read_and_are_of_known_rungs():
    titles = {rung.title for rung in ladder.RUNGS}
    for found in speeds.records():
        assert set(found.images_per_second) <= titles
        assert len(next(iter(found.images_per_second.values()))) >= ladder.LEAST_REPEATS
        assert all(np.isfinite(values).all() for values in found.images_per_second.values())


def test_a_machine_without_notebook_packages_can_measure():
    script = ("import sys\nfor name in ('ipywidgets', 'IPython', 'matplotlib'): sys.modules[name] = None\n"
              "import cbn_lab.ladder")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0
