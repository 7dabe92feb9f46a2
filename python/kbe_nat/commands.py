"""System commands: each ends within a time limit, or is killed; whatever goes wrong is one error.

A command that hangs must not hang its caller, and one that prints bytes of any kind (a device may be named
by any) must not end it.
"""

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from kbe_nat.errors import KbeNatError


class Haste:
    """Shorter time limits for commands, once their caller has been asked to end; and what it does while one
    runs.
    """

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        """Called several times a second, in the thread that waits for the command."""
        self._since = math.inf

    def begin(self) -> None:
        """From now on, what runs is ended soon, and what is still to come has a few seconds altogether. May be
        called by a signal handler.
        """
        self._since = min(self._since, time.monotonic())

    def deadline(self, started: float) -> float:
        """When a command that was started at `started` (`time.monotonic`) has to be done."""
        return self._since + (RUNNING_SECONDS if started < self._since else ENDING_SECONDS)


def printed(
    command: Sequence[str],
    failure: type[KbeNatError],
    *,
    text: str = "",
    prefix: Sequence[str] = (),
    seconds: float,
    haste: Haste | None = None,
) -> str:
    """What the command prints, when it got `text` to read; bytes that are no UTF-8 are replaced. `prefix`
    stands before the command, to run it elsewhere.

    Raises `failure` when it cannot be started, fails, or is not done after `seconds`: then it is killed, with
    all that it has started.
    """
    name = " ".join(command)
    started = time.monotonic()
    try:
        # In a process group of its own: Ctrl-C at the terminal must not cut a transaction off. What it reads is a
        # file: `communicate` forgets to go on writing to a pipe once its time limit has passed.
        with os.fdopen(os.memfd_create("input"), "w+b") as given:
            given.write(text.encode())
            given.seek(0)
            process = subprocess.Popen(
                [*prefix, *command],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
            )
    except FileNotFoundError as error:
        raise failure(f"{error.filename} is not installed") from None
    except OSError as error:
        # No descriptor, process or memory is left, or it is no program.
        raise failure(f"{name}: {error.strerror or error}") from None
    try:
        output, complaint = _communicate(process, started, seconds, haste or Haste())
    except subprocess.TimeoutExpired:
        spent = time.monotonic() - started
        raise failure(f"{name}: not done after {spent:.0f} s, and killed") from None
    except OSError as error:
        raise failure(f"{name}: {error.strerror or error}") from None
    finally:
        _end(process)
    if process.returncode:
        reason = " ".join(complaint.decode(errors="replace").split()) or f"exit code {process.returncode}"
        raise failure(f"{name}: {reason}")
    return output.decode(errors="replace")


def _communicate(
    process: "subprocess.Popen[bytes]", started: float, seconds: float, haste: Haste
) -> tuple[bytes, bytes]:
    """Raises `subprocess.TimeoutExpired`. The wait is in slices, because haste may begin meanwhile."""
    while True:
        left = min(started + seconds, haste.deadline(started)) - time.monotonic()
        try:
            return process.communicate(timeout=max(0.0, min(left, SLICE_SECONDS)))
        except subprocess.TimeoutExpired:
            if left <= SLICE_SECONDS:
                raise
        haste.meanwhile()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kills what has not ended by itself. What the kernel does not let go is left behind."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


SLICE_SECONDS: Final = 0.1
KILL_SECONDS: Final = 1.0
RUNNING_SECONDS: Final = 0.5
ENDING_SECONDS: Final = 3.0
"""Rules are taken away in that time, so that SIGTERM is obeyed within 5 s (TimeoutStopSec of the unit)."""
