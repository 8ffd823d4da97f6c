"""What sweeps say: the table, the bar with the time that remains, the dry run, and JSON."""

import io
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from cbn_lab import _tasks, activations, cli, runs, sweep, sweep_preview, sweep_report
from cbn_lab.config import TrainConfig
from cbn_lab.train import fit

TINY = TrainConfig(model_options={"widths": [4]}, train_images=256, batch_size=64, epochs=1, device="cpu",
                   precision="fp32")
PLAN = [replace(TINY, placement=placement, seed=seed) for seed in (0, 1) for placement in ("before", "complete")]
PROVENANCE = {"device": "", "versions": {}, "commit": None, "date": "", "data_sources": {}}


def _name(config) -> str:
    return runs.name(config.resolved().record())


def _run(seed=0, accuracy=0.5, status="finished", **settings):
    final = {"test_accuracy": accuracy, "train_loss": accuracy} if status == "finished" else {}
    return runs.Run(replace(TINY, seed=seed, **settings).record(), [], final, PROVENANCE, status)


def test_the_table_has_a_row_for_each_combination_of_what_varies():
    records = [_run(0, 0.5), _run(1, 0.75), _run(0, 0.25, placement="before"), _run(1, status="diverged", lr=1.0)]
    head, *rows = sweep_report.table(records)
    assert head.split() == ["placement", "lr", "test", "accuracy", "(%)", "range", "train", "loss", "seeds"]
    assert [row.split() for row in rows] == [
        ["complete", "0.1", "62.50", "50.00", "to", "75.00", "0.625", "2"],
        ["before", "0.1", "25.00", "25.00", "to", "25.00", "0.250", "1"],
        ["complete", "1", "-", "-", "-", "0", "1", "diverged"]]
    assert sweep_report.table([]) == ["nothing is recorded"]


def test_held_out_images_are_what_the_table_shows_where_all_have_them():
    held_out = replace(_run(), final={"validation_accuracy": 0.1, "test_accuracy": 0.9, "train_loss": 1.0})
    assert "validation accuracy" in sweep_report.table([held_out])[0]
    assert "test accuracy" in sweep_report.table([held_out, _run(1)])[0]


def test_the_remaining_time_follows_the_work_and_the_kind():
    rates = {"a": 2.0, "b": 4.0}
    assert sweep_report.remaining([("a", 10), ("b", 10)], rates, jobs=1) == 60
    assert sweep_report.remaining([("a", 10), ("b", 10)], rates, jobs=3) == 40, "not less than the longest run"
    assert sweep_report.remaining([("c", 10)], rates, jobs=1) == 30
    assert sweep_report.remaining([("c", 10)], {}, jobs=1) is None and sweep_report.remaining([], {}, 1) == 0
    assert sweep_report.work(replace(TINY, epochs=3)) == 3 * 256
    assert sweep_report.work(TrainConfig(data="cifar10", epochs=2, validation_images=5000)) == 90_000


def test_a_terminal_gets_one_bar_with_the_time_that_remains(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    tasks = _tasks.tasks([config.resolved() for config in PLAN], "out")
    with sweep_report.Bar(tasks, [], jobs=2) as bar:
        assert bar.remaining() is None
        bar.note(_tasks.Event(tasks[0].name, 0.5, 100.0))
        assert bar.remaining() == pytest.approx(350 / 2)
        bar.note(_tasks.Event(tasks[0].name, 1.0, 100.0, "finished", "well done"))
        bar.found(tasks[1].name)
        assert bar.remaining() == pytest.approx(100)
    shown = terminal.getvalue()
    assert "time unknown" in shown and "02:55 left" in shown and "1/4 well done" in shown and "2/4 runs" in shown


def test_a_dry_run_says_what_is_missing_and_how_long_it_takes_and_trains_nothing(tmp_path, monkeypatch, capsys):
    fit(PLAN[0], out=tmp_path)
    seconds = runs.load_all(tmp_path)[0].curve[-1]["seconds"]
    monkeypatch.setattr(sweep_preview, "timed", lambda *_: pytest.fail("the folder knows"))
    found = sweep_preview.preview(PLAN, tmp_path, jobs=1)
    assert found.seconds == pytest.approx(3 * seconds) and found.recorded == [_name(PLAN[0])]
    monkeypatch.undo()
    other = [replace(TINY, model="mlp", model_options={"width": 8}), replace(TINY, activation="tanh", epochs=4)]
    assert sweep.command([*PLAN, *other], tmp_path, jobs=1, dry_run=True, as_json=True) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["missing"]) == 5 and result["seconds"] > found.seconds
    assert len(list(tmp_path.iterdir())) == 1
    assert sweep.command([replace(TINY, data="nothing.npz")], tmp_path, jobs=1, dry_run=True) == 1
    assert "problem: nothing-" in (shown := capsys.readouterr().out) and "an unknown time" in shown


def test_a_dry_run_names_a_run_that_cannot_be_although_the_time_of_its_kind_is_known(tmp_path, capsys, monkeypatch):
    fit(PLAN[0], out=tmp_path)
    wrong = [replace(TINY, activation="rlu", seed=seed) for seed in (0, 1)]
    assert sweep.command([*PLAN, *wrong], tmp_path, jobs=1, dry_run=True) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
    assert line.startswith(f"problem: {_name(wrong[0])}: unknown activation 'rlu'"), "each reason once"
    register = partial(activations.register, "rlu", torch.nn.ReLU)
    monkeypatch.setattr(activations, "_REGISTRY", dict(activations._REGISTRY))  # and afterwards as it was
    assert not sweep_preview.preview([*PLAN, *wrong], tmp_path, jobs=2, prepare=register).problems


def test_json_holds_the_final_numbers_of_every_run(tmp_path, capsys):
    assert sweep.command(PLAN[:2], tmp_path, jobs=1, as_json=True) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["runs"]) == {_name(config) for config in PLAN[:2]} and result["trained"] == 2
    run = runs.load(tmp_path / f"{_name(PLAN[0])}.json")
    assert result["runs"][_name(PLAN[0])] == {"status": "finished"} | run.final


def test_the_example_runs_are_what_its_help_says(capsys):
    assert cli.main(["sweep", str(Path(__file__).parents[1] / "results" / "example_sweep.toml"), "--dry-run", "--jobs",
                     "1"]) == 0
    assert "16 missing" in capsys.readouterr().out
