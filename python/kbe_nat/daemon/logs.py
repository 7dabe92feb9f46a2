"""The daemon's log: one line per event on standard error, for people or as JSON."""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final


class LogFormat(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


def log_to_stderr(form: LogFormat, verbosity: int) -> None:
    """Send all log lines to standard error: warnings and events with verbosity 0, details from 1
    on.
    """
    handler = _Lines()
    handler.setFormatter(_Json() if form is LogFormat.JSON else _Text())
    if not verbosity:
        handler.addFilter(RateLimit())
    root = logging.getLogger("kbe_nat")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbosity else logging.INFO)
    root.propagate = False


class ConditionLog:
    """Lines that hold for a while: each is logged when it begins to hold, and not again until it
    has ceased to.
    """

    def __init__(self, level: int, over: str = "") -> None:
        """`over` is logged when the last one has ceased to hold."""
        self._level = level
        self._over = over
        self._lines: frozenset[str] = frozenset()

    def update(
        self, lines: Iterable[str], facts: Mapping[str, Mapping[str, object]] | None = None
    ) -> None:
        """These hold now, and no others; `facts` has the fields of some. Cost: linear in them."""
        now = dict.fromkeys(lines)
        for line in now:
            if line not in self._lines:
                LOG.log(self._level, "%s", line, extra={FACTS: (facts or {}).get(line, {})})
        if self._over and self._lines and not now:
            LOG.info("%s", self._over)
        self._lines = frozenset(now)


class RateLimit(logging.Filter):
    """Bounds the log, whatever happens: many lines at once, few for ever. Lines over the limit are
    counted, and the next line tells their number.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._tokens = float(BURST)
        """Lines that may be written now."""
        self._newest = clock()
        """When these were counted last."""
        self._missing = 0
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this record is written."""
        with self._lock:
            return self._passes(record)

    def _passes(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        self._tokens = min(BURST, self._tokens + (now - self._newest) * LINES_PER_SECOND)
        self._newest = now
        if self._tokens < 1:
            self._missing += 1
            return False
        self._tokens -= 1
        if self._missing:
            _append(record, f"({self._missing} lines before this one were left out)")
            self._missing = 0
        return True


class _Lines(logging.Handler):
    """Lines on standard error, while they are read there. Others are counted."""

    def __init__(self) -> None:
        super().__init__()
        self._stream = sys.stderr
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record."""
        if self._stream is None:  # closed by the parent process
            return
        if self._lost:
            _append(record, f"({self._lost} lines before this one were lost: nobody read them)")
        is_written = self._stream.write(f"{self.format(record)}\n")
        self._lost = 0 if is_written else self._lost + 1


def _append(record: logging.LogRecord, words: str) -> None:
    record.msg = f"{record.getMessage()} {words}"
    record.args = None


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        return f"{time}Z {record.levelname:<7} {_one_line(record)}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "message": _one_line(record)}
        return json.dumps({**line, **getattr(record, FACTS, {})})


def _one_line(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        message += f": {record.exc_info[1]!r}"
    return " ".join(message.split())


LOG: Final = logging.getLogger("kbe_nat.daemon")
FACTS: Final = "facts"
"""In a record: the fields that its line of JSON has beside the message."""
BURST: Final = 10_000
"""Lines: enough to say once what is wrong with each object of a large cluster."""
LINES_PER_SECOND: Final = 5.0
