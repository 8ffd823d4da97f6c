"""The recorded-runs explorer: choose a part of the evidence, compare two arms seed by seed, replay, add your own seed.

Behind the menus stands `compared`, a plain function. A live run repeats one cell of the table with a seed that is not
recorded; its result becomes a star among the recorded dots.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import ipywidgets

from cbn_lab import figures, grid, verdicts
from cbn_lab.config import TrainConfig
from cbn_lab.figures.selection import differences, readable, word
from cbn_lab.runs import Run
from cbn_lab.widgets.display import Shown
from cbn_lab.widgets.explorer import Explorer
from cbn_lab.widgets.live import LiveTraining

METRICS = ("test_accuracy", "validation_accuracy", "train_loss")
OWN_SEED = 100  # the first of the reader's own: recorded seeds are small numbers


def of_arm(runs: Sequence[Run], activation: str, placement: str) -> list[Run]:
    """The runs of one arm, by seed. ValueError, listing what there is, where none is recorded."""
    of_activation = [run for run in runs if run.config["activation"] == activation]
    found = [run for run in of_activation if run.config["placement"] == placement]
    if not found:
        there = ", ".join(dict.fromkeys(f"{word(run.config['activation'])} {word(run.config['placement'])}"
                                        for run in of_activation or runs))
        raise ValueError(f"no run of {activation} with {placement} is recorded in this part; there are: "
                         f"{there or 'none'}")
    return sorted(found, key=lambda run: run.config["seed"])


def compared(runs: Sequence[Run], activation: str, placement: str, baseline: str, metric: str = METRICS[0],
             own: Sequence[Run] = ()) -> figures.Figure:
    """The grid of all arms of these runs; below it each seed of the two compared ones, with the reader's `own` runs.

    The headline, with which the words begin, is `difference` of the two arms. ValueError where one of them is not
    recorded, and where no run of this part has the metric.
    """
    said = difference(of_arm(runs, activation, placement), of_arm(runs, activation, baseline), metric)
    if all(run.final.get(metric) is None for run in runs):
        raise ValueError(f"the runs of this part have no {readable(metric)}; choose another measure")
    runs, own = _of_one_rate(runs, own)
    seeds, mine = ([run for run in some if run.config["activation"] == activation
                    and run.config["placement"] in (placement, baseline)] for some in (runs, own))
    strip = figures.seed_strip(seeds, metric, mine)
    if any(run.final.get(metric) is None for run in mine):
        said += (f" A run of yours has no {readable(metric)}, so it is no star here: where validation images are held "
                 "out, a live run never sees the test images. Choose validation accuracy.")
    both = figures.stacked([figures.placement_grid(runs, metric), strip])
    return replace(both, alt=f"{said} {both.alt}", headline=said)


def difference(ours: Sequence[Run], theirs: Sequence[Run], metric: str) -> str:
    """"test accuracy, complete minus before, paired by seed: +1.2 (...) points, decided by the protocol's rule.\""""
    a, b = ({run.config["seed"]: value for run in arm if (value := _final(run, metric)) is not None}
            for arm in (ours, theirs))
    factor, unit, digits = (100, "points", 1) if "accuracy" in metric else (1, "nats", 3)
    values = [factor * d for d in figures.paired(a, b)]
    names = [word(arm[0].config["placement"]) for arm in (ours, theirs)]
    if names[0] == names[1]:
        return f"{names[0]} is compared with itself; choose two placements."
    if not values:
        return f"{names[0]} and {names[1]} have no finished seed in common."
    outcome = {"open": "not decided", "not tested": "too few seeds to decide"}.get(verdicts.outcome(values), "decided")
    lost = sum(run.status == "diverged" for run in (*ours, *theirs))
    counted = f" Diverged runs, counted as nets that say nothing: {lost}." if lost else ""
    return (f"{readable(metric)}, {names[0]} minus {names[1]}, paired by seed: "
            f"{figures.spread(values, digits, sign=True)} {unit}, {outcome} by the protocol's rule.{counted}")


def _final(run: Run, metric: str) -> float | None:
    """A last number, for a diverged run that of the protocol; None where there is none."""
    diverged = run.status == "diverged" and run.config["data"] in grid.CLASSES
    return grid.final(run, metric) if diverged else run.final.get(metric)


