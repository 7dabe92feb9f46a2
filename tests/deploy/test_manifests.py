"""Manifests as the real kubectl builds them: their schema, their rights, their configuration."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.follower import following
from cluster.objects import node, service
from cluster.server import LiveServer
from harness.deployment import DATAPATHS, DEPLOY, Objects, container, kustomize, with_component
from harness.waiting import eventually
from kbe_nat.kubeproxy.config import read_configuration
from kbe_nat.rules.rule import DatapathKind
from kbe_nat.sources.events import Event, EventQueue
from kbe_nat.sources.kubernetes.resources import watched_resources

KUSTOMIZATIONS = ("base", "overlays/replace-kube-proxy", "overlays/beside-kube-proxy")


@pytest.fixture(params=KUSTOMIZATIONS)
def objects(request: pytest.FixtureRequest, kubectl: Path) -> Objects:
    return kustomize(kubectl, DEPLOY / request.param)


def test_every_object_is_of_the_published_schema(objects: Objects) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    assert {kind for kind, _ in objects} == {
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
    }
    for value in objects.values():
        validator.validate(value, "1.36", strict=True)


def test_the_configuration_is_read_without_a_note(objects: Objects, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(objects["ConfigMap", "kbe-nat"]["data"]["config.yaml"])
    configuration, notes = read_configuration(path)
    assert notes == ()
    port = (configuration.healthz_bind_address or "0.0.0.0:10256").rpartition(":")[2]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert str(container(objects)[probe]["httpGet"]["port"]) == port
    command = ["kbe-nat", "proxy", "--config", str(path), "--write-config-to", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_its_privilege_is_net_admin_and_its_rules_stay(objects: Objects) -> None:
    own = container(objects)
    assert own["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert own["securityContext"]["readOnlyRootFilesystem"]
    assert own["lifecycle"]["preStop"]["exec"]["command"] == ["kbe-nat", "handover"]


@pytest.mark.parametrize(
    ("datapath", "capabilities"),
    [
        ("every-packet", ["NET_RAW"]),
        ("cached", ["BPF", "PERFMON"]),
        ("auto", ["NET_RAW", "BPF", "PERFMON"]),
    ],
)
@pytest.mark.parametrize("folder", KUSTOMIZATIONS)
def test_a_component_is_the_one_switch_of_its_datapath(
    kubectl: Path, tmp_path: Path, folder: str, datapath: str, capabilities: list[str]
) -> None:
    objects = with_component(kubectl, tmp_path, datapath, folder)
    own = container(objects)
    assert own["securityContext"]["capabilities"]["add"] == ["NET_ADMIN", *capabilities]
    has_lock = "/run/xtables.lock" in [mount["mountPath"] for mount in own["volumeMounts"]]
    assert has_lock == ("NET_RAW" in capabilities)
    test_every_object_is_of_the_published_schema(objects)
    # The daemon with these arguments has that datapath, whatever the file of the overlay says.
    path = tmp_path / "config.yaml"
    path.write_text(objects["ConfigMap", "kbe-nat"]["data"]["config.yaml"])
    assert "datapath: first-packet" in path.read_text()
    arguments = [
        word.replace("/etc/kbe-nat/config.yaml", str(path))
        for word in own["args"]
        if "NODE_NAME" not in word
    ]
    done = subprocess.run(
        ["kbe-nat", *arguments, "--write-config-to", "-"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout)["kbeNat"]["datapath"] == datapath


def test_every_datapath_but_that_of_the_file_has_a_component() -> None:
    names = {path.name for path in (DEPLOY / "components").iterdir()}
    assert names == {"auto", *DatapathKind} - {"first-packet"} == {*DATAPATHS}


def rights() -> set[tuple[str, str]]:
    """Verbs and resources that the ClusterRole has."""
    role = yaml.safe_load((DEPLOY / "base/cluster-role.yaml").read_text())
    return {
        (verb, resource)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


RIGHTS = sorted(rights())


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with LiveServer() as made:
        made.api.objects.put(node("node-1"))
        made.api.objects.put(service("a", "172.30.0.10"))
        yield made


def refused(server: LiveServer, tmp_path: Path, role: set[tuple[str, str]]) -> bool:
    """Whether a node with these rights alone is refused anything, or does not come into step."""
    api = server.api
    every = {
        (verb, resource)
        for verb in ("list", "watch", "create")
        for resource in (*api.objects.stored, "events")
    }
    api.forbidden = every - role
    resources = watched_resources("node-1", has_service_ranges=True)
    queue = EventQueue()
    kubeconfig = server.kubeconfig(tmp_path / "config")
    with following(kubeconfig, events=queue, resources=resources) as follower:
        follower.source.read()

        def asked() -> set[tuple[str, str]]:
            return {(request.verb, request.resource) for request in api.requests}

        if not role >= rights():
            eventually(lambda: bool(asked() & api.forbidden) or _post(queue))
            return True
        follower.until("a")
        eventually(follower.is_in_step)
        eventually(lambda: _post(queue) or bool(api.events))
        assert asked() <= role
        return False


def _post(queue: EventQueue) -> bool:
    queue.record(Event(("Service", "default", "a"), "AddressClaimed", "Claim", "note"))
    return False


@pytest.mark.parametrize("has_watch_list", [True, False])
def test_the_role_has_every_right_that_the_source_needs(
    server: LiveServer, tmp_path: Path, has_watch_list: bool
) -> None:
    server.api.has_watch_list = has_watch_list
    assert not refused(server, tmp_path, rights())


@pytest.mark.parametrize("right", RIGHTS, ids=" ".join)
def test_each_right_of_the_role_is_needed(
    server: LiveServer, tmp_path: Path, right: tuple[str, str]
) -> None:
    server.api.has_watch_list = False
    assert refused(server, tmp_path, rights() - {right})
