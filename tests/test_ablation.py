"""The ablation: rows and runs are what the protocol says."""

import re
from collections import Counter
from pathlib import Path

import pytest

from cbn_lab import ablation, norms, runs
from cbn_lab.train import TrainConfig

PROTOCOL = (Path(__file__).parents[1] / "results" / "PROTOCOL.md").read_text()


def test_the_plan_holds_every_row_activation_and_seed_once():
    plan = ablation.plan()
    small = [c for c in plan if c.train_images == 20_000 and c.decay_norm]
    long = [c for c in plan if c.train_images == 45_000]
    assert len(small) == 16 * 5 * 3
    assert len(long) == 6 * 5 * 3
    assert len(plan) - len(small) - len(long) == 5 * 3
    names = [runs.name(c.resolved().record()) for c in plan]
    assert max(Counter(names).values()) == 1


def test_the_protocol_states_what_the_code_runs():
    config = ablation.small("vanilla", "relu", 0).resolved()
    assert f"all {len(ablation.ROWS)} rows" in PROTOCOL
    assert f"one-cycle peak learning rate {config.lr}" in PROTOCOL
    assert f"batch {config.batch_size}" in PROTOCOL
    assert (config.validation_images, ablation.long("vanilla", "relu", 0).validation_images) == (10_000, 5_000)
    assert (config.crop_padding, config.flip) == (0, True)


@pytest.mark.parametrize("row", ablation.ROWS.values(), ids=ablation.ROWS)
def test_a_row_is_what_its_label_says(row):
    layer, label = norms.CompleteBatchNorm2d(4, **row.layer), row.label.removesuffix(" (vanilla)")
    fast = re.findall(r"(\d+)x shift", label)
    assert layer.shift_lr_multiplier == float(fast[0] if fast else 1)
    if fast:
        before, after = label.split("act")
        assert [layer.pre_shift is not None, layer.post_shift is not None] == ["shift" in before, "shift" in after]
    if "standardize" in label:
        assert (layer.gamma_before is not None or layer.gamma_after is not None) == ("gamma" in label)
        assert (layer.standardize_before is not None) == (label.index("standardize") < label.index("act"))
    assert layer.bias_before() is None or "bias" in label or fast or "act, BN" in label
    standardize = layer.standardize_after or layer.standardize_before
    assert standardize.center == ("RMS" not in label)


def test_a_row_is_recognized_in_a_record():
    for key in ablation.ROWS:
        assert ablation.row_of(ablation.small(key, "tanh", 1).resolved().record()) == key
    assert ablation.row_of(TrainConfig(placement="none").record()) is None


def test_an_unknown_row_is_refused():
    with pytest.raises(ValueError, match="unknown row 'rsm' of the ablation; known: vanilla"):
        ablation.small("rsm", "relu", 0)
