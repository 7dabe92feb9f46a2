"""The seam between rules and the system: one way to run a command."""

from collections.abc import Sequence
from typing import Final, Protocol

from kbe_nat.commands import Haste, printed
from kbe_nat.errors import RulesError


class Runner(Protocol):
    """Runs commands."""

    def run(self, command: Sequence[str], text: str = "") -> str:
        """What the command prints, when it got `text` to read. Raises `RulesError` when it fails."""
        ...


class Commands:
    """Runs commands here, or behind a prefix such as `nsenter --net=...`. One that hangs is killed."""

    def __init__(self, prefix: Sequence[str] = (), haste: Haste | None = None) -> None:
        """`haste` shortens the time limit of what runs."""
        self._prefix = tuple(prefix)
        self._haste = haste

    def run(self, command: Sequence[str], text: str = "") -> str:
        """See `Runner.run`. Takes `LIMIT_SECONDS` at most."""
        return printed(
            command, RulesError, text=text, prefix=self._prefix, seconds=LIMIT_SECONDS, haste=self._haste
        )


LIMIT_SECONDS: Final = 5.0
"""Half of the watchdog's patience (packaging/kbe-nat.service). A transaction takes tens of milliseconds; with
100,000 elements, one second.
"""
