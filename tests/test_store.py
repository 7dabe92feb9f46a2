"""The store of objects: however its objects came to be, it serves what a fresh store with the same
objects serves, and it says which Services differ.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from kbe_nat.errors import ObjectError
from kbe_nat.model import ServiceKey, Snapshot
from kbe_nat.sources.decoding import decode
from kbe_nat.sources.manifests.completion import FileCompletion
from kbe_nat.sources.objects import Named, ObjectKey, Origin, ParsedObject
from kbe_nat.sources.source import SourceUpdate
from kbe_nat.sources.store import Store

EXAMPLES: Final = int(os.environ.get("KBE_NAT_FUZZ_EXAMPLES", "300"))
"""Sequences; set it higher to look for longer."""
NAMES = ("a", "b", "c")
ORIGINS = (Origin(0, "x.yaml"), Origin(0, "y.yaml"), Origin(1, "watch"))


def parsed(document: dict[str, Any], origin: str = "here") -> ParsedObject:
    [item] = decode(document, origin)
    assert isinstance(item, ParsedObject)
    return item


def service(name: str, **spec: Any) -> ParsedObject:
    return parsed({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})


def slice_of(name: str, service: str, *addresses: str) -> ParsedObject:
    return parsed(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"port": 8080}],
            "endpoints": [{"addresses": [address]} for address in addresses],
        }
    )


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


@settings(deadline=None, max_examples=EXAMPLES)
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


def pod(name: str, address: str, **labels: str) -> ParsedObject:
    metadata = {"name": name, "labels": labels}
    status = {"podIP": address}
    return parsed({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status})


def cluster(services: int) -> Store:
    """Half of the Services have slices, half have Pods."""
    store = Store(FileCompletion())
    for number in range(services):
        name, address = f"web-{number}", f"172.30.{number >> 8}.{number & 255}"
        at = Origin(0, f"{name}.yaml")
        if number % 2:
            items = [service(name, clusterIP=address), slice_of(f"{name}-a", name, "10.0.0.1")]
        else:
            selecting = service(name, clusterIP=address, selector={"app": name, "env": "prod"})
            items = [selecting, pod(name, "10.0.0.1", env="prod", app=name)]
        store.replace(at, items)
    store.update()
    return store


FILE = {number: Origin(0, f"web-{number}.yaml") for number in range(5)}
CHANGES: dict[str, Callable[[Store], None]] = {
    "a Service is modified": lambda store: store.put(
        FILE[3], service("web-3", clusterIP="172.30.0.3", ports=[{"port": 80}])
    ),
    "a Service is added": lambda store: store.put(
        FILE[4], service("web-new", clusterIP="172.30.99.3", ports=[{"port": 80}])
    ),
    "a Service is deleted": lambda store: store.delete(FILE[3], ("Service", "default", "web-3")),
    "endpoints change": lambda store: store.put(
        FILE[3], slice_of("web-3-a", "web-3", "10.0.0.1", "10.0.0.2")
    ),
    "the last slice is deleted": lambda store: store.delete(
        FILE[3], ("EndpointSlice", "default", "web-3-a")
    ),
    "a Pod is modified": lambda store: store.put(
        FILE[2], pod("web-2", "10.0.0.7", env="prod", app="web-2")
    ),
    "a Pod is deleted": lambda store: store.delete(FILE[2], ("Pod", "default", "web-2")),
    "a file says all of it again": lambda store: store.replace(
        FILE[3], [service("web-3", clusterIP="172.30.0.3"), slice_of("web-3-a", "web-3")]
    ),
}


def calls(action: Callable[[], object]) -> int:
    """How many functions are called, of Python and of C."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("change", CHANGES)
def test_f109_a_change_costs_the_same_whatever_else_is_there(change: str) -> None:
    costs = []
    for services in (20, 400):
        store = cluster(services)
        updates: list[SourceUpdate] = []

        def take(store: Store = store, updates: list[SourceUpdate] = updates) -> None:
            CHANGES[change](store)
            updates.append(store.update())

        costs.append(calls(take))
        [update] = updates
        assert update.touched is not None and len(update.touched) == 1
    assert costs[0] == costs[1]


def test_parts_that_are_equal_are_the_same() -> None:
    store = cluster(10)
    before = store.update().snapshot
    CHANGES["endpoints change"](store)
    after = store.update().snapshot
    assert after.services is before.services
    changed = [key for key in before.slices if before.slices[key] is not after.slices[key]]
    assert changed == [("default", "web-3")]
    # The same objects, in another place of their file.
    same = [service("web-3", clusterIP="172.30.0.3")]
    same.append(slice_of("web-3-a", "web-3", "10.0.0.1", "10.0.0.2"))
    store.replace(FILE[3], [structs.replace(item, origin="there") for item in same])
    again = store.update()
    assert again.touched == set() and again.snapshot.slices is after.slices
    assert all(map(lambda old, new: old is new, after.services, again.snapshot.services))


