"""Connections of both families that stay: over a daemon that is killed, one that ends under load,
and one that is refused.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.daemons import SEED, Daemon, kernel_rules
from harness.programs import KEPT_FLOWS, NAMED_POD, SHORT_LOAD
from harness.stage import PODS, add_ipv6, served
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.model import end_parts
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.rules.rule import DatapathKind

VIPS = ("172.30.0.7", "fd00:30::7")
FLOW_BYTES = 110
"""Of a flow of IPv4 in the file, the least."""
SERVICE = f"""apiVersion: v1
kind: Service
metadata: {{name: echo}}
spec:
  clusterIP: {VIPS[0]}
  clusterIPs: [{VIPS[0]}, "{VIPS[1]}"]
  ipFamilies: [IPv4, IPv6]
  ports:
  - {{name: t, port: 7, targetPort: 9999}}
  - {{name: u, protocol: UDP, port: 7, targetPort: 9999}}
"""
SLICE = """---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: echo-{family}, labels: {{kubernetes.io/service-name: echo}}}}
addressType: IPv{family}
ports: [{{name: t, port: 9999}}, {{name: u, protocol: UDP, port: 9999}}]
endpoints: [{endpoints}]
"""
OBJECTS = SERVICE + "".join(
    SLICE.format(
        family=family, endpoints=", ".join(f'{{addresses: ["{own}"]}}' for own in PODS[family])
    )
    for family in (Family.IPV4, Family.IPV6)
)


class Clients:
    """Connections of a program in the client's namespace."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.ends: list[tuple[Any, ...]] = []
        """Protocol, address and port of each."""

    def open(self, tcp: int, udp: int) -> list[str]:
        """So many more to each virtual IP; all are asked. The pods that answer, in order."""
        return self._told({"open": VIPS, "tcp": tcp, "udp": udp})

    def ask(self) -> list[str]:
        """Asks all of them."""
        return self._told({})

    def _told(self, order: dict[str, Any]) -> list[str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        assert told["broken"] == []
        self.ends = [tuple(own) for own in told["ends"]]
        names: list[str] = told["names"]
        return names


@contextmanager
def program(where: Namespace, path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = (*where.prefix, sys.executable, str(path), *arguments)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(params=list(DatapathKind), ids=str)
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    add_ipv6(cluster)
    (tmp_path / "objects").mkdir()
    for number, pod in enumerate(cluster.pods):
        served(pod, NAMED_POD, f"pod-{number}", "9999")
    with Daemon(cluster, tmp_path, request.param) as made:
        made.write("cluster.yaml", SEED)
        made.write("echo.yaml", OBJECTS)
        yield made


@pytest.fixture
def clients(daemon: Daemon) -> Iterator[Clients]:
    with program(daemon.cluster.client, KEPT_FLOWS) as process:
        yield Clients(process)


def state_bytes(daemon: Daemon) -> int:
    state = daemon.folder / "state"
    return state.stat().st_size if state.exists() else 0


def backends(daemon: Daemon) -> dict[tuple[Any, ...], Any]:
    """The backend of each connection to the service."""
    rows = json.loads(daemon.ask("conntrack", "-L", "-o", "json"))["items"]
    return {
        (row["protocol"], *end_parts(row["source"])): row["reply_source"]
        for row in rows
        if row["service"].startswith("default/echo")
    }


def test_f09_a_thousand_connections_outlive_a_daemon_that_is_killed(
    daemon: Daemon, clients: Clients
) -> None:
    daemon.start("--strategy", "random")
    names = clients.open(tcp=500, udp=0)
    assert len(names) == 1000
    assert set(names) == {"pod-0", "pod-1"}
    before = backends(daemon)
    assert len(before) == 1000
    daemon.wait_for_checkpoint()
    daemon.end(signal.SIGKILL)
    daemon.start("--strategy", "random")
    assert backends(daemon) == before
    assert clients.ask() == names
    assert backends(daemon) == before


def ages(daemon: Daemon) -> dict[tuple[Any, ...], int]:
    """Seconds since each connection to the service began."""
    rows = json.loads(daemon.ask("get", "flows", "-o", "json"))["items"]
    return {
        (row["protocol"], *end_parts(row["source"])): row["age"]
        for row in rows
        if row["service"].startswith("default/echo")
    }


def test_connections_keep_their_age_over_a_restart(daemon: Daemon, clients: Clients) -> None:
    daemon.cluster.node.write("/proc/sys/net/netfilter/nf_conntrack_timestamp", "1")
    daemon.start()
    names = clients.open(tcp=3, udp=3)
    eventually(lambda: min(ages(daemon).values()) >= 4)
    before = ages(daemon)
    assert len(before) == 12
    seen = time.monotonic()
    daemon.wait_for_checkpoint()
    daemon.end(signal.SIGKILL)
    daemon.start()
    after = ages(daemon)
    passed = time.monotonic() - seen
    assert after.keys() == before.keys()
    # Each is rounded, and the file knows when it was written to a second.
    assert all(abs(after[own] - age - passed) <= 3 for own, age in before.items())
    assert clients.ask() == names


def test_f11_a_daemon_that_ends_under_load_writes_what_it_carries(
    daemon: Daemon, clients: Clients
) -> None:
    rules = kernel_rules(daemon.cluster)
    daemon.start("--strategy", "random")
    clients.open(tcp=20, udp=20)
    # It is written now and then, and the next time is far.
    daemon.wait_for_checkpoint()
    with program(daemon.cluster.client, SHORT_LOAD, *VIPS) as load:
        assert load.stdout is not None
        assert load.stdout.readline() == "ready\n"
        names = clients.open(tcp=20, udp=20)
        before = backends(daemon)
        took = daemon.end(signal.SIGTERM)
    assert took < 5
    assert daemon.process is not None and daemon.process.returncode == 0
    assert kernel_rules(daemon.cluster) == rules
    assert not daemon.socket.exists()
    assert (daemon.folder / "state").exists()
    if daemon.datapath is DatapathKind.EVERY_PACKET:
        assert state_bytes(daemon) >= 160 * FLOW_BYTES, "the last ones too"
    daemon.start("--strategy", "random")
    after = backends(daemon)
    assert len(clients.ends) == 160
    assert {own: after.get(own) for own in clients.ends} == {
        own: before[own] for own in clients.ends
    }
    assert clients.ask() == names


def test_f08_a_second_daemon_changes_no_connection_of_the_first(
    daemon: Daemon, clients: Clients, tmp_path: Path
) -> None:
    daemon.start("--strategy", "random")
    names = clients.open(tcp=25, udp=25)
    before = backends(daemon)
    assert len(before) == 100
    rules, state = kernel_rules(daemon.cluster), daemon.folder / "state"
    for arguments in (
        (),
        ("--queue", "101"),
        ("--cleanup",),
        ("--dry-run",),
        ("--queue", "101", "--socket", f"{tmp_path}/other", "--state", f"{tmp_path}/other-state"),
    ):
        second = daemon.run(*arguments)
        if arguments != ("--dry-run",):
            assert second.returncode == 2
            assert "another kbe-nat proxy runs in this network namespace" in second.stderr
    assert kernel_rules(daemon.cluster) == rules
    assert backends(daemon) == before
    assert clients.ask() == names
    assert backends(daemon) == before
    assert not (tmp_path / "other-state").exists()
    assert state.exists()
