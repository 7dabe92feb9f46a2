"""The seam between rules and the system: one way to run a command."""

from collections.abc import Sequence
from typing import Final, Protocol

from kbe_nat.commands import GracePeriod, output_of
from kbe_nat.errors import RulesError


class Runner(Protocol):
    """Runs commands."""

    def run(self, command: Sequence[str], text: str = "") -> str:
        """Returns the output of the command, with `text` as its input. Raises `RulesError` when the
        command fails.
        """
        ...


class Commands:
    """Runs commands here, or behind a prefix such as `nsenter --net=...`; kills one that hangs."""

    def __init__(self, prefix: Sequence[str] = (), grace: GracePeriod | None = None) -> None:
        """`grace` shortens the time limits."""
        self._prefix = tuple(prefix)
        self._grace = grace
        self._longest = 0
        """Characters of the longest input so far."""

    def run(self, command: Sequence[str], text: str = "") -> str:
        """See `Runner.run`. Takes `LIMIT_SECONDS` at most, and more after a long input: a later
        command may list everything that it has put into the kernel.
        """
        self._longest = max(self._longest, len(text))
        seconds = LIMIT_SECONDS + self._longest / CHARACTERS_PER_SECOND
        return output_of(
            command, RulesError, text=text, prefix=self._prefix, seconds=seconds, grace=self._grace
        )


LIMIT_SECONDS: Final = 5.0
"""A transaction takes tens of milliseconds."""
CHARACTERS_PER_SECOND: Final = 100_000
"""The pace of commands on a busy node, at least: some 2,000 elements of ipset a second."""
