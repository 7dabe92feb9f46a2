"""Files of Kubernetes objects: what is read, what is refused with which words, and what is filled
in.
"""

import errno
import os
import random
import re
import threading
import time
from pathlib import Path

import pytest
from msgspec import structs

from kbe_nat.errors import FileError, KbeNatError, ObjectError
from kbe_nat.model import Endpoint, Service, ServicePort, SlicePort, Strategy
from kbe_nat.sources.manifests import file_watch as watching
from kbe_nat.sources.manifests import manifests
from kbe_nat.sources.manifests.documents import documents
from kbe_nat.sources.manifests.manifests import Manifests, read_manifests
from kbe_nat.sources.source import SourceUpdate

SEED = Path(__file__).parent / "seed"

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 172.30.0.1, ports: [{port: 80}]}
"""
SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: web-a, namespace: shop, labels: {kubernetes.io/service-name: web}}
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
"""


def read(tmp_path: Path, *documents: str) -> SourceUpdate:
    path = tmp_path / "objects.yaml"
    path.write_text("\n---\n".join(documents))
    return read_manifests([path])


def refusals(update: SourceUpdate) -> list[ObjectError]:
    return [error for error in update.errors if isinstance(error, ObjectError)]


def endpoints(update: SourceUpdate, namespace: str, name: str) -> list[tuple[str, int]]:
    slices = update.snapshot.slices.get((namespace, name), ())
    return [
        (e.address, port.port) for part in slices for port in part.ports for e in part.endpoints
    ]


def test_a_service_and_its_slice(tmp_path: Path) -> None:
    update = read(tmp_path, SERVICE, SLICE)
    assert update.snapshot.services == (
        Service("shop", "web", ("172.30.0.1",), (ServicePort("", "tcp", 80),)),
    )
    [part] = update.snapshot.slices["shop", "web"]
    assert (part.ports, part.endpoints) == ((SlicePort("", "tcp", 8080),), (Endpoint("10.0.0.1"),))
    assert not update.errors and not update.notes


def test_the_objects_of_the_seed_in_a_cluster() -> None:
    update = read_manifests([SEED.parents[1] / "examples/seed/cluster.yaml"])
    assert [(s.namespace, s.name, s.cluster_ips) for s in update.snapshot.services] == [
        ("default", "simpleservice", ("172.30.228.255",))
    ]
    assert endpoints(update, "default", "simpleservice") == [
        ("172.17.0.3", 9876),
        ("172.17.0.4", 9876),
    ]
    assert not update.errors and not update.notes


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


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        ("port: 80", "port: 65536", "spec.ports[0].port", "expected int <= 65535"),
        ("port: 80", "port: 0", "spec.ports[0].port", "expected int >= 1"),
        ("port: 80", "port: -1", "spec.ports[0].port", "expected int >= 1"),
        ("port: 80", "port: true", "spec.ports[0].port", "expected int, got bool"),
        ("port: 80", "name: x", "spec.ports[0]", "object missing required field port"),
        (
            "port: 80",
            "port: 80, protocol: ICMP",
            "spec.ports[0].protocol",
            "invalid enum value 'ICMP'",
        ),
        (
            "name: web",
            "name: wéb",
            "metadata.name",
            "is no valid name: lower case letters, digits and '-' only",
        ),
        ("172.30.0.1", "172.30.0.256", "spec.clusterIP", "'172.30.0.256' is no IP address"),
        ("172.30.0.1", "127.0.0.1", "spec.clusterIP", "127.0.0.1 is loopback"),
        (
            "ports:",
            "loadBalancerSourceRanges: [x], ports:",
            "spec.loadBalancerSourceRanges[0]",
            "'x' is no address range",
        ),
    ],
)
def test_f105_a_wrong_object_is_refused_and_the_others_apply(
    tmp_path: Path, old: str, new: str, path: str, reason: str
) -> None:
    update = read(
        tmp_path, SERVICE.replace(old, new), SERVICE.replace("web", "other").replace("0.1", "0.2")
    )
    [error] = refusals(update)
    assert (error.path, error.reason) == (path, reason)
    assert str(error).startswith(f"{tmp_path}/objects.yaml, document 1: Service shop/")
    assert [service.name for service in update.snapshot.services] == ["other"]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "127.0.0.1 is loopback"),
        ("169.254.169.254", "169.254.169.254 is link-local"),
        ("fd00::1", "fd00::1 is no IPv4 address"),
        ("host.example", "'host.example' is no IP address"),
        ("''", "'' is no IP address"),
    ],
)
def test_f105_f106_a_wrong_endpoint_is_left_out_alone(
    tmp_path: Path, address: str, reason: str
) -> None:
    update = read(
        tmp_path,
        SERVICE,
        SLICE.replace("[10.0.0.1]}", f"[{address}]}}, {{addresses: [10.0.00.02]}}"),
    )
    assert endpoints(update, "shop", "web") == [("10.0.0.2", 8080)]
    [note] = update.notes
    assert note.endswith(f"EndpointSlice shop/web-a: endpoints[0].addresses[0]: left out: {reason}")


