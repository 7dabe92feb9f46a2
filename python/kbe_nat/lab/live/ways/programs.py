"""Programs that ways run on the node: commands that load rules, and servers that stay."""

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from kbe_nat.commands import output_of
from kbe_nat.errors import LabError
from kbe_nat.playground.namespaces import Namespace

PROBE_SECONDS: Final = 10.0
ENDING_SECONDS: Final = 60.0
"""In which a server takes the rules of 30,000 Services away."""


def load(node: Namespace, command: Sequence[str], text: str) -> float | None:
    """Let a command on the node read a text. Returns the most memory that it took, in MB; None if
    that was less than this process has taken, for the kernel counts from there: a child begins with
    its parent's memory (getrusage(2), ru_maxrss). Raises `LabError`.
    """
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as complaint:
        source.write(text.encode())
        source.seek(0)
        process = subprocess.Popen(
            [*node.prefix, *command],
            stdin=source,
            stdout=subprocess.DEVNULL,
            stderr=complaint,
            start_new_session=True,
        )
        try:
            # Its usage is told only here.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            complaint.seek(0)
            raise LabError(f"{' '.join(command)}: {_last_line(complaint.read())}")
    return round(usage.ru_maxrss / 1024, 1) if usage.ru_maxrss > inherited else None


def largest(peaks: Iterable[float | None]) -> float | None:
    """The largest of those that are known."""
    return max((peak for peak in peaks if peak is not None), default=None)


def refusal(command: Sequence[str], text: str = "") -> str | None:
    """Why a command with this input does not work in an empty network namespace, which is gone
    afterwards; None if it does.
    """
    try:
        output_of(("unshare", "--net", *command), LabError, text=text, seconds=PROBE_SECONDS)
    except LabError as error:
        return str(error).removeprefix("unshare --net ")
    return None


def not_installed(command: str, package: str) -> str | None:
    """A sentence when a command is not here."""
    if shutil.which(command):
        return None
    return f"{command} is not installed: apt install {package}"


class Program:
    """A server on the node, with pipes for its input and its output; it is ended with the block."""

    def __init__(
        self, node: Namespace, command: Sequence[str], *, ends_with_input: bool = False
    ) -> None:
        """One that `ends_with_input` is asked to end by the end of its input, others by SIGTERM;
        after `ENDING_SECONDS` it is killed. Raises `LabError` when it cannot be started.
        """
        self._name = " ".join(command)
        self._ends_with_input = ends_with_input
        # Closed in __exit__.
        self._complaint = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [*node.prefix, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaint,
                # Ctrl-C at the terminal is for us: we end processes in our own order.
                start_new_session=True,
            )
        except OSError as error:
            self._complaint.close()
            raise LabError(f"{self._name}: {error.strerror or error}") from None
        self.pid = self._process.pid
        """nsenter becomes the program, and keeps its number."""

    def send(self, content: bytes) -> None:
        """Write to its input. Raises `LabError` when it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(content)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._end_error() from None

    def line(self) -> str:
        """The next line of its output. Raises `LabError` when it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode(errors="replace")
        if not line:
            raise self._end_error()
        return line.rstrip("\n")

    def peak_mb(self) -> float:
        """The most memory that it has taken. Raises `LabError` when it has ended."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024, 1)
        except (OSError, IndexError):
            raise self._end_error() from None

    def check(self) -> None:
        """Raises `LabError` when it has ended."""
        if self._process.poll() is not None:
            raise self._end_error()

    def _end_error(self) -> LabError:
        status = self._process.wait(ENDING_SECONDS)
        self._complaint.seek(0)
        return LabError(f"{self._name} ended with {status}: {_last_line(self._complaint.read())}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        if not self._ends_with_input:
            process.terminate()
        try:
            process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._complaint.close()


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason is told"
