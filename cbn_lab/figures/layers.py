"""The weight layers of a net side by side (`probes.layers.summary`): as a picture of several nets, and as a table.

The picture compares nets; the table shows one, and is made in under a millisecond, for a widget that redraws it at
every change.
"""

import html
import math
from collections.abc import Mapping, Sequence

from matplotlib.ticker import NullFormatter

from cbn_lab.figures.demands import checked
from cbn_lab.figures.style import Figure, axes, nth_mark, styled
from cbn_lab.probes.layers import LayerSummary

_LOG_FROM = 100.0  # a panel whose values differ by more than this factor gets a logarithmic axis
_PANELS = (("second", "second moment of what enters"), ("top_share", "share of the largest eigenvalue"),
           ("gradient", "gradient of the weight, ‖∂L/∂W‖"))
_HEADINGS = ("layer", "kind", "what enters", "parameters + its norm's", "mean", "variance", "second moment",
             "largest eigenvalue's share", "effective rank",
             'gradient <span style="white-space:nowrap">‖∂L/∂W‖</span>', "times ‖W‖")
_CELL = "padding:.1em .4em;text-align:right;white-space:nowrap;border-bottom:1px solid rgba(128,128,128,.35)"
_HEAD = "padding:.1em .4em;text-align:right;vertical-align:bottom;font-weight:600;border-bottom:1px solid currentColor"
_BAR = "display:inline-block;height:.6em;margin-left:.4em;background:currentColor;opacity:.55"
_TRACK = 2.0  # em: the length of a full bar


@styled
def layer_summary(arms: Mapping[str, Sequence[LayerSummary]]) -> Figure:
    """Label -> rows: second moment and largest eigenvalue's share of what enters each layer, and its gradient.

    One mark an arm. A value of 0 is left out of a logarithmic panel. ValueError for no arms, or an arm without rows.
    """
    if not arms or not all(arms.values()):
        raise ValueError("layer_summary needs at least one arm, each with the rows of probes.layers.summary")
    fig, panels = axes(len(_PANELS), size=(12, 3.9))
    ticks = _ticks([layer_names(rows) for rows in arms.values()])
    for axis, (field, title) in zip(panels, _PANELS, strict=True):
        values = {label: [getattr(row, field) for row in rows] for label, rows in arms.items()}
        _scale(axis, [v for column in values.values() for v in column], share=field == "top_share")
        for i, (label, column) in enumerate(values.items()):
            style = nth_mark(i)
            axis.plot(range(len(column)), column, color=style.colour, linestyle=style.line, marker=style.marker,
                      label=label)
        axis.set_title(title)
        axis.set_xticks(list(ticks), list(ticks.values()))
        axis.set_xlabel("weight layer, in order of execution")
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=min(4, len(arms)))
    said = "; ".join(f"{label}: {_sentence(rows)}" for label, rows in arms.items())
    return Figure(fig, f"What enters each weight layer, and the gradient of its weight. {said}.")


