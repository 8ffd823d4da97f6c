"""CompleteBatchNorm: the formula, its guarantee, the structures of the ablation, the BatchNorm conformance table."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from cbn_lab import ablation, activations, blocks, norms
from cbn_lab.norms import conformance

# What `CompleteBatchNorm2d` does not share with torch's layer in a setting that computes the same function.
DECLARED_DIFFERENCES = {
    "state_dict": "the entries have other names: gamma, shifts and statistics may exist twice",
    "old_state_dict": "the entries have other names",
}


def naive(x, activation, *, a=0.0, b=0.0, gamma=1.0, k=9.0, eps=1e-5):
    """The default layer, channel by channel, from its definition."""
    y = torch.empty_like(x)
    for c in range(x.shape[1]):
        h = activations.get(activation)(x[:, c] + math.sqrt(k) * a)
        centred = h - h.mean()
        y[:, c] = gamma * centred / torch.sqrt((centred**2).mean() + eps) + math.sqrt(k) * b
    return y


def randomized(layer: nn.Module) -> nn.Module:
    """The layer with random parameters."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.3, 0.7)
    return layer


@pytest.mark.parametrize("activation", ablation.ACTIVATIONS)
def test_the_default_layer_is_its_formula(activation):
    layer = norms.CompleteBatchNorm2d(3, activation).double()
    nn.init.constant_(layer.pre_shift, 0.2)
    nn.init.constant_(layer.post_shift, -0.1)
    nn.init.constant_(layer.gamma_after, 1.7)
    x = 2 * torch.randn(5, 3, 4, 6, dtype=torch.float64) + 1
    torch.testing.assert_close(layer(x), naive(x, activation, a=0.2, b=-0.1, gamma=1.7), rtol=0, atol=1e-12)


@given(activation=st.sampled_from(activations.names()), mean=st.floats(-5, 5), std=st.floats(0.3, 5),
       gamma=st.floats(-2, 2), shift=st.floats(-1, 1))
@example(activation="relu", mean=-2.0, std=0.5, gamma=1.0, shift=0.0)  # all zero behind the ReLU
@settings(max_examples=60, deadline=None)
def test_the_second_moment_behind_the_layer_is_fixed_whatever_the_activation(activation, mean, std, gamma, shift):
    """E y^2 = gamma^2 + (sqrt(k) b)^2, up to eps: what the reconstruction guarantees to the next weight layer.

    Not for a channel that is constant over the batch, such as a dead ReLU: it leaves (sqrt(k) b)^2.
    """
    layer = norms.CompleteBatchNorm1d(2, activation, eps=1e-30).double()
    nn.init.constant_(layer.gamma_after, gamma)
    nn.init.constant_(layer.post_shift, shift)
    z = mean + std * torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h, second = layer.activation(z), (layer(z) ** 2).mean(0)
    constant = (h == h[0]).all(0)
    torch.testing.assert_close(second, gamma**2 * (~constant).double() + 9 * shift**2, rtol=1e-6, atol=1e-9)


def test_a_shift_moves_with_k_times_the_learning_rate():
    moves = {}
    for k in (1.0, 25.0):
        layer = norms.CompleteBatchNorm1d(4, "tanh", shift_lr_multiplier=k).double()
        x = torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(8, 4)
        target = torch.arange(32, dtype=torch.float64).reshape(8, 4).sin()
        before = layer.eval_affines()
        ((layer(x) - target) ** 2).sum().backward()
        torch.optim.SGD(layer.parameters(), lr=1e-4).step()
        after = layer.eval_affines()
        moves[k] = [after[0][1] - before[0][1], layer.post_shift.detach() * math.sqrt(k)]
    for slow, fast in zip(moves[1.0], moves[25.0], strict=True):
        torch.testing.assert_close(fast, 25 * slow)


