"""From one Kubernetes object to its part of a `Snapshot`: addresses parsed, defaults settled, wrong
parts left out and noted. Pure; `kbe_nat.sources.store` puts the parts together.
"""

import sys
from datetime import datetime
from functools import lru_cache
from typing import Final, TypeAlias

from msgspec import Struct

from kbe_nat.family import Family, family_of
from kbe_nat.model import (
    Choice,
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServiceKey,
    ServicePort,
    SlicePort,
    Strategy,
)
from kbe_nat.sources.address import endpoint_refusal, frontend_refusal, parse_address, parse_range
from kbe_nat.sources.objects import (
    EndpointObject,
    EndpointSliceObject,
    Named,
    NodeObject,
    ObjectKey,
    ParsedObject,
    PodObject,
    ServiceCIDRObject,
    ServiceObject,
    name_of,
    namespace,
)
from kbe_nat.spelling import none_of


class ConvertedSlice(Struct, frozen=True, gc=False):
    """An EndpointSlice as a snapshot needs it, in a fraction of the memory of its object."""

    origin: str
    key: ObjectKey
    service: ServiceKey
    """Its name is empty when no label says it."""
    part: EndpointSlice | None
    """None: nothing of it is served."""
    targets: tuple[str, ...] = ()
    """The Pod behind each endpoint, "" for none; empty when no endpoint has any."""
    notes: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """Kind and name, for messages."""
        return f"{self.key[0]} {name_of(self.key)}"


ClusterObject: TypeAlias = ParsedObject | ConvertedSlice
"""An object as it is kept until the next snapshot."""


class Notes:
    """Collects the parts of one object that are left out."""

    def __init__(self, parsed: ParsedObject) -> None:
        self.parsed = parsed
        self.lines: list[str] = []

    def add(self, path: str, reason: str) -> None:
        """A field, and why it does not count."""
        self.lines.append(self.parsed.note(f"{path}: {reason}"))


def convert_service(parsed: ParsedObject) -> tuple[Service, tuple[str, ...]]:
    """The Service, and notes. Raises `ObjectError` when the rest would serve something else than
    the object means.
    """
    value = parsed.value
    assert isinstance(value, ServiceObject)
    notes = Notes(parsed)
    spec, metadata = value.spec, value.metadata
    balanced = {
        f"status.loadBalancer.ingress[{i}].ip": point.ip
        for i, point in enumerate(value.status.load_balancer.ingress)
        if point.mode != "Proxy"
    }
    external = {f"spec.externalIPs[{i}]": ip for i, ip in enumerate(spec.external_ips)}
    service = Service(
        namespace=namespace(value),
        name=metadata.name,
        cluster_ips=_cluster_ips(value, notes),
        ports=_service_ports(value, notes),
        external_ips=_frontend_addresses(external, notes),
        load_balancer_ips=_frontend_addresses(balanced, notes),
        source_ranges=_source_ranges(value, notes),
        is_internal_local=spec.internal_policy == "Local",
        is_external_local=spec.external_policy == "Local" and _is_external(value),
        affinity_seconds=(
            spec.affinity_config.client_ip.timeout_seconds if spec.affinity == "ClientIP" else None
        ),
        health_check_node_port=spec.health_check_node_port,
        is_load_balancer=spec.type == "LoadBalancer",
        proxy_name=metadata.labels.get(PROXY_NAME_LABEL),
        source_ranges_apply_to_all=_source_ranges_apply_to_all(value, notes),
        strategy=_strategy(metadata.annotations.get(STRATEGY_ANNOTATION), notes),
        standby_slots=_standby_slots(metadata.annotations.get(SLOTS_ANNOTATION), notes),
        choice=_choice(metadata.annotations.get(CHOICE_ANNOTATION), notes),
        is_cached=_is_cached(value, notes),
        labels=tuple(f"{key}={metadata.labels[key]}" for key in sorted(metadata.labels)),
    )
    return service, tuple(notes.lines)


def convert_early(parsed: ParsedObject) -> ClusterObject:
    """EndpointSlices are converted before they are kept: their objects would be most of the
    memory.
    """
    return convert_slice(parsed) if isinstance(parsed.value, EndpointSliceObject) else parsed


