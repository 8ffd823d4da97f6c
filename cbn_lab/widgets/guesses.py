"""Where a guess is entered: an order by clicking, a number or a curve by sliders.

Each sheet has a `view`, its `controls`, and `guess`, which is None until it is complete; `missing` says what is. The
widget in predict.py does everything else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import ipywidgets

from cbn_lab import figures, outcomes
from cbn_lab.runs import Run


@dataclass(frozen=True)
class Verdict:
    """right: None where the seeds do not decide; score as in `predictions.Prediction`."""

    right: bool | None
    score: float | None
    sentence: str


class RankingSheet:
    """A button for each item; clicked in the order of the guess, best first. A second click takes an item out."""

    kind, follows = "ranking", False

    def __init__(self, items: Sequence[str], metric: str, largest: bool):
        self.items, self._metric, self._largest = list(items), metric, largest
        if len(self.items) < 2 or len(set(self.items)) < len(self.items):
            raise ValueError(f"a ranking needs at least two different items, got {', '.join(self.items) or 'none'}")
        self.asked = [*sorted(self.items), metric, "largest first" if largest else "smallest first"]
        self.event = "the whole order is right (pairs that the seeds do not decide are not counted)"
        self._order: list[str] = []
        self.changed: Callable[[], None] = lambda: None
        self.controls = [ipywidgets.Button(description=item) for item in self.items]
        for button, item in zip(self.controls, self.items, strict=True):
            button.layout.width = f"{4 + 0.62 * len(item):.1f}em"
            button.on_click(lambda _, item=item: self._clicked(item))
        self.view = ipywidgets.HBox(self.controls)
        self.view.layout.flex_flow = "row wrap"
        self.invitation = (f"Click in order, {'largest' if largest else 'smallest'} {metric.replace('_', ' ')} first; "
                           "click again to take one out.")

    @property
    def guess(self) -> list[str] | None:
        return list(self._order) if len(self._order) == len(self.items) else None

    @property
    def missing(self) -> str:
        return f"{len(self.items) - len(self._order)} of {len(self.items)} items to be put in order"

    def fill(self, guess: list[str]) -> None:
        self._order = list(guess)
        self._name_buttons()

    def figure(self, arms: Mapping[str, Sequence] | None = None) -> figures.Figure:
        return self._draw(self._order, None if arms is None else self._measured(arms))

    def empty(self) -> figures.Figure:
        return self._draw([], None)

    def _draw(self, order, measured) -> figures.Figure:
        return figures.ranking_guess(self.items, order, measured, metric=self._metric, largest=self._largest)

    def verdict(self, guess: list[str], arms: Mapping[str, Sequence]) -> Verdict:
        found = outcomes.rank(guess, self._measured(arms), largest=self._largest)
        decided = len(found.hits) + len(found.misses)
        left_out = f"; {len(found.undecided)} not counted, the seeds disagree" if found.undecided else ""
        return Verdict(found.right, found.score,
                       f"{len(found.hits)} of {decided} pairs are in the right order{left_out}.")

    def _measured(self, arms) -> dict[str, dict[int, float]]:
        return outcomes.values({item: arms[item] for item in self.items if item in arms}, self._metric)

    def _clicked(self, item: str) -> None:
        if item in self._order:
            self._order.remove(item)
        else:
            self._order.append(item)
        self._name_buttons()
        self.changed()

    def _name_buttons(self) -> None:
        for button, item in zip(self.controls, self.items, strict=True):
            button.description = f"{self._order.index(item) + 1}: {item}" if item in self._order else item


class _Sliders:
    """Sliders that count as a guess when each has been moved; where they stand at first is nobody's guess."""

    def __init__(self, sliders: Sequence[ipywidgets.FloatSlider]):
        self.controls = list(sliders)
        self.changed: Callable[[], None] = lambda: None
        self._moved: set[int] = set()
        for i, slider in enumerate(self.controls):
            slider.observe(lambda _, i=i: self._move(i), "value")
        self.view = ipywidgets.HBox(self.controls)
        self.view.layout.flex_flow = "row wrap"

    def _move(self, i: int) -> None:
        self._moved.add(i)
        self.changed()

    @property
    def _complete(self) -> bool:
        return len(self._moved) == len(self.controls)

    def _fill(self, values: Sequence[float]) -> None:
        for slider, value in zip(self.controls, values, strict=True):
            slider.value = value
        self._moved = set(range(len(self.controls)))


