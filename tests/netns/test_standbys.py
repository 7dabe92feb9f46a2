"""The endpoints that new connections get from the kernel while no daemon listens: spread by slots,
on real packets.
"""

import json
import math
import os
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness.associations import associations
from harness.clients import NAMES, Clients, named, sources
from harness.daemons import COMMAND, Daemon, broken
from harness.stage import FAMILIES, OFFLOADING, add_ipv6
from kbe_nat.drivers.native import NativeQueue
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside

DRAWS = 300
SLACK = 5
"""Standard deviations. A right spread misses them once in a million runs."""
NUMBERS = {"even": 11, "heavy": 12, "sticky": 13, "hashed": 14, "wide": 15, "fenced": 16, "one": 17}
"""The last part of the cluster IP of each Service."""
SPECS = {
    "sticky": "sessionAffinity: ClientIP",
    "fenced": "type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24, 'fd00:99::/64']",
}
ANNOTATIONS = {
    "even": "kbe-nat.io/strategy: rr",
    "hashed": "kbe-nat.io/strategy: sh",
    "wide": "kbe-nat.io/standby-slots: '20'",
}
WEIGHTS = {"heavy": ("3", "1"), "wide": ("13", "3")}
PORTS = "\n".join(
    f"  - {{name: {protocol.lower()}, port: 80, %s protocol: {protocol}}}"
    for protocol in ("TCP", "UDP", "SCTP")
)


def address(family: Family, name: str) -> str:
    number = NUMBERS[name]
    return f"fd00:30::{number:x}" if family == Family.IPV6 else f"172.30.0.{number}"


def balanced(family: Family, name: str) -> str:
    return f"fd00:98::{NUMBERS[name]:x}" if family == Family.IPV6 else "198.51.100.16"


def objects(family: Family, name: str) -> str:
    """A Service with a slice for each pod, so that these may have weights."""
    spec = SPECS.get(name, "type: ClusterIP")
    first = f"""apiVersion: v1
kind: Service
metadata: {{name: {name}{family}, annotations: {{{ANNOTATIONS.get(name, "")}}}}}
spec:
  clusterIP: "{address(family, name)}"
  {spec.replace(", ", f"{chr(10)}  ", 1)}
  ports:
{PORTS % (("targetPort: 9953,",) * 3)}
status: {{loadBalancer: {{ingress: [{{ip: "{balanced(family, name)}"}}]}}}}
---
"""
    if name != "fenced":
        first = "\n".join(line for line in first.splitlines() if "status:" not in line) + "\n"
    pods = list(NAMES)[:1] if name == "one" else NAMES
    slices = (
        f"""apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}{family}-{pod}
  labels: {{kubernetes.io/service-name: {name}{family}}}
  annotations: {{kbe-nat.io/weight: "{weight}"}}
addressType: IPv{family}
ports:
{(PORTS % (("",) * 3)).replace("80", "9953")}
endpoints: [{{addresses: ["{NAMES[pod][family]}"]}}]
---
"""
        for pod, weight in zip(pods, WEIGHTS.get(name, ("1", "1")), strict=False)
    )
    return first + "".join(slices)


@pytest.fixture(params=OFFLOADING, ids=str)
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    add_ipv6(cluster)
    (tmp_path / "objects").mkdir()
    named(cluster)
    with Daemon(cluster, tmp_path, request.param) as made:
        made.write("objects.yaml", "".join(objects(f, name) for f in Family for name in NUMBERS))
        yield made


def names(
    cluster: Cluster, family: Family, name: str, kind: socket.SocketKind, count: int = DRAWS
) -> Counter[str]:
    """How many new flows each pod has answered."""
    with Clients(cluster, family, count, kind, (address(family, name), 80)) as clients:
        return Counter(clients.asked())


def is_within(count: int, share: float) -> bool:
    return abs(count - DRAWS * share) <= SLACK * math.sqrt(DRAWS * share * (1 - share))


def left_alone(daemon: Daemon, how: str, stack: ExitStack) -> None:
    """From here on no verdicts come."""
    daemon.end(signal.SIGKILL)
    if how == "room-for-nothing":
        # As a daemon binds it that takes over, until its own tables are in the kernel.
        queue = inside(
            daemon.cluster.node.path, lambda: NativeQueue(100, max_length=0, fail_open=True)
        )
        stack.enter_context(queue)