def _of_one_rate(runs: Sequence[Run], own: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Where each arm has a learning rate and weight decay of its own, both are called tuned: one setting to draw."""
    if not _tuned(runs):
        return list(runs), list(own)
    tuned = dict.fromkeys(("lr", "weight_decay"), "tuned for each arm")
    return tuple([replace(run, config=run.config | tuned) for run in some] for some in (runs, own))


def _tuned(runs: Sequence[Run]) -> bool:
    return len({(run.config["lr"], run.config["weight_decay"]) for run in runs}) > 1


def _menu_line(label: str, runs: Sequence[Run]) -> str:
    """A part's label, and what each of its arms was trained with: nobody has to know what "tuned" means."""
    rate = "tuned for each arm" if _tuned(runs) else f"{runs[0].config['lr']:g}"
    return f"{label} (learning rate {rate})"


def settings(run: Run, seed: int) -> TrainConfig:
    """The settings of a recorded run, to be trained again with another seed."""
    known = {field.name for field in fields(TrainConfig)}
    return TrainConfig(**{name: value for name, value in run.config.items() if name in known} | {"seed": seed})


class EvidenceExplorer(Shown):
    """Menus over `compared`, a player of the two arms, and a live run of the first with a seed of the reader's own.

    parts  label -> recorded runs of one part (one network, data set and size)
    root   folder of the data for live runs
    """

    def __init__(self, parts: Mapping[str, Sequence[Run]], root=None):
        self._parts, self._own = {label: list(runs) for label, runs in parts.items()}, []
        self.explorer = Explorer(compared, list(self._menus().values()), self._arguments)
        self.live = LiveTraining([self._config()], recorded=self._arms(), label=_label, root=root,
                                 before_start=self._chosen, on_finish=self._finished, on_clear=self._cleared)
        for name, control in self.explorer.controls.items():
            if name != "measure":
                control.observe(lambda change: self._follow(), "value")
        self.note = ipywidgets.HTML(
            "<p><b>Replay the two arms, or train the first with your own seed.</b> <i>Start</i> repeats its settings "
            "on this machine with a seed that is not recorded; the result becomes a star above.</p>")
        self.view = ipywidgets.VBox([self.explorer.view, self.note, self.live.view])

    @property
    def controls(self) -> dict:
        return self.explorer.controls

    @property
    def error(self) -> Exception | None:
        return self.explorer.error or self.live.error

    def figure(self) -> figures.Figure:
        return self.explorer.figure()

    def _menus(self) -> dict:
        everything = [run for runs in self._parts.values() for run in runs]
        names = {key: list(dict.fromkeys(word(run.config[key]) for run in everything))
                 for key in ("activation", "placement")}
        names["placement"].sort(key=lambda place: place != "complete")
        baseline = "before" if "before" in names["placement"] else names["placement"][-1]
        return {
            "part": ipywidgets.Dropdown(description="runs", options=[
                (_menu_line(label, runs), label) for label, runs in self._parts.items()]),
            "activation": ipywidgets.Dropdown(description="activation", options=names["activation"]),
            "placement": ipywidgets.Dropdown(description="placement", options=names["placement"]),
            "baseline": ipywidgets.Dropdown(description="compared with", options=names["placement"], value=baseline),
            "metric": ipywidgets.Dropdown(description="measure", options=[(readable(m), m) for m in METRICS]),
        }

    def _arguments(self, of: Mapping) -> dict:
        runs = self._parts[of["runs"].value]
        activation = of["activation"].value
        own = [run for part, run in self._own if part == of["runs"].value]
        return {"runs": runs, "activation": activation, "placement": of["placement"].value,
                "baseline": of["compared with"].value, "metric": of["measure"].value, "own": own}

    def _chosen(self) -> tuple[list[Run], list[Run]]:
        of = self.explorer.values
        return tuple(of_arm(of["runs"], of["activation"], of[which]) for which in ("placement", "baseline"))

    def _arms(self) -> dict[str, list[Run]]:
        return {word(arm[0].config["placement"]): arm for arm in reversed(self._chosen())}

    def _config(self) -> TrainConfig:
        return settings(self._chosen()[0][0], OWN_SEED)

    def _follow(self) -> None:
        """Let player and live run follow the menus; where an arm is missing, the explorer says so."""
        try:
            config, arms = self._config(), self._arms()
        except ValueError:
            return
        self.live.show([config], arms, keep=True)

    def _finished(self, run: Run) -> None:
        """A star in the part whose settings the run has, which need not be the one that the menu shows by now."""
        self._own += [(label, run) for label, runs in self._parts.items() if _same_setting(run, runs)]
        self.explorer.redraw()

    def _cleared(self) -> None:
        self._own.clear()
        self.explorer.redraw()


def _same_setting(run: Run, runs: Sequence[Run]) -> bool:
    """Whether the run has the settings of its own arm there; tuned arms differ from each other in more than the arm."""
    return any(not differences([run.config, other.config]) for other in runs)


def _label(config: TrainConfig) -> str:
    return f"{config.placement}, my seed"


def evidence_explorer(parts: Mapping[str, Sequence[Run]], root=None) -> EvidenceExplorer:
    """Menus over label -> recorded runs. ValueError if there are no runs."""
    if not any(parts.values()):
        raise ValueError("there are no recorded runs to explore; see cbn_lab.grid and cbn_lab.start")
    return EvidenceExplorer({label: runs for label, runs in parts.items() if runs}, root)
