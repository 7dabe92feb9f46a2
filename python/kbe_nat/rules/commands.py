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
        self._longest = 0
        """Characters that a command got to read."""

    def run(self, command: Sequence[str], text: str = "") -> str:
        """See `Runner.run`. Takes `LIMIT_SECONDS` at most, and more by what was put in so far: a
        command after that may list it.
        """
        self._longest = max(self._longest, len(text))
        seconds = LIMIT_SECONDS + self._longest / CHARACTERS_PER_SECOND
        return printed(
            command, RulesError, text=text, prefix=self._prefix, seconds=seconds, haste=self._haste
        )


LIMIT_SECONDS: Final = 5.0
"""A transaction takes tens of milliseconds."""
CHARACTERS_PER_SECOND: Final = 100_000
"""What a command reads at least on a busy node: some 2,000 elements of ipset."""
