"""Operators' drains and strategies, and the daemon's own choices, which go before what the objects
say.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain

from msgspec import structs

from kbe_nat.model import Choice, ServiceKey, Strategy
from kbe_nat.policy.plan import Backend, PlannedPort


@dataclass(frozen=True, slots=True)
class Drain:
    """A backend that gets no new flows."""

    backend: str
    """Address, or address and port."""
    deadline: float | None = None
    """When its last flows are ended, as `time.monotonic` counts; None: never."""

    @property
    def address(self) -> str:
        """Of the backend, without its port."""
        if self.backend.startswith("["):
            return self.backend[1:].partition("]")[0]
        has_port = self.backend.count(":") == 1
        return self.backend.partition(":")[0] if has_port else self.backend

    def covers(self, backend: Backend) -> bool:
        """Whether this endpoint is meant."""
        return self.backend in (backend.address, str(backend))

    def stands_in(self, port: PlannedPort) -> bool:
        """Whether the backend may serve this port."""
        # Most backends share no text with the one that is drained.
        return any(
            backend.address in self.backend and self.covers(backend)
            for backend in chain(port.cluster_backends, port.local_backends)
        )

    @property
    def is_over(self) -> bool:
        """Its deadline is reached."""
        return self.deadline is not None and self.deadline <= time.monotonic()


class Overrides:
    """Drains by backend, and strategies by service port. They stay while objects come and go."""

    def __init__(self) -> None:
        self.drains: dict[str, Drain] = {}
        self._strategies: dict[str, Strategy] = {}
        self.kernel_ports: frozenset[str] = frozenset()
        """Service ports for which the kernel chooses, of those that leave it open."""

    def set_strategy(self, ports: Iterable[PlannedPort], strategy: Strategy | None) -> int:
        """Choose the backends of these ports so; None: as their objects say. Returns for how many
        names of ports that was done: with None for those that had a strategy of ours.
        """
        names = {port.name for port in ports}
        if strategy is None:
            return sum(self._strategies.pop(name, None) is not None for name in names)
        self._strategies.update(dict.fromkeys(names, strategy))
        return len(names)

    def apply_to(self, port: PlannedPort) -> PlannedPort:
        """The port as operators want it. Cost: linear in its backends, however many drains there
        are; nothing without any.
        """
        # The planner asks about every port that it plans, and most nodes have no overrides.
        strategy = self._strategies.get(port.name, port.strategy) if self._strategies else None
        if strategy is not None and strategy is not port.strategy:
            port = replace(port, strategy=strategy)
        if port.name in self.kernel_ports and port.choice is not Choice.ENGINE:
            port = replace(port, choice=Choice.KERNEL)
        return self._with_drains(port) if self.drains else port

    def _with_drains(self, port: PlannedPort) -> PlannedPort:
        if not any(map(self._is_drained, chain(port.cluster_backends, port.local_backends))):
            return port
        return replace(
            port,
            cluster_backends=tuple(map(self._with_drain, port.cluster_backends)),
            local_backends=tuple(map(self._with_drain, port.local_backends)),
        )

    def _with_drain(self, backend: Backend) -> Backend:
        return structs.replace(backend, weight=0) if self._is_drained(backend) else backend

    def _is_drained(self, backend: Backend) -> bool:
        return backend.address in self.drains or str(backend) in self.drains


def service_keys(ports: Iterable[PlannedPort]) -> frozenset[ServiceKey]:
    """The Services of these ports."""
    return frozenset(port.service_key for port in ports)
