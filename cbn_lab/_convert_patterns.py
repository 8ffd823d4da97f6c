"""What in a network is a block: the graph of one forward, and the norms in it with what belongs to them.

Used by cbn_lab.convert, where the rules are stated for the reader.
"""

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cbn_lab import activations
from cbn_lab._convert_trace import traced
from cbn_lab.norms import BatchNorm1d, BatchNorm2d

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, BatchNorm1d, BatchNorm2d)
_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_ACTIVATIONS = (nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid,
                nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanh)
# Each function takes its input and then what the module's constructor takes.
_FUNCTIONS = {
    F.celu: nn.CELU, F.elu: nn.ELU, F.gelu: nn.GELU, F.hardsigmoid: nn.Hardsigmoid, F.hardswish: nn.Hardswish,
    F.hardtanh: nn.Hardtanh, F.leaky_relu: nn.LeakyReLU, F.logsigmoid: nn.LogSigmoid, F.mish: nn.Mish,
    F.relu: nn.ReLU, F.relu_: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, F.relu6: nn.ReLU6,
    F.selu: nn.SELU, F.silu: nn.SiLU, F.sigmoid: nn.Sigmoid, torch.sigmoid: nn.Sigmoid, torch.sigmoid_: nn.Sigmoid,
    F.softplus: nn.Softplus, F.softsign: nn.Softsign, F.tanh: nn.Tanh, torch.tanh: nn.Tanh, torch.tanh_: nn.Tanh,
}
_METHODS = {"relu": nn.ReLU, "relu_": nn.ReLU, "sigmoid": nn.Sigmoid, "sigmoid_": nn.Sigmoid, "tanh": nn.Tanh,
            "tanh_": nn.Tanh}
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_POOLS = tuple(getattr(nn, f"{kind}Pool{d}d") for d in (1, 2) for kind in ("Avg", "Max", "AdaptiveAvg", "AdaptiveMax"))
_PASSED = (F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.mean, "mean",
           torch.flatten, "flatten")
_DROPPING = ("dropout", "stochastic_depth", "drop_path")  # as modules: Dropout2d, StochasticDepth, DropPath


@dataclass(frozen=True)
class Branch:
    """A norm, and the weight layer that feeds it and nothing else (None: it reads something else)."""

    weight: fx.Node | None
    norm: fx.Node


@dataclass(frozen=True)
class Site:
    """Where a block stands. `direct`: the activation reads the norm; otherwise a sum of branches (or a dropout).

    The first branch is the block's, others are shortcuts: their weight layers read what a branch reads, too.
    """

    branches: tuple[Branch, ...]
    activation: fx.Node | None
    direct: bool

    def paths(self) -> set[str]:
        """Of its weight layers and norms."""
        return {node.target for branch in self.branches for node in (branch.weight, branch.norm) if node is not None}


