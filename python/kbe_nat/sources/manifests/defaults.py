"""Defaults of a control plane, without which no packet flows: cluster IPs, and the Pods of
controllers.

The objects that people write (`kubectl apply`) leave both out, and without them a replay has
neither a frontend nor a backend. So files of such objects are completed, always in the same way:
the same files give the same addresses on every run and machine.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, ip_network
from typing import Final, TypeAlias

from msgspec import structs

from kbe_nat.family import Family, family_of
from kbe_nat.sources.address import parse_address, parse_range
from kbe_nat.sources.manifests.labels import LabelledPods
from kbe_nat.sources.objects import (
    ControllerObject,
    Metadata,
    ObjectKey,
    Origin,
    ParsedObject,
    Place,
    PodCondition,
    PodObject,
    PodStatus,
    ServiceCIDRObject,
    ServiceObject,
    namespace,
)

Objects: TypeAlias = Mapping[ObjectKey, tuple[Place, ParsedObject]]
Notes: TypeAlias = dict[ObjectKey, tuple[str, ...]]

SERVICE_RANGE: Final = "172.30.0.0/16"
POD_RANGE: Final = "172.17.0.0/16"
FIRST_POD: Final = 3
"""Place of the first Pod's address in its range; those before it belong to the bridge and the
cluster's own.
"""


def workload_pods(
    controllers: Objects, pods: Objects, nodes: Sequence[str], pod_range: str
) -> tuple[list[ParsedObject], Notes]:
    """Pods of every controller that has none among `pods`, and a note for each controller.
    Deployments come last: the Pods of their ReplicaSets are theirs too. Cost: linear in all of
    these objects, and in the replicas.
    """
    labelled = LabelledPods()
    for place, parsed in pods.values():
        labelled.put(place, parsed)
    taken_addresses = {text for _, parsed in pods.values() for text in _addresses(parsed)}
    free = (text for text in _pod_places(pod_range) if text not in taken_addresses)
    additions: list[ParsedObject] = []
    notes: Notes = {}
    in_order = sorted(_in_order(controllers), key=lambda entry: entry[1][0] == "Deployment")
    for _, key, parsed in in_order:
        controller = parsed.value
        assert isinstance(controller, ControllerObject)
        labels = controller.spec.template.metadata.labels
        if not labels or labelled.matching(namespace(controller), labels):
            continue
        lines = []
        replicas = list(_replicas(parsed, nodes, free))
        if len(replicas) < controller.spec.replicas:
            lines.append(parsed.note(f"no address is left in {pod_range} for more Pods"))
        for pod in replicas:
            labelled.put(Place(Origin(0, ""), len(additions)), pod)
            additions.append(pod)
        if replicas:
            lines.append(parsed.note(_listing(replicas)))
        notes[key] = tuple(lines)
    return additions, notes


def cluster_ips(services: Objects, ranges: Objects) -> dict[ObjectKey, tuple[str, ...]]:
    """Addresses of every Service that needs one and has none. Of two Services whose names meet in
    one place of a range the first gets it. Cost: linear in the Services.
    """
    by_family = _service_ranges(ranges)
    default = (next(iter(by_family)),)
    taken_addresses: set[str] = set()
    addressless = []
    for key, (place, parsed) in services.items():
        service = _service(parsed)
        taken_addresses |= cluster_addresses(service)
        if needs_address(service):
            addressless.append((place, key, parsed))
    allocated = {}
    for _, key, parsed in sorted(addressless, key=lambda entry: entry[:2]):
        families = [
            Family.IPV6 if name == "IPv6" else Family.IPV4
            for name in _service(parsed).spec.families
        ]
        addresses = [
            _allocate(parsed.name, by_family[family], taken_addresses)
            for family in families or default
            if family in by_family
        ]
        allocated[key] = tuple(address for address in addresses if address)
    return allocated


def with_cluster_ips(parsed: ParsedObject, addresses: Sequence[str]) -> tuple[ParsedObject, str]:
    """The Service with these addresses, and a note."""
    service = _service(parsed)
    spec = structs.replace(service.spec, cluster_ips=tuple(addresses))
    what = f"uses {' and '.join(addresses)}" if addresses else "there is no range to take one from"
    return (
        ParsedObject(parsed.origin, parsed.kind, structs.replace(service, spec=spec)),
        parsed.note(f"spec.clusterIP is not given; {what}"),
    )


def needs_address(service: ServiceObject) -> bool:
    """Whether a control plane would allocate a cluster IP."""
    spec = service.spec
    return spec.type != "ExternalName" and not spec.cluster_ip and not any(spec.cluster_ips)


def cluster_addresses(service: ServiceObject) -> set[str]:
    """The cluster IPs that the object itself has, canonical."""
    addresses = set()
    for text in (service.spec.cluster_ip, *service.spec.cluster_ips):
        try:
            addresses.add(parse_address(text))
        except ValueError:
            continue
    return addresses


def _in_order(objects: Objects) -> list[tuple[Place, ObjectKey, ParsedObject]]:
    entries = [(place, key, parsed) for key, (place, parsed) in objects.items()]
    return sorted(entries, key=lambda entry: entry[:2])


def _replicas(
    parsed: ParsedObject, nodes: Sequence[str], free: Iterator[str]
) -> Iterator[ParsedObject]:
    """The Pods of one controller, as many as there are addresses for."""
    controller = parsed.value
    assert isinstance(controller, ControllerObject)
    template, space = controller.spec.template, namespace(controller)
    spec = template.spec
    if len(nodes) == 1:
        spec = structs.replace(spec, node=nodes[0])
    # `islice` and `zip` would take an address too many from those that are free.
    for number in range(controller.spec.replicas):
        address = next(free, None)
        if address is None:
            return
        name = f"{controller.metadata.name}-{_suffix(f'{parsed.name} {number}')}"
        pod = PodObject(
            Metadata(name, space, template.metadata.labels, template.metadata.annotations),
            spec,
            PodStatus("Running", address, conditions=(PodCondition("Ready", "True"),)),
        )
        yield ParsedObject(parsed.origin, "Pod", pod)


def _listing(pods: Sequence[ParsedObject]) -> str:
    listed = [f"{pod.value.metadata.name} at {_addresses(pod)[0]}" for pod in pods[:3]]
    more = f" and {len(pods) - 3} more" if len(pods) > 3 else ""
    return f"no Pod of it is given; made {', '.join(listed)}{more}"


def _addresses(parsed: ParsedObject) -> list[str]:
    pod = parsed.value
    assert isinstance(pod, PodObject)
    return [pod.status.ip, *(entry.ip for entry in pod.status.ips)]


def _pod_places(pod_range: str) -> Iterator[str]:
    network = ip_network(pod_range)
    return (str(network[place]) for place in range(FIRST_POD, network.num_addresses - 1))


def _service_ranges(ranges: Objects) -> dict[Family, str]:
    """The first range of each family."""
    by_family: dict[Family, str] = {}
    for _, _, parsed in _in_order(ranges):
        assert isinstance(parsed.value, ServiceCIDRObject)
        for text in parsed.value.spec.cidrs:
            try:
                network = parse_range(text)
            except ValueError:
                continue
            by_family.setdefault(family_of(network), network)
    return by_family or {Family.IPV4: SERVICE_RANGE}


def _allocate(name: str, text: str, taken_addresses: set[str]) -> str | None:
    """An address that depends on the Service's name and not on what else is there, unless two names
    meet in one place.
    """
    network = ip_network(text)
    count = network.num_addresses - (2 if isinstance(network, IPv4Network) else 1)
    if count < 1:
        return None
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16]) % count
    for step in range(min(count, len(taken_addresses) + 1)):
        address = str(network[1 + (start + step) % count])
        if address not in taken_addresses:
            taken_addresses.add(address)
            return address
    return None


def _service(parsed: ParsedObject) -> ServiceObject:
    assert isinstance(parsed.value, ServiceObject)
    return parsed.value


def _suffix(text: str) -> str:
    """Five letters as the API server appends them: no vowels, so that no word comes out."""
    digest = hashlib.sha256(text.encode()).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:5])


_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"
