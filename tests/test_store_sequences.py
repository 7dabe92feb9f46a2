"""Property: however its objects came to be, a store serves what a fresh store with the same objects
serves, and it says which Services differ.
"""

import os
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from harness.objects import parsed
from kbe_nat.model import ServiceKey, Snapshot
from kbe_nat.sources.manifests.completion import FileCompletion
from kbe_nat.sources.objects import ObjectKey, Origin, ParsedObject
from kbe_nat.sources.source import SourceUpdate
from kbe_nat.sources.store import Store

EXAMPLES: Final = int(os.environ.get("KBE_NAT_FUZZ_EXAMPLES", "300"))
"""Sequences; set it higher to look for longer."""


NAMES = ("a", "b", "c")


ORIGINS = (Origin(0, "x.yaml"), Origin(0, "y.yaml"), Origin(1, "watch"))


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """An object that may have a part in what follows for one of three Services."""

    def one_of(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    name = one_of(*NAMES)
    kind = one_of("Service", "Service", "EndpointSlice", "EndpointSlice", "Pod", *RARE)
    metadata: dict[str, Any] = {"name": name}
    if one_of(True, False):
        metadata["creationTimestamp"] = one_of("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
    document = {"apiVersion": VERSIONS.get(kind, "v1"), "kind": kind, "metadata": metadata}
    labels = {"app": one_of("web", "db"), "tier": one_of("one", "two")}
    weight = {"kbe-nat.io/weight": one_of("3", "5", "x")} if one_of(True, False) else {}
    template = {"metadata": {"labels": labels}, "spec": {}}
    if kind == "Service":
        document["spec"] = {
            "ports": [{"port": one_of(80, 81)}],
            "selector": one_of({}, {"app": "web"}, {"app": "web", "tier": "two"}, {"app": "db"}),
            "ipFamilies": one_of(["IPv4"], ["IPv4", "IPv6"]),
            # One is wrong, and one is where another Service's name would get its address.
            "clusterIP": one_of("", "", "172.30.0.1", "nowhere", "172.30.44.96", "None"),
        }
    elif kind == "EndpointSlice":
        metadata["name"] = one_of("a-0", "a-1", "b-0")
        if labels["tier"] == "one":
            metadata["annotations"] = weight
        metadata["labels"] = {"kubernetes.io/service-name": name}
        addresses = one_of(["10.0.0.1"], ["10.0.0.1", "10.0.0.2"], ["127.0.0.1"])
        document |= {
            "addressType": one_of("IPv4", "IPv4", "FQDN"),
            "ports": [{"port": 8080}],
            "endpoints": [
                {"addresses": [own], "targetRef": {"kind": "Pod", "name": one_of(*NAMES)}}
                for own in addresses
            ],
        }
    elif kind == "Pod":
        metadata |= {"labels": labels, "annotations": weight}
        document["spec"] = {"nodeName": one_of("a", "b")}
        document["status"] = {"podIP": one_of("172.17.0.3", "172.17.0.9", "10.0.0.2")}
    elif kind == "Node":
        metadata["labels"] = {"topology.kubernetes.io/zone": one_of("z1", "z2")}
    elif kind == "ServiceCIDR":
        document["spec"] = {"cidrs": [one_of("10.96.0.0/30", "10.97.0.0/16", "fd00::/120")]}
    else:
        document["spec"] = {"replicas": one_of(0, 1, 2), "template": template}
    return document


RARE = ("Pod", "Node", "ServiceCIDR", "ReplicaSet", "Deployment")


VERSIONS = {
    "EndpointSlice": "discovery.k8s.io/v1",
    "ServiceCIDR": "networking.k8s.io/v1",
    "ReplicaSet": "apps/v1",
    "Deployment": "apps/v1",
}


@dataclass(frozen=True)
class Step:
    """What an origin says."""

    origin: Origin
    objects: list[dict[str, Any]] = field(default_factory=list)
    is_whole: bool = False
    """It has these objects and no others."""
    deleted: ObjectKey | None = None
    ends: bool = True
    """An update follows."""


def steps() -> st.SearchStrategy[list[Step]]:
    keys = st.tuples(
        st.sampled_from(("Service", "EndpointSlice", "Pod", "ReplicaSet")),
        st.just("default"),
        st.sampled_from((*NAMES, "a-0", "a-1")),
    )
    origin, ends = st.sampled_from(ORIGINS), st.booleans()
    whole = st.builds(Step, origin, st.lists(documents(), max_size=6), st.just(True), ends=ends)
    changed = st.builds(Step, origin, st.lists(documents(), min_size=1, max_size=1), ends=ends)
    deleted = st.builds(Step, origin, deleted=keys, ends=ends)
    return st.lists(st.one_of(whole, changed, deleted), min_size=1, max_size=8)


class Origins:
    """The objects of each origin, as a store should understand them."""

    def __init__(self) -> None:
        self.items: dict[Origin, list[ParsedObject]] = {origin: [] for origin in ORIGINS}
        self.is_listed = dict.fromkeys(ORIGINS, True)
        """Objects have their places in a list, and not those of a watch."""

    def apply(self, step: Step, store: Store) -> None:
        items = [parsed(own, f"{step.origin.name}, {n}") for n, own in enumerate(step.objects)]
        if step.is_whole:
            store.replace(step.origin, items)
            self.items[step.origin] = items
            self.is_listed[step.origin] = True
            return
        if self.is_listed[step.origin]:
            # What a list has is forgotten, so that all places are those of a watch.
            store.replace(step.origin, ())
            self.items[step.origin] = []
            self.is_listed[step.origin] = False
        for item in items:
            store.put(step.origin, item)
            others = [own for own in self.items[step.origin] if own.key != item.key]
            self.items[step.origin] = [*others, item]
        if step.deleted:
            store.delete(step.origin, step.deleted)
            own = self.items[step.origin]
            self.items[step.origin] = [item for item in own if item.key != step.deleted]

    def fresh(self) -> SourceUpdate:
        """What a store says that has heard of nothing else."""
        store = Store(FileCompletion())
        for origin, items in self.items.items():
            if self.is_listed[origin]:
                store.replace(origin, items)
            for item in () if self.is_listed[origin] else items:
                store.put(origin, item)
        return store.update()


def parts(snapshot: Snapshot) -> dict[ServiceKey, Any]:
    services = {own.key: own for own in snapshot.services}
    return {
        key: (services.get(key), snapshot.slices.get(key))
        for key in services.keys() | snapshot.slices.keys()
    }


def difference(before: Snapshot, after: Snapshot) -> set[ServiceKey]:
    old, new = parts(before), parts(after)
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def order_without(snapshot: Snapshot, keys: Any) -> list[ServiceKey]:
    return [own.key for own in snapshot.services if own.key not in keys]


@settings(max_examples=EXAMPLES)
@given(steps())
def test_any_sequence_of_changes_ends_where_a_fresh_store_begins(sequence: list[Step]) -> None:
    store, origins = Store(FileCompletion()), Origins()
    last = Snapshot()
    was_refused = False
    for step in sequence:
        origins.apply(step, store)
        if not step.ends:
            continue
        update, fresh = store.update(), origins.fresh()
        snapshot = update.snapshot
        differing = difference(last, snapshot)
        if update.touched is None:
            assert (last.nodes, last.service_ranges) != (snapshot.nodes, snapshot.service_ranges)
        else:
            assert differing <= update.touched
            assert last.nodes == snapshot.nodes
            assert last.service_ranges == snapshot.service_ranges
            before, after = (
                order_without(last, update.touched),
                order_without(snapshot, update.touched),
            )
            assert before == after, "Services that are not touched stay in order"
        # A refused object stays as it was: what that is, a fresh store cannot know.
        was_refused |= bool(fresh.errors)
        if not was_refused:
            assert structs.replace(snapshot, generation=1) == fresh.snapshot
            assert [own.key for own in snapshot.services] == [
                own.key for own in fresh.snapshot.services
            ]
            assert update.notes == fresh.notes
        assert update.errors == fresh.errors or was_refused
        assert snapshot.generation == last.generation + 1
        last = snapshot
