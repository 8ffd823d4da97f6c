"""The plan of the residual forms against their protocol, the probe against a sum by hand, the rule that chooses."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from cbn_lab import figures, grid, joins, models, runs
from cbn_lab.residual import PreactivatedBlock, ResidualBlock

PROTOCOL = Path(__file__).parent.parent / "results" / "residual" / "PROTOCOL.md"


def _words(setting: joins.Setting) -> set[str]:
    return {" ".join(arm) for arm in setting.arms}


def test_the_plans_are_those_of_the_protocol():
    text = " ".join(PROTOCOL.read_text().split())
    common = joins.SETTINGS[:3]
    plans = [setting.plan({}) for setting in common]
    assert [len(plan) for plan in plans] == [45, 15, 45] and len(set().union(*plans)) == 105
    for plan, sentence in zip(plans, re.findall(r"New: (.*?)\. ", text), strict=True):
        plan = plan.values()
        assert [config.seed for config in plan] == sorted(config.seed for config in plan)
        planned = {f"{c.placement} {c.model_options.get('join', 'activated')}" for c in plan}
        assert planned == set(sentence.split(", "))
        assert all(c.batch_size == 64 and c.lr == 0.1 and c.model == "resnet20" for c in plan)
    sizes = [{(c.data, c.train_images, c.epochs) for c in plan.values()} for plan in plans]
    assert sizes == [{("cifar10", 5_000, 3)}, {("cifar100", 5_000, 3)}, {("cifar10", 10_000, 4)}]
    steps = re.search(r"at steps (.*?), on", text).group(1).replace(" and", ",").split(", ")
    assert [int(step) for step in steps] == list(joins.PROBE_STEPS)
    probes = joins.probes(joins.SHORT, {})
    assert {(c.activation, c.precision) for c in probes} == {(f, "fp32") for f in ("tanh", "relu", "selu")}
    assert len(probes) == 15 and joins.probes(joins.TUNED, {}) == []


def _search(setting: joins.Setting, best: tuple[float, float]) -> dict[str, runs.Run]:
    """name -> run of every arm's search, in which `best` has the highest validation accuracy."""
    found = {}
    for f in joins.ACTIVATIONS:
        for arm in setting.arms:
            for config in setting.search(f, *arm):
                accuracy = 0.6 if (config.lr, config.weight_decay) == best else 0.4
                found[grid.name(config)] = runs.Run(config.record(), [], {"validation_accuracy": accuracy,
                                                                          "test_accuracy": 1 - accuracy}, {})
    return found


@pytest.mark.parametrize("setting, data, searched", [
    (joins.TUNED, "cifar10", 80), (joins.TUNED_OTHER_DATA, "cifar100", 55)])
def test_the_tuned_arms_are_searched_first_then_their_seeds_are_run(setting, data, searched):
    """Six pairs of an arm; the runs at the common pair in the grid's form are the grid's: 10 and 5."""
    text = " ".join(PROTOCOL.read_text().split())
    named = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[data]
    assert _words(setting) == set(re.search(rf"{named}: (before activated.*?)\. ", text).group(1).split(", "))
    first = setting.plan({})
    assert len(first) == searched and {(c.data, c.seed) for c in first.values()} == {(data, 0)}
    assert {(c.lr, c.weight_decay) for c in first.values()} == set(grid.SEARCH["small"])
    found = _search(setting, best=(0.3, 5e-5))
    assert set(first) < set(found)
    assert {setting.choice(f, *arm, found) for f in joins.ACTIVATIONS for arm in setting.arms} == {(0.3, 5e-5)}
    probes = joins.probes(setting, found)
    assert len(probes) == 3 * len(setting.arms) and {(c.lr, c.weight_decay) for c in probes} == {(0.3, 5e-5)}
    more = [config for name, config in setting.plan(found).items() if name not in first]
    assert [c.seed for c in more] == [1] * 5 * len(setting.arms) + [2] * 5 * len(setting.arms)
    assert {(c.lr, c.weight_decay) for c in more} == {(0.3, 5e-5)}
    arms = joins.arms_of(found, setting)
    assert all(run.config["lr"] == 0.3 for arm in arms.values() for run in arm.values())
    assert all(set(arm) == {0} for arm in arms.values())


def test_a_tuned_arm_is_empty_until_its_search_is_recorded():
    found = _search(joins.TUNED, best=(0.1, 5e-4))
    found.pop(grid.name(joins.TUNED.config("selu", "complete", "normalized", 0, (0.03, 5e-5))))
    arms = joins.arms_of(found, joins.TUNED)
    assert arms["selu", "complete", "normalized"] == {} and set(arms["tanh", "complete", "normalized"]) == {0}
    assert all(c.seed == 0 for c in joins.TUNED.plan(found).values()), "no seed before every arm is chosen"


def test_the_form_of_the_grid_has_the_grids_name():
    known = grid.plan("small", {})
    known |= {grid.name(c): c for p in ("before", "complete") for s in (0, 1, 2)
              for c in [joins.SHORT.part.config("tanh", p, s, 0.1, 5e-4)]}
    assert grid.name(joins.SHORT.config("tanh", "complete", "activated", 1)) in known
    assert grid.name(joins.SHORT.config("tanh", "complete", "normalized", 1)) not in known


