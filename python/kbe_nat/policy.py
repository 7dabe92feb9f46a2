"""Which endpoints may serve whom: from a `Snapshot` and a node to what the engine needs. Pure.

Behaviour is kube-proxy's (pkg/proxy/topology.go, serviceport.go, endpointslicecache.go,
util/nodeport_addresses.go).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Final

from kbe_nat.model import (
    IPV4,
    IPV6,
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServicePort,
    Snapshot,
    Strategy,
    family,
    join_address,
)

PRIMARY: Final = "primary"
"""In `Options.node_port_addresses`: the node's primary address of each family."""
LOOPBACK: Final = "127.0.0.1"
LOOPBACK6: Final = "::1"


class Mode(StrEnum):
    """kube-proxy's modes."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator decides, in kube-proxy's words."""

    node: str = ""
    """Name of the node that is served; empty when it is none of the cluster's."""
    node_addresses: tuple[str, ...] = ()
    """Every address of the node besides loopback; without them those of the Node object."""
    cluster_ranges: tuple[str, ...] = ()
    """Ranges of pod addresses (`--cluster-cidr`)."""
    uses_node_ranges: bool = False
    """Take the pod ranges of the Node object instead (`--detect-local-mode=NodeCIDR`)."""
    pod_interface: str = ""
    """Name of the device behind which pods are (`--detect-local-mode=BridgeInterface`); with a + at its end, of
    all that begin so (InterfaceNamePrefix). Empty: the ranges tell.
    """
    pod_interfaces: tuple[int, ...] = ()
    """The indexes that those devices have now."""
    masquerade_all: bool = False
    masquerade_bit: int = 14
    """Of the packet mark, in the rules that kube-proxy would write."""
    node_port_addresses: tuple[str, ...] = ()
    """Ranges, or `PRIMARY`; empty means what the mode's default is: all addresses of the node, or `PRIMARY`."""
    localhost_node_ports: bool = True
    """Serve node ports on 127.0.0.1 too, for the node itself; only in iptables mode."""
    mode: Mode = Mode.IPTABLES
    """Which of kube-proxy's modes is followed where they differ."""
    unknown_port: str | None = None
    """What becomes of packets to a cluster IP's other ports: "pass", "reject" or "drop"; None: as the mode
    does.
    """
    external_ranges: tuple[str, ...] = ()
    """External IPs outside are not served (CVE-2020-8554); empty: all are, as by kube-proxy."""
    resets_tcp: bool = False
    """Refuse TCP with a RST, and not with an ICMP error as kube-proxy does."""
    strategy: Strategy = Strategy.RANDOM
    """For Services without the annotation."""
    proxy_name: str | None = None
    """Serve only Services with this label `service.kubernetes.io/service-proxy-name`; None: only those
    without it.
    """


