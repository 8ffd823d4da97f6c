"""How the widgets show themselves: as a view that works, and as a picture where there is no kernel to work with."""

import asyncio
import html
from collections.abc import Callable

VIEW = "application/vnd.jupyter.widget-view+json"
SETTLE_SECONDS = 0.06  # a key held down or a slider dragged sends a change every 15 to 35 ms
TYPED_SECONDS = 0.2  # a click overtakes what was typed just before: the page holds that back while the kernel is busy
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
    """An error as one line of HTML, read out where it appears; white on its own red in a light and a dark theme."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return ('<span role="alert" style="background:#b00020;color:#ffffff;padding:0.1em 0.4em">'
            f"{html.escape(text)}</span>")


def debounced(action: Callable[[], None], seconds: float = SETTLE_SECONDS) -> Callable[[], None]:
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
