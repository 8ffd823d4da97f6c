"""Exported scripts: run where cbn_lab cannot be imported, they give the losses and the accuracy of `fit`, bit for bit.

Scripts run in a process of their own, several one after the other, since
importing torch takes longer than these trainings.
"""

import ast
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cbn_lab import activations, blocks, data, export, share
from cbn_lab._export_text import wrapped
from cbn_lab.train import fit

PLACEMENTS = ("none", "before", "after", "before_weight", "both", "complete")
ACTIVATIONS = ("sigmoid", "tanh", "relu", "selu", "swish", "gelu", "softplus", "lecun_tanh", "softsign", "identity")
NET = {"widths": [4, 6, 6], "strides": [1, 2, 1]}
SMALL = replace(share.DEFAULT, epochs=2, train_images=150, batch_size=40, model_options=NET)
MLP = replace(SMALL, model="mlp", model_options={"width": 12, "depth": 3})

# Runs each script. What it prints is cut to a few digits, so the losses are taken where the script computes them.
DRIVER = """
import contextlib, io, json, runpy, sys
class Blocked:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "cbn_lab":
            raise ImportError("cbn_lab is blocked")
sys.meta_path.insert(0, Blocked())
import torch.nn.functional as F
cross_entropy, results = F.cross_entropy, []
for path in sys.argv[1:]:
    losses, printed = [], io.StringIO()
    def recorded(*given):
        loss = cross_entropy(*given)
        losses.append(loss.item())
        return loss
    F.cross_entropy = recorded
    with contextlib.redirect_stdout(printed):
        runpy.run_path(path)
    results.append([losses, printed.getvalue()])
assert "cbn_lab" not in sys.modules
print(json.dumps(results))
"""


def _run(texts, folder, modules=None):
    """(loss of each step, what was printed) of each script."""
    paths = []
    for i, text in enumerate(texts):
        paths.append(folder / f"script_{i}.py")
        paths[-1].write_text(text)
    driver = DRIVER if modules is None else f"import sys\nsys.path.insert(0, {str(modules)!r})\n{DRIVER}"
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-I", "-W", "error", "-c", driver, *map(str, paths)], cwd=folder,
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _require_equal(configs, folder, **options):
    results = _run([export.script(config, **options) for config in configs], folder)
    for config, (losses, printed) in zip(configs, results, strict=True):
        run = fit(replace(config, log_every=1, evaluate_every=1), **options)
        assert losses == [entry["loss"] for entry in run.curve], share.encode(config)
        split = "validation" if config.validation_images else "test"
        ends = [entry for entry in run.curve if f"{split}_accuracy" in entry]
        wanted = [f"epoch {i}: last loss {entry['loss']:.6f}, {split} accuracy {entry[f'{split}_accuracy']:.4f}"
                  for i, entry in enumerate(ends, 1)]
        if config.validation_images:
            wanted.append(f"test accuracy {run.final['test_accuracy']:.4f}")
        assert printed.splitlines() == wanted


def test_placements(tmp_path):
    _require_equal([replace(net, placement=p) for net in (SMALL, MLP) for p in PLACEMENTS], tmp_path)


def test_activations(tmp_path):
    assert set(ACTIVATIONS) <= set(activations.names())
    _require_equal([replace(MLP, activation=name, lr=0.03) for name in ACTIVATIONS], tmp_path)


STRUCTURES = [
    {"pre_shift": False}, {"post_shift": False}, {"gamma": None}, {"gamma": "before"}, {"gamma": "both"},
    {"gamma": None, "pre_shift": False, "post_shift": False}, {"standardize": "before"},
    {"standardize": "before", "gamma": "before", "post_shift": False, "shift_lr_multiplier": 1.0},
    {"standardize": "before", "gamma": None, "post_shift": False}, {"standardize": "both", "gamma": "both"},
    {"center": False}, {"scale": False}, {"center": False, "standardize": "both", "gamma": None}, {"sync": True},
    {"scale": False, "post_shift": False, "momentum": 0.3}, {"shift_lr_multiplier": 2.0},
    {"center": False, "eps": 0.01}, {"eps": 1e-3, "momentum": 0.3}, {"track_running_stats": False}, {"momentum": None},
]


def test_structures_of_the_complete_layer(tmp_path):
    _require_equal([replace(net, norm_options=options, activation="tanh") for net, step in ((SMALL, 1), (MLP, 3))
                    for options in STRUCTURES[::step]], tmp_path)


def test_structures_in_bf16(tmp_path):
    """Own classes take statistics in float32, and round a gamma or shift that stands alone."""
    structures = [{"center": False}, {"standardize": "before", "scale": False}, {"gamma": "before", "eps": 1e-3}]
    _require_equal([replace(net, norm_options=options, activation="softplus", precision="bf16", seed=1)
                    for options in structures for net in (SMALL, MLP)], tmp_path)


