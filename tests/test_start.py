"""The recorded runs of notebook 00: all there, made by this code, and put into words correctly."""

from dataclasses import replace
from statistics import fmean

import pytest

from cbn_lab import figures, runs, start
from cbn_lab.train import train

RECORDS = start.records()


def _pair(seeds=(0, 1, 2)):
    return [run for run in RECORDS if run.config["activation"] == "sigmoid" and run.config["seed"] in seeds
            and run.config["placement"] in ("before", "complete")]


def test_every_planned_run_is_recorded_once_from_a_clean_commit():
    planned = [runs.name(config.resolved().record()) for config in start.plan()]
    assert [runs.name(run.config) for run in RECORDS] == planned and len(set(planned)) == 90
    for run in RECORDS:
        assert run.status == "finished" and not run.provenance["commit"].endswith("+")
        assert len(run.curve) <= 30


def test_a_recorded_run_can_be_made_again():
    """The first epoch, since rounding differs between processors; a shift multiplier of 4 for 9 is 1e-3 off."""
    run = next(r for r in RECORDS if (r.config["activation"], r.config["placement"]) == ("sigmoid", "complete"))
    again = [progress.loss for progress, _ in zip(train(start.config("sigmoid", "complete")), range(3), strict=False)]
    assert again == pytest.approx([entry["loss"] for entry in run.curve[:3]], rel=2e-4)


def test_the_experiment_falls_back_on_the_digits(tmp_path, monkeypatch):
    monkeypatch.setattr(start.data, "available", lambda root: {"cifar10": "missing: no file"})
    assert start.experiment() == [start.config("sigmoid", "before"), start.config("sigmoid", "complete")]
    monkeypatch.setattr(start.data, "available", lambda root: {"cifar10": "cifar10.npz"})
    before, complete = start.experiment(seed=4)
    assert before == replace(complete, placement="before") and (before.data, before.seed) == ("cifar10", 4)


def test_missing_records_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "cbn_lab" / "runs.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(runs.RecordError, match="open the notebook inside a copy of the repository"):
        start.records()


def test_the_sentence_is_made_of_the_numbers():
    said = start.sentence(_pair())
    ours, theirs = ([100 * r.final["test_accuracy"] for r in _pair() if r.config["placement"] == p]
                    for p in ("complete", "before"))
    higher = sum(a > b for a, b in zip(ours, theirs, strict=True))
    assert f"test accuracy {fmean(ours):.1f} % ({min(ours):.1f} to {max(ours):.1f}, 3 seeds) with complete" in said
    assert f"against {fmean(theirs):.1f} %" in said and said.endswith(f"higher in {higher} of 3 seeds.")
    assert "lower in 3 of 3 seeds; " in said and "seed" not in start.sentence(_pair([0]))


def test_what_the_notebook_says_of_the_records_holds():
    losses = {(run.config["placement"], run.config["seed"]): run.final["train_loss"] for run in _pair()}
    assert all(losses["complete", seed] < losses["before", seed] / 2 for seed in (0, 1, 2))
    gains = start.gains(RECORDS)["complete"]
    assert all(gain > 0 for gain in gains["sigmoid"])
    assert all(min(gains[name]) < 0 < max(gains[name]) for name in ("tanh", "relu", "selu", "swish"))
    without = figures.accuracies(RECORDS, "placement", "test_accuracy")["none"]
    assert max(without["sigmoid"].values()) < 12 and min(without["selu"].values()) > 90


def test_the_sentence_compares_only_what_is_finished():
    pair = _pair([0])
    assert "nothing to compare" in start.sentence([pair[0], replace(pair[1], status="interrupted")])
    assert "nothing to compare" in start.sentence([])
