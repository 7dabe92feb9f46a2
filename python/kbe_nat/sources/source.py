"""Where the state of the cluster comes from: files, an API server, or both.

A source keeps the newest objects in a `kbe_nat.sources.store.Store`, which several sources may
share, and yields a `SourceUpdate` each time they change. It has no opinion on what is served:
`kbe_nat.policy` decides that.
"""

import select
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Final, Protocol

from kbe_nat.errors import KbeNatError
from kbe_nat.model import ServiceKey, Snapshot
from kbe_nat.sources.file_state import FileState
from kbe_nat.sources.watch_state import WatchState


@dataclass(frozen=True, slots=True)
class SourceUpdate:
    """The whole state, and which part of it differs from the update before."""

    snapshot: Snapshot
    touched: Set[ServiceKey] | None = None
    """Services whose Service or EndpointSlices may differ from the last update of this source,
    those that it brings or takes away among them. All else of the snapshot is equal then, the order
    of the other Services too. None: anything may differ.
    """
    errors: tuple[KbeNatError, ...] = ()
    """The errors now: origins that cannot be read, then objects that are refused. The snapshot has
    the last good form of each, or leaves it out.
    """
    notes: tuple[str, ...] = ()
    """Parts of objects that are left out or filled in now, one line each."""
    warnings: tuple[str, ...] = ()
    """Why nothing is served now, one line each."""

    def covering(self, earlier: "SourceUpdate | None") -> "SourceUpdate":
        """This update, for a consumer that has not taken over the `earlier` one. Cost: linear in
        the Services that both touch.
        """
        if earlier is None or self.touched is None:
            return self
        if earlier.touched is None:
            return replace(self, touched=None)
        return replace(self, touched=self.touched | earlier.touched)


class Source(Protocol):
    """Yields whole snapshots, each with what differs from the one before.

    All methods are called from one thread, the daemon's main thread. A source that listens to a
    network does so in a thread of its own, queues the changes there and applies them to its store
    in `read`: neither a slow peer nor a flood of changes may hold up `read`, and a snapshot is
    never half new.
    """

    def read(self) -> SourceUpdate | None:
        """The state now; None when it equals the last update. Does not wait for anything.

        Raises `KbeNatError` when the state as a whole cannot be read; the last update then stays in
        force, and the next one says what it touches since then. A part that cannot be read (a file,
        an object) is no exception: `SourceUpdate.errors` names it. At the first call an error means
        that there is nothing to serve, so the daemon does not start. A source that has yet to hear
        from its peer returns None then.
        """
        ...

    def wait(self, seconds: float) -> bool:
        """Wait for at most `seconds` until the state may have changed. Returns whether it may."""
        ...

    def descriptors(self) -> Sequence[int]:
        """Descriptors that become readable when the state may have changed."""
        ...

    def watches(self) -> Sequence[WatchState]:
        """How far each watch of an API server is. May be called from any thread."""
        ...

    def files(self) -> Sequence[FileState]:
        """What is read of each path of files. May be called from any thread."""
        ...

    def close(self) -> None:
        """End what the first `read` has begun."""
        ...


class Sources:
    """Several sources that share a store, as one."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """The update of the last one that has any says what all of them have."""
        self._sources = sources
        self._has_begun = [False] * len(sources)
        self._pending: SourceUpdate | None = None

    def read(self) -> SourceUpdate | None:
        """See `Source.read`: None until each source has its first state."""
        for index, source in enumerate(self._sources):
            update = source.read()
            if update is not None:
                # The store's updates are cumulative, what they touch is not.
                self._pending = update.covering(self._pending)
                self._has_begun[index] = True
        if not all(self._has_begun):
            return None
        update, self._pending = self._pending, None
        return update

    def wait(self, seconds: float) -> bool:
        """See `Source.wait`."""
        ready, _, _ = select.select(self.descriptors(), [], [], seconds)
        if not ready:
            return False
        if any(source.wait(0.0) for source in self._sources):
            return True
        # One of them has news, and holds them back for a moment.
        time.sleep(min(seconds, HOLD_SECONDS))
        return False

    def descriptors(self) -> list[int]:
        """See `Source.descriptors`."""
        return [number for source in self._sources for number in source.descriptors()]

    def watches(self) -> list[WatchState]:
        """See `Source.watches`."""
        return [state for source in self._sources for state in source.watches()]

    def files(self) -> list[FileState]:
        """See `Source.files`."""
        return [state for source in self._sources for state in source.files()]

    def close(self) -> None:
        """See `Source.close`."""
        for source in self._sources:
            source.close()


HOLD_SECONDS: Final = 0.005
