"""The plan of one node, as values. `kbe_nat.policy.planner` computes them from a snapshot; the
engine's tables and the rules are made of them.
"""

from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field, replace
from itertools import chain
from operator import attrgetter
from typing import Final, TypeAlias

import msgspec

from kbe_nat.family import Family
from kbe_nat.model import Choice, ServiceKey, Strategy, join_address
from kbe_nat.policy.node_ports import NodePorts
from kbe_nat.policy.options import Mode, Options

FrontendKey: TypeAlias = tuple[str, str, int]
"""Address, protocol and port under which packets come."""
BackendAddress: TypeAlias = tuple[str, int]
"""Address and port to which packets go."""
PortKey: TypeAlias = tuple[str, str, str, str, Family]
"""Namespace, Service, port name, protocol and family: no two planned ports share one."""


@dataclass(frozen=True, slots=True)
class Frontend:
    """An address and port under which a service port is reached; a node port's address is empty."""

    kind: str
    address: str
    port: int


class Backend(msgspec.Struct, frozen=True, gc=False):
    """An endpoint with the port that it serves. There are more of these than of anything else, so
    they are made and compared in C, and the garbage collector passes over them.
    """

    address: str
    port: int
    weight: int = 1
    is_local: bool = False
    """It is on this node."""

    @property
    def key(self) -> BackendAddress:
        """Address and port."""
        return self.address, self.port

    def __str__(self) -> str:
        return join_address(self.address, self.port)


@dataclass(frozen=True, slots=True)
class PlannedPort:
    """One service port in one family: where it is reached and who may serve it."""

    namespace: str
    service: str
    port_name: str
    protocol: str
    family: Family
    frontends: tuple[Frontend, ...]
    """Of several with one address and port, which an object may ask for, packets find the first."""
    cluster_backends: tuple[Backend, ...]
    """For traffic that any node's endpoints may serve, sorted by the text of address and port."""
    local_backends: tuple[Backend, ...]
    """For traffic that must stay on this node; computed only where a policy asks for it."""
    serving_backends: tuple[Backend, ...] = ()
    """Endpoints of neither list that serve still: the flows of datagrams that they have stay with
    them.
    """
    is_internal_local: bool = False
    is_external_local: bool = False
    affinity_seconds: int | None = None
    source_ranges: tuple[str, ...] = ()
    """Of this family; empty when everybody is let in."""
    allows_load_balancer_source: bool = False
    """The node itself is within the source ranges. Its packets to a load balancer's address may
    carry that address as their source.
    """
    source_ranges_apply_to_all: bool = False
    """The ranges restrict external IPs and node ports too."""
    health_check_node_port: int = 0
    """Where load balancers ask whether this node has endpoints; 0 when they do not."""
    strategy: Strategy = Strategy.RANDOM
    standby_slots: int | None = None
    """Over which new connections spread while no daemon listens; None: as many as others have."""
    choice: Choice | None = None
    """What chooses backends, if it can; None: as for others."""
    is_cached: bool = True
    """The cache of established flows may carry its packets, where there is one."""

    @property
    def key(self) -> PortKey:
        """The port's place in a plan."""
        return self.namespace, self.service, self.port_name, self.protocol, self.family

    @property
    def service_key(self) -> ServiceKey:
        """Namespace and name of its Service."""
        return self.namespace, self.service

    @property
    def name(self) -> str:
        """Kubernetes' name of the port: "namespace/service:port", without the colon for an unnamed
        port.
        """
        return port_name(self.namespace, self.service, self.port_name)

    def sharing(self, former: "PlannedPort") -> "PlannedPort":
        """This port, with backends that `former` has too as the same objects."""
        present = {backend: backend for backend in former.cluster_backends}
        for backend in chain(former.local_backends, former.serving_backends):
            present.setdefault(backend, backend)
        lists = (self.cluster_backends, self.local_backends, self.serving_backends)
        cluster, local, serving = (tuple(map(present.get, each, each)) for each in lists)
        return replace(
            self, cluster_backends=cluster, local_backends=local, serving_backends=serving
        )

    @property
    def is_external(self) -> bool:
        """It is reached by more than its cluster IP."""
        return any(frontend.kind != CLUSTER_IP for frontend in self.frontends)

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
        """The cluster IP has backends."""
        return bool(self.local_backends if self.is_internal_local else self.cluster_backends)

    @property
    def has_external_endpoints(self) -> bool:
        """The other addresses have backends, for traffic from outside."""
        return bool(self.local_backends if self.is_external_local else self.cluster_backends)

    @property
    def backend_keys(self) -> frozenset[BackendAddress]:
        """The backends that may get new flows, and those that are drained."""
        return frozenset(
            (backend.address, backend.port)
            for backend in chain(self.cluster_backends, self.local_backends)
        )

    @property
    def refuses_somebody(self) -> bool:
        """It has no endpoints, or none on this node for traffic that asks for those."""
        return not self.local_backends and (not self.cluster_backends or self.is_external_local)

    def addresses(self, kind: str) -> tuple[str, ...]:
        """The addresses of all frontends of one kind."""
        return tuple(frontend.address for frontend in self.frontends if frontend.kind == kind)


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

    ports: tuple[PlannedPort, ...] = ()
    """In the order of the Services."""
    addresses: tuple[str, ...] = ()
    """The node's own."""
    node_ports: NodePorts = field(default_factory=NodePorts)
    pod_ranges: tuple[str, ...] = ()
    service_ranges: tuple[str, ...] = ()
    """Of cluster IPs; unallocated ones are dropped in nftables mode."""
    health: tuple[HealthCheck, ...] = ()
    notes: tuple[str, ...] = ()
    """Objects that cannot be served, one line each."""
    losses: tuple[tuple[ServiceKey, str], ...] = ()
    """The notes among them about a Service's frontend that another Service has got."""
    options: Options = field(default_factory=Options)
    families: tuple[Family, ...] = field(init=False, compare=False)
    """The families of the ports, in order; IPv4 when nothing is served."""
    served_families: InitVar[Iterable[Family] | None] = None
    """The families of the ports where they are counted already; None: they are looked up."""

    def __post_init__(self, served_families: Iterable[Family] | None) -> None:
        if served_families is None:
            served_families = set(map(attrgetter("family"), self.ports))
        families = tuple(sorted(served_families)) or (Family.IPV4,)
        object.__setattr__(self, "families", families)

    @property
    def context(self) -> tuple[object, ...]:
        """Everything beside the Services that consumers' state depends on."""
        return self.addresses, self.node_ports, self.pod_ranges, self.service_ranges, self.options


def unallocated(plan: Plan) -> tuple[str, ...]:
    """Ranges in which unassigned cluster IPs are dropped: all in nftables mode, else none. Beside
    another proxy none either, because any address may be one that the other proxy serves.
    """
    is_alone = plan.options.proxy_name is None
    return plan.service_ranges if plan.options.mode is Mode.NFTABLES and is_alone else ()


def port_name(namespace: str, service: str, port: str) -> str:
    """The name of a service port as kube-proxy writes it."""
    return f"{namespace}/{service}:{port}" if port else f"{namespace}/{service}"


CLUSTER_IP: Final = "cluster-ip"
EXTERNAL_IP: Final = "external-ip"
LOAD_BALANCER: Final = "load-balancer"
NODE_PORT: Final = "node-port"
