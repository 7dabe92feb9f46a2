"""Hands changes from the thread that reads sockets to the daemon's main thread.

The reader never waits: a server cuts off a watch that is not read after a few MB. So changes are
kept by object, the newest one only, and memory is bounded by the number of objects, not of changes.
An eventfd is readable while there is something to take.
"""

import os
import threading
from collections.abc import Iterable
from contextlib import suppress

from kbe_nat.errors import ObjectError
from kbe_nat.sources.kubernetes.answers import Entry
from kbe_nat.sources.objects import ObjectKey
from kbe_nat.sources.snapshot import ClusterObject


class Delivery:
    """What is new of one resource: a whole list, if there was one, and changes since."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, ClusterObject | ObjectError] | None = None
        """The whole list; None: the objects of before, changed."""
        self.changes: dict[ObjectKey, ClusterObject | ObjectError | None] = {}
        """None: the object is deleted."""


class Inbox:
    """Deliveries by the name of their resource. `take` is for the main thread, all else for the
    reader's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deliveries: dict[str, Delivery] = {}
        self._signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def descriptor(self) -> int:
        """Readable while there may be something to take."""
        return self._signal

    def replace(self, resource: str, entries: Iterable[Entry]) -> None:
        """All objects of a resource."""
        delivery = Delivery()
        delivery.objects = {entry.key: entry.object for entry in entries}
        with self._lock:
            self._deliveries[resource] = delivery
        self.wake()

    def put(self, resource: str, key: ObjectKey, value: ClusterObject | ObjectError | None) -> None:
        """One object, or None when it is deleted. Cost: constant."""
        with self._lock:
            is_first = resource not in self._deliveries
            delivery = self._deliveries.setdefault(resource, Delivery())
            # The newest change comes last, as it did.
            delivery.changes.pop(key, None)
            delivery.changes[key] = value
        if is_first:
            self.wake()

    def wake(self) -> None:
        """Let the main thread look, also at states."""
        os.eventfd_write(self._signal, 1)

    def take(self) -> dict[str, Delivery]:
        """All that is new since the last call."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._signal)
        with self._lock:
            deliveries, self._deliveries = self._deliveries, {}
        return deliveries

    def close(self) -> None:
        """Nothing is taken any more."""
        os.close(self._signal)
