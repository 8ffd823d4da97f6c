"""Cases of the conformance table: number formats, memory, graph capture, life as a module, input to be refused."""

import copy
import pickle

import torch
from torch import nn

from cbn_lab.norms.conformance_tools import (
    BUFFERS,
    CHANNELS,
    Make,
    batch,
    expect,
    pair,
    refuses,
    same,
    same_buffers,
    same_step,
    step,
)

# Number formats and memory


def _low_precision(make: Make, dtype: torch.dtype, rtol: float, atol: float) -> None:
    x = batch(16, 3, 6, 6, dtype=dtype)
    for training in (True, False):
        for layer_dtype in (torch.float32, dtype):
            ours, theirs = pair(make, 2, dtype=layer_dtype)
            ours.train(training), theirs.train(training)
            same("the output", ours(x), theirs(x), rtol, atol)
            stored = {"rtol": rtol, "atol": atol} if layer_dtype == dtype else {"rtol": 1e-5, "atol": 1e-5}
            same_buffers(ours, theirs, **stored)
            same("the gradient of the input", step(ours, x)[1], step(theirs, x)[1], rtol, atol)


def bfloat16(make):
    """bfloat16 in, bfloat16 out; statistics computed in float32, and kept there by a float32 layer."""
    _low_precision(make, torch.bfloat16, rtol=1.6e-2, atol=1e-2)


def float16(make):
    """float16 in, float16 out; statistics computed in float32, so that squares of 300 do not overflow."""
    _low_precision(make, torch.float16, rtol=2e-3, atol=2e-3)
    ours, theirs = pair(make, 1, dtype=torch.float32)
    x = (300 * batch(64, 3)).half()
    same("the output for values near 300", ours(x), theirs(x), rtol=2e-3, atol=2e-3)
    same_buffers(ours, theirs, rtol=1e-4, atol=1e-3)


def autocast(make):
    """CPU autocast leaves the format alone: float32 in, float32 out; bfloat16 in, bfloat16 out."""
    for dtype, tolerance in {torch.float32: 1e-4, torch.bfloat16: 1.6e-2}.items():
        for training in (True, False):
            ours, theirs = pair(make, 2, dtype=torch.float32)
            ours.train(training), theirs.train(training)
            x = batch(4, 3, 5, 2, dtype=dtype)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                same("the output", ours(x), theirs(x), tolerance, tolerance)
            same_buffers(ours, theirs, rtol=1e-5, atol=1e-5)


def memory_layout(make):
    """channels_last in, channels_last out; any other layout in, a contiguous output; the same values."""
    images, sequence = batch(4, 3, 5, 6), batch(4, 5, 3).transpose(1, 2)
    layouts = (images, images.contiguous(memory_format=torch.channels_last), images[..., ::2], sequence)
    for x in layouts:
        ours, theirs = pair(make, x.dim() // 2)
        for training in (True, False):
            y, y_torch = ours.train(training)(x), theirs.train(training)(x)
            same("the output", y, y_torch)
            expect(y.stride() == y_torch.stride(),
                   f"an input with strides {x.stride()} gives strides {y.stride()}, torch's {y_torch.stride()}.")


def input_is_left_alone(make):
    """The input is not written to."""
    for training in (True, False):
        ours, _ = pair(make, 2)
        x = batch(4, 3, 5, 2)
        before = x.clone()
        ours.train(training)(x)
        expect(torch.equal(x, before), f"the layer changed its input (training={training}).")


def buffers_in_place(make):
    """Buffers are updated in place and outside autograd: others (DDP, averages, captured graphs) hold on to them."""
    ours, theirs = pair(make, 1)
    held = {name: getattr(ours, name) for name in BUFFERS}
    addresses = {name: buffer.data_ptr() for name, buffer in held.items()}
    x = batch(8, 3).requires_grad_()
    ours(x), theirs(x)
    for name, buffer in held.items():
        expect(getattr(ours, name).data_ptr() == addresses[name], f"{name} moved to another place in memory.")
        same(f"{name}, held from before,", buffer, getattr(theirs, name))
        expect(not buffer.requires_grad, f"{name} became part of the autograd graph.")


def graph_capture(make):
    """torch.compile captures a train step in one graph, updates of the buffers included."""
    torch.compiler.reset()  # else the captures of earlier calls count towards the recompilation limit
    ours, theirs = pair(make, 2)
    x = batch(4, 3, 5, 2)
    captured = torch.compile(ours, backend="eager", fullgraph=True)
    same("the captured output", captured(x), theirs(x))
    same_buffers(ours, theirs)


def export(make):
    """torch.export takes the layer in either mode, for any batch size, updates of the buffers included."""
    any_size = torch.export.Dim("batch", min=2)
    for training in (True, False):
        ours, theirs = pair(make, 2)
        ours.train(training), theirs.train(training)
        program = torch.export.export(ours, (batch(4, 3, 5, 2),), dynamic_shapes=({0: any_size},)).module()
        x = batch(7, 3, 5, 2)
        same("the exported output", program(x), theirs(x))
        exported = {name.split(".")[-1]: buffer for name, buffer in program.named_buffers()}
        for name in BUFFERS:
            same(f"the exported {name}", exported[name], getattr(theirs, name))


# Life as a module


def state_dict(make):
    """A state_dict has torch's keys, and loads strictly into torch's layer and back."""
    ours, theirs = pair(make, 2)
    expect(list(ours.state_dict()) == list(theirs.state_dict()),
           f"the keys are {list(ours.state_dict())}, torch's {list(theirs.state_dict())}.")
    for source, target in ((ours, nn.BatchNorm2d(CHANNELS).double()), (theirs, make(CHANNELS, 2).double())):
        for seed in range(2):
            source.train()(batch(4, 3, 5, 2, seed=seed))
        target.load_state_dict(source.state_dict(), strict=True)
        x = batch(4, 3, 5, 2, seed=9)
        same("the output of the layer that was loaded", target.eval()(x), source.eval()(x))
        same_buffers(target, source)


def old_state_dict(make):
    """A checkpoint from before num_batches_tracked (torch 0.4) loads strictly; a new one must have it."""
    ours, theirs = pair(make, 1)
    new = theirs.state_dict()
    old = {key: value for key, value in new.items() if key != "num_batches_tracked"}  # has no version: old
    wrapped = nn.Sequential(ours)
    wrapped.load_state_dict({f"0.{key}": value for key, value in old.items()}, strict=True)
    same_buffers(ours, theirs)
    del new["num_batches_tracked"]  # keeps the version
    missing = ours.load_state_dict(new, strict=False).missing_keys
    expect(missing == ["num_batches_tracked"], f"missing keys {missing}, torch's ['num_batches_tracked'].")


def copies(make):
    """deepcopy and pickle give an equal layer that shares nothing with the first."""
    for duplicate in (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))):
        ours, theirs = pair(make, 2)
        x = batch(4, 3, 5, 2)
        twin = duplicate(ours)
        same_step(twin, theirs, x)
        same_buffers(twin, theirs)
        untouched = pair(make, 2)[0]
        same_buffers(ours, untouched)


