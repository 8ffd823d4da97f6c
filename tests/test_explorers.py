"""What all explorers have in common, on the block that they are made of and on each of them."""

import asyncio
import threading
from dataclasses import replace

import clock
import ipywidgets
import matplotlib
import pytest
from test_effects_views import GRID
from test_landscape_view import _records

from cbn_lab import ablation, figures, widgets
from cbn_lab.runs import Run
from cbn_lab.speeds import Speeds
from cbn_lab.widgets.display import VIEW, Shown
from cbn_lab.widgets.explorer import DPI, Explorer

SPEEDS = {name: Speeds({"model": "convnet", "batch_size": 128, "precision": "bf16", "log_every": 10},
                       {"slow": [speed, 2 * speed], "middle": [2 * speed] * 2, "fast": [6 * speed] * 2},
                       {"middle": "slow", "fast": "middle"}, {"device": f"{name} (CPU)", "threads": 2})
          for name, speed in (("old", 100.0), ("new", 200.0))}
CORE = {"VBox", "HBox", "HTML", "Image", "Label", "Dropdown", "Checkbox", "FloatSlider", "IntSlider", "FloatLogSlider",
        "SelectionSlider"}  # the same in ipywidgets 7.7 and 8
ALL = {
    "slack meter": widgets.slack.meter,
    "three effects": widgets.slack.effects,
    "spectra": lambda: widgets.spectrum_explorer(["tanh", "relu"]),
    "landscape": lambda: widgets.landscape_explorer(_records()),
    "dashboard": lambda: widgets.dashboard(GRID),
    "ablation": lambda: widgets.ablation_explorer(_ablation_runs()),
    "fold": widgets.fold_explorer,
    "speed": lambda: widgets.speed_explorer(SPEEDS),
}


def _bars(heights=(), word="bar"):
    if not heights:
        raise ValueError("no\n<bars>")
    fig, (axis,) = figures.style.axes(size=(2, 1))
    axis.bar(range(len(heights)), heights)
    return figures.Figure(fig, f"{word} {heights}")


def _small(draw=_bars, **options):
    """An explorer of one slider, one menu and a group of two boxes."""
    controls = [ipywidgets.IntSlider(description="height", value=2, max=20),
                ipywidgets.Dropdown(description="word", options=["bar", "beam"]),
                [ipywidgets.Label("draw:"), *(ipywidgets.Checkbox(description=name, value=True) for name in "ab")]]
    return Explorer(draw, controls, lambda of: {
        "heights": [of["height"].value for name in "ab" if of[name].value], "word": of["word"].value}, **options)


def _all(view):
    yield view
    for child in getattr(view, "children", ()):
        yield from _all(child)


def test_every_control_moves_the_picture_and_its_words():
    view = _small()
    assert list(view.controls) == ["height", "word", "a", "b"]
    for description, value in {"height": 5, "word": "beam", "a": False}.items():
        before = view.image.value, view.caption.value
        view.controls[description].value = value
        assert view.caption.value != before[1], description
        assert view.image.value != before[0] or description == "word"
    assert view.values == {"heights": [5], "word": "beam"}
    assert view.caption.value == "<p>beam [5]</p>" and view.image.value == _bars([5], "beam").png(DPI)


def test_an_error_is_one_line_and_kept_and_goes_away():
    view = _small()
    view.controls["a"].value = False
    picture = view.image.value
    view.controls["b"].value = False
    assert isinstance(view.error, ValueError) and ">ValueError: no &lt;bars&gt;</span>" in view.trouble.value
    assert 'role="alert"' in view.trouble.value and view.image.value == picture
    view.controls["a"].value = True
    assert view.error is None and view.trouble.value == ""


def test_the_words_can_be_shown_and_stay_shown():
    view = _small()
    assert view.caption.layout.display == "none" and view.words.description == "the picture in words"
    view.words.value = True
    view.controls["height"].value = 7
    assert view.caption.layout.display is None
    assert _small(words=True).caption.layout.display is None


