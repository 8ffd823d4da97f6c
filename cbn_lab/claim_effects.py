"""Lines of the claims ledger about the three effects, from the records of results/effects (results/GRID.md)."""

import math
from collections.abc import Sequence

from cbn_lab import effects_evidence as effects
from cbn_lab import verdicts
from cbn_lab.claim_rows import NAMES, Row, devices, paths
from cbn_lab.runs import Run

EFFECT_OUTCOMES = {"supported": "holds", "not supported": "contrary", "mixed": "open", "not measured": "not tested"}


def effects_rows(records: Sequence[Run]) -> list[Row]:
    """Sentences 1, 2a, 2b and 3a, per data set, from the verdicts of results/effects."""
    rows = []
    for data in dict.fromkeys(run.config["data"] for run in records):
        of_data = effects.of_data(records, data)
        recorded = {run.config["activation"] for run in of_data}
        where = f"three effects, ConvNet, {NAMES.get(data, data)}, matched loss, scale-free"
        rows.append(_along_row(of_data, where))
        for number, claim in zip(("2a", "2b", "3a"), effects.CLAIMS[:3], strict=True):
            words = {f: effects.verdict(of_data, claim, f) for f in claim.activations if f in recorded}
            brief = ", ".join(f"{f} {word}" for f, word in words.items())
            said = "; ".join(f"{f} {_constants(of_data, claim, f)}: {word}" for f, word in words.items())
            rows.append(_effects_row(number, claim.text[0].upper() + claim.text[1:], where, brief, said, of_data,
                                     [EFFECT_OUTCOMES[word] for word in words.values()]))
    return rows


def _constants(records, claim, activation) -> str:
    """"L 0.31, E||g||^2 0.52, Var[g] 0.47": ratios of the claim's two placements."""
    found = effects.scores(records, claim, activation, matched="loss", scale="scale_free")
    return ", ".join(f"{effects.SYMBOLS[e]} {'-' if math.isnan(s.mean) else f'{s.mean:.2f}'}" for e, s in found.items())


def _along_row(records, where) -> Row:
    said = {}
    for f in dict.fromkeys(run.config["activation"] for run in records):
        for other in ("none", "after", "complete"):
            said[f"{f} {other}"] = along(records, f, other)
    words = {word: [cell for cell, o in said.items() if o == word] for word in verdicts.OUTCOMES}
    text = "; ".join(f"{len(cells)} {'without a clear difference in loss' if word == 'not tested' else word}"
                     for word, cells in words.items() if cells)
    return _effects_row("1", "Smaller L, E‖g‖² and Var[g] make SGD converge faster (that they enter an upper bound is "
                        "proved in notebook 03; here: whether they go along with a lower training loss, vanilla BN "
                        "against each other placement)", where, text, text, records, list(said.values()))


def along(records: Sequence[Run], activation: str, other: str) -> str:
    """Sentence 1's outcome for one activation, placement before against another."""
    claim = effects.Claim("", "", other, "before", (activation,))
    loss = effects.score(records, activation, other, "before", "loss", matched="step", scale="raw").outcome
    if loss not in ("smaller", "larger"):
        return "not tested"
    found = {s.outcome for s in effects.scores(records, claim, activation, matched="loss", scale="scale_free").values()}
    opposite = {"smaller": "larger", "larger": "smaller"}[loss]
    return "contrary" if opposite in found else "holds" if found == {loss} else "open"


def _effects_row(number, claim, where, brief, said, records, outcomes) -> Row:
    tested = [o for o in outcomes if o != "not tested"]
    seeds = len({run.config["seed"] for run in records})
    cells = f"{sum(o == 'holds' for o in tested)} of {len(tested)} cells, {seeds} seeds each"
    return Row(number, claim, "reported", where, brief, said, cells, devices(records), verdicts.verdict(outcomes),
               paths(records, lambda name: "results/effects"))