@pytest.mark.parametrize("how", ["killed", "room-for-nothing"])
@FAMILIES
def test_new_flows_spread_by_weight(daemon: Daemon, family: Family, how: str) -> None:
    cluster = daemon.cluster
    daemon.start()
    with ExitStack() as stack:
        left_alone(daemon, how, stack)
        # Of 32 slots the pod of weight 13 in 16 has 26.
        for name, share in (("even", 1 / 2), ("heavy", 3 / 4), ("wide", 13 / 16)):
            counts = {
                "tcp": names(cluster, family, name, socket.SOCK_STREAM),
                "udp": names(cluster, family, name, socket.SOCK_DGRAM),
                "sctp": associations(cluster, family, address(family, name), DRAWS),
            }
            for own in counts.values():
                assert own.total() == DRAWS and is_within(own["a"], share), (name, counts)
        assert names(cluster, family, "one", socket.SOCK_STREAM, 20) == {"a": 20}


@FAMILIES
def test_a_client_stays_at_one_endpoint(daemon: Daemon, family: Family) -> None:
    cluster = daemon.cluster
    daemon.start()
    daemon.end(signal.SIGKILL)
    addresses = sources(cluster, family, 60)

    def answer(source: str, to: tuple[str, int]) -> str:
        def connected() -> socket.socket:
            return socket.create_connection(to, 10, (source, 0))

        with inside(cluster.client.path, connected) as connection:
            connection.sendall(b"who?")
            return connection.recv(100).partition(b" ")[0].decode()

    for name in ("sticky", "hashed"):
        first = [answer(own, (address(family, name), 80)) for own in addresses]
        again = [answer(own, (address(family, name), 80)) for own in addresses]
        assert first == again
        # Clients spread: of 60 each endpoint has half, give or take five standard deviations.
        assert min(Counter(first).values()) >= 11 and set(first) == {"a", "b"}, first
    # A new table, of another run, hashes as the old one.
    daemon.start()
    daemon.end(signal.SIGKILL)
    assert [answer(own, (address(family, "hashed"), 80)) for own in addresses] == again


@FAMILIES
def test_an_endpoint_that_leaves_while_no_daemon_runs_stays_in(
    daemon: Daemon, family: Family
) -> None:
    """The kernel has nobody to tell it. The next daemon takes it out."""
    cluster = daemon.cluster
    daemon.start()
    daemon.end(signal.SIGKILL)
    text = "".join(objects(f, name) for f in Family for name in NUMBERS)
    gone = f'endpoints: [{{addresses: ["{NAMES["a"][family]}"]}}]'
    daemon.write("objects.yaml", text.replace(gone, "endpoints: []"))
    assert is_within(names(cluster, family, "even", socket.SOCK_DGRAM)["a"], 1 / 2)
    daemon.start()
    daemon.end(signal.SIGKILL)
    assert names(cluster, family, "even", socket.SOCK_DGRAM) == {"b": DRAWS}


@FAMILIES
def test_nobody_is_let_in_where_sources_are_restricted(daemon: Daemon, family: Family) -> None:
    daemon.start()
    daemon.end(signal.SIGKILL)
    to: tuple[Any, ...] = (balanced(family, "fenced"), 80)
    for _ in range(20):
        with pytest.raises(ConnectionRefusedError):
            inside(daemon.cluster.client.path, lambda: socket.create_connection(to, 5))
    assert names(daemon.cluster, family, "fenced", socket.SOCK_STREAM, 20).keys() == {"a", "b"}, (
        "by its cluster IP"
    )


DRAWS_NOTHING = """text=$(cat)
case "$text" in *numgen*) echo "Error: Could not process rule: No such file" >&2; exit 1;; esac
exec <<END
$text
END"""
"""An nft whose kernel has no nft_numgen."""


def test_a_kernel_that_draws_nothing_has_one_endpoint_for_each_service(daemon: Daemon) -> None:
    cluster = daemon.cluster
    environment = broken(daemon.folder, ("nft",), DRAWS_NOTHING)
    daemon.start(environment=environment)
    assert "each Service has one endpoint: nft or the kernel" in daemon.log
    daemon.end(signal.SIGKILL)
    for name in ("even", "wide"):
        assert len(names(cluster, Family.IPV4, name, socket.SOCK_STREAM, 40)) == 1
    command = (*cluster.node.prefix, *COMMAND, "doctor", "-o", "json")
    for own, state in ((environment, "note"), ({}, "ok")):
        done = subprocess.run(
            command, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True, check=True
        )
        [check] = [row for row in json.loads(done.stdout)["items"] if row["name"] == "standbys"]
        assert check["state"] == state
        assert ("nft_numgen" in check["remedy"]) == (state == "note")


def test_one_endpoint_serves_where_spreading_is_off(daemon: Daemon) -> None:
    daemon.start("--standby-slots", "1")
    daemon.end(signal.SIGKILL)
    assert len(names(daemon.cluster, Family.IPV4, "even", socket.SOCK_STREAM, 40)) == 1
    assert len(names(daemon.cluster, Family.IPV4, "wide", socket.SOCK_STREAM, 100)) == 2, (
        "a Service may ask"
    )
