"""How a thread with an event loop begins."""

import asyncio
import threading
from _thread import start_new_thread
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 5.0
"""Seconds in which a thread begins."""


def begin(loop: asyncio.AbstractEventLoop, run: Callable[[], None], name: str) -> None:
    """Start a thread with `run`, which runs the loop, and wait until it does. Raises RuntimeError
    where there is no thread for it; a loop that no thread has is closed then.
    """
    started = threading.Event()
    loop.call_soon(started.set)
    try:
        # `Thread.start` would wait for ever for a thread that finds no memory to begin with.
        start_new_thread(run, ())
    except RuntimeError:
        loop.close()
        raise
    if not started.wait(PATIENCE):
        raise RuntimeError(f"the thread that {name} does not begin")
