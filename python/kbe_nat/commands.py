"""System commands: each ends within a time limit, or is killed; any failure is one error.

A command that hangs must not hang its caller, and one that prints bytes of any kind (a device may
be named by any) must not end it.
"""

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Final

from kbe_nat.errors import KbeNatError


class GracePeriod:
    """Shorter time limits for commands, once their caller has been asked to end; and the caller's
    work while one runs.
    """

    def __init__(self) -> None:
        self.while_waiting: Callable[[], None] = lambda: None
        """Called several times a second, in the thread that waits for the command."""
        self._since = math.inf

    def start(self) -> None:
        """From now on, the command that runs is ended soon, and later ones have a few seconds
        altogether. A signal handler may call this.
        """
        self._since = min(self._since, time.monotonic())

    def deadline(self, started: float) -> float:
        """The time by which a command must be done that started at `started` (`time.monotonic`)."""
        return self._since + (RUNNING_SECONDS if started < self._since else ENDING_SECONDS)


def output_of(
    command: Sequence[str],
    failure: type[KbeNatError],
    *,
    text: str = "",
    prefix: Sequence[str] = (),
    seconds: float,
    grace: GracePeriod | None = None,
) -> str:
    """The output of a command that reads `text`; bytes that are no UTF-8 are replaced. `prefix`
    stands before the command, to run it elsewhere.

    Raises `failure` when it cannot be started, fails, is not done after `seconds` or prints without
    end: then it is killed, with all that it has started.
    """
    name = " ".join(command)
    started = time.monotonic()
    try:
        with _file(text.encode()) as source, _file() as output, _file() as complaint:
            # In a process group of its own: Ctrl-C at the terminal must not cut a transaction off.
            # Files are bounded, and never full: a pipe would have to be filled and emptied while we
            # wait.
            process = subprocess.Popen(
                [*prefix, *command], stdin=source, stdout=output, stderr=complaint, process_group=0
            )
            try:
                ending = _wait(
                    process, (output, complaint), started, seconds, grace or GracePeriod()
                )
            finally:
                _end(process)
            if ending:
                raise failure(f"{name}: {ending}, and killed")
            if process.returncode:
                reason = " ".join(_content(complaint).split()) or f"exit code {process.returncode}"
                raise failure(f"{name}: {reason}")
            return _content(output)
    except FileNotFoundError as error:
        raise failure(f"{error.filename} is not installed") from None
    except OSError as error:
        # No descriptor, process or memory is left, or it is no program.
        raise failure(f"{name}: {error.strerror or error}") from None


def _wait(
    process: "subprocess.Popen[bytes]",
    printed_to: Sequence[IO[bytes]],
    started: float,
    seconds: float,
    grace: GracePeriod,
) -> str:
    """Waits for the end of a process. Returns the reason why it must not go on, or "" at its end.
    The wait is in slices, because the grace period may start meanwhile, and the output may grow
    without end.
    """
    while True:
        remaining = min(started + seconds, grace.deadline(started)) - time.monotonic()
        try:
            process.wait(max(0.0, min(remaining, SLICE_SECONDS)))
        except subprocess.TimeoutExpired:
            if remaining <= SLICE_SECONDS:
                return f"not done after {time.monotonic() - started:.0f} s"
        else:
            return ""
        if sum(os.fstat(file.fileno()).st_size for file in printed_to) > MAX_BYTES:
            return f"it prints more than {MAX_BYTES >> 20} MB"
        grace.while_waiting()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kills a process that has not ended by itself. One that hangs in the kernel is left behind."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)


def _file(content: bytes = b"") -> IO[bytes]:
    """A file in memory that holds this."""
    file = os.fdopen(os.memfd_create("command"), "w+b")
    file.write(content)
    file.seek(0)
    return file


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(MAX_BYTES).decode(errors="replace")


MAX_BYTES: Final = 1 << 28
"""That a command may print: the rules of a very large cluster are a tenth of it."""
SLICE_SECONDS: Final = 0.1
KILL_SECONDS: Final = 1.0
RUNNING_SECONDS: Final = 0.5
ENDING_SECONDS: Final = 3.0
"""Rules are taken away in that time, so that SIGTERM is obeyed within 5 s (TimeoutStopSec of the
unit).
"""