@dataclass(frozen=True, slots=True)
class Listener:
    """An address and port under which a service port is reached; a node port's address is empty."""

    kind: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint with the port that it serves."""

    address: str
    port: int
    weight: int = 1
    is_local: bool = False
    """It is on this node."""

    def __str__(self) -> str:
        return join_address(self.address, self.port)


@dataclass(frozen=True, slots=True)
class PortPolicy:
    """One service port in one family: where it is reached and who may serve it."""

    namespace: str
    service: str
    port_name: str
    protocol: str
    family: int
    listeners: tuple[Listener, ...]
    cluster: tuple[Target, ...]
    """For traffic that any node's endpoints may serve, sorted by the text of address and port."""
    local: tuple[Target, ...]
    """For traffic that must stay on this node; computed only where a policy asks for it."""
    is_internal_local: bool = False
    is_external_local: bool = False
    affinity_seconds: int | None = None
    source_ranges: tuple[str, ...] = ()
    """Of this family; empty when everybody is let in."""
    admits_own_addresses: bool = False
    """The node itself is within the source ranges. Its packets to a load balancer's address may carry that
    address as their source.
    """
    ranges_everywhere: bool = False
    """The ranges restrict external IPs and node ports too."""
    health_check_node_port: int = 0
    """Where load balancers ask whether this node has endpoints; 0 when they do not."""
    strategy: Strategy = Strategy.RANDOM

    @property
    def name(self) -> str:
        """Kubernetes' name of the port: "namespace/service:port", without the colon for an unnamed port."""
        return port_name(self.namespace, self.service, self.port_name)

    @property
    def is_external(self) -> bool:
        """It is reached by more than its cluster IP."""
        return any(listener.kind != CLUSTER_IP for listener in self.listeners)

    @property
    def uses_cluster(self) -> bool:
        """Some traffic may be served by endpoints anywhere."""
        return not self.is_internal_local or self.is_external

    @property
    def uses_local(self) -> bool:
        """Some traffic must be served by endpoints of this node."""
        return self.is_internal_local or self.is_external_local

    @property
    def has_internal_endpoints(self) -> bool:
        """Somebody may serve what goes to the cluster IP."""
        return bool(self.local if self.is_internal_local else self.cluster)

    @property
    def has_external_endpoints(self) -> bool:
        """Somebody may serve what comes from outside for another address."""
        return bool(self.local if self.is_external_local else self.cluster)

    @property
    def refuses_somebody(self) -> bool:
        """It has no endpoints, or none on this node for traffic that asks for those."""
        return not self.local and (not self.cluster or self.is_external_local)

    def addresses(self, kind: str) -> tuple[str, ...]:
        """The addresses of all listeners of one kind."""
        return tuple(listener.address for listener in self.listeners if listener.kind == kind)


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A `healthCheckNodePort`, and how many endpoints of this node could answer behind it."""

    namespace: str
    service: str
    port: int
    local_endpoints: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that follows from a snapshot for one node."""

    ports: tuple[PortPolicy, ...]
    addresses: tuple[str, ...]
    """The node's own."""
    node_port_addresses: tuple[str, ...]
    """Those that serve node ports."""
    pod_ranges: tuple[str, ...]
    every_address: tuple[int, ...] = (IPV4, IPV6)
    """Families in which every local address serves node ports, since nothing says which."""
    closed_addresses: tuple[str, ...] = ()
    """Addresses that serve no node ports, where those without endpoints are refused nevertheless."""
    service_ranges: tuple[str, ...] = ()
    """Of cluster IPs; unallocated ones are dropped in nftables mode."""
    health: tuple[HealthCheck, ...] = ()
    notes: tuple[str, ...] = ()
    """What cannot be served, one line each."""
    options: Options = field(default_factory=Options)


def plan(snapshot: Snapshot, options: Options | None = None) -> Plan:
    """What the node of `options` has to do. Cost: linear in service ports and endpoints."""
    options = options or Options()
    return _Planner(snapshot, options).plan()


def exclusions(snapshot: Snapshot, port: PortPolicy, options: Options, *, is_local: bool) -> dict[str, str]:
    """Endpoints of a service port that may not serve, in one of its two scopes, each with the reason; by address
    and port. Cost: linear in the Service's endpoints.
    """
    return _Planner(snapshot, options).exclusions(port, is_local=is_local)


def unknown_port(options: Options) -> str:
    """What becomes of packets to a cluster IP's other ports: "pass", "reject" or "drop"."""
    return options.unknown_port or ("reject" if options.mode is Mode.NFTABLES else "pass")


def unallocated(plan: Plan) -> tuple[str, ...]:
    """Ranges in which cluster IPs that no Service has are dropped: all in nftables mode, else none."""
    return plan.service_ranges if plan.options.mode is Mode.NFTABLES else ()


def port_name(namespace: str, service: str, port: str) -> str:
    """The name of a service port as kube-proxy writes it."""
    return f"{namespace}/{service}:{port}" if port else f"{namespace}/{service}"


