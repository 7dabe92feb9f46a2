"""Who only looks touches nothing: neither the kernel's flows nor where they go."""

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.clients import Clients, endpoints, named, service
from harness.daemons import COMMAND, Daemon
from harness.stage import OFFLOADING, add_ipv6
from harness.tracked import set_timeout
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster

FLOWS = 500
"""Of each protocol and family."""


@pytest.fixture(params=OFFLOADING, ids=str)
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    """Of both families, with two pods that say who they are."""
    (tmp_path / "objects").mkdir()
    add_ipv6(cluster)
    named(cluster)
    with Daemon(cluster, tmp_path, request.param) as made:
        for family in Family:
            made.write(f"dns{family}.yaml", service(family) + endpoints(family, "a", "b"))
        yield made


def listed(cluster: Cluster) -> list[str]:
    """The kernel's flows with their numbers, without what changes by itself."""
    rows = []
    for family in ("ipv4", "ipv6"):
        rows += cluster.node.call("conntrack", "-L", "-f", family, "-o", "id").splitlines()
    ours = [row for row in rows if "dport=53 " in row]
    return sorted(re.sub(r"^(\w+ +\d+) \d+|(packets|bytes)=\d+ ", r"\1", row) for row in ours)


def test_f120_who_looks_leaves_every_flow_where_it_is(daemon: Daemon) -> None:
    cluster, folder = daemon.cluster, daemon.folder
    # Nothing is to end by itself meanwhile.
    set_timeout(cluster, "udp_timeout", 600)
    daemon.start()
    with (
        Clients(cluster, Family.IPV4, FLOWS) as four,
        Clients(cluster, Family.IPV6, FLOWS) as six,
        Clients(cluster, Family.IPV4, FLOWS, socket.SOCK_STREAM) as four_tcp,
        Clients(cluster, Family.IPV6, FLOWS, socket.SOCK_STREAM) as six_tcp,
    ):
        clients = (four, six, four_tcp, six_tcp)
        before = [own.asked() for own in clients]
        assert all({"a", "b"} == set(own) for own in before)
        flows = listed(cluster)
        assert len(flows) == 4 * FLOWS
        own = ("--socket", str(daemon.socket))
        objects, files = (
            (option, str(folder / "objects")) for option in ("--manifests", "--filename")
        )
        saved = folder / "saved"
        saved.write_text(cluster.node.call("nft", "list", "ruleset"))
        # Each as an operator types it, in the node's network namespace; whatever it finds.
        for command in (
            ("doctor",),
            *(
                ("get", kind, *own)
                for kind in ("services", "endpoints", "flows", "rules", "stats", "status")
            ),
            ("describe", "service", "default/dns4", *own),
            ("conntrack", "-L", *own),
            ("conntrack", "-C", *own),
            ("top", "--iterations", "1", *own),
            (
                "explain",
                *files,
                "--from",
                "10.0.2.100:4000",
                "--to",
                "172.30.0.53:53",
                "--proto",
                "udp",
            ),
            ("dump", *files),
            ("diff", *files, str(saved)),
            ("shadow", *objects, "--duration", "1"),
            ("strategy", "list"),
        ):
            looking = [*cluster.node.prefix, *COMMAND, *command]
            done = subprocess.run(looking, capture_output=True, timeout=60, check=False)
            assert not re.search(rb"Traceback|No such|Missing", done.stderr), done.stderr
            assert listed(cluster) == flows, command
        assert daemon.run("--dry-run").returncode == 0
        assert listed(cluster) == flows, "a dry run"
        refused = daemon.run("--socket", str(folder / "other"))
        assert refused.returncode == 2, "a second daemon"
        assert listed(cluster) == flows, "a second daemon"
        assert [own.asked() for own in clients] == before
