"""The seam between rules and the system: one way to run a command."""

import subprocess
from collections.abc import Sequence
from typing import Protocol

from kbe_nat.errors import RulesError


class Runner(Protocol):
    """Runs commands."""

    def run(self, command: Sequence[str], text: str = "") -> str:
        """What the command prints, when it got `text` to read. Raises `RulesError` when it fails."""
        ...


class Commands:
    """Runs commands here, or behind a prefix such as `nsenter --net=...`."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._prefix = tuple(prefix)

    def run(self, command: Sequence[str], text: str = "") -> str:
        """See `Runner.run`."""
        try:
            # In a process group of its own: Ctrl-C at the terminal must not cut a transaction off.
            done = subprocess.run(
                [*self._prefix, *command],
                input=text,
                capture_output=True,
                text=True,
                check=False,
                process_group=0,
            )
        except FileNotFoundError as error:
            raise RulesError(f"{error.filename} is not installed") from None
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise RulesError(f"{' '.join(command)}: {reason}")
        return done.stdout
