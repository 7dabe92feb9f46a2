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
from typing import Final, TypeAlias

import msgspec

from kbe_nat.family import Family

ServiceKey: TypeAlias = tuple[str, str]
"""Namespace and name of a Service."""


class Strategy(StrEnum):
    """The way in which a backend is chosen for a new flow."""

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


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One entry of `spec.ports` of a Service."""

    name: str
    """Empty for an unnamed port."""
    protocol: str
    port: int
    node_port: int = 0
    """0 when the Service has none."""


class Service(msgspec.Struct, frozen=True, gc=False):
    """A Service, of both families at once."""

    namespace: str
    name: str
    cluster_ips: tuple[str, ...] = ()
    """Empty for a headless Service and for one of type ExternalName."""
    ports: tuple[ServicePort, ...] = ()
    external_ips: tuple[str, ...] = ()
    """Addresses and ranges are as often here as the object names them: kube-proxy writes a rule for
    each.
    """
    load_balancer_ips: tuple[str, ...] = ()
    """Ingress addresses with `ipMode: VIP`."""
    source_ranges: tuple[str, ...] = ()
    is_internal_local: bool = False
    """`internalTrafficPolicy: Local`."""
    is_external_local: bool = False
    """`externalTrafficPolicy: Local`, of a Service that is external by its type or has external
    IPs.
    """
    affinity_seconds: int | None = None
    """None without `sessionAffinity: ClientIP`."""
    health_check_node_port: int = 0
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


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One address behind a Service. Conditions that an object leaves out have their defaults filled
    in.
    """

    address: str
    node: str = ""
    is_ready: bool = True
    is_serving: bool = True
    is_terminating: bool = False
    zones: frozenset[str] = frozenset()
    """Zones for which the endpoint is hinted."""
    nodes: frozenset[str] = frozenset()
    """Nodes for which the endpoint is hinted."""
    weight: int = 1


class SlicePort(msgspec.Struct, frozen=True, gc=False):
    """A port of all endpoints of a slice; it belongs to the service port of the same name and
    protocol.
    """

    name: str
    protocol: str
    port: int


class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    """Endpoints of one Service and one family that share their ports."""

    name: str
    family: Family
    """Every address is of it."""
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    triggered: float | None = None
    """When the Pods changed that this form of the slice is about, in seconds since 1970; None where
    the controller does not say it.
    """


class Node(msgspec.Struct, frozen=True, gc=False):
    """A node of the cluster."""

    name: str
    addresses: tuple[str, ...] = ()
    """The internal ones, and in a family without such the external ones; the first of a family is
    its primary one.
    """
    zone: str = ""
    pod_ranges: tuple[str, ...] = ()
    is_eligible: bool = True
    """False while the node is deleted or about to be taken away: load balancers should leave it
    out.
    """


class Snapshot(msgspec.Struct, frozen=True):
    """The whole state at one moment. Applying it twice changes nothing."""

    generation: int = 0
    """Grows with every snapshot of one source."""
    services: tuple[Service, ...] = ()
    """In the order of their claims: of two Services with the same address and port the first one
    has it.
    """
    slices: Mapping[ServiceKey, tuple[EndpointSlice, ...]] = msgspec.field(default_factory=dict)
    """EndpointSlices by their Service, sorted by name."""
    nodes: Mapping[str, Node] = msgspec.field(default_factory=dict)
    service_ranges: tuple[str, ...] = ()
    """Ranges from which cluster IPs are allocated."""


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
