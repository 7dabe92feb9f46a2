"""The state of a cluster as kbe-nat understands it: immutable values without anything of the API's
format.

Addresses are canonical text, ports are 1 to 65535, protocols are "tcp", "udp" or "sctp": the source
that builds a value refuses wrong ones. Which endpoints may serve a client is decided by
`kbe_nat.policy.planner`.

The collector of cycles passes over these values (`gc=False`): there are hundreds of thousands, and
none can contain itself.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NoReturn, TypeAlias

import msgspec

from kbe_nat.family import Family
from kbe_nat.field_docs import documented
from kbe_nat.spelling import none_of

ServiceKey: TypeAlias = tuple[str, str]
"""Namespace and name of a Service."""


class Strategy(StrEnum):
    """The way in which a backend is chosen for a new flow."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(none_of(value, cls))

    RANDOM = "random"
    CASCADE = "cascade"
    ROUND_ROBIN = "rr"
    WEIGHTED_ROUND_ROBIN = "wrr"
    LEAST_CONNECTIONS = "lc"
    WEIGHTED_LEAST_CONNECTIONS = "wlc"
    TWO_CHOICES = "p2c"
    MAGLEV = "mh"
    RENDEZVOUS = "rendezvous"
    SOURCE_HASH = "sh"
    RING = "ring"
    BOUNDED_LOADS = "bounded"
    PEAK_EWMA = "peak-ewma"


class Choice(StrEnum):
    """What chooses the backend of a new flow, by the strategy."""

    ENGINE = "engine"
    KERNEL = "kernel"
    AUTO = "auto"
    """The engine, until its queue would be the bottleneck."""


@documented
class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One entry of `spec.ports` of a Service."""

    name: str
    """Empty for an unnamed port."""
    protocol: str
    """"tcp", "udp" or "sctp"."""
    port: int
    """The number at cluster IPs, external IPs and load balancers."""
    node_port: int = 0
    """0 when the Service has none."""


@documented
class Service(msgspec.Struct, frozen=True, gc=False):
    """A Service, of both families at once."""

    namespace: str
    """Its namespace."""
    name: str
    """Its name, without the namespace."""
    cluster_ips: tuple[str, ...] = ()
    """Its virtual addresses, one of each family at most; empty for a headless Service and for one
    of type ExternalName.
    """
    ports: tuple[ServicePort, ...] = ()
    """The ports that it is reached at."""
    external_ips: tuple[str, ...] = ()
    """`spec.externalIPs`. Addresses and ranges are as often here as the object names them:
    kube-proxy writes a rule for each.
    """
    load_balancer_ips: tuple[str, ...] = ()
    """Ingress addresses with `ipMode: VIP`."""
    source_ranges: tuple[str, ...] = ()
    """`loadBalancerSourceRanges`: clients that load balancers let in; empty: all."""
    is_internal_local: bool = False
    """`internalTrafficPolicy: Local`."""
    is_external_local: bool = False
    """`externalTrafficPolicy: Local`, of a Service that is external by its type or has external
    IPs.
    """
    affinity_seconds: int | None = None
    """Seconds for which a client keeps its backend; None without `sessionAffinity: ClientIP`."""
    health_check_node_port: int = 0
    """The port of the node at which load balancers ask; 0 without one."""
    is_load_balancer: bool = False
    """`type: LoadBalancer`."""
    proxy_name: str | None = None
    """The label `service.kubernetes.io/service-proxy-name`; a Service that has it belongs to that
    proxy only.
    """
    source_ranges_apply_to_all: bool = False
    """The annotation `kbe-nat.io/source-ranges: all`: the source ranges restrict external IPs and
    node ports too.
    """
    strategy: Strategy | None = None
    """The annotation `kbe-nat.io/strategy`."""
    standby_slots: int | None = None
    """The annotation `kbe-nat.io/standby-slots`."""
    choice: Choice | None = None
    """The annotation `kbe-nat.io/choice`."""
    is_cached: bool = True
    """Not with the annotation `kbe-nat.io/cache: "off"`: all its packets go the kernel's whole
    way."""
    labels: tuple[str, ...] = ()
    """As key=value, in the order of the keys."""

    @property
    def key(self) -> ServiceKey:
        """Namespace and name."""
        return self.namespace, self.name


@documented
class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One address behind a Service. Conditions that an object leaves out have their defaults filled
    in.
    """

    address: str
    """Its IP address."""
    node: str = ""
    """Name of the node that it runs on; empty where that is not said."""
    is_ready: bool = True
    """It takes new connections."""
    is_serving: bool = True
    """It answers, be it terminating or not."""
    is_terminating: bool = False
    """It is being shut down."""
    zones: frozenset[str] = frozenset()
    """Zones for which the endpoint is hinted."""
    nodes: frozenset[str] = frozenset()
    """Nodes for which the endpoint is hinted."""
    weight: int = 1
    """Its share of new connections against those of the others; 0: none."""


