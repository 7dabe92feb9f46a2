"""The node's own addresses, which come and go."""

import time
from collections.abc import Callable
from typing import Final, Protocol


class Addresses(Protocol):
    """Who tells of them: `NodeAddresses`."""

    def has_changed(self) -> bool:
        """Whether they may have changed since this was asked last."""
        ...

    def globals(self) -> list[str]:
        """All but loopback's and link-local ones."""
        ...


class LocalAddresses:
    """As the kernel tells of them."""

    def __init__(self, addresses: Addresses, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self._addresses = addresses
        self._clock = clock
        self._found: list[str] | None = None
        self._due = 0.0
        """When they are read again although nothing was heard."""

    def look(self) -> bool:
        """Whether addresses or devices may have changed since the last look: the kernel says so, or
        it has been silent for long. Raises `RulesError`. Cost: a system call while nothing changes.
        """
        if self._addresses.has_changed():
            self._due = 0.0
        if self._clock() < self._due:
            return False
        self._found = self._addresses.globals()
        self._due = self._clock() + REREAD_SECONDS
        return True

    def found(self) -> list[str]:
        """Every address but loopback's and link-local ones. Raises as `look`, the first time."""
        if self._found is None:
            self.look()
        return self._found or []


REREAD_SECONDS: Final = 60.0