def test_f105_host_names_are_not_followed(tmp_path: Path) -> None:
    update = read(tmp_path, SERVICE, SLICE.replace("IPv4", "FQDN"))
    assert not update.snapshot.slices and "host names are not followed" in update.notes[0]


def test_lists_nulls_and_foreign_kinds(tmp_path: Path) -> None:
    update = read(
        tmp_path,
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 172.30.0.1, ports: null}}\n",
        "apiVersion: v1\nkind: ServiceList\nitems: [{metadata: {name: b}, spec: {clusterIP: None}}]",
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: c}",
        "",
        "just text",
    )
    assert [(s.name, s.cluster_ips) for s in update.snapshot.services] == [
        ("a", ("172.30.0.1",)),
        ("b", ()),
    ]
    assert update.notes[0].endswith("Service c: objects of serving.knative.dev/v1 are not read")
    assert [error.reason for error in refusals(update)] == ["expected an object, got a text"]


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
  - {name: app, ports: [{name: http, containerPort: 8000}, {name: https, containerPort: 4, protocol: UDP}]}
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
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: za}}\n"
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


def test_annotations_of_the_extension(tmp_path: Path) -> None:
    annotated = SERVICE.replace(
        "namespace: shop", "namespace: shop, annotations: {kbe-nat.io/strategy: wrr}"
    )
    weighted = SLICE.replace(
        "namespace: shop", "namespace: shop, annotations: {kbe-nat.io/weight: '5'}"
    )
    update = read(tmp_path, annotated, weighted)
    assert update.snapshot.services[0].strategy is Strategy.WEIGHTED_ROUND_ROBIN
    assert update.snapshot.slices["shop", "web"][0].endpoints[0].weight == 5
    update = read(tmp_path, annotated.replace("wrr", "best"), weighted.replace("'5'", "'-5'"))
    assert update.snapshot.services[0].strategy is None
    assert update.snapshot.slices["shop", "web"][0].endpoints[0].weight == 1
    assert len(update.notes) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "objects.yaml, line 2, column 1: not YAML: "),
        ("\x00", "objects.yaml: not YAML: "),
        ("a: !!float x", "objects.yaml, line 1, column 4: not YAML: "),
        ("[" * 100_000, "objects.yaml: not read: it is nested too deeply"),
        ("- " * 100_000, "objects.yaml: not read: it is nested too deeply"),
        ("!!python/object/apply:os.abort []", "objects.yaml, line 1, column 1: not YAML: "),
    ],
)
def test_what_is_no_yaml_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FileError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_an_object_that_contains_itself_is_refused(tmp_path: Path) -> None:
    [error] = refusals(
        read(tmp_path, "&a {apiVersion: v1, kind: Service, metadata: {name: a}, spec: *a}")
    )
    assert error.reason == "it contains itself, or is nested too deeply"


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_manifests([tmp_path / "nothing.yaml"])
    assert read_manifests([tmp_path]).snapshot.services == (), (
        "a directory may be empty for a while"
    )
    (tmp_path / "b.yaml").write_text(SLICE)
    (tmp_path / "a.yml").write_text(SERVICE)
    (tmp_path / "notes.txt").write_text("not read")
    (tmp_path / ".#a.yml").symlink_to("somebody@somewhere.1234")
    (tmp_path / ".c.yaml").write_text(SERVICE.replace("web", "half"))
    assert len(read_manifests([tmp_path]).snapshot.services) == 1


