"""The placement grid and the claims ledger: their numbers are those of the runs and rows."""

import html.parser
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_figures import FIVE, _grid, _run

from cbn_lab import blocks, figures
from cbn_lab.figures.ledger import SIGNS


def _cells(figure):
    """(column, row) -> the texts in that cell."""
    (axis,) = figure.fig.axes
    found = {}
    for text in axis.texts:
        x, y = text.get_position()
        found.setdefault((round(x), round(y)), []).append(text.get_text())
    return found


def test_a_cell_holds_the_mean_and_the_range_of_its_seeds():
    records = _grid()
    figure = figures.placement_grid(records)
    (axis,) = figure.fig.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["before", "after", "complete"]
    assert [label.get_text() for label in axis.get_yticklabels()] == [n for n in ("sigmoid", "tanh", "relu", "selu",
                                                                                  "swish")]
    for x, place in enumerate(("before", "after", "complete")):
        for y, name in enumerate(("sigmoid", "tanh", "relu", "selu", "swish")):
            values = [100 * _run(place, name, seed).final["test_accuracy"] for seed in range(3)]
            said = f"{min(values):.1f}–{max(values):.1f}"
            assert _cells(figure)[x, y] == [f"{fmean(values):.1f}", said]
            assert f"{place} {fmean(values):.1f} ({said.replace('–', ' to ')}, 3 seeds)" in figure.alt
    caption = axis.get_xlabel().replace("\n", " ")
    assert "mean of 3 seeds, least to largest" in caption
    assert "our reconstruction" in caption and "our reconstruction" in figure.alt
    assert "reconstruction" not in figures.placement_grid(_grid(["before", "after"])).alt


def _final(values):
    """activation tanh: placement -> (test accuracies of the seeds); as runs"""
    return [replace(_run(place, "tanh", seed), final={"train_loss": value, "test_accuracy": value})
            for place, of_seeds in values.items() for seed, value in enumerate(of_seeds)]


def _frames(figure):
    """column -> line width and style of the frame in it"""
    return {round(p.get_x() + 0.46): (p.get_linewidth(), p.get_linestyle() == "-") for p in figure.fig.axes[0].patches
            if p.get_facecolor()[3] == 0}


def test_the_best_of_a_row_is_framed_and_what_overlaps_with_it_dashed():
    values = {"none": (0.5, 0.6), "before": (0.7, 0.9), "after": (0.65, 0.72), "both": (0.69, 0.695)}
    (best, solid), overlaps = _frames(figures.placement_grid(_final(values)))[1], _frames(
        figures.placement_grid(_final(values)))
    assert best > 2 and solid and set(overlaps) == {1, 2} and overlaps[2][0] < 2 and not overlaps[2][1]
    assert "best before." in figures.placement_grid(_final(values)).alt
    loss = figures.placement_grid(_final(values), "train_loss")
    assert set(_frames(loss)) == {0} and "best none." in loss.alt and "(nats)" in loss.alt
    assert _cells(loss)[0, 0] == ["0.550", "0.500–0.600"]
    assert _frames(figures.placement_grid(_final({"none": (0.5, 0.6)}))) == {}


@settings(max_examples=25, deadline=None)  # drawing takes its time on a busy machine
@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6))
def test_cells_are_the_darker_the_larger_the_mean(values):
    places = blocks.placements()[:len(values)]
    figure = figures.placement_grid(_final({place: (value,) for place, value in zip(places, values, strict=True)}))
    fills = {round(p.get_x() + 0.5): sum(p.get_facecolor()[:3]) for p in figure.fig.axes[0].patches
             if p.get_facecolor()[3] == 1}
    for i, one in enumerate(values):
        for j, other in enumerate(values):
            if 100 * one < 100 * other:
                assert fills[i] > fills[j]


def test_unfinished_and_absent_runs_are_told_apart():
    records = [_run("before", "tanh", 0), _run("before", "tanh", 1, finished=False), _run("after", "relu"),
               _run("both", "relu", finished=False), _run("both", "relu", 1, finished=False)]
    figure = figures.placement_grid(records)
    cells = _cells(figure)
    assert cells[0, 0][1] == "1 unfinished" and cells[0, 1] == ["not run"] and cells[2, 1] == ["2 unfinished"]
    assert "before" in figure.alt and "both no value, 2 did not finish" in figure.alt
    assert sum(p.get_hatch() is not None for p in figure.fig.axes[0].patches) == 4  # both cells of both, and two more


def test_the_device_is_named_and_mixed_settings_are_refused():
    records = [replace(run, provenance={"device": "Abacus (CPU)"}) for run in _grid(names=["relu"])]
    assert "Abacus (CPU)" in figures.placement_grid(records).alt
    with pytest.raises(ValueError, match="lr"):
        figures.placement_grid([*_grid(names=FIVE), _run("none", lr=0.2)])
    with pytest.raises(ValueError, match="two runs share"):
        figures.placement_grid([_run(), _run()])


ROWS = [("CBN (our reconstruction) is <faster> & better", "training loss lower by 0.2", "3 of 3", "Abacus (CPU)",
         "holds"), ("also with ReLU", "difference 0.1 points", 3, "Abacus (CPU)", "not decided")]


class _Cells(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.rows, self.scopes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.scopes.append(dict(attributes).get("scope")) if tag == "th" else None

    def handle_data(self, data):
        if self.rows:
            self.rows[-1][-1] += data


def test_a_ledger_says_in_words_what_its_table_says():
    shown = figures.ledger(ROWS)
    table = _Cells(shown.html())
    assert table.rows[0] == ["claim", "measured", "seeds", "device", "verdict"]
    for row, cells in zip(ROWS, table.rows[1:], strict=True):
        assert cells == [*map(str, row[:4]), f"{SIGNS[row[4]]} {row[4]}"]
        assert f"{row[0]}: {row[4]}; measured {row[1]}, seeds {row[2]}, on {row[3]}." in shown.alt
    assert table.scopes == ["col"] * 5 + ["row"] * 2
    assert shown.alt.startswith("Ledger of 2 claims: 1 holds, 1 not decided.")
    assert "<faster>" not in shown.html()
    bundle = shown._repr_mimebundle_()
    assert bundle == {"text/html": shown.html(), "text/plain": shown.alt}


def test_a_ledger_takes_its_colours_from_the_page():
    assert "#" not in figures.ledger(ROWS).html() and "background" not in figures.ledger(ROWS).html()


def test_a_ledger_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="at least one claim"):
        figures.ledger([])
    with pytest.raises(ValueError, match="must be one of holds, does not hold.* got 'maybe'"):
        figures.ledger([("a", "b", 3, "c", "maybe")])
