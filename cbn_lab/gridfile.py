"""A grid of runs, written down in TOML.

    [common]                            # fields of TrainConfig, for all runs
    model = "convnet"
    epochs = 2
    model_options = { widths = [16, 32] }

    [grid]                              # fields with a list of values: every combination is a run
    seed = [0, 1]
    activation = ["sigmoid", "relu"]
    placement = ["before", "complete"]

The runs stand in the order of the lists, the last of which changes fastest: with the seeds first, as here, a sweep that
is stopped leaves whole tables of fewer seeds. Several tables `[[grid]]` follow one another; a field of a grid replaces
that of `[common]`; a run that stands in two grids is trained once. A list as a value, one per block, stands in a list
of its own: placement = [["before", "complete"], "complete"]. What is left out has the default of TrainConfig.
"""

import itertools
import os
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from cbn_lab.config import TrainConfig, require

FIELDS = {field.name: field.type for field in fields(TrainConfig)}
_TYPES = {  # field type: (whether a TOML value fits, what is expected)
    str: (lambda v: isinstance(v, str), "a string"),
    str | tuple: (lambda v: isinstance(v, str) or (isinstance(v, tuple) and all(isinstance(word, str) for word in v)),
                  "a string, or a list of strings"),
    dict: (lambda v: isinstance(v, dict), "a table, such as { widths = [8, 8] }"),
    bool: (lambda v: isinstance(v, bool), "true or false"),
    int: (lambda v: isinstance(v, int) and not isinstance(v, bool), "a whole number"),
    float: (lambda v: isinstance(v, (int, float)) and not isinstance(v, bool), "a number"),
}
_TYPES |= {bool | None: _TYPES[bool], int | None: _TYPES[int]}  # TOML has no None: the field is left out


def read(path) -> list[TrainConfig]:
    """The runs of a grid file, in their order. ValueError names the file, what is wrong in it and what is known."""
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no grid file {path}") from None
    except OSError as error:  # on Windows, opening a folder is a matter of permission
        raise ValueError(f"{path} is a folder; name a grid file in it, such as {path / 'grid.toml'}"
                         if os.path.isdir(path) else f"the grid file {path} cannot be read ({error.strerror}); look at "
                         "its name and its permissions") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    try:
        return list(_runs(tables))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _runs(tables: dict) -> Iterator[TrainConfig]:
    for name in tables:
        require(name in ("common", "grid"), f"unknown table [{name}]; known: [common], [grid]")
    common, grids = tables.get("common", {}), tables.get("grid", {})
    require(isinstance(common, dict), "common must be a table: [common]")
    grids = grids if isinstance(grids, list) else [grids]
    require(all(isinstance(grid, dict) for grid in grids), "grid must be a table, [grid], or several: [[grid]]")
    settings = {name: _value("common", name, value) for name, value in common.items()}
    for grid in grids:
        lists = {name: _values(name, values) for name, values in grid.items()}
        for values in itertools.product(*lists.values()):
            yield TrainConfig(**settings | dict(zip(lists, values, strict=True)))


def _values(name: str, values) -> list:
    _require_known("grid", name)
    require(isinstance(values, list), f"[grid] {name} must be a list of values, such as {name} = [{_toml(values)}]")
    require(bool(values), f"[grid] {name} is an empty list, which leaves no run")
    return [_value("grid", name, value) for value in values]


def _value(table: str, name: str, value):
    _require_known(table, name)
    value = tuple(value) if isinstance(value, list) and FIELDS[name] == str | tuple else value
    fits, expected = _TYPES[FIELDS[name]]
    require(fits(value), f"[{table}] {name} must be {expected}, got {_toml(value)}")
    return value


def _toml(value) -> str:
    """A value as it is written in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


def _require_known(table: str, name: str) -> None:
    require(name in FIELDS, f"[{table}] has an unknown field {name!r}; known: {', '.join(FIELDS)}")

