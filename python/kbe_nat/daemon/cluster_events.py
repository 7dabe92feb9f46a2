"""Says by Events what the operators of a cluster must see of this node.

A condition is told when it begins to hold, and again only after it has ceased to. All nodes of a
cluster meet the same refused objects and disputes; `EventQueue` has the bounds.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Final

from kbe_nat.errors import KbeNatError, ObjectError
from kbe_nat.model import ServiceKey, Snapshot
from kbe_nat.policy.plan import HealthCheck
from kbe_nat.sources.events import Event, EventQueue
from kbe_nat.sources.kubernetes.entries import ORIGIN
from kbe_nat.sources.objects import refused_key


class ClusterEvents:
    """The Events of one node."""

    def __init__(
        self, queue: EventQueue, node: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` tells seconds."""
        self._queue = queue
        self._node = node
        self._clock = clock
        self._standing: frozenset[Event] = frozenset()
        self._delay = ""
        """Why the kernel lacks what the objects want; empty when it does not."""
        self._counted: float | None = None
        """When nodes were counted last."""

    def start(self) -> None:
        """The daemon serves, as kube-proxy says it."""
        key = ("Node", "", self._node)
        self._queue.record(Event(key, "Starting", "StartKubeProxy", is_warning=False))

    def update(
        self,
        errors: Sequence[KbeNatError],
        losses: Iterable[tuple[ServiceKey, str]],
        snapshot: Snapshot,
    ) -> None:
        """These objects are refused now, and these frontends are another Service's. Cost: linear in
        them; when there are new ones, now and then in the endpoints.
        """
        now = dict.fromkeys(chain(_refusals(errors), _disputes(losses)))
        news = [event for event in now if event not in self._standing]
        if news:
            self._count_nodes(snapshot)
        for event in news:
            self._queue.record(event)
        for event in self._standing - now.keys():
            self._queue.withdraw(event)
        self._standing = frozenset(now)

    def delay_rules(self, reason: str) -> None:
        """Why the kernel does not take what the objects want, such as no number that is free for a
        backend; empty: it does.
        """
        if reason and not self._delay:
            key = ("Node", "", self._node)
            self._queue.record(Event(key, "RulesNotUpToDate", "Program", reason))
        self._delay = reason

    def fail_health_check(self, check: HealthCheck, reason: str) -> None:
        """The health check of a Service cannot be answered, in kube-proxy's words."""
        key = ("Service", check.namespace, check.service)
        note = f"node {self._node}: health check port {check.port}: {reason}"
        self._queue.record(Event(key, "FailedToStartServiceHealthcheck", "Listen", note))

    def _count_nodes(self, snapshot: Snapshot) -> None:
        now = self._clock()
        if self._counted is None or now - self._counted >= COUNT_SECONDS:
            self._counted = now
            self._queue.spread(len(_nodes(snapshot)))


def _refusals(errors: Sequence[KbeNatError]) -> Iterable[Event]:
    for error in errors:
        # Objects of files are not in the cluster.
        if isinstance(error, ObjectError) and error.origin == ORIGIN:
            key = refused_key(error)
            if key[0] in KINDS:
                field = f"{error.path}: " if error.path else ""
                note = f"{field}{error.reason}"
                yield Event(key, "ObjectRefused", "Read", note, is_shared=True)


def _disputes(losses: Iterable[tuple[ServiceKey, str]]) -> Iterable[Event]:
    for (namespace, name), note in losses:
        yield Event(("Service", namespace, name), "AddressClaimed", "Claim", note, is_shared=True)


def _nodes(snapshot: Snapshot) -> set[str]:
    """The nodes that have endpoints: a part of all, and nearly all of a busy cluster."""
    slices = chain.from_iterable(snapshot.slices.values())
    # In C, since there may be hundreds of thousands.
    endpoints = chain.from_iterable(map(attrgetter("endpoints"), slices))
    return set(map(attrgetter("node"), endpoints))


KINDS: Final = ("Service", "EndpointSlice")
COUNT_SECONDS: Final = 60.0
"""Between two counts of nodes, which take some 35 ms at 150,000 endpoints."""
