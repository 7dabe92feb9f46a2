"""Tables as text: one line a row, never folded, so that rows can be counted and pasted."""

from collections.abc import Iterator


class Table:
    """A title, names of columns, and rows; the last `right` columns hold numbers."""

    def __init__(self, title: str, columns: tuple[str, ...], right: int, gap: int = 2) -> None:
        """`gap` blanks stand between columns."""
        self.title = title
        self._gap = " " * gap
        self._columns = columns
        self._right = right
        self._rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        """One row, with a cell for each column."""
        # Newlines within a cell would begin a row of their own.
        self._rows.append(tuple(" ".join(str(cell).split("\n")) for cell in cells))

    @property
    def row_count(self) -> int:
        """Rows so far."""
        return len(self._rows)

    def lines(self, width: int | None = None) -> Iterator[str]:
        """The names of the columns, and the rows. A terminal of this width cuts the last column and
        no other.
        """
        rows = [self._columns, *self._rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        first_number = len(widths) - self._right
        last_start = sum(widths[:-1]) + len(self._gap) * (len(widths) - 1)
        for row in rows:
            cells = [
                cell.rjust(widths[place]) if place >= first_number else cell.ljust(widths[place])
                for place, cell in enumerate(row)
            ]
            line = self._gap.join(cells).rstrip()
            is_cut = width is not None and len(line) > width > last_start
            yield f"{line[: (width or 0) - 1]}…" if is_cut else line
