"""What was found for each service port, kept from one plan to the next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from kbe_nat.policy import PortPolicy

T = TypeVar("T")
PortKey: TypeAlias = tuple[str, str, str, str, int]
"""Namespace, Service, port name, protocol and family."""


@dataclass(frozen=True, slots=True)
class Findings(Generic[T]):
    """What was found for the service ports of a plan."""

    known: dict[int, tuple[PortPolicy, T]]
    """By the policy's identity: an entry keeps its policy alive."""
    arrived: list[T]
    """Found for ports that the plan brings, or otherwise than before."""
    left: list[T]
    """What had been found for these, and for ports that it takes away."""

    @property
    def all(self) -> list[T]:
        """For every port, in the plan's order."""
        return [found for _, found in self.known.values()]

    @property
    def is_changed(self) -> bool:
        """Anything is found otherwise than before."""
        return bool(self.arrived or self.left)


class Remembered(Generic[T]):
    """Looks at a service port only when it has changed since the last plan."""

    def __init__(self, look: Callable[[PortPolicy], T]) -> None:
        self._look = look
        self._known: dict[int, tuple[PortPolicy, T]] = {}

    def findings(self, ports: Sequence[PortPolicy]) -> Findings[T]:
        """Against what was kept last. Cost: a look at those that changed, and next to nothing for the others,
        since the planner hands over the same policies again.
        """
        before, numbers = self._known, list(map(id, ports))
        if numbers == list(before):
            return Findings(before, [], [])
        # In C, for ten thousand ports at a time.
        entries = list(map(before.get, numbers))
        known: dict[int, Any] = dict(zip(numbers, entries, strict=True))
        gone = {_key(before[number][0]): before[number] for number in before.keys() - known.keys()}
        arrived, left = [], []
        for policy in [own for own, entry in zip(ports, entries, strict=True) if entry is None]:
            entry = gone.pop(_key(policy), None)
            if entry is None:
                found = self._look(policy)
                arrived.append(found)
            elif entry[0] == policy or (found := self._look(policy)) == entry[1]:
                found = entry[1]
            else:
                arrived.append(found)
                left.append(entry[1])
            known[id(policy)] = (policy, found)
        left += [found for _, found in gone.values()]
        return Findings(known, arrived, left)

    def keep(self, findings: Findings[T]) -> None:
        """What later plans are compared with."""
        self._known = findings.known

    def forget(self) -> None:
        """All ports are looked at again."""
        self._known = {}


def _key(policy: PortPolicy) -> PortKey:
    return policy.namespace, policy.service, policy.port_name, policy.protocol, policy.family