def has_health_check(service: Service) -> bool:
    """Whether load balancers ask this node about a Service; otherwise the field means nothing."""
    return bool(service.health_check_node_port and service.is_load_balancer and service.is_external_local)


class _Planner:
    def __init__(self, snapshot: Snapshot, options: Options) -> None:
        self.snapshot = snapshot
        self.options = options
        self.node = snapshot.nodes.get(options.node, Node(options.node))
        self.addresses = options.node_addresses or self.node.addresses
        self.virtual = frozenset(ip for service in snapshot.services for ip in service.cluster_ips)
        self.owners: dict[tuple[str, str, int], str] = {}
        self.notes: list[str] = []

    def plan(self) -> Plan:
        options = self.options
        if options.node and options.node not in self.snapshot.nodes:
            self.notes.append(f"node {options.node}: there is no such Node object")
        services = [service for service in self.snapshot.services if service.proxy_name == options.proxy_name]
        drafts = [draft for service in services for draft in self.service(service)]
        open_addresses = tuple(self.node_port_addresses())
        is_iptables = options.mode is Mode.IPTABLES
        # kube-proxy's refusals in iptables mode match any local address, whatever nodePortAddresses say.
        local = (*self.addresses, LOOPBACK, LOOPBACK6) if is_iptables else ()
        return Plan(
            ports=tuple(self.with_claims(drafts)),
            addresses=self.addresses,
            node_port_addresses=open_addresses,
            every_address=tuple(number for number in (IPV4, IPV6) if self.named_addresses(number) is None),
            closed_addresses=tuple(text for text in local if text not in open_addresses),
            pod_ranges=self.node.pod_ranges if options.uses_node_ranges else options.cluster_ranges,
            service_ranges=self.snapshot.service_ranges,
            health=tuple(self.health(services)),
            notes=tuple(self.notes),
            options=options,
        )

    def service(self, service: Service) -> Iterator[PortPolicy]:
        slices = self.snapshot.slices.get(service.key, ())
        allowed = list(self.external_ips(service))
        for cluster_ip in service.cluster_ips:
            number = family(cluster_ip)
            own = [part for part in slices if part.family == number]
            balanced = [ip for ip in service.load_balancer_ips if family(ip) == number]
            external = [ip for ip in allowed if family(ip) == number]
            if self.options.mode is Mode.NFTABLES:
                # There source ranges are looked at ahead of everything, whatever else the address is.
                external = [ip for ip in external if ip not in balanced]
            ranges, admits = self.source_ranges(service, number)
            for port in service.ports:
                listeners = [Listener(CLUSTER_IP, cluster_ip, port.port)]
                listeners += [Listener(EXTERNAL_IP, ip, port.port) for ip in external]
                listeners += [Listener(LOAD_BALANCER, ip, port.port) for ip in balanced]
                if port.node_port:
                    listeners.append(Listener(NODE_PORT, "", port.node_port))
                is_external_local = service.is_external_local and len(listeners) > 1
                endpoints = self.endpoints(own, port)
                uses_local = service.is_internal_local or is_external_local
                yield PortPolicy(
                    namespace=service.namespace,
                    service=service.name,
                    port_name=port.name,
                    protocol=port.protocol,
                    family=number,
                    listeners=tuple(dict.fromkeys(listeners)),
                    cluster=self.cluster_set(endpoints),
                    local=self.local_set(endpoints) if uses_local else (),
                    is_internal_local=service.is_internal_local,
                    is_external_local=is_external_local,
                    affinity_seconds=service.affinity_seconds,
                    source_ranges=ranges,
                    admits_own_addresses=admits,
                    health_check_node_port=service.health_check_node_port if has_health_check(service) else 0,
                    ranges_everywhere=service.ranges_everywhere,
                    strategy=service.strategy or self.options.strategy,
                )

    def external_ips(self, service: Service) -> Iterator[str]:
        """Those that whoever may write Services is trusted with."""
        allowed = self.options.external_ranges
        for address in service.external_ips:
            if not allowed or any(_contains(text, address) for text in allowed):
                yield address
            else:
                self.notes.append(
                    f"Service {service.namespace}/{service.name}: external IP {address} is not served: "
                    "it is outside the ranges that are allowed"
                )

    def endpoints(self, slices: Iterable[EndpointSlice], port: ServicePort) -> list[tuple[Target, Endpoint]]:
        """The service port's endpoints, each once. Slices overlap while a pod moves between them: what does
        not terminate counts, then what is on this node, then what was there first.
        """
        best: dict[str, tuple[Target, Endpoint]] = {}
        for part in slices:
            for own in part.ports:
                if (own.name, own.protocol) != (port.name, port.protocol):
                    continue
                for endpoint in part.endpoints:
                    if endpoint.address in self.virtual:
                        self.notes.append(
                            f"EndpointSlice {part.name}: {endpoint.address} is a cluster IP: left out"
                        )
                        continue
                    target = Target(endpoint.address, own.port, endpoint.weight, self.is_local(endpoint))
                    text = str(target)
                    before = best.get(text)
                    if before is None or self.rank(endpoint) > self.rank(before[1]):
                        best[text] = (target, endpoint)
        return [best[text] for text in sorted(best)]

    def exclusions(self, port: PortPolicy, *, is_local: bool) -> dict[str, str]:
        slices = self.snapshot.slices.get((port.namespace, port.service), ())
        own = [part for part in slices if part.family == port.family]
        wanted = ServicePort(port.port_name, port.protocol, 0)
        chosen = {str(target): target for target in (port.local if is_local else port.cluster)}
        reasons = {}
        for target, endpoint in self.endpoints(own, wanted):
            kept = chosen.get(str(target))
            if kept is None:
                reasons[str(target)] = self.reason(endpoint, is_local=is_local)
            elif not kept.weight:
                reasons[str(target)] = "it is being drained: its weight is 0"
        return reasons

    def reason(self, endpoint: Endpoint, *, is_local: bool) -> str:
        """Why an endpoint is not in the list of its scope."""
        if is_local and not self.is_local(endpoint):
            return f"it is on node {endpoint.node}, not on this one" if endpoint.node else "it is on no node"
        if endpoint.is_terminating:
            return "it terminates, and others are ready" if endpoint.is_serving else "it terminates"
        if not endpoint.is_ready:
            return "it is not ready"
        hints = sorted(endpoint.nodes or endpoint.zones)
        kind = "nodes" if endpoint.nodes else "zones"
        return f"it is hinted for {kind} {', '.join(hints)}" if hints else "others are nearer"

    def rank(self, endpoint: Endpoint) -> tuple[bool, bool]:
        return (not endpoint.is_terminating, self.is_local(endpoint))

    def is_local(self, endpoint: Endpoint) -> bool:
        return bool(endpoint.node) and endpoint.node == self.options.node

    def cluster_set(self, endpoints: list[tuple[Target, Endpoint]]) -> tuple[Target, ...]:
        ready = [pair for pair in endpoints if pair[1].is_ready]
        return tuple(target for target, _ in self.hinted(ready) or _terminating(endpoints))

    def local_set(self, endpoints: list[tuple[Target, Endpoint]]) -> tuple[Target, ...]:
        local = [pair for pair in endpoints if self.is_local(pair[1])]
        ready = [pair for pair in local if pair[1].is_ready]
        return tuple(target for target, _ in ready or _terminating(local))

    def hinted(self, ready: list[tuple[Target, Endpoint]]) -> list[tuple[Target, Endpoint]]:
        """Those hinted for this node, else for its zone. Hints count only when every ready endpoint has them
        and one of them is met.
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
        ranges = tuple(text for text in service.source_ranges if family(text) == number)
        if any(text.endswith("/0") for text in ranges):
            return (), False
        primary = self.primary(number)
        admits = primary is not None and any(_contains(text, primary) for text in ranges)
        return ranges, admits

    def with_claims(self, drafts: list[PortPolicy]) -> Iterator[PortPolicy]:
        """Every address and port has one owner, the first to claim it. Cluster IPs are claimed before the
        rest: the API server allocates them, while any tenant can write somebody else's into `externalIPs`
        (CVE-2020-8554).
        """
        kept: list[list[Listener]] = [[] for _ in drafts]
        for wants_cluster_ip in (True, False):
            for number, draft in enumerate(drafts):
                for listener in draft.listeners:
                    if (listener.kind == CLUSTER_IP) == wants_cluster_ip and self.claims(draft, listener):
                        kept[number].append(listener)
        for draft, listeners in zip(drafts, kept, strict=True):
            if listeners:
                yield draft if len(listeners) == len(draft.listeners) else _narrowed(draft, listeners)

    def claims(self, draft: PortPolicy, listener: Listener) -> bool:
        place = listener.address or f"every IPv{draft.family} address of the node"
        key = (draft.protocol, place, listener.port)
        owner = self.owners.setdefault(key, draft.name)
        if owner != draft.name:
            where = (
                join_address(place, listener.port) if listener.address else f"port {listener.port} of {place}"
            )
            self.notes.append(
                f"Service {draft.name}: {draft.protocol} {where} is not served for it: it belongs to {owner}"
            )
        return owner == draft.name

    def node_port_addresses(self) -> Iterator[str]:
        """A family for which nothing is given falls back to all of its addresses, as kube-proxy does."""
        for number in (IPV4, IPV6):
            named = self.named_addresses(number)
            yield from self.local_addresses(number) if named is None else named

    def named_addresses(self, number: int) -> list[str] | None:
        """The addresses of a family that serve node ports; None when none are said, which means all."""
        is_iptables = self.options.mode is Mode.IPTABLES
        given = self.options.node_port_addresses or (() if is_iptables else (PRIMARY,))
        if PRIMARY in given:
            primary = self.primary(number)
            return [primary] if primary else None
        ranges = [text for text in given if family(text) == number]
        if not ranges:
            return None
        local = self.local_addresses(number)
        return [address for address in local if any(_contains(text, address) for text in ranges)]

    def local_addresses(self, number: int) -> list[str]:
        addresses = [address for address in self.addresses if family(address) == number]
        is_iptables = self.options.mode is Mode.IPTABLES
        if number == IPV4 and is_iptables and self.options.localhost_node_ports:
            addresses.append(LOOPBACK)
        return addresses

    def primary(self, number: int) -> str | None:
        addresses = self.node.addresses or self.addresses
        return next((address for address in addresses if family(address) == number), None)

    def health(self, services: Iterable[Service]) -> Iterator[HealthCheck]:
        for service in services:
            if not (service.cluster_ips and has_health_check(service)):
                continue
            ready = {
                endpoint.address
                for part in self.snapshot.slices.get(service.key, ())
                if part.ports and part.family == family(service.cluster_ips[0])
                for endpoint in part.endpoints
                if endpoint.is_ready and self.is_local(endpoint)
            }
            yield HealthCheck(service.namespace, service.name, service.health_check_node_port, len(ready))


def _terminating(endpoints: list[tuple[Target, Endpoint]]) -> list[tuple[Target, Endpoint]]:
    """Those that still serve while they go: better than nothing."""
    return [pair for pair in endpoints if pair[1].is_serving and pair[1].is_terminating]


def _narrowed(draft: PortPolicy, listeners: list[Listener]) -> PortPolicy:
    return replace(draft, listeners=tuple(listeners))


def _contains(text: str, address: str) -> bool:
    return ip_address(address) in ip_network(text)


CLUSTER_IP: Final = "cluster-ip"
EXTERNAL_IP: Final = "external-ip"
LOAD_BALANCER: Final = "load-balancer"
NODE_PORT: Final = "node-port"
