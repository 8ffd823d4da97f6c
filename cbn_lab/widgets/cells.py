"""Work in the background of a notebook that ends with its cell: when the cell runs again, is deleted, or its view goes.

A cell is known by the id that JupyterLab, Notebook 7 and VS Code send along with it. Classic Notebook and Colab send
none; there, a cell is known by its text, so two cells of one text pass for the same cell.
"""

import asyncio
from collections.abc import Callable, Coroutine

import ipywidgets
from IPython import get_ipython


def running_cell() -> tuple[str, str] | None:
    """("id", ...) or ("text", ...) of the cell that is being executed; None outside a notebook and between cells."""
    message = _request(get_ipython())
    if message.get("header", {}).get("msg_type") != "execute_request":
        return None
    return _identity(message.get("metadata", {}).get("cellId"), message["content"]["code"])


def _request(shell) -> dict:
    """The message that the kernel is answering; empty where there is no kernel."""
    return (getattr(shell, "get_parent", dict)() or {}) if shell is not None else {}


def _identity(cell_id: str | None, text: str) -> tuple[str, str]:
    return ("id", cell_id) if cell_id else ("text", text)


class Background:
    """At most one task at a time, for a view made in a cell.

    The task is cancelled when the view is closed, when the cell in which this object was made is run again (whatever it
    then contains) and when it is deleted and another one is run. Other cells, and other objects of this kind, do not
    matter to it.
    """

    def __init__(self, view: ipywidgets.Widget, name: str):
        self._name, self._cell = name, running_cell()
        self._task: asyncio.Task | None = None
        view.observe(lambda change: self.stop() if change.new is None else None, "comm")

    @property
    def task(self) -> asyncio.Task | None:
        """The last one that was started."""
        return self._task

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self, work: Callable[[], Coroutine]) -> bool:
        """Begin `work()` where an event loop runs and nothing is under way; says whether there is a loop.

        Without a loop, nothing is begun.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if not self.running:
            self._task = loop.create_task(work(), name=self._name)
            self._watch_cells()
        return True

    def stop(self) -> None:
        """Cancel the task, if any is under way."""
        if self.running:
            self._task.cancel()

    def _watch_cells(self) -> None:
        """Listen to the kernel's cells for as long as the task lasts."""
        shell = get_ipython()
        if shell is None or self._cell is None:
            return
        shell.events.register("pre_run_cell", self._before_a_cell)
        self._task.add_done_callback(lambda task: shell.events.unregister("pre_run_cell", self._before_a_cell))

    def _before_a_cell(self, info) -> None:
        metadata = _request(get_ipython()).get("metadata", {})
        cell = _identity(metadata.get("cellId"), info.raw_cell)
        if cell == self._cell or self._cell in [("id", deleted) for deleted in metadata.get("deletedCells", [])]:
            self.stop()
