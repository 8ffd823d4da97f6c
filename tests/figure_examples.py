"""One picture of each figure function, from stored records and small computations: what the style tests look at.

    python tests/figure_examples.py        writes tests/artifacts/figures.html, a page for looking at all of them
"""

import html
import inspect
import io
import math
import typing
from functools import cache
from pathlib import Path

import matplotlib.image
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cbn_lab import ablation, blocks, data, effects, figures, joins, ladder, models, predictions, runs, speeds, start
from cbn_lab.norms import fold_effect
from cbn_lab.probes import depth, landscape, layers
from cbn_lab.theory import chain
from cbn_lab.theory import meter as meters

ROOT = Path(__file__).resolve().parents[1]
FIVE = ablation.ACTIVATIONS


def figure_functions() -> dict[str, object]:
    """Every public function of `figures` that returns a Figure."""
    found = {name: getattr(figures, name) for name in figures.__all__}
    return {name: function for name, function in found.items() if inspect.isfunction(function)
            and typing.get_type_hints(inspect.unwrap(function)).get("return") is figures.Figure}


@cache
def _small():
    return start.records()


def _of(*placements, activation="sigmoid"):
    return {p: [run for run in _small() if (run.config["placement"], run.config["activation"]) == (p, activation)]
            for p in placements}


@cache
def _structures():
    return [run for run in runs.load_all(ROOT / "results" / "ablation") if run.config["train_images"] == 20_000
            and run.config["decay_norm"] and run.config["lr"] == 0.1]


@cache
def _effects():
    return [run for run in runs.load_all(effects.folder()) if run.config["data"] == "digits"]


def _effect_arms(activation="sigmoid", placements=effects.PLACEMENTS):
    return {p: [run for run in _effects() if (run.config["placement"], run.config["activation"]) == (p, activation)]
            for p in placements}


def _net(name="convnet", placement="complete", activation="tanh", size=8, channels=1, **options):
    torch.manual_seed(0)
    return models.build(name, num_classes=10, in_channels=channels, image_size=size, placement=placement,
                        activation=activation, **options)


def _batch():
    digits = data.load("digits", "train")
    return data.normalize(digits.images[:128], digits), digits.labels[:128]


@cache
def _landscapes():
    return {p: [landscape.probe(_net(placement=p, activation=f), F.cross_entropy, _batch(), statistics="batch",
                                steps=landscape.around(0.1), per_layer=False) for f in ("tanh", "sigmoid")]
            for p in ("before", "complete")}


def _paths(seeds=3, steps=12):
    rng = np.random.default_rng(0)
    return [[(step, float(value)) for step, value in enumerate(np.exp(rng.normal(-step / 9, 0.1)) for step in
                                                               range(steps))] for _ in range(seeds)]


def _variance_errors():
    rng = np.random.default_rng(1)
    return {method: {10.0**e: [float(10 ** (rng.normal(k * e - 7, 0.5))) for _ in range(16)] for e in range(6)}
            for method, k in (("E[x²] - E[x]²", 2), ("two passes", 0.3), ("Welford", 0.5))}


def _calibration():
    rights = [(0.5, True), (0.5, False), (0.7, True), (0.7, True), (0.9, True), (0.9, False), (0.9, True)]
    made = [predictions.judge(predictions.lock(f"{i}", "number", [], 1.0, p), right, 0.0)
            for i, (p, right) in enumerate(rights)]
    return predictions.calibration(made)


def _layers():
    return {p: layers.summary(_net(placement=p), F.cross_entropy, _batch(), statistics="batch")
            for p in ("before", "complete")}


def _folding():
    torch.manual_seed(0)
    net = nn.Sequential(blocks.block(nn.Conv2d(1, 4, 3, padding=1, bias=False), "tanh", "both"),
                        nn.Conv2d(4, 4, 3, padding=1)).double()
    nn.init.normal_(net[0].norm_out.bias)
    images = _batch()[0][:32].double().contiguous()
    net(images)  # sets the running statistics
    return fold_effect.compare(net, images[:1])


def _speeds(device, scale):
    """Made up: no device is this regular."""
    rungs = {rung.title: scale * 1.4**i for i, rung in enumerate(ladder.RUNGS)}
    return speeds.Speeds({"model": "convnet", "batch_size": 128, "precision": "bf16", "log_every": 10},
                         {rung: [0.9 * speed, speed, 1.06 * speed] for rung, speed in rungs.items()},
                         {rung.title: ladder.above(rung).title for rung in ladder.RUNGS[1:]},
                         {"device": device, "threads": 2})


