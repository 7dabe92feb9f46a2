"""Connections and samples of files: CSV with a header, and captures.

What was read is kept as long as the file does not change, since many cells ask for the same. In the
place of values stands a text that says what is wrong with the file.
"""

import csv
import math
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

from kbe_nat.lab.captures import capture_connections

Connection: TypeAlias = tuple[float, int, float, float]
"""Seconds from the start, client, bytes and seconds of life."""
Content: TypeAlias = tuple[list[Connection], str | None] | str
"""Connections, and within what the file ends."""


def connections(path: Path) -> list[Connection] | str:
    """The connections of a trace in the order of time, or what is wrong with it."""
    content = _content(path)
    return content if isinstance(content, str) else content[0]


def cut(path: Path) -> str | None:
    """The packet or block within which a capture ends: there may be connections behind it."""
    content = _content(path)
    return None if isinstance(content, str) else content[1]


def _content(path: Path) -> Content:
    version = _version(path)
    return version if isinstance(version, str) else _connections(path, version)


def column_values(path: Path, column: str) -> list[float] | str:
    """The numbers of a column, or what is wrong with it."""
    version = _version(path)
    return version if isinstance(version, str) else _column(path, column, version)


def _version(path: Path) -> tuple[int, int, int] | str:
    """What changes with the file, or why it cannot be read: a FIFO would wait for ever, and a
    device may have no end.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    return status.st_ino, status.st_mtime_ns, status.st_size


@lru_cache(16)
def _connections(path: Path, _: tuple[int, int, int]) -> Content:
    if path.suffix in (".pcap", ".pcapng"):
        return capture_connections(path)
    rows: list[Connection] = []
    try:
        for number, row in _lines(path):
            try:
                time, size, life = (_number(row[name]) for name in ("time", "bytes", "lifetime"))
                rows.append((time, int(row["client"]), size, life))
            except KeyError as error:
                return f"line 1: the column {error.args[0]} is missing"
            except (TypeError, ValueError):
                return f"line {number}: time, client, bytes and lifetime are expected"
    except UnicodeDecodeError:
        return NOT_UTF8
    except (OSError, csv.Error) as error:
        return str(getattr(error, "strerror", None) or error)
    if any(min(row) < 0 or row[1] >= MAX_CLIENTS for row in rows):
        return "a number is negative, or a client's too large"
    return sorted(rows), None


@lru_cache(16)
def _column(path: Path, column: str, _: tuple[int, int, int]) -> list[float] | str:
    try:
        values = [_number(row[column]) for _, row in _lines(path)]
    except KeyError:
        return f"there is no column {column}"
    except UnicodeDecodeError:
        return NOT_UTF8
    except (TypeError, ValueError, csv.Error):
        return f"column {column} holds something else than numbers"
    except OSError as error:
        return error.strerror or str(error)
    if not values or min(values) < 0:
        return f"column {column} is empty, or holds negative numbers"
    return values


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by column, with the numbers of their lines."""
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            yield reader.line_num, row


def _number(text: str) -> float:
    """Raises ValueError for what is none, such as nan and inf."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


NOT_UTF8: Final = "it is not UTF-8"
MAX_CLIENTS: Final = 16_000_000
