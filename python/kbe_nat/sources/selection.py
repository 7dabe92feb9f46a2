"""EndpointSlices for Services that have a selector and no slice: built from the Pods that match, as the
cluster's own controller does.

A cluster always has slices. Files that people write often have not: a Service and its Pods say enough.
"""

from collections.abc import Iterable, Iterator

from kbe_nat.model import family
from kbe_nat.sources.address import parse_address
from kbe_nat.sources.assembly import SERVICE_NAME_LABEL
from kbe_nat.sources.objects import (
    Conditions,
    EndpointObject,
    EndpointSliceObject,
    Found,
    Metadata,
    Named,
    PodObject,
    ServiceObject,
    ServicePortObject,
    SlicePortObject,
    namespace,
)


def select(found: Iterable[Found]) -> Iterator[Found]:
    """The slices that are missing. Cost: per such Service a pass over the Pods of its namespace."""
    pods: dict[str, list[PodObject]] = {}
    services: list[tuple[Found, ServiceObject]] = []
    sliced: set[tuple[str, str]] = set()
    for one in found:
        value = one.value
        if isinstance(value, PodObject):
            pods.setdefault(namespace(value), []).append(value)
        elif isinstance(value, ServiceObject) and value.spec.selector:
            services.append((one, value))
        elif isinstance(value, EndpointSliceObject):
            sliced.add((namespace(value), value.metadata.labels.get(SERVICE_NAME_LABEL, "")))
    for one, service in services:
        key = (namespace(service), service.metadata.name)
        if key in sliced:
            continue
        selector = service.spec.selector.items()
        matching = [pod for pod in pods.get(key[0], ()) if selector <= pod.metadata.labels.items()]
        for number, value in enumerate(_slices(service, matching)):
            metadata = Metadata(f"{key[1]}-{number}", key[0], labels={SERVICE_NAME_LABEL: key[1]})
            yield Found(one.origin, "EndpointSlice", _named(value, metadata))


def ready(pod: PodObject) -> bool:
    """Whether the Pod's condition Ready is true; a Pod that lists no condition at all counts as ready."""
    conditions = pod.status.conditions
    if not conditions:
        return pod.status.phase in ("", "Running")
    return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)


def _slices(service: ServiceObject, pods: list[PodObject]) -> Iterator[EndpointSliceObject]:
    """One per family and mapping of ports: a named target port may have another number in every Pod."""
    groups: dict[tuple[int, tuple[SlicePortObject, ...]], list[EndpointObject]] = {}
    for pod in pods:
        if pod.status.phase in ("Succeeded", "Failed"):
            continue
        ports = tuple(_slice_ports(service, pod))
        for address in [ip.ip for ip in pod.status.ips] or [pod.status.ip]:
            try:
                group = (family(parse_address(address)), ports)
            except ValueError:
                continue
            groups.setdefault(group, []).append(_endpoint(service, pod, address))
    for (number, ports), endpoints in groups.items():
        yield EndpointSliceObject(Metadata(""), "IPv6" if number == 6 else "IPv4", endpoints, list(ports))


def _slice_ports(service: ServiceObject, pod: PodObject) -> Iterator[SlicePortObject]:
    for port in service.spec.ports:
        number = _target(port, pod)
        if number:
            yield SlicePortObject(port.name, port.protocol, number)


def _target(port: ServicePortObject, pod: PodObject) -> int | None:
    target = port.target_port
    if not isinstance(target, str):
        return target or port.port
    named = (own for container in pod.spec.containers for own in container.ports if own.name == target)
    return next((own.number for own in named if own.protocol == port.protocol), None)


def _endpoint(service: ServiceObject, pod: PodObject, address: str) -> EndpointObject:
    is_serving = ready(pod)
    is_terminating = bool(pod.metadata.deleted)
    is_ready = service.spec.publishes_not_ready or (is_serving and not is_terminating)
    return EndpointObject(
        addresses=[address],
        conditions=Conditions(is_ready, is_serving, is_terminating),
        node=pod.spec.node,
        target=Named(pod.metadata.name, "Pod"),
    )


def _named(value: EndpointSliceObject, metadata: Metadata) -> EndpointSliceObject:
    return EndpointSliceObject(metadata, value.address_type, value.endpoints, value.ports)
