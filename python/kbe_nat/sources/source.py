"""Where the state of the cluster comes from. Each source is one file that implements `Source`."""

from dataclasses import dataclass
from typing import Protocol

from kbe_nat.errors import FileError, ObjectError
from kbe_nat.model import Snapshot


@dataclass(frozen=True, slots=True)
class Reading:
    """A snapshot, and what was found on the way to it."""

    snapshot: Snapshot
    refused: tuple[ObjectError, ...] = ()
    """Objects that are not in the snapshot because they are wrong."""
    notes: tuple[str, ...] = ()
    """Parts of objects that are left out or filled in, one line each, whenever they were read."""
    unread: tuple[FileError, ...] = ()
    """Files that could not be read. What they said last is in the snapshot."""
    warnings: tuple[str, ...] = ()
    """Why nothing is served, one line each."""

    @property
    def errors(self) -> tuple[FileError | ObjectError, ...]:
        """Everything that is wrong."""
        return *self.unread, *self.refused


class Source(Protocol):
    """Yields whole snapshots."""

    def read(self) -> Reading | None:
        """The state now; None when it is the one that was read last. Does not wait.

        Raises `KbeNatError` when there is nothing to read; the state that was read last then stays
        good. What is wrong with a part of it is in the reading.
        """
        ...

    def wait(self, seconds: float) -> bool:
        """Wait until there may be another state, at most so long; whether there may."""
        ...