class NumberSheet(_Sliders):
    """One slider from `low` to `high`."""

    kind, follows = "number", False

    def __init__(self, low: float, high: float, tolerance: float, what: str, metric: str, step: float | None):
        _require_range(low, high, tolerance)
        self._line, self._metric = (low, high, tolerance, what), metric
        self.asked = [*map(float, (low, high, tolerance)), what, metric]
        self.event = f"the measured mean lies within {tolerance:g} of your number"
        step = step or _step(low, high)
        middle = low + step * round((high - low) / 2 / step)
        slider = ipywidgets.FloatSlider(description="your guess", min=low, max=high, value=middle, step=step,
                                        readout_format=_form(step))
        slider.layout.width, slider.layout.max_width = "40em", "97%"
        super().__init__([slider])
        self.invitation = f"The {what}: move the slider, or click its number and type."
        self.missing = "the slider has not been moved (for its middle: away and back)"

    @property
    def guess(self) -> float | None:
        return self.controls[0].value if self._complete else None

    def fill(self, guess: float) -> None:
        self._fill([guess])

    def figure(self, arms: Mapping[str, Sequence] | None = None) -> figures.Figure:
        return figures.number_guess(*self._line, self.guess, None if arms is None else self._measured(arms))

    def empty(self) -> figures.Figure:
        return figures.number_guess(*self._line)

    def verdict(self, guess: float, arms: Mapping[str, Sequence]) -> Verdict:
        found = outcomes.distance([guess], [fmean(self._measured(arms).values())], self._line[2])
        return Verdict(found.right, found.score, f"Your number is {found.score:.3g} off.")

    def _measured(self, arms) -> dict[int, float]:
        return outcomes.difference(outcomes.values(arms, self._metric))


class CurveSheet(_Sliders):
    """An upright slider for each epoch asked about; side by side they look like the curve."""

    kind, follows = "curve", True

    def __init__(self, epochs: Sequence[float], low: float, high: float, tolerance: float, metric: str,
                 known: Mapping[str, Sequence[Run]] | None):
        _require_range(low, high, tolerance)
        if not epochs or sorted(set(epochs)) != list(epochs):
            raise ValueError(f"a curve is asked for at rising epochs, at least one, got {list(epochs)}")
        self._epochs, self._range, self._metric, self._known = list(epochs), (low, high), metric, dict(known or {})
        self._tolerance, self._arms = tolerance, {}
        self.asked = [*map(float, (*epochs, low, high, tolerance)), metric]
        self.event = f"your curve is at most {tolerance:g} off, as a mean over the {len(epochs)} epochs asked about"
        super().__init__([
            ipywidgets.FloatSlider(description=f"epoch {epoch:g}", min=low, max=high, value=(low + high) / 2,
                                   step=_step(low, high), readout_format=_form(_step(low, high)),
                                   orientation="vertical")
            for epoch in epochs])
        for slider in self.controls:
            slider.layout.height, slider.layout.width = "15em", "6em"
        self.invitation = "Move every slider: together they are your curve."

    @property
    def missing(self) -> str:
        return f"{len(self.controls) - len(self._moved)} of {len(self.controls)} sliders have not been moved"

    @property
    def guess(self) -> list[float] | None:
        return [slider.value for slider in self.controls] if self._complete else None

    def fill(self, guess: list[float]) -> None:
        self._fill(guess)

    def figure(self, arms: Mapping[str, Sequence[Run]] | None = None) -> figures.Figure:
        label, result = ("", []) if arms is None else self._asked_arm(arms)
        shown = [slider.value for slider in self.controls] if self._moved else None
        return self._draw(shown, result, label)

    def empty(self) -> figures.Figure:
        return self._draw(None, [], "")

    def _draw(self, guess, result, label) -> figures.Figure:
        return figures.curve_guess(self._epochs, *self._range, self._metric, guess, result, label=label,
                                   known=self._known)

    def verdict(self, guess: list[float], arms: Mapping[str, Sequence[Run]]) -> Verdict:
        label, runs = self._asked_arm(arms)
        finished = [run for run in runs if run.status == "finished"]
        if not finished:
            raise outcomes.UnfinishedError(f"no run of {label!r} is finished, so there is no result for it")
        means = outcomes.at_epochs(outcomes.curve(finished, self._metric), self._epochs)
        found = outcomes.distance(guess, means, self._tolerance)
        return Verdict(found.right, found.score, f"Your curve is {found.score:.3g} off on average.")

    def _asked_arm(self, arms) -> tuple[str, Sequence[Run]]:
        asked = [label for label in arms if label not in self._known]
        if len(asked) > 1:
            raise ValueError(f"a curve is guessed for one arm; besides the known ones there are {', '.join(asked)}")
        return (asked[0], arms[asked[0]]) if asked else ("", [])


def _require_range(low: float, high: float, tolerance: float) -> None:
    if not low < high or not 0 < tolerance < high - low:
        raise ValueError(f"a guess needs low < high and a tolerance between 0 and high - low; got low={low:g}, "
                         f"high={high:g}, tolerance={tolerance:g}")


def _step(low: float, high: float) -> float:
    """A hundredth to a two-hundred-and-fiftieth of the range, and a round number: 1, 2 or 5 times a power of ten."""
    return next(m * 10.0**e for e in range(12, -13, -1) for m in (5, 2, 1) if m * 10.0**e <= (high - low) / 99)


def _form(step: float) -> str:
    """As many digits as a step has."""
    return f".{len(f'{step:.12f}'.rstrip('0').split('.')[1])}f"