def test_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(SERVICE)
    source = Manifests([path])
    first = source.read()
    assert first is not None and first.snapshot.generation == 1
    assert source.read() is None
    path.write_text("]")
    os.utime(path, ns=(1, 1))
    broken = source.read()
    assert broken is not None and "not YAML" in str(broken.errors[0])
    assert broken.snapshot.services == first.snapshot.services, "the last good state stays"
    assert source.read() is None, "it is said once"
    path.write_text(SERVICE.replace("web", "shop"))
    second = source.read()
    assert second is not None and not second.errors
    assert [service.name for service in second.snapshot.services] == ["shop"]


def test_f130_a_file_that_cannot_be_read_takes_no_other_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    folder.mkdir()
    other = SERVICE.replace("web", "other").replace(".0.1", ".0.2")
    (folder / "a.yaml").write_text(SERVICE)
    (folder / "b.yaml").write_text("not: [closed")
    os.mkfifo(folder / "c.yaml")
    (folder / "d.yaml").symlink_to("/dev/zero")
    (folder / "e.yaml").symlink_to(".")
    source = Manifests([folder])

    def named(update: SourceUpdate | None) -> tuple[list[str], list[str]]:
        assert update is not None
        broken = [str(error).removeprefix(f"{folder}/")[:6] for error in update.errors]
        return [service.name for service in update.snapshot.services], broken

    assert (
        named(source.read())
        == named(read_manifests([folder]))
        == (["web"], ["b.yaml", "c.yaml", "d.yaml", "e.yaml"])
    )
    (folder / "b.yaml").write_text(other)
    assert named(source.read()) == (["web", "other"], ["c.yaml", "d.yaml", "e.yaml"])
    # What was good stays, and what is written beside it applies.
    (folder / "b.yaml").write_text("{")
    assert named(source.read()) == (["web", "other"], ["c.yaml", "d.yaml", "e.yaml", "b.yaml"])
    (folder / "a.yaml").write_text(SERVICE.replace("web", "new"))
    assert named(source.read()) == (["new", "other"], ["c.yaml", "d.yaml", "e.yaml", "b.yaml"])
    for name in "bcde":
        (folder / f"{name}.yaml").unlink()
    assert named(source.read()) == (["new"], [])


def test_f128_a_file_that_cannot_be_opened_for_a_while_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE)
    source = Manifests([tmp_path])

    def refused(path: str, mode: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refused)
        update = source.read()
        assert update is not None and "Too many open files" in str(update.errors[0])
        assert source.read() is None
    update = source.read()
    assert update is not None and not update.errors and update.snapshot.services


