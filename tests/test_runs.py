"""Recorded runs: what is saved comes back; damaged or foreign records are refused with a reason."""

import json
import math
import subprocess
from dataclasses import replace

import pytest

from cbn_lab import runs

CONFIG = {"data": "digits", "model": "mlp", "activation": "tanh", "placement": "before", "epochs": 1, "batch_size": 8,
          "lr": 0.1, "seed": 3, "device": "cpu", "norm_options": {"widths": [1, 2]}}
PROVENANCE = {"device": "a CPU", "versions": {"torch": "2.11"}, "commit": None, "date": "2026-01-01",
              "data_sources": {}}
RUN = runs.Run(CONFIG, [{"step": 1, "epoch": 0.5, "loss": 1 / 3}],
               {"test_loss": 0.5, "test_accuracy": 0.9, "train_loss": 0.25, "images_per_second": 1234.5}, PROVENANCE)


def test_what_is_saved_comes_back(tmp_path):
    path = runs.save(RUN, tmp_path)
    loaded = runs.load(path)
    assert (loaded.config, loaded.final, loaded.provenance) == (CONFIG, RUN.final, PROVENANCE)
    assert loaded.status == "finished"
    assert loaded.curve[0]["loss"] == pytest.approx(1 / 3, abs=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    deeper = runs.save(RUN, tmp_path / "deeper")
    assert runs.load_all(tmp_path) == [loaded, runs.load(deeper)]


def test_the_name_is_readable_and_depends_on_every_setting():
    name = runs.name(CONFIG)
    assert name.startswith("digits-mlp-tanh-before-s3-")
    assert runs.name(dict(reversed(CONFIG.items()))) == name
    assert runs.name(CONFIG | {"norm_options": {"widths": (1, 2)}}) == name
    for key in CONFIG:
        assert runs.name(CONFIG | {key: "other"}) != name
    assert runs.name(CONFIG | {"activation": ["relu", "tanh"]}).startswith("digits-mlp-mixed-")


def test_settings_are_recorded_to_the_last_digit(tmp_path):
    config = CONFIG | {"lr": 1 / 3}
    path = runs.save(replace(RUN, config=config), tmp_path)
    assert runs.load(path).config == config
    assert path.stem == runs.name(runs.load(path).config)


def test_a_name_with_a_slash_stays_in_the_folder(tmp_path):
    path = runs.save(replace(RUN, config=CONFIG | {"activation": "mine/soft clip"}), tmp_path)
    assert path.parent == tmp_path
    assert path.name.startswith("digits-mlp-mine_soft_clip-before-s3-")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "record"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        runs.write_whole(path, fail)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("record", "old")]


def test_two_processes_write_under_different_temporary_names(tmp_path, monkeypatch):
    names = []
    for process in (1, 2):
        monkeypatch.setattr(runs.os, "getpid", lambda process=process: process)
        runs.write_whole(tmp_path / "record", lambda temporary: names.append(temporary) or temporary.touch())
    assert len(set(names)) == 2


def test_a_package_that_git_does_not_track_has_no_commit(tmp_path, monkeypatch):
    """Such as one installed into an environment inside another project's checkout."""
    package = tmp_path / ".venv" / "cbn_lab"
    package.mkdir(parents=True)
    module = package / "runs.py"
    module.touch()
    monkeypatch.setattr(runs, "__file__", str(module))
    assert runs.commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another project"], check=True)
    assert runs.commit() is None
    subprocess.run([*git, "add", "-f", str(module)], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "now tracked"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert runs.commit() == head[:12]
    module.write_text("changed")
    assert runs.commit() == head[:12] + "+"


def test_equal_settings_share_a_file(tmp_path):
    assert runs.save(RUN, tmp_path) == runs.save(replace(RUN, status="interrupted"), tmp_path)
    assert len(runs.load_all(tmp_path)) == 1


def test_numbers_that_are_not_finite_become_null(tmp_path):
    path = runs.save(replace(RUN, curve=[{"step": 1, "epoch": 1.0, "loss": math.nan}], status="diverged", final={}),
                     tmp_path)
    assert "NaN" not in path.read_text()
    assert runs.load(path).curve[0]["loss"] is None


def test_the_summary_says_what_and_where():
    assert RUN.summary() == ("digits, mlp, tanh, before, seed 3 on a CPU: test loss 0.500, test accuracy 90.0 %, "
                             "train loss 0.250, images per second 1,234 (finished)")


@pytest.mark.parametrize(("change", "message"), [
    (lambda r: r.pop("schema"), "expected an object with schema 1, got None"),
    (lambda r: r.update(schema=99), "got 99"),
    (lambda r: r.update(curve={}), "'curve' must be a list"),
    (lambda r: r.update(status="done"), "status must be one of finished, interrupted, diverged"),
    (lambda r: r["config"].pop("lr"), "'config' lacks lr"),
    (lambda r: r["provenance"].pop("device"), "'provenance' lacks device"),
    (lambda r: r["curve"].append({"step": 2}), "needs step, epoch and loss"),
    (lambda r: r["final"].clear(), "needs final.train_loss"),
])
def test_a_record_off_the_schema_is_refused(tmp_path, change, message):
    path = runs.save(RUN, tmp_path)
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(runs.RecordError, match=message) as error:
        runs.load_all(tmp_path)
    assert path.name in str(error.value)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(runs.RecordError, match="no record"):
        runs.load(tmp_path / "none.json")
    with pytest.raises(runs.RecordError, match="no folder"):
        runs.load_all(tmp_path / "none")
    path = runs.save(RUN, tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(runs.RecordError, match="not readable JSON"):
        runs.load(path)
    path.write_text("[1, 2]")
    with pytest.raises(runs.RecordError, match="got 'list'"):
        runs.load(path)


def test_provenance_names_device_versions_and_data():
    provenance = runs.provenance("cpu", {"train": "digits.npz"})
    assert provenance["device"].endswith("(CPU)")
    assert {"python", "torch", "numpy", "cbn_lab"} <= provenance["versions"].keys()
    assert provenance["data_sources"] == {"train": "digits.npz"}
