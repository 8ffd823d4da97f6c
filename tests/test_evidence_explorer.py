"""The recorded-runs explorer of notebook 09, and the parts of the evidence that it shows."""

import html
from dataclasses import replace

import pytest

from cbn_lab import figures, recordings, runs, start, widgets
from cbn_lab.widgets import evidence

DIGITS = [run for run in start.records() if run.config["activation"] in ("sigmoid", "relu")]
SIGMOID = {p: evidence.of_arm(DIGITS, "sigmoid", p) for p in ("before", "complete")}


def _shifted(arm, by):
    """The same runs with every accuracy changed, seed by seed."""
    return [replace(run, final=run.final | {"test_accuracy": run.final["test_accuracy"] + shift})
            for run, shift in zip(arm, by, strict=True)]


def test_the_parts_are_of_one_setting_each_and_hold_each_seed_once():
    found = recordings.parts()
    assert any("notebook 00" in label for label in found) and any("8 epochs" in label for label in found)
    for label, part in found.items():
        arms = [(run.config["activation"], str(run.config["placement"]), run.config["seed"]) for run in part]
        assert len(set(arms)) == len(arms), label
        if "tuned" not in label:
            assert figures.placement_grid(part, "train_loss").alt
        assert {run.config["seed"] for run in part} <= {0, 1, 2, 3, 4}


def test_parts_without_records_are_left_out(tmp_path):
    (tmp_path / "grid").mkdir()
    assert recordings.parts(tmp_path) == {}
    runs.save(DIGITS[0], tmp_path / "start")
    assert list(recordings.parts(tmp_path).values()) == [[DIGITS[0]]]
    (tmp_path / "grid" / "damaged.json").write_text("{")
    with pytest.raises(runs.RecordError, match="damaged.json"):
        recordings.parts(tmp_path)


@pytest.mark.parametrize(("by", "said"), [
    ([0.01, 0.02, 0.012], "+1.4 (+1.0 to +2.0, 3 seeds) points, decided"),
    ([-0.01, -0.02, -0.012], "-1.4 (-2.0 to -1.0, 3 seeds) points, decided"),
    ([0.01, -0.02, 0.05], "points, not decided"),
    ([0.0, 0.0, 0.0], "+0.0 (+0.0 to +0.0, 3 seeds) points, not decided")])
def test_the_difference_is_judged_by_the_rule_of_the_protocol(by, said):
    base = SIGMOID["before"]
    other = [replace(run, config=run.config | {"placement": "after"}) for run in _shifted(base, by)]
    assert said in evidence.difference(other, base, "test_accuracy")


def test_few_seeds_no_pairs_and_an_arm_against_itself_are_said():
    ours, theirs = SIGMOID["complete"], SIGMOID["before"]
    assert "too few seeds to decide" in evidence.difference(ours[:2], theirs, "test_accuracy")
    assert "no finished seed in common" in evidence.difference(ours[:1], theirs[1:], "test_accuracy")
    assert "no finished seed in common" in evidence.difference(ours, theirs, "validation_accuracy")
    assert "compared with itself" in evidence.difference(ours, ours, "test_accuracy")


def test_a_diverged_run_counts_as_in_the_verdicts():
    theirs = [replace(run, status="diverged", final={}, config=run.config | {"data": "cifar10"})
              for run in SIGMOID["before"]]
    said = evidence.difference(_shifted(SIGMOID["complete"], [0, 0, 0]), theirs, "test_accuracy")
    assert "3 seeds) points, decided" in said and "Diverged runs, counted as nets that say nothing: 3." in said


def test_a_measure_that_no_run_has_and_an_own_run_without_it_are_said():
    with pytest.raises(ValueError, match="no validation accuracy; choose another measure"):
        widgets.compared(DIGITS, "sigmoid", "complete", "before", "validation_accuracy")
    mine = replace(SIGMOID["complete"][0], config=SIGMOID["complete"][0].config | {"seed": 100},
                   final={"validation_accuracy": 0.9, "train_loss": 0.1})
    alt = widgets.compared(DIGITS, "sigmoid", "complete", "before", own=[mine]).alt
    assert "your seed" not in alt and "Choose validation accuracy" in alt


def test_an_arm_that_is_not_recorded_is_named_with_those_that_are():
    with pytest.raises(ValueError, match="no run of tanh with complete .* there are: .*sigmoid complete"):
        widgets.compared(DIGITS, "tanh", "complete", "before")