def moves(make):
    """.to() takes parameters, statistics and computation along, to another format and to another device."""
    ours, theirs = make(CHANNELS, 2), nn.BatchNorm2d(CHANNELS)
    for layer in (ours, theirs):
        layer.to(torch.bfloat16).double()
    same_step(ours, theirs, batch(4, 3, 5, 2))
    same_buffers(ours, theirs)
    x = torch.empty(4, 3, 5, 2, device="meta")  # a device without memory stands for any other one
    for training in (True, False):
        y = make(CHANNELS, 2).to("meta").train(training)(x)
        expect(y.device == x.device and y.shape == x.shape, f"a layer and input on {x.device} gave {y.device}.")


def affine_false(make):
    """affine=False: no weight, no bias."""
    ours, theirs = pair(make, 2, affine=False)
    expect(not list(ours.parameters()), f"parameters: {[name for name, _ in ours.named_parameters()]}.")
    same_step(ours, theirs, batch(4, 3, 5, 2))
    same_buffers(ours, theirs)


def no_running_statistics(make):
    """track_running_stats=False: the buffers are None, and eval mode uses the batch's statistics as well."""
    ours, theirs = pair(make, 2, track_running_stats=False)
    for name in BUFFERS:
        expect(getattr(ours, name) is None, f"{name} is not None.")
    for training in (True, False):
        ours.train(training), theirs.train(training)
        same_step(ours, theirs, batch(4, 3, 5, 2))
        refuses(ours, batch(1, 3, 1, 1), ValueError)


def wrong_number_of_axes(make):
    """BatchNorm1d takes 2 or 3 axes, BatchNorm2d takes 4; anything else is a ValueError."""
    for dims, shapes in {1: [(3,), (3, 3, 3, 3)], 2: [(3, 3), (3, 3, 3), (3, 3, 3, 3, 3)]}.items():
        for shape in shapes:
            for training in (True, False):
                refuses(make(CHANNELS, dims).train(training), torch.zeros(shape), ValueError)


def wrong_number_of_channels(make):
    """A wrong number of channels is an error, also where broadcasting would hide it (a layer for 1 channel)."""
    for num_features in (1, 5):
        for training in (True, False):
            layer = make(num_features, 2).train(training)
            refuses(layer, torch.zeros(4, 3, 5, 2), ValueError, RuntimeError)


def wrong_format(make):
    """Integers, and float64 for a float32 layer, are errors."""
    for x in (torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, 3, dtype=torch.float64)):
        for training in (True, False):
            refuses(make(CHANNELS, 1).train(training), x, TypeError, RuntimeError)


CASES = (
    bfloat16, float16, autocast, memory_layout, input_is_left_alone, buffers_in_place, graph_capture,
    export, state_dict, old_state_dict, copies, moves, affine_false, no_running_statistics,
    wrong_number_of_axes, wrong_number_of_channels, wrong_format,
)
