"""Work in the background of a notebook that ends with its cell: when the cell runs again, is deleted, or its view goes.

A cell is known by the id that JupyterLab and Notebook 7 send along with it. Where none comes, as from the classic
Notebook, it is known by its text; there, two cells of one text pass for the same cell.
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

    The task is cancelled when the cell in which this object was made is run again (whatever it then contains), when
    that cell is deleted and another one is run, and when the view of `ends_with` is closed. Other cells, and other
    objects of this kind, do not matter to it.
    """

    def __init__(self, name: str):
        self._name, self._cell = name, running_cell()
        self._task: asyncio.Task | None = None

    @property
    def task(self) -> asyncio.Task | None:
        """The one that was started last, unless it was abandoned."""
        return self._task

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self, work: Callable[[], Coroutine]) -> bool:
        """Begin `work()`, unless a task is under way. False, and nothing is begun, where there is no event loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if not self.running:
            self._task = loop.create_task(work(), name=self._name)
            self._watch_cells()
        return True

    def stop(self) -> None:
        """Cancel the task, if any is under way; it ends at its next turn."""
        if self.running:
            self._task.cancel()

    def abandon(self) -> None:
        """`stop`, and stand ready for another at once; the old one sees by `task` that it is no longer its turn."""
        self.stop()
        self._task = None

    def ends_with(self, view: ipywidgets.Widget) -> None:
        view.observe(lambda change: self.stop() if change.new is None else None, "comm")

    def _watch_cells(self) -> None:
        """Listen to the kernel's cells for as long as the task lasts."""
        shell = get_ipython()
        if shell is None or self._cell is None:
            return
        task = self._task

        def before_a_cell(info) -> None:
            metadata = _request(shell).get("metadata", {})
            deleted = [("id", cell) for cell in metadata.get("deletedCells", [])]
            if self._cell in (_identity(metadata.get("cellId"), info.raw_cell), *deleted):
                task.cancel()

        shell.events.register("pre_run_cell", before_a_cell)
        task.add_done_callback(lambda done: shell.events.unregister("pre_run_cell", before_a_cell))
