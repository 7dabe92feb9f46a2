"""Services for the reference NAT, and by kube-proxy's rules the endpoints of a packet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Final

from kbe_nat.reference.packet import ACK, FIN, NUMBERS, RST, SYN, TCP, Address, Packet
from kbe_nat.reference.tcp import is_possible


@dataclass(frozen=True, slots=True)
class Backend:
    """One endpoint. Weight 0 drains it."""

    address: str
    port: int
    weight: int = 1
    hairpin: bool = True


@dataclass(frozen=True, slots=True)
class Frontend:
    """Where a service port is reached; a node port has no address of its own."""

    address: str
    port: int
    kind: str = "cluster-ip"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service in one family."""

    name: str
    frontends: Sequence[Frontend]
    cluster_backends: Sequence[Backend]
    protocol: str = "tcp"
    local_backends: Sequence[Backend] = ()
    serving_backends: Sequence[Backend] = ()
    is_internal_local: bool = False
    is_external_local: bool = False
    affinity_seconds: int | None = None
    source_ranges: Sequence[str] = ()
    source_ranges_apply_to_all: bool = False
    strategy: str = "rr"
    family: int | None = None


class Standing(Enum):
    """The flows that an endpoint may have."""

    LISTED = "new flows, and those that it has"
    SERVING = "the datagrams of flows that it has, and answered connections"
    GONE = "answered connections only"


@dataclass(slots=True, eq=False)
class Endpoint:
    """A backend as flows remember it."""

    address: Address
    port: int
    standing: Standing = Standing.LISTED
    birth: int = 0
    """How often it has come back; clients stick to it as it was."""
    hairpin: bool = True


@dataclass(slots=True, eq=False)
class Served:
    """A service port with what outlives its newest form."""

    spec: ServicePort
    endpoints: dict[tuple[Address, int], Endpoint] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=lambda: {"cluster": 0, "local": 0})
    is_served: bool = True
    flows: int = 0


def standing_beside(spec: ServicePort, place: tuple[Address, int]) -> Standing:
    """The standing of an endpoint that is in neither list."""
    is_serving = any(
        place == (ip_address(backend.address), backend.port) for backend in spec.serving_backends
    )
    return Standing.SERVING if is_serving else Standing.GONE


@dataclass(frozen=True, slots=True)
class NodePorts:
    """Where node ports are reached on a node."""

    addresses: Sequence[str] = ()
    wildcard_families: Sequence[int] = ()
    reject_addresses: Sequence[str] = ()
    loopback: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """The node that packets pass."""

    addresses: Sequence[str] = ()
    node_ports: NodePorts | None = None
    """Without it all of the addresses serve node ports."""
    pod_ranges: Sequence[str] = ()
    masquerade_all: bool = False
    unknown_port: str = "pass"
    unallocated: Sequence[str] = ()
    mode: str = "iptables"


@dataclass(frozen=True, slots=True)
class Decision:
    """How a first packet is served: by which list of endpoints, and whether its source is
    masqueraded.
    """

    spec: ServicePort
    scope: str
    masquerade: bool
    is_midstream: bool

    @property
    def backends(self) -> Sequence[Backend]:
        """The endpoints that may serve, drained ones among them."""
        return self.spec.local_backends if self.scope == "local" else self.spec.cluster_backends


class Refused(Exception):
    """A packet is not served."""

    def __init__(self, action: str, cause: str) -> None:
        super().__init__(cause)
        self.action = action
        self.cause = cause


