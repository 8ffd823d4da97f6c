"""What the records of the three effects say: ratios of two placements, scores, and verdicts on the abstract's claims.

The rules are those of results/effects/PROTOCOL.md. Placements are compared at one activation and one seed; activations
are never compared by their constants. `matched` is "loss" or "step", `scale` is "scale_free" or "raw".
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from cbn_lab.ablation import ACTIVATIONS
from cbn_lab.runs import Run

EFFECTS = ("curvature", "second", "variance")
MATCHED, SCALES = ("loss", "step"), ("scale_free", "raw")
SYMBOLS = {"curvature": "L", "second": "E‖g‖²", "variance": "Var[g]"}
VERDICTS = ("supported", "mixed", "not supported", "not measured")
MARGIN = 0.9  # a geometric mean between 0.9 and 1/0.9 is no clear difference
LEAST_POINTS, LEAST_SEEDS = 2, 2


@dataclass(frozen=True)
class Score:
    """Geometric mean over the common points of value / value of the reference, by seed."""

    by_seed: dict[int, float]

    @property
    def mean(self) -> float:
        """Geometric mean over the seeds; nan if there are none."""
        return geometric_mean(self.by_seed.values())

    @property
    def outcome(self) -> str:
        """"smaller", "larger", "no clear difference" or "not measured", by the protocol."""
        values = list(self.by_seed.values())
        if len(values) < LEAST_SEEDS:
            return "not measured"
        if max(values) < 1 and self.mean < MARGIN:
            return "smaller"
        if min(values) > 1 and self.mean > 1 / MARGIN:
            return "larger"
        return "no clear difference"

    def __str__(self) -> str:
        if not self.by_seed:
            return "not measured"
        values = self.by_seed.values()
        return f"{self.mean:.2f} ({min(values):.2f} to {max(values):.2f}), {self.outcome}"


@dataclass(frozen=True)
class Claim:
    """That `placement` has the three effects when compared with `reference`, or (`denies`) that it lacks one."""

    letter: str
    text: str
    placement: str
    reference: str
    activations: tuple[str, ...]
    denies: bool = False

    def verdict(self, outcomes: Sequence[str]) -> str:
        """"supported", "not supported", "mixed" or "not measured" from the outcomes of the effects."""
        if "larger" in outcomes:
            found = "not supported"
        elif "not measured" in outcomes:
            return "not measured"
        else:
            found = "supported" if set(outcomes) == {"smaller"} else "mixed"
        opposite = {"supported": "not supported", "not supported": "supported"}
        return opposite.get(found, found) if self.denies else found


CLAIMS = (
    Claim("A", "vanilla BN induces the three effects with ReLU", "before", "none", ("relu",)),
    Claim("B", "vanilla BN induces them only with ReLU", "before", "none", ("sigmoid", "tanh", "selu", "swish"), True),
    Claim("C", "CBN elicits all three whatever the activation", "complete", "none", ACTIVATIONS),
    Claim("D", "CBN has them more than vanilla BN (our reading)", "complete", "before", ACTIVATIONS),
)
FASTER = Claim("E", "CBN trains faster than vanilla BN", "complete", "before", ACTIVATIONS)  # by its training loss


def of_data(records: Iterable[Run], name: str) -> list[Run]:
    """The records of one data set."""
    return [run for run in records if run.config["data"] == name]


def points(run: Run, matched: str) -> dict[float, dict]:
    """The points of a run by loss level (falling) or by step (rising)."""
    if matched not in MATCHED:
        raise ValueError(f"matched must be one of {', '.join(MATCHED)}, got {matched!r}")
    if matched == "loss":
        return {level: entry for entry in run.curve for level in entry["reached"]}
    return {entry["step"]: entry for entry in run.curve if entry["scheduled"]}


def value(entry: dict, effect: str, scale: str) -> float:
    """One effect at one point; nan where it was not finite.

    "loss" is the training loss there, whatever the scale; "decrease" is `best_decrease` with the constants there.
    """
    if effect == "decrease":
        return best_decrease(*(value(entry, name, scale) for name in ("curvature", "second", "squared_mean")))
    found = entry["loss"] if effect == "loss" else entry[scale][effect]
    return math.nan if found is None else found


def best_decrease(curvature: float, second: float, squared_mean: float) -> float:
    """max over a of a ||E g||^2 - a^2 L E||g||^2 / 2: what the descent lemma guarantees for one step, at best.

    It is ||E g||^4 / (2 L E||g||^2), in nats, at the step ||E g||^2 / (L E||g||^2). nan where L, or the unbiased
    estimate of ||E g||^2, is not positive.
    """
    return squared_mean**2 / (2 * curvature * second) if curvature > 0 and squared_mean > 0 else math.nan


def ratios(records: Iterable[Run], activation: str, placement: str, reference: str, effect: str, *, matched: str,
           scale: str) -> dict[int, dict[float, float]]:
    """seed -> point -> value / value of the reference, where both arms have the point and both values are positive."""
    arms: dict[str, dict[int, dict]] = {placement: {}, reference: {}}
    for run in records:
        if run.config["activation"] == activation and run.config["placement"] in arms:
            arms[run.config["placement"]][run.config["seed"]] = points(run, matched)
    table = {}
    for seed in sorted(arms[placement].keys() & arms[reference].keys()):
        ours, theirs = arms[placement][seed], arms[reference][seed]
        pairs = {p: (value(ours[p], effect, scale), value(theirs[p], effect, scale)) for p in ours if p in theirs}
        table[seed] = {p: a / b for p, (a, b) in pairs.items() if a > 0 and b > 0}
    return table


def score(records: Iterable[Run], activation: str, placement: str, reference: str, effect: str, *, matched: str,
          scale: str) -> Score:
    """The protocol's score. A seed counts if at least two points are common; for the training loss without step 0."""
    table = ratios(records, activation, placement, reference, effect, matched=matched, scale=scale)
    if effect == "loss":
        table = {seed: {p: r for p, r in row.items() if p > 0} for seed, row in table.items()}
    return Score({seed: geometric_mean(row.values()) for seed, row in table.items() if len(row) >= LEAST_POINTS})


