"""The slack meter: what is drawn is what was computed, the first failing line stands out, and the sliders move it."""

import math
import re

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from cbn_lab import theory
from cbn_lab.figures import slack as drawings
from cbn_lab.theory import meter
from cbn_lab.widgets import slack


def _evaluation(**settings):
    return theory.chain().evaluate(meter.meter(**settings))


def _frames(figure):
    (axis,) = figure.fig.axes
    return [patch for patch in axis.patches if isinstance(patch, Rectangle)]


def test_every_line_has_its_name_its_numbers_and_both_curves():
    evaluation = _evaluation(batch=3, steps=12)
    figure = drawings.slack_meter(evaluation)
    (axis,) = figure.fig.axes
    texts = [text.get_text() for text in axis.texts]
    for row in evaluation.rows():
        assert f"{row.line.name} ✓" in texts
        assert f"{row.line.name}: {row.left:.3g} {row.line.relation} {row.right:.3g}, slack {row.slack:z.2g}, holds." \
            in figure.alt
    bands, lefts, rights = axis.collections
    assert len(lefts.get_segments()) == len(rights.get_segments()) == len(bands.get_paths()) == len(evaluation.rows())
    assert lefts.get_linestyle() != rights.get_linestyle()
    assert _frames(figure) == [] and "Every line holds." in figure.alt
    assert axis.get_title() == "✓ every line holds"
    assert "12 steps, expectations closed form" in figure.alt


def test_curves_are_the_sides_in_a_scale_that_keeps_their_order():
    evaluation = _evaluation(steps=15)
    (axis,) = drawings.slack_meter(evaluation).fig.axes
    _, lefts, rights = axis.collections
    stated = [row for row in evaluation.rows() if row.status != "not stated"]
    drawn = [row.line.name for row in stated].index("fixed step, sigma^2")
    place = [row.line.name for row in evaluation.rows()].index("fixed step, sigma^2")
    sides = evaluation.along(stated[drawn].line)
    heights = [place + 0.36 - lines.get_segments()[drawn][:, 1] for lines in (lefts, rights)]
    values = np.array([[side.left for side in sides], [side.right for side in sides]])
    assert np.array_equal(np.argsort(np.ravel(heights)), np.argsort(np.ravel(values)))
    assert np.min(heights) == pytest.approx(0) and np.max(heights) == pytest.approx(0.72)
    assert np.array_equal(lefts.get_segments()[drawn][:, 0], np.arange(1, 16))


def test_the_first_failing_line_is_framed_hatched_and_named_and_others_are_not():
    evaluation = _evaluation(broken="step above 2/L")
    figure = drawings.slack_meter(evaluation)
    (axis,) = figure.fig.axes
    failing = [row.line.name for row in evaluation.rows() if row.status == "fails"]
    assert failing[0] == "absorbing the step" and len(failing) > 1 and len(_frames(figure)) == len(failing)
    hatched = [frame for frame in _frames(figure) if frame.get_hatch()]
    row = [row.line.name for row in evaluation.rows()].index("absorbing the step")
    assert len(hatched) == 1 and hatched[0].get_y() == pytest.approx(row - 0.47)
    bold = [text.get_text() for text in axis.texts if text.get_weight() == "bold"]
    assert bold[0] == "absorbing the step ✗" and "at step 1" in bold[1] and len(bold) == 2
    assert axis.get_title() == "✗ first line that fails: absorbing the step; behind it: step at most 1/L"
    assert "The first line that fails is absorbing the step, at step 1; the assumption behind it: step at most 1/L" \
        in figure.alt


def test_lines_that_hold_although_an_assumption_is_broken_and_silent_ones_have_signs_of_their_own():
    (axis,) = drawings.slack_meter(_evaluation(broken="heavy tail")).fig.axes
    texts = " ".join(text.get_text() for text in axis.texts)
    assert "telescoping ≈" in texts and "bounded variance ✗" in texts and "lower bound ✓" in texts
    (axis,) = drawings.slack_meter(theory.chain().evaluate(theory.run(theory.problems.kink(), 0.2, 1))).fig.axes
    texts = [text.get_text() for text in axis.texts]
    assert "mini-batch –" in texts and "stated for mini-batches" in texts


def test_three_effects_draws_what_was_measured():
    found = meter.effects(2.0, 0.3, 1.5, [0.1, 0.3, 0.6], steps=20)
    figure = drawings.three_effects(2.0, 0.3, 1.5, 20, found)
    (axis,) = figure.fig.axes
    curves = {line.get_label(): line for line in axis.lines}
    assert np.array_equal(curves["measured (exact expectation)"].get_ydata(), found["measured"])
    assert np.array_equal(curves["bound in σ², for steps up to 1/L"].get_xdata(), [0.1, 0.3])  # 0.6 > 1/2
    gap = (2.0 + 0.2) * 1.5**2 / 2
    assert found["bound_sigma2"] == pytest.approx([2 * gap / (20 * a) + a * 2 * 0.3 for a in (0.1, 0.3, 0.6)])
    assert found["bound_G2"] == pytest.approx([gap / (20 * a) + a * G2 for a, G2 in zip((0.1, 0.3, 0.6), found["G2"],
                                                                                      strict=True)])
    assert np.all(found["measured"] <= found["bound_G2"])
    least = re.search(r"smallest at step ([\d.]+), with ([\d.]+\d)", figure.alt)
    best = int(np.argmin(found["measured"]))
    assert float(least[1]) == found["alpha"][best]
    assert float(least[2]) == pytest.approx(found["measured"][best], rel=0.01)


def test_a_smaller_L_or_variance_lowers_the_bound_at_its_best_step():
    def best(L, sigma2):
        alphas = np.geomspace(0.01, 1, 30) / L
        return meter.effects(L, sigma2, 1.0, alphas)["bound_sigma2"].min()

    assert best(1.0, 0.1) < best(1.0, 0.4) < best(2.0, 0.4)


def test_every_slider_of_the_meter_reaches_the_run():
    view = slack.meter()
    assert view.error is None and "Every line holds" in view.caption.value
    assert all(control.description for control in view.controls.values())
    expected = {"claimed L (true: 1)": (0.5, "descent lemma"), "step (in 1/L)": (1.5, "absorbing the step"),
                "tail (12: Gaussian)": (1.5, "bounded variance")}
    for name, (value, line) in expected.items():
        view = slack.meter()
        before = view.image.value
        view.controls[name].value = value
        assert f"first line that fails is {line}" in view.caption.value and view.image.value != before, name
    for name, value in (("noise σ", 1.0), ("mini-batch size", 9)):
        view = slack.meter()
        before = view.caption.value
        view.controls[name].value = value
        assert view.error is None and view.caption.value != before and "Every line holds" in view.caption.value
    view.controls["break"].value = "a kink"
    assert "|w|" in view.caption.value


def test_the_meter_is_the_plain_function_of_its_settings():
    view = slack.meter()
    view.controls["noise σ"].value = 0.8
    assert view.figure().alt == slack.slack_meter(noise=0.8, tail=math.inf).alt
    assert view._repr_mimebundle_()["text/plain"] == view.figure().alt


def test_the_effects_have_sliders():
    view = slack.effects()
    assert list(view.controls) == ["L", "variance σ²", "distance: E‖g‖²"] and view.error is None
    for control, words in (("L", "L = 2"), ("variance σ²", "variance 1 "), ("distance: E‖g‖²", "distance 3")):
        view.controls[control].value = {"L": 2.0, "variance σ²": 1.0, "distance: E‖g‖²": 3.0}[control]
        assert words in view.caption.value
