"""What was found for each service port, kept from one plan to the next."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from kbe_nat.policy import PortPolicy

T = TypeVar("T")
PortKey: TypeAlias = tuple[str, str, str, str, int]
"""Namespace, Service, port name, protocol and family."""


@dataclass(frozen=True, slots=True)
class Findings(Generic[T]):
    """What was found for the service ports of a plan."""

    known: dict[PortKey, tuple[PortPolicy, T]]
    arrived: list[T]
    """For ports that the plan brings or changes."""
    left: list[T]
    """What had been found for ports that it changes or takes away."""

    @property
    def all(self) -> list[T]:
        """For every port, in the plan's order."""
        return [found for _, found in self.known.values()]


class Remembered(Generic[T]):
    """Looks at a service port only when it has changed since the last plan."""

    def __init__(self, look: Callable[[PortPolicy], T]) -> None:
        self._look = look
        self._known: dict[PortKey, tuple[PortPolicy, T]] = {}

    def findings(self, ports: Iterable[PortPolicy]) -> Findings[T]:
        """Against what was kept last. Cost: a comparison per port, and a look at those that changed."""
        before, known, arrived = self._known, {}, []
        for policy in ports:
            key = (policy.namespace, policy.service, policy.port_name, policy.protocol, policy.family)
            entry = before.get(key)
            if entry is None or not (entry[0] is policy or entry[0] == policy):
                entry = (policy, self._look(policy))
                arrived.append(entry[1])
            known[key] = entry
        return Findings(known, arrived, [own[1] for key, own in before.items() if known.get(key) is not own])

    def keep(self, findings: Findings[T]) -> None:
        """What later plans are compared with."""
        self._known = findings.known

    def forget(self) -> None:
        """All ports are looked at again."""
        self._known = {}
