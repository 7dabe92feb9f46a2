"""From a `Snapshot` and a node to a `Plan`, change by change. Pure.

Theory of operation. The planner makes a plan in three steps, Service by Service:

1. `ServiceRules.plan_service` says which ports a Service wants, with their endpoints. It depends on
   the Service, its slices, and what the rules have taken from the node and the options.
2. `Claims` says which frontends each of these ports gets. Here alone Services meet.
3. `adjust` says what operators have changed at run time: drains and strategies.

`Planner` keeps the answers to all three. An update finds the Services that may differ: in the
segment in which the tuples of Services differ by identity, and among the touched ones; where the
source does not know what it touched, by the identity of their slices. It plans these again, and the
Services with which they dispute a frontend. Everything else stays, as the same objects.

Invariants between updates:

- `_services` has every Service of the snapshot that is ours, as it was planned.
- `_served` has the same keys in the order of the snapshot; its values, one behind the other, are
  `Plan.ports`.
- `_claims` has the claims of all ports in `_services`, and no touched dispute.

Work on all Services (joining the tuple of ports, a scan by identity) is left to C: a Python loop
over ten thousand Services would cost more than all that a change needs. Rules that differ make
everything anew. So does the first update after one that has failed, because `_rules` is None from
the start of an update to its end.
"""

import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, count, repeat
from operator import attrgetter
from typing import Final, TypeVar

from kbe_nat.family import Family
from kbe_nat.model import Node, Service, ServiceKey, Snapshot
from kbe_nat.policy.claims import Claims
from kbe_nat.policy.delta import HealthPair, PlanDelta, PortPair, port_pairs
from kbe_nat.policy.node_ports import node_addresses, node_ports
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import NODE_PORT, HealthCheck, Plan, PlannedPort, PortKey
from kbe_nat.policy.service_rules import PlannedService, ServiceRules, pod_ranges

T = TypeVar("T")
KEY_OF: Final = attrgetter("namespace", "name")
"""The key of a Service, in C."""


def plan(snapshot: Snapshot, options: Options | None = None) -> Plan:
    """The plan of the node of `options`. Cost: linear in service ports and endpoints."""
    planner = Planner()
    planner.advance(snapshot, options or Options())
    return planner.plan