def test_a_headline_is_shown_only_where_the_picture_has_one():
    assert _small().headline.layout.display == "none"
    view = _small(lambda **values: replace(_bars(**values), headline=f"<{values['word']}>"))
    view.controls["word"].value = "beam"
    assert view.headline.value == "<p>&lt;beam&gt;</p>" and view.headline.layout.display is None
    assert view.caption.layout.display == "none"


def test_changes_that_follow_each_other_lead_to_one_redraw():
    drawn = []

    async def drag():
        view = _small(lambda **values: drawn.append(values) or _bars(**values))
        drawn.clear()
        for step in range(10):
            view.controls["height"].value = step
            view.controls["a"].value = not view.controls["a"].value
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.4)
        return view

    view = clock.run(drag())
    assert drawn == [{"heights": [9, 9], "word": "bar"}] and view.caption.value == "<p>bar [9, 9]</p>"


def test_what_breaks_a_redraw_on_the_loop_is_shown_too():
    async def untick():
        view = _small()
        view.controls["a"].value = view.controls["b"].value = False
        await asyncio.sleep(0.4)
        return view

    assert "no &lt;bars&gt;" in clock.run(untick()).trouble.value


@pytest.mark.parametrize("name", ALL)
def test_an_explorer_is_of_core_widgets_with_labels_and_has_a_static_form(name):
    view = ALL[name]()
    assert isinstance(view, Explorer) and isinstance(view, Shown) and view.error is None
    every = list(_all(view.view))
    assert {type(widget).__name__ for widget in every} <= CORE
    inputs = [w for w in every if isinstance(w, (ipywidgets.ValueWidget, ipywidgets.Checkbox))
              and not isinstance(w, (ipywidgets.HTML, ipywidgets.Image, ipywidgets.Label))]
    assert all(w.description for w in inputs) and {*view.controls.values(), view.words} == set(inputs)
    bundle = view._repr_mimebundle_()
    assert bundle[VIEW]["model_id"] == view.view.model_id
    assert bundle["text/plain"] == view.figure().alt and "<img alt=" in bundle["text/html"]


@pytest.mark.parametrize("name", ALL)
def test_descriptions_and_choices_have_room_and_rows_wrap(name):
    for row in (w for w in _all(ALL[name]().view) if isinstance(w, ipywidgets.HBox)):
        assert row.layout.flex_flow == "row wrap"
        for control in row.children:
            assert control.layout.max_width == "100%"
            if control.layout.width == "auto":
                continue
            words, width = (float(x.removesuffix("em")) for x in (control.style.description_width,
                                                                  control.layout.width))
            assert words >= 0.5 * len(control.description) or isinstance(control, ipywidgets.Checkbox)
            assert float(control.layout.min_width.removesuffix("em")) >= words + 8
            if isinstance(control, ipywidgets.Dropdown):
                choices = [option if isinstance(option, str) else option[0] for option in control.options]
                assert width - words >= 0.5 * max(map(len, choices)) + 2  # the arrow


def _ablation_run(row, activation, seed, accuracy, train_images=20_000):
    config = (ablation.small if train_images == 20_000 else ablation.long)(row, activation, seed).resolved().record()
    final = {"test_accuracy": accuracy, "validation_accuracy": accuracy - 0.01, "train_loss": 2 - accuracy}
    return Run(config, [], final, {"device": "cpu"}, "finished")


def _ablation_runs():
    return [_ablation_run(row, f, seed, base + 0.05 * (row == "swapped") + seed / 100)
            for f, base in (("tanh", 0.5), ("relu", 0.6)) for row in ("vanilla", "swapped") for seed in (0, 1)
            ] + [_ablation_run("vanilla", "tanh", 0, 0.7, train_images=45_000)]


def _dots(axis):
    """The sorted values of each row."""
    (dots,) = (line for line in axis.lines if line.get_linestyle() == "None")
    rows = {row: [] for _, row in dots.get_xydata()}
    for value, row in dots.get_xydata():
        rows[row].append(round(float(value), 6))
    return [sorted(rows[row]) for row in sorted(rows)]


