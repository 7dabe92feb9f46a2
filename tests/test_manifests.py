"""Files of Kubernetes objects: which are read, which are refused, and with which words."""

import time
from pathlib import Path

import pytest

import kbe_nat
from harness.manifests import SEED, SERVICE, SLICE, endpoints, read, refusals
from kbe_nat.engine_tables import native_tables
from kbe_nat.errors import FileError
from kbe_nat.model import Choice, Endpoint, Service, ServicePort, SlicePort, Strategy
from kbe_nat.policy.planner import plan
from kbe_nat.sources.manifests.manifests import read_manifests
from kbe_nat.sources.source import SourceUpdate


def test_a_service_and_its_slice(tmp_path: Path) -> None:
    update = read(tmp_path, SERVICE, SLICE)
    assert update.snapshot.services == (
        Service("shop", "web", ("172.30.0.1",), (ServicePort("", "tcp", 80),)),
    )
    [part] = update.snapshot.slices["shop", "web"]
    assert (part.ports, part.endpoints) == ((SlicePort("", "tcp", 8080),), (Endpoint("10.0.0.1"),))
    assert not update.errors and not update.notes


def test_the_objects_of_the_seed_in_a_cluster() -> None:
    update = read_manifests([SEED.parents[1] / "examples/simpleservice/cluster.yaml"])
    assert [(s.namespace, s.name, s.cluster_ips) for s in update.snapshot.services] == [
        ("default", "simpleservice", ("172.30.228.255",))
    ]
    assert endpoints(update, "default", "simpleservice") == [
        ("172.17.0.3", 9876),
        ("172.17.0.4", 9876),
    ]
    assert not update.errors and not update.notes


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
        "- {apiVersion: v1, kind: Service, metadata: {name: a}, "
        "spec: {clusterIP: 172.30.0.1, ports: null}}\n",
        "apiVersion: v1\nkind: ServiceList\n"
        "items: [{metadata: {name: b}, spec: {clusterIP: None}}]",
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: c}",
        "",
        "just text",
        "5",
        "true",
    )
    assert [(s.name, s.cluster_ips) for s in update.snapshot.services] == [
        ("a", ("172.30.0.1",)),
        ("b", ()),
    ]
    assert update.notes[0].endswith("Service c: objects of serving.knative.dev/v1 are not read")
    assert [
        error.reason.removeprefix("expected an object, got ") for error in refusals(update)
    ] == [
        "a text",
        "a number",
        "a truth value",
    ]


def test_annotations_of_the_extension(tmp_path: Path) -> None:
    annotated = SERVICE.replace(
        "namespace: shop",
        "namespace: shop, annotations: {kbe-nat.io/strategy: wrr,"
        " kbe-nat.io/standby-slots: '64', kbe-nat.io/choice: kernel}",
    )
    weighted = SLICE.replace(
        "namespace: shop", "namespace: shop, annotations: {kbe-nat.io/weight: '5'}"
    )
    update = read(tmp_path, annotated, weighted)
    assert update.snapshot.services[0].strategy is Strategy.WEIGHTED_ROUND_ROBIN
    assert update.snapshot.services[0].standby_slots == 64
    assert update.snapshot.services[0].choice is Choice.KERNEL
    assert update.snapshot.slices["shop", "web"][0].endpoints[0].weight == 5
    update = read(tmp_path, annotated.replace("wrr", "best"), weighted.replace("'5'", "'-5'"))
    assert update.snapshot.services[0].strategy is None
    assert update.snapshot.slices["shop", "web"][0].endpoints[0].weight == 1
    assert len(update.notes) == 2
    update = read(tmp_path, annotated.replace("kernel", "nobody"))
    assert update.snapshot.services[0].choice is None
    assert "annotations[kbe-nat.io/choice]: 'nobody' is none of engine, kernel" in update.notes[0]
    for text in ("0", "4097", "-1", "many", ""):
        update = read(tmp_path, annotated.replace("64", text))
        assert update.snapshot.services[0].standby_slots is None
        [note] = update.notes
        assert f"annotations[kbe-nat.io/standby-slots]: {text!r} is not in 1..4096" in note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "objects.yaml, line 2, column 1: not YAML: "),
        ("\x00", "objects.yaml: not YAML: "),
        ("a:\n\tb: 1\n", "objects.yaml, line 2, column 1: not YAML: no value begins with this"),
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


@pytest.mark.parametrize(
    "text",
    [
        "&a\nkind: List\napiVersion: v1\nitems: [*a]",
        "&a {kind: List, apiVersion: v1, items: [{kind: List, apiVersion: v1, items: [*a]}]}",
        "{kind: List, apiVersion: v1, items: [{kind: ServiceList, apiVersion: v1, items: []}]}",
        "&a {kind: ServiceList, apiVersion: v1, items: [*a]}",
        (
            '{"kind": "List", "apiVersion": "v1", "items": ['
            '{"kind": "List", "apiVersion": "v1", "items": []}]}'
        ),
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
    text = (
        f"apiVersion: {version}\nkind: {kind}\n"
        "metadata: {name: a, namespace: b}\naddressType: IPv4"
    )
    update = read(
        tmp_path,
        SERVICE,
        text,
        f"apiVersion: {version}\nkind: {kind}List\n"
        "items: [{metadata: {name: a, namespace: b}}]",
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
    assert "this is a kubeconfig, not a file of Services and EndpointSlices" in str(error)


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


@pytest.mark.parametrize("name", ["", "name: dns, "])
def test_of_two_ports_with_one_name_the_first_is_served(tmp_path: Path, name: str) -> None:
    ports = f"[{{{name}port: 53, protocol: UDP}}, {{{name}port: 53, protocol: TCP}}]"
    text = SERVICE.replace("spec: {", f"spec: {{clusterIP: 172.30.0.10, ports: {ports}}}\n#")
    update = read(tmp_path, text)
    [service] = update.snapshot.services
    assert [port.protocol for port in service.ports] == ["udp"]
    [note] = update.notes
    assert "spec.ports[1]: left out: a port" in note and note.endswith("came before")
    # The engine tells service ports by their names, and takes these.
    made = plan(update.snapshot)
    kbe_nat.Engine(seed=1).replace_services(*native_tables(made))


def test_addresses_of_a_node(tmp_path: Path) -> None:
    def of(*kinds: str) -> tuple[str, ...]:
        addresses = (
            f"{'2001:db8::' if kind[-1] == '6' else '192.0.2.'}{n}" for n, kind in enumerate(kinds)
        )
        pairs = zip(kinds, addresses, strict=True)
        listed = ", ".join(
            f"{{type: {kind.rstrip('6')}, address: '{text}'}}" for kind, text in pairs
        )
        node = (
            "apiVersion: v1\nkind: Node\nmetadata: {name: here}\n"
            f"status: {{addresses: [{listed}]}}"
        )
        return read(tmp_path, SERVICE, node).snapshot.nodes["here"].addresses

    assert of("ExternalIP", "InternalIP", "InternalIP") == ("192.0.2.1", "192.0.2.2")
    assert of("ExternalIP") == ("192.0.2.0",)
    # As kube-proxy, which takes the first of each family, internal ones before external ones.
    assert of("ExternalIP6", "InternalIP") == ("192.0.2.1", "2001:db8::")
    assert of("ExternalIP6", "ExternalIP", "InternalIP6") == ("2001:db8::2", "192.0.2.1")
