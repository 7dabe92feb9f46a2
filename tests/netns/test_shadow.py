"""Beside a node's own proxy: the kernel gets the rules that kube-proxy would write; connections are
compared.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.waiting import eventually
from kbe_nat.conntrack import KernelFlow, parse
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.rules.commands import Commands

SEED = (Path(__file__).parents[2] / "examples/seed/cluster.yaml").read_text()
COMMAND = (sys.executable, "-m", "kbe_nat")
VIP = "172.30.228.255"


@pytest.fixture(params=["iptables-save", "nft"])
def objects(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The seed's objects, and its rules as kube-proxy's in the kernel."""
    own = tmp_path / "cluster.yaml"
    own.write_text(SEED)
    dump = [*COMMAND, "dump", "-f", str(own), "--format", request.param]
    rules = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    # Counters of kube-proxy's that it makes itself.
    lines = [line for line in rules.splitlines() if "nfacct" not in line]
    loader = ("nft", "-f", "-") if request.param == "nft" else ("iptables-restore",)
    Commands(cluster.node.prefix).run(loader, "\n".join(lines) + "\n")
    return own


def told(done: "subprocess.CompletedProcess[str] | str") -> list[dict[str, Any]]:
    text = done if isinstance(done, str) else done.stdout
    return [json.loads(line) for line in text.splitlines()]


def is_followed(node: Namespace) -> bool:
    """Whether a socket hears of the kernel's connection tracking: NETLINK_NETFILTER (12), with a
    group.
    """
    sockets = [line.split() for line in node.call("cat", "/proc/net/netlink").splitlines()[1:]]
    return any(words[1] == "12" and int(words[3], 16) for words in sockets)


def shadowed(cluster: Cluster, objects: Path, count: int = 5) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and lines of a shadow that has seen so many connections begin."""
    flags = (
        "--manifests",
        str(objects),
        "--node-address",
        "10.0.2.15",
        "--count",
        str(count),
        "-o",
        "json",
    )
    process = cluster.node.start((*COMMAND, "shadow", *flags))
    eventually(lambda: is_followed(cluster.node))
    for _ in range(count):
        assert VIP in cluster.client.call("curl", "-sS", "--max-time", "2", f"{VIP}/info")
    output, _ = process.communicate(timeout=60)
    return process.returncode, told(output)


def test_kube_proxys_rules_and_we_agree(cluster: Cluster, objects: Path) -> None:
    code, lines = shadowed(cluster, objects)
    assert code == 0
    assert lines == [
        {"summary": [{"service": "default/simpleservice", "outcome": "agreed", "flows": 5}]},
    ]
    # The connections are still in the kernel's table.
    flags = ("--manifests", str(objects), "--existing")
    output = cluster.node.call(*COMMAND, "shadow", *flags)
    assert "5 flows agreed, 0 did not." in output


def test_a_disagreement_is_reported(cluster: Cluster, objects: Path) -> None:
    objects.write_text(SEED.replace("172.17.0.4", "172.17.0.9").replace("172.17.0.3", "172.17.0.8"))
    code, lines = shadowed(cluster, objects, 2)
    assert code == 1
    *found, summary = lines
    assert summary["summary"][0]["flows"] == 2
    assert {line["outcome"] for line in found} == {"the kernel has sent it elsewhere"}
    assert found[0]["to"] == f"{VIP}:80"
    assert found[0]["kernel"]["backend"] in ("172.17.0.3:9876", "172.17.0.4:9876")
    assert found[0]["destinations"] == ["172.17.0.8:9876", "172.17.0.9:9876"]


@pytest.mark.parametrize(
    ("line", "flow"),
    [
        (
            " [NEW] tcp      6 120 SYN_SENT src=10.0.2.100 dst=172.30.228.255 sport=40000 dport=80 [UNREPLIED] "
            "src=172.17.0.3 dst=10.0.2.100 sport=9876 dport=40000",
            KernelFlow(
                "tcp",
                ("10.0.2.100", 40000),
                ("172.30.228.255", 80),
                ("172.17.0.3", 9876),
                ("10.0.2.100", 40000),
            ),
        ),
        (
            "udp 17 29 src=fd00::1 dst=fd00::2 sport=1 dport=53 src=fd00::3 dst=fd00::4 sport=53 dport=7 mark=0",
            KernelFlow("udp", ("fd00::1", 1), ("fd00::2", 53), ("fd00::3", 53), ("fd00::4", 7)),
        ),
        (
            "icmp 1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=7 src=10.0.0.2 dst=10.0.0.1 type=0 code=0",
            None,
        ),
        ("conntrack v1.4.7 (conntrack-tools): 3 flow entries have been shown.", None),
    ],
)
def test_lines_of_conntrack(line: str, flow: KernelFlow | None) -> None:
    assert parse(line) == flow
