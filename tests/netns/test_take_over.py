"""A daemon takes kube-proxy's place while connections go on; what kube-proxy left is removed."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.clients import PORT, VIPS, Clients, endpoints, named, service
from harness.daemons import COMMAND, Daemon
from harness.kube_proxy_rules import KINDS, foreign_rules, load_dump
from harness.programs import NEW_FLOWS
from harness.stage import DATAPATHS, add_ipv6
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.rule import DatapathKind

MODES = pytest.mark.parametrize("mode", ["iptables", "nftables"])
RANGES = """apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [172.30.0.0/16, "fd00:30::/112"]}
---
"""
OTHERS = """*nat
:CNI-HOSTPORT-MASQ - [0:0]
:KUBE-HP-ABCDEFGHIJKLMNOP - [0:0]
:KUBE-MARK-MASQ - [0:0]
:STRANGER - [0:0]
-A PREROUTING -m comment --comment "kube hostport portals" -j KUBE-HP-ABCDEFGHIJKLMNOP
-A POSTROUTING -j CNI-HOSTPORT-MASQ
-A STRANGER -p tcp -m tcp --dport 9 -j KUBE-MARK-MASQ
COMMIT
*filter
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
-A INPUT -m comment --comment "kube-router netpol" -j KUBE-ROUTER-INPUT
COMMIT
"""
"""Rules and chains of others, among them one that uses a chain of kube-proxy."""
STRANGERS = "table ip strangers {\n chain kube-proxy {\n }\n}\n"


@pytest.fixture
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    add_ipv6(cluster)
    (tmp_path / "objects").mkdir()
    named(cluster)
    with Daemon(cluster, tmp_path, request.getfixturevalue("datapath")) as made:
        made.write("objects.yaml", objects("a"))
        yield made


def objects(*pods: str) -> str:
    return RANGES + "".join(service(family) + endpoints(family, *pods) for family in Family)


@contextmanager
def established(cluster: Cluster) -> Iterator[list[Clients]]:
    """Connections and datagrams of each family, which were answered."""
    with ExitStack() as stack:
        groups = [
            stack.enter_context(Clients(cluster, family, 10, kind))
            for family in Family
            for kind in KINDS.values()
        ]
        for clients in groups:
            assert set(clients.asked()) == {"a"}
        yield groups


class NewFlows:
    """A program that opens connections all the time."""

    def __init__(self, cluster: Cluster) -> None:
        command = (*cluster.client.prefix, sys.executable, str(NEW_FLOWS), str(PORT))
        self.process = subprocess.Popen(
            (*command, *VIPS.values()), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def counted(self) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        counts: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert counts["failed"] == []
        return counts

    def wait_for(self, name: str) -> None:
        """Until this server has answered once more, by each protocol and family."""
        keys = [f"{protocol} {address} {name}" for protocol in KINDS for address in VIPS.values()]
        before = self.counted()["names"]

        def answered() -> bool:
            names = self.counted()["names"]
            return all(names.get(key, 0) > before.get(key, 0) for key in keys)

        eventually(answered, 30)


@contextmanager
def new_flows(cluster: Cluster) -> Iterator[NewFlows]:
    flows = NewFlows(cluster)
    with flows.process:
        try:
            yield flows
        finally:
            flows.process.kill()


def clean_up(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = (*cluster.node.prefix, *COMMAND, "proxy", "--cleanup-kube-proxy", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def load_strangers(cluster: Cluster) -> None:
    for name in ("iptables", "ip6tables"):
        Commands(cluster.node.prefix).run((f"{name}-restore", "--noflush"), OTHERS)
    Commands(cluster.node.prefix).run(("nft", "-f", "-"), STRANGERS)


@DATAPATHS
@MODES
def test_f93_kube_proxys_connections_go_on_and_new_ones_never_fail(
    daemon: Daemon, datapath: DatapathKind, mode: str, tmp_path: Path
) -> None:
    cluster = daemon.cluster
    earlier = tmp_path / "earlier.yaml"
    earlier.write_text(objects("a"))
    load_dump(cluster.node, earlier, mode)
    daemon.write("objects.yaml", objects("a", "b"))
    with established(cluster) as groups, new_flows(cluster) as flows:
        flows.wait_for("a")
        daemon.start("--take-over", "--mode", mode, "--strategy", "rr")
        assert "kube-proxy's rules are here too" not in daemon.log
        # Only our rules know of it.
        flows.wait_for("b")
        # kube-proxy, which still runs, writes all of its rules once more, behind ours.
        if mode == "nftables":
            renew = "".join(f"delete table {ip} kube-proxy\n" for ip in ("ip", "ip6"))
            Commands(cluster.node.prefix).run(("nft", "-f", "-"), renew)
        load_dump(cluster.node, earlier, mode)
        flows.wait_for("b")
        for _ in range(2):
            for clients in groups:
                assert clients.asked() == ["a"] * 10
        shown = clean_up(cluster, "--dry-run").stdout
        before = foreign_rules(cluster.node)
        assert "KUBE-" in before or "kube-proxy" in before
        assert "KUBE-SERVICES" in shown or "delete table ip kube-proxy" in shown
        assert foreign_rules(cluster.node) == before
        done = clean_up(cluster)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", shown)
        rest = foreign_rules(cluster.node)
        assert {word for word in rest.split() if word.startswith("KUBE-")} <= {"KUBE-FIREWALL"}
        assert "kube-proxy" not in rest
        flows.wait_for("b")
        for clients in groups:
            assert clients.asked() == ["a"] * 10
        assert not any(thread["panics"] for thread in daemon.get("status")["loops"])
        flows.counted()


@pytest.mark.parametrize("datapath", [DatapathKind.FIRST_PACKET], ids=str)
@MODES
def test_f12_rules_of_others_outlive_the_clean_up_after_kube_proxy(
    daemon: Daemon, datapath: DatapathKind, mode: str
) -> None:
    cluster = daemon.cluster
    load_strangers(cluster)
    strangers = foreign_rules(cluster.node)
    load_dump(cluster.node, daemon.folder / "objects", mode)
    both = foreign_rules(cluster.node)
    assert both != strangers
    assert clean_up(cluster).returncode == 0
    rest = foreign_rules(cluster.node).splitlines()
    # kubelet shares the first; a rule of a stranger uses the second.
    shared = [line for line in both.splitlines() if "KUBE-FIREWALL" in line]
    shared += [line for line in both.splitlines() if line.startswith("-A KUBE-MARK-MASQ")]
    assert sorted(rest) == sorted([*strangers.splitlines(), *shared])
    again = clean_up(cluster)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.parametrize("datapath", [DatapathKind.FIRST_PACKET], ids=str)
def test_connections_go_on_when_every_packet_follows_first_packet(
    daemon: Daemon, datapath: DatapathKind
) -> None:
    cluster = daemon.cluster
    daemon.start()
    with established(cluster) as groups, new_flows(cluster) as flows:
        flows.wait_for("a")
        daemon.end(signal.SIGUSR2)
        daemon.datapath = DatapathKind.EVERY_PACKET
        daemon.write("objects.yaml", objects("a", "b"))
        daemon.start("--strategy", "rr")
        flows.wait_for("b")
        for clients in groups:
            assert clients.asked() == ["a"] * 10
