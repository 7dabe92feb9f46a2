"""Waiting for a state, never for a time, and with an end that a busy machine keeps."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

_T = TypeVar("_T")


def eventually(condition: Callable[[], _T], seconds: float = 30.0) -> _T:
    """What `condition` returns once that is true. A failed assertion in it counts as false.

    Raises AssertionError when `seconds` have passed.
    """
    deadline = time.monotonic() + seconds
    while True:
        with suppress(AssertionError):
            if state := condition():
                return state
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not come true within {seconds} s")
        time.sleep(PAUSE_SECONDS)


PAUSE_SECONDS: Final = 0.02
"""Between two looks."""
