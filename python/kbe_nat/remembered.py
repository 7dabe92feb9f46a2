"""What was found for each service port, kept from one plan to the next."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Generic, TypeAlias, TypeVar

from kbe_nat.policy.plan import PlannedPort, PortChanges

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
    ports: Sequence[PlannedPort]
    """All, in the plan's order."""
    known: Mapping[int, tuple[PlannedPort, T]]
    """What had been found before, by the policy's identity; an entry keeps its policy alive."""
    looked_at: Mapping[int, tuple[PlannedPort, T]]
    """What was found for policies that were not there before."""
    gone: Collection[int]
    """Policies that are there no more."""

    @property
    def all(self) -> list[T]:
        """For every port, in the plan's order."""
        entries = {**self.known, **self.looked_at}
        return list(map(itemgetter(1), map(entries.__getitem__, map(id, self.ports))))

    @property
    def is_changed(self) -> bool:
        """Anything is found otherwise than before."""
        return bool(self.arrived or self.left)


class Remembered(Generic[T]):
    """Looks at a service port only when it has changed since the last plan."""

    def __init__(self, look: Callable[[PlannedPort], T]) -> None:
        self._look = look
        self._known: dict[int, tuple[PlannedPort, T]] = {}
        """By the policy's identity."""
        self._ports: Sequence[PlannedPort] = ()

    def findings(
        self, ports: Sequence[PlannedPort], changes: PortChanges | None = None
    ) -> Findings[T]:
        """Against what was kept last; `changes` are those of the plan. Cost: a look at the ports
        that changed, and unless `changes` tell which these are, a comparison of numbers for each.
        """
        known = self._known
        if changes is not None and changes.before is self._ports:
            fresh: Iterable[PlannedPort] = changes.come
            gone = {id(own) for own in changes.gone}
        elif ports is self._ports:
            fresh, gone = (), set()
        else:
            by_number = dict(zip(map(id, ports), ports, strict=True))
            fresh = [by_number[number] for number in by_number.keys() - known.keys()]
            gone = known.keys() - by_number.keys()
        before = {_key(known[number][0]): known[number] for number in gone}
        looked_at: dict[int, tuple[PlannedPort, T]] = {}
        arrived, left = [], []
        for policy in fresh:
            entry = before.pop(_key(policy), None)
            if entry is None:
                found = self._look(policy)
                arrived.append(found)
            elif entry[0] == policy or (found := self._look(policy)) == entry[1]:
                found = entry[1]
            else:
                arrived.append(found)
                left.append(entry[1])
            looked_at[id(policy)] = (policy, found)
        left += [found for _, found in before.values()]
        return Findings(arrived, left, ports, known, looked_at, gone)

    def keep(self, findings: Findings[T]) -> None:
        """What later plans are compared with; the newest findings only."""
        self._ports = findings.ports
        for number in findings.gone:
            del self._known[number]
        self._known.update(findings.looked_at)

    def forget(self) -> None:
        """All ports are looked at again."""
        self._known = {}
        self._ports = ()


def _key(policy: PlannedPort) -> PortKey:
    return policy.namespace, policy.service, policy.port_name, policy.protocol, policy.family
