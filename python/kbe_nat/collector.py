"""Python's collector of cycles and the C library's memory, where objects come by the hundred
thousand.
"""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager


def collect_rarely() -> None:
    """Let the collector look after 50,000 new containers instead of 700. While objects come from an
    API server it would look at each young one up to three times, and finds no cycle.
    """
    gc.set_threshold(50_000)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the collector. A large file, and the first plan of it, are millions of values, all of
    them in use when they are done. The collector would go through them again and again: a third of
    the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def settle() -> None:
    """Take what is in use now for good: the collector passes over it from now on, and memory that
    is free goes back to the system. Cost: a look at all objects.
    """
    gc.collect()
    gc.freeze()
    # Reading and planning leave gaps between what stays, which glibc keeps for the process. Nothing
    # so large comes again: a change needs what it touches.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
