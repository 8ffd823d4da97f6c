"""What a picture asks of its data, said in a sentence where it does not have it."""

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized

_PLAIN = (type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)


def checked(function: Callable) -> Callable:
    """`function` with a TypeError, in a sentence, for an argument of another kind than its annotation says.

    Looked at is the outermost kind: a mapping, something that can be iterated and is no string, a number, a string, a
    callable, or an object of a class. What has no annotation must be an object, not a plain value or a list.
    """
    @functools.wraps(function)
    def call(*arguments, **options):
        _require_kinds(function, arguments, options)
        return function(*arguments, **options)

    return call


def _require_kinds(function: Callable, arguments: tuple, options: dict) -> None:
    signature, hints = _annotations(function)
    try:
        given = signature.bind(*arguments, **options).arguments
    except TypeError:
        return  # one too many or too few: Python says so when the function is called
    for name, value in given.items():
        if name in hints and not any(good(value) for good, _ in hints[name]):
            wanted = " or ".join(dict.fromkeys(words for _, words in hints[name]))
            raise TypeError(f"{function.__name__}: {name} must be {wanted}, got {value!r:.60}; see "
                            f"help(figures.{function.__name__})")


@functools.cache
def _annotations(function: Callable) -> tuple[inspect.Signature, dict[str, list[tuple[Callable, str]]]]:
    """(signature, name of an argument -> (test of a value, words) of each kind that it may have)."""
    signature, hints = inspect.signature(function), typing.get_type_hints(function)
    named = [name for name, parameter in signature.parameters.items()
             if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)]
    return signature, {name: [_kind(member) for member in _members(hints.get(name, object))] for name in named}


def _members(hint) -> tuple:
    """Those of a union, or the hint alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _kind(hint) -> tuple[Callable, str]:
    kind = typing.get_origin(hint) or hint
    if kind is object:
        return lambda value: not isinstance(value, _PLAIN), "an object of its own class"
    if kind in (Mapping, dict):
        return lambda value: isinstance(value, kind), "a mapping, such as a dict"
    if kind in (Sequence, Iterable):
        return lambda value: isinstance(value, Iterable) and not isinstance(value, (str, bytes)), "a list"
    if kind in (int, float):  # also numpy's and torch's
        return lambda value: hasattr(value, "__float__"), "a number"
    if kind is Callable:
        return callable, "a function"
    words = {str: "a string", bool: "True or False", type(None): "None"}
    return lambda value: isinstance(value, kind), words.get(kind, f"a {kind.__name__}")


def require_groups(groups: Mapping[object, Sized], what: str) -> None:
    """ValueError unless there is a group, and something in each."""
    if not groups:
        raise ValueError(f"there are no {what} to draw; give at least one")
    if empty := [str(label) for label, members in groups.items() if not len(members)]:
        raise ValueError(f"there are no {what} to draw for {', '.join(empty)}; give at least one, or leave it out")


def require_finite(values: Iterable, what: str, *, positive: bool = False) -> None:
    """ValueError unless all are finite numbers, and above 0 where `positive`."""
    for value in values:
        try:
            good = math.isfinite(value) and (value > 0 or not positive)
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{what} must be a finite number{' above 0' if positive else ''}, got {value!r}")


def require_logarithmic(values: Iterable[float], what: str) -> None:
    """ValueError if none of them has a place on a logarithmic axis."""
    if not any(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"no {what} is finite and above 0, so a logarithmic axis has nothing to show")
