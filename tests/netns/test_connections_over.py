"""Connections that are over and only remembered: every place that counts connections leaves them
out, or says that it has them.
"""

import json
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.clients import FAMILIES, NAMES, VIPS, Clients, endpoints, named, service
from harness.daemons import Daemon
from harness.stage import OFFLOADING, add_ipv6
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.metrics.catalog import BACKEND_ACTIVE, SERVICE_ACTIVE
from kbe_nat.model import join_address
from kbe_nat.playground.cluster import Cluster


@pytest.fixture(params=OFFLOADING, ids=str)
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    """Of both families; not yet started."""
    (tmp_path / "objects").mkdir()
    add_ipv6(cluster)
    named(cluster)
    # Those that were reset are remembered for ten seconds, unless the node says more.
    cluster.node.write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", "600")
    with Daemon(cluster, tmp_path, request.param) as made:
        yield made


@FAMILIES
def test_everything_counts_the_same_connections(daemon: Daemon, family: Family) -> None:
    """Two go on, three were closed, one was reset; and there are two of UDP, which never ends."""
    daemon.write("dns.yaml", service(family) + endpoints(family, "a"))
    daemon.start("--metrics-backends", "backend")
    with ExitStack() as stack:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            assert all(stack.enter_context(Clients(daemon.cluster, family, 2, kind)).asked())
        with Clients(daemon.cluster, family, 4, socket.SOCK_STREAM) as clients:
            assert all(clients.asked())
            clients.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        eventually(lambda: states(daemon) == {"ESTABLISHED": 2, "TIME_WAIT": 3, "CLOSE": 1, "": 2})
        tcp, udp = f"default/dns{family}:tcp", f"default/dns{family}:dns"
        rows = {row["service"]: row for row in daemon.get("endpoints")}
        counts = [
            {name: rows[port][name] for name in ("active", "over", "inactive", "flows")}
            for port in (tcp, udp)
        ]
        assert counts == [
            {"active": 2, "over": 4, "inactive": 0, "flows": 6},
            {"active": 2, "over": 0, "inactive": 0, "flows": 2},
        ]
        assert {row["service"]: row["active"] for row in daemon.get("services")} == {tcp: 2, udp: 2}
        assert "2 now, 6 so far" in daemon.ask("describe", "service", tcp)
        backend = NAMES["a"][family]
        left = daemon.ask("drain", backend, "--no-wait", "-o", "json")
        assert json.loads(left)["left"] == 4
        daemon.ask("drain", backend, "--undo")
        assert listed(daemon, family) == {"TCP": ("2", "4"), "UDP": ("0", "2")}
        metrics = daemon.cluster.node.call("curl", "-sS", "http://127.0.0.1:10249/metrics")
        for metric in (SERVICE_ACTIVE, BACKEND_ACTIVE):
            found = re.findall(rf'^{metric.name}{{.*port="(\w+)".*}} (\d+)$', metrics, re.MULTILINE)
            assert sorted(found) == [("dns", "2"), ("tcp", "2")], metric.name


def states(daemon: Daemon) -> dict[str, int]:
    """How many connections are in each state, as the daemon lists them."""
    counts: dict[str, int] = {}
    for row in daemon.get("flows"):
        state = row["state"] or ""
        counts[state] = counts.get(state, 0) + 1
    return counts


def listed(daemon: Daemon, family: Family) -> dict[str, tuple[str, str]]:
    """What `ipvs -Ln` has of the backend in ActiveConn and InActConn, by protocol."""
    found: dict[str, tuple[str, str]] = {}
    protocol, backend = "", join_address(NAMES["a"][family], 9953)
    for line in daemon.ask("ipvs", "-Ln").splitlines():
        words = line.split()
        if join_address(VIPS[family], 53) in words:
            protocol = words[0]
        elif backend in words:
            found[protocol] = (words[-2], words[-1])
    return found


RESET = struct.pack("ii", 1, 0)
"""A connection that lingers for no time is reset."""
