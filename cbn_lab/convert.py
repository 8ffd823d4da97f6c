"""Rebuild the normalized blocks of a finished network at another placement: `convert(module, placement, activation)`.

    model = convert(torchvision.models.resnet50(), "complete", "swish")
    print(model.report)

torch.fx traces the network and `blocks` rebuilds, at the asked placement and with the asked activation,

    weight -> norm -> f         a block, wherever nothing else reads what stands between
    weight -> norm -> + -> f    a residual branch, or a shortcut with a weight layer of its own: what `blocks` puts
                                before a shortcut stays before the sum, the rest is built once behind it, with f.
                                Dropout and stochastic depth may stand between the norm and the sum.
    weight -> norm              a block whose activation is the identity, whatever f is asked for (linear bottlenecks
                                of MobileNetV2 and the like, depthwise convolutions)
    norm -> f                   a block without a weight layer, on a sum, a concatenation or a pool (pre-activation:
                                DenseNet). "before_weight" leaves f alone here and normalizes what reads it, as below.

where weight is an nn.Linear, Conv1d or Conv2d, norm an nn.BatchNorm1d or 2d (or ours written out), and f a module or
function of torch, or a class registered in `cbn_lab.activations`. A shared activation module counts anew at each
call; a weight layer or norm that is called twice is not rebuilt, nor one with which eval mode does something else than
train mode, or whose parameters the forward reads by itself. Other activations (in squeeze-and-excitation, in
heads) and everything else stay as they are. A weight layer outside of the blocks that reads one of them through
nothing but pools, dropout and flattening (the output layer, usually) gets a norm on its input where the placement
has one there, as in `models`.

Kept: all weights. A norm before the activation (of "before", "both") takes over parameters, statistics and eps of the
given one, and so does the norm behind an identity; other norms take over eps and momentum, and start as new. A
weight layer gets a bias, 0, where its placement wants one, and loses one that a norm behind it makes redundant (its
value leaves the running mean). So "before" with the given activations computes what the given network does, in both
modes, up to rounding. Activations work on a copy, never in place.
"""

from dataclasses import dataclass

import torch
from torch import fx, nn

from cbn_lab._block_maker import BlockMaker
from cbn_lab._convert_blocks import Builder, Rebuilt
from cbn_lab._convert_checks import copied, require_plain
from cbn_lab._convert_patterns import Site, Trace, keep_what_differs
from cbn_lab._convert_trace import TraceError, has_batch_norm
from cbn_lab.norms.complete import CompleteBatchNormBase

__all__ = ["Rebuilt", "Report", "TraceError", "convert", "rebuild"]


@dataclass(frozen=True)
class Report:
    """What `convert` did; `print` it.

    blocks       the rebuilt ones, in the order of the forward
    inputs       weight layers outside of the blocks that got a norm on their input
    kept         norms that were left as they are: path -> why
    """

    placements: tuple[str, ...]
    blocks: tuple[Rebuilt, ...]
    inputs: tuple[str, ...]
    kept: dict[str, str]

    def __str__(self) -> str:
        names = ", ".join(f"{name!r}{' (our reconstruction of CBN)' * (name == 'complete')}"
                          for name in self.placements)
        lines = [f"{len(self.blocks)} blocks rebuilt with placement {names}:",
                 *(f"  {block.given}  =>  {block.now}" for block in self.blocks)]
        new = sum(not block.carried for block in self.blocks)
        if new:
            lines.append(f"{new} of them lost the scale, shift and statistics of their norm, which mean nothing there.")
        if self.inputs:
            lines.append(f"New norms on the input of {', '.join(self.inputs)}.")
        return "\n".join(lines + [f"Left as it is: {reason}." for reason in _reasons(self.kept)])


def _reasons(kept: dict[str, str]) -> list[str]:
    """'a, b and 7 more, because ...' for each reason."""
    paths: dict[str, list[str]] = {}
    for path, reason in kept.items():
        paths.setdefault(reason, []).append(path)
    return [f"{', '.join(some[:4])}{f' and {len(some) - 4} more' * (len(some) > 4)}, because {reason}"
            for reason, some in paths.items()]


class Converted(fx.GraphModule):
    """The rebuilt network, its modules by the names that they had; a block stands where its weight layer stood.

    A block with a sum inside has two parts, `linear` before it and `nonlinear` behind it.
    """

    @property
    def report(self) -> Report:
        return self.meta["report"]


class ConvertedInTwoModes(nn.Module):
    """A network that computes other things in train mode than in eval mode (auxiliary heads): a graph for each."""

    def __init__(self, training: fx.GraphModule, evaluation: fx.GraphModule, report: Report):
        super().__init__()
        for form in (training, evaluation):
            _merge(form, self)
        self.report = report
        # The code alone: it finds the modules in this one, so that they can be moved and replaced here.
        self._code = type(training).forward, type(evaluation).forward

    def forward(self, *inputs, **named):
        return self._code[0 if self.training else 1](self, *inputs, **named)


def convert(module: nn.Module, placement: str, activation: str | None = None, *,
            norm_options: dict | None = None) -> nn.Module:
    """A new network with each normalized block of `module` rebuilt at `placement`; `module` is left as it is.

    `activation` is a name of `cbn_lab.activations`; None keeps the activation of each block. `norm_options` go to
    every block, see `blocks.block`. What counts as a block, and what is kept, is said at the top of this file; what was
    done is in `.report` of the result. Arguments of the forward that are None, True, False or a string unless given
    keep that value. An `assert`, or an `if` that raises, on shapes or values is taken as passed and left out. An
    nn.Linear in front of a BatchNorm1d with as many features is taken to map [N, C].

    Raises ValueError where there is no batch norm, where no block was found (the message names the norms and why), for
    what the new network would lose (hooks, a train() of its own), for an unknown placement or activation; TraceError, a
    ValueError, where torch.fx cannot follow the network, or would do so wrongly: conditions on values or shapes, random
    numbers that depend on no tensor, counters and buffers that the forward changes, torch.no_grad and autocast.
    """
    make = BlockMaker("identity" if activation is None else activation, placement, norm_options or {})
    converted = rebuild(module, make, own_activations=activation is None)
    make.require_all_used()
    return converted


