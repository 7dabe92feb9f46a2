"""How one plan differs from the one before: the only answer to "what has changed".

Theory of operation. The planner compares Services and nothing else compares plans: it hands every
consumer (the engine's tables, the backends' ids, the rules' sets, the standby, the flows to be
checked, the health checks) one `PlanDelta`.

- A delta tells planned ports by their `PortKey`. A port is added, changed or removed. A port that
  the delta does not name is the same in both plans, and has the same facts.
- Every port comes with its `PortFacts`: the frontends that it has on this node, where a node port
  has an address. Facts follow from the port and from `Plan.node_ports` alone, so nobody keeps them:
  the facts of a port as it was are computed again when it changes.
- `Plan.context` is everything beside the ports. Where it differs, a consumer makes anew what it has
  made of it; the ports that change with it are in the delta like any others.

A consumer has two methods. `apply` takes a delta, whose `former` plan is the one that the consumer
has taken last; it costs what the delta names. `rebuild` takes a whole plan, whatever the consumer
knew: it is for consumers that come late, and after an `apply` that has failed half-way. Any
sequence of `apply` leaves a consumer as `rebuild` of the last plan would.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from kbe_nat.family import family_of
from kbe_nat.policy.node_ports import NodePorts
from kbe_nat.policy.plan import (
    CLUSTER_IP,
    Frontend,
    FrontendKey,
    HealthCheck,
    Plan,
    PlannedPort,
    PortKey,
)


class NodeFrontend(NamedTuple):
    """A frontend as it stands on this node: a node port has one for each address."""

    key: FrontendKey
    frontend: Frontend
    is_reject: bool
    """It is there only to be refused."""

    @property
    def is_exact(self) -> bool:
        """The Service has this very address. It goes before a node port that is there too, as in
        kube-proxy's chains and in the engine's table.
        """
        return bool(self.frontend.address)


@dataclass(frozen=True, slots=True)
class PortFacts:
    """A planned port and what follows from it on this node."""

    port: PlannedPort
    frontends: tuple[NodeFrontend, ...]
    """Each with another key; of several with one address and port packets find the first."""

    @property
    def frontend_keys(self) -> frozenset[FrontendKey]:
        """Everything under which the port is reached, also to be refused."""
        return frozenset(frontend.key for frontend in self.frontends)

    @property
    def cluster_ips(self) -> tuple[str, ...]:
        """The addresses that are the Service's alone."""
        return self.port.addresses(CLUSTER_IP)


PortPair: TypeAlias = tuple[PlannedPort | None, PlannedPort | None]
"""A port as it was and as it is; None: it was, or is, not there."""
FactsPair: TypeAlias = tuple[PortFacts | None, PortFacts | None]
"""The same with what follows from them."""
HealthPair: TypeAlias = tuple[HealthCheck | None, HealthCheck | None]
"""A health check as it was and as it is."""


@dataclass(frozen=True, slots=True)
class PlanDelta:
    """The ports, and the context, that a plan changes."""

    former: Plan
    plan: Plan
    added: tuple[PortFacts, ...] = ()
    changed: tuple[tuple[PortFacts, PortFacts], ...] = ()
    """Before and after."""
    removed: tuple[PortFacts, ...] = ()
    health: tuple[HealthPair, ...] = ()

    @property
    def is_context_changed(self) -> bool:
        """Something beside the ports differs: addresses of the node, or options."""
        return self.former.context != self.plan.context

    def pairs(self) -> Iterator[FactsPair]:
        """Every port that differs, as it was and as it is."""
        yield from ((None, facts) for facts in self.added)
        yield from self.changed
        yield from ((facts, None) for facts in self.removed)

    @classmethod
    def of(
        cls,
        former: Plan,
        plan: Plan,
        pairs: Iterable[PortPair],
        health: Iterable[HealthPair] = (),
    ) -> "PlanDelta":
        """The delta of these ports, outside of which both plans are equal. Cost: linear in the
        frontends of these.
        """
        added, changed, removed = [], [], []
        for before, after in pairs:
            old = None if before is None else port_facts(before, former.node_ports)
            new = None if after is None else port_facts(after, plan.node_ports)
            # Ports that are other objects with equal facts are left out: each name in a delta costs
            # every consumer work, in the end messages to the kernel.
            if old is None and new is not None:
                added.append(new)
            elif new is None and old is not None:
                removed.append(old)
            elif old is not None and new is not None and old != new:
                changed.append((old, new))
        return cls(former, plan, tuple(added), tuple(changed), tuple(removed), tuple(health))

    @classmethod
    def between(cls, former: Plan, plan: Plan) -> "PlanDelta":
        """The delta of two plans about which nothing is known. Cost: linear in both."""
        # The API server gives a Service one healthCheckNodePort, so its key tells the check in both
        # plans.
        checks_before = {(check.namespace, check.service): check for check in former.health}
        checks_after = {(check.namespace, check.service): check for check in plan.health}
        health = [
            (checks_before.get(key), checks_after.get(key))
            for key in dict.fromkeys((*checks_before, *checks_after))
            if checks_before.get(key) != checks_after.get(key)
        ]
        return cls.of(former, plan, port_pairs(former.ports, plan.ports), health)


class PlanConsumer(Protocol):
    """State that follows plans; see the head of this file."""

    def apply(self, delta: PlanDelta) -> None:
        """Follow a change of the plan that was taken last. Cost: linear in the ports that the delta
        names."""
        ...

    def rebuild(self, plan: Plan) -> None:
        """Follow this plan, whatever was taken before. Cost: linear in the plan."""
        ...


def port_pairs(before: Iterable[PlannedPort], after: Iterable[PlannedPort]) -> Iterator[PortPair]:
    """These ports by key, those that came first in `after`. Cost: linear in both."""
    former: dict[PortKey, PlannedPort] = {port.key: port for port in before}
    for port in after:
        yield former.pop(port.key, None), port
    yield from ((port, None) for port in former.values())


def port_facts(port: PlannedPort, node_ports: NodePorts) -> PortFacts:
    """The facts of a port where these addresses serve node ports. Cost: linear in its
    frontends, and in the node's addresses where it has a node port.
    """
    # An object may list an address twice, and the node's address may be an external IP too. The
    # engine's table finds the first, as kube-proxy's chains do.
    by_key: dict[FrontendKey, NodeFrontend] = {}
    for node_frontend in _node_frontends(port, node_ports):
        by_key.setdefault(node_frontend.key, node_frontend)
    return PortFacts(port, tuple(by_key.values()))


def _node_frontends(port: PlannedPort, node_ports: NodePorts) -> Iterator[NodeFrontend]:
    for frontend in port.frontends:
        if frontend.address:
            yield NodeFrontend((frontend.address, port.protocol, frontend.port), frontend, False)
    # Exact addresses come first: where a node port meets one at the same address, they have it.
    for frontend in port.frontends:
        if not frontend.address:
            for address in node_ports.addresses:
                if family_of(address) == port.family:
                    yield NodeFrontend((address, port.protocol, frontend.port), frontend, False)
            # kube-proxy's iptables rule that rejects asks for `--dst-type LOCAL` alone, so it also
            # holds for addresses that --nodeport-addresses leaves out.
            if port.refuses_somebody:
                for address in node_ports.reject_addresses:
                    if family_of(address) == port.family:
                        yield NodeFrontend((address, port.protocol, frontend.port), frontend, True)