def test_the_ablation_is_drawn_as_its_menus_say():
    view = widgets.ablation_explorer(_ablation_runs())
    assert view.controls["activation"].options == ("all", "tanh", "relu")
    assert [name for name, _ in view.controls["setting"].options] == ["small: 20,000 images, 3 epochs",
                                                                      "long: 45,000 images, 8 epochs"]
    assert view.figure().alt == figures.ablation(_ablation_runs()[:-1], ablation.ROWS, metric="test_accuracy").alt
    view.controls["activation"].value = "tanh"
    (axis,) = view.figure().fig.axes
    assert _dots(axis) == [[50.0, 51.0], [55.0, 56.0]] and axis.get_title() == "tanh"
    view.controls["show"].value = True
    assert _dots(view.figure().fig.axes[0]) == [[5.0, 5.0]]
    assert "minus that of conv, BN, act (vanilla) with the same seed, in points" in view.figure().alt
    view.controls["metric"].value, view.controls["activation"].value = "train_loss", "all"
    figure = view.figure()
    assert [axis.get_title() for axis in figure.fig.axes] == ["tanh", "relu"] and "in nats" in figure.alt
    assert _dots(figure.fig.axes[1]) == [[-0.05, -0.05]] and "from -0.050 (" in figure.alt
    view.controls["show"].value, view.controls["setting"].value = False, "long"
    assert _dots(view.figure().fig.axes[0]) == [[1.3]] and view.error is None
    view.controls["show"].value = True
    assert "no run has a partner with the same seed" in view.trouble.value


def test_what_the_ablation_does_not_have_is_said():
    runs = _ablation_runs()
    with pytest.raises(ValueError, match="no run of relu in the long setting"):
        widgets.ablation_at(runs, "relu", "long")
    with pytest.raises(ValueError, match="setting must be one of small, long, got 'short'"):
        widgets.ablation_at(runs, setting="short")
    with pytest.raises(ValueError, match="none of the 0 records"):
        widgets.ablation_explorer([])
    del runs[0]  # vanilla, tanh, seed 0: its partner cannot be compared
    figure = widgets.ablation_at(runs, "tanh", gains=True)
    assert _dots(figure.fig.axes[0]) == [[5.0]]


def test_speeds_are_drawn_as_their_menus_say():
    view = widgets.speed_explorer(SPEEDS)
    assert view.controls["device"].options == ("all", "old", "new")
    assert view.figure().alt == figures.speed_ladder(SPEEDS).alt and "old (convnet" in view.figure().alt
    view.controls["device"].value, view.controls["compared with"].value = "new", "slow"
    (dots,) = (line for line in view.figure().fig.axes[1].lines if line.get_linestyle() == "None")
    assert list(dots.get_xdata()) == [1.5, 4.5] and "old" not in view.figure().alt
    with pytest.raises(ValueError, match="called 'none'; there are: old, new"):
        widgets.speeds_at(SPEEDS, "none")
    with pytest.raises(ValueError, match="'quick' was not measured on old, new"):
        widgets.speeds_at(SPEEDS, over="quick")
    with pytest.raises(ValueError, match="no records with a rung in common"):
        widgets.speed_explorer({})


def test_a_figure_drawn_in_a_thread_keeps_its_style_when_another_ends():
    entered, other_entered, left, seen = threading.Event(), threading.Event(), threading.Event(), []

    @figures.style.styled
    def first():
        entered.set()
        other_entered.wait(0.5)

    @figures.style.styled
    def second():
        other_entered.set()
        left.wait(5)
        seen.append(matplotlib.rcParams["axes.spines.top"])

    thread = threading.Thread(target=lambda: entered.wait(5) and second())
    thread.start()
    first()
    left.set()
    thread.join()
    assert seen == [False]


def test_a_menu_is_wide_enough_for_a_long_choice():
    menu = ipywidgets.Dropdown(description="word", options=["bar", ("a choice of no less than sixty letters, spaces "
                                                                     "counted, or more", "beam")])
    Explorer(_bars, [menu], lambda of: {"heights": [1], "word": menu.value})
    assert float(menu.layout.width.removesuffix("em")) >= 0.5 * (4 + 60)
