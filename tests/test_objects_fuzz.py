"""Property: whatever a file of Kubernetes objects says, reading it gives a snapshot and a list of
what is wrong, or a `FileError`; no other exception.
"""

import copy
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kbe_nat.errors import FileError, ObjectError
from kbe_nat.model import Node, Service, Snapshot
from kbe_nat.sources.manifests.manifests import read_manifests

ROOT: Final = Path(__file__).parent.parent
SEED: Final = (
    ROOT / "examples/simpleservice/cluster.yaml",
    *sorted((ROOT / "tests/seed").iterdir()),
)
EXAMPLES: Final = int(os.environ.get("KBE_NAT_FUZZ_EXAMPLES", "150"))
"""Documents per test; set it higher to look for longer."""

Document: TypeAlias = dict[str, Any]
Place: TypeAlias = tuple[str | int, ...]

SERVICE: Final[Document] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "labels": {"service.kubernetes.io/service-proxy-name": "kbe"},
        "annotations": {"kbe-nat/strategy": "rr"},
        "creationTimestamp": "2024-01-01T00:00:00Z",
    },
    "spec": {
        "type": "LoadBalancer",
        "clusterIP": "172.30.0.1",
        "clusterIPs": ["172.30.0.1", "fd00::1"],
        "ipFamilies": ["IPv4", "IPv6"],
        "selector": {"app": "web"},
        "externalIPs": ["198.51.100.1"],
        "loadBalancerSourceRanges": ["10.0.0.0/8", "::ffff:1.2.3.0/120"],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 30000,
        "ports": [
            {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
        ],
    },
    "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}, {"ip": ""}]}},
}
SLICE: Final[Document] = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "addressType": "IPv4",
    "metadata": {
        "name": "web-a",
        "namespace": "shop",
        "labels": {"kubernetes.io/service-name": "web"},
        "annotations": {"kbe-nat/weight": "3"},
    },
    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    "endpoints": [
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": "a",
            "zone": "z",
            "hints": {"forZones": [{"name": "z"}]},
            "targetRef": {"kind": "Pod", "name": "web-1"},
        },
        {"addresses": ["10.0.0.2"]},
    ],
}
CONTROLLER: Final[Document] = {
    "apiVersion": "v1",
    "kind": "ReplicationController",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {
        "replicas": 2,
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]},
        },
    },
}
POD: Final[Document] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}},
    "spec": {"nodeName": "a", "containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]},
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::2"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
NODE: Final[Document] = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "a", "labels": {"topology.kubernetes.io/zone": "z"}},
    "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
}
RANGES: Final[Document] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "ServiceCIDR",
    "metadata": {"name": "default"},
    "spec": {"cidrs": ["172.30.0.0/16", "fd00::/108"]},
}
DOCUMENTS: Final = (
    SERVICE,
    SLICE,
    CONTROLLER,
    POD,
    NODE,
    RANGES,
    *(document for path in SEED for document in yaml.safe_load_all(path.read_text())),
)

addresses = st.one_of(
    st.ip_addresses().map(str),
    st.sampled_from(
        (
            "",
            "None",
            "::",
            "0.0.0.0",
            "127.0.0.1",
            "169.254.0.1",
            "255.255.255.255",
            "010.0.0.01",
            "::ffff:10.0.0.1",
            "::ffff:999.0.0.1",
            "fe80::1%eth0",
            "fd00::1%",
            "1.2.3",
            "1.2.3.4.5",
            "10.0.0.1/",
            "10.0.0.0/33",
            "::/129",
            "::ffff:0.0.0.0/95",
            "/8",
            "10.0.0.0/0008",
            "١٢٧.0.0.1",
        )
    ),
)
scalars = st.one_of(
    addresses,
    st.none(),
    st.booleans(),
    st.integers(-1, 70_000),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ("TCP", "UDP", "SCTP", "IPv6", "FQDN", "Pod", "Local", "ClientIP", "ExternalName")
    ),
    st.sampled_from(
        ("List", "ServiceList", "Service", "EndpointSlice", "v1", "apps/v1", "/", "a" * 300)
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=8), scalars), inner, max_size=3),
    ),
    max_leaves=6,
)


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """All places in a document below its root."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, part in inner:
        yield (*path, key)
        yield from places(part, (*path, key))


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """One of the documents with some of its places changed, removed, doubled or exchanged."""
    document = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(0, 4))):
        known = list(places(document))
        if not known:
            break
        *path, last = draw(st.sampled_from(known))
        parent: Any = document
        for step in path:
            parent = parent[step]
        match draw(st.integers(0, 4)):
            case 0:
                del parent[last]
            case 1 if isinstance(parent, list):
                parent.extend(copy.deepcopy(parent))
            case 2 if isinstance(parent, dict):
                parent[draw(st.text(max_size=8))] = parent.pop(last)
            case _:
                parent[last] = draw(values)
    return document


def check(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "objects.yaml"
        path.write_bytes(text)
        try:
            update = read_manifests([path])
        except FileError as error:
            assert "\n" not in str(error)
            return
    assert isinstance(update.snapshot, Snapshot)
    assert all(isinstance(service, Service) for service in update.snapshot.services)
    assert all(isinstance(node, Node) for node in update.snapshot.nodes.values())
    for refused in update.errors:
        assert isinstance(refused, ObjectError)
        assert str(refused)
    assert all(isinstance(note, str) for note in update.notes)


searching = settings(max_examples=EXAMPLES)


@searching
@given(st.lists(mutated(), min_size=1, max_size=4), st.booleans())
def test_mutated_objects(documents: list[Any], is_list: bool) -> None:
    if is_list:
        documents = [{"apiVersion": "v1", "kind": "List", "items": documents}]
    check(yaml.safe_dump_all(documents, allow_unicode=True).encode("utf-8", "surrogatepass"))


@searching
@given(st.lists(mutated(), min_size=1, max_size=2))
def test_mutated_objects_in_json(documents: list[Any]) -> None:
    check("\n---\n".join(json.dumps(one, default=str, skipkeys=True) for one in documents).encode())


@searching
@given(
    st.sampled_from(DOCUMENTS),
    st.lists(st.tuples(st.integers(0), st.binary(max_size=4)), max_size=6),
)
def test_mutated_bytes(document: Document, edits: list[tuple[int, bytes]]) -> None:
    text = bytearray(yaml.safe_dump(document).encode())
    for place, inserted in edits:
        start = place % (len(text) + 1)
        text[start : start + place % 3] = inserted
    check(bytes(text))


@searching
@given(st.binary(max_size=200))
def test_any_bytes(text: bytes) -> None:
    check(text)
