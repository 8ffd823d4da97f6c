"""Figures: the numbers in the artists and in the sentences are those of the data. (Looks: test_figure_style.py.)"""

import base64
import html
import itertools
import re
import subprocess
import sys
from statistics import fmean

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from cbn_lab import ablation, activations, blocks, data, figures, runs

FIVE = ablation.ACTIVATIONS


def _run(placement="before", activation="sigmoid", seed=0, epochs=4, options=None, finished=True, **settings):
    """A made-up run whose numbers are different for every setting."""
    rng = np.random.default_rng([blocks.placements().index(placement), FIVE.index(activation), seed])
    config = {"data": "digits", "model": "convnet", "activation": activation, "placement": placement,
              "norm_options": options or {}, "epochs": epochs, "batch_size": 128, "lr": 0.1, "seed": seed,
              "device": "cpu"} | settings
    curve = [{"step": 5 * i, "epoch": i / 2, "loss": float(rng.uniform(0, 2))} for i in range(1, 2 * epochs + 1)]
    for entry in curve[1::2]:
        entry |= {"test_loss": 1.0, "test_accuracy": float(rng.uniform(0.1, 0.9))}
    final = {"train_loss": 0.5, "test_accuracy": curve[-1]["test_accuracy"],
             "validation_accuracy": float(rng.uniform(0.1, 0.9))}
    return runs.Run(config, curve, final if finished else {}, {}, "finished" if finished else "diverged")


def _grid(placements=("before", "after", "complete"), names=FIVE, seeds=(0, 1, 2)):
    return [_run(p, f, s) for p, f, s in itertools.product(placements, names, seeds)]


def _lines(axis, label):
    return [line for line in axis.lines if line.get_label() == label]


def test_a_figure_shows_an_image_with_its_sentence_and_no_bare_png():
    figure = figures.moments(["relu"])
    bundle = figure._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/plain"] == figure.alt
    alt, data = re.fullmatch(r'<img alt="([^"]*)" style="[^"]*" src="data:image/png;base64,([^"]*)">',
                             bundle["text/html"]).groups()
    assert html.unescape(alt) == figure.alt
    assert base64.b64decode(data).startswith(b"\x89PNG")


PARTS = [({"train_images": 10_000, "model_options": {"widths": [16, 32, 128]}, "weight_decay": 5e-4},
          "digits, convnet, 4 epochs of 10,000 images, 3 layers of 16 to 128 channels, learning rate 0.1, weight decay "
          "0.0005"),
         ({"model": "mlp", "model_options": {"width": 32, "depth": 4}, "lr": "tuned", "weight_decay": "tuned"},
          "digits, mlp, 4 epochs, width 32, depth 4, learning rate and weight decay tuned"),
         ({"train_images": None, "model_options": {}}, "digits, convnet, 4 epochs, learning rate 0.1")]


@pytest.mark.parametrize("settings, said", PARTS)
def test_grid_and_strip_say_in_words_which_part_of_the_evidence_they_show(settings, said):
    runs = [_run(place, name, **settings) for place in ("before", "after") for name in ("tanh", "relu")]
    grid = figures.placement_grid(runs)
    strip = figures.seed_strip([run for run in runs if run.config["activation"] == "tanh"])
    assert f"after the last epoch (%), {said}. tanh: before" in grid.alt
    assert f"Runs: {said}. Darker" in grid.fig.axes[0].get_xlabel().replace("\n", " ")
    assert f"one dot a seed, {said.replace(', 4', ', tanh, 4')}. before" in strip.alt
    assert strip.fig.axes[0].get_title().startswith("tanh, ")


@pytest.mark.parametrize("columns", range(1, 7))
def test_the_words_below_a_grid_are_not_cut_off(columns):
    settings = {"train_images": 10_000, "weight_decay": 5e-4, "model_options": {"widths": [16, 32, 128]}}
    grid = figures.placement_grid([_run(place, **settings) for place in blocks.placements()[:columns]])
    grid.pixels()  # lays it out
    words = grid.fig.axes[0].xaxis.label.get_window_extent()
    assert 0 <= words.x0 and words.x1 <= grid.fig.bbox.width and 0 <= words.y0


def test_a_strip_shows_an_arm_of_which_no_run_finished():
    lost = [_run("none", seed=seed, finished=False) for seed in range(2)]
    strip = figures.seed_strip([*lost, _run(), _run(seed=1, finished=False)])
    assert [label.get_text() for label in strip.fig.axes[0].get_yticklabels()] == ["none\n2 unfinished",
                                                                                 "before\n1 unfinished"]
    assert "none no value, 2 did not finish; before " in strip.alt and strip.alt.endswith(", 1 did not finish.")
    with pytest.raises(ValueError, match="one activation, got sigmoid, relu"):
        figures.seed_strip([_run(), _run(activation="relu", finished=False)])