def convert_slice(parsed: ParsedObject) -> ConvertedSlice:
    """The slice with notes; endpoints have its own weight, not yet that of their Pods. Cost: linear
    in the endpoints.
    """
    value = parsed.value
    assert isinstance(value, EndpointSliceObject)
    labels, notes = value.metadata.labels, Notes(parsed)
    service = (namespace(value), labels.get(SERVICE_NAME_LABEL, ""))
    part, targets = None, list[str]()
    if value.address_type == "FQDN":
        # Resolving names that tenants wrote would let them choose what the node looks up and
        # reaches.
        notes.add("addressType", "left out: host names are not followed")
    elif HEADLESS_LABEL in labels:
        pass
    elif not service[1]:
        notes.add(f"metadata.labels[{SERVICE_NAME_LABEL}]", "left out: it says no Service")
    else:
        part = EndpointSlice(
            value.metadata.name,
            Family.IPV6 if value.address_type == "IPv6" else Family.IPV4,
            tuple(
                SlicePort(port.name, port.protocol.lower(), port.port)
                for port in value.ports
                if port.port
            ),
            _endpoints(value, targets, notes),
            _trigger_time(value.metadata.annotations.get(TRIGGER_ANNOTATION)),
        )
    listed = tuple(targets) if any(targets) else ()
    return ConvertedSlice(parsed.origin, parsed.key, service, part, listed, tuple(notes.lines))


