"""One forward of a network as a graph of torch.fx, or a sentence that says why there is none.

torch.fx runs the forward once, with stand-ins for the tensors, and records the operations on them. Whatever else the
forward does is lost, so a forward that does more is refused here: one that draws random numbers or counts its calls
by itself, or that switches gradients off.
"""

import ast
import inspect
import linecache
import operator
import random
import sys

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cbn_lab.norms import BatchNorm1d, BatchNorm2d

# What checks on shapes are made of. It is taken out of the graph with them where nothing else reads it.
_OF_SHAPES = (getattr, "dim", "size", "numel", "ndimension", *(getattr(operator, name) for name in (
    "getitem", "eq", "ne", "lt", "le", "gt", "ge", "mod", "floordiv", "add", "sub", "mul", "and_", "or_")))


class TraceError(ValueError):
    """torch.fx cannot follow the network's forward; the message says where it stopped and what to do."""


def traced(root: nn.Module) -> fx.Graph:
    """Arguments that are None, True, False or a string unless given are taken so: forwards ask for them."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(type(root).forward).parameters.items()
                if parameter.default is None or isinstance(parameter.default, (bool, str))}
    tracer = _Tracer()
    state, drawn = _state(root), _drawn()
    try:
        graph = tracer.trace(root, concrete_args=defaults or None)
    except TraceError:
        raise
    except Exception as error:  # the forward depends on values or shapes; what it then raises can be anything
        raise TraceError(f"torch.fx cannot trace {type(root).__name__} ({_first_line(error)}): its forward must "
                         "not depend on values or shapes; convert the parts of it that can be traced, one by one "
                         "(net.part = convert(net.part, ...))") from error
    if drawn != _drawn():
        raise TraceError(f"the forward of {type(root).__name__} draws random numbers that depend on no tensor, which "
                         "torch.fx would draw once and for all; use nn.Dropout or torch.rand_like, or convert the "
                         "parts that draw none, one by one")
    if changed := _changed(state, _state(root)):
        raise TraceError(f"the forward of {type(root).__name__} changes {', '.join(changed)}, which the new network "
                         "would not; take that out of the forward, or convert the parts that do without, one by one")
    order = {node: i for i, node in enumerate(graph.nodes)}
    if any(order[user] > order[now] for was, now in tracer.changes for user in was.users):
        raise TraceError(f"the forward of {type(root).__name__} reads a tensor again that it has changed by +=, -=, *= "
                         "or /=, where torch.fx would read the old one; write x = x + y, or x.add_(y) to change it")
    for node in tracer.checks:
        _erase_unused(graph, node)
    for node in graph.nodes:
        name = str(node.target).rpartition("_")[0]
        if node.op == "placeholder" and name in defaults:  # torch.fx numbers these
            node.target = name
    return graph


def is_traced_through(module: nn.Module) -> bool:
    """Sequences and modules with a batch norm inside; everything else is a black box."""
    return type(module).forward is nn.Sequential.forward or has_batch_norm(module, inside=True)


def has_batch_norm(module: nn.Module, *, inside: bool = False) -> bool:
    return any(isinstance(m, (_BatchNorm, BatchNorm1d, BatchNorm2d)) and not (inside and m is module)
               for m in module.modules())


def has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks or module._forward_hooks or module._backward_pre_hooks
                or module._backward_hooks)


class _Proxy(fx.Proxy):
    """Notes what += and the like change: torch.fx records them as + and the like."""

    def _changed(self, result: fx.Proxy) -> fx.Proxy:
        self.tracer.changes.append((self.node, result.node))
        return result

    def __iadd__(self, other):
        return self._changed(self + other)

    def __isub__(self, other):
        return self._changed(self - other)

    def __imul__(self, other):
        return self._changed(self * other)

    def __itruediv__(self, other):
        return self._changed(self / other)


class _Tracer(fx.Tracer):
    def __init__(self):
        super().__init__()
        self.modes = _modes()
        self.checks: list[fx.Node] = []
        self.changes: list[tuple[fx.Node, fx.Node]] = []  # what += changed, and what it gave

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not is_traced_through(m)

    def create_node(self, *args, **kwargs) -> fx.Node:
        if _modes() != self.modes:
            raise TraceError(f"the forward of {type(self.root).__name__} computes under torch.no_grad, enable_grad or "
                             "autocast, which torch.fx does not record; take that out of the forward (to freeze a "
                             "part, part.requires_grad_(False)) and put it around the call")
        return super().create_node(*args, **kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Checks on shapes or values are taken as passed; other conditions raise."""
        answer = _passing(sys._getframe(2))  # the one that asks, behind Proxy.__bool__
        if answer is None:
            return super().to_bool(obj)
        self.checks.append(obj.node)
        return answer


def _passing(frame) -> bool | None:
    """What the condition that the frame is at must be to pass an `assert`, or an `if` that raises; None elsewhere.

    torch.fx's own `trace_asserts` reads bytecode, and not that of Python 3.11 and later.
    """
    at = inspect.getframeinfo(frame, context=0).positions
    try:
        tree = ast.parse("".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals)))
    except SyntaxError:  # no source, or not the one that runs
        return None
    if at is None or None in at:
        return None
    place = (at.lineno, at.col_offset), (at.end_lineno, at.end_col_offset)
    for node in ast.walk(tree):
        raises = isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)
        if not raises and not isinstance(node, ast.Assert):
            continue
        inside = list(ast.walk(node.test))
        if any(isinstance(part, ast.NamedExpr) for part in inside):
            continue  # the value is used later
        negations = [part for part in inside if _negates(part)]
        if _place(node) == place:  # Python 3.11 names the statement, not the part of the condition
            if all(part is node.test for part in negations):
                return raises == bool(len(negations) % 2)
        elif _encloses(node.test, place):
            return raises == bool(sum(_encloses(part, place) for part in negations) % 2)
    return None


def _place(node: ast.AST) -> tuple:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _encloses(node: ast.AST, place: tuple) -> bool:
    return _place(node)[0] <= place[0] and place[1] <= _place(node)[1]


def _negates(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return any(isinstance(comparison, ast.NotIn) for comparison in node.ops)
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _erase_unused(graph: fx.Graph, node: fx.Node) -> None:
    if not node.users and not node._erased and node.target in _OF_SHAPES:
        read = node.all_input_nodes
        graph.erase_node(node)
        for other in read:
            _erase_unused(graph, other)


def _modes() -> tuple:
    return torch.is_grad_enabled(), *map(torch.is_autocast_enabled, ("cpu", "cuda"))


def _drawn() -> list:
    """The states of the generators that a forward may draw from without a tensor."""
    states = [torch.get_rng_state().tolist(), random.getstate()]
    if "numpy" in sys.modules:
        states.append(str(sys.modules["numpy"].random.get_state()[1:3]))
    return states


def _state(root: nn.Module) -> dict[str, tuple]:
    """Buffers, numbers and flags of all modules, with the version of the tensors."""
    return {f"{path}.{name}".lstrip("."): (value, value._version if torch.is_tensor(value) else None)
            for path, module in root.named_modules() for name, value in (vars(module) | module._buffers).items()
            if torch.is_tensor(value) and not value.is_inference() or isinstance(value, (bool, int, float, str))}


def _changed(before: dict[str, tuple], after: dict[str, tuple]) -> list[str]:
    def same(one: tuple, two: tuple) -> bool:
        if one[0] is two[0]:
            return one[1] == two[1]
        return not torch.is_tensor(one[0]) and type(one[0]) is type(two[0]) and one[0] == two[0]

    return [name for name, was in before.items() if name not in after or not same(was, after[name])]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error).strip() else repr(error)
