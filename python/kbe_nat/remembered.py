"""What was found for each service port, kept from one plan to the next."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Generic, TypeAlias, TypeVar

from kbe_nat.policy import PortPolicy

T = TypeVar("T")
PortKey: TypeAlias = tuple[str, str, str, str, int]
"""Namespace, Service, port name, protocol and family."""


@dataclass(frozen=True, slots=True)
class Findings(Generic[T]):
    """What was found for the service ports of a plan."""

    arrived: list[T]
    """Found for ports that the plan brings, or otherwise than before."""
    left: list[T]
    """What had been found for these, and for ports that it takes away."""
    ports: Sequence[PortPolicy]
    """All, in the plan's order."""
    numbers: Mapping[int, PortPolicy]
    """The same by identity."""
    looked_at: Mapping[int, tuple[PortPolicy, T]]
    """What was found for those that are not the same objects as before; an entry keeps its policy alive."""
    known: Mapping[int, tuple[PortPolicy, T]]
    """What had been found for the others."""

    @property
    def all(self) -> list[T]:
        """For every port, in the plan's order."""
        entries = {**self.known, **self.looked_at}
        return list(map(itemgetter(1), map(entries.__getitem__, self.numbers)))

    @property
    def is_changed(self) -> bool:
        """Anything is found otherwise than before."""
        return bool(self.arrived or self.left)


class Remembered(Generic[T]):
    """Looks at a service port only when it has changed since the last plan."""

    def __init__(self, look: Callable[[PortPolicy], T]) -> None:
        self._look = look
        self._known: dict[int, tuple[PortPolicy, T]] = {}
        """By the policy's identity."""
        self._last: Findings[T] = Findings([], [], (), {}, {}, {})

    def findings(self, ports: Sequence[PortPolicy]) -> Findings[T]:
        """Against what was kept last. Cost: a look at those that changed, and next to nothing for the others,
        since the planner hands over the same policies again.
        """
        known, last = self._known, self._last
        if ports is last.ports:
            return Findings([], [], ports, last.numbers, {}, known)
        # In C, for ten thousand ports at a time.
        by_number = dict(zip(map(id, ports), ports, strict=True))
        gone = {_key(known[number][0]): known[number] for number in known.keys() - by_number.keys()}
        looked_at: dict[int, tuple[PortPolicy, T]] = {}
        arrived, left = [], []
        for number in by_number.keys() - known.keys():
            policy = by_number[number]
            entry = gone.pop(_key(policy), None)
            if entry is None:
                found = self._look(policy)
                arrived.append(found)
            elif entry[0] == policy or (found := self._look(policy)) == entry[1]:
                found = entry[1]
            else:
                arrived.append(found)
                left.append(entry[1])
            looked_at[number] = (policy, found)
        left += [found for _, found in gone.values()]
        return Findings(arrived, left, ports, by_number, looked_at, known)

    def keep(self, findings: Findings[T]) -> None:
        """What later plans are compared with; the newest findings only."""
        self._last = findings
        self._known.update(findings.looked_at)
        for number in self._known.keys() - findings.numbers.keys():
            del self._known[number]

    def forget(self) -> None:
        """All ports are looked at again."""
        self._known = {}
        self._last = Findings([], [], (), {}, {}, {})


def _key(policy: PortPolicy) -> PortKey:
    return policy.namespace, policy.service, policy.port_name, policy.protocol, policy.family