@documented
class SlicePort(msgspec.Struct, frozen=True, gc=False):
    """A port of all endpoints of a slice; it belongs to the service port of the same name and
    protocol.
    """

    name: str
    """Empty for an unnamed port."""
    protocol: str
    """"tcp", "udp" or "sctp"."""
    port: int
    """The number at the endpoints."""


@documented
class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    """Endpoints of one Service and one family that share their ports."""

    name: str
    """Its name, in the namespace of the Service."""
    family: Family
    """Every address is of it."""
    ports: tuple[SlicePort, ...] = ()
    """The ports that all of its endpoints have."""
    endpoints: tuple[Endpoint, ...] = ()
    """The addresses behind the Service, ready or not."""
    triggered: float | None = None
    """When the Pods changed that this form of the slice is about, in seconds since 1970; None where
    the controller does not say it.
    """


@documented
class Node(msgspec.Struct, frozen=True, gc=False):
    """A node of the cluster."""

    name: str
    """Its name."""
    addresses: tuple[str, ...] = ()
    """The internal ones, and in a family without such the external ones; the first of a family is
    its primary one.
    """
    zone: str = ""
    """Its zone; empty where none is said."""
    pod_ranges: tuple[str, ...] = ()
    """Ranges from which its Pods get addresses, such as "10.244.1.0/24"."""
    is_eligible: bool = True
    """False while the node is deleted or about to be taken away: load balancers should leave it
    out.
    """


@documented
class Snapshot(msgspec.Struct, frozen=True):
    """The whole state at one moment. Applying it twice changes nothing."""

    generation: int = 0
    """Grows with every snapshot of one source."""
    services: tuple[Service, ...] = ()
    """All Services, in the order of their claims: of two with the same address and port the first
    one has it.
    """
    slices: Mapping[ServiceKey, tuple[EndpointSlice, ...]] = msgspec.field(default_factory=dict)
    """EndpointSlices by namespace and name of their Service, sorted by their own names."""
    nodes: Mapping[str, Node] = msgspec.field(default_factory=dict)
    """Nodes by name."""
    service_ranges: tuple[str, ...] = ()
    """Ranges from which cluster IPs are allocated, such as "10.96.0.0/12"."""


def qualified(name: str, namespace: str = "") -> str:
    """The name of a Service, or of one of its ports, with its namespace: "default" unless another
    one is said.
    """
    return name if "/" in name else f"{namespace or DEFAULT_NAMESPACE}/{name}"


def port_names(name: str, numbers: Iterable[int]) -> set[str]:
    """The names that mean a service port: its own, that of its Service, and that of its Service
    with the number of a port at which clients reach it.
    """
    service = name.partition(":")[0]
    return {name, service, *(f"{service}:{number}" for number in numbers)}


def port_parts(name: str) -> tuple[str, str, str]:
    """Namespace, Service and port that the name of a service port has; an unnamed port has none."""
    place, _, port = name.partition(":")
    namespace, _, service = place.partition("/")
    return namespace, service, port


def join_address(address: str, port: int) -> str:
    """Address and port as one text; an IPv6 address stands in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def end_parts(end: str) -> tuple[str, int]:
    """Address and port of a text that `join_address` has made."""
    address, _, port = end.rpartition(":")
    return address.strip("[]"), int(port)


DEFAULT_NAMESPACE: Final = "default"