class Planner:
    """Plans one snapshot after the other. The newest plan is `plan`."""

    def __init__(self, adjust: Callable[[PlannedPort], PlannedPort] = lambda port: port) -> None:
        """`adjust` says what becomes of a port that has its frontends; it leaves these alone."""
        self.plan = Plan()
        self._adjust = adjust
        self._rules: ServiceRules | None = None
        """The rules that Services were planned by; None: nothing that is kept holds."""
        self._clear()

    def update(
        self,
        snapshot: Snapshot,
        options: Options,
        touched: Collection[ServiceKey] | None = None,
        adjusted: Collection[ServiceKey] = (),
    ) -> PlanDelta:
        """Plan this snapshot, and say what differs from the plan before.

        `touched` are the Services that may differ from the snapshot before, None when any may;
        `adjusted` those of whose ports `adjust` may say something else. Cost: linear in the
        frontends and endpoints of these, and of the Services that claim the same frontends.
        """
        former = self.plan
        changes = self.advance(snapshot, options, touched, adjusted)
        # Where other addresses serve node ports, ports that stay as they are lead elsewhere.
        if changes is None or former.node_ports != self.plan.node_ports:
            return PlanDelta.between(former, self.plan)
        return PlanDelta.of(former, self.plan, changes.ports, changes.health)

    def advance(
        self,
        snapshot: Snapshot,
        options: Options,
        touched: Collection[ServiceKey] | None = None,
        adjusted: Collection[ServiceKey] = (),
    ) -> "PlanChanges | None":
        """As `update`, without what follows from the ports that differ; None when everything was
        made anew.
        """
        node = snapshot.nodes.get(options.node, Node(options.node))
        # The kubelet writes its Node's status every few minutes, and little of it matters here. So
        # the rules are compared, and not the Node.
        rules = ServiceRules.of(node, options)
        is_anew = rules != self._rules
        if is_anew:
            self._clear()
        self._rules = None
        segment = self._segment(snapshot.services, rules)
        services = self._differing(snapshot, segment, touched)
        self._snapshot = snapshot
        if segment.before or segment.after:
            self._places.clear()
        changes = PlanChanges(is_reordered=is_anew or bool(segment.reordered))
        replanned = self._plan_services(services, rules, segment, changes)
        self._order(segment)
        # Disputes are settled after all claims of this update are in, and before any port is
        # served: a frontend may pass between two Services that both changed.
        disputed = {key[:2] for key in self._claims.resolve(self._precedence)}
        for service_key in dict.fromkeys((*replanned, *adjusted, *disputed)):
            self._serve(service_key, changes)
        self.plan = self._compose(node, options, changes)
        self._rules = rules
        return None if is_anew else changes

    def _clear(self) -> None:
        self._snapshot = Snapshot()
        self._services: dict[ServiceKey, PlannedService] = {}
        """Each Service as its objects want it."""
        self._claims = Claims()
        self._served: dict[ServiceKey, tuple[PlannedPort, ...]] = {}
        """The ports that each Service gets."""
        self._families: Counter[Family] = Counter()
        """By how many ports each family is used."""
        self._local_services = 0
        """Services to which it matters which node this is."""
        self._health: dict[ServiceKey, HealthCheck] = {}
        self._notes: dict[ServiceKey, tuple[str, ...]] = {}
        self._losses: dict[ServiceKey, tuple[str, ...]] = {}
        """Notes about frontends that other Services have got."""
        self._service_notes: tuple[str, ...] = ()
        """All notes of both kinds, in order."""
        self._lost: tuple[tuple[ServiceKey, str], ...] = ()
        """Those of `_losses` in order."""
        self._lost_checks: tuple[tuple[ServiceKey, str], ...] = ()
        """Notes about health checks whose port is another Service's."""
        self._places: dict[ServiceKey, int] = {}
        """Where each Service stands in the snapshot; empty: to be looked up."""
        self._frame: tuple[Options, Node, Plan] | None = None
        """The part of a plan that follows from the node, with these options and this node."""

    def _segment(self, after: tuple[Service, ...], rules: ServiceRules) -> "_Segment":
        """The Services before and after, without those with which both begin and end. Cost:
        linear in the difference, and a comparison by identity for each Service, in C.
        """
        before = self._snapshot.services
        if before is after:
            return _Segment()
        start = _common(before, after)
        end = min(_common(reversed(before), reversed(after)), min(len(before), len(after)) - start)
        old = before[start : len(before) - end]
        new = tuple(
            service
            for service in after[start : len(after) - end]
            if service.proxy_name == rules.proxy_name
        )
        keys = [service.key for service in new]
        order = iter([service.key for service in old if service.key in self._services])
        # Where Services only change or go, the others follow each other as before.
        # `in` consumes the iterator up to what it found, so this asks for a subsequence in one
        # pass.
        is_in_order = all(key in order for key in keys)
        return _Segment(old, new, frozenset() if is_in_order else frozenset(keys), not end)

    def _differing(
        self, snapshot: Snapshot, segment: "_Segment", touched: Collection[ServiceKey] | None
    ) -> dict[ServiceKey, Service | None]:
        """Services that may differ from what was planned; None where one is served no more."""
        services: dict[ServiceKey, Service | None] = dict.fromkeys(
            service.key for service in segment.before
        )
        services |= {service.key: service for service in segment.after}
        # A slice may arrive before its Service, and stay after it: then nothing was planned of it.
        for key in self._with_other_slices(snapshot) if touched is None else touched:
            if key not in services and key in self._services:
                services[key] = self._services[key].service
        return services

    def _with_other_slices(self, snapshot: Snapshot) -> list[ServiceKey]:
        """Services whose slices are not the same objects as before. Cost: one pass over all, in C,
        where any are.
        """
        if snapshot.slices is self._snapshot.slices:
            return []
        before = map(attrgetter("slices"), self._services.values())
        after = map(snapshot.slices.get, self._services, repeat(()))
        is_other = list(map(operator.is_not, after, before))
        if True not in is_other:
            return []
        return [key for key, other in zip(self._services, is_other, strict=True) if other]

    def _plan_services(
        self,
        services: dict[ServiceKey, Service | None],
        rules: ServiceRules,
        segment: "_Segment",
        changes: "PlanChanges",
    ) -> list[ServiceKey]:
        """Plan these Services and make their claims. Returns those that want something else than
        before.
        """
        replaced: list[tuple[ServiceKey, PlannedService | None, PlannedService | None]] = []
        for key, service in services.items():
            before = self._services.get(key)
            after = None
            if service is not None:
                slices = self._snapshot.slices.get(key, ())
                # A source may bring equal Services as new objects. These keep their plan, and so
                # cause no delta.
                is_same = before and before.service == service and before.slices == slices
                after = before if is_same else rules.plan_service(service, slices)
                if before and after and after is not before:
                    after = after.sharing(before)
            if after is not before or key in segment.reordered:
                replaced.append((key, before, after))
        # All claims are given up before any is made, because Services may change places.
        entering: list[PlannedPort] = []
        for key, before, after in replaced:
            old, new = before.ports if before else (), after.ports if after else ()
            if key in segment.reordered or not _claim_alike(old, new):
                for port in old:
                    self._claims.withdraw(port)
                entering += new
        for port in entering:
            self._claims.enter(port)
        for key, before, after in replaced:
            self._keep(key, before, after, changes)
        return [key for key, *_ in replaced]

    def _keep(
        self,
        key: ServiceKey,
        before: PlannedService | None,
        after: PlannedService | None,
        changes: "PlanChanges",
    ) -> None:
        """Take note of what a Service wants, and of all that follows from it alone."""
        _put(self._services, key, after)
        self._local_services += bool(after and after.is_local) - bool(before and before.is_local)
        checks = before.health if before else None, after.health if after else None
        if checks[0] != checks[1]:
            changes.health.append(checks)
            changes.is_reordered |= checks[0] is None
            _put(self._health, key, checks[1])
        notes = after.notes if after else ()
        if notes != self._notes.get(key, ()):
            changes.has_other_notes = True
            _put(self._notes, key, notes)

    def _order(self, segment: "_Segment") -> None:
        """Bring `_served` into the order of the snapshot, with places for new Services. The ports
        of a Service that is gone stay until `_serve` takes them away.
        """
        if not segment.reordered:
            return
        if segment.is_at_end:
            for service in segment.after:
                # A dict keeps the place of a key that is set again; one that is taken out first
                # comes last.
                self._served[service.key] = self._served.pop(service.key, ())
            return
        for service in segment.after:
            self._served.setdefault(service.key, ())
        order = list(filter(self._served.__contains__, map(KEY_OF, self._snapshot.services)))
        order += self._served.keys() - dict.fromkeys(order)
        self._served = dict(zip(order, map(self._served.__getitem__, order), strict=True))

    def _serve(self, service_key: ServiceKey, changes: "PlanChanges") -> None:
        """Settle which ports a Service gets, and with what."""
        service = self._services.get(service_key)
        before = self._served.get(service_key, ())
        former = {port.key: port for port in before}
        after: list[PlannedPort] = []
        losses: list[str] = []
        for wanted in service.ports if service else ():
            granted, lost = self._claims.grant(wanted)
            losses += lost
            if granted.frontends:
                port = self._adjust(granted)
                old = former.get(port.key)
                # The former object stays where it is equal, so that it makes no pair below.
                after.append(old if old is not None and old == port else port)
        if service is None:
            self._served.pop(service_key, None)
        else:
            self._served[service_key] = tuple(after)
        for old, new in port_pairs(before, after):
            if old is not new:
                changes.ports.append((old, new))
                changes.has_other_node_ports |= _node_ports(old) != _node_ports(new)
                self._count(old, -1)
                self._count(new, 1)
        if tuple(losses) != self._losses.get(service_key, ()):
            changes.has_other_notes = True
            _put(self._losses, service_key, tuple(losses))

    def _count(self, port: PlannedPort | None, ports: int) -> None:
        if port is not None:
            self._families[port.family] += ports

    def _compose(self, node: Node, options: Options, changes: "PlanChanges") -> Plan:
        """The plan of all that is kept."""
        # The addresses follow from these two alone, and a change of a Service need not look at
        # them.
        if self._frame is None or self._frame[:2] != (options, node):
            frame = Plan(
                addresses=node_addresses(node, options),
                node_ports=node_ports(node, options),
                pod_ranges=pod_ranges(node, options),
                options=options,
            )
            self._frame = options, node, frame
        frame = self._frame[2]
        if changes.is_reordered and len(self._health) > 1:
            self._health = {key: self._health[key] for key in sorted(self._health, key=self._place)}
        if changes.is_reordered or changes.has_other_notes:
            self._lost = tuple(self._in_order(self._losses))
            notes = (*self._in_order(self._notes), *self._lost)
            self._service_notes = tuple(note for _, note in notes)
        if changes.concerns_health or changes.has_other_node_ports:
            self._lost_checks = tuple(self._disputed_checks())
        health = tuple(self._health.values()) if changes.concerns_health else self.plan.health
        return replace(
            frame,
            ports=tuple(chain.from_iterable(self._served.values())),
            service_ranges=self._snapshot.service_ranges,
            health=health,
            notes=(
                *self._node_notes(frame),
                *self._service_notes,
                *(note for _, note in self._lost_checks),
            ),
            losses=(*self._lost, *self._lost_checks),
            served_families=[family for family, ports in self._families.items() if ports],
        )

    def _node_notes(self, frame: Plan) -> Iterator[str]:
        node, nodes = frame.options.node, self._snapshot.nodes
        if node and node not in nodes:
            yield f"node {node}: there is no such Node object"
        elif not node and (len(nodes) > 1 or self._local_services):
            what = "no endpoint" if frame.addresses else "no endpoint and no address"
            yield f"nothing tells which node this is (--node): {what} counts as its own"

    def _in_order(
        self, notes: dict[ServiceKey, tuple[str, ...]]
    ) -> Iterator[tuple[ServiceKey, str]]:
        for key in sorted(notes, key=self._place) if len(notes) > 1 else notes:
            yield from zip(repeat(key), notes[key], strict=False)

    def _disputed_checks(self) -> Iterator[tuple[ServiceKey, str]]:
        """A node port gets the packets before a socket does; of checks with one port the first by
        name is answered, see `HealthCheckPorts`. Cost: two look-ups for each check.
        """
        first: dict[int, ServiceKey] = {}
        for key in sorted(self._health):
            port = self._health[key].port
            owner = first.setdefault(port, key)
            for family in Family:
                if claimant := self._claims.node_port_owner(family, port):
                    owner = claimant[:2]
            if owner != key:
                text = f"health check port {port} is not answered for it: it belongs to"
                yield key, f"Service {'/'.join(key)}: {text} {'/'.join(owner)}"

    def _place(self, key: ServiceKey) -> int:
        if not self._places:
            self._places.update(zip(map(KEY_OF, self._snapshot.services), count(), strict=False))
        return self._places[key]

    def _precedence(self, key: PortKey) -> tuple[PlannedPort, tuple[int, int]]:
        """See `claims.Precedence`."""
        ports = self._services[key[:2]].ports
        number = next(number for number, port in enumerate(ports) if port.key == key)
        return ports[number], (self._place(key[:2]), number)


