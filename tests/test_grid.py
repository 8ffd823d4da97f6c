"""The evidence grid: the plan is what the protocol says, tuning looks at validation alone, nothing is run again."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cbn_lab import blocks, grid, runs, sweep
from cbn_lab.ablation import ACTIVATIONS, SEEDS
from cbn_lab.grid import COMMON, COMPARED, PLACEMENTS, SEARCH, Part

PROTOCOL = (Path(__file__).parents[1] / "results" / "GRID.md").read_text()
PROVENANCE = {"device": "a CPU", "versions": {}, "commit": None, "date": "", "data_sources": {}}
PART = Part("small", "cifar10", "convnet")
TUNED = replace(PART, setting="tuned")


def _run(config, validation=0.5, test=0.5, status="finished"):
    numbers = {"validation_accuracy": validation, "test_accuracy": test, "train_loss": 1.0}
    return runs.Run(config.record(), [], {} if status == "diverged" else numbers, PROVENANCE, status)


def _found(configs, **numbers):
    return {grid.name(config): _run(config, **numbers) for config in configs}


def _rounds(size, validation):
    """The new runs of each look at the plan, when all that it names are recorded in between."""
    found = {}
    while missing := grid.still_missing(size, found):
        yield missing
        found |= {grid.name(config): _run(config, validation(config)) for config in missing}


@pytest.fixture(scope="module")
def decided_rounds():
    """complete is better by the same in every seed, so that no further seeds are needed; the rate is changed."""
    def validation(config):
        return 0.5 + 0.1 * (config.placement == "complete") + 0.01 * (config.lr in (0.3, 1.0))

    return {size: list(_rounds(size, validation)) for size in grid.STAGES}


@pytest.mark.parametrize("size", grid.STAGES)
def test_the_plan_ends_and_names_no_run_twice(decided_rounds, size):
    names = [grid.name(config) for missing in decided_rounds[size] for config in missing]
    assert len(names) == len(set(names))


def test_a_part_holds_every_arm_with_three_seeds(decided_rounds):
    for size, rounds in decided_rounds.items():
        every = [config for missing in rounds for config in missing]
        for data, model in {(part.data, part.model) for part in grid.PARTS if part.size == size}:
            of_part = [(c.activation, c.placement, c.seed) for c in every if (c.data, c.model) == (data, model)
                       and (c.lr, c.weight_decay) == COMMON[size]]
            assert sorted(of_part) == sorted((f, p, s) for f in ACTIVATIONS for p in PLACEMENTS for s in SEEDS)


def test_the_full_grid_is_the_one_that_was_asked_for():
    full = [part for part in grid.PARTS if part.size == "full"]
    assert {(part.data, part.model, part.setting) for part in full} == {
        (data, model, setting) for data in ("cifar10", "cifar100") for setting in ("common", "tuned")
        for model in ("convnet", "vgg16", "resnet20", "resnet18")}
    assert set(PLACEMENTS) == set(blocks.placements()) - {"before_weight"} and len(ACTIVATIONS) == 5
    for part in grid.PARTS:
        if part.model == "convnet":
            assert len(part.config("relu", "none", 0, 0.1, 0).model_options["widths"]) == 8


def test_the_runs_of_most_value_come_first(decided_rounds):
    first, second, third = decided_rounds["small"][:3]
    assert [(c.data, c.model, c.seed) for c in first[:25]] == [("cifar10", "convnet", 0)] * 25
    assert [(c.data, c.model) for c in first[75:150]] == [("cifar100", "convnet")] * 75
    assert {c.placement for c in first[150:]} == set(COMPARED) == {c.placement for c in first[:10]}
    assert {(c.placement, c.seed, c.lr) for c in second[:20]} == {(p, s, 0.3) for p in COMPARED for s in (1, 2)}
    assert [c.model for c in second[20:]] == ["resnet20"] * 75
    assert {(c.placement, c.seed) for c in third} == {(p, 0) for p in set(PLACEMENTS) - set(COMPARED)}


@pytest.mark.parametrize("size", grid.STAGES)
def test_the_protocol_states_what_the_code_runs(size):
    config = Part(size, "cifar10", "convnet").config("relu", "none", 0, *COMMON[size])
    column = {row[0]: row[1 + list(grid.STAGES).index(size)] for line in PROTOCOL.split("\n")
              if len(row := [cell.strip() for cell in line.strip("|").split("|")]) == 3}
    assert column["training images"].startswith(f"the first {config.train_images:,}")
    assert column["epochs, batch"] == f"{config.epochs}, {config.batch_size}"
    assert column["ConvNet's widths"] == ", ".join(map(str, config.model_options["widths"]))
    assert column["common setting: peak learning rate, weight decay"] == f"{config.lr}, 5e-4"
    for i, what in enumerate(("learning rates", "weight decays")):
        assert [*map(float, column[f"tuned: searched {what}"].split(","))] == sorted({pair[i] for pair in SEARCH[size]})
    assert len(set(SEARCH[size])) == 6
    assert (f"crops from {config.crop_padding} pixels" in column["augmentation"]) == (config.crop_padding > 0)
    assert config.validation_images == 5000 and config.flip and not config.decay_norm
    assert (config.device == "cpu") == ("CPU" in column["meant for"])


def test_small_steps_are_those_of_the_protocol():
    steps = {}
    for model in ("convnet", "resnet20"):
        config = Part("small", "cifar10", model).config("relu", "none", 0, 0.1, 0)
        steps[model] = config.epochs * (config.train_images // config.batch_size)
    assert re.search(rf"\({steps['convnet']} SGD steps,\s+ResNet-20: {steps['resnet20']}\)", PROTOCOL)


def test_a_run_has_the_same_name_on_every_machine():
    config = PART.config("tanh", "both", 1, 0.1, 5e-4)
    assert config.resolved() == config
    full = Part("full", "cifar100", "resnet18").config("relu", "none", 0, 0.3, 5e-4)
    assert "auto" not in full.record().values() and None not in full.record().values()


def test_only_the_validation_accuracy_tunes_and_the_first_of_equals_wins():
    search = [*TUNED.search("selu", "before").values()]
    assert TUNED.choice("selu", "before", {}) is None
    found = _found(search)
    assert TUNED.choice("selu", "before", found) == COMMON["small"]
    found[grid.name(search[3])] = _run(search[3], validation=0.6, test=0.1)
    found[grid.name(search[4])] = _run(search[4], validation=0.4, test=0.9)
    assert TUNED.choice("selu", "before", found) == (search[3].lr, search[3].weight_decay)
    del found[grid.name(search[1])]
    assert TUNED.choice("selu", "before", found) is None
    assert PART.choice("selu", "before", {}) == COMMON["small"]


def test_a_diverged_run_is_not_chosen_unless_all_diverged():
    search = [*TUNED.search("relu", "none").values()]
    found = _found(search, status="diverged")
    assert TUNED.choice("relu", "none", found) == COMMON["small"]
    found[grid.name(search[5])] = _run(search[5], validation=0.11)
    assert TUNED.choice("relu", "none", found) == (search[5].lr, search[5].weight_decay)


def test_a_diverged_run_counts_as_a_net_that_says_nothing():
    run = _run(Part("small", "cifar100", "convnet").config("relu", "none", 0, 0.1, 0), status="diverged")
    assert grid.final(run, "test_accuracy") == 0.01
    assert grid.final(run, "train_loss") == pytest.approx(math.log(100))


def test_an_arm_of_a_tuned_part_holds_the_seeds_of_its_choice():
    search = [*TUNED.search("tanh", "after").values()]
    found = _found(search) | {grid.name(search[2]): _run(search[2], validation=0.7)}
    others = [replace(search[2], seed=seed) for seed in (1, 3)] + [replace(search[0], seed=2)]
    assert sorted(TUNED.arm("tanh", "after", found | _found(others))) == [0, 1, 3]
    assert TUNED.arm("tanh", "after", {}) == {}


@pytest.mark.parametrize(("gains", "more"), [((0.05, 0.06, 0.07), False), ((-0.05, -0.06, -0.07), False),
                                             ((0.05, 0.06, -0.01), True), ((0.001, 0.2, 0.01), True)])
def test_further_seeds_are_run_where_three_do_not_decide(gains, more):
    stage = grid.Stage(PART, "further")
    found = {}
    for f in ACTIVATIONS:
        for seed, gain in zip(SEEDS, gains if f == "tanh" else (0.1, 0.11, 0.12), strict=True):
            for placement, value in (("complete", 0.5 + gain), ("before", 0.5)):
                config = PART.config(f, placement, seed, *COMMON["small"])
                found[grid.name(config)] = _run(config, value, test=0.5)
    expected = {("tanh", p, s) for p in COMPARED for s in (3, 4)} if more else set()
    assert {(c.activation, c.placement, c.seed) for c in stage.runs(found).values()} == expected
    found.popitem()
    assert stage.runs(found) is None


@pytest.mark.parametrize(("differences", "convincing"), [
    ((1.0, 1.1, 1.2), True), ((-1.0, -1.1, -1.2), True), ((1.0, 1.1), False), ((), False), ((0.1, 2.0, 0.2), False),
    ((1.0, 1.0, -0.01), False), ((0.0, 0.0, 0.0), False),
])
def test_what_is_decided(differences, convincing):
    assert grid.decided(differences) == convincing


def test_recorded_runs_are_those_that_ended(tmp_path):
    assert grid.recorded(tmp_path / "none") == {}
    for seed, status in enumerate(("finished", "diverged", "interrupted")):
        runs.save(_run(PART.config("relu", "both", seed, 0.1, 0.0), status=status), tmp_path)
    assert sorted(run.config["seed"] for run in grid.recorded(tmp_path).values()) == [0, 1]


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="size must be one of small, full, got 'medium'"):
        grid.plan("medium", {})


def test_the_command_looks_again_until_nothing_is_missing_and_stops_when_it_is_stopped(tmp_path, monkeypatch):
    configs = [PART.config("relu", "both", seed, 0.1, 0.0) for seed in SEEDS]
    monkeypatch.setattr(grid, "plan", lambda size, found: {grid.name(c): c for c in configs[: len(found) + 1]})
    asked, codes = [], iter([0, 0, 1])

    class Summary:
        exit_code, interrupted = 0, False

    def fill(missing, out, **options):
        asked.append([config.seed for config in missing])
        for config in missing:
            runs.save(_run(config), out)
        summary = Summary()
        summary.exit_code = next(codes)
        return summary

    monkeypatch.setattr(sweep, "fill", fill)
    assert grid.main(["--out", str(tmp_path / "a")]) == 1  # the third round reports a failure
    assert asked == [[0], [1], [2]]
    assert grid.main(["--out", str(tmp_path / "a")]) == 0 and len(asked) == 3


def test_the_full_size_without_a_gpu_is_refused_in_a_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as error:
        grid.main(["--size", "full", "--out", str(tmp_path)])
    assert error.value.code == 2 and "needs a GPU, and torch finds none here" in capsys.readouterr().err


def test_what_is_recorded_are_runs_of_the_plan_by_committed_code():
    found = grid.recorded(Path(__file__).parents[1] / "results" / "grid")
    assert found.keys() <= {key for size in grid.STAGES for key in grid.plan(size, found)}
    assert not [run.provenance["commit"] for run in found.values() if run.provenance["commit"].endswith("+")]
