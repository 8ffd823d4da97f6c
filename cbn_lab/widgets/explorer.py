"""Controls over a function that returns a figure: what every explorer of the course is made of."""

import html
from collections.abc import Callable, Mapping, Sequence

import ipywidgets

from cbn_lab import figures
from cbn_lab.widgets.display import Shown, debounced, one_line

DPI = 80  # smaller than in print: whoever moves a slider waits for the picture
_EM = 0.6  # width of a letter of a description; they are set in a proportional font, so this is generous


class Explorer(Shown):
    """A picture under controls: any change of a control redraws it once, shortly after the last change.

    draw      the plain function that returns the figure
    controls  widgets with a description and a value; a list of them stands together in a row
    settings  `controls` by description -> the arguments of `draw`
    words     whether the picture's sentence is shown at first; a box below the picture shows and hides it

    `controls` are kept by description, `values` are the present arguments. An error is shown in one line and kept in
    `error`; the picture stays as it was.
    """

    def __init__(self, draw: Callable[..., figures.Figure], controls: Sequence,
                 settings: Callable[[Mapping], dict], *, words: bool = False):
        self._draw, self._settings = draw, settings
        groups = [list(control) if isinstance(control, (list, tuple)) else [control] for control in controls]
        self.controls = {control.description: control for group in groups for control in group if control.description}
        self.image, self.caption, self.trouble = ipywidgets.Image(format="png"), ipywidgets.HTML(), ipywidgets.HTML()
        self.image.layout.max_width = "100%"
        self.words = ipywidgets.Checkbox(description="the picture in words", value=words, indent=False)
        self.words.observe(lambda change: self._show_words(), "value")
        self.error: Exception | None = None
        redraw = debounced(self.redraw)
        for control in self.controls.values():
            control.observe(lambda change: redraw(), "value")
        self.view = ipywidgets.VBox([*_rows(groups), self.trouble, self.image, self.words, self.caption])
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
            self.image.value, self.caption.value = figure.png(DPI), f"<p>{html.escape(figure.alt)}</p>"
            self.error, self.trouble.value = None, ""
        except Exception as error:  # on the event loop nobody else would show it
            self.error, self.trouble.value = error, one_line(error)

    def _show_words(self) -> None:
        self.caption.layout.display = None if self.words.value else "none"


def _rows(groups: Sequence[Sequence]) -> list[ipywidgets.HBox]:
    """Single controls side by side as far as the window is wide; below them each group in a row of its own."""
    single = [group[0] for group in groups if len(group) == 1]
    letters = max((len(control.description) for control in single), default=0)
    for control in single:
        control.style.description_width = f"{_EM * letters + 0.5:.1f}em"
    for control in (control for group in groups for control in group):
        wide = isinstance(control, (ipywidgets.Checkbox, ipywidgets.ToggleButtons, ipywidgets.Label))
        control.layout.width = "auto" if wide else f"{_EM * letters + 18:.1f}em"
        control.layout.max_width = "100%"
    rows = [ipywidgets.HBox(row) for row in (single, *(group for group in groups if len(group) > 1)) if row]
    for row in rows:
        row.layout.flex_flow = "row wrap"
    return rows
