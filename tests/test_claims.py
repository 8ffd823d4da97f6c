"""The claims ledger: each verdict from made-up records, the rules of GRID.md, the README's block."""

import itertools
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbn_lab import ablation, claim_effects, claim_rows, claims, figures, grid, joins, runs, verdicts
from cbn_lab.ablation import ACTIVATIONS, SEEDS
from cbn_lab.claim_rows import Source

ROOT = Path(__file__).parents[1]
PROTOCOL = (ROOT / "results" / "GRID.md").read_text()
PROVENANCE = {"device": "a CPU", "versions": {}, "commit": None, "date": "", "data_sources": {}}
PART = grid.Part("small", "cifar10", "convnet")
SENTENCES = {s.number: s for s in (claims.DEGRADES, *claims.COMPLETE)}


def _curve(reached):
    """Records 10 steps apart whose three-record means fall below 2.0 at step `reached`."""
    return [{"step": step, "epoch": 1.0, "loss": 2.3 if step < reached - 20 else 1.9} for step in range(10, 401, 10)]


def _run(activation, placement, seed, accuracy=0.5, loss=1.0, reached=100, status="finished", part=PART):
    config = part.config(activation, placement, seed, *grid.COMMON[part.size])
    final = {"test_accuracy": accuracy, "validation_accuracy": accuracy, "train_loss": loss}
    return runs.Run(config.record(), _curve(reached), {} if status == "diverged" else final, PROVENANCE, status)


def _source(**arms):
    """`tanh_before=[run keyword dictionaries, one per seed]`, as a source of arms."""
    made = {tuple(name.split("_")): {seed: _run(*name.split("_"), seed, **numbers) for seed, numbers in enumerate(runs)}
            for name, runs in arms.items()}
    return Source("made up", lambda activation, placement: made.get((activation, placement), {}),
                  lambda name: "results/grid")


def _accuracies(*values):
    return [{"accuracy": value} for value in values]


# The rules

@pytest.mark.parametrize(("differences", "limit", "expected"), [
    ((1.0, 1.1, 1.2), None, "holds"), ((-1.0, -1.1, -1.2), None, "contrary"), ((1.0, 1.1, -0.1), None, "open"),
    ((0.1, 2.0, 0.1), None, "open"), ((5.0, 5.1), None, "not tested"), ((), None, "not tested"),
    ((14.0, 16.5, 15.0), 15.0, "holds"), ((14.0, 15.5, 15.0), 15.0, "contrary"), ((20.0, 20.0), 15.0, "not tested"),
    ((-1.0, -1.9, -2.5), -2.0, "holds"),
])
def test_the_outcome_of_a_cell(differences, limit, expected):
    assert verdicts.outcome(differences, limit) == expected


@pytest.mark.parametrize(("outcomes", "expected"), [
    (["holds"] * 5, "holds"), (["holds", "open"], "holds in part"), (["holds", "contrary"], "holds in part"),
    (["holds", "not tested"], "holds in part"), (["open", "contrary"], "does not hold"),
    (["open", "open"], "does not hold"), (["contrary", "not tested"], "does not hold"),
    (["not tested"] * 3, "not tested"), ([], "not tested"),
])
def test_the_verdict_of_a_sentence(outcomes, expected):
    assert verdicts.verdict(outcomes) == expected


@given(st.lists(st.sampled_from(verdicts.OUTCOMES), min_size=1))
def test_a_cell_that_changes_to_holding_never_makes_a_verdict_worse(outcomes):
    rank = ("not tested", "does not hold", "holds in part", "holds").index
    better = ["holds", *outcomes[1:]]
    assert rank(verdicts.verdict(better)) >= rank(verdicts.verdict(outcomes))
    assert verdicts.verdict(outcomes) in verdicts.VERDICTS


@pytest.mark.parametrize(("first", "second", "expected"), [
    ("holds", "holds", "holds"), ("holds", "open", "open"), ("open", "contrary", "contrary"),
    ("not tested", "holds", "not tested"), ("contrary", "holds", "contrary"),
])
def test_two_conditions_at_once(first, second, expected):
    assert verdicts.both(first, second) == verdicts.both(second, first) == expected


# Steps to reach a loss

def _losses(*values):
    return [{"step": 10 * (i + 1), "loss": value} for i, value in enumerate(values)]


