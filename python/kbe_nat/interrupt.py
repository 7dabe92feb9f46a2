"""Ctrl-C while nothing is there to tidy up: it ends the process without a word.

The command arms it before it imports anything else, so this module, `kbe_nat.__main__` and the
package's own import nothing that costs time: not even `signal`, whose enumerations take longer than
all of it. What is left is the start of the interpreter, in which Python answers by a traceback.
"""

import _signal as signal  # type: ignore[import-not-found]
import os


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
