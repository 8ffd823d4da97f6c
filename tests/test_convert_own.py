"""Networks as people write them, not only as torchvision does: what `convert` must leave, and what it must say."""

import copy
from operator import attrgetter

import pytest
import torch
import torch.nn.functional as F
from test_convert import SMALL, assert_same_function, shaken
from torch import nn

from cbn_lab.convert import convert


class Two(nn.Module):
    """Two blocks, one after the other."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(6), nn.BatchNorm2d(4)

    def first(self, x):
        return self.bn1(self.conv1(x))

    def second(self, x):
        return F.relu(self.bn2(self.conv2(x)))

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


class AlsoTheNormInEval(Two):
    def forward(self, x):
        z = self.first(x)
        out = self.second(F.relu(z))
        return out if self.training else (out, z)


class AlsoTheWeightInEval(Two):
    def forward(self, x):
        z = self.conv1(x)
        out = self.second(F.relu(self.bn1(z)))
        return out if self.training else (out, z)


class AlsoTheNormInTraining(Two):
    def forward(self, x):
        z = self.first(x)
        out = self.second(F.relu(z))
        return (out, z) if self.training else out


class OtherActivationInEval(Two):
    def forward(self, x):
        z = self.first(x)
        return self.second(F.relu(z) if self.training else torch.tanh(z))


class NoActivationInEval(Two):
    def forward(self, x):
        z = self.first(x)
        return self.second(F.relu(z) if self.training else z)


class NoNormInEval(Two):
    def forward(self, x):
        return self.second(F.relu(self.first(x) if self.training else self.conv1(x)))


class TwiceInEval(Two):
    def forward(self, x):
        once = F.relu(self.first(x))
        return self.second(once if self.training else once + F.relu(self.first(x.flip(3))))


@pytest.mark.parametrize("network", [AlsoTheNormInEval, AlsoTheWeightInEval, AlsoTheNormInTraining,
                                     OtherActivationInEval, NoActivationInEval, NoNormInEval, TwiceInEval])
def test_what_the_two_modes_use_otherwise_is_left(network):
    given = shaken(network())
    converted = convert(given, "before")
    assert list(converted.report.kept) == ["bn1"] and len(converted.report.blocks) == 1
    assert_same_function(given, converted, SMALL)
    complete = convert(given, "complete", "tanh")
    complete(SMALL)  # in both modes
    assert complete.eval()(SMALL) is not None


def test_a_network_whose_modes_share_no_block_is_refused():
    class Nothing(nn.Sequential):
        def forward(self, x):
            z = self[1](self[0](x))
            return F.relu(z) if self.training else torch.tanh(z)

    with pytest.raises(ValueError, match="does something else with it in eval mode than in train mode"):
        convert(Nothing(nn.Linear(3, 4), nn.BatchNorm1d(4)), "before")


@pytest.mark.parametrize("read", ["conv2.weight", "conv2.bias", "bn2.weight"])
def test_a_layer_whose_tensors_the_forward_reads_is_left(read):
    class Penalized(Two):
        def forward(self, x):
            return super().forward(x) + attrgetter(read)(self).sum()

    given = shaken(Penalized())
    assert_same_function(copy.deepcopy(given), convert(given, "before"), SMALL)
    for placement in ("complete", "after", "none"):
        assert convert(given, placement, "tanh")(SMALL).shape == (6, 4, 3, 3)


def test_a_weight_layer_with_a_forward_of_its_own_keeps_its_bias():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    given = Two()
    given.conv1 = Doubled(3, 6, 3)
    given = shaken(given)
    converted = convert(given, "before")
    assert len(converted.report.blocks) == 2 and not converted.report.kept
    assert_same_function(given, converted, SMALL)


def test_a_norm_over_another_dimension_is_not_the_weight_layers():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(25)

        def forward(self, x):
            return F.relu(self.norm(self.weight(x.flatten(2).transpose(1, 2))))

    given = shaken(Tokens())
    converted = convert(given, "before")
    assert converted.report.blocks[0].given == "norm -> ReLU"
    assert_same_function(given, converted, SMALL)


def test_arguments_that_are_not_given_are_taken_so():
    class Masked(Two):
        def forward(self, x, mask=None, negative=False, size="small", *, scale=2.0, offset=None):
            if mask is not None:
                x = x * mask
            if size == "large":
                x = x * 9
            if negative:
                x = -x
            if offset is None:
                offset = 1.0
            return super().forward(x) * scale + offset

    given = shaken(Masked())
    converted = convert(given, "before")
    assert_same_function(copy.deepcopy(given), converted, SMALL)
    given.eval()
    torch.testing.assert_close(convert(given, "before")(SMALL, mask=None, negative=False, scale=3.0),
                               given(SMALL, scale=3.0))
    with pytest.raises(AssertionError, match="mask has been specialized to have value None"):
        converted(SMALL, mask=SMALL)
    with pytest.raises(AssertionError, match="size has been specialized to have value small"):
        converted(SMALL, size="large")


def test_what_is_no_network_is_refused():
    for wrong in (None, "resnet50", nn.ReLU):
        with pytest.raises(TypeError, match="expected a network"):
            convert(wrong, "before")


def test_a_network_that_cannot_be_copied_names_the_way_out():
    given = Two()
    given.scaled = given.conv1.weight * 2
    with pytest.raises(ValueError, match="Two cannot be copied .*remove_weight_norm.*prune.remove.*call lazy layers"):
        convert(given, "before")


@pytest.mark.parametrize("wrap, inside", [(nn.DataParallel, "module"), (torch.compile, "_orig_mod")])
def test_a_network_that_is_wrapped_or_compiled_names_the_one_inside(wrap, inside):
    wrapped = wrap(Two())
    with pytest.raises(ValueError, match=f"inside of this {type(wrapped).__name__}, which is its .{inside}"):
        convert(wrapped, "before")
    assert convert(getattr(wrapped, inside), "before").report.blocks


@pytest.mark.parametrize("where", ["", "0", "0.bn1", "1"])
@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook"])
def test_hooks_that_would_be_lost_are_refused(where, kind):
    given = nn.Sequential(Two(), nn.ReLU())
    handle = getattr(given.get_submodule(where), f"register_{kind}")(lambda *_: None)
    named = f" '{where}'" if where else "Sequential"
    with pytest.raises(ValueError, match=f"{named} has hooks, .*put it back on the result"):
        convert(given, "before")
    handle.remove()
    assert convert(given, "before").report.blocks


def test_hooks_of_a_weight_layer_go_along():
    given = shaken(Two())
    given.conv1.register_forward_hook(lambda layer, inputs, output: 3 * output + 1)
    given.conv2 = nn.utils.spectral_norm(given.conv2)
    assert_same_function(given, convert(given, "before"), SMALL)


def test_weights_that_are_computed_are_left_as_they_are():
    class Doubled(nn.Module):
        def forward(self, tensor):
            return 2 * tensor

    given = Two()
    nn.utils.parametrizations.spectral_norm(given.conv1)  # each time that it is read, it takes a step
    given.conv2 = nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 4, 1, bias=False))
    given = shaken(given.train())
    given.bn1 = nn.BatchNorm2d(6, affine=False, track_running_stats=False)
    before = copy.deepcopy(given.state_dict())
    for placement in ("before", "complete", "after"):
        converted = convert(given, placement)
        state = converted.state_dict()
        for layer in ("conv1", "conv2"):
            name = f"{layer}.weight.parametrizations.weight.0._u"
            assert torch.equal(state[name], before[f"{layer}.parametrizations.weight.0._u"])
    assert_same_function(copy.deepcopy(given), convert(given, "before"), SMALL)
    nn.utils.parametrize.register_parametrization(given.conv1, "bias", Doubled(), unsafe=True)
    assert_same_function(given, convert(given, "before"), SMALL)


@pytest.mark.parametrize("name", ["report", "graph", "meta"])
def test_names_that_the_new_network_needs_are_refused(name):
    given = nn.Sequential(Two())
    given.add_module(name, nn.ReLU())
    with pytest.raises(ValueError, match=f"Sequential has a part named '{name}', .*rename the part"):
        convert(given, "before")


def test_methods_that_would_be_lost_are_refused():
    class Freezing(Two):
        def train(self, mode=True):
            super().train(mode)
            self.bn1.eval()
            return self

    with pytest.raises(ValueError, match=r"Freezing '0' has a train\(\) of its own, which the new network would lose"):
        convert(nn.Sequential(Freezing()), "before")
    given = Two()
    given.bn2.forward = torch.tanh
    with pytest.raises(ValueError, match="BatchNorm2d 'bn2' has a forward of its own, set on the instance"):
        convert(given, "before")


def test_what_was_converted_or_compiled_before_is_named():
    with pytest.raises(ValueError, match="converted already, with a graph for each of its two modes"):
        convert(convert(AlsoTheNormInEval(), "before"), "complete")
    with pytest.raises(ValueError, match=r"no batch norm, .* \(its norms are CompleteBatchNorm2d\)"):
        convert(convert(Two(), "complete"), "before")
    vanilla = convert(Two(), "before")
    assert len(convert(vanilla, "complete", "tanh").report.blocks) == 2
    with pytest.warns(match="deprecated"):
        script = torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()))
    for given in (script, nn.Sequential(script, Two())):
        with pytest.raises(ValueError, match="is TorchScript, or holds some, .* that it was made from"):
            convert(given, "before")


def test_norms_that_are_not_called_are_named():
    class ByHand(Two):
        def forward(self, x):
            return F.batch_norm(self.conv1(x), self.bn1.running_mean, self.bn1.running_var, training=self.training)

    with pytest.raises(ValueError, match="ByHand, which keeps its norms, because the forward calls none of them"):
        convert(ByHand(), "before")


def test_a_norm_of_images_behind_a_linear_layer_is_no_part_of_its_block():
    class Columns(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.norm = nn.Linear(5, 3), nn.BatchNorm2d(3)

        def forward(self, x):
            return F.relu(self.norm(self.weight(x)))

    given = shaken(Columns())
    assert_same_function(copy.deepcopy(given), convert(given, "before"), SMALL)
    assert convert(given, "complete", "tanh")(SMALL).shape == (6, 3, 5, 3)


class DropsInPlace(Two):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.2, inplace=True)

    def forward(self, x):
        return self.second(self.drop(F.silu(self.first(x))))


class ReadsWhatItChanged(Two):
    def forward(self, x):
        y = F.silu(self.first(x))
        y.mul_(2)
        return self.second(y)


@pytest.mark.parametrize("network", [DropsInPlace, ReadsWhatItChanged])
def test_what_works_in_place_behind_a_block_spares_what_its_new_activation_needs(network):
    given = shaken(network())
    for placement in ("none", "before", "before_weight"):
        converted = convert(given, placement, "tanh")
        converted(SMALL).sum().backward()
    swish = convert(given, "before", "swish")
    given.second = lambda x: F.silu(given.bn2(given.conv2(x)))
    torch.manual_seed(3)
    expected = given(SMALL)
    torch.manual_seed(3)
    torch.testing.assert_close(swish(SMALL), expected)