@pytest.mark.parametrize(("losses", "level", "expected"), [
    ((3.0, 2.0, 1.0, 0.5), 2.1, 30), ((3.0, 2.0, 1.0, 0.5), 2.0, 40), ((3.0, 2.0, 1.0, 0.5), 1.0, None),
    ((1.0, 1.0), 2.0, None), ((3.0, 0.1, 3.0, 3.0, 3.0), 2.0, None), ((3.0, None, 0.1, 0.1, 0.1), 2.0, 50),
    ((), 2.0, None),
])
def test_steps_to_reach_a_loss(losses, level, expected):
    assert verdicts.steps_to_reach(_losses(*losses), level) == expected


@given(st.lists(st.floats(0, 5), max_size=20), st.floats(0.1, 4), st.floats(0, 1))
def test_a_lower_loss_is_not_reached_earlier(losses, level, drop):
    first, later = (verdicts.steps_to_reach(_losses(*losses), value) for value in (level, level - drop))
    assert later is None or (first is not None and first <= later)


def test_the_lead_is_the_ratio_of_the_steps():
    ours, theirs = _run("tanh", "complete", 0, reached=50), _run("tanh", "before", 0, reached=100)
    assert verdicts.lead(ours, theirs) == pytest.approx(math.log(2))
    assert verdicts.lead(theirs, ours) == pytest.approx(-math.log(2))
    never = _run("tanh", "none", 0, reached=1000)
    assert verdicts.lead(ours, never) == pytest.approx(math.log(400 / 50))  # all 400 steps
    assert verdicts.lead(never, never) is None


def test_the_levels_are_those_of_the_protocol():
    for data, name in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
        assert f"{name} {', '.join(map(str, verdicts.LEVELS[data]))}" in " ".join(PROTOCOL.split())


# Sentences on made-up arms

def test_a_higher_accuracy_is_measured_by_seed():
    source = _source(**{f"{f}_complete": _accuracies(0.60, 0.61, 0.62) for f in ACTIVATIONS},
                     **{f"{f}_before": _accuracies(0.50, 0.50, 0.50) for f in ACTIVATIONS})
    row = SENTENCES["5a"].row(source)
    assert (row.verdict, row.seeds, row.device) == ("holds", "15 of 15", "a CPU")
    assert "sigmoid +11.0 (+10.0 to +12.0, 3 of 3)" in row.measured and "sigmoid +11.0" in row.brief
    assert len(row.runs) == 30 and all(path.startswith("results/grid/cifar10-convnet-") for path in row.runs)


@pytest.mark.parametrize(("relu", "verdict"), [((0.6, 0.61, 0.62), "holds"), ((0.4, 0.41, 0.42), "holds in part"),
                                               ((0.6, 0.61), "holds in part")])
def test_one_activation_can_take_a_sentence_down(relu, verdict):
    arms = {f"{f}_complete": _accuracies(0.6, 0.61, 0.62) for f in ACTIVATIONS} | {"relu_complete": _accuracies(*relu)}
    row = SENTENCES["5a"].row(_source(**arms, **{f"{f}_before": _accuracies(0.5, 0.5, 0.5) for f in ACTIVATIONS}))
    assert row.verdict == verdict
    assert ("without seed 2" in row.measured) == (len(relu) == 2)


def test_arms_without_records_are_named():
    row = SENTENCES["5a"].row(_source(tanh_complete=_accuracies(0.6), tanh_before=_accuracies(0.5)))
    assert row.verdict == "not tested" and row.seeds == "1 of 1"
    assert "sigmoid not recorded" in row.measured and "tanh +10.0 (1 of 1), without seeds 1, 2" in row.measured


@pytest.mark.parametrize(("gains", "verdict"), [
    ((0.16, 0.05, 0.05), "holds"), ((0.14, 0.05, 0.05), "holds in part"), ((0.14, 0.04, 0.03), "does not hold")])
def test_the_reported_averages(gains, verdict):
    arms = {}
    for f, gain in zip(claims.BOUNDED, gains, strict=True):
        arms |= {f"{f}_complete": _accuracies(*[0.5 + gain] * 3), f"{f}_before": _accuracies(0.5, 0.5, 0.5)}
    assert SENTENCES["5b"].row(_source(**arms)).verdict == verdict


