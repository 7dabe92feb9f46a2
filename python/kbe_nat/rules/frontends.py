"""Where service ports are reached on a node: frontends, and what is refused beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TypeAlias

from kbe_nat.family import Family, family_of
from kbe_nat.policy.options import unknown_port
from kbe_nat.policy.plan import CLUSTER_IP, Frontend, Plan, PlannedPort, unallocated
from kbe_nat.remembered import Remembered

FrontendKey: TypeAlias = tuple[str, str, int]
"""Address, protocol and port."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What of one family goes to this node's service ports."""

    frontends: frozenset[FrontendKey]
    ranges: tuple[str, ...]
    """Of cluster IPs, where everything is ours to decide, served or not."""
    addresses: frozenset[str]
    """Cluster IPs outside of these for which that is so too."""


class Frontends:
    """What is reached by one plan after the other."""

    def __init__(self) -> None:
        self._plan = Plan((), (), (), ())
        self._places = Remembered(self._looked_at)
        self._reached: dict[Family, Reached] = {}

    def reached(self, plan: Plan) -> dict[Family, Reached]:
        """By family in use; the same object as for the last plan when nothing has changed. Cost:
        linear in the frontends of ports that have changed, and in those of all when any frontend
        has.
        """
        before, self._plan = self._plan, plan
        is_same = _context(before) == _context(plan) and bool(self._reached)
        if not is_same:
            self._places.forget()
        findings = self._places.findings(plan.ports, plan.changes)
        if findings.is_changed or not is_same:
            self._reached = {number: self._whole(number, findings.all) for number in plan.families}
        self._places.keep(findings)
        return self._reached

    def _looked_at(self, policy: PlannedPort) -> "_Places":
        places = frozenset(place for place, *_ in frontend_keys(self._plan, policy))
        return _Places(policy.family, places, policy.addresses(CLUSTER_IP))

    def _whole(self, number: Family, places: list["_Places"]) -> Reached:
        own = [one for one in places if one.family == number]
        ranges = tuple(text for text in unallocated(self._plan) if family_of(text) == number)
        addresses: set[str] = set()
        if ranges or unknown_port(self._plan.options) != "pass":
            networks = [ip_network(text) for text in ranges]
            for address in {address for one in own for address in one.cluster_ips}:
                if not any(ip_address(address) in network for network in networks):
                    addresses.add(address)
        return Reached(
            frozenset().union(*(one.frontends for one in own)), ranges, frozenset(addresses)
        )


def frontend_keys(plan: Plan, policy: PlannedPort) -> Iterator[tuple[FrontendKey, Frontend, bool]]:
    """Address, protocol and port of everything under which a service port is reached, with its
    frontend; and whether it is there only to be refused.
    """
    for own in policy.places:
        addresses = (own.address,) if own.address else plan.node_port_addresses
        for address in addresses:
            if family_of(address) == policy.family:
                yield (address, policy.protocol, own.port), own, False
        if not own.address and policy.refuses_somebody:
            for address in plan.closed_addresses:
                if family_of(address) == policy.family:
                    yield (address, policy.protocol, own.port), own, True


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a service port is reached."""

    family: Family
    frontends: frozenset[FrontendKey]
    cluster_ips: tuple[str, ...]


def _context(plan: Plan) -> tuple[object, ...]:
    """All that this depends on but the ports."""
    return (
        plan.families,
        plan.node_port_addresses,
        plan.closed_addresses,
        plan.service_ranges,
        plan.options,
    )
