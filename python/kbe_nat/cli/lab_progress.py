"""How far a run of the lab is, on standard error: a table on a terminal, lines for a log."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from typing import Final

from kbe_nat.cli.output import table
from kbe_nat.cli.terminal import moves_cursor
from kbe_nat.lab.standing import Standing, StandingRow


@contextmanager
def run_progress(name: str, directory: Path) -> Iterator[Callable[[int, int], None]]:
    """Shows how many cells are finished, their main measures and the time left: on a terminal in
    place, without colours, else, or where the terminal cannot move up, as a line every
    `LINE_SECONDS`.
    """
    if not moves_cursor(sys.stderr):
        yield _Lines(name).watch
        return
    screen = _Screen(name, Standing(directory))
    try:
        yield screen.watch
    finally:
        screen.clear()


class _Pace:
    """The time that is left, from the cells that were finished since it began."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before: int | None = None

    def words(self, done: int, total: int) -> str:
        """Empty before the first cell is finished, and after the last."""
        if self._before is None:
            self._before = done
        if done in (self._before, total):
            return ""
        seconds = (time.monotonic() - self._started) / (done - self._before) * (total - done)
        return f"{duration(seconds)} left"


def duration(seconds: float) -> str:
    """To the two digits that a guess is worth: 1 s at least, 48 s, 12 min, 3 h 20 min, 2 d 5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60 // 10 * 10} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


class _Lines:
    """Lines that a log can hold."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = time.monotonic()
        self._pace = _Pace()

    def watch(self, done: int, total: int) -> None:
        """Say it, unless it was said just now."""
        remaining = self._pace.words(done, total)
        if not remaining or time.monotonic() - self._last < LINE_SECONDS:
            return
        self._last = time.monotonic()
        print(f"{self._name}: {done} of {total} cells, {remaining}", file=sys.stderr, flush=True)


class _Screen:
    """A table that is written over itself."""

    def __init__(self, name: str, standing: Standing) -> None:
        self._name, self._standing = name, standing
        self._height = 0
        self._last = 0.0
        self._pace = _Pace()

    def watch(self, done: int, total: int) -> None:
        """Show it anew, a few times a second at most."""
        remaining = self._pace.words(done, total)
        now = time.monotonic()
        if now - self._last < SCREEN_SECONDS and done < total:
            return
        self._last = now
        size = _size()
        # A line that is wider than the terminal would take two, and be cleared by half.
        room = size.columns - 1
        lines = [line[:room] for line in self._lines(size.lines - 4, room)]
        lines.append(self._bar(done, total, remaining, room))
        self.clear()
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()
        self._height = len(lines)

    def clear(self) -> None:
        """Take it away."""
        if self._height:
            sys.stderr.write(f"\x1b[{self._height}A\x1b[J")
            sys.stderr.flush()
            self._height = 0

    def _bar(self, done: int, total: int, remaining: str, room: int) -> str:
        """How far the run is; its name where there is room for it, since the command says it."""
        filled = BAR_LETTERS * done // max(total, 1)
        parts = ["#" * filled + "-" * (BAR_LETTERS - filled), f"{done}/{total}", remaining]
        if room < 2 * BAR_LETTERS:
            parts.pop(0)
        words = "  ".join(filter(None, parts))
        return "  ".join(filter(None, (words, shorten(self._name, room - len(words) - 2))))[:room]

    def _lines(self, height: int, room: int) -> list[str]:
        rows = self._standing.rows()
        shown = rows[: max(height, 1)]
        lines = self._listing(shown, self._standing.measures, room)
        if lines and max(map(len, lines)) > room:
            # Numbers that are cut would be others.
            lines = self._listing(shown, (), room)
        more = len(rows) - len(shown)
        return [*lines, *([f"and {more} more"] if more > 0 else [])]

    def _listing(
        self, rows: Sequence[StandingRow], measures: Sequence[str], room: int
    ) -> list[str]:
        """Rows with names that leave room for the numbers."""
        if not rows:
            return []
        numbers = [
            ("cells", *measures),
            *((f"{row.finished}/{row.total}", *row.measures[: len(measures)]) for row in rows),
        ]
        used = sum(2 + max(map(len, column)) for column in zip(*numbers, strict=True))
        listing = table("", "", *numbers[0], right=len(measures) + 1)
        for row, figures in zip(rows, numbers[1:], strict=True):
            listing.add_row(shorten(row.name, max(room - used, NAME_LETTERS)), *figures)
        return list(listing.lines())


def _size() -> os.terminal_size:
    """Of the terminal of standard error: standard output may be a file."""
    try:
        size = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        return get_terminal_size()
    # A terminal without a size says 0.
    return size if min(size) > 0 else get_terminal_size()


def shorten(name: str, letters: int) -> str:
    """The name without its middle, where it is longer: names differ at their ends. Empty where no
    more than the sign would be left.
    """
    if len(name) <= letters:
        return name
    if letters < 3:
        return ""
    end = letters // 2
    return f"{name[: letters - end - 1]}…{name[-end:]}"


LINE_SECONDS: Final = 10.0
SCREEN_SECONDS: Final = 0.25
BAR_LETTERS: Final = 24
NAME_LETTERS: Final = 12
"""That a name has at least; where a terminal has no room for them, numbers go."""
