"""Figures and widget of the spectra: what is drawn and said is what the theory computes."""

import numpy as np
import pytest

from cbn_lab import activations, figures, widgets
from cbn_lab.theory import layer
from cbn_lab.widgets.explorer import DPI

FIVE = ["relu", "sigmoid", "tanh", "selu", "swish"]


def _markers(axis, label):
    return next(line for line in axis.lines if line.get_label() == label)


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_operating_point_draws_the_spectrum_of_the_theory(name, correlation):
    beta, gamma, width = 0.4, 1.3, 50
    figure = figures.operating_point(name, beta=beta, gamma=gamma, width=width, correlation=correlation)
    curve, rows = figure.fig.axes
    m = activations.moments(name, beta, gamma)
    added = float(layer.covariance(name, correlation, beta, gamma)[0])
    moment = np.full((width, width), m.mean**2 + added) + (m.variance - added) * np.eye(width)
    standardized = np.full((width, width), added / m.variance) + (1 - added / m.variance) * np.eye(width)
    for label, matrix in (("f(z): BN before f", moment), ("f(z) standardized", standardized)):
        values = np.linalg.eigvalsh(matrix)
        drawn = _markers(rows, label).get_xdata()
        np.testing.assert_allclose(drawn, (values[-1], values[0], np.trace(matrix) / width), rtol=1e-6)
        assert f"{label}: largest eigenvalue {values[-1]:.3g}" in figure.alt
    assert f"mean {m.mean:z.3f}, variance {m.variance:.3g}" in figure.alt
    (line,) = [line for line in curve.lines if len(line.get_xdata()) > 2]
    np.testing.assert_allclose(line.get_ydata(), activations.evaluate(name, line.get_xdata()))


def test_a_constant_activation_has_no_standardized_spectrum():
    figure = figures.operating_point("relu", beta=-4.0, gamma=0.1)
    assert "standardized" not in figure.alt and figure.png()


def test_numbers_beyond_the_axis_keep_their_value_in_the_label():
    figure = figures.operating_point("relu", beta=-2.0, gamma=0.5)
    rows = figure.fig.axes[1]
    variance = activations.moments("relu", -2.0, 0.5).variance
    assert variance < 1e-3 == _markers(rows, "f(z): BN before f").get_xdata()[1]
    assert f"{variance:.3g}" in [text.get_text() for text in rows.texts]


def test_tension_moves_each_activation_to_one_and_one():
    figure = figures.tension(FIVE, width=30)
    (axis,) = figure.fig.axes
    for name in FIVE:
        m = activations.moments(name)
        x, y = _markers(axis, name).get_data()
        np.testing.assert_allclose((x[0], y[0]), (m.second, 30 * m.mean**2 + m.variance), rtol=1e-9)
        assert f"{name} from {m.second:.3f} and" in figure.alt
    np.testing.assert_allclose([v[0] for v in _markers(axis, "standardized").get_data()], (1.0, 1.0))


def test_eigenvalues_are_drawn_by_rank_with_the_theory_beside_them():
    h = np.random.default_rng(0).standard_normal((200, 20))
    found, theory = layer.measured(np.maximum(h, 0)).eigenvalues, layer.activation_spectrum("relu", 20).eigenvalues
    figure = figures.eigenvalues({"relu": {"measured": found[::-1]}, "tanh": {"measured": found}},
                                 theory={"relu": theory}, title="random")
    one, other = figure.fig.axes
    np.testing.assert_allclose(_markers(one, "measured").get_ydata(), found)
    np.testing.assert_allclose(_markers(one, "theory").get_ydata(), theory)
    assert "theory" not in [line.get_label() for line in other.lines]
    assert f"relu, measured: largest {found[0]:.3g}, median {np.median(found):.3g}" in figure.alt
    assert "random." in figure.alt


def test_eigenvalues_of_rounding_size_are_left_out():
    figure = figures.eigenvalues({"a": {"b": [1.0, 1e-3, 1e-17, 0.0]}})
    assert list(_markers(figure.fig.axes[0], "b").get_ydata()) == [1.0, 1e-3]


def test_points_are_drawn_where_they_are_and_none_is_an_error():
    figure = figures.points({"tanh": [(1.0, 2.0), (3.0, -1.0)], "other": []}, x="share", y="gain", log="x")
    x, y = _markers(figure.fig.axes[0], "tanh").get_data()
    assert (figure.fig.axes[0].get_xscale(), figure.fig.axes[0].get_yscale()) == ("log", "linear")
    assert list(x) == [1.0, 3.0] and list(y) == [2.0, -1.0]
    assert "tanh: x 1 to 3, y -1 to 2 (2 points)" in figure.alt
    with pytest.raises(ValueError, match="no points"):
        figures.points({"a": []}, x="", y="")


def test_explorer_shows_the_plain_figure_of_its_controls():
    explorer = widgets.spectrum_explorer(FIVE)
    assert explorer.figure().alt == figures.operating_point("relu").alt
    for control, value in {"activation": "sigmoid", "β, mean of z": -1.5, "γ, deviation of z": 2.0, "channels N": 100,
                           "correlation of z": 0.25}.items():
        explorer.controls[control].value = value
    expected = figures.operating_point("sigmoid", beta=-1.5, gamma=2.0, width=100, correlation=0.25)
    assert explorer.image.value == expected.png(DPI) and explorer.figure().alt == expected.alt


@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_explorer_draws_at_the_ends_of_all_its_sliders(name):
    explorer = widgets.spectrum_explorer([name])
    for description, control in explorer.controls.items():
        for value in (control.min, control.max) if hasattr(control, "max") else ():
            control.value = value
            assert explorer.error is None, (description, value)


def test_explorer_of_an_unknown_activation():
    with pytest.raises(ValueError, match="unknown activation 'sine'"):
        widgets.spectrum_explorer(["sine"])
