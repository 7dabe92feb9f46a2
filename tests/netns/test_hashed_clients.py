"""Clients whose address the kernel hashes to an endpoint: they stay there, as long as it stays,
whatever other endpoints and the daemon do.
"""

import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.clients import NAMES, sources
from harness.daemons import Daemon
from harness.programs import NAMED_POD
from harness.stage import FAMILIES, add_ipv6, served
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.rule import DatapathKind

CLIENTS = 60
ENDPOINTS = {"a1": ("a", 9001), "a2": ("a", 9002), "b1": ("b", 9001), "b2": ("b", 9002)}
"""By the name that each says: its pod and port."""
SERVICES = {
    "sh": ("", "kbe-nat.io/strategy: sh, kbe-nat.io/choice: kernel"),
    "mh": ("", "kbe-nat.io/strategy: mh, kbe-nat.io/choice: kernel"),
    "sticky": ("sessionAffinity: ClientIP", ""),
}
CHOSEN = ("sh", "mh")


def address(family: Family, name: str) -> str:
    number = 20 + list(SERVICES).index(name)
    return f"fd00:30::{number:x}" if family == Family.IPV6 else f"172.30.0.{number}"


def objects(*names: str) -> str:
    """All Services with these endpoints."""
    text = ""
    for family in Family:
        for service, (spec, annotations) in SERVICES.items():
            text += f"""apiVersion: v1
kind: Service
metadata: {{name: {service}{family}, annotations: {{{annotations}}}}}
spec:
  clusterIP: "{address(family, service)}"
  ports: [{{name: tcp, port: 80, protocol: TCP}}, {{name: udp, port: 80, protocol: UDP}}]
  {spec}
---
"""
            for name in names:
                pod, port = ENDPOINTS[name]
                text += f"""apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {service}{family}-{name}
  labels: {{kubernetes.io/service-name: {service}{family}}}
addressType: IPv{family}
ports:
- {{name: tcp, port: {port}, protocol: TCP}}
- {{name: udp, port: {port}, protocol: UDP}}
endpoints: [{{addresses: ["{NAMES[pod][family]}"]}}]
---
"""
    return text


@pytest.fixture
def daemon(cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    add_ipv6(cluster)
    (tmp_path / "objects").mkdir()
    for name, (own, port) in ENDPOINTS.items():
        pod = cluster.pods[list(NAMES).index(own)]
        served(pod, NAMED_POD, name, str(port))
    with Daemon(cluster, tmp_path, DatapathKind.FIRST_PACKET) as made:
        made.write("objects.yaml", objects(*ENDPOINTS))
        yield made


def serve(daemon: Daemon, *names: str) -> None:
    """With these endpoints, once the kernel knows them."""
    daemon.write("objects.yaml", objects(*names))
    expected = {
        f"[{NAMES[pod][6]}]:{port}" if family == Family.IPV6 else f"{NAMES[pod][4]}:{port}"
        for pod, port in map(ENDPOINTS.__getitem__, names)
        for family in Family
    }

    def present() -> set[str]:
        return {row["backend"] for row in daemon.get("endpoints") if row["state"] != "gone"}

    eventually(lambda: present() == expected)


def answers(
    cluster: Cluster, family: Family, service: str, kind: socket.SocketKind, clients: list[str]
) -> list[str]:
    """Which endpoint each client gets."""
    domain = socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET

    def connected(source: str) -> socket.socket:
        own = socket.socket(domain, kind)
        own.settimeout(10)
        own.bind((source, 0))
        own.connect((address(family, service), 80))
        return own

    told = []
    for source in clients:
        with inside(cluster.client.path, lambda: connected(source)) as own:  # noqa: B023
            own.sendall(b"who?")
            told.append(own.recv(100).partition(b" ")[0].decode())
    return told


@FAMILIES
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_clients_stay_as_endpoints_and_daemons_come_and_go(
    daemon: Daemon, family: Family, kind: socket.SocketKind
) -> None:
    cluster = daemon.cluster
    clients = sources(cluster, family, CLIENTS)

    def asked() -> dict[str, list[str]]:
        return {name: answers(cluster, family, name, kind, clients) for name in CHOSEN}

    daemon.start()
    serve(daemon, *ENDPOINTS)
    first = asked()
    assert first == asked()
    for told in first.values():
        # Of 60 each of four has 15; five standard deviations to either side.
        assert set(told) == set(ENDPOINTS) and max(Counter(told).values()) <= 32, told
    serve(daemon, "a1", "b1", "b2")
    after = asked()
    for name, told in first.items():
        moved = [old for old, new in zip(told, after[name], strict=True) if old != new]
        assert moved == [old for old in told if old == "a2"], "those of the endpoint that left"
    serve(daemon, *ENDPOINTS)
    back = asked()
    for name, told in after.items():
        moved = [new for old, new in zip(told, back[name], strict=True) if old != new]
        assert set(moved) == {"a2"}, "to the endpoint that came"
    # By now slots depend on what was: a daemon that shared out anew would lead clients elsewhere.
    for number in (signal.SIGKILL, signal.SIGUSR2):
        daemon.end(number)
        assert asked() == back
        sticky = answers(cluster, family, "sticky", kind, clients)
        daemon.start()
        assert asked() == back
    daemon.end(signal.SIGKILL)
    assert answers(cluster, family, "sticky", kind, clients) == sticky


def test_the_seed_is_random_and_stays_with_the_tables(daemon: Daemon) -> None:
    """Who knew it could choose addresses that all come to one endpoint."""

    def seeds() -> set[str]:
        words = daemon.cluster.node.call("nft", "list", "ruleset").split()
        return {words[place + 1] for place, word in enumerate(words) if word == "seed"}

    seen = []
    for number in (signal.SIGKILL, signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
        daemon.start()
        serve(daemon, *ENDPOINTS)
        seen.append(seeds())
        daemon.end(number)
    assert all(len(each) == 1 for each in seen), "one for both families"
    assert seen[0] == seen[1] == seen[2], "a restart keeps it"
    assert seen[2] != seen[3], "but not one without tables"
    seen.clear()
    for _ in range(2):
        daemon.start("--seed", "12345")
        seen.append(seeds())
        daemon.end()
    assert seen[0] == seen[1], "or as it is asked for"
