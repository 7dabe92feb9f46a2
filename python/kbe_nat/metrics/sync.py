"""Counts changes of the objects on their way into the kernel, under kube-proxy's names."""

import time
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Final

from kbe_nat.family import Family
from kbe_nat.metrics import catalog
from kbe_nat.metrics.catalog import Metric
from kbe_nat.metrics.values import Histogram, Values
from kbe_nat.model import EndpointSlice, ServiceKey, Snapshot


class SyncMetrics:
    """Told of each change by one thread; any thread may collect."""

    def __init__(
        self, failures: Metric = catalog.NFTABLES_FAILURES, clock: Callable[[], float] = time.time
    ) -> None:
        """`failures` is the metric of refused changes; `clock` tells seconds since 1970."""
        self._clock = clock
        self._started = clock()
        self._all = Histogram(catalog.SYNC_DURATION)
        self._full = Histogram(catalog.FULL_SYNC_DURATION)
        self._partial = Histogram(catalog.PARTIAL_SYNC_DURATION)
        self._programming = Histogram(catalog.PROGRAMMING_DURATION)
        self._last = Values(catalog.LAST_SYNC)
        self._queued = Values(catalog.LAST_QUEUED)
        self._failures = Values(failures)
        self._service_changes = Values(catalog.SERVICE_CHANGES)
        self._services_pending = Values(catalog.SERVICE_CHANGES_PENDING)
        self._endpoint_changes = Values(catalog.ENDPOINT_CHANGES)
        self._endpoints_pending = Values(catalog.ENDPOINT_CHANGES_PENDING)
        self._service_changes.set(0)
        self._endpoint_changes.set(0)
        for family in FAMILIES:
            self._failures.set(0, family)
            self._queued.set(self._started, family)
        self._snapshot = Snapshot()
        """The newest one that was seen."""
        self._changed: list[EndpointSlice] = []
        """Slices that came or changed, and that the kernel does not have yet."""
        self._pending = (0, 0)
        """Changes of Services and of slices that the kernel does not have yet."""
        self._show_pending()

    def values(self) -> tuple[Values | Histogram, ...]:
        """All of them."""
        return (
            self._programming,
            self._full,
            self._partial,
            self._all,
            self._endpoints_pending,
            self._endpoint_changes,
            self._queued,
            self._last,
            self._failures,
            self._services_pending,
            self._service_changes,
        )

    def queue(self, snapshot: Snapshot, touched: Set[ServiceKey] | None) -> None:
        """A change was seen. Cost: linear in the touched Services; None: in all."""
        if snapshot is self._snapshot:
            return
        former, self._snapshot = self._snapshot, snapshot
        keys = {*former.slices, *snapshot.slices} if touched is None else touched
        services = endpoints = 0
        for key in keys:
            before, after = former.slices.get(key, ()), snapshot.slices.get(key, ())
            fresh = list(_other_slices(after, before))
            endpoints += max(len(fresh), len(list(_other_slices(before, after))))
            self._changed += fresh
            # A snapshot does not say which Services differ. One that is touched without its slices
            # does, and one whose first slice comes or last one goes most often does too.
            services += before is after or not (before and after)
        if touched is None:
            differing = _identities(former) ^ _identities(snapshot)
            services = len({key for key, _ in differing})
        self._service_changes.add(services)
        self._endpoint_changes.add(endpoints)
        self._pending = (self._pending[0] + services, self._pending[1] + endpoints)
        self._show_pending()
        now = self._clock()
        for family in FAMILIES:
            self._queued.set(now, family)

    def complete(self, seconds: float, *, is_full: bool) -> None:
        """The kernel has all that was seen; the last step took `seconds`."""
        now = self._clock()
        for family in FAMILIES:
            self._last.set(now, family)
            for durations in (self._all, self._full if is_full else self._partial):
                durations.observe(seconds, family)
        for part in self._changed:
            # Of what was there before us, the time tells nothing of our speed.
            if part.triggered is not None and part.triggered > self._started:
                seconds_since = max(0.0, now - part.triggered)
                self._programming.observe(seconds_since, FAMILY_NAMES[part.family])
        self._changed = []
        self._pending = (0, 0)
        self._show_pending()

    def fail(self) -> None:
        """The kernel has refused what was seen."""
        for family in FAMILIES:
            self._failures.add(1, family)

    def _show_pending(self) -> None:
        self._services_pending.set(self._pending[0])
        self._endpoints_pending.set(self._pending[1])


def _identities(snapshot: Snapshot) -> set[tuple[ServiceKey, int]]:
    """The Services by key and identity: equal ones are one object in snapshots of a source."""
    return {(service.key, id(service)) for service in snapshot.services}


def _other_slices(
    parts: Iterable[EndpointSlice], others: Iterable[EndpointSlice]
) -> Iterator[EndpointSlice]:
    """Those that are not among the others; equal ones are one object in snapshots of a source."""
    identities = set(map(id, others))
    return (part for part in parts if id(part) not in identities)


FAMILY_NAMES: Final = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}
FAMILIES: Final = tuple(FAMILY_NAMES.values())
"""A step brings both into force."""
