"""The command line: results, records, errors of one line; runs that are stopped by a signal and go on."""

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import fields

import held
import pytest
import torch

from cbn_lab import _train_command, _train_options, cli, data, doctor, runs, train

SMALL = ["train", "--model-option", "widths=8,8", "--train-images", "512", "--batch-size", "64", "--epochs", "2"]
LONG = ["train", "--model-option", "widths=8,8", "--activation", "tanh", "--epochs", "25", "--evaluate-every", "5",
        "--seed", "3", "--json"]


def _lines(capsys):
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


def test_train_ends_with_a_line_of_results_and_the_path_of_the_record(tmp_path, capsys):
    assert cli.main([*SMALL, "--activation", "tanh", "--out", str(tmp_path)]) == 0
    out, err = _lines(capsys)
    run = runs.load(out[-1])
    assert out[-2:] == [run.summary(), out[-1]] and "test accuracy" in out[-2]
    assert (run.config["activation"], run.config["placement"], run.config["data"]) == ("tanh", "complete", "digits")
    assert 5 <= len(err) <= 12 and all("loss" in line and "left" in line for line in err)
    assert list(tmp_path.iterdir()) == [tmp_path / out[-1]], "no checkpoint stays behind"


def test_json_is_the_last_line_and_agrees_with_the_record(tmp_path, capsys):
    assert cli.main([*SMALL, "--json", "--out", str(tmp_path)]) == 0
    result = json.loads(_lines(capsys)[0][-1])
    run = runs.load(result["record"])
    assert set(result) == {"test_accuracy", "train_loss", "images_per_second", "record", "status"}
    assert result["status"] == "finished"
    assert {key: result[key] for key in run.final if key in result} == {key: run.final[key] for key in (
        "test_accuracy", "train_loss", "images_per_second")}, "to the last digit"


def test_every_setting_has_an_option_with_help_and_reaches_the_config():
    assert set(_train_options.HELP) == {field.name for field in fields(train.TrainConfig)}
    options = _train_options.train_parser().parse_args(
        "--data cifar10 --model mlp --activation relu,tanh --placement before --model-option width=32 "
        "--model-option depth=2 --norm-option norm=batch_norm --norm-option eps=1e-3 --train-images 9 "
        "--validation-images 1 --epochs 2 --batch-size 4 --lr 0.5 --momentum 0 --weight-decay 0 --no-decay-norm "
        "--crop-padding 2 --no-flip --seed 5 --device cpu --precision fp32 --no-compile --evaluate-every 0 "
        "--log-every 3 --no-cuda-graphs --sync-norm --ranks 1 --schedule steps --image-size 64".split())
    assert options.model_options == [("width", 32), ("depth", 2)]
    assert options.norm_options == [("norm", "batch_norm"), ("eps", 1e-3)]
    assert options.activation == ("relu", "tanh") and options.placement == "before"
    assert (options.decay_norm, options.flip, options.crop_padding) == (False, False, 2)
    assert {field.name for field in fields(train.TrainConfig)} <= set(vars(options))
    # What is not given is left to TrainConfig, so that defaults stand in one place.
    assert not set(vars(_train_options.train_parser().parse_args([]))) & set(_train_options.HELP)


@pytest.mark.parametrize("text, value", [
    ("widths=32,64", (32, 64)), ("eps=1e-3", 1e-3), ("gamma=None", None), ("sync=False", False),
    ("gamma=after", "after"), ("x=a=b", "a=b"),
])
def test_values_of_options_are_literals_or_strings(text, value):
    assert _train_options._pair(text) == (text.split("=")[0], value)


@pytest.mark.parametrize("arguments, words", [
    ([], ["command"]),
    (["fly"], ["fly", "train"]),
    (["train", "--epochs", "x"], ["--epochs", "x"]),
    (["train", "--epoch", "3"], ["--epoch"]),
    (["train", "--epochs", "0"], ["epochs", "at least 1"]),
    (["train", "--model", "lenet"], ["lenet", "convnet"]),
    (["train", "--activation", "rlu"], ["rlu", "relu"]),
    (["train", "--placement", "left"], ["left", "before"]),
    (["train", "--activation", "relu,tanh"], ["activation", "2"]),
    (["train", "--data", "nothing.npz"], ["nothing.npz"]),
    (["train", "--data", "mnist"], ["mnist", "digits"]),
    (["train", "--device", "abacus"], ["abacus"]),
    (["train", "--model-option", "width=3"], ["width", "--model-option"]),
    (["train", "--model-option", "widths=-8,8"], ["widths", "-8"]),
    (["train", "--norm-option", "eps=small"], ["--norm-option"]),
    (["train", "--norm-option", "colour=3"], ["colour"]),
    (["train", "--norm-option", "nonsense"], ["KEY=VALUE", "nonsense"]),
    (["train", "--train-images", "5000"], ["5000", "1415"]),
    (["bench", "--repeats", "2"], ["repeats", "5"]),
    (["bench", "--only", "heat"], ["heat", "block"]),
])
def test_errors_of_the_user_are_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    out, err = _lines(capsys)
    assert out == [] and len(err) == 1 and err[0].startswith("cbn-lab: error: ")
    assert all(word in err[0] for word in words), err[0]
    assert not list(tmp_path.rglob("*.json"))


def test_an_output_folder_that_is_a_file_is_an_error_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main([*SMALL, "--out", str(tmp_path / "file")]) == 2
    _, err = _lines(capsys)
    assert len(err) == 1 and "file" in err[0]


