"""The four ways to a variance, their errors, and the pictures of statistics."""

import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cbn_lab import figures
from cbn_lab.exercises import exercise
from cbn_lab.norms import variance

MERGE = exercise("1.5").spec.reference
METHODS = {"one pass": variance.one_pass, "two passes": variance.two_pass, "Welford": variance.welford,
           "in parts": lambda x: variance.in_parts(x, MERGE)}


@settings(deadline=None)
@given(n=st.integers(2, 30), seed=st.integers(0, 99))
def test_they_agree_in_float64_where_the_mean_is_small(n, seed):
    x = 3 * torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1
    for method in METHODS.values():
        torch.testing.assert_close(method(x), x.var(0, correction=0), rtol=1e-10, atol=1e-12)


def test_only_the_difference_of_squares_loses_its_digits():
    worst = {name: max(variance.relative_errors(method, 1e4)) for name, method in METHODS.items()}
    assert worst["one pass"] > 1
    assert all(error < 2e-3 for name, error in worst.items() if name != "one pass")


def test_the_error_is_that_of_the_method_and_not_of_the_rounded_values():
    assert max(variance.relative_errors(lambda x: variance.two_pass(x.double()).float(), 1e6)) < 1e-7


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(variance)
    assert result.attempted > 0 and result.failed == 0


def test_variance_errors_are_drawn_and_said():
    figure = figures.variance_errors({"a": {1.0: [1e-6, 3e-6, 2e-6], 100.0: [0.0, 0.0, 5.0]}})
    (axis,) = figure.fig.axes
    line = next(line for line in axis.lines if line.get_label() == "a")
    assert list(line.get_ydata()) == pytest.approx([2e-6, 1e-9])
    assert "a: from 2e-06 at a mean of 1 to 1e-09 at 100" in figure.alt


def test_running_paths_start_at_the_start_and_show_the_expectation():
    figure = figures.running_paths({0.5: [1.0, 1.5]}, start=0.0, target=2.0)
    (axis,) = figure.fig.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
    assert drawn["momentum 0.5"] == [0.0, 1.0, 1.5] and drawn["_expected"] == [0.0, 1.0, 1.5]
    assert "1.50 after 2 batches (expected 1.50)" in figure.alt


def test_seed_paths_draw_every_seed_and_their_mean():
    figure = figures.seed_paths({"b": [[(1, 2.0), (2, 4.0)], [(1, 4.0), (2, 8.0)]]}, xlabel="steps", ylabel="y")
    (axis,) = figure.fig.axes
    assert [list(line.get_ydata()) for line in axis.lines] == [[2.0, 4.0], [4.0, 8.0], [3.0, 6.0]]
    assert figure.alt.startswith("y against steps, 2 seeds") and "from 3 at 1 to 6 at 2" in figure.alt
    assert math.isclose(axis.lines[2].get_linewidth(), 2.2)
