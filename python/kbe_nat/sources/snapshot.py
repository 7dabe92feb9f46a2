"""From Kubernetes objects to a `Snapshot`: addresses parsed, defaults settled, what cannot be
served left out and reported.
"""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from kbe_nat.errors import ObjectError
from kbe_nat.family import Family, family_of
from kbe_nat.model import (
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServiceKey,
    ServicePort,
    SlicePort,
    Snapshot,
    Strategy,
)
from kbe_nat.sources.address import endpoint_refusal, frontend_refusal, parse_address, parse_range
from kbe_nat.sources.objects import (
    EndpointObject,
    EndpointSliceObject,
    NodeObject,
    ParsedObject,
    PodObject,
    ServiceCIDRObject,
    ServiceObject,
    namespace,
)
from kbe_nat.sources.source import SourceUpdate

_T = TypeVar("_T")


def assemble(found: Iterable[ParsedObject], generation: int = 0) -> SourceUpdate:
    """The snapshot of these objects. An object that comes twice counts as it came last. Cost:
    linear in the objects.
    """
    return _Assembly(found).update(generation)


def assemble_slice(one: ParsedObject) -> tuple[EndpointSlice | None, list[str]]:
    """As the snapshot has it where there are no Pods, and notes; None when it is left out."""
    own = _Assembly(())
    converted = own.slice(one, {})
    return converted and converted[1], own.notes