@pytest.mark.parametrize(("sigmoid", "verdict"), [(0.59, "holds"), (0.57, "holds in part")])
def test_comparable_to_relu_is_within_two_points_of_vanilla_relu(sigmoid, verdict):
    row = SENTENCES["5c"].row(_source(
        sigmoid_complete=_accuracies(*[sigmoid] * 3), tanh_complete=_accuracies(*[0.59] * 3),
        selu_complete=_accuracies(*[0.7] * 3), relu_before=_accuracies(*[0.6] * 3), sigmoid_before=_accuracies(0.1)))
    assert row.verdict == verdict and len(row.runs) == 12


@pytest.mark.parametrize(("ours", "verdict", "shown"), [
    (((0.8,), (0.81,), (0.82,)), "holds", "-0.190"), (((1.2,), (1.21,), (1.22,)), "does not hold", "+0.210")])
def test_a_lower_training_loss(ours, verdict, shown):
    arms = {f"{f}_complete": [{"loss": v} for (v,) in ours] for f in ACTIVATIONS}
    arms |= {f"{f}_before": [{"loss": 1.0}] * 3 for f in ACTIVATIONS}
    row = SENTENCES["4b"].row(_source(**arms))
    assert row.verdict == verdict and f"tanh {shown}" in row.brief


@pytest.mark.parametrize(("reached", "verdict", "shown"), [(50, "holds", "2.00x"), (100, "does not hold", "1.00x")])
def test_fewer_steps(reached, verdict, shown):
    arms = {f"{f}_complete": [{"reached": reached}] * 3 for f in ACTIVATIONS}
    arms |= {f"{f}_before": [{"reached": 100}] * 3 for f in ACTIVATIONS}
    row = SENTENCES["4a"].row(_source(**arms))
    assert row.verdict == verdict and f"relu {shown}" in row.brief


def test_vanilla_that_does_better_than_no_norm_does_not_degrade():
    def row(before, none):
        return SENTENCES["2c"].row(_source(**{f"{f}_before": before for f in claims.BOUNDED},
                                           **{f"{f}_none": none for f in claims.BOUNDED}))

    low, high = ([{"loss": base + 0.01 * seed} for seed in SEEDS] for base in (1.0, 1.5))
    assert row(high, low).verdict == "holds"
    assert row(low, high).verdict == "does not hold"
    lost = row(high, [{"status": "diverged"}] * 3)
    assert lost.verdict == "does not hold"  # log 10 is more than 1.5
    assert "diverged: sigmoid with none, 3 runs, tanh with none, 3 runs" in lost.measured
    assert "diverged" not in row(high, low).measured + row(high, low).brief


# The ablation's, the effects' and the published rows

def _ablation(setting, gains):
    """Vanilla at 50 %, swapped and the default layer better by `gains`."""
    def run(row, f, seed, accuracy):
        config = setting(row, f, seed).record()
        return runs.Run(config, _curve(100), {"test_accuracy": accuracy, "train_loss": 1.0}, PROVENANCE)

    return [run(row, f, seed, 0.5 + gain + 0.001 * seed) for f in ACTIVATIONS for seed in SEEDS
            for row, gain in zip(("vanilla", "swapped", "gamma_9x"), (0, *gains), strict=True)]


@pytest.mark.parametrize(("gains", "verdict"), [((0.1, 0.2), "holds"), ((0.1, 0.05), "does not hold")])
def test_position_and_structure(gains, verdict):
    short, long = claim_rows.ablation_sources(_ablation(ablation.long, gains))
    row = claim_rows.structure_row(long)
    assert row.verdict == verdict and len(row.runs) == 45 and "20,000" not in row.setting
    assert claim_rows.structure_row(short).verdict == "not tested"


@pytest.mark.parametrize(("long", "verdict", "word"), [
    ((0.0, 0.3), "holds", "+20.0 to +30.0 (kept)"), ((0.0, 0.1), "holds", "+20.0 to +10.0 (kept, smaller)"),
    ((0.0, -0.1), "does not hold", "+20.0 to -10.0 (lost)")])
def test_a_lead_that_is_lost_in_longer_training_is_said_to_be(long, verdict, word):
    records = _ablation(ablation.small, (0.1, 0.2)) + _ablation(ablation.long, long)
    row = claim_rows.longer_row(SENTENCES["5a"], *claim_rows.ablation_sources(records))
    assert row.verdict == verdict and f"tanh {word}" in row.measured and "8 epochs" in row.setting


