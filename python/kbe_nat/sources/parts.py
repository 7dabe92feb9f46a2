"""The parts of a snapshot, of which a few change at a time, and which Services these touch."""

from collections.abc import Iterable, Mapping

from msgspec import structs

from kbe_nat.model import EndpointSlice, Node, Service, ServiceKey, Snapshot
from kbe_nat.sources.claim_order import ClaimOrder, Seniority
from kbe_nat.sources.objects import ObjectKey, Place
from kbe_nat.sources.snapshot import ConvertedSlice


class SnapshotParts:
    """Services, slices, nodes and ranges. Setting one part costs what that part costs; a snapshot
    copies lists of references where a part of them has changed, and nothing else.
    """

    def __init__(self) -> None:
        self._order = ClaimOrder()
        self._service_changes: dict[ServiceKey, tuple[Seniority, Service] | None] = {}
        self._slices: dict[ServiceKey, tuple[EndpointSlice, ...]] = {}
        self._slice_changes: dict[ServiceKey, dict[str, EndpointSlice | None]] = {}
        """By name; None: taken away."""
        self._converted: dict[ObjectKey, ConvertedSlice] = {}
        self._targeting: dict[ObjectKey, None] = {}
        """Slices that name Pods."""
        self._weights: dict[tuple[str, str], int] = {}
        """By namespace and name of a Pod."""
        self._nodes: Mapping[str, Node] = {}
        self._ranges: dict[ObjectKey, tuple[Place, tuple[str, ...]]] = {}
        self._has_same_ranges = True
        self._snapshot = Snapshot(nodes=self._nodes)

    def set_service(self, seniority: Seniority, service: Service) -> None:
        """A Service and what orders its claims."""
        self._service_changes[service.key] = (seniority, service)

    def set_slice(self, key: ObjectKey, converted: ConvertedSlice) -> None:
        """A slice; a weight that a Pod says goes before its own."""
        before = self._converted.get(key)
        # Its label may name another Service than before.
        if before is not None and before.service != converted.service:
            self._slice_changes.setdefault(before.service, {})[key[2]] = None
        self._converted[key] = converted
        if converted.targets:
            self._targeting[key] = None
        else:
            self._targeting.pop(key, None)
        changes = self._slice_changes.setdefault(converted.service, {})
        changes[key[2]] = self._weigh(converted)

    def set_node(self, key: ObjectKey, node: Node) -> None:
        """A node."""
        if self._nodes.get(key[2]) != node:
            self._nodes = {**self._nodes, key[2]: node}

    def set_service_ranges(self, key: ObjectKey, place: Place, ranges: tuple[str, ...]) -> None:
        """The ranges of a ServiceCIDR."""
        if self._ranges.get(key) != (place, ranges):
            self._ranges[key] = (place, ranges)
            self._has_same_ranges = False

    def set_weight(self, key: ObjectKey, weight: int | None) -> None:
        """The weight of a Pod's endpoints; None: the slice says it. Cost of another weight than
        before: linear in all slices that name Pods.
        """
        _, space, name = key
        if self._weights.get((space, name)) == weight:
            return
        if weight is None:
            del self._weights[space, name]
        else:
            self._weights[space, name] = weight
        for slice_key in self._targeting:
            converted = self._converted[slice_key]
            if slice_key[1] == space and name in converted.targets:
                self.set_slice(slice_key, converted)

    def remove(self, key: ObjectKey) -> None:
        """Take the part of an object away."""
        kind, space, name = key
        if kind == "Service":
            self._service_changes[space, name] = None
        elif kind == "EndpointSlice":
            converted = self._converted.pop(key, None)
            if converted is not None:
                self._targeting.pop(key, None)
                self._slice_changes.setdefault(converted.service, {})[name] = None
        elif kind == "Pod":
            self.set_weight(key, None)
        elif kind == "Node" and name in self._nodes:
            self._nodes = {other: node for other, node in self._nodes.items() if other != name}
        elif kind == "ServiceCIDR" and key in self._ranges:
            del self._ranges[key]
            self._has_same_ranges = False

    def snapshot(self, generation: int) -> tuple[Snapshot, frozenset[ServiceKey] | None]:
        """The parts now, and the Services that differ from the last snapshot; None: any may."""
        touched = self._settle_services() | self._settle_slices()
        before = self._snapshot
        ranges = before.service_ranges
        if not self._has_same_ranges:
            in_order = (texts for _, texts in sorted(self._ranges.values()))
            ranges = tuple(dict.fromkeys(text for texts in in_order for text in texts))
            self._has_same_ranges = True
        self._snapshot = Snapshot(
            generation, self._order.services, self._slices, self._nodes, ranges
        )
        concerns_all = self._nodes is not before.nodes or ranges != before.service_ranges
        return self._snapshot, None if concerns_all else frozenset(touched)

    def _settle_services(self) -> set[ServiceKey]:
        touched, changes = set(), {}
        for key, entry in self._service_changes.items():
            before = self._order.get(key)
            if before == entry:
                continue
            if before is not None and entry is not None and before[1] == entry[1]:
                # The Service of before, since consumers compare identities.
                entry = (entry[0], before[1])
            else:
                touched.add(key)
            changes[key] = entry
        self._service_changes = {}
        return touched | self._order.apply(changes)

    def _settle_slices(self) -> set[ServiceKey]:
        changes, self._slice_changes = self._slice_changes, {}
        merged = {}
        for key, parts in changes.items():
            before = self._slices.get(key, ())
            after = _merge(before, parts)
            if after != before:
                merged[key] = after
        if merged:
            # Earlier snapshots keep theirs.
            self._slices = {**self._slices, **merged}
            for key, after in merged.items():
                if not after:
                    del self._slices[key]
        return set(merged)

    def _weigh(self, converted: ConvertedSlice) -> EndpointSlice | None:
        part, space = converted.part, converted.key[1]
        if part is None or not self._weights or not converted.targets:
            return part
        pairs = zip(part.endpoints, converted.targets, strict=True)
        weighed = [
            structs.replace(endpoint, weight=self._weights.get((space, target), endpoint.weight))
            for endpoint, target in pairs
        ]
        return structs.replace(part, endpoints=tuple(weighed))


def _merge(
    before: Iterable[EndpointSlice], changes: Mapping[str, EndpointSlice | None]
) -> tuple[EndpointSlice, ...]:
    """A Service's slices, some of them replaced, sorted by name."""
    old = {part.name: part for part in before}
    parts = {**old, **changes}
    # An equal part is the one of before, since consumers compare identities.
    merged = [old[name] if old.get(name) == part else part for name, part in parts.items() if part]
    return tuple(sorted(merged, key=lambda part: part.name))