def geometric_mean(values: Iterable[float]) -> float:
    """nan of nothing."""
    logs = [math.log(v) for v in values]
    return math.exp(fmean(logs)) if logs else math.nan


def scores(records: Sequence[Run], claim: Claim, activation: str, *, matched: str, scale: str) -> dict[str, Score]:
    """effect -> score, for one claim and activation."""
    return {effect: score(records, activation, claim.placement, claim.reference, effect, matched=matched, scale=scale)
            for effect in EFFECTS}


def verdict(records: Sequence[Run], claim: Claim, activation: str, *, matched: str = "loss",
            scale: str = "scale_free") -> str:
    """The protocol's verdict on one claim for one activation; the main comparison unless told otherwise."""
    if claim.letter == FASTER.letter:
        outcome = score(records, activation, claim.placement, claim.reference, "loss", matched="step",
                        scale=scale).outcome
        return claim.verdict([outcome])
    found = scores(records, claim, activation, matched=matched, scale=scale)
    return claim.verdict([s.outcome for s in found.values()])


def changes_sign(records: Sequence[Run], claim: Claim, activation: str, effect: str, *, matched: str,
                 scale: str) -> bool:
    """Whether the geometric mean over the seeds leaves the margin on both sides at single points along training."""
    table = ratios(records, activation, claim.placement, claim.reference, effect, matched=matched, scale=scale)
    at = {p: geometric_mean(row[p] for row in table.values() if p in row) for row in table.values() for p in row}
    return any(r < MARGIN for r in at.values()) and any(r > 1 / MARGIN for r in at.values())


