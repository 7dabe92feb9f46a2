"""What a control plane would have filled in before any packet could flow: cluster IPs, and the Pods
of controllers.

The objects that people write (`kubectl apply`) leave both out, and without them a replay has
neither a frontend nor a backend. So files of such objects are completed, always in the same way:
the same files give the same addresses on every run and machine.
"""

import hashlib
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Final

from msgspec import structs

from kbe_nat.family import Family, family_of
from kbe_nat.sources.address import parse_address, parse_range
from kbe_nat.sources.manifests.labels import LabelledPods
from kbe_nat.sources.objects import (
    ControllerObject,
    Metadata,
    NodeObject,
    ParsedObject,
    PodCondition,
    PodObject,
    PodStatus,
    ServiceCIDRObject,
    ServiceObject,
    namespace,
)

SERVICE_RANGE: Final = "172.30.0.0/16"
POD_RANGE: Final = "172.17.0.0/16"
FIRST_POD: Final = 3
"""Place of the first Pod's address in its range; those before it belong to the bridge and the
cluster's own.
"""


def complete(
    found: list[ParsedObject], pod_range: str = POD_RANGE
) -> tuple[list[ParsedObject], list[str]]:
    """The objects with what is missing filled in, and a note for each thing that was."""
    notes: list[str] = []
    pods = list(_pods(found, pod_range, notes))
    return _with_cluster_ips(found, notes) + pods, notes


def _pods(found: list[ParsedObject], pod_range: str, notes: list[str]) -> Iterator[ParsedObject]:
    """Pods of every controller none of whose Pods is given. Deployments last: the Pods of their
    ReplicaSets are theirs too.
    """
    values = [one.value for one in found]
    pods = [value for value in values if isinstance(value, PodObject)]
    known = LabelledPods(pods)
    nodes = [value.metadata.name for value in values if isinstance(value, NodeObject)]
    taken = {ip for pod in pods for ip in (pod.status.ip, *(entry.ip for entry in pod.status.ips))}
    free = (str(address) for address in _from_third(pod_range) if str(address) not in taken)
    controllers = [one for one in found if isinstance(one.value, ControllerObject)]
    for one in sorted(controllers, key=lambda one: one.kind == "Deployment"):
        controller = one.value
        assert isinstance(controller, ControllerObject)
        template, space = controller.spec.template, namespace(controller)
        labels = template.metadata.labels
        if not labels or known.carrying(space, labels):
            continue
        made = []
        for number in range(controller.spec.replicas):
            address = next(free, None)
            if address is None:
                notes.append(
                    f"{one.origin}: {one.subject}: no address is left in {pod_range} for more Pods"
                )
                break
            name = f"{controller.metadata.name}-{_suffix(f'{one.name} {number}')}"
            pod = PodObject(
                Metadata(name, space, labels, template.metadata.annotations),
                template.spec if len(nodes) != 1 else structs.replace(template.spec, node=nodes[0]),
                PodStatus("Running", address, conditions=[PodCondition("Ready", "True")]),
            )
            made.append(pod)
            known.add(pod)
            yield ParsedObject(one.origin, "Pod", pod)
        if made:
            listed = ", ".join(f"{pod.metadata.name} at {pod.status.ip}" for pod in made[:3])
            more = f" and {len(made) - 3} more" if len(made) > 3 else ""
            notes.append(f"{one.origin}: {one.subject}: no Pod of it is given; made {listed}{more}")


def _from_third(pod_range: str) -> Iterator[object]:
    network = ip_network(pod_range)
    return (network[place] for place in range(FIRST_POD, network.num_addresses - 1))


def _with_cluster_ips(found: list[ParsedObject], notes: list[str]) -> list[ParsedObject]:
    ranges: dict[int, str] = {}
    taken: set[str] = set()
    for one in found:
        if isinstance(one.value, ServiceCIDRObject):
            for text in _parsed_ranges(one.value.spec.cidrs):
                ranges.setdefault(family_of(text), text)
        elif isinstance(one.value, ServiceObject):
            taken |= _parsed_addresses([one.value.spec.cluster_ip, *one.value.spec.cluster_ips])
    if not ranges:
        ranges[Family.IPV4] = SERVICE_RANGE
    completed = []
    for one in found:
        value = one.value
        if isinstance(value, ServiceObject) and _needs_address(value):
            default = [next(iter(ranges))]
            wanted = [
                Family.IPV6 if name == "IPv6" else Family.IPV4 for name in value.spec.families
            ] or default
            addresses = [
                _allocate(one.name, ranges[number], taken) for number in wanted if number in ranges
            ]
            given = [address for address in addresses if address]
            what = f"uses {' and '.join(given)}" if given else "there is no range to take one from"
            notes.append(f"{one.origin}: {one.subject}: spec.clusterIP is not given; {what}")
            spec = structs.replace(value.spec, cluster_ips=given)
            one = ParsedObject(one.origin, one.kind, structs.replace(value, spec=spec))
        completed.append(one)
    return completed


def _needs_address(service: ServiceObject) -> bool:
    spec = service.spec
    return spec.type != "ExternalName" and not spec.cluster_ip and not any(spec.cluster_ips)


def _allocate(name: str, text: str, taken: set[str]) -> str | None:
    """An address that depends on the Service's name and not on what else is there, unless two names
    meet in one place.
    """
    network = ip_network(text)
    count = network.num_addresses - (2 if isinstance(network, IPv4Network) else 1)
    if count < 1:
        return None
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16]) % count
    for step in range(min(count, len(taken) + 1)):
        address = str(network[1 + (start + step) % count])
        if address not in taken:
            taken.add(address)
            return address
    return None


def _parsed_ranges(texts: list[str]) -> Iterator[str]:
    for text in texts:
        try:
            yield parse_range(text)
        except ValueError:
            continue


def _parsed_addresses(texts: list[str]) -> set[str]:
    addresses = set()
    for text in texts:
        try:
            addresses.add(str(ip_address(parse_address(text))))
        except ValueError:
            continue
    return addresses


def _suffix(text: str) -> str:
    """Five letters as the API server appends them: no vowels, so that no word comes out."""
    digest = hashlib.sha256(text.encode()).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:5])


_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"