@pytest.mark.parametrize("activation", ["sigmoid", "selu"])
@pytest.mark.parametrize("key", [key for key, row in ablation.ROWS.items() if row.placement != "complete"])
def test_known_placements_are_settings_of_the_layer(key, activation):
    """Vanilla BN, swapped BN and both equal the layer with `Row.layer`: outputs, gradients, running statistics."""
    row = ablation.ROWS[key]
    torch.manual_seed(0)
    known = randomized(blocks.block(nn.Conv2d(3, 4, 3, bias=blocks.needs_bias(row.placement)), activation,
                                    row.placement)).double()
    ours = blocks.block(nn.Conv2d(3, 4, 3, bias=False), activation, "complete", **row.layer).double()
    ours.weight.weight = copy.deepcopy(known.weight.weight)
    layer = ours.activation
    if known.weight.bias is not None:
        layer.pre_shift = nn.Parameter(known.weight.bias.detach().clone())
    pairs = [(getattr(known, "norm", None), layer.gamma_before, layer.pre_shift, layer.standardize_before),
             (getattr(known, "norm_out", None), layer.gamma_after, layer.post_shift, layer.standardize_after)]
    for norm, gamma, shift, _ in pairs:
        if norm is not None:
            gamma.data.copy_(norm.weight.data)
            shift.data.copy_(norm.bias.data)
    x, weight = torch.randn(6, 3, 7, 7, dtype=torch.float64), torch.randn(6, 4, 5, 5, dtype=torch.float64)
    outputs, gradients = [], []
    for module in (known, ours):
        outputs.append(module(x))
        (outputs[-1] * weight).sum().backward()
        gradients.append(module.weight.weight.grad)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)
    for norm, _, _, standardize in pairs:
        if norm is not None:
            torch.testing.assert_close(norm.running_var, standardize.running_var, rtol=0, atol=1e-12)
    torch.testing.assert_close(known.eval()(x), ours.eval()(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("key", ablation.ROWS)
def test_every_structure_in_eval_mode_is_affine_activation_affine(key):
    layer = randomized(norms.CompleteBatchNorm2d(3, "tanh", **ablation.ROWS[key].layer)).double()
    x = torch.randn(8, 3, 5, 5, dtype=torch.float64)
    layer(x)
    layer.eval()
    (scale, offset), (scale_after, offset_after) = ((s.reshape(1, 3, 1, 1), o.reshape(1, 3, 1, 1))
                                                    for s, o in layer.eval_affines())
    torch.testing.assert_close(layer(x), scale_after * torch.tanh(scale * x + offset) + offset_after,
                               rtol=0, atol=1e-12)


@pytest.mark.parametrize("key", ablation.ROWS)
def test_gradients_of_every_structure(key):
    layer = randomized(norms.CompleteBatchNorm2d(2, "swish", **ablation.ROWS[key].layer)).double()
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *values))
    assert torch.autograd.gradgradcheck(function, (x, *values))


