"""Inequalities as objects, and chains of them: which line of a proof fails on a run, and which assumption is behind it.

A line of a proof is an `Inequality`: a statement in LaTeX, a left and a right side that are computed from a measured
`state`, the assumptions it needs, and the line it follows from. `Chain.check(state)` finds the first line that fails
anywhere on the run and then checks, on the problem and the run, the assumptions that the line needs.

Nothing in here knows about SGD. A state is any object; if it has `history()`, an iterable of states (the run up to step
1, 2, ...), each line is looked at along it.
"""

import html
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

ROUNDING = 1e-11  # of the sum of the terms' sizes: some 50,000 units in the last place


@dataclass(frozen=True)
class Sides:
    """Both sides of a line on one state.

    scale    sum of the sizes of all terms: what rounding is relative to
    margin   what sampling may be responsible for; 0 where the expectations are exact
    refuted  for a claim tested by betting (cbn_lab.theory.margins): True or False decides, whatever the margin
    where    which of the visited points it is, if it is the worst of several
    """

    left: float
    right: float
    scale: float = 0.0
    margin: float = 0.0
    refuted: bool | None = None
    where: str = ""


def plain(left: Callable, right: Callable) -> Callable[..., Sides]:
    """Sides made of two functions of the state that return floats."""

    def sides(state) -> Sides:
        a, b = float(left(state)), float(right(state))
        return Sides(a, b, abs(a) + abs(b))

    return sides


@dataclass(frozen=True)
class Finding:
    """What checking an assumption gave. broken: True, False, or None where a sample cannot tell."""

    broken: bool | None
    how: str


@dataclass(frozen=True)
class Assumption:
    """Something a line needs. `check(state)` looks at the problem and the run and says what it found."""

    name: str
    latex: str
    check: Callable[..., Finding] = field(repr=False)


def _always(state) -> None:
    return None


@dataclass(frozen=True)
class Inequality:
    """One line of a proof: left <= right, or left = right where `relation` is "=".

    sides    state -> Sides
    assumptions  what this line adds; those of the lines it follows from are needed as well
    previous the line before it; `also`: further lines it uses
    unstated state -> None, or why the line says nothing about this run (a fixed-step bound on diminishing steps)
    """

    name: str
    latex: str
    sides: Callable[..., Sides] = field(repr=False)
    assumptions: tuple[Assumption, ...] = ()
    previous: str | None = None
    also: tuple[str, ...] = ()
    relation: str = "<="
    unstated: Callable[..., str | None] = field(default=_always, repr=False)
    why: str = ""

    def left(self, state) -> float:
        return self.sides(state).left

    def right(self, state) -> float:
        return self.sides(state).right

    def slack(self, state) -> float:
        """right - left; minus the distance for an equality; inf where the right side is infinite and says nothing."""
        return self.slack_of(self.sides(state))

    def slack_of(self, sides: Sides) -> float:
        if sides.right == math.inf:
            return math.inf
        return -abs(sides.right - sides.left) if self.relation == "=" else sides.right - sides.left

    def tolerance(self, sides: Sides, rounding: float = ROUNDING) -> float:
        return rounding * sides.scale + sides.margin

    def holds(self, state) -> bool:
        """Up to rounding, and up to the margin where a side is sampled. A side that is not a number does not hold."""
        return self.holds_at(self.sides(state), getattr(state, "rounding", ROUNDING))

    def holds_at(self, sides: Sides, rounding: float = ROUNDING) -> bool:
        if sides.refuted is not None:
            return not sides.refuted
        slack = self.slack_of(sides)
        if slack >= 0 or not slack > -math.inf:  # not a number: it does not hold
            return slack >= 0
        return slack + self.tolerance(sides, rounding) >= 0


@dataclass(frozen=True)
class Row:
    """One line on a run: at the first step where it fails, else at the last one.

    status   "holds", "holds here" (an assumption it needs is broken), "fails", or "not stated" (see `note`)
    broken   names of the broken assumptions that the line needs
    """

    line: Inequality
    status: str
    step: int
    left: float
    right: float
    slack: float
    margin: float
    broken: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Failure:
    """The first line that fails, where, and the assumption behind it. `assumption` is None if none is found broken."""

    line: Inequality
    step: int
    left: float
    right: float
    slack: float
    margin: float
    assumption: Assumption | None
    how: str
    also_broken: tuple[str, ...]

    def __str__(self) -> str:
        behind = f'the assumption behind it is "{self.assumption.name}": {self.how}' if self.assumption else self.how
        more = f" Also broken: {', '.join(self.also_broken)}." if self.also_broken else ""
        margin = f" (beyond the sampling margin of {self.margin:.3g})" if self.margin else ""
        return (f'The line "{self.line.name}" is the first that fails, at step {self.step}: left side '
                f"{self.left:.6g}, right side {self.right:.6g}, slack {self.slack:.3g}{margin}; {behind}.{more}")

    def _repr_html_(self) -> str:
        return f"<p>&#10007; {html.escape(str(self))}</p>"