def endpoints(update: SourceUpdate, name: str) -> list[tuple[str, int]]:
    slices = update.snapshot.slices.get(("default", name), ())
    return [(own.address, own.weight) for part in slices for own in part.endpoints]


def test_what_an_origin_says_no_more_is_gone() -> None:
    store, origin = Store(), Origin(0, "watch")
    store.replace(origin, [service("a"), service("b"), slice_of("a-a", "a", "10.0.0.1")])
    store.update()
    store.replace(origin, [service("b")])
    update = store.update()
    assert [own.name for own in update.snapshot.services] == ["b"] and not update.snapshot.slices
    assert update.touched == {("default", "a")}


def test_a_slice_goes_where_its_label_says() -> None:
    store, origin = Store(), Origin(0, "watch")
    store.put(origin, slice_of("s", "a", "10.0.0.1"))
    assert endpoints(store.update(), "a") == [("10.0.0.1", 1)]
    store.put(origin, slice_of("s", "b", "10.0.0.1"))
    update = store.update()
    assert update.touched == {("default", "a"), ("default", "b")}
    assert endpoints(update, "a") == [] and endpoints(update, "b") == [("10.0.0.1", 1)]


def test_nodes_and_service_ranges_touch_all() -> None:
    store, origin = Store(), Origin(0, "watch")
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
    ranges = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "r"},
    }
    for document in (node, ranges | {"spec": {"cidrs": ["10.96.0.0/16"]}}):
        item = parsed(document)
        store.put(origin, item)
        assert store.update().touched is None
        store.put(origin, structs.replace(item, origin="there"))
        assert store.update().touched == set(), "nothing is different"
        store.delete(origin, item.key)
        assert store.update().touched is None


def test_pods_serve_where_no_slice_does() -> None:
    store, origin = Store(FileCompletion()), Origin(0, "file")
    store.put(
        origin,
        service("web", clusterIP="172.30.0.1", selector={"app": "web"}, ports=[{"port": 80}]),
    )
    store.put(origin, pod("p", "10.0.0.9", app="db"))
    assert endpoints(store.update(), "web") == []
    store.put(origin, pod("p", "10.0.0.9", app="web"))
    assert endpoints(store.update(), "web") == [("10.0.0.9", 1)]
    store.put(origin, slice_of("s", "web", "10.0.0.1"))
    assert endpoints(store.update(), "web") == [("10.0.0.1", 1)]
    store.delete(origin, ("EndpointSlice", "default", "s"))
    assert endpoints(store.update(), "web") == [("10.0.0.9", 1)]
    store.put(origin, pod("p", "10.0.0.9", app="db"))
    update = store.update()
    assert endpoints(update, "web") == [] and update.touched == {("default", "web")}


def test_a_pod_s_weight_is_that_of_its_endpoints_in_slices() -> None:
    store, origin = Store(), Origin(0, "watch")
    part = slice_of("s", "web", "10.0.0.1", "10.0.0.2")
    document = {"metadata": {"name": "p", "annotations": {"kbe-nat.io/weight": "7"}}}
    heavy = parsed({"apiVersion": "v1", "kind": "Pod"} | document)
    targeted = structs.replace(part.value.endpoints[1], target=Named("p", "Pod"))  # type: ignore[union-attr]
    value = structs.replace(part.value, endpoints=[part.value.endpoints[0], targeted])  # type: ignore[union-attr]
    store.put(origin, structs.replace(part, value=value))
    assert endpoints(store.update(), "web") == [("10.0.0.1", 1), ("10.0.0.2", 1)]
    store.put(origin, heavy)
    update = store.update()
    assert endpoints(update, "web") == [("10.0.0.1", 1), ("10.0.0.2", 7)]
    assert update.touched == {("default", "web")}
    store.delete(origin, heavy.key)
    assert endpoints(store.update(), "web") == [("10.0.0.1", 1), ("10.0.0.2", 1)]


def test_an_address_that_is_filled_in_makes_way_for_a_written_one() -> None:
    store, origin = Store(FileCompletion()), Origin(0, "file")
    store.put(origin, service("a"))
    [first] = store.update().snapshot.services
    store.put(origin, service("b", clusterIP=first.cluster_ips[0]))
    update = store.update()
    addresses = {own.name: own.cluster_ips for own in update.snapshot.services}
    assert addresses["b"] == first.cluster_ips != addresses["a"]
    assert update.touched == {("default", "a"), ("default", "b")}
    store.delete(origin, ("Service", "default", "b"))
    [last] = store.update().snapshot.services
    assert last == first


