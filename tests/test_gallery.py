"""Each bug of the gallery fails exactly the rows of the conformance table that are listed here, and no other."""

import doctest
import re

import pytest
import torch

from cbn_lab import norms
from cbn_lab.norms import conformance, gallery

TRAIN_VALUES = {"axes", "defaults", "eps_inside_the_root", "train_and_eval_alternate", "gradients",
                "batch_of_one_image", "constant_channel", "memory_layout", "graph_capture", "export", "copies", "moves",
                "affine_false"}
STATISTICS = {"momentum_weighs_the_update", "momentum_none_averages", "train_and_eval_alternate",
              "grad_mode_is_not_train_mode", "batch_of_one_image", "mean_offset", "constant_channel", "bfloat16",
              "float16", "autocast", "memory_layout", "buffers_in_place", "graph_capture", "export", "copies", "moves",
              "affine_false"}
FAILS = {
    "EpsOutsideTheRoot": TRAIN_VALUES | {
        "biased_variance_normalizes", "eval_uses_running_statistics", "grad_mode_is_not_train_mode", "state_dict",
        "no_running_statistics"},
    "StoresBiasedVariance": STATISTICS | {"unbiased_variance_is_stored"},
    "OneMeanForAllChannels": STATISTICS | TRAIN_VALUES | {
        "biased_variance_normalizes", "unbiased_variance_is_stored", "no_running_statistics"},
    "DecidesByGradMode": {
        "eps_inside_the_root", "eval_uses_running_statistics", "train_and_eval_alternate",
        "grad_mode_is_not_train_mode", "empty_batch", "bfloat16", "float16", "autocast", "memory_layout", "export",
        "state_dict"},
    "NormalizesByUnbiasedVariance": TRAIN_VALUES | {
        "biased_variance_normalizes", "grad_mode_is_not_train_mode", "mean_offset", "float16", "autocast",
        "no_running_statistics"},
    "MomentumReversed": STATISTICS | {"defaults"},
    "OnePassVariance": {"mean_offset"},
    "ConstantStatistics": {
        "gradients", "double_backward", "train_and_eval_alternate", "batch_of_one_image", "constant_channel",
        "bfloat16", "float16", "copies", "moves", "affine_false", "no_running_statistics"},
    "RebindsBuffers": {"buffers_in_place"},
    "KeepsTheGraph": {"buffers_in_place", "train_and_eval_alternate"},
}
BUGS = gallery.SUSPECTS.values()


def failed(layer) -> set[str]:
    return {row.name for row in conformance.check(layer) if not row.passed}


def test_the_correct_layer_passes_the_whole_table():
    assert failed(gallery.Correct) == set()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.layer.__name__)
def test_a_bug_fails_exactly_its_rows(bug):
    found = failed(bug.layer)
    if bug.layer is gallery.RebindsBuffers:
        found.discard("graph_capture")  # torch 2.11 does not export a buffer that is rebound, later versions do
    assert found == FAILS[bug.layer.__name__]


def test_the_rows_that_name_the_rule_are_among_those_that_fail():
    assert {bug.layer.__name__ for bug in BUGS} == set(FAILS)
    for bug in BUGS:
        assert bug.rows and set(bug.rows) <= FAILS[bug.layer.__name__]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.layer.__name__)
def test_a_bug_is_one_short_method_that_does_not_give_itself_away(bug):
    shown = gallery.difference(bug.layer)
    assert shown.count("def ") == 1 and len(shown.splitlines()) <= 4
    assert bug.layer.__name__ not in shown and '"""' not in shown
    assert bug.layer.__doc__ and re.search(r"#\d+|d2l-en|labml|common slip|Ioffe", bug.layer.__doc__)


def test_fixing_is_taking_the_method_of_the_correct_layer():
    for bug in BUGS:
        method = next(name for name, value in vars(bug.layer).items() if callable(value))
        fixed = type("Fixed", (bug.layer,), {method: getattr(gallery.Correct, method)})
        broken = sorted(FAILS[bug.layer.__name__] - {"copies"})  # pickle looks for a class by its name
        assert all(row.passed for row in conformance.check(fixed, broken))


def test_one_pass_variance_falls_to_minus_sixteen_and_below_at_a_mean_of_ten_thousand():
    x = 1e4 + torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    _, var = gallery.OnePassVariance(256, 1).moments(x, (0,))
    assert var.min() <= -16
    _, var = gallery.Correct(256, 1).moments(x, (0,))
    assert 0.3 < var.min() and var.max() < 2


def test_a_suspect_trains_in_a_network():
    norms.register("suspect", gallery.SUSPECTS["A"].layer)
    try:
        layer = norms.get("suspect", 4, 2, momentum=0.5)
        assert layer(torch.randn(2, 4, 3, 3)).shape == (2, 4, 3, 3)
    finally:
        norms._REGISTRY.pop("suspect")


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(gallery)
    assert result.attempted == 2 and result.failed == 0
