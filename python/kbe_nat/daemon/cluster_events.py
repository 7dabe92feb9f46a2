"""Says by Events what the operators of a cluster must see of this node.

A condition is told when it begins to hold, and again only after it has ceased to; all nodes of a
cluster meet the same ones. `EventQueue` has the bounds.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from kbe_nat.errors import KbeNatError, ObjectError
from kbe_nat.model import ServiceKey
from kbe_nat.policy.plan import HealthCheck
from kbe_nat.sources.events import Event, EventQueue
from kbe_nat.sources.kubernetes.entries import ORIGIN
from kbe_nat.sources.objects import refused_key


class ClusterEvents:
    """The Events of one node."""

    def __init__(self, queue: EventQueue, node: str) -> None:
        self._queue = queue
        self._node = node
        self._standing: frozenset[Event] = frozenset()

    def start(self) -> None:
        """The daemon serves, as kube-proxy says it."""
        key = ("Node", "", self._node)
        self._queue.record(Event(key, "Starting", "StartKubeProxy", is_warning=False))

    def update(
        self, errors: Sequence[KbeNatError], losses: Iterable[tuple[ServiceKey, str]]
    ) -> None:
        """These objects are refused now, and these frontends are another Service's. Cost: linear in
        them.
        """
        now = dict.fromkeys(chain(_refusals(errors), _disputes(losses)))
        for event in now:
            if event not in self._standing:
                self._queue.record(event)
        self._standing = frozenset(now)

    def fail_health_check(self, check: HealthCheck, reason: str) -> None:
        """The health check of a Service cannot be answered, in kube-proxy's words."""
        key = ("Service", check.namespace, check.service)
        note = f"node {self._node}: health check port {check.port}: {reason}"
        self._queue.record(Event(key, "FailedToStartServiceHealthcheck", "Listen", note))


def _refusals(errors: Sequence[KbeNatError]) -> Iterable[Event]:
    for error in errors:
        # Objects of files are not in the cluster.
        if isinstance(error, ObjectError) and error.origin == ORIGIN:
            key = refused_key(error)
            if key[0] in KINDS:
                field = f"{error.path}: " if error.path else ""
                yield Event(key, "ObjectRefused", "Read", f"{field}{error.reason}")


def _disputes(losses: Iterable[tuple[ServiceKey, str]]) -> Iterable[Event]:
    for (namespace, name), note in losses:
        yield Event(("Service", namespace, name), "AddressClaimed", "Claim", note)


KINDS: Final = ("Service", "EndpointSlice")
