"""The runs of notebook 07: what each group changes, and that the records are those runs."""

import pytest

from cbn_lab import guided, runs, start
from cbn_lab.ablation import SEEDS


def _changes(config, reference):
    ours, theirs = config.record(), reference.record()
    return {key for key in ours if ours[key] != theirs[key]}


@pytest.mark.parametrize(
    ("group", "allowed"),
    [("structure", {"norm_options"}), ("mixed", {"placement"}), ("depth", {"model", "model_options"}),
     ("batch", {"batch_size", "lr", "log_every"}), ("one_free", {"batch_size", "lr", "log_every", "placement"}),
     ("wide_end", {"batch_size", "lr", "log_every", "model_options"})],
)
def test_a_group_changes_one_thing_of_the_small_setting(group, allowed):
    for config in guided.GROUPS[group](1):
        placement = config.placement if isinstance(config.placement, str) else "before"
        assert _changes(config, start.config(config.activation, placement, 1)) == allowed


def test_no_run_stands_twice_in_the_plan_or_in_that_of_notebook_00():
    names = [runs.name(config.resolved().record()) for config in guided.plan() + start.plan()]
    assert len(set(names)) == len(names)


def test_smaller_batches_get_smaller_rates_and_as_many_records():
    for config in guided.batch(0):
        assert config.lr / config.batch_size == pytest.approx(0.1 / 128)
        assert 25 <= 1415 // config.batch_size * config.epochs / config.log_every <= 30


@pytest.mark.parametrize("group", list(guided.GROUPS))
def test_the_records_are_there_and_in_order(group):
    found = guided.records(group)
    assert len(found) == len(SEEDS) * len(guided.GROUPS[group](0))
    assert [run.config["seed"] for run in found] == sorted(run.config["seed"] for run in found)
    assert {run.status for run in found} <= {"finished", "diverged"}


def test_an_unknown_group_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown group 'width'.*known: structure, .*, wide_end"):
        guided.records("width")


def test_records_that_are_missing_are_left_out(tmp_path):
    assert guided.records("mixed", tmp_path) == []