def test_a_named_file_must_be_there_when_it_is_read_first(tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    source = Manifests([path])
    with pytest.raises(FileError, match="No such file"):
        source.read()
    path.write_text(SERVICE)
    first = source.read()
    assert first is not None
    path.unlink()
    gone = source.read()
    assert gone is not None and "No such file" in str(gone.errors[0])
    assert gone.snapshot.services == first.snapshot.services
    path.write_text(SERVICE.replace("web", "shop"))
    back = source.read()
    assert back is not None and not back.errors
    assert [service.name for service in back.snapshot.services] == ["shop"]


def test_where_nothing_is_served_it_says_so(tmp_path: Path) -> None:
    source = Manifests([tmp_path])
    update = source.read()
    assert update is not None and update.warnings == (
        f"no Service in {tmp_path}: nothing is served",
    )
    assert source.read() is None
    (tmp_path / "a.yaml").write_text(SERVICE)
    update = source.read()
    assert update is not None and not update.warnings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SERVICE.replace("port: 80", "port: 0"), "expected int >= 1"),
        ("a: [", "not YAML"),
        ("", "no Service in"),
    ],
)
def test_a_strict_source_does_not_begin_with_what_is_wrong(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert Manifests([tmp_path]).read() is not None
    source = Manifests([tmp_path], is_strict=True)
    with pytest.raises(KbeNatError, match=message):
        source.read()
    (tmp_path / "a.yaml").write_text(SERVICE)
    assert source.read() is not None
    (tmp_path / "a.yaml").write_text(text)
    assert source.read() is not None, "later it goes on"


@pytest.mark.parametrize(
    "text",
    [
        "&a\nkind: List\napiVersion: v1\nitems: [*a]",
        "&a {kind: List, apiVersion: v1, items: [{kind: List, apiVersion: v1, items: [*a]}]}",
        "{kind: List, apiVersion: v1, items: [{kind: ServiceList, apiVersion: v1, items: []}]}",
        "&a {kind: ServiceList, apiVersion: v1, items: [*a]}",
        '{"kind": "List", "apiVersion": "v1", "items": [{"kind": "List", "apiVersion": "v1", "items": []}]}',
    ],
)
def test_f105_f130_a_list_in_a_list_is_refused(tmp_path: Path, text: str) -> None:
    [error] = refusals(read(tmp_path, text))
    assert (error.reason, error.path) == ("a List in a List is not read", "kind")
    assert str(error).startswith(f"{tmp_path}/objects.yaml, document 1, items[0]: ")


@pytest.mark.parametrize("levels", [6, 9])
def test_f130_lists_of_lists_by_aliases_cost_nothing(tmp_path: Path, levels: int) -> None:
    inner = "{kind: Service, apiVersion: v1, metadata: {name: web}, spec: {clusterIP: None}}"
    lines = [f"x0: &x0 {inner}"]
    for n in range(1, levels + 1):
        items = ", ".join([f"*x{n - 1}"] * 9)
        lines.append(f"x{n}: &x{n} {{kind: List, apiVersion: v1, items: [{items}]}}")
    started = time.process_time()
    with pytest.raises(FileError, match=r"objects\.yaml, line .*many times as large"):
        read(tmp_path, "\n".join([*lines, "kind: List", "apiVersion: v1", f"items: [*x{levels}]"]))
    assert time.process_time() - started < 5


def test_kinds_whose_names_end_with_list_are_kinds(tmp_path: Path) -> None:
    allowed = "{apiVersion: example.com/v1, kind: AllowList, metadata: {name: a}, items: [1]}"
    update = read(tmp_path, allowed, f"{{apiVersion: v1, kind: List, items: [{allowed}]}}")
    assert not update.errors
    assert all(
        note.endswith("AllowList a: objects of example.com/v1 are not read")
        for note in update.notes
    )
    assert len(update.notes) == 2


@pytest.mark.parametrize(
    ("version", "kind", "said"),
    [
        ("discovery.k8s.io/v1beta1", "EndpointSlice", "discovery.k8s.io/v1 is"),
        ("apps/v1beta1", "Deployment", "apps/v1 is"),
        ("apps/v1beta2", "ReplicaSet", "apps/v1 is"),
        ("extensions/v1beta1", "Deployment", "apps/v1 is"),
        ("v2", "Service", "v1 is"),
        (
            "networking.k8s.io/v1alpha1",
            "ServiceCIDR",
            "networking.k8s.io/v1 and networking.k8s.io/v1beta1 is",
        ),
    ],
)
def test_f105_other_versions_are_never_half_read(
    tmp_path: Path, version: str, kind: str, said: str
) -> None:
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, namespace: b}}\naddressType: IPv4"
    update = read(
        tmp_path,
        SERVICE,
        text,
        f"apiVersion: {version}\nkind: {kind}List\nitems: [{{metadata: {{name: a, namespace: b}}}}]",
    )
    assert len(update.errors) == 2
    for error in refusals(update):
        assert (error.subject, error.path) == (f"{kind} b/a", "apiVersion")
        assert error.reason == f"{version} is not read, {said}"
    assert [service.name for service in update.snapshot.services] == ["web"]