class Tables:
    """The service ports by the ends at which they are reached."""

    def __init__(self, services: Sequence[ServicePort], node: Node) -> None:
        self.node = node
        self.node_ports = node.node_ports or NodePorts(node.addresses)
        self.frontends: dict[tuple[int, Address, int], tuple[ServicePort, str]] = {}
        """Service port and kind of frontend, by protocol, address and port."""
        self.beaten: dict[tuple[int, Address, int], tuple[ServicePort, str]] = {}
        """Node ports at addresses where another Service has that port for itself."""
        self.addresses: dict[Address, bool] = {}
        """Every frontend's address, and whether it is a cluster IP."""
        # An exact address goes before a node port, as in kube-proxy's chains.
        for spec in services:
            for frontend in spec.frontends:
                if frontend.address:
                    self._claim(spec, frontend, ip_address(frontend.address))
        for spec in services:
            for frontend in spec.frontends:
                if not frontend.address:
                    for address in self._of_family(spec, self.node_ports.addresses):
                        self._claim(spec, frontend, address)
        for spec in services:
            for frontend in spec.frontends:
                if not frontend.address and _refuses_somebody(spec):
                    closed = replace(frontend, kind="closed-node-port")
                    for address in self._of_family(spec, self.node_ports.reject_addresses):
                        self._claim(spec, closed, address)

    def find(self, protocol: int, address: Address, port: int) -> tuple[ServicePort, str] | None:
        """The service port that is served there, and the kind of the frontend. All of 127.0.0.0/8
        is the node's: its node ports are beside 127.0.0.1 as they are on it, or closed.
        """
        entry = self.frontends.get((protocol, address, port))
        if entry or address.version != 4 or not address.is_loopback:
            return entry
        spec, kind = self.frontends.get((protocol, LOCALHOST, port), (None, ""))
        if spec is None or kind not in ("node-port", "closed-node-port"):
            return None
        return spec, kind if 4 in self.node_ports.wildcard_families else "closed-node-port"

    def _claim(self, spec: ServicePort, frontend: Frontend, address: Address) -> None:
        key = (NUMBERS[spec.protocol], address, frontend.port)
        _, kind = self.frontends.setdefault(key, (spec, frontend.kind))
        if not frontend.address and kind != frontend.kind:
            self.beaten[key] = (spec, frontend.kind)
        is_cluster_ip = frontend.kind == "cluster-ip"
        self.addresses[address] = self.addresses.get(address, False) or is_cluster_ip

    def _of_family(self, spec: ServicePort, texts: Sequence[str]) -> Iterator[Address]:
        """The addresses of the service port's family."""
        members = [frontend.address for frontend in spec.frontends if frontend.address]
        members += [backend.address for backend in (*spec.cluster_backends, *spec.local_backends)]
        family = spec.family or (ip_address(members[0]).version if members else 4)
        yield from (address for address in map(ip_address, texts) if address.version == family)


def decide(tables: Tables, packet: Packet, interface: int, midstream: str) -> Decision | None:
    """The endpoints for a packet that has no flow; None when no Service matches.

    Raises `Refused`.
    """
    ends = packet.ends
    is_to_loopback = isinstance(ends.dst, IPv4Address) and ends.dst.is_loopback
    is_guarded = tables.node_ports.loopback and is_to_loopback and not ends.src.is_loopback
    try:
        decision = _decide_beyond_guard(tables, packet, interface, midstream)
    except Refused:
        if not is_guarded:
            raise
        decision = None
    if decision is None and is_guarded:
        # kube-proxy's KUBE-FIREWALL, ahead of all refusals.
        raise Refused("drop", "martian")
    return decision


def _decide_beyond_guard(
    tables: Tables, packet: Packet, interface: int, midstream: str
) -> Decision | None:
    ends = packet.ends
    entry = tables.find(packet.protocol, ends.dst, ends.dport)
    if entry is None:
        verdict = tables.node.unknown_port
        has_ports = packet.protocol in NUMBERS.values()
        is_cluster_ip = tables.addresses.get(ends.dst, False)
        is_allocatable = any(_contains(text, ends.dst) for text in tables.node.unallocated)
        is_own = is_own_address(tables.node, ends.src) or (ends.src.is_loopback and interface == 0)
        if is_own_address(tables.node, ends.dst) and not is_own:
            # The rules about all cluster IPs hang in FORWARD and OUTPUT.
            return None
        if has_ports and is_allocatable and not is_cluster_ip:
            raise Refused("drop", "unallocated")
        if has_ports and is_cluster_ip and verdict != "pass":
            raise Refused(verdict, "unknown-port")
        return None
    spec, kind = entry
    is_listed = kind == "load-balancer" and any(
        ip_network(text) == ip_network(ends.src) for text in spec.source_ranges
    )
    if not is_listed and _is_martian(tables, packet, interface):
        raise Refused("drop", "martian")
    if _is_out_of_reach(tables.node, spec, kind, packet, interface):
        return None
    is_midstream = packet.protocol == TCP and _is_midstream(packet, midstream)
    is_cluster_ip = tables.addresses.get(ends.dst, False)
    scope, masquerade = _apply_policies(
        tables.node, spec, kind, ends.src, interface, is_cluster_ip=is_cluster_ip
    )
    decision = Decision(spec, scope, masquerade, is_midstream)
    if not decision.backends:
        raise Refused("drop", "no-local-endpoints")
    return decision