def refusal(name: str, origin: str = "here") -> ObjectError:
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": 1}
    [error] = decode(document, origin)
    assert isinstance(error, ObjectError)
    return error


def ports(update: SourceUpdate) -> dict[str, int]:
    return {own.name: own.ports[0].port for own in update.snapshot.services}


def test_a_refused_object_stays_as_it_was_and_keeps_its_claims() -> None:
    store, origin = Store(), Origin(0, "watch")
    for name in ("a", "b"):
        store.put(origin, service(name, clusterIP="172.30.0.1", ports=[{"port": 80}]))
    assert list(ports(store.update())) == ["a", "b"]
    store.put(origin, refusal("a"))
    update = store.update()
    assert update.touched == set() and ports(update) == {"a": 80, "b": 80}
    assert list(ports(update)) == ["a", "b"]
    assert [str(error) for error in update.errors] == [str(refusal("a"))]
    # It is refused in another place now.
    store.put(origin, service("a", clusterIP="nowhere", ports=[{"port": 81}]))
    update = store.update()
    assert update.touched == set() and ports(update) == {"a": 80, "b": 80}
    assert [error.path for error in update.errors if isinstance(error, ObjectError)] == [
        "spec.clusterIP"
    ]
    store.put(origin, service("a", clusterIP="172.30.0.1", ports=[{"port": 82}]))
    update = store.update()
    assert not update.errors and ports(update) == {"a": 82, "b": 80}
    store.put(origin, refusal("a"))
    store.delete(origin, ("Service", "default", "a"))
    update = store.update()
    assert not update.errors and ports(update) == {"b": 80}, "a deleted object is gone"


def test_of_one_object_in_two_origins_the_later_origin_counts() -> None:
    store, file, watch = Store(), Origin(0, "file"), Origin(1, "watch")
    store.put(watch, structs.replace(service("a", ports=[{"port": 81}]), origin="watch"))
    store.put(file, structs.replace(service("a", ports=[{"port": 80}]), origin="file"))
    store.put(file, service("b", ports=[{"port": 80}]))
    update = store.update()
    assert list(ports(update).items()) == [("a", 81), ("b", 80)], "claims go by the first one"
    assert update.notes == ("watch: Service default/a: replaces the one in file",)
    store.put(watch, refusal("a"))
    assert ports(store.update()) == {"a": 80, "b": 80}, "sound ones count alone"
    store.delete(watch, ("Service", "default", "a"))
    update = store.update()
    assert update.touched == set() and not update.errors and not update.notes


def test_claims_go_by_age_then_origin_then_place() -> None:
    def aged(name: str, created: str) -> ParsedObject:
        metadata = {"name": name, "creationTimestamp": created}
        return parsed({"apiVersion": "v1", "kind": "Service", "metadata": metadata})

    store = Store()
    store.replace(Origin(1, "a"), [aged("young", "2026-02"), aged("old", "2026-01")])
    store.replace(Origin(0, "z"), [aged("z2", "2026-03"), aged("z1", "2026-03")])
    store.replace(Origin(0, "b"), [aged("b1", "2026-03"), aged("dateless", "")])
    names = [own.name for own in store.update().snapshot.services]
    assert names == ["dateless", "old", "young", "b1", "z2", "z1"]
    # A line more at the head of a file changes no order.
    store.replace(
        Origin(0, "z"), [aged("z0", "2026-03"), aged("z2", "2026-03"), aged("z1", "2026-03")]
    )
    assert store.update().touched == {("default", "z0")}
    store.replace(
        Origin(0, "z"), [aged("z0", "2026-03"), aged("z1", "2026-03"), aged("z2", "2026-03")]
    )
    assert store.update().touched == {("default", "z1"), ("default", "z2")}


def test_an_update_covers_those_that_were_not_taken_over() -> None:
    first = SourceUpdate(Snapshot(1), frozenset({("default", "a")}))
    second = SourceUpdate(Snapshot(2), frozenset({("default", "b")}))
    assert second.covering(first).touched == {("default", "a"), ("default", "b")}
    assert second.covering(None) is second
    assert second.covering(SourceUpdate(Snapshot(1))).touched is None
    assert SourceUpdate(Snapshot(2)).covering(first).touched is None
    assert second.covering(first).snapshot.generation == 2
