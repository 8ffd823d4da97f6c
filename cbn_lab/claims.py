"""The claims ledger, made from the records: each sentence of the abstract beside what was measured here.

    python -m cbn_lab.claims             # print it
    python -m cbn_lab.claims README.md   # rewrite its short form between the README's two markers

Which cells a sentence names, and which outcome counts, was written in results/GRID.md before the runs of the grid; the
rules are `cbn_lab.verdicts`. CBN is here our reconstruction, so no verdict is about the authors' own layer.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cbn_lab import grid, runs, verdicts
from cbn_lab.ablation import ACTIVATIONS
from cbn_lab.claim_effects import effects_rows
from cbn_lab.claim_rows import (
    NAMES,
    Row,
    Sentence,
    Source,
    ablation_sources,
    grid_source,
    longer_row,
    published_rows,
    residual_sources,
    structure_row,
)

BOUNDED = ("sigmoid", "tanh", "selu")  # the activations that the abstract's averages are about
AVERAGES = {"sigmoid": 15.0, "tanh": 4.5, "selu": 4.0}  # reported: points gained, "more than"
COMPARABLE = -2.0  # points against ReLU with vanilla BN; ours, the abstract gives no number
SHORT = {"holds": "holds", "holds in part": "in part", "does not hold": "**no**", "not tested": "too few seeds"}
MARKERS = ("<!-- ledger -->", "<!-- /ledger -->")


def _against(ours: str, theirs: str) -> Callable:
    return lambda f: ((f, ours), (f, theirs))


def _points(value: float) -> str:
    return f"{value:+.1f}"


def _nats(value: float) -> str:
    return f"{value:+.3f}"


DEGRADES = Sentence(
    "2c", "With Sigmoid, Tanh and SELU vanilla BN degrades convergence (training loss, vanilla minus no norm)", BOUNDED,
    _against("none", "before"), verdicts.loss_reduction, _nats)
COMPLETE = (
    Sentence("4a", "CBN trains faster than vanilla BN (steps to given training losses, vanilla / complete)",
             ACTIVATIONS, _against("complete", "before"), verdicts.lead, lambda v: f"{math.exp(v):.2f}x"),
    Sentence("4b", "CBN reaches a lower training loss than vanilla BN (complete minus vanilla)", ACTIVATIONS,
             _against("complete", "before"), verdicts.loss_reduction, lambda v: _nats(-v)),
    Sentence("5a", "CBN's test accuracy is higher with each activation (points over vanilla BN)", ACTIVATIONS,
             _against("complete", "before"), verdicts.gain, _points),
    Sentence("5b", "On average by more than 15.0 (Sigmoid), 4.5 (Tanh), 4.0 points (SELU)", BOUNDED,
             _against("complete", "before"), verdicts.gain, _points, AVERAGES),
    Sentence("5c", "That makes them comparable to ReLU (points over vanilla BN with ReLU; the bound of -2 is ours)",
             BOUNDED, lambda f: ((f, "complete"), ("relu", "before")), verdicts.gain, _points,
             dict.fromkeys(BOUNDED, COMPARABLE)),
)
UNTESTED = (
    ("2d", "The three effects explain BN, rather than Lipschitzness alone", "no run here changes one effect alone"),
    ("4c", "CBN trains faster and to a lower training loss on ILSVRC2012", "ILSVRC2012 at full size"),
)


def rows(root=None) -> list[Row]:
    """The whole ledger, sentence by sentence, from the records below `root` (None: this checkout's results/).

    RecordError where there is no such folder, or a record is damaged.
    """
    root = folder() if root is None else Path(root)
    found = grid.recorded(root / "grid")
    short, long = ablation_sources(_load(root / "ablation"))
    residual = residual_sources(found | grid.recorded(root / "residual"))
    table = effects_rows(_load(root / "effects"))
    table += [Row(number, claim, "reported", where) for number, claim, where in UNTESTED]
    table += [structure_row(source) for source in (short, long)]
    for sentence in (DEGRADES, *COMPLETE):
        table += _of_sources(sentence, found, () if sentence is DEGRADES else (*residual, short, long))
    accuracy = next(sentence for sentence in COMPLETE if sentence.number == "5a")
    table.append(longer_row(accuracy, short, long))
    return sorted(table, key=lambda row: row.sentence) + published_rows(found)


def _of_sources(sentence: Sentence, found: Mapping[str, runs.Run], others: Sequence[Source]) -> list[Row]:
    """A row for each part of the grid, and each other source, that has pairs; one more for the parts that have none."""
    of_part = {part: sentence.row(grid_source(part, found)) for part in grid.PARTS}
    absent = [part for part, row in of_part.items() if row.seeds == "0"]
    shown = [row for row in [*of_part.values(), *map(sentence.row, others)] if row.seeds != "0"]
    return shown + [Row(sentence.number, sentence.claim, "reported", _named(absent))] * bool(absent)


def _named(parts: Iterable[grid.Part]) -> str:
    """"small: ResNet-20, CIFAR-100, common; full: all 16 parts"."""
    said = []
    for size in grid.STAGES:
        absent, every = ([p for p in some if p.size == size] for some in (parts, grid.PARTS))
        words = "; ".join(f"{NAMES[p.model]}, {NAMES[p.data]}, {p.setting}" for p in absent)
        said += [f"{size}: {f'all {len(every)} parts' if len(absent) == len(every) else words}"] if absent else []
    return "; ".join(said)


def _load(path: Path) -> list[runs.Run]:
    return runs.load_all(path) if path.is_dir() else []


def folder() -> Path:
    """results/ of this checkout. RecordError where the package was installed without one."""
    return runs.stored("grid", "python -m cbn_lab.grid --out results/grid").parent


def ledger(root=None) -> list[tuple[str, str, str, str, str]]:
    """The rows for `figures.ledger`: claim, measured, seeds, device, verdict."""
    return [(f"{row.sentence}. {row.claim} [{row.origin}]; {row.setting}", row.measured, row.seeds, row.device,
             row.verdict) for row in rows(root)]


def markdown(root=None) -> str:
    """A line per sentence and setting that has runs; below, what was not tested."""
    found = rows(root)
    lines, said = ["| sentence | where | means (seeds as claimed) | verdict |", "|---|---|---|---|"], ""
    for row in (row for row in found if row.runs):
        name = _title(row)
        lines.append(f"| {name if name != said else ''} | {row.setting} | {row.brief} ({row.seeds}) | {row.verdict} |")
        said = name
    return "\n".join([*lines, "", *_not_tested(found)])


def short(root=None) -> str:
    """For the README: the sentences; verdicts by setting and sentence; the gains of 5a; neighbours; what is missing."""
    found = rows(root)
    tested = [row for row in found if row.runs and not row.published]
    neighbours = [f"- {row.sentence}, {row.claim}: here {row.brief} ({row.seeds}): {row.verdict}"
                  for row in found if row.runs and row.published]
    tables = _tables(tested) if tested else []
    return "\n".join([*tables, *neighbours, *[""] * bool(neighbours), *_not_tested(found)])


def _tables(tested: Sequence[Row]) -> list[str]:
    numbers = list(dict.fromkeys(row.sentence for row in tested))
    of = {(row.setting, row.sentence): row for row in tested}
    settings = sorted(dict.fromkeys(row.setting for row in tested), key=_place)
    lines = [f"- {title}" for title in dict.fromkeys(map(_title, tested))]
    lines += ["", f"| verdicts | {' | '.join(numbers)} |", "|---|" + "---|" * len(numbers)]
    for setting in settings:
        words = [SHORT[of[setting, n].verdict] if (setting, n) in of else "" for n in numbers]
        lines.append(f"| {setting} | {' | '.join(words)} |")
    lines += ["", f"| 5a, points gained | {' | '.join(ACTIVATIONS)} | seeds as claimed |",
              "|---|" + "---|" * (len(ACTIVATIONS) + 1)]
    for row in (of[setting, "5a"] for setting in settings if (setting, "5a") in of):
        lines.append(f"| {row.setting} | {' | '.join(row.means.get(f, '') for f in ACTIVATIONS)} | {row.seeds} |")
    return [*lines, ""]


def _place(setting: str) -> int:
    """The grid first, then the residual forms, the ablation, the three effects."""
    kinds = ("residual", "ablation", "three effects")
    return next((i for i, kind in enumerate(kinds, 1) if setting.startswith(kind)), 0)


def not_tested(root=None) -> str:
    """A line per sentence without runs, and one that names the parts of the grid without any."""
    return "\n".join(_not_tested(rows(root))[2:])


def _not_tested(found: Sequence[Row]) -> list[str]:
    tested = {_title(row) for row in found if row.runs}
    lines = ["**Not tested** so far:", ""]
    lines += [f"- {_title(row)}: {row.setting}" for row in found if not row.runs and _title(row) not in tested]
    return lines + [f"- in the lines of the grid above, {where}"
                    for where in dict.fromkeys(row.setting for row in found if not row.runs and _title(row) in tested)]


def _title(row: Row) -> str:
    return f"**{row.sentence}** {row.claim} *({row.origin})*"


def replace_block(text: str, block: str) -> str:
    """`text` with what stands between the two markers replaced. ValueError if it does not have each marker once."""
    start, end = MARKERS
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the text must have the markers {start} and {end} once each")
    head, rest = text.split(start)
    return f"{head}{start}\n{block}\n{end}{rest.split(end)[1]}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m cbn_lab.claims", description="The ledger, from the records.")
    parser.add_argument("files", nargs="*", type=Path, help="rewrite the block between the markers in these files "
                        "(default: print it)")
    options = parser.parse_args(arguments)
    try:
        text = short() if options.files else markdown()
        for file in options.files:
            file.write_text(replace_block(file.read_text(), text))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not options.files:
        print(text)


if __name__ == "__main__":
    main()
