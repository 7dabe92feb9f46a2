"""Standard error for a process that must not wait for its reader.

A pipe or terminal that nobody reads stops the process that writes to it: here that would be the
control loop. So a writer waits for a stuck reader once, for a moment; later lines are lost until
the reader is back, and writers hear of it.
"""

import io
import os
import select
import socket
import stat
import sys
import time
from typing import Final


class NonBlockingText(io.TextIOBase):
    """Text for a descriptor that may be stuck. Lines that have begun are finished before others
    follow.
    """

    def __init__(self, descriptor: int) -> None:
        """Raises OSError when the descriptor is closed."""
        self._descriptor = _without_waiting(descriptor)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)
        self._is_socket = stat.S_ISSOCK(os.fstat(self._descriptor).st_mode)
        self._rest = b""
        """Of what was taken, the part that has not been written."""
        self._is_stuck = False

    def write(self, text: str) -> int:
        """Write it; 0 when it is lost. Cost: up to `PATIENCE` seconds when the reader has just got
        stuck. Raises nothing: there is nowhere to say it.
        """
        self._send(self._rest)
        if self._rest:
            return 0
        self._send(text.encode(errors="backslashreplace"))
        return len(text)

    def _send(self, content: bytes) -> None:
        deadline = time.monotonic() + (0.0 if self._is_stuck else PATIENCE)
        while content:
            remaining = deadline - time.monotonic()
            if not self._poll.poll(max(0.0, remaining) * 1000):
                break
            try:
                content = content[self._put(content[: select.PIPE_BUF]) :]
            except BlockingIOError:
                if remaining <= 0:
                    break
                time.sleep(PAUSE)
            except OSError:
                # The reader is gone, or the disk is full.
                content = b""
        self._rest = content
        self._is_stuck = bool(content)

    def _put(self, content: bytes) -> int:
        if not self._is_socket:
            return os.write(self._descriptor, content)
        with socket.socket(fileno=os.dup(self._descriptor)) as stream:
            return stream.send(content, socket.MSG_DONTWAIT)


def make_stderr_nonblocking() -> None:
    """From now on no thread of this process waits for the reader of its standard error, unless
    something else than the process's own stands in its place.
    """
    original = sys.__stderr__
    if original is not None and sys.stderr is original:
        original.flush()
        sys.stderr = NonBlockingText(original.fileno())


def _without_waiting(descriptor: int) -> int:
    """The same pipe or terminal, opened once more: whether writers wait is then up to us, and stays
    as it was for those who share the descriptor.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or os.isatty(descriptor):
        try:
            return os.open(
                f"/proc/self/fd/{descriptor}",
                os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
            )
        except OSError:
            # Another user's. It is polled before each write all the same.
            pass
    return os.dup(descriptor)


PATIENCE: Final = 0.5
PAUSE: Final = 0.01
"""Seconds."""
