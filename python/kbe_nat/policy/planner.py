"""From a `Snapshot` and a node to a `Plan`: which endpoints may serve whom. Pure.

Behaviour is kube-proxy's (pkg/proxy/topology.go, serviceport.go, endpointslicecache.go,
util/nodeport_addresses.go).
"""

import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import chain, repeat
from operator import attrgetter
from typing import TypeAlias

from kbe_nat.family import Family, family_of
from kbe_nat.model import (
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServiceKey,
    ServicePort,
    Snapshot,
    join_address,
)
from kbe_nat.policy.claims import Claims
from kbe_nat.policy.options import LOOPBACK, LOOPBACK6, PRIMARY, Mode, Options
from kbe_nat.policy.plan import (
    CLUSTER_IP,
    EXTERNAL_IP,
    LOAD_BALANCER,
    NODE_PORT,
    Backend,
    Frontend,
    HealthCheck,
    Plan,
    PlannedPort,
)

_EndpointsOf: TypeAlias = Callable[[ServicePort], list[tuple[Backend, Endpoint]]]
"""The endpoints of a service port, sorted by the text of address and port."""


def plan(snapshot: Snapshot, options: Options | None = None) -> Plan:
    """What the node of `options` has to do. Cost: linear in service ports and endpoints."""
    options = options or Options()
    return Planner().plan(snapshot, options)


class Planner:
    """Plans one snapshot after the other, and looks again only at Services that have changed since
    the last.
    """

    def __init__(self) -> None:
        self._known: dict[ServiceKey, _Known] = {}
        self._claims = Claims()
        self._context: tuple[object, ...] = ()
        self._services: tuple[Service, ...] = ()

    def plan(self, snapshot: Snapshot, options: Options) -> Plan:
        """As the function `plan`. Cost: a comparison per Service, linear in the endpoints of those
        that changed, and a look at every frontend when any has.
        """
        has_same_services = snapshot.services is self._services
        self._services = snapshot.services
        own = _Planner(snapshot, options)
        context = (options, own.node)
        if context != self._context:
            has_same_services = False
            self._known, self._claims, self._context = {}, Claims(), context
        self._known = own.looked_at_all(self._known, has_same_services=has_same_services)
        made, self._claims = own.plan(self._known, self._claims)
        return made


def exclusions(
    snapshot: Snapshot, port: PlannedPort, options: Options, *, is_local: bool
) -> dict[str, str]:
    """Endpoints of a service port that may not serve, in one of its two scopes, each with the
    reason; by address and port. Cost: linear in the Service's endpoints.
    """
    return _Planner(snapshot, options).exclusions(port, is_local=is_local)


def has_health_check(service: Service) -> bool:
    """Whether load balancers ask this node about a Service; otherwise the field means nothing."""
    return bool(
        service.health_check_node_port and service.is_load_balancer and service.is_external_local
    )


