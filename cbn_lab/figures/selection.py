"""Which recorded runs may stand in one picture, and their numbers.

Runs are put side by side only if they differ in what the picture compares: a mixture of, say, two learning rates is
refused.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from cbn_lab import activations, blocks
from cbn_lab.figures.demands import checked

COMPARED = ("activation", "placement", "norm_options")
_INCIDENTAL = ("seed", "device", "precision", "compile", "log_every", "evaluate_every")  # may differ inside an arm


@checked
def accuracies(runs: Sequence, rows: str | Callable, metric: str) -> dict[str, dict[str, dict[int, float]]]:
    """row -> activation -> seed -> final accuracy in %; runs that did not finish are left out. Errors of `finals`."""
    return {row: {name: {seed: 100 * value for seed, value in by_seed.items()} for name, by_seed in of_row.items()}
            for row, of_row in finals(runs, rows, metric).items()}


def finals(runs: Sequence, rows: str | Callable, metric: str) -> dict[str, dict[str, dict[int, float]]]:
    """row -> activation -> seed -> final value of `metric` as recorded; runs that did not finish are left out.

    ValueError if nothing is left, if two runs have the same row, activation and seed, if settings are mixed, or if the
    runs have no setting `rows`.
    """
    key = rows if callable(rows) else lambda config: word(config[rows])
    if not runs:
        raise ValueError("there are no runs to draw; record some with cbn_lab.train.fit")
    require_records(runs)
    require_one_setting(runs, "these runs", COMPARED)
    if not callable(rows) and any(rows not in run.config for run in runs):
        raise ValueError(f"a run has no setting {rows!r} for the rows; it has {', '.join(runs[0].config)}")
    table: dict[str, dict[str, dict[int, float]]] = {}
    for run in runs:
        if last(run, metric) is not None:
            cell = table.setdefault(key(run.config), {}).setdefault(word(run.config["activation"]), {})
            if run.config["seed"] in cell:
                raise ValueError(f"two runs share row {key(run.config)!r}, activation {run.config['activation']!r} and "
                                 f"seed {run.config['seed']}; keep one of them")
            cell[run.config["seed"]] = run.final[metric]
    if not table:
        there = ", ".join(dict.fromkeys(name for run in runs for name in run.final if last(run, name) is not None))
        raise ValueError(f"none of the {len(runs)} runs has a final {metric}; they have {there or 'none at all'}")
    known = blocks.placements()
    if set(table) <= set(known):
        table = {row: table[row] for row in known if row in table}
    return table


def last(run, metric: str) -> float | None:
    """The final value; None where there is none, or none that is finite: the run did not come to a good end."""
    value = run.final.get(metric)
    return value if value is not None and math.isfinite(value) else None


@checked
def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> list[float]:
    """value - reference for each seed that both have."""
    return [values[seed] - reference[seed] for seed in sorted(values) if seed in reference]


@checked
def spread(values: Sequence[float], digits: int = 1, *, sign: bool = False, unit: str = "") -> str:
    """"71.3 (70.1 to 72.0, 3 seeds)": the mean and the range; one value alone is just itself. ValueError for none."""
    if not len(values):
        raise ValueError("there are no values to sum up; give at least one")
    form = f"{'+' if sign else ''}.{digits}f"
    mean = f"{fmean(values):{form}}{unit}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}}, {len(values)} seeds)"


def activations_of(table) -> list[str]:
    found = {name for per_activation in table.values() for name in per_activation}
    return [name for name in activations.names() if name in found] + sorted(found - set(activations.names()))


def held_out_split(runs) -> str:
    """The held-out split that was evaluated most often."""
    def count(split):
        return sum(f"{split}_accuracy" in entry for run in runs for entry in run.curve)

    return "validation" if count("validation") > count("test") else "test"


def differences(configs: Sequence[Mapping], compared: Sequence[str] = ()) -> list[str]:
    """The settings in which any of them differs from the first, beside the seed, the device and the like."""
    ignored = {*_INCIDENTAL, *compared}
    return sorted({key for config in configs for key, value in config.items()
                   if key not in ignored and value != configs[0].get(key)})


def require_one_setting(runs, what: str, compared: Sequence[str] = ()) -> None:
    differing = differences([run.config for run in runs], compared)
    if differing:
        raise ValueError(f"{what} differ in {', '.join(differing)} as well, so they cannot be compared here; "
                         "choose those of one setting first")


def setting(runs) -> str:
    """What all the runs share, in words."""
    keys = [key for key in ("data", "model", "activation", "placement") if all(key in run.config for run in runs)]
    words = [[*(word(run.config[key]) for key in keys), f"{run.config['epochs']} epochs"] for run in runs]
    return ", ".join(column[0] for column in zip(*words, strict=True) if len(set(column)) == 1)


def part(runs) -> str:
    """`setting` of runs of one setting, and what tells two parts of the evidence apart: sizes and learning rate."""
    config = runs[0].config
    images, rates = config.get("train_images"), [config[key] for key in ("lr", "weight_decay") if key in config]
    said = [setting(runs) + (f" of {images:,} images" if images else ""), _size(config.get("model_options") or {})]
    names = [name for key, name in (("lr", "learning rate"), ("weight_decay", "weight decay")) if key in config]
    if len(set(rates)) == 1:
        said.append(f"{' and '.join(names)} {rates[0]}")
    else:
        said += [f"{name} {rate}" for name, rate in zip(names, rates, strict=True)]
    return ", ".join(filter(None, said))


def _size(options: Mapping) -> str:
    """The sizes of a network in words; nothing where they are its own."""
    if widths := options.get("widths"):
        return f"{len(widths)} layers of {min(widths)} to {max(widths)} channels"
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())


def unfinished(runs, metric) -> dict[str, dict[str, int]]:
    """activation -> placement -> how many of its runs have no final value."""
    counts: dict[str, dict[str, int]] = {}
    for run in runs:
        if last(run, metric) is None:
            row, place = counts.setdefault(word(run.config["activation"]), {}), word(run.config["placement"])
            row[place] = row.get(place, 0) + 1
    return counts


def missing(runs, metric) -> str:
    absent = [run for run in runs if last(run, metric) is None]
    if not absent:
        return ""
    return f" Not drawn, because they did not finish: {len(absent)} of {len(runs)} runs."


def word(value) -> str:
    return value if isinstance(value, str) else "mixed"


def readable(metric: str) -> str:
    return metric.replace("_", " ")


def halfway(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """The point in the middle of a curve; None where there is none between its ends, or where it is not finite."""
    x, y = points[len(points) // 2] if len(points) > 2 else (math.nan, math.nan)
    return (x, y) if math.isfinite(y) else None


def require_records(runs: Sequence) -> None:
    """ValueError for runs, such as ones made by hand, that lack what every figure of runs needs."""
    for run in runs:
        lacking = [key for key in ("activation", "placement", "epochs", "seed") if key not in run.config]
        lacking += [key for key in ("epoch", "loss") if any(key not in entry for entry in run.curve)]
        if lacking:
            raise ValueError(f"a run has no {', '.join(lacking)}: its settings need activation, placement, epochs, "
                             "seed, and each entry of its curve epoch and loss, as cbn_lab.train.fit records them")
        if not run.config["epochs"] > 0:
            raise ValueError(f"a run must have epochs above 0, got {run.config['epochs']!r}")
