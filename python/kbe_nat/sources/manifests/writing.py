"""Files that are being written: their content does not count yet.

Where the kernel tells of a file (inotify), its writer has closed it. For a file that is only found
to be different the kernel is asked: a read lease is refused while anybody has the file open for
writing (fcntl(2)).
"""

import errno
import fcntl
import os
import signal
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from kbe_nat.sources.manifests.files import is_stream

Stamp: TypeAlias = tuple[int, int, int]
"""Inode, time of the last change in ns, and size in bytes: others whenever a file is written or
replaced.
"""


class Unsettled:
    """Files that are not taken as they are, and until when."""

    def __init__(self, gone_seconds: float) -> None:
        """A file that is gone or empty may come back for `gone_seconds`."""
        self._gone_seconds = gone_seconds
        self._held: dict[str, _Held] = {}

    def is_due(self, now: float) -> bool:
        """Whether one of them is to be looked at again."""
        return any(hold.until <= now for hold in self._held.values())

    def counts(
        self, file: str, before: Stamp | None, new: Stamp, now: float, *, is_closed: bool
    ) -> bool:
        """Whether a file that was `before` (None: it was not there) counts as it is
        now; `is_closed` when its writer has closed it, or it was put in place whole.
        """
        seconds = 0.0 if new == before else self._seconds(file, before, new, is_closed=is_closed)
        held = self._held.pop(file, None)
        until = now + seconds
        if held is not None and held.stamp == new:
            until = min(until, held.until)
        if until <= now:
            return True
        self._held[file] = _Held(new, until)
        return False

    def _seconds(self, file: str, before: Stamp | None, new: Stamp, *, is_closed: bool) -> float:
        """How long it has to stay as it is."""
        if new != GONE and not is_closed:
            has_writer = _has_writer(file)
            is_shorter = before is not None and new[2] < before[2]
            if has_writer or (has_writer is None and is_shorter):
                return WRITING_SECONDS
        return self._gone_seconds if before is not None and new[2] <= 0 else 0.0


@dataclass(frozen=True, slots=True)
class _Held:
    stamp: Stamp
    until: float


def stamp(file: str) -> Stamp:
    """The stamp of a file now; that of standard input, which is read once, never changes."""
    if is_stream(file):
        return 0, 0, 1
    try:
        # Not by a `Path`: all files of a directory are looked at, while changes wait.
        status = os.stat(file)  # noqa: PTH116
    except OSError:
        return GONE
    return status.st_ino, status.st_mtime_ns, status.st_size


def _has_writer(file: str) -> bool | None:
    """Whether anybody has the file open for writing; None where the kernel does not say."""
    try:
        if not stat.S_ISREG(Path(file).stat().st_mode):
            return None
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # A writer that opens the file in this moment waits until the lease ends, and the kernel
        # sends us a signal: one that is ignored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        # Others: the file is another user's, or its file system has no leases.
        return True if error.errno == errno.EAGAIN else None
    finally:
        os.close(descriptor)
    return False


GONE: Final = (0, 0, -1)
"""The stamp of what is not there, or cannot be looked at."""
WRITING_SECONDS: Final = 120.0
"""A file that its writer never closes counts when it has been the same for so long. So does one on
NFS, which refuses leases without a writer too.
"""
