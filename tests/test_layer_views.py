"""Picture and table of the weight layers: they show the rows' numbers, to readers who see and who listen."""

import html
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cbn_lab import figures, models
from cbn_lab.figures.layers import layer_names, number
from cbn_lab.probes import layers


def rows_of(name="convnet", activation="sigmoid", placement="complete", **size):
    torch.manual_seed(0)
    model = models.build(name, num_classes=10, in_channels=1, image_size=8, activation=activation, placement=placement,
                         **size)
    generator = torch.Generator().manual_seed(1)
    batch = torch.randn(16, 1, 8, 8, generator=generator), torch.arange(16) % 10
    return layers.summary(model, F.cross_entropy, batch, statistics="batch")


class Table(HTMLParser):
    """Cells as text, and what a screen reader needs; fails on tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.scopes, self.caption, self.open, self.hidden, self.regions = [], [], "", [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if "scope" in attributes:
            self.scopes.append((len(self.rows) - 1, attributes["scope"]))
        if attributes.get("aria-hidden") == "true":
            self.hidden.append(attributes["style"])
        if attributes.get("role") == "region":
            self.regions.append(attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "caption" in self.open:
            self.caption += text
        else:
            self.rows[-1][-1] += text


def test_the_table_has_the_numbers_of_every_row():
    rows = rows_of()
    table = Table(figures.layer_table(rows))
    assert len(table.rows) == 1 + 7
    assert [row[0] for row in table.rows] == ["layer", "1", "2", "3", "4", "5", "6", "head"]
    third, row = table.rows[3], rows[2]
    assert third[1:4] == ["convolution 3×3", "16×4×4", "4,608 + 96"]
    assert third[4] == "0.000"  # 4e-7 is a rounding error, not a mean
    assert third[5:] == [number(row.variance), number(row.second), number(row.top_share), f"{row.rank:.1f} of 16",
                         number(row.gradient), number(row.scale_free)]
    assert table.rows[-1][1:4] == ["linear", "64", "650"]
    vanilla = rows_of(placement="before")
    assert Table(figures.layer_table(vanilla)).rows[2][4] == number(vanilla[1].mean)


def test_the_table_speaks_to_screen_readers_and_takes_the_pages_colours():
    text = figures.layer_table(rows_of(), caption="At <init>")
    table = Table(text)
    assert table.caption == "At <init>"
    assert table.regions[0] | {"style": ""} == {"role": "region", "aria-label": "At <init>", "tabindex": "0",
                                                "style": ""}
    assert table.scopes.count((0, "col")) == len(table.rows[0]) == 11
    assert [where for where, kind in table.scopes if kind == "row"] == list(range(1, 8))
    assert not re.search(r"(?<![\w-])color:", text)  # no text colour of its own
    assert set(re.findall(r"background:([^;]*)", text)) == {"currentColor"}


def test_bars_are_as_long_as_their_numbers():
    first, *rest = rows_of()
    rows = [replace(first, second=2.0, top_share=0.25, gradient=1.0), replace(rest[0], second=0.5, top_share=math.nan,
                                                                              gradient=4.0)]
    widths = [float(re.search(r"width:([\d.]+)em", bar)[1]) for bar in Table(figures.layer_table(rows)).hidden]
    assert widths == [2.0, 0.5, 0.5, 0.5, 0.0, 2.0]  # second moment, share, gradient; a full bar is 2 em


def test_nothing_but_zeros_and_no_rows_can_be_shown():
    first = rows_of()[0]
    dead = replace(first, mean=0.0, variance=0.0, second=0.0, top_share=math.nan, rank=math.nan, gradient=0.0,
                   scale_free=0.0)
    row = Table(figures.layer_table([dead])).rows[1]
    assert row[4:] == ["0", "0", "0", "none", "none", "0", "0"]
    figure = figures.layer_summary({"dead": [dead]})
    assert figure.png() and "second moment 0, largest eigenvalue's share none" in figure.alt
    assert len(Table(figures.layer_table([])).rows) == 1


def test_layers_are_counted_like_the_lists_of_activations():
    assert layer_names(rows_of("resnet18", placement="before")) == [
        "1", "2", "3", "4", "5", "6", "7", "shortcut", "8", "9", "10", "11", "shortcut", "12", "13", "14", "15",
        "shortcut", "16", "17", "head"]
    assert layer_names(rows_of("mlp", depth=2)) == ["1", "2", "head"]
    assert layer_names(rows_of("mlp", depth=2)[:1]) == ["1"]


@given(st.floats(-1e300, 1e300) | st.just(math.nan))
def test_numbers_are_short_and_right(value):
    text = number(value)
    if math.isnan(value):
        assert text == "none"
    else:
        assert float(text.replace("−", "-").replace(",", "")) == pytest.approx(value, rel=0.051)
        assert len(text) <= 10 and "-" not in text


@pytest.mark.parametrize("value, text", [(0.0, "0"), (1.0, "1.00"), (-0.01172, "−0.0117"), (999.7, "1,000"),
                                         (123.4, "123"), (99.72, "99.7"), (12345.6, "12,346"), (2e-5, "2.0e−05"),
                                         (3e7, "3.0e+07")])
def test_how_numbers_are_written(value, text):
    assert number(value) == text


def test_the_picture_draws_every_row_of_every_net():
    arms = {placement: rows_of(placement=placement) for placement in ("none", "before", "complete")}
    figure = figures.layer_summary(arms)
    for axis, field in zip(figure.fig.axes, ("second", "top_share", "gradient"), strict=True):
        assert {line.get_label(): list(line.get_ydata()) for line in axis.lines} == {
            label: [getattr(row, field) for row in rows] for label, rows in arms.items()}
        assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axis.lines}) == 3
        assert [t.get_text() for t in axis.get_xticklabels()] == ["1", "2", "3", "4", "5", "6", "head"]
    assert [axis.get_yscale() for axis in figure.fig.axes] == ["linear", "linear", "log"]  # no norm: 4 decades
    assert all(label in figure.alt for label in arms)
    inner = [row.second for row in arms["before"][1:]]
    assert f"before: of what enters the layers after the first, second moment {number(min(inner))} to " \
        f"{number(max(inner))}" in figure.alt
    assert html.escape(figure.alt) in figure.html()


def test_nets_of_different_depth_are_numbered_by_place():
    figure = figures.layer_summary({"deep": rows_of("resnet20"), "flat": rows_of("mlp", depth=1)})
    assert [t.get_text() for t in figure.fig.axes[0].get_xticklabels()] == ["1", "4", "7", "10", "13", "16", "19"]
    assert "of what enters its one layer" in figures.layer_summary({"one": rows_of("mlp", depth=1)[:1]}).alt


@pytest.mark.parametrize("arms", [{}, {"a": ()}])
def test_a_picture_of_nothing_is_refused(arms):
    with pytest.raises(ValueError, match="at least one arm"):
        figures.layer_summary(arms)
