"""The node's own addresses, which come and go."""

import time
from collections.abc import Callable
from typing import Final, Protocol


class Addresses(Protocol):
    """The kernel's view of them: `NodeAddresses`."""

    def has_changed(self) -> bool:
        """Whether they may have changed since this was asked last."""
        ...

    def globals(self) -> list[str]:
        """All but loopback's and link-local ones."""
        ...


class LocalAddresses:
    """The newest addresses, as the kernel tells of them."""

    def __init__(self, addresses: Addresses, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self._addresses = addresses
        self._clock = clock
        self._newest: list[str] | None = None
        self._due = 0.0
        """When they are read again although the kernel was silent."""

    def poll(self) -> bool:
        """Whether addresses or devices may have changed since the last poll: the kernel says so, or
        it has been silent for long. Raises `RulesError`. Cost: a system call while nothing changes.
        """
        if self._addresses.has_changed():
            self._due = 0.0
        if self._clock() < self._due:
            return False
        self._newest = self._addresses.globals()
        self._due = self._clock() + REREAD_SECONDS
        return True

    def current(self) -> list[str]:
        """Every address but loopback's and link-local ones. Raises as `poll`, the first time."""
        if self._newest is None:
            self.poll()
        return self._newest or []


REREAD_SECONDS: Final = 60.0