def test_settings_of_the_training(tmp_path):
    changes = [{"decay_norm": False}, {"weight_decay": 0.0}, {"momentum": 0.0}, {"crop_padding": 0},
               {"crop_padding": 2}, {"flip": True}, {"flip": True, "crop_padding": 0}, {"batch_size": 1000},
               {"batch_size": 60}, {"seed": 2**40}, {"train_images": None},
               {"validation_images": 200}, {"train_images": None, "validation_images": 415},
               {"precision": "bf16"}, {"precision": "fp16"}, {"schedule": "steps"}, {"lr": 1},
               {"evaluate_every": 0, "log_every": 3},
               {"placement": "before", "norm_options": {"eps": 1e-3, "affine": False, "momentum": 0.5}}]
    _require_equal([*(replace(SMALL, **change) for change in changes), replace(MLP, precision="bf16"),
                    replace(MLP, decay_norm=False, placement="before")], tmp_path)


def test_one_activation_and_placement_per_layer(tmp_path):
    deep = {"width": 8, "depth": 12}
    _require_equal([
        replace(SMALL, activation=("sigmoid", "tanh", "tanh")),
        replace(SMALL, placement=("complete", "before", "complete"), activation=("relu", "gelu", "relu")),
        replace(SMALL, placement=("none", "complete", "before_weight")),
        replace(MLP, placement=("before", "before", "before_weight")),
        replace(MLP, model_options=deep, placement=["before", "complete"] * 6, activation=["tanh"] * 6 + ["relu"] * 6),
        replace(MLP, model_options=deep, placement=("none",) * 4 + ("complete",) * 3 + ("both",) * 5),
    ], tmp_path)


def test_residual_nets(tmp_path):
    config = replace(SMALL, model="resnet20", model_options={}, train_images=45, batch_size=20)
    pairs = zip(PLACEMENTS, ACTIVATIONS, strict=False)
    _require_equal([*(replace(config, placement=placement, activation=name) for placement, name in pairs),
                    *(replace(config, norm_options=options, activation="swish") for options in (
                        {"standardize": "both", "gamma": "both"}, {"pre_shift": False}, {"shift_lr_multiplier": 1.0},
                        {"center": False})),
                    replace(config, model="resnet56", placement="both", epochs=1),
                    replace(config, model="resnet18", precision="bf16"),
                    replace(config, model="resnet18", placement="before_weight", epochs=1)], tmp_path)


@pytest.mark.parametrize("join", ["normalized", "preactivated"])
def test_joins_of_residual_nets(tmp_path, join):
    """Each placement and each activation; placement none has no norm for the join normalized."""
    config = replace(SMALL, model="resnet20", train_images=25, batch_size=12, epochs=1, model_options={"join": join})
    places = [place for place in PLACEMENTS if (place, join) != ("none", "normalized")]
    _require_equal([*(replace(config, placement=places[i % len(places)], activation=name)
                      for i, name in enumerate(ACTIVATIONS)),
                    *(replace(config, activation="tanh", norm_options=options) for options in (
                        {"standardize": "both", "gamma": "both"}, {"pre_shift": False}, {"shift_lr_multiplier": 1.0},
                        {"center": False, "eps": 1e-3})),
                    replace(config, placement="after", norm_options={"affine": False, "momentum": 0.5}),
                    replace(config, precision="bf16", placement=["complete"] * 19)], tmp_path)


def test_sizes_of_residual_nets(tmp_path):
    """Stages of other widths, more or fewer of them, of other depth, and shortcuts of the other kind; in each join."""
    config = replace(SMALL, model="resnet18", train_images=25, batch_size=12, epochs=1, activation="tanh")
    sizes = ({"widths": [4, 8]}, {"widths": [6, 8, 8], "projection": False}, {"widths": [4, 6], "blocks_per_stage": 1},
             {"widths": [8, 4], "projection": False, "blocks_per_stage": 3})
    _require_equal([replace(config, model_options=size | {"join": join}, placement=placement)
                    for join in ("activated", "normalized", "preactivated") for size, placement in zip(
                        sizes, ("complete", "before", "before_weight", "complete"), strict=True)], tmp_path)


def _config(net, layers, options, **rest):
    names, places = zip(*layers, strict=True)
    return replace(net, activation=names, placement=places, norm_options={} if set(places) == {"none"} else options,
                   **rest)