class _Assembly:
    """What was refused and noted while one snapshot is built."""

    def __init__(self, found: Iterable[ParsedObject]) -> None:
        self.refused: list[ObjectError] = []
        self.notes: list[str] = []
        self.objects: dict[tuple[type, str], ParsedObject] = {}
        for one in found:
            key = (type(one.value), f"{one.kind} {one.name}")
            if key in self.objects:
                self.notes.append(
                    f"{one.origin}: {one.subject}: replaces the one in {self.objects[key].origin}"
                )
            self.objects[key] = one

    def update(self, generation: int) -> SourceUpdate:
        services = self.converted(ServiceObject, self.service)
        # Of two Services that claim one address the older one keeps it; without dates the one that
        # was written first.
        services.sort(key=lambda pair: pair[0].value.metadata.created)
        slices: dict[ServiceKey, list[EndpointSlice]] = {}
        weights = self.pod_weights()
        for one in sorted(self.of(EndpointSliceObject), key=lambda one: one.name):
            converted = self.slice(one, weights)
            if converted is not None:
                slices.setdefault(converted[0], []).append(converted[1])
        ranges = self.converted(ServiceCIDRObject, self.service_ranges)
        snapshot = Snapshot(
            generation=generation,
            services=tuple(service for _, service in services),
            slices={key: tuple(parts) for key, parts in slices.items()},
            nodes={node.name: node for _, node in self.converted(NodeObject, self.node)},
            service_ranges=tuple(dict.fromkeys(text for _, texts in ranges for text in texts)),
        )
        return SourceUpdate(snapshot, errors=tuple(self.refused), notes=tuple(self.notes))

    def of(self, kind: type) -> list[ParsedObject]:
        return [one for one in self.objects.values() if isinstance(one.value, kind)]

    def converted(
        self, kind: type, convert: Callable[[ParsedObject], _T]
    ) -> list[tuple[ParsedObject, _T]]:
        pairs = []
        for one in self.of(kind):
            try:
                pairs.append((one, convert(one)))
            except ObjectError as error:
                self.refused.append(error)
        return pairs

    def note(self, one: ParsedObject, path: str, reason: str) -> None:
        self.notes.append(f"{one.origin}: {one.subject}: {path}: {reason}")

    def service(self, one: ParsedObject) -> Service:
        value = one.value
        assert isinstance(value, ServiceObject)
        spec, labels = value.spec, value.metadata.labels
        ingress = enumerate(value.status.load_balancer.ingress)
        served = {
            f"status.loadBalancer.ingress[{i}].ip": point.ip
            for i, point in ingress
            if point.mode != "Proxy"
        }
        external = {f"spec.externalIPs[{i}]": ip for i, ip in enumerate(spec.external_ips)}
        return Service(
            namespace=namespace(value),
            name=value.metadata.name,
            cluster_ips=self.cluster_ips(one, value),
            ports=self.service_ports(one, value),
            external_ips=self.frontend_addresses(one, external),
            load_balancer_ips=self.frontend_addresses(one, served),
            source_ranges=self.source_ranges(one, value),
            is_internal_local=spec.internal_policy == "Local",
            is_external_local=spec.external_policy == "Local" and _is_external(value),
            affinity_seconds=(
                spec.affinity_config.client_ip.timeout_seconds
                if spec.affinity == "ClientIP"
                else None
            ),
            health_check_node_port=spec.health_check_node_port,
            is_load_balancer=spec.type == "LoadBalancer",
            proxy_name=labels.get(PROXY_NAME_LABEL),
            source_ranges_apply_to_all=self.source_ranges_apply_to_all(
                one, value.metadata.annotations.get(RANGES_ANNOTATION)
            ),
            strategy=self.strategy(one, value.metadata.annotations.get(STRATEGY_ANNOTATION)),
        )

    def cluster_ips(self, one: ParsedObject, value: ServiceObject) -> tuple[str, ...]:
        spec = value.spec
        # kube-proxy goes by the type, even where such a Service has a cluster IP.
        if spec.type == "ExternalName":
            return ()
        by_family: dict[int, str] = {}
        wrong: dict[str, str] = {}
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
                wrong[path] = refusal
        for path, reason in wrong.items():
            if not by_family:
                raise one.refuse(reason, path)
            # The other family is served.
            self.note(one, path, f"left out: {reason}")
        return tuple(by_family.values())

    def service_ports(self, one: ParsedObject, value: ServiceObject) -> tuple[ServicePort, ...]:
        ports: dict[tuple[str, str], ServicePort] = {}
        for i, port in enumerate(value.spec.ports):
            protocol = port.protocol.lower()
            key = (port.name, protocol)
            if key in ports:
                name = f"named {port.name!r}" if port.name else "without a name"
                self.note(
                    one, f"spec.ports[{i}]", f"left out: a {port.protocol} port {name} came before"
                )
                continue
            ports[key] = ServicePort(port.name, protocol, port.port, port.node_port)
        return tuple(ports.values())

    def frontend_addresses(self, one: ParsedObject, texts: dict[str, str]) -> tuple[str, ...]:
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
                self.note(one, path, f"left out: {refusal}")
            else:
                addresses.append(address)
        return tuple(addresses)

    def source_ranges(self, one: ParsedObject, value: ServiceObject) -> tuple[str, ...]:
        ranges: list[str] = []
        wrong: dict[str, str] = {}
        for i, text in enumerate(value.spec.source_ranges):
            try:
                ranges.append(parse_range(text))
            except ValueError as error:
                wrong[f"spec.loadBalancerSourceRanges[{i}]"] = str(error)
        for path, reason in wrong.items():
            if not ranges:
                # Leaving out the last one would open the Service to everybody.
                raise one.refuse(reason, path)
            self.note(one, path, f"left out: {reason}")
        return tuple(ranges)

    def source_ranges_apply_to_all(self, one: ParsedObject, text: str | None) -> bool:
        if text not in (None, "all", "load-balancer"):
            # Meant to restrict: nobody should be let in by a slip of the pen.
            raise one.refuse(
                f"{text[:40]!r} is neither all nor load-balancer",
                f"metadata.annotations[{RANGES_ANNOTATION}]",
            )
        return text == "all"

    def strategy(self, one: ParsedObject, text: str | None) -> Strategy | None:
        if text is None:
            return None
        try:
            return Strategy(text)
        except ValueError:
            known = ", ".join(Strategy)
            self.note(
                one,
                f"metadata.annotations[{STRATEGY_ANNOTATION}]",
                f"{text[:40]!r} is none of {known}",
            )
            return None

    def slice(
        self, one: ParsedObject, weights: dict[str, int]
    ) -> tuple[ServiceKey, EndpointSlice] | None:
        value = one.value
        assert isinstance(value, EndpointSliceObject)
        labels = value.metadata.labels
        if value.address_type == "FQDN":
            # Resolving names that tenants wrote would let them choose what the node looks up and
            # reaches.
            self.note(one, "addressType", "left out: host names are not followed")
            return None
        if HEADLESS_LABEL in labels:
            return None
        service = labels.get(SERVICE_NAME_LABEL)
        if not service:
            self.note(one, f"metadata.labels[{SERVICE_NAME_LABEL}]", "left out: it says no Service")
            return None
        own = self.weight(one, value.metadata.annotations.get(WEIGHT_ANNOTATION))
        wanted = Family.IPV6 if value.address_type == "IPv6" else Family.IPV4
        endpoints = []
        for i, endpoint in enumerate(value.endpoints):
            # Only the first address counts; the API gives more no meaning.
            address = endpoint.addresses[0] if endpoint.addresses else ""
            try:
                address = parse_address(address)
                refusal = endpoint_refusal(address)
                if family_of(address) != wanted:
                    refusal = f"{address} is no {value.address_type} address"
            except ValueError as error:
                refusal = str(error)
            if refusal:
                self.note(one, f"endpoints[{i}].addresses[0]", f"left out: {refusal}")
                continue
            weight = own
            if endpoint.target.kind == "Pod":
                weight = weights.get(f"{namespace(value)}/{endpoint.target.name}", own)
            endpoints.append(_endpoint(endpoint, address, weight))
        ports = tuple(
            SlicePort(port.name, port.protocol.lower(), port.port)
            for port in value.ports
            if port.port
        )
        key = (namespace(value), service)
        return key, EndpointSlice(value.metadata.name, wanted, ports, tuple(endpoints))

    def pod_weights(self) -> dict[str, int]:
        weights = {}
        for one in self.of(PodObject):
            text = one.value.metadata.annotations.get(WEIGHT_ANNOTATION)
            if text is not None:
                weights[one.name] = self.weight(one, text)
        return weights

    def weight(self, one: ParsedObject, text: str | None) -> int:
        if text is None:
            return 1
        if text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= MAX_WEIGHT:
            return int(text)
        self.note(
            one,
            f"metadata.annotations[{WEIGHT_ANNOTATION}]",
            f"{text[:40]!r} is not in 0..{MAX_WEIGHT}",
        )
        return 1

    def node(self, one: ParsedObject) -> Node:
        value = one.value
        assert isinstance(value, NodeObject)
        by_kind: dict[str, dict[str, None]] = {"InternalIP": {}, "ExternalIP": {}}
        for i, entry in enumerate(value.status.addresses):
            try:
                if entry.type in by_kind:
                    by_kind[entry.type][parse_address(entry.address)] = None
            except ValueError as error:
                self.note(one, f"status.addresses[{i}].address", f"left out: {error}")
        # External ones are often translated before they come to the node, which then does not have
        # them: they count in a family that has no other.
        internal, external = by_kind["InternalIP"], by_kind["ExternalIP"]
        known = set(map(family_of, internal))
        addresses = (
            *internal,
            *(address for address in external if family_of(address) not in known),
        )
        ranges: dict[str, None] = {}
        for i, text in enumerate(value.spec.pod_cidrs or [value.spec.pod_cidr]):
            try:
                if text:
                    ranges[parse_range(text)] = None
            except ValueError as error:
                self.note(one, f"spec.podCIDRs[{i}]", f"left out: {error}")
        tainted = any(taint.key == DELETION_TAINT for taint in value.spec.taints)
        return Node(
            name=value.metadata.name,
            addresses=addresses,
            zone=value.metadata.labels.get(ZONE_LABEL, ""),
            pod_ranges=tuple(ranges),
            is_eligible=not tainted and not value.metadata.deleted,
        )

    def service_ranges(self, one: ParsedObject) -> list[str]:
        value = one.value
        assert isinstance(value, ServiceCIDRObject)
        ranges = []
        for i, text in enumerate(value.spec.cidrs):
            try:
                ranges.append(parse_range(text))
            except ValueError as error:
                raise one.refuse(str(error), f"spec.cidrs[{i}]") from None
        return ranges


def _is_external(value: ServiceObject) -> bool:
    """Whether externalTrafficPolicy counts: kube-proxy goes by the type, whatever addresses the
    status has.
    """
    return value.spec.type in ("NodePort", "LoadBalancer") or bool(value.spec.external_ips)


def _endpoint(endpoint: EndpointObject, address: str, weight: int) -> Endpoint:
    conditions, hints = endpoint.conditions, endpoint.hints
    return Endpoint(
        address=address,
        node=endpoint.node,
        is_ready=conditions.ready,
        is_serving=conditions.serving,
        is_terminating=conditions.terminating,
        zones=frozenset(hint.name for hint in hints.zones) if hints.zones else _NOTHING,
        nodes=frozenset(hint.name for hint in hints.nodes) if hints.nodes else _NOTHING,
        weight=weight,
    )


SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
DELETION_TAINT: Final = "ToBeDeletedByClusterAutoscaler"
STRATEGY_ANNOTATION: Final = "kbe-nat.io/strategy"
RANGES_ANNOTATION: Final = "kbe-nat.io/source-ranges"
WEIGHT_ANNOTATION: Final = "kbe-nat.io/weight"
MAX_WEIGHT: Final = 65535
_NOTHING: Final[frozenset[str]] = frozenset()