def _trigger_time(text: str | None) -> float | None:
    """The seconds since 1970; None for what is no time, which decides nothing."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


def convert_node(parsed: ParsedObject) -> tuple[Node, tuple[str, ...]]:
    """The node, and notes."""
    value = parsed.value
    assert isinstance(value, NodeObject)
    notes = Notes(parsed)
    by_kind: dict[str, dict[str, None]] = {"InternalIP": {}, "ExternalIP": {}}
    for i, entry in enumerate(value.status.addresses):
        try:
            if entry.type in by_kind:
                by_kind[entry.type][parse_address(entry.address)] = None
        except ValueError as error:
            notes.add(f"status.addresses[{i}].address", f"left out: {error}")
    # External ones are often translated before they come to the node, which then does not have
    # them: they count in a family that has no other.
    internal, external = by_kind["InternalIP"], by_kind["ExternalIP"]
    internal_families = set(map(family_of, internal))
    addresses = (
        *internal,
        *(address for address in external if family_of(address) not in internal_families),
    )
    ranges: dict[str, None] = {}
    for i, text in enumerate(value.spec.pod_cidrs or [value.spec.pod_cidr]):
        try:
            if text:
                ranges[parse_range(text)] = None
        except ValueError as error:
            notes.add(f"spec.podCIDRs[{i}]", f"left out: {error}")
    is_tainted = any(taint.key == DELETION_TAINT for taint in value.spec.taints)
    node = Node(
        name=value.metadata.name,
        addresses=addresses,
        zone=value.metadata.labels.get(ZONE_LABEL, ""),
        pod_ranges=tuple(ranges),
        is_eligible=not is_tainted and not value.metadata.deleted,
    )
    return node, tuple(notes.lines)


def convert_service_ranges(parsed: ParsedObject) -> tuple[str, ...]:
    """The ranges of a ServiceCIDR. Raises `ObjectError`."""
    value = parsed.value
    assert isinstance(value, ServiceCIDRObject)
    ranges = []
    for i, text in enumerate(value.spec.cidrs):
        try:
            ranges.append(parse_range(text))
        except ValueError as error:
            raise parsed.refuse(str(error), f"spec.cidrs[{i}]") from None
    return tuple(ranges)


def convert_weight(parsed: ParsedObject) -> tuple[int | None, tuple[str, ...]]:
    """The weight that a Pod gives its endpoints, and notes; None when it says nothing."""
    value = parsed.value
    assert isinstance(value, PodObject)
    text = value.metadata.annotations.get(WEIGHT_ANNOTATION)
    if text is None:
        return None, ()
    notes = Notes(parsed)
    return _weight(text, notes), tuple(notes.lines)


def _cluster_ips(value: ServiceObject, notes: Notes) -> tuple[str, ...]:
    spec = value.spec
    # kube-proxy goes by the type, even where such a Service has a cluster IP.
    if spec.type == "ExternalName":
        return ()
    by_family: dict[Family, str] = {}
    reasons: dict[str, str] = {}
    for i, text in enumerate(spec.cluster_ips or [spec.cluster_ip]):
        path = f"spec.clusterIPs[{i}]" if spec.cluster_ips else "spec.clusterIP"
        if text in ("", "None"):
            continue
        try:
            address = parse_address(text)
            refusal = endpoint_refusal(address)
        except ValueError as error:
            refusal = str(error)
        if not refusal and by_family.setdefault(family_of(address), address) != address:
            refusal = f"{text} is the second address of its family"
        if refusal:
            reasons[path] = refusal
    for path, reason in reasons.items():
        if not by_family:
            raise notes.parsed.refuse(reason, path)
        # The other family is served.
        notes.add(path, f"left out: {reason}")
    return tuple(by_family.values())


def _service_ports(value: ServiceObject, notes: Notes) -> tuple[ServicePort, ...]:
    ports: dict[str, ServicePort] = {}
    for i, port in enumerate(value.spec.ports):
        # The API server refuses two ports of one name, whatever their protocols.
        if port.name in ports:
            name = f"named {port.name!r}" if port.name else "without a name"
            notes.add(f"spec.ports[{i}]", f"left out: a port {name} came before")
            continue
        protocol = port.protocol.lower()
        ports[port.name] = ServicePort(port.name, protocol, port.port, port.node_port)
    return tuple(ports.values())


def _frontend_addresses(texts: dict[str, str], notes: Notes) -> tuple[str, ...]:
    addresses: list[str] = []
    for path, text in texts.items():
        if not text:
            continue
        try:
            address = parse_address(text)
            refusal = frontend_refusal(address)
        except ValueError as error:
            refusal = str(error)
        if refusal:
            notes.add(path, f"left out: {refusal}")
        else:
            addresses.append(address)
    return tuple(addresses)


def _source_ranges(value: ServiceObject, notes: Notes) -> tuple[str, ...]:
    ranges: list[str] = []
    reasons: dict[str, str] = {}
    for i, text in enumerate(value.spec.source_ranges):
        try:
            ranges.append(parse_range(text))
        except ValueError as error:
            reasons[f"spec.loadBalancerSourceRanges[{i}]"] = str(error)
    for path, reason in reasons.items():
        if not ranges:
            # Leaving out the last one would open the Service to all clients.
            raise notes.parsed.refuse(reason, path)
        notes.add(path, f"left out: {reason}")
    return tuple(ranges)


def _source_ranges_apply_to_all(value: ServiceObject, notes: Notes) -> bool:
    text = value.metadata.annotations.get(RANGES_ANNOTATION)
    if text not in (None, "all", "load-balancer"):
        # The annotation restricts: a slip of the pen must not let clients in.
        raise notes.parsed.refuse(
            f"{text[:40]!r} is neither all nor load-balancer",
            f"metadata.annotations[{RANGES_ANNOTATION}]",
        )
    return text == "all"


def _is_cached(value: ServiceObject, notes: Notes) -> bool:
    text = value.metadata.annotations.get(CACHE_ANNOTATION)
    if text not in (None, "on", "off"):
        # The annotation has every packet pass other programs' rules: a slip of the pen must not
        # let packets pass these by.
        raise notes.parsed.refuse(
            f"{text[:40]!r} is neither on nor off", f"metadata.annotations[{CACHE_ANNOTATION}]"
        )
    return text != "off"


def _strategy(text: str | None, notes: Notes) -> Strategy | None:
    if text is None:
        return None
    try:
        return Strategy(text)
    except ValueError:
        path = f"metadata.annotations[{STRATEGY_ANNOTATION}]"
        notes.add(path, none_of(text[:40], Strategy))
        return None


def _choice(text: str | None, notes: Notes) -> Choice | None:
    if text is None or text in list(Choice):
        return None if text is None else Choice(text)
    path = f"metadata.annotations[{CHOICE_ANNOTATION}]"
    notes.add(path, none_of(text[:40], Choice))
    return None


def _standby_slots(text: str | None, notes: Notes) -> int | None:
    if text is None or (count := _number(text)) in range(1, MOST_STANDBY_SLOTS + 1):
        return None if text is None else count
    path = f"metadata.annotations[{SLOTS_ANNOTATION}]"
    notes.add(path, f"{text[:40]!r} is not in 1..{MOST_STANDBY_SLOTS}")
    return None


def _endpoints(
    value: EndpointSliceObject, targets: list[str], notes: Notes
) -> tuple[Endpoint, ...]:
    """The endpoints that may be served; `targets` get the Pod of each."""
    text = value.metadata.annotations.get(WEIGHT_ANNOTATION)
    weight = 1 if text is None else _weight(text, notes)
    is_ipv6 = value.address_type == "IPv6"
    endpoints = []
    for i, endpoint in enumerate(value.endpoints):
        # Only the first address counts; the API gives more no meaning.
        address = endpoint.addresses[0] if endpoint.addresses else ""
        try:
            address = parse_address(address)
            refusal = endpoint_refusal(address)
            if (":" in address) != is_ipv6:
                refusal = f"{address} is no {value.address_type} address"
        except ValueError as error:
            refusal = str(error)
        if refusal:
            notes.add(f"endpoints[{i}].addresses[0]", f"left out: {refusal}")
            continue
        endpoints.append(_endpoint(endpoint, address, weight))
        targets.append(endpoint.target.name if endpoint.target.kind == "Pod" else "")
    return tuple(endpoints)


def _endpoint(endpoint: EndpointObject, address: str, weight: int) -> Endpoint:
    conditions, hints = endpoint.conditions, endpoint.hints
    return Endpoint(
        address=address,
        # Thousands of endpoints share a node: one text for all of them.
        node=sys.intern(endpoint.node),
        is_ready=conditions.ready,
        is_serving=conditions.serving,
        is_terminating=conditions.terminating,
        zones=_names(hints.zones),
        nodes=_names(hints.nodes),
        weight=weight,
    )


def _names(hints: tuple[Named, ...]) -> frozenset[str]:
    return _shared_set(tuple(hint.name for hint in hints)) if hints else _NOTHING


@lru_cache(maxsize=1024)
def _shared_set(names: tuple[str, ...]) -> frozenset[str]:
    """One set for the thousands of endpoints of a zone: a set of its own would take each of them
    three times the memory of all its other fields.
    """
    return frozenset(names)


def _number(text: str) -> int:
    """A number of at most five digits; -1 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else -1