class Trace:
    """The graph of one forward, with its sites and the norms that belong to none."""

    def __init__(self, root: nn.Module):
        self.root = root
        self.graph = traced(root)
        for node in list(self.graph.nodes):
            if type(self.module(node)) is nn.Identity:
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)
        self.calls = Counter(node.target for node in self.graph.nodes if node.op == "call_module")
        # Modules whose tensors the forward reads by itself: under their names it must find what it did.
        self.read = {node.target.rpartition(".")[0] for node in self.graph.nodes if node.op == "get_attr"}
        self.sites = list(self._find())
        self.other_in_eval: set[str] = set()

    def key(self, site: Site) -> tuple:
        """The same for the same block in another trace."""
        act = site.activation
        activation = act and (act.op == "call_module" and act.target, repr(self.own_activation(act)))
        return tuple((b.weight and b.weight.target, b.norm.target) for b in site.branches), site.direct, activation

    def leave(self, site: Site) -> None:
        """As it is, since the forward of the other mode does something else with it."""
        self.sites.remove(site)
        self.other_in_eval |= site.paths()

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.root.get_submodule(node.target) if node.op == "call_module" else None

    def own_activation(self, node: fx.Node) -> nn.Module | None:
        """The activation that the node computes, as a module; None if it is none."""
        module = self.module(node)
        if module is not None:
            return module if type(module) in known_activations() and _is_unary(node) else None
        makers = {"call_function": _FUNCTIONS, "call_method": _METHODS}.get(node.op, {})
        if node.target not in makers or len(node.all_input_nodes) != 1:
            return None
        return makers[node.target](*node.args[1:], **node.kwargs)

    def works_in_place(self, node: fx.Node) -> bool:
        name = getattr(node.target, "__name__", node.target)
        return (getattr(self.module(node), "inplace", False) is True or node.kwargs.get("inplace") is True
                or node.op != "call_module" and str(name).endswith("_"))

    def kept(self) -> dict[str, str]:
        """Norms that belong to no site: path -> why."""
        found = {branch.norm for site in self.sites for branch in site.branches}
        return {str(node.target): self._reason(node) for node in self.graph.nodes
                if node not in found and isinstance(self.module(node), (_BatchNorm, BatchNorm1d, BatchNorm2d))}

    def readers_outside(self) -> Iterator[fx.Node]:
        """Weight layers of no block that read a block through nothing but pools, flattening and dropout."""
        inside = {branch.weight for site in self.sites for branch in site.branches}
        for site in self.sites:
            yield from (n for n in self._readers(site.activation or site.branches[0].norm) if n not in inside)

    def _find(self) -> Iterator[Site]:
        apart: dict[fx.Node, list[Branch]] = {}
        found: list[tuple[fx.Node, Site | fx.Node]] = []  # where it stands, and what
        for node in self.graph.nodes:
            if not self._is_plain_norm(node):
                continue
            branch = Branch(self._feeding_weight(node), node)
            user = next(iter(node.users)) if len(node.users) == 1 else None
            if user is not None and self.own_activation(user) is not None:
                found.append((user, Site((branch,), user, direct=True)))
            elif branch.weight is not None and (activation := self._activation_behind(node)) is not None:
                if activation not in apart:
                    found.append((activation, activation))
                apart.setdefault(activation, []).append(branch)
            elif branch.weight is not None and not any(map(self.own_activation, node.users)):
                found.append((node, Site((branch,), None, direct=True)))
        order = {node: i for i, node in enumerate(self.graph.nodes)}
        for _, site in sorted(found, key=lambda pair: order[pair[0]]):
            if not isinstance(site, Site):
                branches = sorted(apart[site], key=lambda branch: len(branch.weight.args[0].users) > 1)
                site = Site(tuple(branches), site, direct=False)
            yield site

    def _is_plain_norm(self, node: fx.Node) -> bool:
        return (type(self.module(node)) in NORMS and self.calls[node.target] == 1 and _is_unary(node)
                and node.target not in self.read)

    def _feeding_weight(self, norm: fx.Node) -> fx.Node | None:
        node = norm.args[0]
        weight = self.module(node)
        if (isinstance(weight, _WEIGHTS) and self.calls[node.target] == 1 and _is_unary(node)
                and node.target not in self.read and len(node.users) == 1):
            outputs = weight.out_features if isinstance(weight, nn.Linear) else weight.out_channels
            same_dims = isinstance(weight, nn.Conv2d) == isinstance(self.module(norm), (nn.BatchNorm2d, BatchNorm2d))
            # A sequence's norm may be of its places.
            return node if same_dims and outputs == self.module(norm).num_features else None
        return None

    def _activation_behind(self, node: fx.Node) -> fx.Node | None:
        """The activation that reads a sum (of sums, with dropout on the way) of which `node` is a part."""
        while len(node.users) == 1:
            node = next(iter(node.users))
            if self.own_activation(node) is not None:
                return node
            if not _calls(node, _SUMS) and not self._drops(node):
                return None
        return None

    def _drops(self, node: fx.Node) -> bool:
        module = self.module(node)
        name = getattr(node.target, "__name__", "") if module is None else type(module).__name__
        return name.lower().rstrip("123d").replace("_", "") in [word.replace("_", "") for word in _DROPPING]

    def _readers(self, node: fx.Node) -> list[fx.Node]:
        readers = []
        for user in node.users:
            if isinstance(self.module(user), _WEIGHTS) and self.calls[user.target] == 1:
                readers.append(user)
            elif isinstance(self.module(user), (*_POOLS, nn.Flatten)) or _calls(user, _PASSED) or self._drops(user):
                behind = self._readers(user)
                if not behind:
                    return []
                readers += behind
            else:
                return []
        return readers

    def _reason(self, node: fx.Node) -> str:
        kind = type(self.module(node))
        if kind not in NORMS:
            return f"{kind.__name__} is neither BatchNorm1d nor BatchNorm2d"
        if self.calls[node.target] > 1:
            return "it is called more than once"
        if node.target in self.other_in_eval:
            return "the network does something else with it in eval mode than in train mode"
        if node.target in self.read:
            return "the network reads its parameters or statistics by itself"
        if any(map(self.own_activation, node.users)):
            return "its output is read by more than one operation, an activation among them"
        return "no weight layer feeds it alone, and no activation reads it"


def keep_what_differs(training: Trace, evaluation: Trace) -> None:
    """Leave the sites that do not stand in both graphs, but those that the evaluation does not touch at all."""
    keys = [{trace.key(site) for site in trace.sites} for trace in (training, evaluation)]
    touched = evaluation.calls.keys() | evaluation.read
    for site in list(training.sites):
        if training.key(site) not in keys[1] and site.paths() & touched:
            training.leave(site)
    for site in list(evaluation.sites):
        if evaluation.key(site) not in keys[0]:
            evaluation.leave(site)


def _is_unary(node: fx.Node) -> bool:
    return len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node)


def _calls(node: fx.Node, functions: tuple) -> bool:
    """Whether the node calls one of the functions, or methods named so."""
    return node.op in ("call_function", "call_method") and node.target in functions


def known_activations() -> set[type]:
    """torch's, and the classes registered in cbn_lab.activations."""
    return {*_ACTIVATIONS, *(type(activations.get(name)) for name in activations.names())} - {nn.Identity}
