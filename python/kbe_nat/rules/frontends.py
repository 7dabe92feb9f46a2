"""The frontends of a node by their keys, and the addresses that belong to Services."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeVar

from kbe_nat.family import Family, family_of
from kbe_nat.policy.delta import PlanDelta, PortFacts, port_facts
from kbe_nat.policy.options import unknown_port
from kbe_nat.policy.plan import FrontendKey, Plan, unallocated

T = TypeVar("T")


class FrontendKeys:
    """A `PlanConsumer`: the frontends of all service ports by family, also those that refuse."""

    def __init__(self) -> None:
        self._uses: dict[Family, Counter[FrontendKey]] = {family: Counter() for family in Family}
        """How many ports use each: a node port may meet an external IP of another Service."""
        self._addresses: dict[Family, Counter[str]] = {family: Counter() for family in Family}
        """By how many keys each address is used."""

    def keys(self, family: Family) -> Collection[FrontendKey]:
        """All frontends of one family."""
        return self._uses[family].keys()

    def addresses(self, family: Family) -> Collection[str]:
        """The addresses of these."""
        return self._addresses[family].keys()

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`."""
        for before, after in delta.pairs():
            self._count(before, -1)
            self._count(after, 1)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`."""
        for family in Family:
            self._uses[family].clear()
            self._addresses[family].clear()
        for port in plan.ports:
            self._count(port_facts(port, plan.node_ports), 1)

    def _count(self, facts: PortFacts | None, step: int) -> None:
        if facts is None:
            return
        uses, addresses = self._uses[facts.port.family], self._addresses[facts.port.family]
        for key in facts.frontend_keys:
            was_used = key in uses
            _add(uses, key, step)
            if was_used != (key in uses):
                _add(addresses, key[0], step)


@dataclass(frozen=True, slots=True)
class AddressChange:
    """Addresses that come and go."""

    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()


class ServiceAddresses:
    """A `PlanConsumer`: cluster IPs at which a packet is ours to decide whatever its port, by
    family. Ranges of cluster IPs are so as a whole; `addresses` has those outside of the ranges.
    """

    def __init__(self) -> None:
        self.ranges: dict[Family, tuple[str, ...]] = dict.fromkeys(Family, ())
        self._uses: dict[Family, Counter[str]] = {family: Counter() for family in Family}
        """By how many ports each address is used."""
        self._networks: list[IPv4Network | IPv6Network] = []
        self._is_wanted = False
        """Packets to other ports of cluster IPs are decided at all."""
        self._before: dict[Family, dict[str, bool]] = {family: {} for family in Family}
        """Whether addresses that were touched since the last `take_change` were there then."""

    def addresses(self, family: Family) -> Collection[str]:
        """The addresses of one family outside of the ranges."""
        return self._uses[family].keys()

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
            for address in self._uses[family]:
                self._before[family].setdefault(address, True)
            self._uses[family].clear()
        self._networks = [ip_network(text) for text in ranges]
        self._is_wanted = bool(ranges) or unknown_port(plan.options) != "pass"
        for port in plan.ports if self._is_wanted else ():
            self._count(PortFacts(port, ()), 1)

    def take_change(self, family: Family) -> AddressChange:
        """How the addresses differ from what they were when this was asked last."""
        before, self._before[family] = self._before[family], {}
        present = self._uses[family]
        return AddressChange(
            frozenset(address for address, was in before.items() if not was and address in present),
            frozenset(address for address, was in before.items() if was and address not in present),
        )

    def _count(self, facts: PortFacts | None, step: int) -> None:
        if facts is None:
            return
        family = facts.port.family
        for address in facts.cluster_ips:
            if not any(ip_address(address) in network for network in self._networks):
                self._before[family].setdefault(address, address in self._uses[family])
                _add(self._uses[family], address, step)


def _add(counter: Counter[T], key: T, step: int) -> None:
    """Count, without keeping zeros."""
    counter[key] += step
    if not counter[key]:
        del counter[key]