CONFIGS = st.builds(
    _config, st.sampled_from([SMALL, MLP]),
    st.lists(st.tuples(st.sampled_from(ACTIVATIONS), st.sampled_from(PLACEMENTS)), min_size=3, max_size=3),
    st.fixed_dictionaries({}, optional={"eps": st.sampled_from([1e-3, 0.1]), "momentum": st.sampled_from([0.01, 0.5])}),
    seed=st.integers(0, 10**6), lr=st.sampled_from([0.01, 0.1]), decay_norm=st.booleans(), flip=st.booleans(),
    crop_padding=st.integers(0, 2))


@settings(max_examples=1, deadline=None)
@given(st.lists(CONFIGS, min_size=12, max_size=12))
def test_any_settings(tmp_path_factory, configs):
    _require_equal(configs, tmp_path_factory.mktemp("scripts"))


TRAINING, TESTS = 400, 60  # images


def _arrays(classes, seed=0):
    """A small data set in the layout of CIFAR."""
    generator = np.random.default_rng(seed)
    return {name: generator.integers(0, high, (n, *shape), dtype=kind)
            for split, n in (("train", TRAINING), ("test", TESTS))
            for name, high, shape, kind in ((f"x_{split}", 256, (32, 32, 3), np.uint8),
                                            (f"y_{split}", classes, (), np.int32))}


