"""Which service port has which address and port: each has one owner, the first to claim it.

Theory of operation. A *claim* is what a port asks for: an address with protocol and port, or, for a
node port, the port on every address of the node in one family. `Claims` knows the claimants of
each:

- `_owners` maps every claim to its owner.
- `_disputes` maps a claim that several ports make to all of them. Most claims have one claimant, so
  most changes never come here.

Cluster IPs win over the other kinds, since the API server allocates them, while any tenant can
write a foreign one into `externalIPs` (CVE-2020-8554). Among equals the port whose Service comes
first in the snapshot wins. The winner depends on the claimants alone, not on the order in which
they came, so claims that followed changes step by step equal claims that were made at once.

A change withdraws the claims of the ports as they were, enters those of the ports as they are, and
resolves the disputes that it touched. It costs the frontends of these ports and the claimants of
what they dispute, whatever the number of the others.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from kbe_nat.family import Family
from kbe_nat.model import join_address
from kbe_nat.policy.plan import CLUSTER_IP, Frontend, PlannedPort, PortKey

Claim: TypeAlias = tuple[str | Family, str, int]
"""Address, protocol and port; a node port has its family in the address's place."""
Precedence: TypeAlias = Callable[[PortKey], tuple[PlannedPort, tuple[int, int]]]
"""The port of a key as it is wanted, and its place: its Service's, and its own in there."""


class Claims:
    """The owners of all frontends, change by change."""

    def __init__(self) -> None:
        self._owners: dict[Claim, PortKey] = {}
        self._disputes: dict[Claim, set[PortKey]] = {}
        """All claimants where there are several."""
        self._touched: dict[Claim, None] = {}
        """Claims whose claimants have changed, or their order, since the last resolution."""

    def withdraw(self, port: PlannedPort) -> None:
        """This port claims nothing any more. Cost: linear in its frontends."""
        for claim in _claims(port):
            claimants = self._disputes.get(claim)
            if claimants is None:
                del self._owners[claim]
                continue
            self._touched[claim] = None
            claimants.discard(port.key)
            if len(claimants) == 1:
                del self._disputes[claim]
                # The last claimant owns it undisputed. It stays touched, because it may not have
                # had it before.
                [self._owners[claim]] = claimants

    def enter(self, port: PlannedPort) -> None:
        """This port claims its frontends, beside the others. Cost: linear in its frontends."""
        key = port.key
        for claim in _claims(port):
            owner = self._owners.setdefault(claim, key)
            # The first in the snapshot owns it. `resolve` decides once all claims are entered.
            if owner != key or claim in self._disputes:
                self._disputes.setdefault(claim, {owner}).add(key)
                self._touched[claim] = None

    def node_port_owner(self, family: Family, port: int) -> PortKey | None:
        """Who has a node port for TCP. Cost: a look-up."""
        return self._owners.get((family, "tcp", port))

    def resolve(self, precedence: Precedence) -> set[PortKey]:
        """Settle the disputes that were touched. Returns the ports that may have got or lost a
        frontend. Cost: linear in the claimants of these.
        """
        affected: set[PortKey] = set()
        for claim in self._touched:
            claimants = self._disputes.get(claim)
            if claimants is not None:
                affected |= claimants
                self._owners[claim] = _winner(claim, claimants, precedence)
            elif claim in self._owners:
                affected.add(self._owners[claim])
        self._touched = {}
        return affected

    def grant(self, port: PlannedPort) -> tuple[PlannedPort, tuple[str, ...]]:
        """The port with the frontends that it has got, and a note for each that it has not."""
        # Most clusters have no disputes, and then no frontend has to be looked up.
        if not self._disputes:
            return port, ()
        key, losses = port.key, []
        granted = []
        for frontend in port.frontends:
            claim = _claim(port, frontend)
            owner = self._owners[claim] if claim in self._disputes else key
            if owner == key:
                granted.append(frontend)
            else:
                losses.append(_loss(port, frontend, owner))
        if not losses:
            return port, ()
        return replace(port, frontends=tuple(granted)), tuple(losses)


def _winner(claim: Claim, claimants: Iterable[PortKey], precedence: Precedence) -> PortKey:
    """The claimant that has a cluster IP there, or else comes first."""

    def rank(key: PortKey) -> tuple[bool, tuple[int, int]]:
        port, place = precedence(key)
        has_cluster_ip = any(
            frontend.kind == CLUSTER_IP and _claim(port, frontend) == claim
            for frontend in port.frontends
        )
        return not has_cluster_ip, place

    return min(claimants, key=rank)


def _claims(port: PlannedPort) -> Mapping[Claim, None]:
    """Each once: an object may name an address several times."""
    return dict.fromkeys(_claim(port, frontend) for frontend in port.frontends)


def _claim(port: PlannedPort, frontend: Frontend) -> Claim:
    return frontend.address or port.family, port.protocol, frontend.port


def _loss(port: PlannedPort, frontend: Frontend, owner: PortKey) -> str:
    where = (
        join_address(frontend.address, frontend.port)
        if frontend.address
        else f"port {frontend.port} of every IPv{port.family} address of the node"
    )
    namespace, service, port_name = owner[:3]
    name = f"{namespace}/{service}:{port_name}" if port_name else f"{namespace}/{service}"
    return (
        f"Service {port.name}: {port.protocol} {where} is not served for it: it belongs to {name}"
    )