@pytest.mark.parametrize(
    ("version", "kind", "said"),
    [
        ("v1", "Endpoints", "Endpoints b/a: Endpoints are not read; EndpointSlices say the same"),
        ("apps/v1", "StatefulSet", "StatefulSet b/a: objects of this kind are not read"),
        ("v1", "Secret", "Secret b/a: objects of this kind are not read"),
        ("batch/v1", "Job", "Job b/a: objects of batch/v1 are not read"),
        ("example.com/v1", "Service", "Service b/a: objects of example.com/v1 are not read"),
    ],
)
def test_kinds_that_are_not_read_are_said(
    tmp_path: Path, version: str, kind: str, said: str
) -> None:
    update = read(
        tmp_path, f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, namespace: b}}"
    )
    assert not update.errors
    assert [note.rpartition("document 1: ")[2] for note in update.notes] == [said]


def test_a_kubeconfig_is_no_manifest(tmp_path: Path) -> None:
    [error] = refusals(read(tmp_path, "apiVersion: v1\nkind: Config\nclusters: []\nusers: []"))
    assert "this is a kubeconfig; kbe-nat reads files of Services and EndpointSlices" in str(error)


def test_a_label_that_is_null_is_empty(tmp_path: Path) -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {app: %s}}\nstatus: {podIP: 10.0.0.%d}"
    selecting = SERVICE.replace("namespace: shop", "annotations: null").replace(
        "spec: {", "spec: {selector: {app: null}, "
    )
    update = read(
        tmp_path, selecting, pod % ("a", "''", 1), pod % ("b", "null", 2), pod % ("c", "web", 3)
    )
    assert endpoints(update, "default", "web") == [("10.0.0.1", 80), ("10.0.0.2", 80)]


def test_what_is_refused_stays_as_it_was_and_the_others_apply(tmp_path: Path) -> None:
    other = SERVICE.replace("web", "other").replace("172.30.0.1", "172.30.0.2")
    path = tmp_path / "objects.yaml"
    path.write_text("\n---\n".join((SERVICE, SLICE, other)))
    source = Manifests([path])
    before = source.read()
    assert before is not None
    wrong = (
        SERVICE.replace("port: 80", "port: 99999"),
        SLICE.replace("addressType: IPv4", "addressType: IPv5"),
        other.replace("port: 80", "port: 81"),
        SERVICE.replace("web", "new").replace("172.30.0.1", "nowhere"),
    )
    path.write_text("\n---\n".join(wrong))
    after = source.read()
    assert after is not None
    assert len(after.errors) == 3
    ports = {service.name: service.ports[0].port for service in after.snapshot.services}
    assert ports == {"web": 80, "other": 81}
    assert endpoints(after, "shop", "web") == [("10.0.0.1", 8080)]
    path.write_text(other)
    gone = source.read()
    assert gone is not None
    assert [service.name for service in gone.snapshot.services] == ["other"], (
        "what is taken away is gone"
    )