TORCHVISION = """
import numpy as np
class CIFAR10:
    def __init__(self, root, train, download):
        split = "train" if train else "test"
        with np.load("data/cifar10.npz") as arrays:
            self.data, self.targets = arrays[f"x_{split}"], arrays[f"y_{split}"].tolist()
"""


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A folder with data/cifar10.npz of noise, and a torchvision that reads it."""
    folder = tmp_path_factory.mktemp("cifar")
    (folder / "data").mkdir()
    np.savez(folder / "data" / "cifar10.npz", **_arrays(10), class_names=np.array(list("abcdefghij")))
    (folder / "stub" / "torchvision").mkdir(parents=True)
    (folder / "stub" / "torchvision" / "__init__.py").touch()
    (folder / "stub" / "torchvision" / "datasets.py").write_text(TORCHVISION)
    return folder


def test_cifar(cifar, monkeypatch):
    """From the file that `data.load` reads, and from torchvision where there is no such file. The images are noise, and
    few: their number and statistics are put in (those of CIFAR are tested below)."""
    root = cifar / "data"
    train = data.load("cifar10", "train", root=root)
    mean, std = np.array(train.mean), np.array(train.std)
    numbers = [", ".join(map(str, values.astype(np.float32))) for values in (1 / (255 * std), -mean / std)]
    monkeypatch.setitem(export._STATISTICS, "cifar10", tuple(numbers))
    monkeypatch.setitem(export._SETS, "cifar10", (*export._SETS["cifar10"][:-2], TRAINING, TESTS))
    config = replace(SMALL, data="cifar10", train_images=200, validation_images=150)
    _require_equal([config, replace(config, placement="before", crop_padding=0, flip=False, precision="bf16"),
                    replace(config, model="mlp", model_options={"width": 8, "depth": 2}),
                    replace(config, model="vgg16", model_options={}, train_images=20, validation_images=0, epochs=1,
                            batch_size=10, placement=("complete",) * 7 + ("before",) * 6)], cifar, root=root)
    expected = _run([export.script(config, root=root)], cifar)
    monkeypatch.setattr(export, "_from_npz", lambda config, root: False)
    text = export.script(config)
    assert "from torchvision.datasets import CIFAR10" in text and "npz" not in text
    assert _run([text], cifar, modules=cifar / "stub") == expected


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_statistics_of_cifar_are_those_of_the_data(name):
    if data.available()[name].startswith("missing"):
        pytest.skip(f"{name} is not here")
    train = data.load(name, "train")
    scale, shift = (torch.tensor(ast.literal_eval(f"[{text}]")) for text in export._STATISTICS[name])
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (train.mean, train.std))
    assert torch.equal(scale, (1 / (255 * std)).float())
    assert torch.equal(shift, (-mean / std).float())


def _lines(text):
    """Imports and comments included; blank lines are not counted."""
    return len([line for line in text.splitlines() if line])


def test_scripts_are_short_and_say_what_they_are():
    convnet, mlp = share.DEFAULT, replace(share.DEFAULT, model="mlp")
    for start, placements, longest in ((convnet, ("complete",), 26), (convnet, PLACEMENTS[:-1], 25),
                                       (mlp, PLACEMENTS, 25)):
        for placement in placements:
            config = replace(start, placement=placement, activation="softplus")
            text = export.script(config)
            assert _lines(text) <= longest and max(map(len, text.splitlines())) <= 120
            assert ";" not in text and "cbn_lab" not in text
            first = text.splitlines()[0]
            assert share.decode(first.partition("state: ")[2]) == config
            assert ("reconstruction" in first) == (placement == "complete")
    assert "reconstruction" in export.script(replace(SMALL, placement=("none", "none", "complete"))).splitlines()[0]


@pytest.mark.parametrize("model, longest", [("mlp", 31), ("convnet", 32), ("vgg16", 35), ("resnet20", 47),
                                            ("resnet56", 47), ("resnet18", 47)])
def test_scripts_for_cifar_are_short(model, longest, cifar):
    joins = [{"join": join} for join in ("activated", "normalized", "preactivated") if model.startswith("resnet")]
    for placement, options in itertools.product(PLACEMENTS, joins or [{}]):
        if placement == "none" and options == {"join": "normalized"}:
            continue  # no network
        text = export.script(replace(share.DEFAULT, data="cifar10", model=model, placement=placement,
                                     model_options=options), root=cifar / "data")
        assert _lines(text) <= longest + 3 * (options.get("join", "activated") != "activated")
        assert max(map(len, text.splitlines())) <= 120


def test_a_long_state_is_wrapped_and_can_still_be_read():
    config = replace(MLP, model_options={"width": 8, "depth": 30}, activation=("relu", "tanh") * 15, lr=0.012345,
                     norm_options={"pre_shift": False, "post_shift": False, "gamma": "both", "standardize": "both",
                                   "shift_lr_multiplier": 0.123456789, "eps": 1.5e-05, "momentum": 0.123456789})
    assert max(map(len, export.script(config).splitlines())) <= 120
    comments = [line for line in export.script(config).splitlines() if line.startswith("# ")]
    assert len(comments) > 2
    state = " ".join(line.removeprefix("# ").removesuffix(export.GOES_ON) for line in comments).partition("state: ")[2]
    assert share.decode(state) == config


@pytest.mark.parametrize("change, message", [
    ({"data": "imagefolder:somewhere"}, "can load digits, cifar10, cifar100, not 'imagefolder:somewhere'"),
    ({"model": "resnet9", "model_options": {}}, "convnet, vgg16, resnet20, resnet56, resnet18, not for 'resnet9'"),
    ({"model": "resnet20", "model_options": {}, "norm_options": {"gamma": None}}, "no CBN layer in which a gamma"),
    ({"model": "resnet20", "model_options": {"join": "normalized"}, "placement": "none"}, "has no norm; use join"),
    ({"model": "resnet20", "model_options": {"join": "outside"}}, "unknown join 'outside'; known: activated"),
    ({"model": "resnet20", "model_options": {}, "activation": ["relu"] * 18 + ["tanh"]}, "one activation and one"),
    ({"placement": "before", "norm_options": {"norm": "batch_norm_written_out"}}, "export with norm 'batch_norm'"),
    ({"placement": "before", "norm_options": {"device": "cpu"}}, "leave the others out"),
    ({"norm_options": {"center": False, "momentum": None}}, "leave momentum and track_running_stats"),
    ({"activation": "sine"}, "unknown activation 'sine'"),
    ({"activation": ("relu", "tanh")}, "activation lists 2 names"),
    ({"train_images": 1500}, "do not fit into the 1415"),
    ({"train_images": 1}, "do not fit"),
    ({"image_size": 8}, "without an image_size"),
])
def test_what_has_no_script_is_refused_with_what_to_do(change, message):
    with pytest.raises(ValueError, match=message):
        export.script(replace(SMALL, **change))


def test_own_classes_are_refused(monkeypatch):
    monkeypatch.setattr(activations, "_REGISTRY", dict(activations._REGISTRY))
    monkeypatch.setattr(blocks, "_REGISTRY", dict(blocks._REGISTRY))
    activations.register("mine", torch.nn.Tanh)
    blocks.register("my_place", lambda weight, f, options: blocks.Parts(weight, activations.module(f)), bias=True)
    with pytest.raises(ValueError, match="activation 'mine' is your own; export with one of sigmoid"):
        export.script(replace(SMALL, activation="mine"))
    with pytest.raises(ValueError, match="placement 'my_place' is your own; export with one of none"):
        export.script(replace(SMALL, placement="my_place"))


@given(st.lists(st.sampled_from(["aa, ", "(", "[", ")", "]", "bcd", " for x, y in zip(u, v)"]), max_size=40))
def test_wrapping_changes_nothing_but_white_space(pieces):
    line, depth = "result = f(", 1
    for piece in pieces:
        depth += (piece in "([") - (piece in ")]")
        line += piece if depth else ""
        if not depth:
            break
    lines = wrapped(line, 30)
    assert "".join("".join(lines).split()) == "".join(line.split())
    assert all(part.strip() for part in lines)