@pytest.mark.parametrize(("center", "scale"), [(True, False), (False, True)])
def test_centring_and_scaling_can_be_left_out(center, scale):
    layer = norms.CompleteBatchNorm2d(2, "relu", center=center, scale=scale, gamma=None).double()
    x = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    h = x.relu()
    mean = h.mean((0, 2, 3), keepdim=True) if center else 0.0
    second = ((h - mean) ** 2).mean((0, 2, 3), keepdim=True)
    expected = (h - mean) / (torch.sqrt(second + 1e-5) if scale else 1.0)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_running_moments_without_centring_hold_the_second_moment():
    layer = norms.Standardize(2, center=False, momentum=1.0).double()
    x = torch.randn(50, 2, dtype=torch.float64) + 3
    layer(x)
    torch.testing.assert_close(layer.running_var, (x**2).mean(0))
    torch.testing.assert_close(layer.running_mean, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(layer.eval()(x), x / torch.sqrt((x**2).mean(0) + 1e-5))


def _vanilla(num_features, dims, affine=True, **options):
    base = norms.CompleteBatchNorm2d if dims == 2 else norms.CompleteBatchNorm1d

    class Vanilla(base):
        weight = property(lambda self: self.gamma_before)
        bias = property(lambda self: self.pre_shift)
        running_mean = property(lambda self: self.standardize_before.running_mean)
        running_var = property(lambda self: self.standardize_before.running_var)
        num_batches_tracked = property(lambda self: self.standardize_before.num_batches_tracked)

    globals()["Vanilla"] = Vanilla  # pickle looks the class up by its name
    Vanilla.__qualname__ = "Vanilla"
    return Vanilla(num_features, "identity", standardize="before", gamma="before" if affine else None,
                   pre_shift=affine, post_shift=False, shift_lr_multiplier=1.0, **options)


@pytest.mark.parametrize("case", conformance.CASES)
def test_conformance_with_batch_norm(case):
    """The table that BatchNorm passes; the differences are declared, and a declared one must be real."""
    (row,) = conformance.check(_vanilla, [case])
    assert row.passed != (case in DECLARED_DIFFERENCES), row.detail


@pytest.mark.parametrize("key", ["vanilla", "rms", "gamma_9x", "both"])
def test_copies_and_saved_states_compute_the_same(key):
    layer = randomized(norms.CompleteBatchNorm2d(3, "selu", **ablation.ROWS[key].layer))
    x = torch.randn(4, 3, 5, 5)
    layer(x)
    fresh = norms.CompleteBatchNorm2d(3, "selu", **ablation.ROWS[key].layer)
    fresh.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert torch.equal(other.eval()(x), layer.eval()(x))


def test_a_state_of_another_multiplier_is_refused():
    """Its shifts are stored divided by sqrt(k): another k would apply other shifts, without a word."""
    state = norms.CompleteBatchNorm2d(3, shift_lr_multiplier=9.0).state_dict()
    with pytest.raises(ValueError, match=r"shift_lr_multiplier=9, this layer has 4, .* 0.667 times as large"):
        norms.CompleteBatchNorm2d(3, shift_lr_multiplier=4.0).load_state_dict(state)


@pytest.mark.parametrize("key", ablation.ROWS)
def test_a_block_of_every_structure_is_the_plain_sequence(key):
    block = blocks.block(nn.Conv2d(3, 4, 3, bias=False), "tanh", "complete", **ablation.ROWS[key].layer).double()
    randomized(block.activation)
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), block.activation(block.weight(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("key", ["gamma_9x", "rms"])
def test_statistics_of_a_bf16_batch_are_not_rounded_to_bf16(key):
    layer = norms.CompleteBatchNorm2d(3, "identity", pre_shift=False, momentum=1.0,
                                      **{k: v for k, v in ablation.ROWS[key].layer.items() if k != "pre_shift"})
    x = (torch.randn(16, 3, 6, 6) * 2 + 1).bfloat16()
    layer(x)
    exact = x.double()
    expected = exact.var((0, 2, 3)) if layer.standardize_after.center else exact.square().mean((0, 2, 3))
    torch.testing.assert_close(layer.standardize_after.running_var.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("key", ["gamma_9x", "rms", "affine_before"])
def test_half_precision_layout_and_export(key):
    layer = norms.CompleteBatchNorm2d(8, "tanh", **ablation.ROWS[key].layer)
    x = torch.randn(16, 8, 6, 6).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(layer)(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert low.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(low.float(), exact, atol=0.06, rtol=0.02)
    assert layer.gamma_after is None or layer.gamma_after.dtype == torch.float32
    exported = torch.export.export(layer.eval(), (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_train_step_is_captured_in_one_graph(options, momentum):
    torch.compiler.reset()
    layers = [norms.CompleteBatchNorm1d(3, "tanh", momentum=momentum, **options).double() for _ in range(2)]
    captured = torch.compile(layers[1], backend="eager", fullgraph=True)
    for seed in range(3):
        x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(captured(x), layers[0](x))
    for ours, plain in zip(layers[1].buffers(), layers[0].buffers(), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("options", [{}, {"center": False}])
def test_without_momentum_the_running_moments_are_plain_averages(options):
    layer = norms.CompleteBatchNorm1d(2, "identity", momentum=None, pre_shift=False, **options).double()
    batches = torch.randn(3, 7, 2, dtype=torch.float64)
    for x in batches:
        layer(x)
    expected = batches.square().mean(1) if options else batches.var(1)
    torch.testing.assert_close(layer.standardize_after.running_var, expected.mean(0))
    expected = torch.zeros(2, dtype=torch.float64) if options else batches.mean((0, 1))
    torch.testing.assert_close(layer.standardize_after.running_mean, expected)


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}, {"momentum": None}])
def test_an_empty_batch_leaves_the_statistics_alone(options):
    layer = norms.CompleteBatchNorm2d(3, "tanh", **options)
    layer(torch.randn(4, 3, 2, 2))
    mean, var, count = (b.clone() for b in layer.standardize_after.buffers() if b is not layer.standardize_after.one
                        and b is not layer.standardize_after.zero)
    y = layer(torch.zeros(0, 3, 2, 2))
    y.sum().backward()
    assert y.shape == (0, 3, 2, 2)
    assert not layer.gamma_after.grad.any()
    after = layer.standardize_after
    assert torch.equal(after.running_mean, mean) and torch.equal(after.running_var, var)
    assert after.num_batches_tracked == count + 1


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own use of it, in jvp
@pytest.mark.parametrize("key", ["vanilla", "rms", "gamma_9x"])
def test_hessian_products_by_forward_over_reverse(key):
    """jvp(grad) in train mode against double backward, the buffers handed in like the parameters."""
    layer = randomized(norms.CompleteBatchNorm2d(2, "swish", **ablation.ROWS[key].layer)).double()
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    values = {name: p.detach() for name, p in layer.named_parameters()}
    v = {name: torch.randn_like(p) for name, p in values.items()}

    def loss(values):
        buffers = {name: b.clone() for name, b in layer.named_buffers()}
        return (torch.func.functional_call(layer, (values, buffers), (x,)) ** 3).mean()

    product = torch.func.jvp(torch.func.grad(loss), (values,), (v,))[1]
    leaves = {name: p.clone().requires_grad_() for name, p in values.items()}
    gradient = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    along = sum((g * v[name]).sum() for g, name in zip(gradient, leaves, strict=True))
    expected = torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)
    torch.testing.assert_close(list(product.values()), list(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", [nn.PReLU(), nn.PReLU(3)])
def test_the_eval_affines_have_one_number_a_channel_whatever_the_activation_holds(activation):
    layer = norms.CompleteBatchNorm2d(3, activation, pre_shift=False, post_shift=False, gamma=None)
    assert [vector.shape for pair in layer.eval_affines() for vector in pair] == [(3,)] * 4


@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}, {"momentum": None}])
def test_buffers_are_updated_in_place(options):
    layer = norms.CompleteBatchNorm2d(2, "relu", **options)
    addresses = [b.data_ptr() for b in layer.buffers()]
    layer(torch.randn(4, 2, 3, 3))
    assert [b.data_ptr() for b in layer.buffers()] == addresses


def test_errors_say_what_was_expected():
    layer = norms.CompleteBatchNorm2d(3)
    with pytest.raises(ValueError, match=r"expects \[N, C, H, W\] with C = 3, got shape \[4, 5, 2, 2\]"):
        layer(torch.zeros(4, 5, 2, 2))
    with pytest.raises(ValueError, match=r"expects \[N, C\] or \[N, C, L\]"):
        norms.CompleteBatchNorm1d(3)(torch.zeros(4, 3, 2, 2))
    with pytest.raises(ValueError, match="its variance is 0.*at least 2"):
        layer(torch.zeros(1, 3, 1, 1))
    assert layer.eval()(torch.zeros(1, 3, 1, 1)).shape == (1, 3, 1, 1)
    with pytest.raises(ValueError, match="gamma must be one of 'before', 'after', 'both', None, got 'behind'"):
        norms.CompleteBatchNorm2d(3, gamma="behind")
    with pytest.raises(ValueError, match="leave nothing"):
        norms.CompleteBatchNorm2d(3, center=False, scale=False)
    for options, message in [({"shift_lr_multiplier": 0}, "positive and finite, got 0"),
                             ({"shift_lr_multiplier": math.inf}, "positive and finite, got inf"),
                             ({"eps": 0.0}, "eps must be positive"), ({"momentum": 2}, "between 0 and 1, or None"),
                             ({"num_features": 0}, "at least 1, got 0")]:
        with pytest.raises(ValueError, match=message):
            norms.CompleteBatchNorm2d(**{"num_features": 3} | options)
    for activation in (nn.Tanh, torch.tanh, None):
        with pytest.raises(TypeError, match=r"activation must be a name \(sigmoid, .*or an nn.Module such as nn.Tanh"):
            norms.CompleteBatchNorm2d(3, activation)
    for options in ({}, {"center": False}):
        for dtype in (torch.float64, torch.int64):
            with pytest.raises(TypeError, match=f"float32 or torch.bfloat16 or torch.float16, got {dtype}; convert"):
                norms.CompleteBatchNorm2d(3, **options)(torch.zeros(4, 3, 2, 2, dtype=dtype))
    with pytest.raises(ValueError, match="track_running_stats=True"):
        norms.CompleteBatchNorm2d(3, track_running_stats=False).eval_affines()
    with pytest.raises(ValueError, match="unknown norm 'bn'"):
        norms.get("bn", 3, 2)
    with pytest.raises(TypeError, match="callable"):
        norms.register("bn", "BatchNorm2d")
    with pytest.raises(ValueError, match="'batch_norm' belongs to a built-in norm"):
        norms.register("batch_norm", lambda num_features, dims: nn.Identity())
    with pytest.raises(TypeError, match="batch norm has no 'gama'; known: eps, momentum, affine"):
        norms.get("batch_norm", 3, 2, gama=None)
