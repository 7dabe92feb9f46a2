"""The service ports that a page shows: the first ones, in its order, that its search matches.

A page gets as many rows as people read, however many there are. The daemon searches, since it has
the names: once for each plan, because a search costs a look at all service ports, and at all
backends where a word may be a part of an address.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from heapq import nsmallest
from itertools import chain
from typing import Annotated, Final, TypeAlias

import msgspec

from kbe_nat.daemon.live.traffic import NOTHING, Counts, Key, Traffic
from kbe_nat.daemon.row_building import frontend_text
from kbe_nat.daemon.rows import DecisionAction
from kbe_nat.policy.plan import Plan, PlannedPort

Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=300)]


class Order(StrEnum):
    """The column that the table is sorted by."""

    NAME = "name"
    BACKENDS = "backends"
    ACTIVE = "active"
    FLOWS = "flows"
    PACKETS = "packets"
    BYTES = "bytes"
    REFUSED = "refused"


class View(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query of a page's stream."""

    search: Text = ""
    """Words; each is a part of a name, an address or a protocol."""
    order: Order = Order.ACTIVE
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50
    """Rows."""
    service: Text = ""
    """Key of the service port that is open; empty: none is."""
    client: Text = ""
    """Decisions about this client alone; empty: about all."""
    verdict: DecisionAction | None = None
    """Decisions with this verdict alone."""


class Selection:
    """The service ports of one page."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._words = view.search.lower().split()
        self._plan: Plan | None = None
        self.ports: Mapping[Key, PlannedPort] = {}
        """All service ports, whether or not they match."""
        self.matching: Mapping[Key, PlannedPort] = {}
        """The ones that match."""
        self._arrivals: dict[Key, float] = {}
        """When a service port has come, of those that came lately while the page was open."""

    def follow(self, plan: Plan, now: float) -> None:
        """Take over a plan. Cost: nothing for the one that was there, else linear in it."""
        if plan is self._plan:
            return
        ports = {(port.name, int(port.family)): port for port in plan.ports}
        if self._plan is not None:
            self._arrivals |= dict.fromkeys(ports.keys() - self.ports.keys(), now)
        self._plan, self.ports = plan, ports
        self.matching = {key: port for key, port in ports.items() if self._matches(port)}

    def first(self, traffic: Traffic, now: float) -> list[Key]:
        """The rows of the page: new ones, and then by the order that it asks for."""
        self._arrivals = {
            key: since for key, since in self._arrivals.items() if now - since < NEW_SECONDS
        }
        rank, arrivals = _rank(self._view.order, traffic, self.ports), self._arrivals
        return nsmallest(
            self._view.limit, self.matching, key=lambda key: (key not in arrivals, rank(key), key)
        )

    def is_new(self, key: Key) -> bool:
        """Whether it has come while the page was open, just now."""
        return key in self._arrivals

    def _matches(self, port: PlannedPort) -> bool:
        if not self._words:
            return True
        frontends = " ".join(map(frontend_text, port.frontends))
        text = f"{port.name} {port.protocol} ipv{int(port.family)} {port.strategy} {frontends}"
        text = text.lower()
        return all(word in text or _is_in_backends(word, port) for word in self._words)


def _is_in_backends(word: str, port: PlannedPort) -> bool:
    if not ADDRESS_PART.search(word):
        return False
    return any(
        word in str(backend) for backend in chain(port.cluster_backends, port.local_backends)
    )


def _rank(order: Order, traffic: Traffic, ports: Mapping[Key, PlannedPort]) -> Callable[[Key], int]:
    """The place of a service port, the smallest first; a tie is broken by the name."""
    if order is Order.NAME:
        return lambda key: 0
    if order is Order.BACKENDS:
        return lambda key: -len(ports[key].cluster_backends)
    counts, before = traffic.counts, traffic.before
    field = Counts._fields.index(order)
    if order is Order.ACTIVE:
        return lambda key: -counts.get(key, NOTHING)[field]
    return lambda key: before.get(key, NOTHING)[field] - counts.get(key, NOTHING)[field]


ADDRESS_PART: Final = re.compile(r"\d[.:]|[.:]\d|:[0-9a-f]")
"""A word with that may be a part of a backend's address."""
NEW_SECONDS: Final = 10.0
"""For which a service port counts as new."""
