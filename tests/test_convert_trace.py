"""What a forward may do besides computing: checks on shapes pass, what a graph would do wrongly is refused."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_convert import SMALL, assert_same_function, shaken
from test_convert_own import Two

from cbn_lab.convert import TraceError, convert


def asserts(self, x):
    assert x.shape[1] == 3
    assert x.dim() == 4 and x.size(1) == 3, f"expected [N, 3, H, W], got {x.shape}"
    return Two.forward(self, x)


def asserts_negations(self, x):
    assert not x.shape[1] != 3
    assert not (x.dim() < 2 or x.shape[0] == 0)
    assert not x.isnan().any()
    return Two.forward(self, x)


def asserts_ranges(self, x):
    assert x.dim() in (3, 4)
    assert x.dim() not in (1, 2)
    assert 0 < x.shape[1] <= 4
    assert all(size > 0 for size in (x.shape[2], x.shape[3]))
    return Two.forward(self, x)


def raises(self, x):
    if x.dim() != 4:
        raise ValueError(f"expected 4 dimensions, got {x.dim()}")
    if not x.shape[1] == 3:
        raise ValueError("expected 3 channels")
    if x.shape[2] < 4 or x.shape[3] < 4:
        text = "too small"
        raise ValueError(text)
    elif x.shape[2] > 1000:
        raise ValueError("too large")
    return Two.forward(self, x)


def asserts_between(self, x):
    z = self.conv1(x)
    n, c, h, w = z.shape
    assert c == 6 and h * w == 9
    assert z.size(3) % 2 == 1
    return self.second(F.relu(self.bn1(z))).reshape(n, 4, h * w)


@pytest.mark.parametrize("forward", [asserts, asserts_negations, asserts_ranges, raises, asserts_between])
def test_checks_on_shapes_pass_and_leave(forward):
    given = shaken(type("Checking", (Two,), {"forward": forward})())
    converted = convert(given, "before")
    if forward is not asserts_between:  # there the first weight layer's shape is read for the reshape
        assert len(converted.report.blocks) == 2 and all("conv" in block.given for block in converted.report.blocks)
    assert_same_function(given, converted, SMALL)


def test_a_check_on_what_stands_inside_of_a_block_does_not_break_it():
    class Checking(Two):
        def first(self, x):
            z = self.conv1(x)
            assert z.shape[1] == 6
            return self.bn1(z)

    converted = convert(shaken(Checking()), "complete", "tanh")
    assert [block.given for block in converted.report.blocks] == ["conv1 -> bn1 -> ReLU", "conv2 -> bn2 -> ReLU"]


def chooses(self, x):
    if x.dim() == 3:
        x = x[None]
    return Two.forward(self, x)


def chooses_or_raises(self, x):
    if x.dim() == 4:
        return Two.forward(self, x)
    raise ValueError("expected 4 dimensions")


def chooses_inside_of_an_assert(self, x):
    assert (size := max(x.shape[2], 7)) > 5
    return Two.forward(self, x) * size


@pytest.mark.parametrize("forward", [chooses, chooses_or_raises, chooses_inside_of_an_assert])
def test_conditions_that_choose_what_is_computed_are_refused(forward):
    with pytest.raises(TraceError, match="cannot trace Choosing .*control flow.* one by one"):
        convert(type("Choosing", (Two,), {"forward": forward})(), "before")


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), random.random, np.random.rand])
def test_random_numbers_that_would_be_drawn_once_are_refused(draw):
    class Noisy(Two):
        def forward(self, x):
            return super().forward(x) + float(draw())

    with pytest.raises(TraceError, match="forward of Noisy draws random numbers .* use nn.Dropout or torch.rand_like"):
        convert(Noisy(), "before")


def test_random_numbers_shaped_like_a_tensor_are_drawn_each_time():
    class Noisy(Two):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    given = shaken(Noisy())
    assert_same_function(given, convert(given, "before"), SMALL)


def counts(self, x):
    self.steps += 1
    return Two.forward(self, x)


def averages(self, x):
    self.average = self.average * 0.9 + 0.1
    return Two.forward(self, x) * self.average


def averages_in_place(self, x):
    self.average += 1
    return Two.forward(self, x) * self.average


@pytest.mark.parametrize("forward, changed", [(counts, "steps"), (averages, "average"), (averages_in_place, "average")])
def test_a_forward_that_changes_the_network_is_refused(forward, changed):
    given = type("Counting", (Two,), {"forward": forward})()
    given.steps = 1000
    given.register_buffer("average", torch.ones(()))
    with pytest.raises(TraceError, match=f"forward of Counting changes {changed}, which the new network would not"):
        convert(given, "before")
    assert (given.steps, given.average) == (1000, 1)


def test_a_forward_that_reads_the_network_is_not():
    class Scaling(Two):
        def forward(self, x):
            self.steps = 500 + 500  # as it was, though not the same object
            return super().forward(x) * self.average + self.steps

    given = shaken(Scaling())
    given.steps, given.missing = 1000, float("nan")
    given.register_buffer("average", torch.full((), 3.0))
    assert_same_function(given, convert(given, "before"), SMALL)


@pytest.mark.parametrize("mode", [torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_modes_that_the_graph_would_not_have_are_refused(mode):
    class Frozen(Two):
        def forward(self, x):
            with mode():
                x = F.relu(self.first(x))
            return self.second(x)

    given = Frozen()
    with pytest.raises(TraceError, match="forward of Frozen computes under torch.no_grad, enable_grad or autocast"):
        convert(given, "before")
    with mode():  # around all
        assert len(convert(Two(), "before").report.blocks) == 2


def test_a_tensor_that_is_changed_by_an_operator_and_read_again_is_refused():
    class Aliased(Two):
        def forward(self, x):
            y = z = self.conv1(x)
            z += 1
            z *= 2
            return self.second(F.relu(self.bn1(z)) + y)

    class Read(Two):
        def forward(self, x):
            y = self.conv1(x)
            z = y.mean()
            y *= 2
            y /= 3
            return self.second(F.relu(self.bn1(y)) + z)

    with pytest.raises(TraceError, match=r"forward of Aliased reads a tensor again .* write x = x \+ y, or"):
        convert(Aliased(), "before")
    given = shaken(Read())
    assert_same_function(given, convert(given, "before"), SMALL)