@pytest.mark.parametrize("placement, join", joins.SHORT.arms)
def test_shares_and_gradients_by_hand(placement, join):
    torch.manual_seed(0)
    model = models.build("resnet20", num_classes=5, activation="tanh", placement=placement, image_size=8, join=join,
                         widths=(4, 8, 16))
    x, y = torch.randn(6, 3, 8, 8), torch.arange(6) % 5
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = joins.look(model, x, y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "left as it was"
    assert all(p.grad is None for p in model.parameters())
    shares, outputs = [], []
    for module in model:  # the blocks one after the other, with the two parts of each sum
        if isinstance(module, ResidualBlock):
            branch, shortcut = module.linear(module.branch(x)), module.shortcut(x)
            x = module.nonlinear(branch + shortcut)
        elif isinstance(module, PreactivatedBlock):
            branch, shortcut = module.branch(module.rest(x)), module.shortcut(x)
            x = branch + shortcut
        else:
            x = module(x)
            continue
        b, s = (part.var((0, 2, 3), correction=0).mean().item() for part in (branch, shortcut))
        shares.append(s / (s + b))
        outputs.append(x)
    gradients = torch.autograd.grad(nn.functional.cross_entropy(x, y), outputs)
    assert found["shares"] == pytest.approx(shares, rel=1e-4)
    assert found["gradients"] == pytest.approx([g.norm().item() for g in gradients], rel=1e-4)


def _run(accuracy: float, status: str = "finished") -> runs.Run:
    final = {"validation_accuracy": accuracy, "test_accuracy": 1 - accuracy} if status == "finished" else {}
    return runs.Run({"data": "cifar10"}, [], final, {}, status)


def _arms(normalized: float, preactivated: float) -> dict:
    """Every run of `complete` at 0.5 with activated joins, others that much better, with some noise."""
    lift = {"activated": 0.0, "normalized": normalized, "preactivated": preactivated}
    return {(f, p, join): {seed: _run(0.5 + lift[join] + 0.01 * ((seed + i) % 3 - 1) * (join != "activated"))
                           for seed in range(3)}
            for i, f in enumerate(joins.ACTIVATIONS) for p, join in joins.SHORT.arms}


@pytest.mark.parametrize("normalized, preactivated, form", [
    (0.02, 0.05, "preactivated"), (0.05, 0.02, "normalized"), (0.001, -0.03, "activated"), (0.02, -0.01, "normalized")])
def test_validation_accuracy_chooses_the_form(normalized, preactivated, form):
    """The test accuracy of these runs says the opposite."""
    assert joins.chosen(_arms(normalized, preactivated)) == form


def test_a_form_whose_runs_are_not_all_recorded_is_not_chosen():
    arms = _arms(0.05, 0.02)
    del arms["selu", "complete", "normalized"][2]
    assert joins.chosen(arms) == "preactivated"


def test_a_diverged_run_counts_as_a_net_that_says_nothing():
    arms = _arms(0.02, 0.0)
    arms["tanh", "complete", "normalized"][1] = _run(0.9, "diverged")
    found = joins.gains(arms, ("complete", "normalized"), ("complete", "activated"), "validation_accuracy")
    assert found["tanh", 1] == pytest.approx(-40) and len(found) == 15


def test_a_probe_is_recorded_once(tmp_path, monkeypatch):
    """On the digits instead of CIFAR, one probe of one epoch."""
    small = joins.TrainConfig(data="digits", model="resnet20", model_options={"join": "preactivated"},
                              activation="tanh", epochs=1, train_images=128, batch_size=64, device="cpu",
                              precision="fp32", log_every=1)
    monkeypatch.setattr(joins, "SETTINGS", ())
    monkeypatch.setattr(joins, "probes", lambda setting, found: [small])
    monkeypatch.setattr(joins, "PROBE_STEPS", (0, 2))
    out = tmp_path / "residual"
    assert joins.main(["--out", str(out)]) == 0
    [path] = out.glob("*.json")
    run, written = runs.load(path), path.stat().st_mtime_ns
    assert [point["step"] for point in run.curve] == [0, 2] and len(run.curve[0]["shares"]) == 9
    assert joins.main(["--out", str(out)]) == 0 and path.stat().st_mtime_ns == written
    assert joins.probed(joins.SHORT, tmp_path) == {("tanh", "complete", "preactivated"): run}


def test_the_picture_says_the_mean_shares():
    points = [{"step": 0, "shares": [0.5, 0.7]}, {"step": 78, "shares": [0.1, 0.2]}]
    shown = figures.shortcut_shares({("tanh", "complete", "activated"): runs.Run({}, points, {}, {})})
    assert "tanh, complete, activated: 0.60 at the start, 0.15 at step 78" in shown.alt
    [line] = shown.fig.axes[0].lines
    assert list(line.get_xdata()) == [0, 78] and list(line.get_ydata()) == pytest.approx([0.6, 0.15])
    with pytest.raises(ValueError, match="no probed run to draw"):
        figures.shortcut_shares({})
    with pytest.raises(ValueError, match="relu before activated: no shares in its curve"):
        figures.shortcut_shares({("relu", "before", "activated"): _run(0.5)})
