"""Keyword arguments that pass through several hands are checked against the signature of the last."""

import inspect
from collections.abc import Callable


def require_known(what: str, options: dict, function: Callable, *, given: int = 0) -> None:
    """TypeError that lists what `function` takes besides its first `given` arguments, if `options` holds others."""
    known = list(inspect.signature(function).parameters)[given:]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{what} has no {', '.join(map(repr, unknown))}; known: {', '.join(known) or 'none'}")