def test_a_refused_object_without_a_namespace_is_in_the_default_one(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(SERVICE.replace("namespace: shop", "labels: {}"))
    source = Manifests([path])
    assert source.read() is not None
    path.write_text(path.read_text().replace("port: 80", "port: 99999"))
    after = source.read()
    assert after is not None and len(after.errors) == 1
    assert [service.key for service in after.snapshot.services] == [("default", "web")]


def test_the_annotation_of_source_ranges(tmp_path: Path) -> None:
    def of(text: str) -> SourceUpdate:
        annotation = f"namespace: shop, annotations: {{kbe-nat.io/source-ranges: {text}}}"
        return read(tmp_path, SERVICE.replace("namespace: shop", annotation))

    assert of("all").snapshot.services[0].source_ranges_apply_to_all
    assert not of("load-balancer").snapshot.services[0].source_ranges_apply_to_all
    [error] = refusals(of("everything"))
    assert error.path == "metadata.annotations[kbe-nat.io/source-ranges]"


def test_wrong_source_ranges_are_left_out_unless_none_would_remain(tmp_path: Path) -> None:
    def of(*ranges: str) -> SourceUpdate:
        listed = ", ".join(f'"{text}"' for text in ranges)
        return read(
            tmp_path, SERVICE.replace("spec: {", f"spec: {{loadBalancerSourceRanges: [{listed}], ")
        )

    some = of(" 10.0.0.0/8 ", "nowhere")
    assert some.snapshot.services[0].source_ranges == ("10.0.0.0/8",)
    assert "spec.loadBalancerSourceRanges[1]: left out" in some.notes[0]
    [error] = refusals(of("nowhere"))
    assert error.path == "spec.loadBalancerSourceRanges[0]"


@pytest.mark.parametrize(
    ("given", "kept", "notes"),
    [
        ("172.30.0.1, 'fd00::1'", ("172.30.0.1", "fd00::1"), ()),
        (
            "172.30.0.1, nowhere",
            ("172.30.0.1",),
            ("spec.clusterIPs[1]: left out: 'nowhere' is no IP address",),
        ),
        (
            "127.0.0.1, 'fd00::1'",
            ("fd00::1",),
            ("spec.clusterIPs[0]: left out: 127.0.0.1 is loopback",),
        ),
        (
            "172.30.0.1, 172.30.0.2",
            ("172.30.0.1",),
            ("spec.clusterIPs[1]: left out: 172.30.0.2 is the second address of its family",),
        ),
    ],
)
def test_a_wrong_cluster_ip_leaves_the_other_family(
    tmp_path: Path, given: str, kept: tuple[str, ...], notes: tuple[str, ...]
) -> None:
    update = read(tmp_path, SERVICE.replace("clusterIP: 172.30.0.1", f"clusterIPs: [{given}]"))
    [service] = update.snapshot.services
    assert service.cluster_ips == kept
    assert tuple(note.partition("shop/web: ")[2] for note in update.notes) == notes
    [error] = refusals(
        read(tmp_path, SERVICE.replace("clusterIP: 172.30.0.1", "clusterIPs: [x, z]"))
    )
    assert error.path == "spec.clusterIPs[0]"


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ("type: NodePort", True),
        ("type: LoadBalancer", True),
        ("externalIPs: [192.0.2.1]", True),
        ("type: ClusterIP", False),
        ("internalTrafficPolicy: Local", False),
    ],
)
def test_the_external_policy_goes_by_the_type(tmp_path: Path, spec: str, counts: bool) -> None:
    given = SERVICE.replace("spec: {", f"spec: {{externalTrafficPolicy: Local, {spec}, ")
    stale = f"{given}status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.9}}]}}}}"
    [service] = read(tmp_path, stale).snapshot.services
    assert service.is_external_local == counts
    assert service.load_balancer_ips == ("192.0.2.9",)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("169.254.1.1", ""),
        ("fe80::1", ""),
        ("224.0.0.7", ""),
        ("127.0.0.1", "127.0.0.1 is loopback"),
        ("'::1'", "::1 is loopback"),
        ("0.0.0.0", "0.0.0.0 is unspecified"),
    ],
)
def test_external_addresses_are_any_but_loopback(tmp_path: Path, address: str, reason: str) -> None:
    given = SERVICE.replace("spec: {", f"spec: {{externalIPs: [{address}, {address}], ")
    update = read(tmp_path, f"{given}status: {{loadBalancer: {{ingress: [{{ip: {address}}}]}}}}")
    [service] = update.snapshot.services
    text = address.strip("'")
    assert service.external_ips == (() if reason else (text, text)), "as often as they are there"
    assert service.load_balancer_ips == (() if reason else (text,))
    assert [note.rpartition(": left out: ")[2] for note in update.notes] == [reason] * (
        3 if reason else 0
    )