def score_table(records: Sequence[Run], claim: Claim, *, matched: str, scale: str) -> list[list[str]]:
    """The scores of one claim: a row per activation, a column per effect. An asterisk marks a change of sign."""
    table = [[f"{claim.placement} / {claim.reference}, matched {matched}, {scale.replace('_', '-')}",
              *SYMBOLS.values(), "verdict"]]
    for f in claim.activations:
        found = scores(records, claim, f, matched=matched, scale=scale)
        stars = ["*" * changes_sign(records, claim, f, effect, matched=matched, scale=scale) for effect in found]
        table.append([f, *(f"{s}{star}" for s, star in zip(found.values(), stars, strict=True)),
                      claim.verdict([s.outcome for s in found.values()])])
    return table


def verdict_table(records: Sequence[Run]) -> list[list[str]]:
    """Every claim and activation: the main verdict, then those of the three other comparisons."""
    ways = [(matched, scale) for matched in MATCHED for scale in SCALES]
    table = [["claim", "activation", *(f"matched {m}, {s.replace('_', '-')}{' (main)' * (not i)}"
                                       for i, (m, s) in enumerate(ways))]]
    for claim in CLAIMS:
        for f in claim.activations:
            table.append([claim.letter, f, *(verdict(records, claim, f, matched=m, scale=s) for m, s in ways)])
    return table


def sentence(records: Sequence[Run], claim: Claim, *, matched: str = "loss", scale: str = "scale_free") -> str:
    """"C, CBN elicits ...: supported for relu, selu; not supported for tanh." in the order of the words below."""
    found: dict[str, list[str]] = {}
    for f in claim.activations:
        found.setdefault(verdict(records, claim, f, matched=matched, scale=scale), []).append(f)
    said = [f"{word} for {', '.join(found[word])}" for word in VERDICTS if word in found]
    return f"{claim.letter}, {claim.text}: {'; '.join(said)}."


def faster_table(records: Sequence[Run], claim: Claim = FASTER) -> list[list[str]]:
    """Claim E: the training loss of our CBN over vanilla BN's at matched steps."""
    table = [[f"training loss at matched steps, {claim.placement} / {claim.reference}", "score", "verdict"]]
    for f in claim.activations:
        found = score(records, f, claim.placement, claim.reference, "loss", matched="step", scale="raw")
        table.append([f, str(found), claim.verdict([found.outcome])])
    return table


def point_table(records: Sequence[Run], activation: str, placement: str, reference: str, *, matched: str,
                scale: str) -> list[list[str]]:
    """Ratios at every single point: geometric mean over the seeds that have it, and how many those are."""
    tables = {e: ratios(records, activation, placement, reference, e, matched=matched, scale=scale) for e in EFFECTS}
    every = {p for table in tables.values() for row in table.values() for p in row}
    heading = [f"{activation}: {placement} / {reference}, {scale.replace('_', '-')}, at {matched}", *SYMBOLS.values()]
    return [heading, *([f"{p:g}", *(_at(table, p) for table in tables.values())]
                       for p in sorted(every, reverse=matched == "loss"))]


def _at(table, point) -> str:
    values = [row[point] for row in table.values() if point in row]
    return f"{geometric_mean(values):.2f} (n = {len(values)})" if values else "-"


def never_reached(records: Sequence[Run]) -> list[str]:
    """"sigmoid, none: 1.5 in 3 of 3 seeds" for each arm and level that a run never came below."""
    missing: dict[str, list[int]] = {}
    arms: dict[str, int] = {}
    for run in records:
        arm = f"{run.config['activation']}, {run.config['placement']}"
        arms[arm] = arms.get(arm, 0) + 1
        for level in run.config["effects"]["levels"]:
            missing.setdefault(f"{arm}: {level:g}", []).append(level not in points(run, "loss"))
    return [f"{what} in {sum(absent)} of {len(absent)} seeds" for what, absent in missing.items() if any(absent)]
