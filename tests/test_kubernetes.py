"""The API server as a source, over TLS on loopback."""

import base64
import json
import re
import stat
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cluster import faults
from cluster.answers import Fault
from cluster.follower import RESOURCES, Follower, following
from cluster.objects import endpoint_slice, node, service
from cluster.server import Certificates, LiveServer
from harness.waiting import eventually
from kbe_nat.errors import FileError
from kbe_nat.sources.events import Event, EventQueue
from kbe_nat.sources.kubernetes.access import find_access, read_kubeconfig, read_service_account
from kbe_nat.sources.kubernetes.event_posts import EventPosts
from kbe_nat.sources.kubernetes.http_connection import HttpConnection
from kbe_nat.sources.kubernetes.source import Kubernetes
from kbe_nat.sources.manifests.manifests import Manifests
from kbe_nat.sources.source import Sources
from kbe_nat.sources.store import Store
from kbe_nat.sources.watch_state import WatchPhase


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with LiveServer() as live:
        live.api.objects.put(node("node-1"), service("a"), endpoint_slice("a", ["10.1.0.1"]))
        yield live


def test_it_serves_when_all_lists_are_complete(server: LiveServer, tmp_path: Path) -> None:
    server.api.faults.append(Fault(faults.slow(0.5), "endpointslices"))
    with following(server.kubeconfig(tmp_path / "config")) as follower:
        assert follower.source.read() is None
        eventually(follower.read)
        [update] = follower.updates
        assert update.touched is None
        assert [each.key for each in update.snapshot.services] == [("default", "a")]
        [part] = update.snapshot.slices["default", "a"]
        assert [each.address for each in part.endpoints] == ["10.1.0.1"]
        assert update.snapshot.nodes["node-1"].zone == "z1"


def test_a_change_touches_its_service_alone(server: LiveServer, tmp_path: Path) -> None:
    server.api.objects.put(service("b", "172.30.0.11"))
    with following(server.kubeconfig(tmp_path / "config")) as follower:
        follower.until("a", "b")
        server.api.objects.put(endpoint_slice("b", ["10.1.0.2", "10.1.0.3"]))
        eventually(lambda: ("default", "b") in follower.read().slices)
        assert follower.updates[-1].touched == {("default", "b")}
        server.api.objects.delete("Service", "a")
        follower.until("b")
        assert follower.updates[-1].touched == {("default", "a")}


def test_wait_ends_when_something_has_changed(server: LiveServer, tmp_path: Path) -> None:
    with following(server.kubeconfig(tmp_path / "config")) as follower:
        eventually(follower.is_in_step)
        while follower.source.wait(0.2):
            follower.read()
        server.api.objects.put(service("b", "172.30.0.11"))
        started = time.monotonic()
        assert follower.source.wait(30)
        assert time.monotonic() - started < 20
        follower.until("a", "b")


def test_events_wait_for_the_server_and_are_counted(server: LiveServer, tmp_path: Path) -> None:
    kubeconfig = server.kubeconfig(tmp_path / "config")
    server.kill()
    queue = EventQueue()
    queue.record(Event(("Node", "", "node-1"), "Starting", "StartKubeProxy", is_warning=False))
    connect = partial(HttpConnection, find_access(kubeconfig, ""), queue.metrics)
    source = Kubernetes(connect, RESOURCES, Store(), events=queue, random=Random(1))
    try:
        source.read()
        eventually(lambda: any(state.failures for state in source.watches()))
        server.start()
        eventually(lambda: server.api.events)
        queue.record(Event(("Service", "default", "a"), "ObjectRefused", "Read", "spec: no"))
        eventually(lambda: len(server.api.events) > 1)
        durations, requests, outcomes = queue.metrics.values()
        # Outcomes are counted once the server's answer has come.
        eventually(lambda: [count for *_, count in outcomes.samples()] == [2])
    finally:
        source.close()
    assert [each["reason"] for each in server.api.events] == ["Starting", "ObjectRefused"]
    posts = [
        (labels["code"], count)
        for _, labels, count in requests.samples()
        if labels["method"] == "POST"
    ]
    assert posts == [("201", 2)]
    assert [(labels, count) for _, labels, count in outcomes.samples()] == [
        ({"outcome": "posted"}, 2)
    ]
    assert any(labels.get("verb") == "POST" for _, labels, _ in durations.samples())


