"""How far a run of the lab is, on standard error: a table on a terminal, lines for a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from typing import Final

from kbe_nat.cli.output import table
from kbe_nat.lab.standing import MEASURES, Standing


@contextmanager
def run_progress(name: str, directory: Path) -> Iterator[Callable[[int, int], None]]:
    """Shows how many cells are finished, their main measures and the time left: on a terminal in
    place, else as a line every `LINE_SECONDS`.
    """
    if not sys.stderr.isatty():
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
        """Empty before the first cell is finished."""
        if self._before is None:
            self._before = done
        if done == self._before:
            return ""
        seconds = (time.monotonic() - self._started) / (done - self._before) * (total - done)
        return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"


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
        size = get_terminal_size()
        # A line that is wider than the terminal would take two, and be cleared by half.
        lines = [line[: size.columns - 1] for line in self._lines(size.lines - 4)]
        filled = BAR_LETTERS * done // max(total, 1)
        bar = "#" * filled + "-" * (BAR_LETTERS - filled)
        words = "  ".join(filter(None, (bar, f"{done}/{total}", remaining, self._name)))
        lines.append(words[: size.columns - 1])
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

    def _lines(self, room: int) -> list[str]:
        rows = self._standing.rows()
        listing = table("", "", "cells", *MEASURES, right=len(MEASURES) + 1)
        for row in rows[: max(room, 1)]:
            listing.add_row(row.name, f"{row.finished}/{row.total}", *row.measures)
        more = len(rows) - max(room, 1)
        return [*listing.lines(), *([f"and {more} more"] if more > 0 else [])]


LINE_SECONDS: Final = 10.0
SCREEN_SECONDS: Final = 0.25
BAR_LETTERS: Final = 24
