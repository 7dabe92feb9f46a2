"""EndpointSlices for Services that have a selector and no slice: built from the Pods that match, as
the cluster's own controller does.

A cluster always has slices. Files that people write often have not: a Service and its Pods say
enough.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from kbe_nat.family import family_of
from kbe_nat.sources.address import parse_address
from kbe_nat.sources.manifests.labels import LabelledPods
from kbe_nat.sources.objects import (
    Conditions,
    EndpointObject,
    EndpointSliceObject,
    Hints,
    Metadata,
    Named,
    NodeObject,
    ParsedObject,
    PodObject,
    ServiceObject,
    ServicePortObject,
    SlicePortObject,
    namespace,
)
from kbe_nat.sources.snapshot import SERVICE_NAME_LABEL, ZONE_LABEL

_NamedPorts: TypeAlias = Mapping[tuple[str, str], int]
"""Numbers by name and protocol."""


def select(found: Iterable[ParsedObject], notes: list[str]) -> Iterator[ParsedObject]:
    """The slices that are missing; `notes` get what was looked for in vain. Cost: linear in the
    objects, and per such Service in its ports for each of its Pods.
    """
    pods = LabelledPods()
    zones: dict[str, str] = {}
    services: list[tuple[ParsedObject, ServiceObject]] = []
    sliced: set[tuple[str, str]] = set()
    for one in found:
        value = one.value
        if isinstance(value, PodObject):
            pods.add(value)
        elif isinstance(value, NodeObject):
            zones[value.metadata.name] = value.metadata.labels.get(ZONE_LABEL, "")
        elif isinstance(value, ServiceObject) and value.spec.selector:
            services.append((one, value))
        elif isinstance(value, EndpointSliceObject):
            sliced.add((namespace(value), value.metadata.labels.get(SERVICE_NAME_LABEL, "")))
    for one, service in services:
        key = (namespace(service), service.metadata.name)
        if key in sliced:
            continue
        matching = [
            (pod, _named_ports(pod))
            for pod in pods.carrying(key[0], service.spec.selector)
            if pod.status.phase not in ("Succeeded", "Failed")
        ]
        notes += (f"{one.origin}: {one.subject}: {note}" for note in _in_vain(service, matching))
        for number, value in enumerate(_slices(service, matching, zones)):
            metadata = Metadata(f"{key[1]}-{number}", key[0], labels={SERVICE_NAME_LABEL: key[1]})
            yield ParsedObject(one.origin, "EndpointSlice", _named(value, metadata))


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
    groups: dict[tuple[int, tuple[SlicePortObject, ...]], list[EndpointObject]] = {}
    for pod, named in pods:
        ports = tuple(_slice_ports(service, named))
        for number, address in _addresses(pod).items():
            groups.setdefault((number, ports), []).append(_endpoint(service, pod, address, zones))
    for (number, ports), endpoints in groups.items():
        yield EndpointSliceObject(
            Metadata(""), "IPv6" if number == 6 else "IPv4", endpoints, list(ports)
        )


def _addresses(pod: PodObject) -> dict[int, str]:
    """The first address of each family: an endpoint is reached by that alone."""
    addresses: dict[int, str] = {}
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
        for own in container.ports:
            named.setdefault((own.name, own.protocol), own.number)
    return named


def _target(port: ServicePortObject, named: _NamedPorts) -> int | None:
    target = port.target_port or port.port
    return named.get((target, port.protocol)) if isinstance(target, str) else target


def _in_vain(service: ServiceObject, pods: list[tuple[PodObject, _NamedPorts]]) -> Iterator[str]:
    """What the Service says and its Pods do not have."""
    if _has_topology_mode(service):
        yield "hints of its topology mode are not computed: endpoints of all zones serve"
    for i, port in enumerate(service.spec.ports):
        without = [pod.metadata.name for pod, named in pods if _target(port, named) is None]
        if without:
            more = f" and {len(without) - 3} more" if len(without) > 3 else ""
            yield (
                f"spec.ports[{i}].targetPort: no {port.protocol} port is named {port.target_port!r} in Pod "
                f"{', '.join(without[:3])}{more}"
            )


def _endpoint(
    service: ServiceObject, pod: PodObject, address: str, zones: Mapping[str, str]
) -> EndpointObject:
    is_serving = ready(pod)
    is_terminating = bool(pod.metadata.deleted)
    is_ready = service.spec.publishes_not_ready or (is_serving and not is_terminating)
    return EndpointObject(
        addresses=[address],
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
    return Hints([Named(zone)] if zone else [], [Named(node)] if by_node else [])


def _has_topology_mode(service: ServiceObject) -> bool:
    """Whether the annotation asks for hints that go by the processors of zones."""
    given = (service.metadata.annotations.get(name) for name in TOPOLOGY_ANNOTATIONS)
    return next((text for text in given if text is not None), "") in ("Auto", "auto")


def _named(value: EndpointSliceObject, metadata: Metadata) -> EndpointSliceObject:
    return EndpointSliceObject(metadata, value.address_type, value.endpoints, value.ports)


DISTRIBUTIONS: Final = ("PreferClose", "PreferSameZone", "PreferSameNode")
TOPOLOGY_ANNOTATIONS: Final = (
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
)
"""The old name goes first, as in the controller."""
