"""The seeds of one activation, placement by placement, and a reader's own runs among them."""

from collections.abc import Sequence
from statistics import fmean

from cbn_lab import blocks
from cbn_lab.figures.selection import (
    finals,
    last,
    part,
    readable,
    require_one_setting,
    require_records,
    spread,
    unfinished,
    word,
)
from cbn_lab.figures.style import Figure, axes, nth_mark, styled

_OWN = {"linestyle": "", "marker": "*", "markersize": 15, "color": "#D55E00", "markeredgecolor": "black",
        "markeredgewidth": 0.8, "clip_on": False, "zorder": 4}


@styled
def seed_strip(runs: Sequence, metric: str = "test_accuracy", own: Sequence = ()) -> Figure:
    """A row per placement: a dot per recorded seed, a bar at their mean, a star for each run in `own`.

    Accuracies in %, losses in nats. All runs have one activation and one setting; those that did not finish are counted
    beside their row, and a run of `own` without a final `metric` is left out. ValueError for several activations, for
    mixed settings, and where nothing was recorded.
    """
    runs, own = list(runs), [run for run in own if last(run, metric) is not None]
    table = finals(runs, "placement", metric)
    names = list(dict.fromkeys(word(run.config["activation"]) for run in runs))
    if len(names) != 1:
        raise ValueError(f"the strip is for one activation, got {', '.join(names)}; choose the runs of one")
    require_records(own)
    require_one_setting([*runs, *own], "your runs and the recorded ones", ("placement", "norm_options"))
    factor, digits, unit = (100, 1, "%") if "accuracy" in metric else (1, 3, "nats")
    rows = {place: [factor * value for of_seeds in cell.values() for value in of_seeds.values()]
            for place, cell in table.items()}
    lost = unfinished(runs, metric).get(names[0], {})
    rows |= {place: [] for place in (*lost, *(word(run.config["placement"]) for run in own)) if place not in rows}
    known = [place for place in blocks.placements() if place in rows]
    rows = {place: rows[place] for place in known + sorted(set(rows) - set(known))}
    fig, (axis,) = axes(size=(8, 1.1 + 0.44 * len(rows)), margins=(1.25, 0.25, 0.62, 0.36, 0.2))
    said = []
    for y, (place, values) in enumerate(rows.items()):
        style = nth_mark(1)
        heights = [y + 0.12 * (i - (len(values) - 1) / 2) for i in range(len(values))]  # equal values stay apart
        axis.plot(values, heights, linestyle="", marker=style.marker, color=style.colour, markersize=7.5,
                  markeredgecolor="white", markeredgewidth=0.5)
        if len(values) > 1:
            axis.vlines(fmean(values), y - 0.34, y + 0.34, color=style.colour, linewidth=2)
        mine = {run.config["seed"]: factor * run.final[metric] for run in own if word(run.config["placement"]) == place}
        axis.plot(list(mine.values()), [y] * len(mine), **_OWN)
        ended = f", {lost[place]} did not finish" if place in lost else ""
        said.append(f"{place} {spread(values, digits) if values else 'no value'}{ended}"
                    f"{_among(mine, values, digits)}")
    axis.set_yticks(range(len(rows)), [place + (f"\n{lost[place]} unfinished" if place in lost else "")
                                       for place in rows])
    axis.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"{readable(metric)} after the last epoch ({unit})")
    axis.set_title(f"{names[0]}, dots: recorded seeds, bars: their means{', stars: your runs' if own else ''}")
    axis.grid(axis="y", visible=False)
    return Figure(fig, f"{readable(metric).capitalize()} in {unit} after the last epoch, one dot a seed, "
                       f"{part(runs)}. {'; '.join(said)}.")


def _among(mine, recorded, digits) -> str:
    """Where own runs stand among the recorded seeds of the same arm."""
    said = []
    for seed, value in mine.items():
        below = sum(other < value for other in recorded)
        said.append(f", your seed {seed} {value:.{digits}f}, above {below} of {len(recorded)} recorded")
    return "".join(said)