EXAMPLES = {
    "ablation": lambda: figures.ablation(_structures(), ablation.ROWS),
    "along_gradient": lambda: figures.along_gradient(_landscapes(), chosen=3),
    "block_diagram": lambda: figures.block_diagram(blocks.placements(), "tanh", highlight="norm_out"),
    "calibration": lambda: figures.calibration(_calibration()),
    "curve_guess": lambda: figures.curve_guess([2, 4, 6, 8, 10], 0, 100, guess=[30, 50, 60, 80, 90],
                                               result=_of("complete")["complete"], known=_of("before")),
    "difference": lambda: figures.difference([run for run in _small() if run.config["placement"] != "none"]),
    "effect_curves": lambda: figures.effect_curves(_effect_arms(), matched="loss", scale="scale_free"),
    "effect_scores": lambda: figures.effect_scores(_effects(), "none", "before", matched="loss", scale="raw"),
    "effects_by_layer": lambda: figures.effects_by_layer(_effect_arms(placements=("before", "complete")),
                                                         matched="step", at=0, scale="scale_free"),
    "eigenvalues": lambda: figures.eigenvalues({"relu": {"before": np.geomspace(20, 0.01, 64), "complete": np.geomspace(
        3, 0.2, 64)}, "tanh": {"before": np.geomspace(8, 0.1, 64)}}, theory={"relu": np.full(64, 1.0)}),
    "final_accuracy": lambda: figures.final_accuracy(_small()),
    "fold_effect": lambda: figures.fold_effect(_folding()),
    "gradient_growth": lambda: figures.gradient_growth({p: depth.growth(
        "relu", p, statistics="batch", width=20, depth=12, seeds=(0, 1)) for p in ("before", "after")},
        predicted=depth.predicted("relu")),
    "images": lambda: figures.images(data.load("digits", "test"), 10),
    "landscape_over_training": lambda: figures.landscape_over_training(
        {p: {t: found for t in (0, 10, 20)} for p, found in _landscapes().items()}),
    "layer_summary": lambda: figures.layer_summary(_layers()),
    "layer_summary of 30 layers": lambda: figures.layer_summary({"before": layers.summary(
        _net("mlp", "before", width=16, depth=30), F.cross_entropy, _batch(), statistics="batch")}),
    "learning_curves": lambda: figures.learning_curves(_of(*blocks.placements())),
    "model_diagram": lambda: figures.model_diagram(_net("resnet18", size=32, channels=3), (3, 32, 32)),
    "model_diagram of a preactivated net": lambda: figures.model_diagram(
        _net("resnet18", size=32, channels=3, join="preactivated"), highlight="norm_out"),
    "module_diagram": lambda: figures.module_diagram(
        {"first block": _net(placement="both")[0], "residual block": _net("resnet20", "before")[4]}, highlight="norm"),
    "moments": lambda: figures.moments(FIVE),
    "number_guess": lambda: figures.number_guess(0, 20, 2, "gain in points", 9, {0: 5.1, 1: 6.0, 2: 7.2}),
    "operating_point": lambda: figures.operating_point("sigmoid", beta=-1.0, gamma=2.0, width=64, correlation=0.2),
    "placement_grid": lambda: figures.placement_grid(_small()),
    "points": lambda: figures.points({f: [(k + i, k * i + 1) for i in range(3)] for k, f in enumerate(FIVE)},
                                     x="share of the mean", y="gain (points)"),
    "ranking_guess": lambda: figures.ranking_guess(
        ["before", "after", "complete"], ["before", "complete", "after"],
        {p: {run.config["seed"]: 100 * run.final["test_accuracy"] for run in group}
         for p, group in _of("before", "after", "complete").items()}),
    "rescaled_effects": lambda: figures.rescaled_effects(
        {a: {"raw": {"curvature": 4 / a**2, "second": 3 * a**-2.0, "variance": a**-2.1},
             "scale_free": {"curvature": 7.0, "second": 2.0, "variance": 1.5}} for a in (1.0, 3.0, 10.0, 30.0)}),
    "roofline": lambda: figures.roofline(
        {"a small GPU": (6e13, 3e11), "a large GPU": (1e15, 3e12)}, {"norm": 0.6, "narrow conv": 90, "wide conv": 900}),
    "running_paths": lambda: figures.running_paths(
        {m: [5 - 5 * (1 - m) ** k + 0.3 * math.sin(7 * k) for k in range(1, 60)] for m in (0.1, 0.01)}, start=0.0,
        target=5.0),
    "seed_paths": lambda: figures.seed_paths({"train": _paths(), "eval": _paths(4)}, xlabel="step", ylabel="loss"),
    "seed_strip": lambda: figures.seed_strip(
        [run for run in _small() if run.config["activation"] == "sigmoid" and run.config["placement"] != "none"],
        own=[run for run in _of("complete")["complete"] if run.config["seed"] == 1]),
    "shortcut_shares": lambda: figures.shortcut_shares(
        {(f, *arm): runs.Run({}, [{"step": step, "shares": [0.5 - 0.0004 * k * step / (1 + i)] * 9}
                                  for step in (0, 78, 156, 234)], {}, {})
         for i, f in enumerate(("tanh", "relu", "selu")) for k, arm in enumerate(joins.SHORT.arms)}),
    "slack_meter": lambda: figures.slack_meter(chain().evaluate(meters.meter(broken="a kink"))),
    "speed_ladder": lambda: figures.speed_ladder(
        {"a CPU": _speeds("a CPU (CPU)", 700.0), "yours, now": _speeds("a GPU", 2300.0)}),
    "stacked": lambda: figures.stacked([figures.block_diagram("complete"), figures.moments(["relu", "tanh"])]),
    "tension": lambda: figures.tension(FIVE),
    "three_effects": lambda: figures.three_effects(1.0, 0.25, 1.0, 50, meters.effects(
        1.0, 0.25, 1.0, np.geomspace(0.01, 1.9, 21), 50)),
    "traces": lambda: figures.traces({"before": _paths(), "complete": _paths(2)}, x="step", y="loss", log_y=True,
                                     levels={"its own length": 0.7}),
    "variance_errors": lambda: figures.variance_errors(_variance_errors()),
}


