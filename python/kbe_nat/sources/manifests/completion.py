"""Follows the objects of files and fills in what they leave out: cluster IPs, the Pods of
controllers, EndpointSlices.

Each of the three depends on more than one object, so this keeps the objects that it needs and says
which completions may differ when some of them change. A Service with a cluster IP and a slice costs
a look at itself. A Pod costs the Services that select it. Controllers and addresses that are
missing are few, in files that people write: when one of them changes, all of them are filled in
anew.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from kbe_nat.model import ServiceKey
from kbe_nat.sources.manifests.defaults import (
    POD_RANGE,
    cluster_addresses,
    cluster_ips,
    needs_address,
    with_cluster_ips,
    workload_pods,
)
from kbe_nat.sources.manifests.endpointslices import slices_of_pods
from kbe_nat.sources.manifests.labels import Label, LabelledPods, labels_of
from kbe_nat.sources.objects import (
    ObjectKey,
    Origin,
    ParsedObject,
    Place,
    PodObject,
    ServiceObject,
)
from kbe_nat.sources.snapshot import ZONE_LABEL, ConvertedSlice
from kbe_nat.sources.store import Change, Completed, Placed


class FileCompletion:
    """A `kbe_nat.sources.store.Completion`."""

    def __init__(self, pod_range: str = POD_RANGE) -> None:
        self._pod_range = pod_range
        self._objects: dict[str, dict[ObjectKey, tuple[Place, ParsedObject]]] = {}
        """Objects as they are written, by kind; slices are only counted."""
        self._slice_counts: Counter[ServiceKey] = Counter()
        """By the Service that their label names."""
        self._pods = LabelledPods()
        self._replicas: dict[ObjectKey, ParsedObject] = {}
        """Pods of controllers that nobody wrote."""
        self._labelled_replicas = LabelledPods()
        self._selecting: dict[Label, dict[ServiceKey, None]] = {}
        """Services by the first label of their selector."""
        self._zones: dict[str, str] = {}
        """By node."""
        self._addresses: dict[ObjectKey, tuple[str, ...]] = {}
        """Filled in, by Service."""
        self._built: dict[ServiceKey, int] = {}
        """How many slices a Service has that nobody wrote."""
        self._lacks: dict[ServiceKey, tuple[str, ...]] = {}
        """Notes on what the Pods of a Service lack."""
        self._workload_notes: dict[ObjectKey, tuple[str, ...]] = {}
        self._completed: dict[ObjectKey, None] = {}
        """Objects of which something is filled in or noted."""

    def complete(self, changes: Sequence[Change]) -> dict[ObjectKey, Completed]:
        """See `Completion`."""
        completions: dict[ObjectKey, Completed] = {}
        readdressed = self._concern_addresses(changes)
        stale: set[ServiceKey] = set()
        kinds = {change.key[0] for change in changes}
        for change in changes:
            stale |= self._follow(change)
        renewed = self._fill_in_addresses() if readdressed else set()
        # Pods of controllers first: slices are built of them.
        if kinds & {"Pod", "Node", *CONTROLLERS} and (self._replicas or self._controllers()):
            stale |= self._fill_in_replicas(completions)
        if "Node" in kinds:
            stale |= self._follow_zones()
        for service in stale:
            self._fill_in_slices(service, completions)
            renewed.add(("Service", *service))
        for key in renewed:
            completions[key] = self._completed_service(key)
        return self._differing(completions)

    def pods(self) -> list[PodObject]:
        """All Pods, those that nobody wrote last."""
        written = [parsed for _, parsed in self._of("Pod").values()]
        values = [parsed.value for parsed in (*written, *self._replicas.values())]
        return [value for value in values if isinstance(value, PodObject)]

    def _of(self, kind: str) -> dict[ObjectKey, tuple[Place, ParsedObject]]:
        return self._objects.setdefault(kind, {})

    def _controllers(self) -> dict[ObjectKey, tuple[Place, ParsedObject]]:
        return {key: entry for kind in CONTROLLERS for key, entry in self._of(kind).items()}

    def _follow(self, change: Change) -> set[ServiceKey]:
        """Take an object over; the Services whose slices may have to be built anew."""
        kind, space, name = change.key
        if kind == "EndpointSlice":
            return self._count_slice(change)
        before, after = _object(change.before), _object(change.after)
        if change.after is None or after is None:
            self._of(kind).pop(change.key, None)
        else:
            self._of(kind)[change.key] = (change.after.place, after)
        if kind == "Pod":
            return self._follow_pod(change.after, before, after)
        if kind != "Service":
            return set()
        self._follow_selector((space, name), _selected_label(before), _selected_label(after))
        return {(space, name)}

    def _follow_selector(
        self, service: ServiceKey, before: Label | None, after: Label | None
    ) -> None:
        if before is not None:
            services = self._selecting[before]
            del services[service]
            if not services:
                del self._selecting[before]
        if after is not None:
            self._selecting.setdefault(after, {})[service] = None

    def _count_slice(self, change: Change) -> set[ServiceKey]:
        """The Services that have got their first slice or lost their last one."""
        crossing = set()
        for placed, step in ((change.before, -1), (change.after, 1)):
            if placed is None:
                continue
            assert isinstance(placed.item, ConvertedSlice)
            service = placed.item.service
            self._slice_counts[service] += step
            if self._slice_counts[service] == (1 if step > 0 else 0):
                crossing.add(service)
            if not self._slice_counts[service]:
                del self._slice_counts[service]
        return crossing

    def _follow_pod(
        self, placed: Placed | None, before: ParsedObject | None, after: ParsedObject | None
    ) -> set[ServiceKey]:
        if before is not None:
            self._pods.remove(before)
        if placed is not None and after is not None:
            self._pods.put(placed.place, after)
        return self._selecting_any(pod for pod in (before, after) if pod is not None)

    def _selecting_any(self, pods: Iterable[ParsedObject]) -> set[ServiceKey]:
        """Services that may select one of these Pods."""
        labels = {label for pod in pods for label in labels_of(pod)}
        return {key for label in labels for key in self._selecting.get(label, ())}

    def _concern_addresses(self, changes: Iterable[Change]) -> bool:
        """Whether other addresses may have to be filled in after these changes."""
        for change in changes:
            if change.key[0] == "ServiceCIDR" and self._addresses:
                return True
            if change.key[0] != "Service":
                continue
            before, after = _service(change.before), _service(change.after)
            needs = [service is not None and needs_address(service) for service in (before, after)]
            if any(needs):
                is_same = (
                    all(needs) and before and after and before.spec.families == after.spec.families
                )
                if not is_same or _place(change.before) != _place(change.after):
                    return True
            elif self._addresses and _addresses(before) != _addresses(after):
                # An address that is filled in may be another one's now, or free.
                return True
        return False

    def _fill_in_addresses(self) -> set[ObjectKey]:
        """The Services that get others than before."""
        before = self._addresses
        self._addresses = cluster_ips(self._of("Service"), self._of("ServiceCIDR"))
        keys = before.keys() | self._addresses.keys()
        return {key for key in keys if before.get(key) != self._addresses.get(key)}

    def _fill_in_replicas(self, completions: dict[ObjectKey, Completed]) -> set[ServiceKey]:
        """The Services that may select Pods that have come or gone."""
        before = self._replicas
        nodes = [name for _, _, name in self._of("Node")]
        pods, notes = workload_pods(self._controllers(), self._of("Pod"), nodes, self._pod_range)
        for key in self._workload_notes.keys() | notes.keys():
            completions[key] = Completed(None, notes.get(key, ()))
        self._workload_notes = notes
        self._replicas = {pod.key: pod for pod in pods}
        if list(self._replicas.values()) == list(before.values()):
            return set()
        self._labelled_replicas = LabelledPods()
        for index, pod in enumerate(pods):
            self._labelled_replicas.put(Place(Origin(0, ""), index), pod)
        changed = {
            key
            for key in before.keys() | self._replicas.keys()
            if before.get(key) != self._replicas.get(key)
        }
        completions |= {key: Completed(self._replicas.get(key)) for key in changed}
        # The order of all of them may be another one, and with it that of endpoints.
        return self._selecting_any((*before.values(), *pods))

    def _follow_zones(self) -> set[ServiceKey]:
        """The Services whose hints may be others."""
        before = self._zones
        self._zones = {
            name: parsed.value.metadata.labels.get(ZONE_LABEL, "")
            for (_, _, name), (_, parsed) in self._of("Node").items()
        }
        return set() if self._zones == before else set(self._built)

    def _fill_in_slices(self, key: ServiceKey, completions: dict[ObjectKey, Completed]) -> None:
        slices: list[ParsedObject] = []
        lacks: tuple[str, ...] = ()
        _, parsed = self._of("Service").get(("Service", *key), (None, None))
        service = parsed and parsed.value
        selector = service.spec.selector if isinstance(service, ServiceObject) else {}
        if parsed and selector and not self._slice_counts[key]:
            pods = self._pods.matching(key[0], selector)
            pods += self._labelled_replicas.matching(key[0], selector)
            slices, lacks = slices_of_pods(parsed, pods, self._zones)
        count = max(len(slices), self._built.pop(key, 0))
        for number in range(count):
            completed = Completed(slices[number]) if number < len(slices) else Completed()
            completions["EndpointSlice", key[0], f"{key[1]}-{number}"] = completed
        if slices:
            self._built[key] = len(slices)
        self._lacks.pop(key, None)
        if lacks:
            self._lacks[key] = lacks

    def _completed_service(self, key: ObjectKey) -> Completed:
        entry = self._of("Service").get(key)
        if entry is None:
            return Completed()
        notes = self._lacks.get(key[1:], ())
        addresses = self._addresses.get(key)
        if addresses is None:
            return Completed(None, notes)
        item, note = with_cluster_ips(entry[1], addresses)
        return Completed(item, (note, *notes))

    def _differing(self, completions: dict[ObjectKey, Completed]) -> dict[ObjectKey, Completed]:
        """Without objects of which nothing is filled in, and nothing was."""
        differing = {}
        for key, completed in completions.items():
            is_empty = completed == Completed()
            if is_empty and key not in self._completed:
                continue
            differing[key] = completed
            if is_empty:
                del self._completed[key]
            else:
                self._completed[key] = None
        return differing


def running_pods(objects: Iterable[ParsedObject]) -> list[PodObject]:
    """The Pods of these objects, those that controllers want among them."""
    completion = FileCompletion()
    completion.complete(
        [
            Change(parsed.key, None, Placed(Place(Origin(0, ""), index), parsed))
            for index, parsed in enumerate(objects)
            if parsed.kind != "EndpointSlice"
        ]
    )
    return completion.pods()


def _object(placed: Placed | None) -> ParsedObject | None:
    return placed.item if placed and isinstance(placed.item, ParsedObject) else None


def _service(placed: Placed | None) -> ServiceObject | None:
    parsed = _object(placed)
    return parsed.value if parsed and isinstance(parsed.value, ServiceObject) else None


def _place(placed: Placed | None) -> Place | None:
    return placed and placed.place


def _addresses(service: ServiceObject | None) -> set[str]:
    return cluster_addresses(service) if service else set()


def _selected_label(parsed: ParsedObject | None) -> Label | None:
    """The first label of a Service's selector."""
    if parsed is None or not isinstance(parsed.value, ServiceObject):
        return None
    first = next(iter(parsed.value.spec.selector.items()), None)
    return first and (parsed.key[1], *first)


CONTROLLERS: Final = ("ReplicationController", "ReplicaSet", "Deployment")
