"""Grid files: the product in the written order, and errors of one line that name what is known."""

from dataclasses import fields
from pathlib import Path

import pytest

from cbn_lab import cli, gridfile
from cbn_lab.train import TrainConfig


def _read(tmp_path, text: str) -> list[TrainConfig]:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return gridfile.read(path)


def test_the_last_list_changes_fastest(tmp_path):
    configs = _read(tmp_path, '[common]\nepochs = 2\nlr = 1\n[grid]\nseed = [0, 1]\nplacement = ["none", "after"]')
    assert configs == [TrainConfig(epochs=2, lr=1.0, seed=seed, placement=placement)
                       for seed in (0, 1) for placement in ("none", "after")]


def test_grids_follow_one_another_and_replace_what_is_common(tmp_path):
    configs = _read(tmp_path, """
        [common]
        model = "mlp"
        model_options = { width = 8 }
        seed = 3
        [[grid]]
        activation = [["relu", "tanh"], "selu"]
        [[grid]]
        model_options = [{ width = 4, depth = 1 }]
        seed = [5]
        """)
    assert configs == [
        TrainConfig(model="mlp", model_options={"width": 8}, seed=3, activation=("relu", "tanh")),
        TrainConfig(model="mlp", model_options={"width": 8}, seed=3, activation="selu"),
        TrainConfig(model="mlp", model_options={"width": 4, "depth": 1}, seed=5)]


def test_without_a_grid_it_is_one_run(tmp_path):
    assert _read(tmp_path, "") == [TrainConfig()]


def test_every_field_of_the_settings_can_be_written(tmp_path):
    assert {field.type for field in fields(TrainConfig)} <= set(gridfile._TYPES)


def test_the_grid_of_the_docstring_is_one(tmp_path):
    text = "\n".join(line[4:] for line in gridfile.__doc__.splitlines() if line.startswith("    "))
    configs = _read(tmp_path, text)
    assert len(configs) == 8 and [config.seed for config in configs] == [0] * 4 + [1] * 4
    assert configs[1] == TrainConfig(epochs=2, model_options={"widths": [16, 32]}, activation="sigmoid")


@pytest.mark.parametrize(("text", "words"), [
    ("[grid]\nsede = [1]", ["[grid]", "'sede'", "seed", "activation"]),
    ("[common]\nlearning_rate = 1", ["[common]", "'learning_rate'", "lr"]),
    ("[comon]\nlr = 1", ["[comon]", "[common], [grid]"]),
    ("lr = 1", ["[lr]", "[common], [grid]"]),
    ("[grid]\nseed = []", ["seed", "empty"]),
    ("[grid]\nseed = 1", ["seed", "list", "seed = [1]"]),
    ('[grid]\nactivation = "relu"', ['activation = ["relu"]']),
    ('[grid]\nepochs = [1, "2"]', ["epochs", "a whole number", '"2"']),
    ("[grid]\nepochs = [true]", ["epochs", "a whole number", "true"]),
    ('[common]\nlr = "fast"', ["lr", "a number", '"fast"']),
    ("[common]\nflip = 1", ["flip", "true or false", "1"]),
    ("[common]\nmodel_options = [8]", ["model_options", "table"]),
    ("[common]\nmodel = 3", ["model", "a string"]),
    ("[common]\nactivation = [1]", ["activation", "list of strings", "[1]"]),
    ("[common]\nepochs = 0", ["epochs", "at least 1"]),
    ("common = 1", ["common", "[common]"]),
    ("grid = 1", ["grid", "[[grid]]"]),
    ("[grid\n", ["not TOML"]),
])
def test_what_is_wrong_is_said_in_one_line(text, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text(text)
    assert cli.main(["sweep", "grid.toml"]) == 2
    out, err = (text.splitlines() for text in capsys.readouterr())
    assert out == [] and len(err) == 1 and err[0].startswith("cbn-lab: error: grid.toml")
    assert all(word in err[0] for word in words), err[0]
    assert [path.name for path in tmp_path.iterdir()] == ["grid.toml"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["nowhere.toml"], ["no grid file nowhere.toml"]),
    (["."], [". is a folder", "name a grid file in it, such as grid.toml"]),
    (["good.toml/grid.toml"], ["good.toml/grid.toml cannot be read (Not a directory)"]),
    (["x" * 999], ["xxx cannot be read (File name too long)", "its permissions"]),
    (["good.toml", "--jobs", "0"], ["jobs", "at least 1", "0"]),
    (["good.toml", "--jobs", "many"], ["--jobs", "many"]),
    (["good.toml", "--dry-run", "--cluster", "local"], ["dry run", "cluster"]),
    ([], ["grid"]),
])
def test_wrong_arguments_too(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("good.toml").write_text("[grid]\nseed = [0]")
    assert cli.main(["sweep", *arguments]) == 2
    out, err = (text.splitlines() for text in capsys.readouterr())
    assert out == [] and len(err) == 1 and all(word in err[0] for word in words), err[0]


def test_the_help_says_how_a_grid_is_written(capsys):
    with pytest.raises(SystemExit):
        cli.main(["sweep", "--help"])
    shown = capsys.readouterr().out
    assert "[common]" in shown and "changes fastest" in shown and "results/example_sweep.toml" in shown