def test_addresses_of_a_node(tmp_path: Path) -> None:
    def of(*kinds: str) -> tuple[str, ...]:
        addresses = (
            f"{'2001:db8::' if kind[-1] == '6' else '192.0.2.'}{n}" for n, kind in enumerate(kinds)
        )
        pairs = zip(kinds, addresses, strict=True)
        listed = ", ".join(
            f"{{type: {kind.rstrip('6')}, address: '{text}'}}" for kind, text in pairs
        )
        node = f"apiVersion: v1\nkind: Node\nmetadata: {{name: here}}\nstatus: {{addresses: [{listed}]}}"
        return read(tmp_path, SERVICE, node).snapshot.nodes["here"].addresses

    assert of("ExternalIP", "InternalIP", "InternalIP") == ("192.0.2.1", "192.0.2.2")
    assert of("ExternalIP") == ("192.0.2.0",)
    # As kube-proxy, which takes the first of each family, internal ones before external ones.
    assert of("ExternalIP6", "InternalIP") == ("192.0.2.1", "2001:db8::")
    assert of("ExternalIP6", "ExternalIP", "InternalIP6") == ("2001:db8::2", "192.0.2.1")


def test_reading_what_has_changed_is_as_reading_everything(tmp_path: Path) -> None:
    """Random edits of random files, one after the other."""
    chance = random.Random(7)

    def slice_of(name: str, service: str) -> str:
        ready = chance.choice(("true", "false"))
        addresses = [
            f"10.0.{chance.randrange(9)}.{chance.randrange(1, 9)}"
            for _ in range(chance.randrange(4))
        ]
        endpoints = ", ".join(
            f"{{addresses: [{own}], conditions: {{ready: {ready}}}}}" for own in addresses
        )
        kind = chance.choice(("IPv4", "IPv4", "IPv4", "FQDN"))
        return SLICE_OF.format(name=name, service=service, kind=kind, endpoints=endpoints)

    def service_of(number: int) -> str:
        port = chance.choice((80, 80, 81))
        named = SERVICE.replace("web", f"web-{number}").replace(".0.1", f".0.{number + 1}")
        return named.replace("80", str(port))

    amended = 0
    source = Manifests([tmp_path])
    for turn in range(150):
        number = chance.randrange(6)
        file = tmp_path / f"{number}.yaml"
        if chance.random() < 0.1:
            file.unlink(missing_ok=True)
        elif chance.random() < 0.3 or not file.exists():
            texts = [service_of(number), slice_of(f"web-{number}-a", f"web-{number}")]
            texts += [slice_of(f"web-{number}-b", f"web-{chance.randrange(6)}")] * chance.randrange(
                2
            )
            file.write_text("---\n".join(chance.sample(texts, len(texts))))
        else:
            parts = file.read_text().split("---\n")
            place = next(n for n, text in enumerate(parts) if "Slice" in text)
            name, service = re.findall(r"(?:{name|service-name): (web-[-\w]+)", parts[place])
            parts[place] = slice_of(name, service)
            file.write_text("---\n".join(parts))
            amended += 1
        update = source.read()
        everything = read_manifests([tmp_path]).snapshot
        if update is not None:
            assert not update.errors
            last = update.snapshot
            assert last.generation > 0
        elif turn == 0:
            continue
        assert structs.replace(last, generation=0) == everything, f"turn {turn}"
    assert amended > 50


def test_only_what_has_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.yaml").write_text(SERVICE.replace("web", f"web-{number}"))
    (tmp_path / "slice.yaml").write_text(SLICE)
    source = Manifests([tmp_path])
    before = source.read()
    assert before is not None
    read_again: list[str] = []

    def documents_again(path: str) -> list[object]:
        read_again.append(path)
        return documents(path)

    monkeypatch.setattr(manifests, "documents", documents_again)
    (tmp_path / "slice.yaml").write_text(SLICE.replace("10.0.0.1", "10.0.0.9"))
    after = source.read()
    assert after is not None
    assert endpoints(after, "shop", "web") == [("10.0.0.9", 8080)]
    assert read_again == [str(tmp_path / "slice.yaml")]
    assert after.snapshot.services is before.snapshot.services, "nor are the others looked at"