def _weight(text: str, notes: Notes) -> int:
    if (weight := _number(text)) in range(MAX_WEIGHT + 1):
        return weight
    path = f"metadata.annotations[{WEIGHT_ANNOTATION}]"
    notes.add(path, f"{text[:40]!r} is not in 0..{MAX_WEIGHT}")
    return 1


def _is_external(value: ServiceObject) -> bool:
    """Whether externalTrafficPolicy counts: kube-proxy goes by the type, whatever addresses the
    status has.
    """
    return value.spec.type in ("NodePort", "LoadBalancer") or bool(value.spec.external_ips)


SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
TRIGGER_ANNOTATION: Final = "endpoints.kubernetes.io/last-change-trigger-time"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
DELETION_TAINT: Final = "ToBeDeletedByClusterAutoscaler"
STRATEGY_ANNOTATION: Final = "kbe-nat.io/strategy"
RANGES_ANNOTATION: Final = "kbe-nat.io/source-ranges"
WEIGHT_ANNOTATION: Final = "kbe-nat.io/weight"
SLOTS_ANNOTATION: Final = "kbe-nat.io/standby-slots"
CHOICE_ANNOTATION: Final = "kbe-nat.io/choice"
CACHE_ANNOTATION: Final = "kbe-nat.io/cache"
TOPOLOGY_ANNOTATIONS: Final = (
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
)
"""The old name goes first, as in the controller."""
READ_ANNOTATIONS: Final = frozenset(
    (
        STRATEGY_ANNOTATION,
        RANGES_ANNOTATION,
        WEIGHT_ANNOTATION,
        SLOTS_ANNOTATION,
        CHOICE_ANNOTATION,
        CACHE_ANNOTATION,
        *TOPOLOGY_ANNOTATIONS,
    )
)
"""Of objects that are kept; slices are converted before."""
MAX_WEIGHT: Final = 65535
MOST_STANDBY_SLOTS: Final = 4096
_NOTHING: Final[frozenset[str]] = frozenset()