def test_figures_are_opaque_white_and_in_one_style_whatever_the_reader_has_set(tmp_path):
    plain = figures.learning_curves(_grid()[:3]).png()
    with matplotlib.rc_context({"savefig.transparent": True, "text.color": "white", "font.size": 5,
                                "axes.facecolor": "black", "savefig.facecolor": "none"}):
        dark = figures.learning_curves(_grid()[:3]).png()
        assert matplotlib.rcParams["font.size"] == 5
    assert plain == dark
    (tmp_path / "a.png").write_bytes(plain)
    corner = matplotlib.image.imread(tmp_path / "a.png")[0, 0]
    assert corner[:3].tolist() == [1, 1, 1] and (len(corner) == 3 or corner[3] == 1)


def test_figures_do_not_use_pyplot():
    code = ("import sys\nfrom cbn_lab import figures\nfigures.moments(['relu']).png()\n"
            "assert 'matplotlib.pyplot' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_learning_curves_draw_each_seed_and_the_mean():
    group = [_run("before", seed=s) for s in range(3)] + [_run("complete", seed=s) for s in range(3)]
    figure = figures.learning_curves(group)
    left, right = figure.fig.axes
    assert left.get_xlabel() == right.get_xlabel() == "epoch"
    assert "nats" in left.get_ylabel() and right.get_ylabel() == "test accuracy (%)"
    assert len(_lines(left, "_seed")) == len(_lines(right, "_seed")) == 6
    for placement in ("before", "complete"):
        own = [run for run in group if run.config["placement"] == placement]
        (line,) = _lines(left, placement)
        assert np.allclose(line.get_ydata(), np.mean([[e["loss"] for e in run.curve] for run in own], axis=0))
        (line,) = _lines(right, placement)
        finals = [100 * run.final["test_accuracy"] for run in own]
        assert np.isclose(line.get_ydata()[-1], fmean(finals)) and line.get_xdata()[-1] == 4
        said = f"{fmean(finals):.1f} % ({min(finals):.1f} to {max(finals):.1f}, 3 seeds) at epoch 4"
        assert said in figure.alt and f"{placement}: from loss" in figure.alt


def test_an_unfinished_run_is_drawn_as_far_as_it_got():
    short = runs.Run(_run(seed=1).config, _run(seed=1).curve[:3], {}, {}, "interrupted")
    begun = runs.Run(_run("after").config, [], {}, {}, "interrupted")
    figure = figures.learning_curves([_run(seed=0), short, begun])
    (mean,) = _lines(figure.fig.axes[0], "before")
    assert mean.get_xdata().tolist() == [0.5, 1.0, 1.5]
    assert figure.fig.axes[0].get_xlim() == pytest.approx((0, 4.12))
    assert "after: not begun" in figure.alt
    assert figure.png()


def test_labels_of_arms_name_what_differs():
    assert list(figures.arms([_run("before"), _run("complete")])) == ["before", "complete"]
    assert list(figures.arms([_run(activation="tanh"), _run(activation="relu")])) == ["tanh", "relu"]
    assert list(figures.arms([_run("before", "tanh"), _run("after")])) == ["tanh, before", "sigmoid, after"]


@pytest.mark.parametrize("draw", [figures.learning_curves, figures.final_accuracy])
def test_runs_of_two_settings_are_refused(draw):
    with pytest.raises(ValueError, match="differ in epochs, lr as well"):
        draw([_run(), _run("after", lr=0.3, epochs=2)])


def test_an_arm_of_two_settings_and_an_empty_one_are_refused():
    with pytest.raises(ValueError, match="the arm 'a' differ in lr"):
        figures.learning_curves({"a": [_run(), _run(seed=1, lr=1.0)]})
    with pytest.raises(ValueError, match="no runs to draw"):
        figures.learning_curves([])
    with pytest.raises(ValueError, match="no runs to draw"):
        figures.learning_curves({"a": [_run()], "b": []})


def test_final_accuracy_draws_every_seed():
    grid = _grid()
    figure = figures.final_accuracy(grid)
    (axis,) = figure.fig.axes
    drawn = sorted(x for line in axis.lines for x in line.get_xdata() if line.get_label() in FIVE)
    assert np.allclose(drawn, sorted(100 * run.final["test_accuracy"] for run in grid))
    assert [text.get_text() for text in axis.get_yticklabels()] == ["before", "after", "complete"]
    for i, placement in enumerate(("before", "after", "complete")):
        line = _lines(axis, "tanh")[i]
        own = [100 * r.final["test_accuracy"] for r in grid
               if (r.config["placement"], r.config["activation"]) == (placement, "tanh")]
        assert np.allclose(line.get_xdata(), own) and np.all(np.round(line.get_ydata()) == i)
        assert f"tanh {fmean(own):.1f} ({min(own):.1f} to {max(own):.1f}, 3 seeds)" in figure.alt


def test_what_did_not_finish_is_said():
    figure = figures.final_accuracy([_run(), _run("after", finished=False)])
    assert "did not finish: 1 of 2 runs" in figure.alt
    with pytest.raises(ValueError, match="none of the 1 runs has a final test_accuracy"):
        figures.final_accuracy([_run(finished=False)])


def test_a_run_counted_twice_is_refused():
    with pytest.raises(ValueError, match="two runs share row 'before', activation 'sigmoid' and seed 0"):
        figures.final_accuracy([_run(), _run()])


def test_differences_are_paired_by_seed():
    grid = [run for run in _grid() if (run.config["placement"], run.config["seed"]) != ("before", 1)]
    figure = figures.difference(grid)
    (axis,) = figure.fig.axes

    def accuracy(placement, seed):
        return 100 * _run(placement, "selu", seed).final["test_accuracy"]

    gains = [accuracy("complete", seed) - accuracy("before", seed) for seed in (0, 2)]
    assert np.allclose(_lines(axis, "selu")[1].get_xdata(), gains)
    better = sum(gain > 0 for gain in gains)
    assert f"selu {fmean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f}, 2 seeds), better in {better} of 2 " \
           in figure.alt.split("complete:")[1]
    with pytest.raises(ValueError, match="baseline 'both'; there are: before, after, complete"):
        figures.difference(grid, baseline="both")


def test_ablation_has_a_panel_per_activation_and_a_row_per_structure():
    rows = {key: ablation.ROWS[key] for key in ("vanilla", "swapped", "gamma_9x", "shifts_9x")}
    records = [_run(row.placement, f, s, options=row.options) for row in rows.values()
               for f in ("sigmoid", "tanh") for s in (0, 1)]
    other = _run("complete", "sigmoid", 0, options=ablation.ROWS["gamma_25x"].options)
    figure = figures.ablation([*records, other], rows)
    sigmoid, tanh = figure.fig.axes
    assert (sigmoid.get_title(), tanh.get_title()) == ("sigmoid", "tanh")
    assert [text.get_text() for text in sigmoid.get_yticklabels()] == [row.label for row in rows.values()]
    values = [100 * _run("after", "tanh", s).final["validation_accuracy"] for s in (0, 1)]
    (dots,) = (line for line in tanh.lines if line.get_linestyle() == "None")
    assert np.allclose([x for x, row in dots.get_xydata() if row == 1], values) and len(dots.get_xydata()) == 8
    (means,) = (lines for lines in tanh.collections if lines.get_label() != "_row")
    assert np.allclose(means.get_segments()[1], [(fmean(values), 0.64), (fmean(values), 1.36)])
    vanilla = fmean(100 * _run("before", "tanh", s).final["validation_accuracy"] for s in (0, 1))
    assert f"vanilla BN {vanilla:.1f}" in figure.alt.split("tanh:")[1]
    assert ablation.ROWS["gamma_25x"].label not in figure.alt


def test_images_are_those_of_the_data_set():
    digits = data.load("digits", "test")
    figure = figures.images(digits, 3)
    names = [digits.class_names[i] for i in digits.labels[:3]]
    assert [axis.get_title() for axis in figure.fig.axes] == names
    assert np.array_equal(figure.fig.axes[2].images[0].get_array(), digits.images[2, :, :, 0].numpy())
    assert f"3 of {len(digits)} images of 8 x 8 pixels, of the classes {', '.join(names)}." in figure.alt


def test_moments_bars_are_the_quadrature():
    figure = figures.moments(FIVE)
    (axis,) = figure.fig.axes
    squares, variances = axis.containers
    for name, square, variance in zip(FIVE, squares, variances, strict=True):
        m = activations.moments(name)
        assert np.isclose(square.get_width(), m.mean**2) and np.isclose(variance.get_width(), m.variance)
        assert f"{name} {m.mean:z.3f}, {m.variance:.3f}, {m.second:.3f}" in figure.alt
    assert "0.000" in figure.alt and "-0.000" not in figure.alt


def test_a_readers_own_activation_and_placement_get_marks_of_their_own():
    names, placements = activations.names(), blocks.placements()
    for registry in (names, placements):
        marks = [figures.mark(name, registry) for name in registry[:7]]
        assert len({m.colour for m in marks}) == len({m.marker for m in marks}) == len(marks)
        assert len({str(m.line) for m in marks}) == len(marks)
        assert figures.mark("own", [*registry, "own"]) in figures.MARKS