def test_it_hears_of_every_kind_of_change(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    (folder / "..first").mkdir(parents=True)
    named = tmp_path / "named.yaml"
    for path, number in ((named, 1), (folder / "a.yaml", 2), (folder / "..first/c.yaml", 3)):
        path.write_text(SERVICE.replace("web", f"web-{number}").replace(".0.1", f".0.{number}"))
    # As Kubernetes mounts a ConfigMap.
    (folder / "..data").symlink_to("..first")
    (folder / "c.yaml").symlink_to("..data/c.yaml")
    source = Manifests([named, folder])

    def ports() -> dict[str, int]:
        update = source.read()
        assert update is not None
        return {service.name: service.ports[0].port for service in update.snapshot.services}

    assert ports() == {"web-1": 80, "web-2": 80, "web-3": 80}

    def written(path: Path, port: int) -> None:
        path.write_text(path.read_text().replace("port: 80", f"port: {port}"))

    def replaced() -> None:
        (tmp_path / "new").write_text(
            (folder / "a.yaml").read_text().replace("port: 82", "port: 83")
        )
        (tmp_path / "new").replace(folder / "a.yaml")

    def swapped() -> None:
        (folder / "..second").mkdir()
        text = (folder / "c.yaml").read_text()
        (folder / "..second/c.yaml").write_text(text.replace("port: 80", "port: 84"))
        (folder / "..next").symlink_to("..second")
        (folder / "..next").replace(folder / "..data")

    def linked() -> None:
        (folder / "d.yaml").symlink_to(named)
        (folder / "a.yaml").unlink()

    for change, expected in (
        (lambda: written(named, 81), {"web-1": 81, "web-2": 80, "web-3": 80}),
        (lambda: written(folder / "a.yaml", 82), {"web-1": 81, "web-2": 82, "web-3": 80}),
        (replaced, {"web-1": 81, "web-2": 83, "web-3": 80}),
        (swapped, {"web-1": 81, "web-2": 83, "web-3": 84}),
        (linked, {"web-1": 81, "web-3": 84}),
    ):
        assert source.read() is None
        hearer = threading.Thread(target=change)
        hearer.start()
        assert source.wait(5), "it wakes up"
        hearer.join()
        assert ports() == expected
    assert not source.wait(0.01)


def test_a_named_file_of_a_mounted_config_map_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    for name, number in (("..first", 80), ("..second", 81)):
        (folder / name).mkdir(parents=True)
        (folder / name / "web.yaml").write_text(SERVICE.replace("port: 80", f"port: {number}"))
    (folder / "..data").symlink_to("..first")
    (folder / "web.yaml").symlink_to("..data/web.yaml")
    source = Manifests([folder / "web.yaml"])
    assert source.read() is not None
    assert source.read() is None
    (tmp_path / "next").symlink_to("..second")
    (tmp_path / "next").replace(folder / "..data")
    assert source.wait(5), "it wakes up"
    update = source.read()
    assert update is not None
    assert update.snapshot.services[0].ports[0].port == 81


def test_without_inotify_files_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise OSError("too many users")

    monkeypatch.setattr(watching, "INotify", refused)
    path = tmp_path / "objects.yaml"
    path.write_text(SERVICE)
    source = Manifests([path])
    assert source.read() is not None
    assert source.read() is None
    assert not source.wait(0.01)
    path.write_text(SERVICE.replace("web", "shop"))
    assert source.read() is not None


SLICE_OF = """apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {kind}
ports: [{{port: 8080}}]
endpoints: [{endpoints}]
"""


def test_the_api_server_s_refusal_takes_nothing_away(tmp_path: Path) -> None:
    """curl saves it, and ends with 0."""
    written = tmp_path / "all.json"
    written.write_text(
        '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"clusterIP": '
        '"10.96.0.20", "ports": [{"port": 80}]}}'
    )
    source = Manifests([tmp_path])
    first = source.read()
    assert first and [service.name for service in first.snapshot.services] == ["web"]
    written.write_text(
        '{"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "Unauthorized"}'
    )
    second = source.read()
    assert second and second.snapshot.services == first.snapshot.services
    assert [str(error) for error in second.errors] == [
        f"{written}: the API server's answer is a failure: 'Unauthorized'"
    ]


def test_an_empty_name_is_not_the_current_directory() -> None:
    with pytest.raises(FileError, match="the name of a file or directory is empty"):
        Manifests([""]).read()
    with pytest.raises(FileError, match="the name of a file or directory is empty"):
        read_manifests([""])
