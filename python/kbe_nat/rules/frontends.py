"""The frontends of a node by their keys, and the addresses that belong to Services."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Generic, TypeVar

from kbe_nat.family import Family, family_of
from kbe_nat.policy.delta import PlanDelta, PortFacts, port_facts
from kbe_nat.policy.options import unknown_port
from kbe_nat.policy.plan import FrontendKey, Plan, unallocated

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ElementChange(Generic[T]):
    """Elements that come and go."""

    added: frozenset[T] = frozenset()
    removed: frozenset[T] = frozenset()


@dataclass(slots=True)
class Uses(Generic[T]):
    """Elements with the number of their uses, and the elements that come and go."""

    _counts: Counter[T] = field(default_factory=Counter)
    """Without zeros."""
    _before: dict[T, bool] = field(default_factory=dict)
    """Whether elements that were touched since the last `take_change` were there then."""

    def elements(self) -> Collection[T]:
        """The elements that are used."""
        return self._counts.keys()

    def count(self, element: T, step: int) -> int:
        """Count uses. Returns by how many elements there are more, or fewer."""
        was_used = element in self._counts
        self._before.setdefault(element, was_used)
        self._counts[element] += step
        if not self._counts[element]:
            del self._counts[element]
        return (element in self._counts) - was_used

    def clear(self) -> None:
        """End all uses. Cost: linear in the elements."""
        for element in self._counts:
            self._before.setdefault(element, True)
        self._counts.clear()

    def take_change(self) -> ElementChange[T]:
        """The elements that came and went since the last call. Cost: linear in those touched."""
        before, self._before = self._before, {}
        return ElementChange(
            frozenset(key for key, was in before.items() if not was and key in self._counts),
            frozenset(key for key, was in before.items() if was and key not in self._counts),
        )


class FrontendKeys:
    """A `PlanConsumer`: the frontends of all service ports by family, also those that refuse."""

    def __init__(self) -> None:
        self.keys: dict[Family, Uses[FrontendKey]] = {family: Uses() for family in Family}
        """By how many ports each is used: a node port may meet an external IP of another Service.
        """
        self.addresses: dict[Family, Uses[str]] = {family: Uses() for family in Family}
        """By how many keys each address is used."""

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`."""
        for before, after in delta.pairs():
            self._count(before, -1)
            self._count(after, 1)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`."""
        for family in Family:
            self.keys[family].clear()
            self.addresses[family].clear()
        for port in plan.ports:
            self._count(port_facts(port, plan.node_ports), 1)

    def _count(self, facts: PortFacts | None, step: int) -> None:
        if facts is None:
            return
        keys, addresses = self.keys[facts.port.family], self.addresses[facts.port.family]
        for key in facts.frontend_keys:
            change = keys.count(key, step)
            if change:
                addresses.count(key[0], change)


class ServiceAddresses:
    """A `PlanConsumer`: cluster IPs at which a packet is ours to decide whatever its port, by
    family. Ranges of cluster IPs are so as a whole; `addresses` has those outside of the ranges.
    """

    def __init__(self) -> None:
        self.ranges: dict[Family, tuple[str, ...]] = dict.fromkeys(Family, ())
        self._uses: dict[Family, Uses[str]] = {family: Uses() for family in Family}
        """By how many ports each address is used."""
        self._networks: list[IPv4Network | IPv6Network] = []
        self._is_wanted = False
        """Packets to other ports of cluster IPs are decided at all."""

    def addresses(self, family: Family) -> Collection[str]:
        """The addresses of one family outside of the ranges."""
        return self._uses[family].elements()

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`. Other ranges or options cost a look at all ports."""
        if delta.is_context_changed:
            self.rebuild(delta.plan)
        elif self._is_wanted:
            for before, after in delta.pairs():
                self._count(before, -1)
                self._count(after, 1)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`."""
        ranges = unallocated(plan)
        for family in Family:
            self.ranges[family] = tuple(text for text in ranges if family_of(text) == family)
            self._uses[family].clear()
        self._networks = [ip_network(text) for text in ranges]
        self._is_wanted = bool(ranges) or unknown_port(plan.options) != "pass"
        for port in plan.ports if self._is_wanted else ():
            self._count(PortFacts(port, ()), 1)

    def take_change(self, family: Family) -> ElementChange[str]:
        """The addresses that came and went since the last call."""
        return self._uses[family].take_change()

    def _count(self, facts: PortFacts | None, step: int) -> None:
        if facts is None:
            return
        family = facts.port.family
        for address in facts.cluster_ips:
            if not any(ip_address(address) in network for network in self._networks):
                self._uses[family].count(address, step)
