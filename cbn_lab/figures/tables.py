"""Tables that a notebook shows as such and a terminal as text."""

from collections.abc import Iterable


class Table:
    """Rows of cells, the heading first; shown as Markdown in a notebook.

    ValueError if there are none, if they are empty, or if they differ in length.
    """

    def __init__(self, rows: Iterable[Iterable]):
        self.rows = [[str(cell) for cell in row] for row in rows]
        lengths = {len(row) for row in self.rows}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(f"a table needs rows of one length, at least 1, got {sorted(lengths) or 'no rows'}")

    def _repr_markdown_(self) -> str:
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self.rows]
        return "\n".join([lines[0], "|---" * len(self.rows[0]) + "|", *lines[1:]])

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                         for row in self.rows)
