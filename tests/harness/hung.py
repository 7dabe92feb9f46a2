"""Threads of a daemon that hang."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness.daemons import Daemon, pid


@contextmanager
def stopped(daemon: Daemon, name: str) -> Iterator[None]:
    """One thread of this name does not run; the others do."""
    tasks = Path(f"/proc/{pid(daemon)}/task").iterdir()
    thread, *_ = [int(task.name) for task in tasks if (task / "comm").read_text().strip() == name]
    _ptrace(PTRACE_SEIZE, thread)
    try:
        _ptrace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, WALL)
        yield
    finally:
        _ptrace(PTRACE_DETACH, thread)


def _ptrace(request: int, thread: int) -> None:
    LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if LIBC.ptrace(request, thread, None, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


LIBC: Final = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_DETACH: Final = 17
WALL: Final = 0x40000000
"""Of threads, too."""