@checked
def layer_table(rows: Sequence[LayerSummary], *, caption: str = "Every weight layer on one batch") -> str:
    """An HTML table in the colours of the page, a row for each layer, with bars beside three columns.

    The bars repeat the numbers and are hidden from screen readers: second moment and gradient in units of the column's
    largest value, the share in units of 1. On a narrow page the table scrolls within its own frame.
    """
    most = {field: max((getattr(row, field) for row in rows), default=0) for field in ("second", "gradient")}
    head = "".join(f'<th scope="col" style="{_HEAD}">{heading}</th>' for heading in _HEADINGS)
    body = "".join(_table_row(name, row, most) for name, row in zip(layer_names(rows), rows, strict=True))
    caption = html.escape(caption)
    return (f'<div role="region" aria-label="{caption}" tabindex="0" style="overflow-x:auto;max-width:100%">'
            '<table style="border-collapse:collapse;font-variant-numeric:tabular-nums;line-height:1.5">'
            f'<caption style="text-align:left;padding-bottom:.3em">{caption}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")


def layer_names(rows: Sequence[LayerSummary]) -> list[str]:
    """"1", "2", ... in the order of `activation` and `placement` lists; "shortcut", and "head" for the last layer."""
    names, count = [], 0
    for i, row in enumerate(rows):
        if i and i == len(rows) - 1 and row.kind == "linear":
            names.append("head")
        elif "shortcut" in row.name.split("."):
            names.append("shortcut")
        else:
            count += 1
            names.append(str(count))
    return names


def _table_row(name: str, row: LayerSummary, most: Mapping[str, float]) -> str:
    rank = "none" if math.isnan(row.rank) else f"{row.rank:.1f} of {_channels(row)}"
    norm = f" + {row.norm_parameters:,}" if row.norm_parameters else ""
    mean = "0.000" if abs(row.mean) < 5e-4 * row.second**0.5 else number(row.mean)  # not the digits of rounding errors
    cells = [row.kind.replace("x", "×"), "×".join(map(str, row.shape)), f"{row.parameters:,}{norm}", mean,
             number(row.variance), number(row.second) + _bar(row.second, most["second"]),
             number(row.top_share) + _bar(row.top_share, 1.0), rank,
             number(row.gradient) + _bar(row.gradient, most["gradient"]), number(row.scale_free)]
    return (f'<tr><th scope="row" style="{_CELL};font-weight:600">{name}</th>'
            + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>")


def _channels(row: LayerSummary) -> int:
    return row.shape[-1] if row.kind == "linear" else row.shape[0]


def _bar(value: float, most: float) -> str:
    """A bar and the empty rest of its track, so that numbers stay in line."""
    share = min(1.0, value / most) if most > 0 and math.isfinite(value) else 0.0
    return (f'<span aria-hidden="true" style="{_BAR};width:{_TRACK * share:.2f}em;'
            f'margin-right:{_TRACK * (1 - share):.2f}em"></span>')


def number(value: float) -> str:
    """Three significant digits: 0.00123, 12.3, −1,230; two of a very small or large one, 1.2e−05; "none" for nan."""
    if math.isnan(value):
        return "none"
    if value and not 5e-4 <= abs(value) < 1e6:
        text = f"{value:.1e}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".") if value else "0"
    return text.replace("-", "−")


def _scale(axis, values: Sequence[float], *, share: bool) -> None:
    positive = [v for v in values if v > 0 and math.isfinite(v)]
    if share:
        axis.set_ylim(0, 1.05)
    elif positive and max(positive) > _LOG_FROM * min(positive):
        axis.set_yscale("log", nonpositive="mask")
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(0, 1.1 * max(positive, default=1.0))


def _ticks(names: Sequence[list[str]]) -> dict[int, str]:
    """Position -> label: the layers' names where all nets have the same, else their places; about ten at most."""
    longest = max(names, key=len)
    if any(other != longest for other in names):
        longest = [str(i + 1) for i in range(len(longest))]
    step = 1 + len(longest) // 10
    numbered = [i for i, name in enumerate(longest) if name.isdigit()]
    head = [i for i, name in enumerate(longest) if name == "head"]
    return {i: longest[i] for i in [*(i for i in numbered[::step] if not head or head[0] - i >= step), *head]}


def _sentence(rows: Sequence[LayerSummary]) -> str:
    first, *_, last = rows if len(rows) > 1 else [*rows, *rows]
    inner = rows[1:] or rows
    seconds, shares = ([getattr(row, field) for row in inner] for field in ("second", "top_share"))
    behind = f"of what enters the layers after the first, second moment {_range(seconds)}, " if len(rows) > 1 else \
        f"of what enters its one layer, second moment {_range(seconds)}, "
    return (f"{behind}largest eigenvalue's share {_range(shares)}; gradient {number(first.gradient)} at the first "
            f"layer and {number(last.gradient)} at the last")


def _range(values: Sequence[float]) -> str:
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return "none"
    low, high = number(min(known)), number(max(known))
    return low if low == high else f"{low} to {high}"
