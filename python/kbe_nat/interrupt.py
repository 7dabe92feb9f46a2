"""Ctrl-C while nothing is there to tidy up: it ends the process without a word.

The command arms it before it imports anything else, so this module and the package's own import
nothing that costs time.
"""

import os
import signal


def arm() -> None:
    """Lets SIGINT end the process at once, unless it is ignored or someone else handles it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def disarm() -> None:
    """Lets SIGINT raise KeyboardInterrupt again, after `arm`."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    os._exit(INTERRUPTED)


BROKEN_PIPE = 141
"""That of a command which SIGPIPE has ended: its reader has seen enough."""
INTERRUPTED = 130
"""The exit code that a shell gives a command which SIGINT has ended."""
