"""Alternating arms, ratios of their times, and the row that each becomes."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median


@dataclass(frozen=True)
class Row:
    """One line of the table. `value` is compared with `limit`, from above ("<=") or below (">="); None: no limit."""

    name: str
    value: float
    unit: str = "x"
    limit: float | None = None
    sense: str = "<="
    seconds: dict[str, list[float]] = field(default_factory=dict)  # arm -> one time per repeat
    notes: dict = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        if self.limit is None:
            return None
        return self.value <= self.limit if self.sense == "<=" else self.value >= self.limit

    def limit_text(self) -> str:
        return "" if self.limit is None else f"{self.sense} {self.limit:g}"

    def verdict(self) -> str:
        return {None: "", True: "ok", False: "MISSED"}[self.passed]

    def record(self) -> dict:
        return asdict(self) | {"passed": self.passed}


def alternate(arms: dict[str, Callable], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds that each arm took, in the order A B A B ...; the first `warm_up` rounds are not counted."""
    seconds = {name: [] for name in arms}
    for repeat in range(warm_up + repeats):
        for name, work in arms.items():
            began = time.perf_counter()
            work()
            if repeat >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
    """Median over the repeats of time(above) / time(below) in the same repeat."""
    return median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))
