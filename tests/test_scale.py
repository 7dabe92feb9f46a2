"""Ten thousand Services with a hundred and fifty thousand endpoints: a change costs what has
changed (F109).
"""

from msgspec.structs import replace

from kbe_nat.family import Family
from kbe_nat.model import Endpoint, EndpointSlice, Service, ServicePort, SlicePort, Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.policy.planner import Planner

SERVICES, ENDPOINTS = 10_000, 15


def address(first: int, number: int) -> str:
    return f"{first}.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def slice_of(number: int, endpoints: int = ENDPOINTS) -> EndpointSlice:
    listed = (Endpoint(address(10, number * ENDPOINTS + n)) for n in range(endpoints))
    return EndpointSlice(
        f"service-{number}-a", Family.IPV4, (SlicePort("", "tcp", 8080),), tuple(listed)
    )


def snapshot() -> Snapshot:
    services = tuple(
        Service(
            "default", f"service-{number}", (address(172, number),), (ServicePort("", "tcp", 80),)
        )
        for number in range(SERVICES)
    )
    return Snapshot(1, services, {own.key: (slice_of(n),) for n, own in enumerate(services)})


def test_f109_one_of_150_000_endpoints_changes_one_port_alone() -> None:
    planner, before = Planner(), snapshot()
    first = planner.update(before, Options()).plan
    assert sum(len(port.cluster_backends) for port in first.ports) == SERVICES * ENDPOINTS
    key = ("default", "service-4711")
    slices = {**before.slices, key: (slice_of(4711, ENDPOINTS - 1),)}
    for touched in (None, {key}):
        delta = planner.update(replace(before, slices=slices), Options(), touched)
        assert [new.port.service for _, new in delta.changed] == ["service-4711"]
        assert not delta.added and not delta.removed
        kept = [old is new for old, new in zip(first.ports, delta.plan.ports, strict=True)]
        assert kept.count(False) == 1
        planner.update(before, Options())