def test_an_own_run_is_a_star_with_its_place_among_the_recorded_seeds():
    mine = replace(SIGMOID["complete"][0], config=SIGMOID["complete"][0].config | {"seed": 100},
                   final={"test_accuracy": 1.0, "train_loss": 0.1})
    alone = figures.seed_strip([*SIGMOID["complete"], *SIGMOID["before"]])
    both = figures.seed_strip([*SIGMOID["complete"], *SIGMOID["before"]], own=[mine])
    assert "your seed 100 100.0, above 3 of 3 recorded" in both.alt and "your seed" not in alone.alt
    stars = [line for line in both.fig.axes[0].lines if line.get_marker() == "*" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in stars] == [[100.0]]


def test_the_strip_refuses_a_mixture():
    with pytest.raises(ValueError, match="one activation, got sigmoid, relu"):
        figures.seed_strip([run for run in DIGITS if run.config["placement"] == "before"])
    other = replace(SIGMOID["complete"][0], config=SIGMOID["complete"][0].config | {"lr": 0.5})
    with pytest.raises(ValueError, match="differ in lr"):
        figures.seed_strip(SIGMOID["complete"], own=[other])


def test_tuned_arms_are_drawn_as_one_setting():
    tuned = [replace(run, config=run.config | {"lr": 0.3 if run.config["placement"] == "complete" else 0.1})
             for run in DIGITS]
    alt = widgets.compared(tuned, "sigmoid", "complete", "before").alt
    assert "complete minus before" in alt and "learning rate and weight decay tuned for each arm" in alt


def test_the_menu_says_of_each_part_how_its_learning_rate_was_chosen():
    tuned = [replace(run, config=run.config | {"lr": 0.3 if run.config["placement"] == "complete" else 0.1})
             for run in DIGITS]
    view = widgets.evidence_explorer({"small, common": DIGITS, "small, tuned": tuned})
    assert [line for line, _ in view.controls["runs"].options] == [
        "small, common (learning rate 0.1)", "small, tuned (learning rate tuned for each arm)"]
    view.controls["runs"].value = "small, tuned"
    assert view.error is None and "weight decay tuned for each arm" in view.figure().alt


def test_a_recorded_run_becomes_settings_to_train_again():
    config = evidence.settings(DIGITS[0], 100)
    assert config.record() == DIGITS[0].config | {"seed": 100}


def test_menus_change_the_picture_and_a_live_run_becomes_a_star():
    view = widgets.evidence_explorer({"digits": DIGITS})
    first = view.explorer.image.value
    assert "complete minus before" in view.figure().alt and "sigmoid" in view.figure().alt
    view.controls["compared with"].value = "after"
    assert view.explorer.image.value != first and "complete minus after" in view.explorer.caption.value
    view.live.start()
    assert view.error is None and "your seed 100" in view.explorer.caption.value
    assert [run.config["seed"] for run in view.live.runs] == [100]


def test_clear_takes_the_stars_as_well_and_frees_their_seeds():
    view = widgets.evidence_explorer({"digits": DIGITS})
    before = view.explorer.image.value
    view.live.start()
    starred = view.explorer.image.value
    view.live.clear()
    assert view.explorer.image.value == before != starred and "your seed" not in view.figure().alt
    view.live.start()
    assert "your seed 100" in view.figure().alt and [run.config["seed"] for run in view.live.runs] == [100]


def test_the_difference_is_always_seen_and_the_rest_of_the_words_on_demand():
    explorer = widgets.evidence_explorer({"digits": DIGITS}).explorer
    picture = explorer.figure()
    said = evidence.difference(SIGMOID["complete"], SIGMOID["before"], "test_accuracy")
    assert picture.headline == said and picture.alt.startswith(f"{said} Grid of")
    assert explorer.headline.value == f"<p>{html.escape(said)}</p>" and explorer.headline.layout.display is None
    assert explorer.caption.layout.display == "none" and explorer.caption.value == f"<p>{html.escape(picture.alt)}</p>"
    explorer.words.value = True
    assert explorer.caption.layout.display is None and explorer.headline.layout.display is None


def test_a_missing_arm_is_said_in_one_line_and_the_menus_stay_usable():
    some = [run for run in DIGITS if not (run.config["activation"] == "relu" and run.config["placement"] == "both")]
    view = widgets.evidence_explorer({"digits": some})
    view.controls["activation"].value, view.controls["placement"].value = "relu", "both"
    assert "no run of relu with both" in str(view.error)
    with pytest.raises(ValueError, match="no run of relu with both"):
        view.live.start()
    assert not view.live.runs, "another arm than the chosen one was trained"
    view.controls["placement"].value = "after"
    assert view.explorer.error is None


def test_no_records_are_refused():
    with pytest.raises(ValueError, match="no recorded runs"):
        widgets.evidence_explorer({"digits": []})