def test_a_killed_server_is_followed_again(server: LiveServer, tmp_path: Path) -> None:
    with following(server.kubeconfig(tmp_path / "config")) as follower:
        eventually(follower.is_in_step)
        server.kill()
        eventually(lambda: not follower.is_in_step())
        assert follower.names() == ["a"]
        server.api.objects.put(service("b", "172.30.0.11"))
        server.starting_seconds = 1.0
        server.start()
        follower.until("a", "b")
        eventually(follower.is_in_step)


def test_a_mistake_about_events_leaves_the_watches(
    server: LiveServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(posts: EventPosts) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(EventPosts, "run", fail)
    with following(server.kubeconfig(tmp_path / "config"), events=EventQueue()) as follower:
        follower.until("a")
        eventually(lambda: "Events are not posted any more: ZeroDivisionError" in caplog.text)
        server.api.objects.put(service("b", "172.30.0.11"))
        follower.until("a", "b")


def test_f101_a_start_without_the_server_serves_the_last_objects(
    server: LiveServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kubeconfig, state = server.kubeconfig(tmp_path / "config"), tmp_path / "state"
    with following(kubeconfig, state) as follower:
        follower.until("a")
        whole = follower.read()
    file = tmp_path / "state-objects"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    server.kill()
    with following(kubeconfig, state) as follower:
        follower.until("a")
        again = follower.read()
        assert (again.services, again.slices, again.nodes) == (
            whole.services,
            whole.slices,
            whole.nodes,
        )
        [age] = re.findall(r"the objects of the last run are served, from (\d+) s ago", caplog.text)
        assert int(age) < 60
        assert all(state.phase is WatchPhase.CONNECTING for state in follower.source.watches())
        server.api.objects.put(service("b", "172.30.0.11"))
        server.start()
        follower.until("a", "b")
    server.kill()
    content = file.read_bytes()
    for damaged in (content[:-1], content[:20], b"", content[:30] + b"x" + content[31:]):
        file.write_bytes(damaged)
        with following(kubeconfig, state) as follower:
            source = follower.source
            assert source.read() is None
            eventually(lambda: all(each.failures for each in source.watches()))  # noqa: B023
            assert source.read() is None


def test_f101_the_objects_of_another_cluster_are_not_served(
    server: LiveServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    with following(server.kubeconfig(tmp_path / "config"), state) as follower:
        follower.until("a")
    with LiveServer() as other:
        kubeconfig = other.kubeconfig(tmp_path / "other")
        other.kill()
        with following(kubeconfig, state) as follower:
            assert follower.source.read() is None
            source = follower.source
            eventually(lambda: all(each.failures for each in source.watches()))
            assert source.read() is None
    assert "those of another API server or selection" in caplog.text


def test_f101_an_empty_answer_does_not_wipe_the_last_objects(
    server: LiveServer, tmp_path: Path
) -> None:
    kubeconfig, state = server.kubeconfig(tmp_path / "config"), tmp_path / "state"
    with following(kubeconfig, state) as follower:
        follower.until("a")
    server.api.faults.append(Fault(faults.empty_list(), "services"))
    with following(kubeconfig, state) as follower:
        eventually(follower.is_in_step)
        assert follower.names() == ["a"]
        assert all(update.snapshot.services for update in follower.updates)


def test_a_token_file_is_read_again_when_it_changes(server: LiveServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sound\n")
    kubeconfig = server.kubeconfig(tmp_path / "config", {"tokenFile": "token"})
    with following(kubeconfig) as follower:
        follower.until("a")
        server.api.tokens = {"rotated"}
        token.write_text("rotated")
        server.kill()
        server.api.objects.put(service("b", "172.30.0.11"))
        server.start()
        follower.until("a", "b")


PLUGIN = """#!/usr/bin/env python3
import json, os, sys
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert info["kind"] == "ExecCredential" and info["spec"]["interactive"] is False
token = open(os.environ["TOKEN_FILE"]).read().strip()
print(json.dumps({"kind": "ExecCredential", "apiVersion": info["apiVersion"],
    "status": {"token": token, "expirationTimestamp": "2999-01-01T00:00:00Z"}}))
"""


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_plugin_gives_the_token_and_runs_again_after_a_401(
    server: LiveServer, tmp_path: Path, version: str
) -> None:
    token, plugin = tmp_path / "token", tmp_path / "plugin"
    token.write_text("sound")
    plugin.write_text(PLUGIN)
    plugin.chmod(0o755)
    user = {
        "exec": {
            "apiVersion": f"client.authentication.k8s.io/{version}",
            "command": "./plugin",
            "env": [{"name": "TOKEN_FILE", "value": str(token)}],
            "interactiveMode": "Never",
        }
    }
    with following(server.kubeconfig(tmp_path / "config", user)) as follower:
        follower.until("a")
        server.api.tokens = {"rotated"}
        token.write_text("rotated")
        server.kill()
        server.api.objects.put(service("b", "172.30.0.11"))
        server.start()
        follower.until("a", "b")


@pytest.mark.parametrize("is_inline", [True, False], ids=["data", "file"])
def test_a_client_certificate_says_who_asks(
    server: LiveServer, tmp_path: Path, is_inline: bool
) -> None:
    issued = server.certificates.authority.issue_cert(
        "proxy@cluster", common_name="system:kube-proxy"
    )
    parts = {
        "client-certificate": b"".join(pem.bytes() for pem in issued.cert_chain_pems),
        "client-key": issued.private_key_pem.bytes(),
    }
    user = {}
    for name, content in parts.items():
        if is_inline:
            user[f"{name}-data"] = base64.b64encode(content).decode()
        else:
            (tmp_path / name).write_bytes(content)
            user[name] = name
    with following(server.kubeconfig(tmp_path / "config", user)) as follower:
        follower.until("a")


def test_an_expired_certificate_of_the_server_is_named(
    server: LiveServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with following(server.kubeconfig(tmp_path / "config")) as follower:
        follower.until("a")
        server.kill()
        server.context = server.certificates.server_context(is_expired=True)
        server.start()
        eventually(
            lambda: (
                not follower.is_in_step()
                and all(
                    "certificate has expired" in each.reason for each in follower.source.watches()
                )
            )
        )
        assert follower.names() == ["a"]
        server.kill()
        server.context = server.certificates.server_context()
        server.api.objects.put(service("b", "172.30.0.11"))
        server.start()
        follower.until("a", "b")


def test_the_name_in_the_certificate_may_be_another(tmp_path: Path) -> None:
    certificates = Certificates()
    with LiveServer(certificates=certificates) as server:
        server.api.objects.put(service("a"))
        server.context = certificates.server_context("kubernetes.test")
        server.kill()
        server.start()
        with following(server.kubeconfig(tmp_path / "wrong")) as follower:
            assert follower.source.read() is None
            eventually(lambda: all(each.reason for each in follower.source.watches()))
            reasons = {each.reason for each in follower.source.watches()}
            assert "certificate" in " ".join(reasons)
        cluster: dict[str, Any] = {"tls-server-name": "kubernetes.test"}
        right = server.kubeconfig(tmp_path / "right", **cluster)
        with following(right) as follower:
            follower.until("a")


def test_another_authority_is_not_trusted(server: LiveServer, tmp_path: Path) -> None:
    kubeconfig = server.kubeconfig(tmp_path / "config")
    (tmp_path / "config.ca").write_bytes(Certificates().pem)
    with following(kubeconfig) as follower:
        assert follower.source.read() is None
        eventually(lambda: all(each.reason for each in follower.source.watches()))
        # The file is read again when it changes.
        (tmp_path / "config.ca").write_bytes(server.certificates.pem)
        follower.until("a")


def test_a_list_may_be_compressed(server: LiveServer, tmp_path: Path) -> None:
    server.api.has_watch_list = False
    server.api.objects.put(*(service(f"s{number:04}") for number in range(700)))
    with following(server.kubeconfig(tmp_path / "config")) as follower:
        eventually(lambda: len(follower.names()) == 701)
        assert server.api.count("services", "list") == 2


def test_files_and_server_share_a_store(server: LiveServer, tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    objects.mkdir()
    extra = service("extra", "172.30.0.10")
    del extra["metadata"]["creationTimestamp"]
    (objects / "extra.json").write_text(json.dumps({"apiVersion": "v1", **extra}))
    access = find_access(server.kubeconfig(tmp_path / "config"), "")
    store = Store()
    source = Sources(
        [
            Manifests([objects], store),
            Kubernetes(lambda: HttpConnection(access), RESOURCES, store, random=Random(1)),
        ]
    )
    try:
        follower = Follower(source)
        follower.until("a", "extra")
        # Files claim an address first.
        assert [each.name for each in follower.read().services] == ["extra", "a"]
        server.api.objects.put(service("b", "172.30.0.11"))
        eventually(lambda: source.wait(1) and follower.names() == ["a", "b", "extra"])
        (objects / "extra.json").unlink()
        eventually(lambda: source.wait(1) and follower.names() == ["a", "b"])
    finally:
        source.close()


def test_the_least_time_between_updates_may_change(server: LiveServer, tmp_path: Path) -> None:
    now, least = [100.0], [3600.0]
    with following(
        server.kubeconfig(tmp_path / "config"),
        clock=lambda: now[0],
        min_sync_seconds=lambda: least[0],
    ) as follower:
        eventually(follower.read)
        server.api.objects.put(service("b", "172.30.0.11"))
        # The watch has it, and the node does not.
        eventually(lambda: follower.is_in_step() and follower.source.watches()[1].objects == 2)
        assert follower.names() == ["a"]
        now[0] += 3000
        assert follower.names() == ["a"]
        least[0] = 2000.0
        follower.until("a", "b")


def test_an_update_waits_longer_than_the_last_one_took(server: LiveServer, tmp_path: Path) -> None:
    now = [100.0]
    with following(server.kubeconfig(tmp_path / "config"), clock=lambda: now[0]) as follower:
        eventually(follower.read)
        eventually(lambda: follower.source.wait(0.1) is False)
        server.api.objects.put(service("b", "172.30.0.11"))
        eventually(lambda: follower.source.read() is not None)
        now[0] += 0.02
        server.api.objects.put(service("c", "172.30.0.12"))
        assert follower.source.read() is None
        now[0] += 0.05
        assert follower.source.read() is None
        now[0] += 0.02
        eventually(lambda: follower.source.read() is not None)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"current-context": ""}, "current-context: it is not set"),
        ({"current-context": "x"}, "contexts: there is none named 'x'"),
        ({"clusters": None}, "clusters: there is none named 'c'"),
        ({"users": []}, "users: there is none named 'u'"),
        ({"clusters": [{"name": "c", "cluster": {}}]}, "clusters: server: it is not set"),
        (
            {"clusters": [{"name": "c", "cluster": {"server": "https://"}}]},
            "'https://' is no URL of a server",
        ),
        (
            {"clusters": [{"name": "c", "cluster": {"server": 5}}]},
            "clusters[0].cluster.server: expected str, got int",
        ),
        (
            {"users": [{"name": "u", "user": {"client-certificate": "x"}}]},
            "client-certificate and client-key go together",
        ),
        (
            {"users": [{"name": "u", "user": {"exec": {"command": "x", "apiVersion": "v7"}}}]},
            "exec.apiVersion: 'v7' is none of",
        ),
        (
            {"users": [{"name": "u", "user": {"auth-provider": {"name": "gcp"}}}]},
            "auth-provider is not supported",
        ),
        (
            {"users": [{"name": "u", "user": {"client-key-data": "!", "client-key": "x"}}]},
            "are no base64",
        ),
    ],
)
def test_a_wrong_kubeconfig_is_one_line_with_its_field(
    server: LiveServer, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    import yaml

    path = server.kubeconfig(tmp_path / "config")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(FileError) as raised:
        read_kubeconfig(path)
    assert str(raised.value).startswith(f"{path}: ") and complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_pod_uses_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match="it is not set: this is no Pod"):
        read_service_account(directory=tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(FileError, match="token: there is no such file"):
        read_service_account(directory=tmp_path)
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text("c")
    access = read_service_account(directory=tmp_path)
    assert access.server == "https://[fd00::1]:443"
    assert access.token_file == tmp_path / "token"
