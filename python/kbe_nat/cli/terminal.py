"""What standard output and standard error can show: a pipe and a plain terminal get nothing but
text.
"""

import os
import sys
from shutil import get_terminal_size
from typing import IO


def is_drawn_on(stream: IO[str] | None = None) -> bool:
    """Whether bold letters and lines that change may be written to a stream, standard output by
    default: a terminal that moves its cursor, whose user has not asked for text alone by NO_COLOR
    (no-color.org).
    """
    stream = sys.stdout if stream is None else stream
    return moves_cursor(stream) and not os.environ.get("NO_COLOR")


def moves_cursor(stream: IO[str]) -> bool:
    """Whether a stream is a terminal whose kind TERM says, and which is not the plainest."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def terminal_width() -> int | None:
    """The columns of the terminal that standard output is; None for a pipe or a file, which take
    lines of any length.
    """
    return get_terminal_size().columns if sys.stdout.isatty() else None