def _is_martian(tables: Tables, packet: Packet, interface: int) -> bool:
    """Whether these addresses cannot be."""
    src, dst = packet.ends.src, packet.ends.dst
    if isinstance(src, IPv4Address):
        is_unusable = src.packed[0] == 0 or src.packed[0] >= 224
    else:
        is_unusable = src.is_unspecified or src.is_multicast
    is_loopback = (src.is_loopback or dst.is_loopback) and interface != 0
    is_own = is_own_address(tables.node, src) or (src.is_loopback and interface == 0)
    is_foreign = not is_own and (src == dst or tables.addresses.get(src, False))
    return is_unusable or is_loopback or is_foreign


def _refuses_somebody(spec: ServicePort) -> bool:
    """Whether it has no endpoints, or none on this node for traffic that asks for those."""
    return not spec.local_backends and (not spec.cluster_backends or spec.is_external_local)


def _is_out_of_reach(
    node: Node, spec: ServicePort, kind: str, packet: Packet, interface: int
) -> bool:
    """Whether kube-proxy has no rule for a packet to this frontend: only refusals apply at
    addresses that serve no node ports; in iptables mode the node's own packets to other hosts'
    external addresses are not refused, nor what others send to a cluster IP that the node has.
    """
    src, dst = packet.ends.src, packet.ends.dst
    is_own = is_own_address(node, src) or (src.is_loopback and interface == 0)
    passes_by = (
        node.mode == "iptables"
        and kind in ("external-ip", "load-balancer")
        and not spec.cluster_backends
        and not spec.local_backends
        and is_own
        and not is_own_address(node, dst)
    )
    serving = spec.local_backends if spec.is_internal_local else spec.cluster_backends
    kinds = {
        frontend.kind
        for frontend in spec.frontends
        if frontend.address
        and (ip_address(frontend.address), frontend.port) == (dst, packet.ends.dport)
    }
    passes_by |= (
        node.mode == "iptables"
        and kinds == {"cluster-ip"}
        and not serving
        and not is_own
        and is_own_address(node, dst)
    )
    return passes_by or (kind == "closed-node-port" and not _refuses_somebody(spec))


def _is_midstream(packet: Packet, midstream: str) -> bool:
    """Whether a TCP packet belongs to a connection that is not known."""
    flags = packet.transport[13]
    if not is_possible(flags):
        raise Refused("drop", "invalid")
    if flags & (FIN | SYN | RST | ACK) == SYN:
        return False
    if flags & (FIN | SYN | RST | ACK) != ACK or midstream == "drop":
        raise Refused("drop", "midstream")
    if midstream == "reject":
        raise Refused("reject", "midstream")
    return True


