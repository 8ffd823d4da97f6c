"""Rows that wrap, headings, and room for what comes and goes, so that nothing below jumps."""

import html
from collections.abc import Callable

import ipywidgets


def row(children: list) -> ipywidgets.HBox:
    """Side by side as far as there is room."""
    box = ipywidgets.HBox(children)
    box.layout.flex_flow, box.layout.align_items = "row wrap", "center"
    return box


def button(description: str, tooltip: str, act: Callable[[], None]) -> ipywidgets.Button:
    button = ipywidgets.Button(description=description, tooltip=tooltip)
    button.layout.width = "auto"
    button.on_click(lambda _: act())
    return button


def heading(text: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(f"<h4 style='margin:0.8em 0 0.2em'>{html.escape(text)}</h4>")


def text(height: str) -> ipywidgets.HTML:
    """Room for words that come and go: what stands below does not jump."""
    text = ipywidgets.HTML()
    text.layout.min_height = height
    return text


def room(widget: ipywidgets.Widget, height: str) -> ipywidgets.VBox:
    """At least this height for a widget whose own height changes."""
    box = ipywidgets.VBox([widget])
    box.layout.min_height, box.layout.align_items = height, "flex-start"
    return box
