"""Give me the code: the present settings as a script to take along, and as one line that restores them."""

import html
import re
from collections.abc import Callable
from pathlib import Path

import ipywidgets

from cbn_lab import share
from cbn_lab.config import TrainConfig
from cbn_lab.export import GOES_ON, STATE, script
from cbn_lab.widgets.display import NOTE, TYPED_SECONDS, VIEW, debounced, one_line

QUOTES = ('""', "''", "``", "“”", "‘’", "„“")  # that a state may be pasted in


class CodePanel:
    """`export.script` and `share.encode` of the settings that `get_config()` returns, behind three buttons.

    get_config  -> the present settings
    restore     what to do with the settings that were read from the state field; None: there is no such button
    root        folder of the data, as for `script`
    folder      where "Save as file" writes; None: the working folder, beside the notebook

    Call `refresh()` when the settings have changed: the state follows, and the script too once it was asked for. A
    failure is shown in one line and kept in `error`; what was there stays.
    """

    def __init__(self, get_config: Callable[[], TrainConfig], restore: Callable[[TrainConfig], None] | None = None, *,
                 root=None, folder=None):
        self._get_config, self._restore, self._root = get_config, restore, root
        self._folder = Path(folder) if folder is not None else Path()
        self._asked, self._shown = False, None
        self.error: Exception | None = None
        self._code = ipywidgets.Textarea(description="script", rows=24)
        self._state = ipywidgets.Text(description="state")
        self._message = ipywidgets.HTML()
        give = _button("Give me the code", self.give, "primary")
        self._save = _button("Save as file", self.save)
        self._save.disabled = True
        restoring = [] if restore is None else [_button("Restore", debounced(self.restore, TYPED_SECONDS))]
        for field, width in ((self._code, "60em"), (self._state, "40em")):
            field.style.description_width = "4em"
            field.layout.width, field.layout.max_width = width, "100%"
        self._code.layout.display = "none"  # until it is asked for
        rows = [ipywidgets.HBox([give, self._save]), ipywidgets.HBox([self._state, *restoring])]
        for row in rows:
            row.layout.flex_flow = "row wrap"
        self.view = ipywidgets.VBox([*rows, self._message, self._code])
        self.refresh()

    @property
    def code(self) -> str:
        """The script shown; empty before it is asked for."""
        return self._code.value

    @property
    def state(self) -> str:
        return self._state.value

    def refresh(self) -> None:
        """Follow the settings; where they are as before, what was said last stays."""
        if self._get_config() != self._shown:
            self._try(lambda: self._fill(with_code=self._asked))

    def give(self) -> None:
        """Write the script of the present settings."""
        self._asked = True
        self._try(lambda: self._fill(with_code=True))

    def save(self) -> None:
        """Write the script to a file of its own: no other file is overwritten."""
        self._try(lambda: f"saved as {_saved(self._code.value, self._folder)}")

    def restore(self) -> None:
        """Hand the settings of the state field on; it may hold a script instead."""
        self._try(self._hand_on)

    def _hand_on(self) -> str:
        config = share.decode(_unwrapped(self._state.value))
        try:
            self._restore(config)
        finally:  # settings that cannot be drawn are taken over, too; a misspelt state stays to be put right
            if self._get_config() != self._shown:
                self._fill(with_code=self._asked)
        return "restored"

    def _fill(self, with_code: bool) -> str:
        config = self._shown = self._get_config()
        self._state.value = share.encode(config)
        if not with_code:
            return ""
        self._code.value = ""  # a script that is no longer that of the settings must not stand there
        self._save.disabled = True
        self._code.value = script(config, root=self._root)
        self._code.layout.display, self._save.disabled = "", False
        return "To copy: click into the script, Ctrl+A, Ctrl+C (on a Mac with Cmd)."

    def _try(self, action: Callable[[], str]) -> None:
        """Show what the action says, or its error: in a callback nobody else would."""
        try:
            message, self.error = html.escape(action()), None
        except Exception as error:
            message, self.error = one_line(error), error
        self._message.value = message

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        """The view, and for readers without a kernel the script itself."""
        try:
            text = script(self._get_config(), root=self._root)
        except Exception as error:
            text = str(error)
        view = {"version_major": 2, "version_minor": 0, "model_id": self.view.model_id}
        return {VIEW: view, "text/html": f"{NOTE}<pre>{html.escape(text)}</pre>", "text/plain": text}


def _unwrapped(text: str) -> str:
    """The state in what was pasted: without quotes around it, or out of a script's first lines, the rest left away.

    A field for one line drops the ends of the lines: what follows the state in a script is known by its first words.
    ValueError for a first line that goes on in the next.
    """
    text = text.replace("\N{NO-BREAK SPACE}", " ").strip()
    if STATE in text:
        text = re.sub(rf"{re.escape(GOES_ON)}\s*#", "", text.partition(STATE)[2])
        text = re.split(r"\n|from numpy|import numpy", text.strip())[0].strip()
        if text.endswith(GOES_ON):
            raise ValueError("the state goes on in the next line of the script; paste that line, too")
    for opening, closing in QUOTES:
        if text.startswith(opening) and text.endswith(closing):
            return text.removeprefix(opening).removesuffix(closing)
    return text


def _saved(text: str, folder: Path) -> str:
    """Write cbn_script.py, or the first of cbn_script_2.py, ... that is free or has this text already; -> its name."""
    if not text:
        raise ValueError("there is no script to save yet; ask for the code first")
    number = 1
    while True:
        path = folder / f"cbn_script{'' if number == 1 else f'_{number}'}.py"
        if not path.exists():
            path.write_text(text, encoding="utf-8")
            return path.name
        if path.read_text(encoding="utf-8", errors="replace") == text:
            return path.name
        number += 1


def _button(description: str, action: Callable[[], None], style: str = "") -> ipywidgets.Button:
    button = ipywidgets.Button(description=description, button_style=style)
    button.on_click(lambda button: action())
    return button
