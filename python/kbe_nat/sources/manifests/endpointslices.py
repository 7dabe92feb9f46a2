"""EndpointSlices for Services that have a selector and no slice: built from the Pods that match, as
the cluster's own controller does.

A cluster always has slices. Files that people write often have not: a Service and its Pods say
enough.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from msgspec import structs

from kbe_nat.family import Family, family_of
from kbe_nat.sources.address import parse_address
from kbe_nat.sources.objects import (
    Conditions,
    EndpointObject,
    EndpointSliceObject,
    Hints,
    Metadata,
    Named,
    ParsedObject,
    PodObject,
    ServiceObject,
    ServicePortObject,
    SlicePortObject,
)
from kbe_nat.sources.snapshot import SERVICE_NAME_LABEL, TOPOLOGY_ANNOTATIONS

_NamedPorts: TypeAlias = Mapping[tuple[str, str], int]
"""Numbers by name and protocol."""


def slices_of_pods(
    parsed: ParsedObject, pods: Sequence[PodObject], zones: Mapping[str, str]
) -> tuple[list[ParsedObject], tuple[str, ...]]:
    """The slices of a Service that selects these Pods, and notes on what they lack; `zones` are
    those of nodes by name. Cost: linear in its ports for each of its Pods.
    """
    service = parsed.value
    assert isinstance(service, ServiceObject)
    _, space, name = parsed.key
    matching = [
        (pod, _named_ports(pod)) for pod in pods if pod.status.phase not in ("Succeeded", "Failed")
    ]
    notes = tuple(parsed.note(line) for line in _lacks(service, matching))
    slices = []
    for number, value in enumerate(_slices(service, matching, zones)):
        metadata = Metadata(f"{name}-{number}", space, labels={SERVICE_NAME_LABEL: name})
        slices.append(
            ParsedObject(parsed.origin, "EndpointSlice", structs.replace(value, metadata=metadata))
        )
    return slices, notes


def ready(pod: PodObject) -> bool:
    """Whether the Pod's condition Ready is true; a Pod that lists no condition at all counts as
    ready.
    """
    conditions = pod.status.conditions
    if not conditions:
        return pod.status.phase in ("", "Running")
    return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)


def _slices(
    service: ServiceObject, pods: list[tuple[PodObject, _NamedPorts]], zones: Mapping[str, str]
) -> Iterator[EndpointSliceObject]:
    """One per family and mapping of ports: a named target port may have another number in every
    Pod.
    """
    groups: dict[tuple[Family, tuple[SlicePortObject, ...]], list[EndpointObject]] = {}
    for pod, named in pods:
        ports = tuple(_slice_ports(service, named))
        for family, address in _addresses(pod).items():
            groups.setdefault((family, ports), []).append(_endpoint(service, pod, address, zones))
    for (family, ports), endpoints in groups.items():
        kind: Literal["IPv4", "IPv6"] = "IPv6" if family is Family.IPV6 else "IPv4"
        yield EndpointSliceObject(Metadata(""), kind, tuple(endpoints), ports)


def _addresses(pod: PodObject) -> dict[Family, str]:
    """The first address of each family: an endpoint is reached by that alone."""
    addresses: dict[Family, str] = {}
    for text in [ip.ip for ip in pod.status.ips] or [pod.status.ip]:
        try:
            address = parse_address(text)
        except ValueError:
            continue
        addresses.setdefault(family_of(address), address)
    return addresses


def _slice_ports(service: ServiceObject, named: _NamedPorts) -> Iterator[SlicePortObject]:
    for port in service.spec.ports:
        number = _target(port, named)
        if number:
            yield SlicePortObject(port.name, port.protocol, number)


def _named_ports(pod: PodObject) -> _NamedPorts:
    """The first container that has a name counts."""
    named: dict[tuple[str, str], int] = {}
    for container in pod.spec.serving_containers:
        for port in container.ports:
            named.setdefault((port.name, port.protocol), port.number)
    return named


def _target(port: ServicePortObject, named: _NamedPorts) -> int | None:
    target = port.target_port or port.port
    return named.get((target, port.protocol)) if isinstance(target, str) else target


def _lacks(service: ServiceObject, pods: list[tuple[PodObject, _NamedPorts]]) -> Iterator[str]:
    """The names that the Service says and its Pods do not have."""
    if _has_topology_mode(service):
        yield "hints of its topology mode are not computed: endpoints of all zones serve"
    for i, port in enumerate(service.spec.ports):
        without = [pod.metadata.name for pod, named in pods if _target(port, named) is None]
        if without:
            more = f" and {len(without) - 3} more" if len(without) > 3 else ""
            yield (
                f"spec.ports[{i}].targetPort: no {port.protocol} port is named "
                f"{port.target_port!r} in Pod {', '.join(without[:3])}{more}"
            )


def _endpoint(
    service: ServiceObject, pod: PodObject, address: str, zones: Mapping[str, str]
) -> EndpointObject:
    is_serving = ready(pod)
    is_terminating = bool(pod.metadata.deleted)
    is_ready = service.spec.publishes_not_ready or (is_serving and not is_terminating)
    return EndpointObject(
        addresses=(address,),
        conditions=Conditions(is_ready, is_serving, is_terminating),
        node=pod.spec.node,
        target=Named(pod.metadata.name, "Pod"),
        hints=_hints(service, pod.spec.node, zones) if is_ready else Hints(),
    )


def _hints(service: ServiceObject, node: str, zones: Mapping[str, str]) -> Hints:
    """Where a ready endpoint is wanted, by the Service's `trafficDistribution`; its annotation goes
    before it.
    """
    wanted = service.spec.traffic_distribution
    if wanted not in DISTRIBUTIONS or _has_topology_mode(service):
        return Hints()
    zone = zones.get(node, "")
    by_node = wanted == "PreferSameNode" and node
    return Hints((Named(zone),) if zone else (), (Named(node),) if by_node else ())


def _has_topology_mode(service: ServiceObject) -> bool:
    """Whether the annotation asks for hints that go by the processors of zones."""
    annotations = service.metadata.annotations
    texts = (annotations[name] for name in TOPOLOGY_ANNOTATIONS if name in annotations)
    return next(texts, "") in ("Auto", "auto")


DISTRIBUTIONS: Final = ("PreferClose", "PreferSameZone", "PreferSameNode")