def test_a_diverged_run_says_so_keeps_its_record_and_has_its_own_exit_code(tmp_path, capsys):
    assert cli.main([*SMALL, "--lr", "1e30", "--json", "--out", str(tmp_path)]) == 3
    out, err = _lines(capsys)
    result = json.loads(out[-1])
    assert result["status"] == "diverged" == runs.load(result["record"]).status
    assert result["test_accuracy"] is None
    assert err[-1].startswith("cbn-lab: error: the loss is") and "learning rate" in err[-1]


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise TypeError("a bug")

    monkeypatch.setattr(train, "fit", broken)
    with pytest.raises(TypeError, match="a bug"):
        cli.main(["train", "--out", str(tmp_path)])


def test_download_only_when_asked(tmp_path, capsys, monkeypatch):
    asked = []
    load = data.load
    monkeypatch.setattr(data, "load", lambda *a, download, **k: asked.append(download) or load(*a, **k))
    cli.main([*SMALL, "--out", str(tmp_path)])
    cli.main([*SMALL, "--out", str(tmp_path), "--download"])
    assert asked == [False, False, True, True]


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with _train_command.Bar() as bar:
        bar(train.Progress(5, 10, 0.5, 1.25, 0.5, 0.1, 100.0, 30.0))
        bar(train.Progress(10, 10, 1.0, 0.75, 0.625, 0.1, 100.0, 60.0, {"test_accuracy": 0.7}))
    shown = terminal.getvalue()
    assert "10/10" in shown and "loss 0.750" in shown and "62.5 %" in shown and "test accuracy 70.0 %" in shown


# Stopped and resumed


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert cli.main([*LONG, "--out", str(folder)]) == 0
    [path] = folder.iterdir()
    return runs.load(path)


def _untimed(curve):
    return [{k: v for k, v in entry.items() if k not in ("seconds", "images_per_second")} for entry in curve]


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX systems do")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_stopped_run_resumes_and_ends_as_if_it_had_not_been_stopped(name, uninterrupted, tmp_path, capsys):
    arguments = [*LONG, "--out", str(tmp_path)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # the order of sums depends on it
    process = subprocess.Popen([sys.executable, "-m", "held", str(tmp_path), *arguments], text=True,
                               env=held.environment() | threads, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    held.waiting(tmp_path, process)
    process.send_signal(signal.Signals[name])
    out, err = process.communicate(timeout=140)
    assert "Traceback" not in err
    if name != "SIGKILL":
        result = json.loads(out.splitlines()[-1])
        assert process.returncode == 130 and "--resume" in err.splitlines()[-1]
        assert ("stopped by SIGTERM;" in err) == (name == "SIGTERM")
        assert result["status"] == "interrupted" == runs.load(result["record"]).status
    else:
        assert process.returncode == -signal.Signals[name]

    [checkpoint] = tmp_path.glob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)
    assert 0 < state["step"] < uninterrupted.curve[-1]["step"]
    assert cli.main([*arguments, "--resume"]) == 0
    _, err = _lines(capsys)
    assert not any("beginning" in line for line in err)
    run = runs.load(checkpoint.with_suffix(".json"))
    assert run.status == "finished" and not checkpoint.exists()
    assert _untimed(run.curve) == _untimed(uninterrupted.curve)
    assert run.curve[0]["seconds"] == pytest.approx(state["curve"][0]["seconds"], rel=1e-5), "it started again"
    for key, value in uninterrupted.final.items():
        assert key == "images_per_second" or run.final[key] == value


def test_resuming_a_finished_run_leaves_it_alone(tmp_path, capsys):
    arguments = [*SMALL, "--json", "--resume", "--out", str(tmp_path)]
    cli.main(arguments)
    out, err = _lines(capsys)
    assert "beginning" in err[0]
    record = tmp_path / json.loads(out[-1])["record"]
    before = record.read_text()
    assert cli.main(arguments) == 0
    assert record.read_text() == before
    assert "finished" in _lines(capsys)[1][0]


# doctor


def test_doctor_reports_versions_device_data_and_the_network(capsys):
    assert cli.main(["doctor"]) == 0
    text = "\n".join(_lines(capsys)[0])
    for word in ("python", "torch", "ipywidgets", "tier", "threads", "bf16", "digits.npz", "network", "not used"):
        assert word in text, word
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(_lines(capsys)[0][-1])
    assert report["device"]["tier"] in ("cpu", "cpu with bf16", "gpu")
    assert report["data"]["digits"] == "digits.npz"


def test_doctor_reports_what_is_absent_and_does_not_fail(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setitem(sys.modules, "torch", None)  # what a failing import looks like
    monkeypatch.setattr(data, "available", lambda root: 1 / 0)
    report = doctor.report(tmp_path)
    assert report["versions"]["no-such-package"] is None
    assert "ModuleNotFoundError" in report["device"]["problem"]
    assert "ZeroDivisionError" in report["data"]["digits"]
    assert "missing" in doctor.text(report)


def test_doctor_says_minutes_and_where_they_were_measured(tmp_path, monkeypatch):
    measured = {"metadata": {"cbn_lab": {"minutes": 1.5, "device": "a CPU, 2 threads"}}}
    (tmp_path / "00_a.ipynb").write_text(json.dumps(measured))
    (tmp_path / "01_b.ipynb").write_text("{}")
    (tmp_path / "02_c.ipynb").write_text("no json")
    monkeypatch.setattr(doctor, "NOTEBOOKS", tmp_path)
    text = doctor.text(doctor.report()).splitlines()[-3:]
    assert [line.split(None, 1) for line in text] == [
        ["00_a", "about 1.5 min on a CPU, 2 threads"], ["01_b", "not measured yet"], ["02_c", "not measured yet"]]


def test_command_line_starts_without_torch():
    code = "import sys; from cbn_lab import cli, doctor; sys.exit(not {'torch', 'PIL'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
