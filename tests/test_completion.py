"""Cluster IPs, Pods and slices that files leave out, and how they are filled in."""

from pathlib import Path

import pytest

from harness.manifests import SEED, SERVICE, endpoints, read, refusals
from kbe_nat.sources.manifests.manifests import read_manifests


def test_the_objects_of_the_seed_as_they_are_written() -> None:
    update = read_manifests([SEED / "svc.yaml", SEED / "rc.yaml"])
    [service] = update.snapshot.services
    assert service.cluster_ips[0].startswith("172.30.")
    assert endpoints(update, "default", "simpleservice") == [("172.17.0.3", 9876)]
    assert len(update.notes) == 2
    assert (
        read_manifests([SEED / "rc.yaml", SEED / "svc.yaml"]).snapshot.services
        == update.snapshot.services
    )


def test_a_controller_without_pods_gets_as_many_as_it_wants(tmp_path: Path) -> None:
    text = (SEED / "rc.yaml").read_text().replace("replicas: 1", "replicas: 3")
    update = read(tmp_path, (SEED / "svc.yaml").read_text(), text)
    found = endpoints(update, "default", "simpleservice")
    assert found == [("172.17.0.3", 9876), ("172.17.0.4", 9876), ("172.17.0.5", 9876)]
    path = tmp_path / "objects.yaml"
    assert (
        endpoints(read_manifests([path], pod_range="10.9.0.0/24"), "default", "simpleservice")[0][0]
        == "10.9.0.3"
    )


def test_named_target_ports_are_looked_up_in_every_pod(tmp_path: Path) -> None:
    pod = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}{deleted}}}
spec: {{containers: [{{ports: [{{name: http, containerPort: {port}}}]}}]}}
status: {{podIP: {ip}, conditions: [{{type: Ready, status: "{ready}"}}]}}
"""
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 172.30.0.1, "
    update = read(
        tmp_path,
        service + "selector: {app: web}, ports: [{port: 80, targetPort: http}]}",
        pod.format(name="a", port=8080, ip="10.0.0.1", ready="True", deleted=""),
        pod.format(name="b", port=9090, ip="10.0.0.2", ready="False", deleted=""),
        pod.format(
            name="c",
            port=9090,
            ip="10.0.0.3",
            ready="True",
            deleted=", deletionTimestamp: 2026-01-01T00:00:00Z",
        ),
    )
    assert endpoints(update, "default", "web") == [
        ("10.0.0.1", 8080),
        ("10.0.0.2", 9090),
        ("10.0.0.3", 9090),
    ]
    found = [e for part in update.snapshot.slices["default", "web"] for e in part.endpoints]
    assert [(e.is_ready, e.is_serving, e.is_terminating) for e in found] == [
        (True, True, False),
        (False, False, False),
        (False, True, True),
    ]


SIDECARS = """
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec:
  initContainers:
  - {name: once, ports: [{name: https, containerPort: 1}]}
  - {name: retried, restartPolicy: OnFailure, ports: [{name: https, containerPort: 2}]}
  - name: sidecar
    restartPolicy: Always
    ports: [{name: https, containerPort: 9443}, {name: http, containerPort: 3}]
  containers:
  - name: app
    ports:
    - {name: http, containerPort: 8000}
    - {name: https, containerPort: 4, protocol: UDP}
