"""Network namespaces: made, entered, and taken away with every process in them."""

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self, TypeVar

from kbe_nat.commands import output_of
from kbe_nat.errors import PlaygroundError

_T = TypeVar("_T")
FOLDER: Final = Path("/run/netns")
CLONE_NEWNET: Final = 0x40000000


class Namespace:
    """A network namespace with a name, for as long as the block runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._processes: list[subprocess.Popen[str]] = []

    @property
    def path(self) -> Path:
        """The file that stands for it."""
        return FOLDER / self.name

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words in front of a command that make it run inside."""
        return ("nsenter", f"--net={self.path}")

    def make(self) -> None:
        """Make it. Raises `PlaygroundError` when it exists, or the privilege is missing."""
        call("ip", "netns", "add", self.name)
        self.call("ip", "link", "set", "lo", "up")

    def take_away(self) -> None:
        """Take it away, if it is there. Its devices go when the last process in it has ended."""
        with suppress(PlaygroundError):
            call("ip", "netns", "delete", self.name)

    def __enter__(self) -> Self:
        self.make()
        return self

    def __exit__(self, *raised: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.take_away()

    def call(self, *command: str) -> str:
        """The output of a command that runs inside. Raises `PlaygroundError` when it fails."""
        return call(*self.prefix, *command)

    def write(self, path: str, text: str) -> None:
        """Write to a file of /proc/sys/net as it is inside."""
        inside(self.path, lambda: Path(path).write_text(text))

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a process inside; it is ended with the namespace. The caller may read its standard
        output. Raises `PlaygroundError` when it cannot be started.
        """
        try:
            process = subprocess.Popen(
                [*self.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # Ctrl-C at the terminal is for us: we end processes in our own order.
                start_new_session=True,
            )
        except OSError as error:
            raise PlaygroundError(f"{' '.join(command)}: {error.strerror or error}") from None
        self._processes.append(process)
        return process


def call(*command: str) -> str:
    """The output of a command. Raises `PlaygroundError` when it fails, or is not done after
    `LIMIT_SECONDS`.
    """
    return output_of(command, PlaygroundError, seconds=LIMIT_SECONDS)


def inside(path: Path, action: Callable[[], _T]) -> _T:
    """The result of `action`, called by a thread that has entered the network namespace of `path`.

    Sockets that it opens belong to that namespace ever after, in any thread. Raises the exception
    of `action`, or OSError when the namespace cannot be entered.
    """
    result: list[_T] = []
    raised: list[BaseException] = []

    def enter() -> None:
        try:
            with path.open("rb") as file:
                if LIBC.setns(file.fileno(), CLONE_NEWNET):
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), str(path))
            result.append(action())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=enter, name=f"inside {path.name}")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return result[0]


LIBC: Final = ctypes.CDLL(None, use_errno=True)
"""`os.setns` came with Python 3.12."""
STOP_SECONDS: Final = 2.0
LIMIT_SECONDS: Final = 60.0
"""Longer than any command of the playground takes on a busy machine."""