def test_residual_nets_are_judged_in_the_form_that_validation_chose(tmp_path):
    """Vanilla stays in the published form, and each run is looked for in the folder that holds it.

    Tuned, another learning rate is the best for normalized, and the common one for the others.
    """
    found, other = {}, (0.3, 5e-5)

    def record(config, accuracy):
        final = {"test_accuracy": accuracy, "validation_accuracy": accuracy, "train_loss": 1.0}
        found.setdefault(grid.name(config), runs.Run(config.record(), _curve(100), final, PROVENANCE))

    for setting in joins.SETTINGS:
        gained = 0.02 if setting is joins.LONG else 0.05
        for f, arm, seed in itertools.product(ACTIVATIONS, setting.arms, SEEDS):
            normalized = arm[1] == "normalized"
            accuracy = 0.4 + 0.1 * normalized + gained * (arm[0] == "complete") + 0.001 * seed * (1 + 2 * normalized)
            record(setting.config(f, *arm, seed), accuracy)
            if setting.part.setting == "tuned":
                record(setting.config(f, *arm, seed, other), accuracy + 0.04 if normalized else 0.2)
                for config in setting.search(f, *arm):
                    record(config, 0.1)
    lines = [SENTENCES["5a"].row(source) for source in claim_rows.residual_sources(found)]
    assert [row.means["tanh"] for row in lines] == ["+15.2", "+15.2", "+2.0", "+12.2", "+5.0", "+19.2", "+19.2"]
    assert all(row.verdict == "holds" and row.seeds == "15 of 15" for row in lines)
    said = [("CIFAR-10, complete normalized", 15), ("CIFAR-100, complete normalized", 15),
            ("10,000 images, complete activated", 0), ("10,000 images, complete normalized", 0),
            ("CIFAR-10, tuned, complete activated", 30), ("CIFAR-10, tuned, complete normalized", 15),
            ("CIFAR-100, tuned, complete normalized", 15)]
    for row, (words, of_grid) in zip(lines, said, strict=True):
        assert row.setting.endswith(words)
        assert Counter(path.split("/")[1] for path in row.runs) == Counter(grid=of_grid, residual=30 - of_grid)


def _effects(values):
    """Records of digits and tanh: placement -> (ratio of L, of E||g||^2 and Var, training loss)."""
    records = []
    for placement, (curvature, second, loss) in values.items():
        for seed in SEEDS:
            measured = {"curvature": curvature, "second": second, "variance": second, "squared_mean": 1.0}
            curve = [{"step": step, "epoch": 1.0, "loss": loss, "scheduled": True, "reached": [1.5 - step / 100],
                      "scale_free": measured, "raw": measured} for step in (0, 10, 22)]
            config = PART.config("tanh", placement, seed, 0.1, 0).record() | {"data": "digits", "effects": {}}
            records.append(runs.Run(config, curve, {"train_loss": loss}, PROVENANCE))
    return records


@pytest.mark.parametrize(("other", "expected"), [
    ((0.5, 0.5, 0.5), "holds"), ((2.0, 2.0, 2.0), "holds"), ((0.5, 2.0, 0.5), "contrary"), ((0.5, 1.0, 0.5), "open"),
    ((0.5, 0.5, 1.0), "not tested")])
def test_whether_the_effects_go_along_with_the_loss(other, expected):
    records = _effects({"before": (1.0, 1.0, 1.0), "complete": other})
    assert claim_effects.along(records, "tanh", "complete") == expected


@pytest.mark.parametrize(("complete", "verdict"), [((0.5, 0.5, 1.0), "holds"), ((0.5, 2.0, 1.0), "does not hold"),
                                                   ((0.5, 1.0, 1.0), "does not hold")])
def test_sentence_3a_takes_the_verdicts_of_the_three_effects(complete, verdict):
    rows = claim_effects.effects_rows(_effects({"none": (1.0, 1.0, 1.0), "complete": complete}))
    row = next(row for row in rows if row.sentence == "3a")
    assert row.verdict == verdict and "L 0.50" in row.measured and row.runs[0].startswith("results/effects/digits")
    assert next(row for row in rows if row.sentence == "2a").verdict == "not tested"  # no ReLU in these


