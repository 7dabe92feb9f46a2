"""Ten thousand Services with a hundred and fifty thousand endpoints: a change costs what has
changed, and each endpoint a bounded part of the memory (F109).
"""

import json
import tracemalloc
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from kbe_nat.family import Family
from kbe_nat.model import Endpoint, EndpointSlice, Service, ServicePort, SlicePort, Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.policy.planner import Planner
from kbe_nat.sources.manifests.manifests import Manifests

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


def listed_service(number: int) -> list[dict[str, Any]]:
    """A Service and its slice as `kubectl get -o json` writes them, with what nobody reads."""
    name = f"service-{number}"
    endpoints = [
        {
            "addresses": [address(10, number * ENDPOINTS + n)],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{n}",
            "zone": f"zone-{n % 3}",
            "hints": {"forZones": [{"name": f"zone-{n % 3}"}]},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": f"{name}-{n:05}"},
        }
        for n in range(ENDPOINTS)
    ]
    metadata = {"namespace": "default", "uid": f"{number:036}", "resourceVersion": f"{number}"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**metadata, "name": name},
            "spec": {
                "clusterIP": address(172, number),
                "clusterIPs": [address(172, number)],
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}],
                "selector": {"app": name},
            },
            "status": {"loadBalancer": {}},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                **metadata,
                "name": f"{name}-a",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints,
        },
    ]


def test_f109_an_endpoint_of_a_file_takes_few_bytes(tmp_path: Path) -> None:
    services = 500
    file = tmp_path / "cluster.json"
    items = [item for number in range(services) for item in listed_service(number)]
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    del items
    source, planner = Manifests([file]), Planner()
    tracemalloc.start()
    try:
        update = source.read()
        assert update is not None
        planner.update(update.snapshot, Options())
        lasting, most = (size / (services * ENDPOINTS) for size in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert sum(len(port.cluster_backends) for port in planner.plan.ports) == services * ENDPOINTS
    # What an endpoint needs, with its part of its Service. On the way only the text comes to it.
    assert lasting < 750
    assert most < 1000
