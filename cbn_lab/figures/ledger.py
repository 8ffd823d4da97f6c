"""The claims ledger: what is claimed, what was measured, on how many seeds and which device, and what follows."""

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields

from cbn_lab.figures.demands import checked

SIGNS = {"holds": "✓", "does not hold": "✗", "holds in part": "◐", "not decided": "?", "not measured": "–",
         "not tested": "–"}
_CELL = "padding:0.3em 0.7em;text-align:left;vertical-align:top;border-bottom:1px solid currentColor;"


@dataclass(frozen=True)
class Entry:
    """One claim. `seeds`: how many, or "2 of 3" of those for which it held; `verdict`: a key of `SIGNS`."""

    claim: str
    measured: str
    seeds: str | int
    device: str
    verdict: str

    def __post_init__(self):
        if self.verdict not in SIGNS:
            raise ValueError(f"the verdict on {self.claim!r} must be one of {', '.join(SIGNS)}, got {self.verdict!r}")


@dataclass(frozen=True)
class Ledger:
    """Entries as a table; `alt` says the same in words. In a notebook it takes the colours of the page."""

    entries: tuple[Entry, ...]
    alt: str

    def html(self) -> str:
        head = "".join(f'<th scope="col" style="{_CELL}">{field.name}</th>' for field in fields(Entry))
        return (f'<table style="border-collapse:collapse"><caption style="text-align:left">{_counted(self.entries)}'
                f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, self.entries))}</tbody></table>")

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.alt}


@checked
def ledger(rows: Iterable[Entry | Sequence]) -> Ledger:
    """A ledger of (claim, measured, seeds, device, verdict).

    ValueError for no rows, one of other length, or a verdict not in `SIGNS`.

    A verdict is shown as a sign and a word, never by colour.
    """
    rows, names = list(rows), [field.name for field in fields(Entry)]
    for row in rows:
        if not isinstance(row, Entry) and (isinstance(row, str) or len(row) != len(names)):
            raise ValueError(f"a row of a ledger is ({', '.join(names)}), got {row!r}")
    entries = tuple(row if isinstance(row, Entry) else Entry(*row) for row in rows)
    if not entries:
        raise ValueError("a ledger needs at least one claim")
    said = " ".join(f"{e.claim}: {e.verdict}; measured {e.measured}, seeds {e.seeds}, on {e.device}." for e in entries)
    return Ledger(entries, f"{_counted(entries)} {said}")


def _counted(entries: Sequence[Entry]) -> str:
    counts = Counter(entry.verdict for entry in entries)
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SIGNS if counts[verdict])
    return f"Ledger of {len(entries)} claim{'s' if len(entries) > 1 else ''}: {words}."


def _row(entry: Entry) -> str:
    claim, *others, verdict = (html.escape(str(value)) for value in astuple(entry))
    cells = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in others)
    return (f'<tr><th scope="row" style="{_CELL}font-weight:normal">{claim}</th>{cells}<td style="{_CELL}'
            f'white-space:nowrap"><span aria-hidden="true">{SIGNS[entry.verdict]}</span> {verdict}</td></tr>')