class _Planner:
    def __init__(self, snapshot: Snapshot, options: Options) -> None:
        self.snapshot = snapshot
        self.options = options
        self.node = snapshot.nodes.get(options.node, Node(options.node))
        self.addresses = options.node_addresses or self.node.addresses
        self.notes: list[str] = []

    def plan(self, known: Mapping[ServiceKey, "_Known"], claims: Claims) -> tuple[Plan, Claims]:
        """The plan, and its claims; `claims` are those of the last."""
        options = self.options
        if options.node and options.node not in self.snapshot.nodes:
            self.notes.append(f"node {options.node}: there is no such Node object")
        elif not options.node and self.misses_node():
            what = "no endpoint" if self.addresses else "no endpoint and no address"
            self.notes.append(
                f"nothing tells which node this is (--node): {what} counts as its own"
            )
        # These passes over all Services are made in C: there may be ten thousand, of which one has
        # changed.
        drafts = list(chain.from_iterable(map(attrgetter("drafts"), known.values())))
        self.notes += chain.from_iterable(map(attrgetter("notes"), known.values()))
        claims = claims.follow(drafts)
        self.notes += claims.notes
        open_addresses = tuple(self.node_port_addresses())
        is_iptables = options.mode is Mode.IPTABLES
        # kube-proxy's refusals in iptables mode match any local address, whatever nodePortAddresses
        # say.
        local = (*self.addresses, LOOPBACK, LOOPBACK6) if is_iptables else ()
        made = Plan(
            ports=claims.ports,
            changes=claims.changes,
            addresses=self.addresses,
            node_port_addresses=open_addresses,
            every_address=tuple(
                number
                for number in (Family.IPV4, Family.IPV6)
                if self.named_addresses(number) is None
            ),
            closed_addresses=tuple(text for text in local if text not in open_addresses),
            serves_localhost=self.serves_localhost(),
            pod_ranges=self.pod_ranges(),
            service_ranges=self.snapshot.service_ranges,
            health=tuple(filter(None, map(attrgetter("health"), known.values()))),
            notes=tuple(self.notes),
            options=options,
        )
        return made, claims

    def misses_node(self) -> bool:
        """Whether it matters which node this is."""
        services = self.snapshot.services
        return (
            len(self.snapshot.nodes) > 1
            or any(map(attrgetter("is_external_local"), services))
            or any(map(attrgetter("is_internal_local"), services))
        )

    def looked_at_all(
        self, known: dict[ServiceKey, "_Known"], *, has_same_services: bool
    ) -> dict[ServiceKey, "_Known"]:
        """What follows from every Service; `known` is what followed from those of the last plan."""
        if has_same_services:
            before = map(attrgetter("slices"), known.values())
            is_same = map(operator.is_, map(self.snapshot.slices.get, known, repeat(())), before)
            changed = [key for key, same in zip(known, is_same, strict=True) if not same]
            return {
                **known,
                **{key: self.looked_at(known[key].service, known[key]) for key in changed},
            }
        # The same objects as keys: later look-ups need not compare texts.
        keys = {key: key for key in self.snapshot.slices}
        return {
            keys.get(service.key, service.key): self.looked_at(service, known.get(service.key))
            for service in self.snapshot.services
            if service.proxy_name == self.options.proxy_name
        }

    def looked_at(self, service: Service, before: "_Known | None") -> "_Known":
        slices = self.snapshot.slices.get(service.key, ())
        if before and before.service == service and before.slices == slices:
            return before
        notes, self.notes = self.notes, []
        drafts = tuple(self.service(service))
        own, self.notes = tuple(self.notes), notes
        return _Known(service, slices, drafts, self.health(service, slices), own)

    def service(self, service: Service) -> Iterator[PlannedPort]:
        slices = self.snapshot.slices.get(service.key, ())
        allowed = list(self.external_ips(service))
        for cluster_ip in service.cluster_ips:
            number = family_of(cluster_ip)
            endpoints_of = self.endpoints(slices, number)
            balanced = dict.fromkeys(
                ip for ip in service.load_balancer_ips if family_of(ip) == number
            )
            external = [ip for ip in allowed if family_of(ip) == number]
            if self.options.mode is Mode.NFTABLES:
                # There source ranges are looked at ahead of everything, whatever else the address
                # is.
                external = [ip for ip in external if ip not in balanced]
            ranges, admits = self.source_ranges(service, number)
            is_external_too = cluster_ip in balanced or cluster_ip in external
            for port in service.ports:
                internal = Frontend(CLUSTER_IP, cluster_ip, port.port)
                others = [Frontend(EXTERNAL_IP, ip, port.port) for ip in external]
                others += [Frontend(LOAD_BALANCER, ip, port.port) for ip in balanced]
                if port.node_port:
                    others.append(Frontend(NODE_PORT, "", port.node_port))
                is_external_local = service.is_external_local and bool(others)
                endpoints = endpoints_of(port)
                uses_local = service.is_internal_local or is_external_local
                cluster = self.cluster_set(endpoints)
                local = self.local_set(endpoints) if uses_local else ()
                frontends = [internal, *others]
                if is_external_too and self.is_external_first(
                    has_endpoints=bool(cluster),
                    is_served=bool(local) or not service.is_internal_local,
                ):
                    frontends = [*others, internal]
                yield PlannedPort(
                    namespace=service.namespace,
                    service=service.name,
                    port_name=port.name,
                    protocol=port.protocol,
                    family=number,
                    frontends=tuple(dict.fromkeys(frontends)),
                    cluster_backends=cluster,
                    local_backends=local,
                    serving_backends=_serving_beside(endpoints, {*cluster, *local}),
                    is_internal_local=service.is_internal_local,
                    is_external_local=is_external_local,
                    affinity_seconds=service.affinity_seconds,
                    source_ranges=ranges,
                    allows_load_balancer_source=admits,
                    health_check_node_port=service.health_check_node_port
                    if has_health_check(service)
                    else 0,
                    source_ranges_apply_to_all=service.source_ranges_apply_to_all,
                    strategy=service.strategy or self.options.strategy,
                )

    def is_external_first(self, *, has_endpoints: bool, is_served: bool) -> bool:
        """Whether packets to a cluster IP that is an external address of the same Service, too,
        find the rule for that. `is_served` is the cluster IP by itself. In nftables mode a map has
        one element for both, the one that is written last; in iptables mode the cluster IP's rule
        is the first, where it has any.
        """
        return self.options.mode is Mode.NFTABLES or (has_endpoints and not is_served)

    def external_ips(self, service: Service) -> Iterator[str]:
        """Those that whoever may write Services is trusted with."""
        allowed = self.options.external_ranges
        for address in dict.fromkeys(service.external_ips):
            if not allowed or any(_contains(text, address) for text in allowed):
                yield address
            else:
                self.notes.append(
                    f"Service {service.namespace}/{service.name}: external IP {address} is not served: "
                    "it is outside the ranges that are allowed"
                )

    def endpoints(self, slices: Iterable[EndpointSlice], number: int) -> "_EndpointsOf":
        """Of one family, to be asked for each service port. Cost: linear in the ports of the
        slices; of an answer in the port's endpoints.
        """
        # Grouped once: a Service may have thousands of ports, and all of its slices name them all.
        by_port: dict[tuple[str, str], list[tuple[int, EndpointSlice]]] = {}
        for part in slices:
            if part.family == number:
                for own in part.ports:
                    by_port.setdefault((own.name, own.protocol), []).append((own.port, part))
        return lambda port: self.merged(by_port.get((port.name, port.protocol), ()))

    def merged(self, parts: Iterable[tuple[int, EndpointSlice]]) -> list[tuple[Backend, Endpoint]]:
        """The endpoints of slices on these ports, each once. Slices overlap while a pod moves
        between them, and one may name an address twice: the last one that does not terminate
        counts, else the first.
        """
        best: dict[str, tuple[Backend, Endpoint]] = {}
        for number, part in parts:
            for endpoint in part.endpoints:
                text = join_address(endpoint.address, number)
                if text not in best or not endpoint.is_terminating:
                    target = Backend(
                        endpoint.address, number, endpoint.weight, self.is_local(endpoint)
                    )
                    best[text] = (target, endpoint)
        return [best[text] for text in sorted(best)]

    def exclusions(self, port: PlannedPort, *, is_local: bool) -> dict[str, str]:
        slices = self.snapshot.slices.get((port.namespace, port.service), ())
        wanted = ServicePort(port.port_name, port.protocol, 0)
        chosen = {
            str(target): target
            for target in (port.local_backends if is_local else port.cluster_backends)
        }
        reasons = {}
        for target, endpoint in self.endpoints(slices, port.family)(wanted):
            kept = chosen.get(str(target))
            if kept is None:
                reasons[str(target)] = self.reason(endpoint, is_local=is_local)
            elif not kept.weight:
                reasons[str(target)] = "it is being drained: its weight is 0"
        return reasons

    def reason(self, endpoint: Endpoint, *, is_local: bool) -> str:
        """Why an endpoint is not in the list of its scope."""
        if is_local and not self.is_local(endpoint):
            return (
                f"it is on node {endpoint.node}, not on this one"
                if endpoint.node
                else "it is on no node"
            )
        if endpoint.is_terminating:
            return "it terminates, and others are ready" if endpoint.is_serving else "it terminates"
        if not endpoint.is_ready:
            return "it is not ready"
        hints = sorted(endpoint.nodes or endpoint.zones)
        kind = "nodes" if endpoint.nodes else "zones"
        return f"it is hinted for {kind} {', '.join(hints)}" if hints else "others are nearer"

    def is_local(self, endpoint: Endpoint) -> bool:
        return bool(endpoint.node) and endpoint.node == self.options.node

    def cluster_set(self, endpoints: list[tuple[Backend, Endpoint]]) -> tuple[Backend, ...]:
        ready = [pair for pair in endpoints if pair[1].is_ready]
        return tuple(target for target, _ in self.hinted(ready) or _terminating(endpoints))

    def local_set(self, endpoints: list[tuple[Backend, Endpoint]]) -> tuple[Backend, ...]:
        local = [pair for pair in endpoints if self.is_local(pair[1])]
        ready = [pair for pair in local if pair[1].is_ready]
        return tuple(target for target, _ in ready or _terminating(local))

    def hinted(self, ready: list[tuple[Backend, Endpoint]]) -> list[tuple[Backend, Endpoint]]:
        """Those hinted for this node, else for its zone. Hints count only when every ready endpoint
        has them and one of them is met.
        """
        node, zone = self.options.node, self.node.zone
        if node and all(endpoint.nodes for _, endpoint in ready):
            near = [pair for pair in ready if node in pair[1].nodes]
            if near:
                return near
        if zone and all(endpoint.zones for _, endpoint in ready):
            near = [pair for pair in ready if zone in pair[1].zones]
            if near:
                return near
        return ready

    def source_ranges(self, service: Service, number: int) -> tuple[tuple[str, ...], bool]:
        """The ranges that restrict one family, and whether they let this node in."""
        ranges = tuple(text for text in service.source_ranges if family_of(text) == number)
        if any(text.endswith("/0") for text in ranges):
            return (), False
        primary = self.primary(number)
        admits = primary is not None and any(_contains(text, primary) for text in ranges)
        return ranges, admits

    def pod_ranges(self) -> tuple[str, ...]:
        """The first of each family: kube-proxy's rules know no more."""
        options = self.options
        ranges = self.node.pod_ranges if options.uses_node_ranges else options.cluster_ranges
        return tuple({family_of(text): text for text in reversed(ranges)}.values())[::-1]

    def node_port_addresses(self) -> Iterator[str]:
        """A family for which nothing is given falls back to all of its addresses, as kube-proxy
        does.
        """
        for number in (Family.IPV4, Family.IPV6):
            named = self.named_addresses(number)
            yield from self.local_addresses(number) if named is None else named

    def named_addresses(self, number: int) -> list[str] | None:
        """The addresses of a family that serve node ports; None when all do: nothing is said of the
        family, or one range is all of it.
        """
        is_iptables = self.options.mode is Mode.IPTABLES
        given = self.options.node_port_addresses or (() if is_iptables else (PRIMARY,))
        if PRIMARY in given:
            primary = self.primary(number)
            return (
                [own for own in self.local_addresses(number) if own == primary] if primary else None
            )
        ranges = [text for text in given if family_of(text) == number]
        if not ranges or any(text.endswith("/0") for text in ranges):
            return None
        local = self.local_addresses(number)
        return [address for address in local if any(_contains(text, address) for text in ranges)]

    def local_addresses(self, number: int) -> list[str]:
        addresses = [address for address in self.addresses if family_of(address) == number]
        is_iptables = self.options.mode is Mode.IPTABLES
        if number == Family.IPV4 and is_iptables and self.options.localhost_node_ports:
            addresses.append(LOOPBACK)
        return addresses

    def serves_localhost(self) -> bool:
        """Any range of loopback is enough, even one without an address of the node."""
        if self.options.mode is not Mode.IPTABLES or not self.options.localhost_node_ports:
            return False
        ranges = [
            text
            for text in self.options.node_port_addresses
            if text != PRIMARY and family_of(text) == Family.IPV4
        ]
        return self.named_addresses(Family.IPV4) is None or any(
            ip_network(text).is_loopback or _contains(text, "127.0.0.0") for text in ranges
        )

    def primary(self, number: int) -> str | None:
        """The address of a family that the node goes by; none when it is loopback, as kube-proxy
        supposes of nodes that it does not know.
        """
        known = (self.options.primary_address, *(self.node.addresses or self.addresses))
        primary = next(
            (address for address in known if address and family_of(address) == number), None
        )
        return None if primary is None or ip_address(primary).is_loopback else primary

    def health(self, service: Service, slices: Iterable[EndpointSlice]) -> HealthCheck | None:
        """What load balancers are told, where they ask: how many addresses of this node are ready,
        on whatever port of the slices.
        """
        if not (service.cluster_ips and has_health_check(service)):
            return None
        number = family_of(service.cluster_ips[0])
        endpoints_of = self.endpoints(slices, number)
        names = {(own.name, own.protocol) for part in slices for own in part.ports}
        ready = {
            target.address
            for name, protocol in names
            for target, endpoint in endpoints_of(ServicePort(name, protocol, 0))
            if endpoint.is_ready and target.is_local
        }
        return HealthCheck(
            service.namespace, service.name, service.health_check_node_port, len(ready)
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """What followed from a Service and its slices."""

    service: Service
    slices: tuple[EndpointSlice, ...]
    drafts: tuple[PlannedPort, ...]
    health: HealthCheck | None
    notes: tuple[str, ...]


def _terminating(endpoints: list[tuple[Backend, Endpoint]]) -> list[tuple[Backend, Endpoint]]:
    """Those that still serve while they go: better than nothing."""
    return [pair for pair in endpoints if pair[1].is_serving and pair[1].is_terminating]


def _serving_beside(
    endpoints: list[tuple[Backend, Endpoint]], listed: Collection[Backend]
) -> tuple[Backend, ...]:
    """What serves still but gets nothing new: it terminates, or hints and policies leave it out."""
    return tuple(
        target for target, endpoint in endpoints if endpoint.is_serving and target not in listed
    )


def _contains(text: str, address: str) -> bool:
    return ip_address(address) in ip_network(text)
