"""Does a batch norm layer do what torch's does? A table of named cases, for any class with torch's interface.

`check(make)` runs them and returns a row per case. `make(num_features, dims, **options)` builds the layer to
test: dims is 1 for [N, C] and [N, C, L], 2 for [N, C, H, W]; options are some of eps, momentum, affine and
track_running_stats. The layer keeps torch's names: weight, bias, running_mean, running_var,
num_batches_tracked.

A case is a function of `make` that raises where the layer and torch's differ; its docstring is the rule it
checks. Where nothing else is said, values are float64 and have to agree to 9 digits, on the CPU.

>>> from cbn_lab.norms.batch_norm import BatchNorm1d, BatchNorm2d
>>> rows = check(lambda n, dims, **options: (BatchNorm1d if dims == 1 else BatchNorm2d)(n, **options))
>>> [row.name for row in rows if not row.passed]
[]
"""

from collections.abc import Callable, Iterable
from textwrap import shorten
from typing import NamedTuple

from cbn_lab.norms import conformance_module, conformance_values
from cbn_lab.norms.conformance_tools import Make

CASES: dict[str, Callable[[Make], None]] = {
    case.__name__: case for case in (*conformance_values.CASES, *conformance_module.CASES)}


class Row(NamedTuple):
    name: str
    passed: bool
    detail: str  # the rule; for a failed case, what differed and the rule


def check(make: Make, names: Iterable[str] | None = None) -> list[Row]:
    """Run the cases (all of them, or those named) on the layers that `make` builds; one row each, in order.

    Raises ValueError for an unknown case.
    """
    names = list(CASES if names is None else names)
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise ValueError(f"unknown cases {unknown}; known: {', '.join(CASES)}")
    return [_row(name, make) for name in names]


def _row(name: str, make: Make) -> Row:
    rule = " ".join(CASES[name].__doc__.split())
    try:
        CASES[name](make)
    except Exception as error:  # a layer under test may fail in any way: that is what the row reports
        what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return Row(name, False, f"{shorten(what, 300)} Rule: {rule}")
    return Row(name, True, rule)
