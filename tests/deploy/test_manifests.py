"""Manifests as the real kubectl builds them: their schema, their rights, their configuration."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.follower import following
from cluster.objects import node, service
from cluster.server import LiveServer
from harness.deployment import DEPLOY, Objects, container, kustomize
from harness.waiting import eventually
from kbe_nat.kubeproxy.config import read_configuration
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


def with_component(kubectl: Path, folder: Path, name: str) -> Objects:
    """The base with a component, as a site would have it."""
    shutil.copytree(DEPLOY, folder / "deploy")
    path = folder / "deploy/site/kustomization.yaml"
    path.parent.mkdir()
    path.write_text(f"resources: [../base]\ncomponents: [../components/{name}]\n")
    return kustomize(kubectl, path.parent)


def test_every_packet_gets_what_iptables_needs(kubectl: Path, tmp_path: Path) -> None:
    objects = with_component(kubectl, tmp_path, "every-packet")
    own = container(objects)
    assert own["securityContext"]["capabilities"]["add"] == ["NET_ADMIN", "NET_RAW"]
    assert "/run/xtables.lock" in [mount["mountPath"] for mount in own["volumeMounts"]]
    test_every_object_is_of_the_published_schema(objects)


def test_cached_gets_what_its_programs_need(kubectl: Path, tmp_path: Path) -> None:
    objects = with_component(kubectl, tmp_path, "cached")
    added = container(objects)["securityContext"]["capabilities"]["add"]
    assert added == ["NET_ADMIN", "BPF", "PERFMON"]
    test_every_object_is_of_the_published_schema(objects)


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
