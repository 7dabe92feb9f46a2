"""The store of objects: what a change of each kind touches and costs, and which of several objects
counts.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from harness.objects import parsed, pod, service, slice_of
from kbe_nat.errors import ObjectError
from kbe_nat.model import Snapshot
from kbe_nat.policy.planner import plan
from kbe_nat.sources.decoding import decode
from kbe_nat.sources.manifests.completion import FileCompletion
from kbe_nat.sources.manifests.manifests import Manifests
from kbe_nat.sources.objects import EndpointSliceObject, Named, Origin, ParsedObject
from kbe_nat.sources.source import SourceUpdate
from kbe_nat.sources.store import Store


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


def test_endpoints_that_stay_are_the_same_objects() -> None:
    store, at = Store(), Origin(1, "watch")
    store.put(at, service("web", clusterIP="172.30.0.1"))
    store.put(at, slice_of("web-a", "web", "10.0.0.1", "10.0.0.2"))
    [before] = store.update().snapshot.slices["default", "web"]
    store.put(at, slice_of("web-a", "web", "10.0.0.3", "10.0.0.2"))
    [after] = store.update().snapshot.slices["default", "web"]
    assert [endpoint.address for endpoint in after.endpoints] == ["10.0.0.3", "10.0.0.2"]
    assert after.endpoints[1] is before.endpoints[1]


def test_a_store_lists_what_an_origin_has() -> None:
    store, watch, file = Store(), Origin(1, "watch"), Origin(0, "file")
    web, other = service("web", clusterIP="172.30.0.1"), service("other", clusterIP="172.30.0.2")
    store.put(watch, web)
    store.put(watch, other)
    store.put(watch, ObjectError("watch", "Service default/bad", "it is not read"))
    store.put(file, service("web", clusterIP="172.30.0.9"))
    store.update()
    assert store.items(watch) == {web.key: web, other.key: other}
    store.delete(watch, ("Service", "default", "web"))
    assert store.items(watch) == {other.key: other}
    assert store.items(Origin(2, "nobody")) == {}


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
    assert isinstance(part.value, EndpointSliceObject)
    first, second = part.value.endpoints
    targeted = structs.replace(second, target=Named("p", "Pod"))
    value = structs.replace(part.value, endpoints=[first, targeted])
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


def manifest(name: str, external_ip: str = "192.0.2.1") -> str:
    return (
        f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, "
        f"spec: {{externalIPs: [{external_ip}], ports: [{{port: 80}}]}}}}\n---\n"
    )


def owners(update: SourceUpdate) -> dict[str, list[str]]:
    """By external IP, the Services that have it."""
    result: dict[str, list[str]] = {}
    for port in plan(update.snapshot).ports:
        for address in port.addresses("external-ip"):
            result.setdefault(address, []).append(port.service)
    return result


def test_sources_that_share_a_store_claim_by_their_ranks(tmp_path: Path) -> None:
    """Whichever comes first: the lower rank has a frontend, the higher one an object of both."""
    store, watch = Store(FileCompletion()), Origin(5, "watch")
    early, late = tmp_path / "early", tmp_path / "late.yaml"
    early.mkdir()
    last = Manifests([late], store, base_rank=10)
    first = Manifests([early], store)
    late.write_text(manifest("of-last") + manifest("of-both", "192.0.2.3"))
    update = last.read()
    assert update is not None and owners(update)["192.0.2.1"] == ["of-last"]
    store.put(watch, service("of-watch", externalIPs=["192.0.2.1"], ports=[{"port": 80}]))
    assert owners(store.update())["192.0.2.1"] == ["of-watch"]
    (early / "a.yaml").write_text(manifest("of-first") + manifest("of-both", "192.0.2.2"))
    update = first.read()
    assert update is not None
    assert owners(update) == {"192.0.2.1": ["of-first"], "192.0.2.3": ["of-both"]}
    order = [each.name for each in update.snapshot.services]
    assert order == ["of-first", "of-both", "of-watch", "of-last"]
    (early / "a.yaml").unlink()
    update = first.read()
    assert update is not None and owners(update)["192.0.2.1"] == ["of-watch"]


def test_a_source_s_errors_stay_while_another_one_updates_the_store(tmp_path: Path) -> None:
    store = Store(FileCompletion())
    broken, sound = tmp_path / "broken", tmp_path / "sound.yaml"
    broken.mkdir()
    (broken / "a.yaml").write_text("{")
    first, last = Manifests([broken], store), Manifests([sound], store, base_rank=1)
    sound.write_text(manifest("web"))
    assert first.read() is not None
    update = last.read()
    assert update is not None
    [error] = update.errors
    assert f"{broken}/a.yaml" in str(error)
    assert [each.name for each in update.snapshot.services] == ["web"]
    (broken / "a.yaml").write_text("")
    update = first.read()
    assert update is not None and not update.errors


def test_a_file_that_fails_and_is_gone_for_a_moment_fails_as_it_did(tmp_path: Path) -> None:
    broken, sound = tmp_path / "a.yaml", tmp_path / "b.yaml"
    broken.write_text("{")
    sound.write_text(manifest("web"))
    source = Manifests([tmp_path], gone_seconds=3600)
    first = source.read()
    assert first is not None
    broken.unlink()
    sound.write_text(manifest("other"))
    second = source.read()
    assert second is not None and [each.name for each in second.snapshot.services] == ["other"]
    assert list(map(str, second.errors)) == list(map(str, first.errors))
