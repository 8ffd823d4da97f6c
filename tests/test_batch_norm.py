"""BatchNorm1d/2d against torch's layers, and the conformance table against wrong layers.

Every case of the table has to fail for at least one mutant: the real source with one plausible mistake in it.
"""

import doctest
import inspect
import sys
import types

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from cbn_lab.norms import batch_norm, conformance
from cbn_lab.norms.batch_norm import BatchNorm1d, BatchNorm2d

SOURCE = inspect.getsource(batch_norm)
BATCH_BRANCH = "if self.training or self.running_mean is None:"
UPDATE = "running.lerp_(batch.to(running.dtype), weight)"
RUNNING_MEAN = 'self.register_buffer("running_mean", torch.zeros(num_features) if track else None)'
CHECK_VALUES = "if _values_per_channel(x) == 1:"

# name: (what stands in the source, what the mutant has there, the cases that have to notice)
MUTANTS = {
    "axes: over the batch only": ("axes = (0, *range(2, x.dim()))", "axes = (0,)", "axes"),
    "axes: the last is left out": (
        "range(2, x.dim()))", "range(2, max(2, x.dim() - 1)))", "axes gradients batch_of_one_image"),
    "axes: one mean for all channels": ("mean = z.mean(axes)", "mean = z.mean().expand(x.shape[1])", "axes"),
    "axes: variances averaged over the positions": (
        "var = centred.square().mean(axes)", "var = z.var(0, correction=0).reshape(x.shape[1], -1).mean(1)", "axes"),
    "normalizes with n - 1": (
        "var = centred.square().mean(axes)",
        "var = centred.square().mean(axes) * (_values_per_channel(x) / max(1, _values_per_channel(x) - 1))",
        "biased_variance_normalizes"),
    "stores the biased variance": ("var * (n / (n - 1))", "var", "unbiased_variance_is_stored"),
    "eps outside the root": (
        "torch.rsqrt(var + self.eps).view(per_channel)", "(1 / (var.sqrt() + self.eps)).view(per_channel)",
        "eps_inside_the_root constant_channel"),
    "momentum is what is kept": ("weight = self.momentum\n", "weight = 1 - self.momentum\n",
                                 "momentum_weighs_the_update defaults"),
    "momentum None means 0.1": ("self.num_batches_tracked.to(running.dtype).reciprocal()", "0.1",
                                "momentum_none_averages"),
    "a default eps of 1e-3": ("eps: float = 1e-5", "eps: float = 1e-3", "defaults"),
    "weight starts at 0": ("torch.ones(num_features)) if affine", "torch.zeros(num_features)) if affine", "defaults"),
    "train mode is grad mode": (BATCH_BRANCH, "if torch.is_grad_enabled():",
                                "grad_mode_is_not_train_mode eval_uses_running_statistics"),
    "no update under no_grad": (
        "if self.training and self.track_running_stats:",
        "if self.training and self.track_running_stats and torch.is_grad_enabled():", "grad_mode_is_not_train_mode"),
    "eval mode uses the batch": (BATCH_BRANCH, "if True:", "eval_uses_running_statistics"),
    "eval mode updates": (
        "mean, var = self.running_mean.to(z.dtype), self.running_var.to(z.dtype)",
        "mean, var = self.running_mean.clone(), self.running_var.clone(); "
        "self._update(z.mean(axes).detach(), z.var(axes).detach(), n=2)",
        "eval_uses_running_statistics train_and_eval_alternate"),
    "batches are not counted": ("self.num_batches_tracked.add_(1)", "pass", "train_and_eval_alternate"),
    "statistics are constants in backward": ("mean = z.mean(axes) ", "mean = z.detach().mean(axes) ", "gradients"),
    "the variance is a constant in backward": (
        "var = centred.square()", "var = centred.detach().square()", "gradients"),
    "gradients are not differentiable": (
        "class _BatchNorm(nn.Module):",
        "class _Once(torch.autograd.Function):\n"
        "    forward = staticmethod(lambda ctx, x: x.clone())\n"
        "    backward = staticmethod(torch.autograd.function.once_differentiable(lambda ctx, g: g.clone()))\n\n\n"
        "class _BatchNorm(nn.Module):", "double_backward", "return y.to(x.dtype)", "return _Once.apply(y).to(x.dtype)"),
    "one value is accepted": (CHECK_VALUES, "if False:", "one_value_is_refused"),
    "one value is refused after the update": (
        "        self._check(x)\n",
        "        if self.training and _values_per_channel(x) == 1:\n"
        "            self.running_mean.lerp_(x.detach().reshape(-1), 0.1)\n        self._check(x)\n",
        "one_value_is_refused"),
    "a batch of one image is refused": (CHECK_VALUES, "if x.shape[0] == 1:", "batch_of_one_image"),
    "an empty batch spoils the statistics": ("if n == 0:", "if n is None:", "empty_batch"),
    "an empty batch is refused": (CHECK_VALUES, "if _values_per_channel(x) < 2:", "empty_batch"),
    "E[x^2] - E[x]^2": (
        "var = centred.square().mean(axes)", "var = z.square().mean(axes) - mean.square()", "mean_offset"),
    "no eps": ("var + self.eps", "var", "constant_channel defaults"),
    "statistics in bfloat16": ("x.float() if x.dtype in LOW_PRECISION else x", "x", "bfloat16 float16"),
    "a float32 output": ("return y.to(x.dtype)", "return y.float() if y.dtype != torch.float64 else y",
                         "bfloat16 float16"),
    "squares in float16": (
        "var = centred.square().mean(axes)", "var = centred.to(x.dtype).square().float().mean(axes).to(z.dtype)",
        "float16"),
    "autocast decides the format": (
        "return y.to(x.dtype)",
        "return y.to(torch.bfloat16 if torch.is_autocast_enabled('cpu') else x.dtype)", "autocast"),
    "always contiguous": ("layout = torch.channels_last if channels_last else torch.contiguous_format",
                          "layout = torch.contiguous_format", "memory_layout"),
    "never contiguous": (".contiguous(memory_format=layout)", "", "memory_layout"),
    "writes to its input": ("self._check(x)\n", "self._check(x)\n        x.data.add_(1)\n", "input_is_left_alone"),
    "buffers rebound": (
        "for running, batch in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):",
        "for name, batch in (('running_mean', mean), ('running_var', var * (n / (n - 1)))):\n"
        "            running = getattr(self, name).clone(); setattr(self, name, running)", "buffers_in_place"),
    "the counter is rebound": ("self.num_batches_tracked.add_(1)",
                               "self.num_batches_tracked = self.num_batches_tracked + 1", "buffers_in_place"),
    "statistics keep the graph": (
        "self._update(mean.detach(), var.detach(),", "self._update(mean, var,", "buffers_in_place"),
    "reads a number from the device": (
        UPDATE, "running.lerp_(batch.to(running.dtype), weight if float(batch.sum()) else 0.0)",
        "graph_capture export"),
    "the batch size is a constant": ("n=_values_per_channel(x))", "n=int(_values_per_channel(x)))", "export"),
    "other names": ("running_mean", "mean_so_far", "state_dict"),
    "the statistics are not saved": (RUNNING_MEAN, RUNNING_MEAN[:-1] + ", persistent=False)", "state_dict"),
    "old checkpoints are refused": ('local_metadata.get("version", 1) < 2', "False", "old_state_dict"),
    "new checkpoints are taken for old ones": ('local_metadata.get("version", 1) < 2', "True", "old_state_dict"),
    "a copy shares its statistics": (
        "    def reset_running_stats",
        "    __deepcopy__ = lambda self, memo: __import__('copy').copy(self)\n\n    def reset_running_stats", "copies"),
    "cannot be pickled": (
        "        super().__init__()\n", "        super().__init__()\n        self.f = lambda x: x\n", "copies"),
    "statistics are plain attributes": (
        RUNNING_MEAN, "self.running_mean = torch.zeros(num_features) if track else None", "moves"),
    "affine=False keeps its parameters": (
        "nn.Parameter(torch.ones(num_features)) if affine else None", "nn.Parameter(torch.ones(num_features))",
        "affine_false"),
    "statistics are always kept": ("track = track_running_stats", "track = True", "no_running_statistics"),
    "any number of axes": ("if x.dim() not in self.shapes:", "if False:", "wrong_number_of_axes"),
    "any number of channels": ("if x.shape[1] != self.num_features:", "if False:", "wrong_number_of_channels"),
    "any format": ("if x.dtype not in accepted and", "if False and", "wrong_format"),
}


