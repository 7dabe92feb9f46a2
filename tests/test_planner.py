"""A planner that remembers plans as one that does not, and looks only at what has changed."""

from msgspec import structs

from harness.conformance_cases import CASES
from harness.shop import NODE, READY, WEB
from kbe_nat.family import Family
from kbe_nat.model import EndpointSlice, ServicePort, SlicePort, Snapshot
from kbe_nat.policy.delta import PlanDelta
from kbe_nat.policy.options import Options
from kbe_nat.policy.planner import Planner, plan
from kbe_nat.sources.manifests.manifests import read_manifests


def test_a_planner_that_remembers_plans_as_one_that_does_not() -> None:
    planner = Planner()
    snapshots = [read_manifests([case.objects]).snapshot for case in CASES]
    # Every case after every kind of change: others' Services, none, the same with fewer endpoints,
    # another node.
    for snapshot in snapshots:
        fewer = {key: parts[1:] for key, parts in snapshot.slices.items()}
        changed = structs.replace(snapshot, slices=fewer)
        for objects, node in (
            (snapshot, "test-node"),
            (snapshot, "test-node"),
            (changed, "test-node"),
            (changed, ""),
        ):
            options = Options(node)
            delta = planner.update(objects, options)
            assert planner.plan == delta.plan == plan(objects, options)
            whole = PlanDelta.between(delta.former, delta.plan)
            assert sorted(delta.pairs(), key=str) == sorted(whole.pairs(), key=str)


def test_a_planner_looks_again_only_at_what_has_changed() -> None:
    other = structs.replace(WEB, name="other", cluster_ips=("172.30.0.2",))
    parts = {
        key: (EndpointSlice("a", Family.IPV4, (SlicePort("", "tcp", 8080),), (READY,)),)
        for key in (WEB.key, other.key)
    }
    planner, options = Planner(), Options("here")
    snapshot = Snapshot(services=(WEB, other), slices=parts, nodes={"here": NODE})
    before = planner.update(snapshot, options).plan.ports
    fewer = structs.replace(snapshot, slices={**parts, WEB.key: ()})
    after = planner.update(fewer, options).plan.ports
    assert [port.cluster_backends for port in after] == [(), before[1].cluster_backends]
    assert after[1] is before[1]
    delta = planner.update(structs.replace(fewer, slices=dict(fewer.slices)), options)
    assert not list(delta.pairs())
    delta = planner.update(snapshot, options)
    assert [(old.port, new.port) for old, new in delta.changed] == [(after[0], before[0])]
    moved = structs.replace(WEB, ports=(ServicePort("", "tcp", 81),))
    delta = planner.update(structs.replace(snapshot, services=(moved, other)), options)
    assert [port.frontends[0].port for port in delta.plan.ports] == [81, 80]
    assert delta.plan.ports[1] is before[1]


def test_backends_that_stay_are_the_same_objects() -> None:
    def snapshot(*addresses: str) -> Snapshot:
        endpoints = tuple(structs.replace(READY, address=address) for address in addresses)
        part = EndpointSlice("a", Family.IPV4, (SlicePort("", "tcp", 8080),), endpoints)
        return Snapshot(services=(WEB,), slices={WEB.key: (part,)}, nodes={"here": NODE})

    planner, options = Planner(), Options("here")
    [before] = planner.update(snapshot("10.0.0.1", "10.0.0.2"), options).plan.ports
    [after] = planner.update(snapshot("10.0.0.2", "10.0.0.3"), options).plan.ports
    assert [backend.address for backend in after.cluster_backends] == ["10.0.0.2", "10.0.0.3"]
    assert after.cluster_backends[0] is before.cluster_backends[1]