status: {phase: Running, podIP: 10.0.0.1}
"""


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("https", 9443),
        # Containers come first, wherever they are written.
        ("http", 8000),
        ("8080", 8080),
        ("0", 80),
        ("''", 80),
        ("null", 80),
    ],
)
def test_named_ports_of_sidecars(tmp_path: Path, target: str, found: int) -> None:
    selecting = SERVICE.replace("{port: 80}", f"{{port: 80, targetPort: {target}}}")
    update = read(tmp_path, selecting.replace("spec: {", "spec: {selector: {app: web}, "), SIDECARS)
    assert endpoints(update, "shop", "web") == [("10.0.0.1", found)]
    assert not update.notes and not update.errors


def test_a_named_port_that_is_nowhere_is_said(tmp_path: Path) -> None:
    selecting = SERVICE.replace("{port: 80}", "{port: 80, targetPort: grpc}, {name: b, port: 81}")
    pods = [
        SIDECARS.replace("web-1", f"web-{n}").replace("10.0.0.1", f"10.0.0.{n}")
        for n in range(1, 6)
    ]
    over = pods[4].replace("Running", "Succeeded")
    update = read(
        tmp_path, selecting.replace("spec: {", "spec: {selector: {app: web}, "), *pods[:4], over
    )
    assert endpoints(update, "shop", "web") == [(f"10.0.0.{n}", 81) for n in range(1, 5)]
    [note] = update.notes
    assert note.endswith(
        "Service shop/web: spec.ports[0].targetPort: no TCP port is named 'grpc' in Pod "
        "web-1, web-2, web-3 and 1 more"
    )
    [error] = refusals(read(tmp_path, selecting.replace("grpc", "'8080'")))
    assert error.path == "spec.ports[0].targetPort", "a text of digits is no name"


def test_the_first_address_of_a_family_is_the_endpoint(tmp_path: Path) -> None:
    addresses = "podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}, {ip: 10.0.0.2}, {ip: 'fd00::2'}]"
    dual = SERVICE.replace(
        "clusterIP: 172.30.0.1", "clusterIPs: [172.30.0.1, 'fd01::1'], selector: {app: web}"
    )
    update = read(tmp_path, dual, SIDECARS.replace("podIP: 10.0.0.1", addresses))
    assert endpoints(update, "shop", "web") == [("10.0.0.1", 80), ("fd00::1", 80)]


@pytest.mark.parametrize(
    ("distribution", "annotation", "zones", "nodes", "notes"),
    [
        ("PreferClose", "", {"za"}, set(), 0),
        ("PreferSameZone", "", {"za"}, set(), 0),
        ("PreferSameNode", "", {"za"}, {"n1"}, 0),
        ("null", "", set(), set(), 0),
        ("PreferClose", "service.kubernetes.io/topology-mode: Auto", set(), set(), 1),
        ("PreferClose", "service.kubernetes.io/topology-mode: disabled", {"za"}, set(), 0),
        ("PreferClose", "service.kubernetes.io/topology-aware-hints: auto", set(), set(), 1),
    ],
)
def test_hints_of_a_traffic_distribution(
    tmp_path: Path, distribution: str, annotation: str, zones: set[str], nodes: set[str], notes: int
) -> None:
    node = (
        "apiVersion: v1\nkind: Node\n"
        "metadata: {name: n1, labels: {topology.kubernetes.io/zone: za}}\n"
        "status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}"
    )
    selecting = SERVICE.replace(
        "spec: {", f"spec: {{selector: {{app: web}}, trafficDistribution: {distribution}, "
    )
    selecting = selecting.replace(
        "namespace: shop", f"namespace: shop, annotations: {{{annotation}}}"
    )
    update = read(tmp_path, selecting, node, SIDECARS.replace("spec:\n", "spec:\n  nodeName: n1\n"))
    [part] = update.snapshot.slices["shop", "web"]
    assert (set(part.endpoints[0].zones), set(part.endpoints[0].nodes)) == (zones, nodes)
    assert len(update.notes) == notes
    pending = SIDECARS.replace("phase: Running", "conditions: [{type: Ready, status: 'False'}]")
    [part] = read(tmp_path, selecting, node, pending).snapshot.slices["shop", "web"]
    assert not part.endpoints[0].zones, "only who is ready"


def test_a_label_that_is_null_is_empty(tmp_path: Path) -> None:
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {app: %s}}\n"
        "status: {podIP: 10.0.0.%d}"
    )
    selecting = SERVICE.replace("namespace: shop", "annotations: null").replace(
        "spec: {", "spec: {selector: {app: null}, "
    )
    update = read(
        tmp_path, selecting, pod % ("a", "''", 1), pod % ("b", "null", 2), pod % ("c", "web", 3)
    )
    assert endpoints(update, "default", "web") == [("10.0.0.1", 80), ("10.0.0.2", 80)]
