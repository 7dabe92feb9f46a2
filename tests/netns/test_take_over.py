"""A daemon takes kube-proxy's place while connections go on; what kube-proxy left is removed."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.clients import named
from harness.daemons import COMMAND, Daemon
from harness.kube_proxy_rules import foreign_rules, load_dump
from harness.new_flows import established, new_flows, objects
from harness.stage import DATAPATHS, OFFLOADING_DATAPATHS, add_ipv6
from harness.waiting import eventually
from kbe_nat.playground.cluster import Cluster
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.rule import DatapathKind

MODES = pytest.mark.parametrize("mode", ["iptables", "nftables"])
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
        assert clean_up(cluster, "--dry-run").stdout == "# no rules of kube-proxy were here\n"
        rest = foreign_rules(cluster.node)
        assert {word for word in rest.split() if word.startswith("KUBE-")} <= {"KUBE-FIREWALL"}
        assert "kube-proxy" not in rest
        flows.wait_for("b")
        for clients in groups:
            assert clients.asked() == ["a"] * 10
        assert not any(thread["panics"] for thread in daemon.get("status")["loops"])
        flows.counted()


@DATAPATHS
@MODES
def test_f93_clients_keep_the_endpoints_that_kube_proxy_bound_them_to(
    daemon: Daemon, datapath: DatapathKind, mode: str, tmp_path: Path
) -> None:
    cluster, affinity = daemon.cluster, "  sessionAffinity: ClientIP"
    earlier = tmp_path / "earlier.yaml"
    earlier.write_text(objects("b", more=affinity))
    load_dump(cluster.node, earlier, mode)
    # The first that the strategy chooses is the other one.
    daemon.write("objects.yaml", objects("a", "b", more=affinity))
    with established(cluster, "b"):
        daemon.start("--take-over", "--mode", mode, "--strategy", "rr")
        # One of each protocol and family.
        assert "4 clients keep the endpoint that kube-proxy bound them to" in daemon.log
        with established(cluster, "b") as groups:
            for clients in groups:
                assert clients.asked() == ["b"] * 10


@OFFLOADING_DATAPATHS
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
    nothing = "# no rules of kube-proxy were here\n"
    assert (again.returncode, again.stdout, again.stderr) == (0, nothing, "")


@OFFLOADING_DATAPATHS
def test_f12_nothing_is_cleaned_up_while_kube_proxy_runs(
    daemon: Daemon, datapath: DatapathKind, tmp_path: Path
) -> None:
    cluster = daemon.cluster
    load_dump(cluster.node, daemon.folder / "objects", "nftables")
    before = foreign_rules(cluster.node)
    program = tmp_path / "kube-proxy"
    shutil.copy("/bin/sleep", program)
    process = cluster.node.start((str(program), "60"))
    try:
        # nsenter becomes it.
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "kube-proxy\n")
        refused = clean_up(cluster)
        assert refused.returncode == 2
        assert "kube-proxy runs here (process" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert clean_up(cluster, "--dry-run").returncode == 0
        assert foreign_rules(cluster.node) == before
    finally:
        process.kill()
        process.wait()
    assert clean_up(cluster).returncode == 0
    assert "kube-proxy" not in foreign_rules(cluster.node)


@OFFLOADING_DATAPATHS
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
