"""The traffic of a node now: counters at two moments, and rates between them.

**Cost.** A moment costs one native snapshot of the counters, for which packets wait as for a scrape
of /metrics, and a pass over the service ports. All pages share it. In first-packet the kernel has
the counters of connections that go on, and is asked for them first; where that takes long, moments
are so rare that it stays at `SHARE` of a processor. A rate is a difference over the time that lies
between the moments, so a moment may come late. Without a page nothing is looked at, and nothing is
remembered.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeAlias

from kbe_nat._native import BackendStats, ServiceStats
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.live.rows import CauseRow, RateRow

Key: TypeAlias = tuple[str, int]
"""Name and family of a service port."""


class Counts(NamedTuple):
    """Counters so far; packets and bytes in both directions together."""

    active: int
    flows: int
    packets: int
    bytes: int
    refused: int


class Rates(NamedTuple):
    """Growth in a second."""

    flows: float
    packets: float
    bytes: float
    refused: float


class Traffic:
    """The counters of all service ports, and their rates. Its methods are called by one thread at a
    time.
    """

    def __init__(self, controller: Controller, clock: Callable[[], float] = time.monotonic) -> None:
        self._controller = controller
        self._clock = clock
        self.services: dict[Key, ServiceStats] = {}
        self.counts: dict[Key, Counts] = {}
        self.rates: RateRow | None = None
        """Of all together; None before there are two moments."""
        self.causes: list[CauseRow] = []
        """Refusals of all together."""
        self.is_counted = False
        """Whether packets and bytes are."""
        self.moment = 0.0
        """When the counters were looked at; 0: not yet."""
        self._due = 0.0
        """When the next moment may be."""
        self.before: dict[Key, Counts] = {}
        """The counters at the moment before; empty where there is none."""
        self._causes_before: dict[str, int] = {}
        self._seconds = 0.0
        """Between the two moments; 0: there is one alone."""

    def look(self) -> None:
        """Look at the counters, unless that was done just now."""
        started = self._clock()
        if started < self._due:
            return
        self._controller.datapath.refresh()
        now = self._clock()
        self._due = started + max(PERIOD, (now - started) / SHARE)
        stats = self._controller.engine.stats()
        self.is_counted = self._controller.datapath.counts_bytes()
        self.before, self._seconds = self.counts, now - self.moment if self.moment else 0.0
        self.moment = now
        self.services = {(service.name, service.family): service for service in stats.services}
        self.counts = {
            key: counts_of(service, sum(service.refused.values()))
            for key, service in self.services.items()
        }
        self._sum()

    def forget(self) -> None:
        """Give the memory back, since no page is open."""
        self.moment = self._due = self._seconds = 0.0
        self.services, self.counts, self.before = {}, {}, {}
        self._causes_before = {}
        self.rates, self.causes = None, []

    def rates_of(self, key: Key) -> Rates | None:
        """The rates of a service port; None before there are two moments."""
        counts = self.counts.get(key)
        # A service port that has come between the moments had counted nothing before.
        before = self.before.get(key, NOTHING)
        return growth(before, counts, self._seconds) if counts else None

    def _sum(self) -> None:
        active = flows = packets = octets = refused = 0
        for key, now in self.counts.items():
            before = self.before.get(key, NOTHING)
            active += now.active
            if now[1:] != before[1:]:
                # Counters of a service port that came back have begun anew.
                flows += max(0, now.flows - before.flows)
                packets += max(0, now.packets - before.packets)
                octets += max(0, now.bytes - before.bytes)
                refused += max(0, now.refused - before.refused)
        each = 1 / self._seconds if self._seconds else 0.0
        self.rates = RateRow(
            active=active,
            flows=three_digits(flows * each),
            packets=three_digits(packets * each) if self.is_counted else None,
            bytes=three_digits(octets * each) if self.is_counted else None,
            refused=three_digits(refused * each),
        )
        causes = _causes(self.services.values())
        self.causes = [
            CauseRow(cause, count, self._cause_rate(cause, count))
            for cause, count in sorted(causes.items(), key=lambda item: (-item[1], item[0]))
        ]
        self._causes_before = causes

    def _cause_rate(self, cause: str, count: int) -> float | None:
        if not self._seconds:
            return None
        return three_digits(max(0, count - self._causes_before.get(cause, 0)) / self._seconds)


def counts_of(stats: ServiceStats | BackendStats, refused: int = 0) -> Counts:
    """The counters of one service port or backend; backends refuse nothing."""
    return Counts(stats.active, stats.flows, sum(stats.packets), sum(stats.bytes), refused)


def growth(before: Counts, now: Counts, seconds: float) -> Rates | None:
    """The rates between two moments; None where no time lies between them."""
    if not seconds:
        return None
    return Rates(
        *(
            three_digits(max(0, late - early) / seconds)
            for early, late in zip(before[1:], now[1:], strict=True)
        )
    )


def three_digits(rate: float) -> float:
    """A rate with as many digits as people read, so that a steady one stays the same."""
    return float(f"{rate:.3g}")


def _causes(services: Iterable[ServiceStats]) -> dict[str, int]:
    total: dict[str, int] = {}
    for service in services:
        for cause, count in service.refused.items():
            total[cause] = total.get(cause, 0) + count
    return total


NOTHING: Final = Counts(0, 0, 0, 0, 0)
PERIOD: Final = 0.9
"""Seconds between two moments, at least: shorter than the stream's, whose turns vary."""
SHARE: Final = 0.1
