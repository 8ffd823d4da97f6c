"""Controls over a function that returns a figure: what every explorer of the course is made of."""

import html
from collections.abc import Callable, Mapping, Sequence

import ipywidgets

from cbn_lab import figures
from cbn_lab.widgets.display import Shown, debounced, one_line

DPI = 80  # smaller than in print: whoever moves a slider waits for the picture
_EM = 0.53  # width of a letter of a description, on average; it makes up for the wide ones among 10 or more


class Explorer(Shown):
    """A picture under controls: any change of a control redraws it once, shortly after the last change.

    draw      the plain function that returns the figure
    controls  widgets with a description and a value; a list of them stands together in a row
    settings  `controls` by description -> the arguments of `draw`
    words     whether the picture's sentence is shown at first; a box below the picture shows and hides it

    The headline of a picture that has one stands below it, whatever the box says.
    `controls` are kept by description, `values` are the present arguments. An error is shown in one line and kept in
    `error`; the picture stays as it was.
    """

    def __init__(self, draw: Callable[..., figures.Figure], controls: Sequence,
                 settings: Callable[[Mapping], dict], *, words: bool = False):
        self._draw, self._settings = draw, settings
        groups = [list(control) if isinstance(control, (list, tuple)) else [control] for control in controls]
        self.controls = {control.description: control for group in groups for control in group if control.description}
        self.image, self.caption, self.trouble = ipywidgets.Image(format="png"), ipywidgets.HTML(), ipywidgets.HTML()
        self.headline = ipywidgets.HTML()
        self.image.layout.max_width, self.image.layout.align_self = "100%", "flex-start"  # smaller, but never larger
        self.words = ipywidgets.Checkbox(description="the picture in words", value=words, indent=False)
        self.words.observe(lambda change: self._show_words(), "value")
        self.error: Exception | None = None
        redraw = debounced(self.redraw)
        for control in self.controls.values():
            control.observe(lambda change: redraw(), "value")
        self.view = ipywidgets.VBox([*_rows(groups), self.trouble, self.image, self.headline, self.words,
                                      self.caption])
        self._show_words()
        self.redraw()

    @property
    def values(self) -> dict:
        return self._settings(self.controls)

    def figure(self) -> figures.Figure:
        return self._draw(**self.values)

    def redraw(self) -> None:
        try:
            figure = self.figure()
            self.image.value, self.caption.value = figure.png(DPI), _paragraph(figure.alt)
            self.headline.value = _paragraph(figure.headline)
            self.headline.layout.display = None if figure.headline else "none"
            self.error, self.trouble.value = None, ""
        except Exception as error:  # on the event loop nobody else would show it
            self.error, self.trouble.value = error, one_line(error)

    def _show_words(self) -> None:
        self.caption.layout.display = None if self.words.value else "none"


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>" if text else ""


def _rows(groups: Sequence[Sequence]) -> list[ipywidgets.HBox]:
    """Single controls side by side as far as the window is wide; below them each group in a row of its own."""
    single = [group[0] for group in groups if len(group) == 1]
    words = _EM * max((len(c.description) for c in single if not isinstance(c, ipywidgets.Checkbox)), default=0) + 0.5
    for control in single:
        control.style.description_width = f"{words:.1f}em"
        control.layout.width = f"{words + _room(control):.1f}em"
        control.layout.min_width = f"{words + 8.5:.1f}em"  # narrower, a slider would be nothing but its number
    for control in (control for group in groups if len(group) > 1 for control in group):
        control.layout.width = "auto"  # as wide as its words
        control.layout.margin = "2px 1em 2px 2px"
    rows = [ipywidgets.HBox(row) for row in (single, *(group for group in groups if len(group) > 1)) if row]
    for row in rows:
        row.layout.flex_flow = "row wrap"
        for control in row.children:
            control.layout.max_width = "100%"
    return rows


def _room(control) -> float:
    """What a control needs beside its description, in em: its longest choice in full, or a slider and its number."""
    if isinstance(control, ipywidgets.Checkbox):
        return _EM * len(control.description) + 2  # the box stands in front of the description
    if not hasattr(control, "options") or isinstance(control, ipywidgets.SelectionSlider):
        return 17.5
    choices = [str(option[0] if isinstance(option, tuple) else option) for option in control.options]
    return max(17.5, _EM * max(map(len, choices)) + 3)