def factory(module):
    """make() for the BatchNorm1d and BatchNorm2d of a module, such as this project's, torch.nn or a mutant."""
    return lambda num_features, dims, **options: getattr(module, f"BatchNorm{dims}d")(num_features, **options)


@pytest.fixture
def mutant_of_batch_norm(request):
    first_old, first_new, _, *second = MUTANTS[request.param]
    source = SOURCE
    for old, new in ((first_old, first_new), *([second] if second else [])):
        assert old in source, "the source has changed: bring the mutant up to date"
        source = source.replace(old, new)
    module = types.ModuleType(f"mutant_{list(MUTANTS).index(request.param)}")
    sys.modules[module.__name__] = module  # pickle looks classes up by module
    exec(compile(source, module.__name__, "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize("name", conformance.CASES)
@pytest.mark.parametrize("module", [batch_norm, nn], ids=["ours", "torch"])
def test_conforms(module, name):
    (row,) = conformance.check(factory(module), [name])
    assert row.passed, row.detail


@pytest.mark.parametrize("mutant_of_batch_norm, cases",
                         [(name, mutant[2].split()) for name, mutant in MUTANTS.items()],
                         ids=MUTANTS, indirect=["mutant_of_batch_norm"])
def test_table_notices(mutant_of_batch_norm, cases):
    for row in conformance.check(factory(mutant_of_batch_norm), cases):
        assert not row.passed, f"the case {row.name} passes a layer that is wrong"
        assert row.detail.endswith(" ".join(conformance.CASES[row.name].__doc__.split()))


def test_every_case_can_fail():
    noticed = {case for mutant in MUTANTS.values() for case in mutant[2].split()}
    assert noticed == set(conformance.CASES)


def test_table_names_its_cases():
    with pytest.raises(ValueError, match="unknown cases.*known: defaults, axes"):
        conformance.check(factory(nn), ["axis"])


@pytest.mark.parametrize("module", [batch_norm, conformance])
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


# What torch's layer has no counterpart for


@pytest.mark.parametrize("layer, shape, error, words", [
    (BatchNorm2d(3), (4, 3), ValueError, ["BatchNorm2d", "[N, C, H, W]", "[4, 3]", "BatchNorm1d"]),
    (BatchNorm1d(3), (3,), ValueError, ["BatchNorm1d", "[N, C] or [N, C, L]", "[3]", "unsqueeze"]),
    (BatchNorm2d(3), (4, 8, 8, 3), ValueError, ["3 channels", "[4, 8, 8, 3]", "num_features=8", "movedim"]),
    (BatchNorm1d(3), (1, 3), ValueError, ["[1, 3]", "variance is zero", "whatever the input", "drop_last", "eval()"]),
    (BatchNorm1d(3, eps=0.0), (4, 3), ValueError, ["eps=0.0", "eps > 0", "1e-5"]),
    (BatchNorm1d(3).double(), (4, 3), TypeError, ["torch.float64", "torch.float32", ".to("]),
], ids=["axes", "one axis", "channels", "one value", "eps", "format"])
def test_errors_say_what_was_expected_and_what_to_do(layer, shape, error, words):
    with pytest.raises(error) as raised:
        layer(torch.zeros(shape))
    for word in words:
        assert word in str(raised.value)


def test_a_refused_batch_is_not_counted():
    """torch counts it before it refuses it; here the layer is as before."""
    layer = BatchNorm1d(3)
    with pytest.raises(ValueError):
        layer(torch.zeros(1, 3))
    assert layer.num_batches_tracked == 0


def test_momentum_none_can_be_captured():
    """torch reads the count as a Python number there, which breaks the graph."""
    torch.compiler.reset()
    captured, plain = BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, momentum=None)
    step = torch.compile(captured, backend="eager", fullgraph=True)
    for x in torch.randn(3, 8, 3, generator=torch.Generator().manual_seed(0)):
        step(x), plain(x)
    torch.testing.assert_close(captured.running_var, plain.running_var)


def test_reset_forgets():
    layer = BatchNorm2d(3)
    layer(torch.rand(4, 3, 2, 2))
    layer.reset_running_stats()
    for name, buffer in BatchNorm2d(3).named_buffers():
        assert torch.equal(getattr(layer, name), buffer)


def test_repr_reads_like_torchs():
    assert repr(BatchNorm2d(3, momentum=None)) == (
        "BatchNorm2d(3, eps=1e-05, momentum=None, affine=True, track_running_stats=True)")


# Properties


def shapes():
    """[N, C], [N, C, L] and [N, C, H, W] with at least two values per channel."""
    sizes = st.lists(st.integers(1, 6), min_size=2, max_size=4)
    return sizes.filter(lambda shape: torch.Size(shape).numel() >= 2 * shape[1])


def a_batch(shape, seed: int) -> torch.Tensor:
    """Normal values. Batches with a nearly constant channel are passed over: rounding is all that it would show."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assume(x.var((0, *range(2, x.dim())), correction=0).min() > 1e-4)
    return x


def layer_for(x: torch.Tensor, **options) -> nn.Module:
    return (BatchNorm2d if x.dim() == 4 else BatchNorm1d)(x.shape[1], **options).double()


@settings(max_examples=50, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 2**32), eps=st.floats(1e-6, 10), momentum=st.floats(0, 1))
def test_equals_torch_for_any_shape(shape, seed, eps, momentum):
    x = a_batch(shape, seed)
    ours = layer_for(x, eps=eps, momentum=momentum)
    theirs = getattr(nn, type(ours).__name__)(x.shape[1], eps=eps, momentum=momentum).double()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-7, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 2**32))
def test_output_has_mean_0_and_variance_v_over_v_plus_eps(shape, seed):
    x = a_batch(shape, seed)
    axes = (0, *range(2, x.dim()))
    y = layer_for(x, eps=1e-3)(x)
    var = x.var(axes, correction=0)
    torch.testing.assert_close(y.mean(axes), torch.zeros(x.shape[1], dtype=x.dtype), rtol=0, atol=1e-12)
    torch.testing.assert_close(y.var(axes, correction=0), var / (var + 1e-3), rtol=1e-9, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 2**32), shift=st.floats(-100, 100), scale=st.floats(0.1, 100))
def test_shift_and_scale_of_the_input_cancel(shape, seed, shift, scale):
    x = a_batch(shape, seed)
    tiny = layer_for(x, eps=1e-300)  # eps is what breaks the invariance to scale
    torch.testing.assert_close(tiny(scale * x + shift), tiny(x), rtol=1e-7, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 2**32))
def test_gradient_is_orthogonal_to_shift_and_scale(shape, seed):
    """The derivative of the two invariances: the input gradient sums to 0, alone and against the input."""
    x = a_batch(shape, seed).requires_grad_()
    y = layer_for(x, eps=1e-300)(x)
    (grad,) = torch.autograd.grad((y * a_batch(shape, seed + 1)).sum(), x)
    axes = (0, *range(2, x.dim()))
    size = grad.abs().sum(axes) * (1 + x.detach().abs().amax(axes)) + 1
    for product in (grad, grad * x.detach()):
        assert (product.sum(axes).abs() < 1e-8 * size).all()
