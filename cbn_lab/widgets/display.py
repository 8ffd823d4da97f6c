"""How the widgets show themselves: as a view that works, and as a picture where there is no kernel to work with."""

import asyncio
import html
from collections.abc import Callable

VIEW = "application/vnd.jupyter.widget-view+json"
NOTE = "<p><em>Interactive: run this cell to use it.</em></p>"


class Shown:
    """Gives an object with `view` (a widget) and `figure()` (what it shows first) both forms in a notebook's output."""

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        figure = self.figure()
        static = {"text/html": NOTE, "text/plain": "an interactive view"} if figure is None else {
            "text/html": NOTE + figure.html(), "text/plain": figure.alt}
        view = {"version_major": 2, "version_minor": 0, "model_id": self.view.model_id}
        return {VIEW: view} | static


def one_line(error: Exception) -> str:
    """An error as one line of HTML."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f'<span style="color:#b00020">{html.escape(text)}</span>'


def debounced(action: Callable[[], None], seconds: float = 0.1) -> Callable[[], None]:
    """Calls that come in quick succession lead to one `action()`, after the last. Without an event loop: at once."""
    waiting: list[asyncio.TimerHandle] = []

    def call() -> None:
        for handle in waiting:
            handle.cancel()
        waiting.clear()
        try:
            waiting.append(asyncio.get_running_loop().call_later(seconds, action))
        except RuntimeError:
            action()

    return call
