"""What `cbn_lab.convert` refuses before it traces a network."""

import copy

from torch import nn

from cbn_lab._convert_patterns import NORMS, known_activations
from cbn_lab._convert_trace import has_hooks, is_traced_through


def require_plain(module: nn.Module, converted: type) -> None:
    """ValueError for what a new network, of the class `converted`, would lose without a word."""
    for name in (*module._modules, *module._parameters, *module._buffers):
        if hasattr(converted, name) or name == "meta":
            raise ValueError(f"{type(module).__name__} has a part named {name!r}, a name that the new network, a "
                             "torch.fx.GraphModule, needs itself; rename the part")
    for path, m in module.named_modules():
        if m is not module and not is_traced_through(m) and type(m) not in (*NORMS, *known_activations()):
            continue
        lost = {"hooks": has_hooks(m), "a forward of its own, set on the instance": "forward" in vars(m),
                "a train() of its own": type(m).train is not nn.Module.train or "train" in vars(m)}
        if what := [name for name, there in lost.items() if there]:
            raise ValueError(f"{type(m).__name__}{f' {path!r}' * bool(path)} has {' and '.join(what)}, which the new "
                             "network would lose; take that out, convert, and put it back on the result if you need "
                             "it there")


def copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # such as tensors that torch.nn.utils.weight_norm has computed
        raise ValueError(f"{type(module).__name__} cannot be copied ({error}); take out what cannot, such as "
                         "torch.nn.utils.weight_norm (remove_weight_norm) or prune (prune.remove), call lazy layers "
                         "once, and convert it then") from error