@dataclass(slots=True)
class PlanChanges:
    """The differences that an update has found."""

    is_reordered: bool = False
    """Services stand in another order, or something new stands among them."""
    has_other_notes: bool = False
    has_other_node_ports: bool = False
    ports: list[PortPair] = field(default_factory=list)
    health: list[HealthPair] = field(default_factory=list)

    @property
    def concerns_health(self) -> bool:
        """The health checks of a plan are others, or in another order."""
        return self.is_reordered or bool(self.health)


@dataclass(frozen=True, slots=True)
class _Segment:
    """Where two tuples of Services differ."""

    before: tuple[Service, ...] = ()
    after: tuple[Service, ...] = ()
    """Without those of other proxies."""
    reordered: frozenset[ServiceKey] = frozenset()
    """Of those after, all, if they do not follow each other as before."""
    is_at_end: bool = False
    """Nothing comes behind it."""


def _common(before: Iterable[Service], after: Iterable[Service]) -> int:
    """With how many same objects both begin."""
    is_other = list(map(operator.is_not, before, after))
    return is_other.index(True) if True in is_other else len(is_other)


def _node_ports(port: PlannedPort | None) -> list[int]:
    """The node ports of a service port."""
    frontends = port.frontends if port else ()
    return [frontend.port for frontend in frontends if frontend.kind == NODE_PORT]


def _claim_alike(before: tuple[PlannedPort, ...], after: tuple[PlannedPort, ...]) -> bool:
    return [(port.key, port.frontends) for port in before] == [
        (port.key, port.frontends) for port in after
    ]


def _put(values: dict[ServiceKey, T], key: ServiceKey, value: T | None) -> None:
    """An empty value is none."""
    if value:
        values[key] = value
    else:
        values.pop(key, None)
