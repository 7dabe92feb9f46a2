"""Backends that have left, and when the connections that they still have are ended."""

import time
from collections.abc import Iterator
from itertools import chain
from typing import TypeAlias

from kbe_nat.policy.delta import PlanDelta, PortFacts
from kbe_nat.policy.plan import Plan, PlannedPort

PortBackend: TypeAlias = tuple[str, str, int]
"""Name of a service port, and address and port of a backend."""


class BackendRemovals:
    """A `PlanConsumer`: deadlines of the TCP backends that service ports have lost."""

    def __init__(self, seconds: float | None) -> None:
        """Connections are ended so long after their backend has left; None: never."""
        self.seconds = seconds
        self._deadlines: dict[PortBackend, float] = {}

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`."""
        if self.seconds is None:
            return
        before: set[PortBackend] = set()
        after: set[PortBackend] = set()
        for old, new in delta.pairs():
            before |= _tcp_backends(old)
            after |= _tcp_backends(new)
        for backend in after:
            self._deadlines.pop(backend, None)
        self._deadlines |= dict.fromkeys(before - after, time.monotonic() + self.seconds)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`: backends that are back are no longer to be ended. Departures
        meanwhile are not known.
        """
        for port in plan.ports if self._deadlines else ():
            for backend in _tcp_backends_of(port):
                self._deadlines.pop(backend, None)

    def take_due(self) -> list[PortBackend]:
        """Backends whose deadline is reached, each once. Cost: linear in those that have one."""
        now = time.monotonic()
        if self.seconds is None:
            # They have become never while connections were waiting.
            self._deadlines.clear()
        due = [backend for backend, deadline in self._deadlines.items() if deadline <= now]
        for backend in due:
            del self._deadlines[backend]
        return due


def _tcp_backends(facts: PortFacts | None) -> set[PortBackend]:
    return set(_tcp_backends_of(facts.port)) if facts else set()


def _tcp_backends_of(port: PlannedPort) -> Iterator[PortBackend]:
    """Every backend of a TCP service port, whatever its weight."""
    if port.protocol == "tcp":
        name = port.name
        for backend in chain(port.cluster_backends, port.local_backends):
            yield name, backend.address, backend.port
