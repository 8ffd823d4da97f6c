"""What is said of the ablation's records: pairs, the rule that decides, and tables that name what is missing."""

from pathlib import Path

import pytest

from cbn_lab import ablation, evidence, norms, runs
from cbn_lab.config import TrainConfig
from cbn_lab.figures import Table


def record(activation, seed, accuracy, row="gamma_9x", **final):
    config = ablation.long(row, activation, seed).resolved().record()
    provenance = {"device": "", "versions": {}, "commit": None, "date": "", "data_sources": {}}
    return runs.Run(config, [], {"train_loss": 1.0, "validation_accuracy": accuracy} | final, provenance)


def test_structures_are_compared_in_pairs_and_by_the_protocols_rule():
    gains = [0.01, 0.03, 0.02, 0.02, 0.01, 0.03, 0.02, 0.02, 0.01, 0.03]
    keys = [(f, seed) for f in ablation.ACTIVATIONS for seed in (0, 1)]
    reference = [record(f, seed, 0.5 + 0.01 * seed) for f, seed in keys]
    better = [record(f, seed, 0.5 + 0.01 * seed + g) for (f, seed), g in zip(keys, gains, strict=True)]
    comparison = evidence.compare(better, [*reference, record("tanh", 2, 0.9)])
    assert comparison.mean == pytest.approx(2.0)
    assert comparison.standard_error == pytest.approx(100 * (sum((g - 0.02) ** 2 for g in gains) / 9 / 10) ** 0.5)
    assert (comparison.seeds, len(comparison.gains)) == (2, 10)
    assert comparison.convincing
    assert not evidence.compare(reference, better).convincing
    one_seed = [run for run in better if run.config["seed"] == 0]
    assert not evidence.compare(one_seed, reference).convincing
    assert evidence.compare(better, []).gains == {}


def test_the_tables_keep_settings_apart():
    long = record("tanh", 0, 0.5)
    small = runs.Run(ablation.small("rms", "tanh", 0).resolved().record(), [], {}, long.provenance)
    stopped = runs.Run(long.config, [], {}, long.provenance, "diverged")
    foreign = runs.Run(long.config | {"lr": 0.3}, [], {}, long.provenance)
    assert evidence.of_setting([small, long, stopped, foreign], train_images=45_000) == [long]
    assert evidence.of_setting([small, long], train_images=20_000) == [small]
    assert evidence.of_setting([small, long], train_images=20_000, decay_norm=False) == []


def test_tables_say_gains_seeds_and_what_is_missing():
    table = [record("tanh", seed, 0.5, "vanilla", test_accuracy=0.50 + seed / 100, train_loss=1.25) for seed in (0, 1)]
    table += [record("tanh", 0, 0.5, test_accuracy=0.53), record("tanh", 1, 0.5, test_accuracy=0.506)]
    assert evidence.gains(table, "gamma_9x", "tanh") == pytest.approx([3.0, -0.4])
    heading, row = evidence.gain_table(table)
    assert row[0] == ablation.ROWS["gamma_9x"].label
    assert dict(zip(heading, row, strict=True))["tanh"] == "+1.3 (1 of 2)"
    assert dict(zip(heading, row, strict=True))["relu"] == "-"
    added = evidence.added_table("gamma_9x", "vanilla", small=table, long=[])
    assert added[1][2] == "+1.3 (1 of 2)"
    assert added[2] == ["long", *"-----"]
    beside = {line[0]: line[1:] for line in evidence.abstract_table(small=table, long=[])}
    assert beside["tanh"] == ["more than 4.5", "-0.4 to +3.0 (n = 2)", "not recorded"]
    results = {line[0]: line[1:] for line in evidence.result_table(table, "small")}
    assert results["tanh"] == ["50.5", "51.8 (1 of 2)", "1.250", "1.000 (2 of 2)"]
    verdicts = evidence.verdict_table([*table, record("tanh", 0, 0.6, "gamma_4x")], "long", decisive=True)
    assert verdicts[1][1:] == ["+10.00", "inf (1 pairs)", "too few seeds to decide"]
    assert verdicts[2][1:] == ["-", "-", "not recorded"]


def test_the_defaults_follow_from_the_records_by_the_protocol():
    """Rules 2 and 4 of results/PROTOCOL.md, applied to what is recorded."""
    records = runs.load_all(Path(__file__).parents[1] / "results" / "ablation")
    long = evidence.of_setting(records, train_images=45_000)
    ours = evidence.of_row(long, evidence.DEFAULT)
    better = [row for row in ablation.CANDIDATES if row != evidence.DEFAULT
              and (c := evidence.compare(evidence.of_row(long, row), ours)).gains and c.convincing]
    assert not better
    default = norms.CompleteBatchNorm2d(1)
    assert {"shift_lr_multiplier": default.shift_lr_multiplier} == ablation.ROWS[evidence.DEFAULT].options
    assert default.gamma_after is not None and default.gamma_before is None
    small = evidence.of_row(evidence.of_setting(records, train_images=20_000), evidence.DEFAULT)
    undecayed = evidence.compare(evidence.of_setting(records, train_images=20_000, decay_norm=False), small)
    assert TrainConfig().decay_norm != undecayed.convincing


def test_a_table_is_markdown_and_aligned_text():
    table = Table([("f", "E f²"), ("tanh", 0.394)])
    assert table._repr_markdown_() == "| f | E f² |\n|---|---|\n| tanh | 0.394 |"
    assert repr(table) == "f     E f²\ntanh  0.394"
    with pytest.raises(ValueError, match="rows of one length"):
        Table([("a", "b"), ("c",)])
