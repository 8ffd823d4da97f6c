"""The grid of the three effects: probes that leave training alone, points where the protocol wants them, verdicts."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cbn_lab import effects, runs
from cbn_lab import effects_evidence as evidence
from cbn_lab.ablation import ACTIVATIONS, SEEDS
from cbn_lab.effects_evidence import EFFECTS, Score
from cbn_lab.train import DivergedError, Trainer

SCHEDULE = effects.Schedule(levels=(2.33, 2.28, 1.0), steps=(0, 3, 12), batches=50, loss_batches=3)


def job(activation="tanh", placement="before", seed=0, **settings):
    """A net small enough to write its Hessian down."""
    config = effects.DIGITS.config(activation, placement, seed)
    return effects.Job(replace(config, **{"model_options": {"widths": [2, 3], "strides": [2, 2]}, "epochs": 2,
                                          "train_images": 200, "batch_size": 32} | settings), SCHEDULE)


@cache
def measured():
    return effects.record(job())


def made(activation="tanh", placement="before", seed=0, values=(1.0, 1.0, 1.0), levels=(1.5, 1.0), steps=(0, 10, 22),
         factors=None, loss=1.0, data="digits"):
    """A record whose effects are `values`, times factors[point] where given."""
    def entry(step, scheduled, reached):
        factor = (factors or {}).get(reached[0] if reached else step, 1.0)
        numbers = {e: v * factor for e, v in zip(EFFECTS, values, strict=True)} | {"squared_mean": 0.5 * factor}
        layers = {name: {s: {e: numbers[e] * k for e in ("second", "variance")} for s in evidence.SCALES}
                  | ({"curvature": {s: numbers["curvature"] * k for s in evidence.SCALES}} if seed == 0 else {})
                  for k, name in ((1, "0.weight"), (2, "1.weight"))}
        scaled = {e: 10 * v for e, v in numbers.items()}
        return {"step": step, "epoch": step / 22, "loss": loss, "scheduled": scheduled, "reached": reached,
                "raw": numbers, "scale_free": scaled, "layers": layers}

    curve = [entry(s, True, []) for s in steps] + [entry(30 + i, False, [v]) for i, v in enumerate(levels)]
    config = {"data": data, "activation": activation, "placement": placement, "seed": seed,
              "effects": {"levels": [1.5, 1.0], "steps": [0, 10, 22]}}
    return runs.Run(config, curve, {"train_loss": loss}, {})


def test_the_plan_is_the_protocols():
    jobs = effects.plan()
    names = [runs.name(j.settings()) for j in jobs]
    assert len(set(names)) == len(jobs) == 60 + 36
    digits = [j.config for j in jobs if j.config.data == "digits"]
    assert {(c.activation, c.placement, c.seed) for c in digits} == {
        (f, p, s) for f in ACTIVATIONS for p in effects.PLACEMENTS for s in SEEDS}
    text = (effects.folder() / "PROTOCOL.md").read_text(encoding="utf-8")
    for grid in (effects.DIGITS, effects.CIFAR):
        assert ", ".join(f"{level:.1f}" for level in grid.schedule.levels) in text
        assert all(f" {step}" in text for step in grid.schedule.steps) and grid.schedule.batches == 64
    assert all(c.crop_padding == 0 and not c.flip and not c.decay_norm and c.lr == 0.1 for c in digits)


def test_looking_changes_nothing_about_the_training():
    watched, plain = Trainer(job(seed=1).config), Trainer(job(seed=1).config)
    points = list(effects._points(watched, SCHEDULE))
    losses = [progress.loss for progress in plain.run()]
    assert [entry["loss"] for entry in watched.curve] == losses and len(points) >= 4
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, watched.model.state_dict()[name]), name


def test_points_are_where_the_protocol_wants_them():
    curve = measured().curve
    assert [e["step"] for e in curve if e["scheduled"]] == [0, 3, 12]
    trainer = Trainer(job().config)
    look = effects.Look(trainer, SCHEDULE)
    losses = {p.step: look.loss() for p in trainer.run()}
    for level in SCHEDULE.levels:
        first = next((step for step, loss in losses.items() if loss < level), None)
        assert [e["step"] for e in curve if level in e["reached"]] == ([] if first is None else [first])
    assert any(e["reached"] for e in curve) and any(min(losses.values()) > level for level in SCHEDULE.levels)
    for entry in curve[1:]:
        assert entry["loss"] == pytest.approx(losses[entry["step"]])


def test_the_loss_is_checked_only_when_due():
    every = replace(SCHEDULE, check_every=5)
    steps = [e["step"] for e in effects._points(Trainer(job(seed=1).config), every) if e["reached"]]
    assert steps and all(step % 5 == 0 or step in SCHEDULE.steps for step in steps)


def _gradient(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), create_graph=True)])


def test_a_point_holds_what_a_naive_computation_gives():
    """At step 0, from plain loops: gradients of 50 mini-batches, and all of the Hessian of two of them."""
    trainer = Trainer(job().config)
    look, model = effects.Look(trainer, SCHEDULE), trainer.model
    point = measured().curve[0]
    rows = torch.stack([_gradient(model, F.cross_entropy(model(x), y)).detach() for x, y in look.batches]).double()
    assert point["raw"]["second"] == pytest.approx(float((rows**2).sum(1).mean()), rel=1e-5)
    assert point["raw"]["variance"] == pytest.approx(float(rows.var(dim=0).sum()), rel=1e-5)
    loss = sum(F.cross_entropy(model(x), y) for x, y in look.batches[:2]) / 2
    slope = _gradient(model, loss)
    hessian = torch.stack([torch.cat([h.flatten() for h in torch.autograd.grad(
        s, list(model.parameters()), retain_graph=True)]) for s in slope]).double()
    lengths = torch.cat([p.detach().norm().expand(p.numel()) for p in model.parameters()]).double()
    scaled = lengths[:, None] * hessian * lengths
    for scale, matrix in (("raw", hessian), ("scale_free", scaled)):
        top = torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]
        assert point[scale]["curvature"] == pytest.approx(float(top), rel=1e-3)
    first = "0.weight.weight"
    places = [i for i, (name, p) in enumerate(model.named_parameters()) for _ in range(p.numel()) if name == first]
    block = hessian[: len(places), : len(places)]
    assert point["layers"]["0.weight"]["curvature"]["raw"] == pytest.approx(
        float(torch.linalg.eigvalsh((block + block.T) / 2)[-1]), rel=1e-3)
    assert list(point["layers"]) == ["0.weight", "1.weight", "4"]


def test_running_statistics_are_looked_at_once_at_the_end_of_seed_0():
    assert ["running" in e for e in measured().curve] == [False] * (len(measured().curve) - 1) + [True]
    last = measured().curve[-1]
    assert last["running"]["raw"]["second"] != last["raw"]["second"]
    trainer = Trainer(job(seed=1).config)
    entry = effects.Look(trainer, SCHEDULE).point(reached=[])
    assert "running" not in entry and all("curvature" not in layer for layer in entry["layers"].values())


def test_what_is_recorded_is_not_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(effects, "plan", lambda: [job(seed=1, epochs=1), job(placement="after", seed=1, epochs=1)])
    effects.main(["--out", str(tmp_path)])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(before) == 2 and all(path.suffix == ".json" and path.stat().st_size < 20_000 for path in before)
    monkeypatch.setattr(effects, "record", lambda *a, **k: pytest.fail("measured again"))
    effects.main(["--out", str(tmp_path)])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    for run in runs.load_all(tmp_path):
        assert run.status == "finished" and run.provenance["commit"] and 0 <= run.final["test_accuracy"] <= 1
    assert "finished" in capsys.readouterr().out


def test_a_run_that_diverges_keeps_its_points(monkeypatch):
    def stop(self, checkpoint=None):
        raise DivergedError("the loss is nan")
        yield

    monkeypatch.setattr(Trainer, "run", stop)
    run = effects.record(job())
    assert run.status == "diverged" and [e["step"] for e in run.curve] == [0] and run.final == {}


def test_ratios_pair_seeds_and_points():
    ours = made(placement="complete", values=(2.0, 3.0, 5.0), levels=(1.5,))
    alone = made(placement="complete", seed=1)
    found = evidence.ratios([ours, alone, made(), made("relu", values=(7.0, 7.0, 7.0))], "tanh", "complete", "before",
                            "second", matched="loss", scale="raw")
    assert found == {0: {1.5: 3.0}}
    found = evidence.ratios([ours, made()], "tanh", "complete", "before", "variance", matched="step",
                            scale="scale_free")
    assert found == {0: {0: 5.0, 10: 5.0, 22: 5.0}}
    negative = made(values=(-1.0, 1.0, 1.0))
    assert evidence.ratios([ours, negative], "tanh", "complete", "before", "curvature", matched="step",
                           scale="raw") == {0: {}}


def test_the_score_is_a_geometric_mean_and_needs_two_points():
    pair = [made(placement="complete", factors={1.5: 4.0, 1.0: 9.0}), made()]
    found = evidence.score(pair, "tanh", "complete", "before", "second", matched="loss", scale="raw")
    assert found.by_seed == {0: pytest.approx(6.0)} and found.outcome == "not measured"
    short = [made(placement="complete", levels=(1.5,)), made()]
    assert evidence.score(short, "tanh", "complete", "before", "second", matched="loss", scale="raw").by_seed == {}
    slow = [made(loss=0.5, placement="complete", seed=s) for s in SEEDS] + [made(loss=1.0, seed=s) for s in SEEDS]
    found = evidence.score(slow, "tanh", "complete", "before", "loss", matched="step", scale="raw")
    assert found.mean == pytest.approx(0.5) and found.outcome == "smaller"
    assert evidence.verdict(slow, evidence.FASTER, "tanh") == "supported"


@pytest.mark.parametrize(("values", "outcome"), [
    ((0.5, 0.8, 0.99), "smaller"), ((0.5, 0.5, 1.01), "no clear difference"),
    ((0.95, 0.92, 0.97), "no clear difference"), ((2.0, 1.01, 1.5), "larger"),
    ((1.05, 1.01, 1.02), "no clear difference"), ((2.0,), "not measured"),
    ((), "not measured"), ((0.5, 0.5), "smaller"),
])
def test_outcomes_follow_the_protocol(values, outcome):
    assert Score(dict(enumerate(values))).outcome == outcome


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=5))
def test_exchanging_the_placements_exchanges_smaller_and_larger(values):
    there, back = Score(dict(enumerate(values))), Score({i: 1 / v for i, v in enumerate(values)})
    exchanged = {"smaller": "larger", "larger": "smaller"}
    assert back.outcome == exchanged.get(there.outcome, there.outcome)
    assert back.mean == pytest.approx(1 / there.mean)


@pytest.mark.parametrize(("outcomes", "has", "lacks"), [
    (("smaller", "smaller", "smaller"), "supported", "not supported"),
    (("smaller", "smaller", "larger"), "not supported", "supported"),
    (("larger", "not measured", "smaller"), "not supported", "supported"),
    (("smaller", "no clear difference", "smaller"), "mixed", "mixed"),
    (("smaller", "not measured", "smaller"), "not measured", "not measured"),
])
def test_verdicts_follow_the_protocol(outcomes, has, lacks):
    claims = {c.letter: c for c in evidence.CLAIMS}
    assert claims["C"].verdict(outcomes) == has
    assert claims["B"].verdict(outcomes) == lacks


def test_tables_say_the_verdicts_and_mark_changes_of_sign():
    records = [made(f, p, s, values=(0.5, 0.5, 0.5) if p == "complete" else (1.0, 1.0, 1.0))
               for f in ACTIVATIONS for p in ("none", "before", "complete") for s in SEEDS]
    rows = {(row[0], row[1]): row[2:] for row in evidence.verdict_table(records)[1:]}
    assert rows["C", "tanh"] == ["supported"] * 4 and rows["A", "relu"] == ["mixed"] * 4
    assert len(rows) == 1 + 4 + 5 + 5
    mixed = [run for run in records if run.config["activation"] != "relu"] + [
        made("relu", p, s) for p in ("none", "complete") for s in SEEDS]
    claim = next(c for c in evidence.CLAIMS if c.letter == "C")
    assert evidence.sentence(mixed, claim) == (
        "C, CBN elicits all three whatever the activation: supported for sigmoid, tanh, selu, swish; mixed for relu.")
    crossing = [made(placement="complete", seed=s, values=(0.5, 1.0, 1.0), factors={1.5: 8.0}) for s in SEEDS]
    table = evidence.score_table(crossing + [made(seed=s) for s in SEEDS], evidence.CLAIMS[-1], matched="loss",
                                 scale="raw")
    row = next(row for row in table if row[0] == "tanh")
    assert row[1] == "1.41 (1.41 to 1.41), larger*" and row[-1] == "not supported"
    assert evidence.point_table(crossing + [made(seed=s) for s in SEEDS], "tanh", "complete", "before",
                                matched="loss", scale="raw")[1:] == [
        ["1.5", "4.00 (n = 3)", "8.00 (n = 3)", "8.00 (n = 3)"], ["1", "0.50 (n = 3)", "1.00 (n = 3)", "1.00 (n = 3)"]]


def test_what_was_never_reached_is_named():
    found = evidence.never_reached([made(seed=0, levels=(1.5,)), made(seed=1)])
    assert found == ["tanh, before: 1 in 1 of 2 seeds"]


def test_the_best_decrease_is_the_maximum_of_the_descent_lemma_and_has_no_scale():
    curvature, second, squared = 3.0, 0.7, 0.4
    best = evidence.best_decrease(curvature, second, squared)
    bound = max(a * squared - a**2 * curvature * second / 2 for a in [i / 10_000 for i in range(10_000)])
    assert best == pytest.approx(bound, rel=1e-6)
    assert evidence.best_decrease(curvature / 100, second / 100, squared / 100) == pytest.approx(best)
    assert evidence.best_decrease(curvature, second, -0.1) != evidence.best_decrease(curvature, second, -0.1), "nan"
    assert evidence.value(made().curve[0], "decrease", "raw") == pytest.approx(0.125)


def test_recorded_runs_are_the_plans_and_from_a_clean_commit():
    planned = {runs.name(j.settings()) for j in effects.plan()}
    found = runs.load_all(effects.folder())
    assert {runs.name(run.config) for run in found} <= planned
    assert len(effects.records()) == len(found)
    for run in found:
        assert run.status == "finished" and not run.provenance["commit"].endswith("+")
        assert run.curve[0]["step"] == 0 and len([e for e in run.curve if e["scheduled"]]) == len(
            run.config["effects"]["steps"])


def test_missing_records_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "cbn_lab" / "runs.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(runs.RecordError, match="python -m cbn_lab.effects"):
        effects.records()