class Chain:
    """Lines in the order of the proof. ValueError for two lines of one name, or one that follows from a later one."""

    def __init__(self, lines: Iterable[Inequality]):
        self.lines = tuple(lines)
        seen: list[str] = []
        for line in self.lines:
            if line.name in seen:
                raise ValueError(f"two lines are called {line.name!r}; each needs a name of its own")
            absent = [p for p in (line.previous, *line.also) if p is not None and p not in seen]
            if absent:
                raise ValueError(f"{line.name!r} follows from {absent[0]!r}, which does not stand before it")
            seen.append(line.name)

    def __iter__(self) -> Iterator[Inequality]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, name: str) -> Inequality:
        for line in self.lines:
            if line.name == name:
                return line
        raise KeyError(f"there is no line {name!r}; the lines are: {', '.join(line.name for line in self.lines)}")

    def needs(self, name: str) -> tuple[Assumption, ...]:
        """All that a line rests on: its own assumptions first, then those of the lines it follows from."""
        line = self[name]
        found = {a.name: a for a in line.assumptions}
        for parent in (*line.also, *([line.previous] if line.previous else [])):
            found |= {a.name: a for a in self.needs(parent) if a.name not in found}
        return tuple(found.values())

    def check(self, state) -> Failure | None:
        """The first line, in the order of the proof, that fails at any step; None if every line holds."""
        return self.evaluate(state).failure()

    def table(self, state) -> list[Row]:
        """Every line on the run. A line that holds although an assumption it needs is broken is marked as such."""
        return self.evaluate(state).rows()

    def assumptions(self, state) -> dict[str, Finding]:
        """What checking every assumption of the chain on this run gives, by name."""
        evaluation = self.evaluate(state)
        for line in self.lines:
            if line.unstated(state) is None:
                evaluation.broken(line.assumptions)
        return dict(evaluation.findings)

    def evaluate(self, state) -> "Evaluation":
        """The chain on one run, computed once and only as far as it is asked for."""
        return Evaluation(self, state)


class Evaluation:
    """A chain on one run: `failure()`, `rows()`, and `along(line)`, both sides of a line at every step."""

    def __init__(self, chain: Chain, state):
        self.chain, self.state = chain, state
        self.history = list(state.history()) if hasattr(state, "history") else [state]
        self.findings: dict[str, Finding] = {}
        self._along: dict[str, list[Sides]] = {}

    def along(self, line: Inequality) -> list[Sides]:
        """Both sides at steps 1, 2, ...; empty for a line that is not stated for this run."""
        if line.name not in self._along:
            stated = line.unstated(self.state) is None
            with np.errstate(all="ignore"):  # a side may be infinite, or not a number: then the line does not hold
                self._along[line.name] = [line.sides(here) for here in self.history] if stated else []
        return self._along[line.name]

    def first_failure(self, line: Inequality) -> int | None:
        """The first step, counted from 1, at which a line does not hold."""
        rounding = getattr(self.state, "rounding", ROUNDING)
        return next((step for step, sides in enumerate(self.along(line), start=1)
                     if not line.holds_at(sides, rounding)), None)

    def broken(self, assumptions: Iterable[Assumption]) -> tuple[str, ...]:
        """Names of those that are found broken, in order."""
        names = []
        for assumption in assumptions:
            if assumption.name not in self.findings:
                with np.errstate(all="ignore"):
                    self.findings[assumption.name] = assumption.check(self.state)
            if self.findings[assumption.name].broken:
                names.append(assumption.name)
        return tuple(names)

    def failure(self) -> Failure | None:
        for line in self.chain:
            step = self.first_failure(line)
            if step is not None:
                return self._explain(line, step)
        return None

    def rows(self) -> list[Row]:
        return [self._row(line) for line in self.chain]

    def _row(self, line: Inequality) -> Row:
        if not self.along(line):
            return Row(line, "not stated", 0, math.nan, math.nan, math.nan, 0.0, (), line.unstated(self.state))
        failed = self.first_failure(line)
        step = failed or len(self.history)
        sides = self.along(line)[step - 1]
        broken = self.broken(self.chain.needs(line.name))
        status = "fails" if failed else "holds here" if broken else "holds"
        note = "; ".join(part for part in (
            f"holds here though broken: {', '.join(broken)}" if status == "holds here" else "",
            "an infinite right side says nothing" if sides.right == math.inf else "",
            "within the sampling margin" if not failed and -sides.margin <= line.slack_of(sides) < 0 else "",
            sides.where) if part)
        return Row(line, status, step, sides.left, sides.right, line.slack_of(sides), sides.margin, broken, note)

    def _explain(self, line: Inequality, step: int) -> Failure:
        sides, needed = self.along(line)[step - 1], self.chain.needs(line.name)
        broken = self.broken(needed)
        behind = next((a for a in needed if a.name in broken), None)
        how = self.findings[behind.name].how if behind else (
            "none of its assumptions could be found broken on this run (" +
            "; ".join(f"{a.name}: {self.findings[a.name].how}" for a in needed) + ")")
        return Failure(line, step, sides.left, sides.right, line.slack_of(sides), sides.margin, behind, how, broken[1:])