def _apply_policies(
    node: Node, spec: ServicePort, kind: str, src: Address, interface: int, *, is_cluster_ip: bool
) -> tuple[str, bool]:
    """Scope and masquerade by the policies (pkg/proxy/topology.go, iptables/proxier.go)."""
    is_pod = any(_contains(text, src) for text in node.pod_ranges)
    is_node = is_own_address(node, src) or (src.is_loopback and interface == 0)
    has_detector = any(
        ip_network(text, strict=False).version == src.version for text in node.pod_ranges
    )
    has_endpoints = bool(spec.cluster_backends or spec.local_backends)
    is_ranged = kind == "load-balancer" or (
        spec.source_ranges_apply_to_all and kind in ("external-ip", "node-port")
    )
    is_let_in = not spec.source_ranges or any(_contains(text, src) for text in spec.source_ranges)
    if is_ranged and not is_let_in and (has_endpoints or node.mode == "nftables"):
        raise Refused("drop", "source-range")
    if not has_endpoints:
        raise Refused("reject", "no-endpoints")
    is_foreign = node.masquerade_all or (has_detector and not is_pod)
    if kind == "cluster-ip":
        return "local" if spec.is_internal_local else "cluster", is_foreign
    if kind == "closed-node-port":
        return "local", False
    if not spec.is_external_local:
        return "cluster", True
    # In nftables mode the rule for all cluster IPs goes ahead, also where the address is an
    # external one, too.
    is_marked = node.mode == "nftables" and is_cluster_ip and is_foreign
    # With the policy Local, pods and the node itself are short-cut to the whole cluster.
    return ("cluster", is_marked or not is_pod) if is_pod or is_node else ("local", is_marked)


def is_masqueraded(
    tables: Tables, packet: Packet, interface: int, backend: tuple[Address, int], *, is_marked: bool
) -> bool:
    """Whether a translated packet's source is masqueraded. kube-proxy's filter chains look at the
    packet a second time, with the backend's address on it. Raises `Refused` when another Service
    refuses packets there.
    """
    node, src, (address, port) = tables.node, packet.ends.src, backend
    is_own = is_own_address(node, src) or (src.is_loopback and interface == 0)
    is_local = is_own_address(node, address)
    hooks = {"output"} if is_own else set()
    if is_local:
        hooks.add("input")
    elif not is_own:
        # In iptables mode FORWARD accepts marked packets ahead of the refusals.
        hooks.add("accepted" if is_marked and node.mode == "iptables" else "forward")
    key = packet.protocol, address, port
    for spec, kind in filter(None, (tables.find(*key), tables.beaten.get(key))):
        kinds = {kind}
        if kind not in NODE_PORTS:
            kinds = {
                frontend.kind
                for frontend in spec.frontends
                if frontend.address and (ip_address(frontend.address), frontend.port) == backend
            }
        for frontend_kind in kinds:
            _check(node, spec, frontend_kind, hooks)
    if hooks & {"output", "forward", "accepted"}:
        if tables.addresses.get(address, False):
            if node.unknown_port != "pass":
                raise Refused(node.unknown_port, "unknown-port")
        elif any(_contains(text, address) for text in node.unallocated):
            raise Refused("drop", "unallocated")
    # A packet to this node itself never comes to POSTROUTING.
    return is_marked and (is_own or not is_local)


def _check(node: Node, spec: ServicePort, kind: str, hooks: set[str]) -> None:
    """Raises `Refused` when the rules of one frontend refuse a packet in one of these hooks."""
    has_endpoints = bool(spec.cluster_backends or spec.local_backends)
    if node.mode == "iptables" and kind == "load-balancer" and spec.source_ranges and has_endpoints:
        raise Refused("drop", "source-range")
    ruled = {"input", "output", "forward"}
    if kind in NODE_PORTS:
        ruled = {"input"}
    elif node.mode == "iptables":
        ruled = {"forward", "output" if kind == "cluster-ip" else "input"}
    if not hooks & ruled:
        return
    if not has_endpoints:
        raise Refused("reject", "no-endpoints")
    is_confined = spec.is_internal_local if kind == "cluster-ip" else spec.is_external_local
    if is_confined and not spec.local_backends:
        raise Refused("drop", "no-local-endpoints")


def is_own_address(node: Node, address: Address) -> bool:
    """Whether the node has this address."""
    return any(address == ip_address(text) for text in node.addresses)


def _contains(text: str, address: Address) -> bool:
    return address in ip_network(text, strict=False)


NODE_PORTS: Final = ("node-port", "closed-node-port")
LOCALHOST: Final = IPv4Address("127.0.0.1")
