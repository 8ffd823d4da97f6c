"""What a picture asks of its data, said in a sentence where it does not have it."""

import math
from collections.abc import Iterable, Mapping, Sized


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
