"""Tables as text: one line a row, so that rows can be counted and pasted. On a terminal that is too
narrow the columns of little importance are left out, and the last one is cut, or wrapped where it
says why.
"""

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Final


class Table:
    """A title, names of columns, and rows; the last `right` columns hold numbers."""

    def __init__(
        self,
        title: str,
        columns: tuple[str, ...],
        right: int = 0,
        gap: int = 2,
        *,
        spare: Sequence[str] = (),
        is_wrapped: bool = False,
    ) -> None:
        """`gap` blanks stand between columns. `spare` are the columns that a narrow terminal leaves
        out, the first of them first. With `is_wrapped` the last column goes on in further lines
        there, instead of being cut.
        """
        self.title = title
        self._gap = gap
        self._columns = columns
        self._right = right
        self._spare = [columns.index(name) for name in spare if name in columns]
        self._is_wrapped = is_wrapped
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
        """The names of the columns, and the rows, for a terminal of this width; None: as long as
        they are.
        """
        rows = [self._columns, *self._rows]
        widths = self._widths()
        places = fitting(widths, self._spare, self._gap, width)
        first_number = len(widths) - self._right
        last_start = sum(widths[place] + self._gap for place in places[:-1])
        for number, row in enumerate(rows):
            before = [
                row[place].rjust(widths[place])
                if place >= first_number
                else row[place].ljust(widths[place])
                for place in places[:-1]
            ]
            last = row[places[-1]]
            if places[-1] >= first_number:
                last = last.rjust(widths[places[-1]])
            head = "".join(f"{cell}{'':{self._gap}}" for cell in before)
            if width is not None and self._is_wrapped and number:
                room = max(NARROWEST, width - last_start)
                first, *others = wrap(last, room, break_long_words=False) or [""]
                yield f"{head}{first}".rstrip()
                yield from (f"{'':{last_start}}{other}" for other in others)
            else:
                yield cut(f"{head}{last}".rstrip(), width, last_start)

    def left_out(self, width: int | None) -> list[str]:
        """The names of the columns for which a terminal of this width has no room."""
        places = fitting(self._widths(), self._spare, self._gap, width)
        return [name for place, name in enumerate(self._columns) if place not in places]

    def _widths(self) -> list[int]:
        rows = [self._columns, *self._rows]
        return [max(map(len, column)) for column in zip(*rows, strict=True)]


def fitting(widths: Sequence[int], spare: Sequence[int], gap: int, width: int | None) -> list[int]:
    """The places of the columns that are shown: without the first ones of `spare`, as many as are
    in the way of the others.
    """
    places = list(range(len(widths)))
    for place in spare:
        length = sum(widths[each] for each in places) + gap * (len(places) - 1)
        if width is None or length <= width:
            break
        places.remove(place)
    return places


def cut(line: str, width: int | None, last_start: int) -> str:
    """A line without the end of its last column, where a terminal of this width has no room for it;
    no other column is cut.
    """
    is_cut = width is not None and len(line) > width > last_start
    return f"{line[: (width or 0) - 1]}…" if is_cut else line


NARROWEST: Final = 20
"""Letters of a line of a wrapped column, at least."""
