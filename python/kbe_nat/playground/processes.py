"""Processes that outlive the command that started them: their number and the moment of their start
tell them from others.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec


class Process(msgspec.Struct, frozen=True):
    """A process that we started."""

    pid: int
    started: int
    """Clock ticks after the system's start, so that another process with the same number is not
    taken for it.
    """

    @property
    def is_alive(self) -> bool:
        """Whether it is still there, and still ours."""
        return _start_time(self.pid) == self.started

    def end(self, seconds: float = 5.0) -> None:
        """Ask it to end, and make it when it does not."""
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            if not self.is_alive:
                return
            os.kill(self.pid, signal_number)
            deadline = time.monotonic() + seconds
            while self.is_alive and time.monotonic() < deadline:
                # A child of ours stays until its parent has waited for it.
                with suppress(ChildProcessError):
                    os.waitpid(self.pid, os.WNOHANG)
                time.sleep(0.01)


def start(command: Sequence[str], log: Path) -> Process:
    """Start a process in a session of its own; its output goes to the end of a file."""
    with log.open("a") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Process(child.pid, _start_time(child.pid) or 0)


def _start_time(pid: int) -> int | None:
    """When a process started; None when there is none, or only its exit code is left."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything (proc(5)).
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