@cache
def example(name: str) -> figures.Figure:
    return EXAMPLES[name]()


# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
GREY = [[0.2126, 0.7152, 0.0722]] * 3  # what is left on a black-and-white printer


def linear(srgb):
    srgb = np.asarray(srgb, dtype=float)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def seen(pixels: np.ndarray, matrix) -> np.ndarray:
    """An sRGB picture [H, W, 3] in [0, 1] as it looks through a deficiency or in grey."""
    light = np.clip(linear(pixels) @ np.asarray(matrix).T, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def pixels(figure: figures.Figure, dpi: float = figures.style.DPI) -> np.ndarray:
    """[H, W, 3] in [0, 1], or with opacity as a fourth number."""
    return matplotlib.image.imread(io.BytesIO(figure.png(dpi)), format="png")


def page(path: Path, names=tuple(EXAMPLES)) -> Path:
    """One page with these examples: as they are, at half size, in grey and through each eye; then all on a dark page.

    The eyes are filters of the page, so that it holds each picture twice, not twelve times.
    """
    eyes = {"grey": GREY} | {eye: matrix for eye, matrix in DEFICIENCIES.items() if eye != "none"}
    filters = "".join(f'<filter id="{eye}" color-interpolation-filters="linearRGB"><feColorMatrix values="'
                      + " ".join(" ".join(map(str, row)) + " 0 0" for row in matrix) + ' 0 0 0 1 0"/></filter>'
                      for eye, matrix in eyes.items())
    light, dark = [], []
    for name in names:
        shown = example(name)
        whole = shown.html()
        half = whole.replace("<img ", f'<img width="{shown.fig.get_figwidth() * figures.style.DPI / 2:.0f}" ', 1)
        views = "".join(f'<figure style="filter:url(#{eye})">{half}</figure>' for eye in eyes)
        light.append(f"<h2>{name}</h2>{whole}<div><figure>{half}</figure>{views}</div><p>{html.escape(shown.alt)}"
                     "</p>")
        dark.append(f"<h2>{name}</h2>{whole}")
    style = ("body{font:15px sans-serif;margin:1em}div{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0}"
             "section{background:#111;color:#eee;padding:1em}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><title>All figures</title><style>{style}'
                    f'</style><svg width="0" height="0">{filters}</svg>{"".join(light)}'
                    f'<section>{"".join(dark)}</section></html>', encoding="utf-8")
    return path


if __name__ == "__main__":
    print(page(ROOT / "tests" / "artifacts" / "figures.html"))