def test_published_neighbours_stand_beside_the_same_difference_of_ours(tmp_path):
    part, found = grid.Part("full", "cifar100", "vgg16"), {}
    assert {row.verdict for row in claim_rows.published_rows({})} == {"not tested"}
    for f in ("tanh", "relu"):
        for seed in SEEDS:
            for placement, accuracy in (("before", 0.6), ("after", 0.65 + 0.01 * seed)):
                run = _run(f, placement, seed, accuracy, part=part)
                found[runs.name(run.config)] = run
    tanh, relu = claim_rows.published_rows(found)
    for run in found.values():
        runs.save(run, tmp_path / "grid")
    assert f"- {tanh.sentence}, {tanh.claim}: here after minus before +6.0 (3 of 3): holds" in claims.short(tmp_path)
    assert f"- **{relu.sentence}**" not in claims.short(tmp_path), "not among what was not tested"
    assert ("64.84" in tanh.claim, "72.17" in tanh.claim, tanh.verdict) == (True, True, "holds")
    assert ("73.68" in relu.claim, "71.79" in relu.claim, relu.verdict) == (True, True, "does not hold")
    assert tanh.brief == "after minus before +6.0" and relu.seeds == "0 of 3"


# The whole ledger

@pytest.fixture(scope="module")
def rows():
    return claims.rows()


def test_every_sentence_of_the_protocol_has_a_row(rows):
    numbers = {line.split(".")[0].removeprefix("| ") for line in PROTOCOL.split("\n")
               if line.startswith("| ") and line[2].isdigit()}
    assert len(numbers) == 14 and numbers <= {row.sentence for row in rows}
    assert {row.sentence for row in rows} - numbers == {"Kim, Kim and Kim 2023"}


def test_every_link_leads_to_a_record(rows):
    linked = {path for row in rows for path in row.runs}
    assert linked and not [path for path in linked if not (ROOT / path).is_file()]
    assert all(bool(row.runs) >= (row.verdict != "not tested") for row in rows)


def test_every_part_of_the_grid_has_a_row_or_is_named_as_not_tested(rows):
    of_5a = [row.setting for row in rows if row.sentence == "5a"]
    full = [part for part in grid.PARTS if part.size == "full"]
    assert len(full) == 16
    shown = sum(setting.startswith("full, ") for setting in of_5a)
    assert shown or any("full: all 16 parts" in setting for setting in of_5a)


def test_without_records_nothing_is_tested(tmp_path):
    assert {row.verdict for row in claims.rows(tmp_path)} == {"not tested"}
    for text in (claims.markdown(tmp_path), claims.short(tmp_path)):
        assert "holds" not in text and all(f"- **{row.sentence}** {row.claim}" in text for row in claims.rows(tmp_path))


def test_the_short_form_has_every_verdict_and_gain(rows):
    table = [line[2:-2].split(" | ") for line in claims.short().split("\n") if line.startswith("| ")]
    start = [line[0] for line in table].index("5a, points gained")
    verdict, gain = ({line[0]: line[1:] for line in part} for part in (table[:start], table[start:]))
    for row in (row for row in rows if row.runs and row.sentence != "Kim, Kim and Kim 2023"):
        said = verdict[row.setting][verdict["verdicts"].index(row.sentence)]
        assert said.strip() == claims.SHORT[row.verdict], (row.setting, row.sentence)
        if row.sentence == "5a":
            assert gain[row.setting] == [*(row.means[f] for f in ACTIVATIONS), row.seeds]
            assert all(f"{f} {mean}" in row.brief for f, mean in row.means.items())


def test_the_ledger_can_be_drawn(rows):
    shown = figures.ledger(claims.ledger())
    assert len(shown.entries) == len(rows)
    assert Counter(entry.verdict for entry in shown.entries) == Counter(row.verdict for row in rows)


def test_the_readme_says_what_the_records_say():
    readme = (ROOT / "README.md").read_text()
    assert claims.replace_block(readme, claims.short()) == readme, "python -m cbn_lab.claims README.md rewrites it"


def test_only_the_block_between_the_markers_is_replaced(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- ledger -->\nold\n<!-- /ledger -->\nafter\n")
    claims.main([str(file)])
    assert file.read_text() == f"before\n<!-- ledger -->\n{claims.short()}\n<!-- /ledger -->\nafter\n"
    with pytest.raises(ValueError, match="markers <!-- ledger --> and <!-- /ledger --> once each"):
        claims.replace_block("no markers", "text")


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("no markers", "the markers")])
def test_a_file_that_cannot_be_rewritten_is_refused_in_a_line(tmp_path, capsys, text, said):
    file = tmp_path / "page.md"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit):
        claims.main([str(file)])
    assert said in capsys.readouterr().err


def test_missing_records_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "cbn_lab" / "runs.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(runs.RecordError, match="python -m cbn_lab.grid"):
        claims.rows()