def rebuild(module: nn.Module, make: BlockMaker, *, own_activations: bool = False) -> nn.Module:
    """`convert` with the blocks of `make`, for networks of `models`."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a network (an nn.Module that was built), got {module!r}")
    _require_bare(module)
    if not has_batch_norm(module):
        others = sorted({type(m).__name__ for m in module.modules() if isinstance(m, CompleteBatchNormBase)
                         or "Norm" in type(m).__name__ and not list(m.children())})
        raise ValueError(f"{type(module).__name__} has no batch norm, so there is nothing to convert"
                         + (f" (its norms are {', '.join(others)})" if others else "")
                         + "; give a network with weight layer -> BatchNorm -> activation")
    require_plain(module, Converted)
    root = copied(module)
    traces = [Trace(root.train()), Trace(root.eval())]
    for new, old in zip(root.modules(), module.modules(), strict=True):
        new.training = old.training
    keep_what_differs(*traces)
    sites = {traces[0].key(site): site for site in traces[0].sites}
    kept = traces[1].kept() | traces[0].kept()
    if not sites:
        keeps = "; ".join(_reasons(kept)) or "its norms, because the forward calls none of them"
        raise ValueError(f"no block found in {type(module).__name__}, which keeps {keeps}. "
                         "Expected weight layer -> BatchNorm -> activation (see cbn_lab.convert)")
    builder = Builder(root, traces[0], make, own_activations)
    built = {key: builder.site(site) for key, site in sites.items()}
    inputs = {node.target: builder.input_norm(node.target) for node in traces[0].readers_outside()}
    ends = [(trace, _rewire(trace.graph, site, *built[trace.key(site)][:2])) for trace in traces
            for site in trace.sites]
    builder.place()
    for trace, end in [] if own_activations else ends:
        _spare(trace, end)
    report = Report(tuple(dict.fromkeys(builder.placements)), tuple(rebuilt for _, _, rebuilt in built.values()),
                    tuple(path for path, added in inputs.items() if added), kept)
    return _assembled(root, module, traces, report)


def _require_bare(module: nn.Module) -> None:
    """ValueError for what torch puts around a network."""
    wrappers = {nn.DataParallel: "module", nn.parallel.DistributedDataParallel: "module"}
    inside = wrappers.get(type(module), "_orig_mod")  # that of torch.compile, whose class takes seconds to import
    if hasattr(module, inside):
        raise ValueError(f"convert the network inside of this {type(module).__name__}, which is its .{inside}, and "
                         "wrap or compile the result")
    if any(isinstance(m, torch.jit.ScriptModule) for m in module.modules()):
        raise ValueError(f"{type(module).__name__} is TorchScript, or holds some, which torch.fx cannot read; convert "
                         "the network that it was made from")
    if isinstance(module, ConvertedInTwoModes):
        raise ValueError("this network was converted already, with a graph for each of its two modes; convert the "
                         "network that it was made from")


def _rewire(graph: fx.Graph, site: Site, paths: list[str], after: str | None) -> fx.Node:
    """Call the new modules in the place of the old ones; returns what now is the block's output."""
    for branch, path in zip(site.branches, paths, strict=True):
        first = branch.weight or branch.norm
        with graph.inserting_before(first):
            new = graph.call_module(path, first.args)
        last = site.activation if site.direct and site.activation is not None else branch.norm
        last.replace_all_uses_with(new)
        for node in dict.fromkeys((last, branch.norm, first)):
            graph.erase_node(node)
    if after is not None:
        with graph.inserting_before(site.activation):
            new = graph.call_module(after, tuple(site.activation.all_input_nodes))
        site.activation.replace_all_uses_with(new)
        graph.erase_node(site.activation)
    return new


def _spare(trace: Trace, output: fx.Node) -> None:
    """A copy for what works in place on the block's output: the new activation may need it for its gradient."""
    if any(trace.works_in_place(user) and user.args[:1] == (output,) for user in output.users):
        with trace.graph.inserting_after(output):
            clone = trace.graph.call_method("clone", (output,))
        output.replace_all_uses_with(clone, delete_user_cb=lambda user: user is not clone)


def _assembled(root: nn.Module, given: nn.Module, traces: list[Trace], report: Report) -> nn.Module:
    forms = [Converted(root, trace.graph, type(given).__name__) for trace in traces]
    one = traces[0].graph.python_code("self").src == traces[1].graph.python_code("self").src
    if one:
        result = forms[0]
        result.meta["report"] = report
    else:
        result = ConvertedInTwoModes(*forms, report)
    modes = {path: module.training for path, module in given.named_modules()}
    for path, module in result.named_modules():
        if type(module) is nn.Module or not path:  # those that fx makes to hold others
            module.training = modes.get(path, given.training)
    return result


def _merge(source: nn.Module, target: nn.Module) -> None:
    """Put the modules, parameters and buffers of `source` into `target`, beside what is there."""
    for name, parameter in source.named_parameters(recurse=False):
        target.register_parameter(name, parameter)
    for name, buffer in source.named_buffers(recurse=False):
        target.register_buffer(name, buffer)
    for name, child in source.named_children():
        if type(child) is nn.Module and hasattr(target, name):
            _merge(child, getattr(target, name))
        else:
            target.add_module(name, child)
