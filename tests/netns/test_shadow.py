"""Beside a node's own proxy: the kernel gets the rules that kube-proxy would write; connections are
compared.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.json_page import mismatches
from harness.waiting import eventually
from kbe_nat._native import ConntrackEntry, ConntrackEvents, conntrack_entries
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.rules.commands import Commands
from kbe_nat.shadow import is_masqueraded, is_translated

SEED = (Path(__file__).parents[2] / "examples/simpleservice/cluster.yaml").read_text()
COMMAND = (sys.executable, "-m", "kbe_nat")
VIP = "172.30.228.255"
CLIENTS = {
    Family.IPV4: ("10.0.2.100", "172.30.0.10", "172.17.0.3", "10.0.2.15"),
    Family.IPV6: ("fd00:2::100", "fd00:30::10", "fd00:17::3", "fd00:2::15"),
}
"""A client, a virtual IP, a backend, and the node's address."""
FAMILIES = tuple(CLIENTS)


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
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert line.pop("apiVersion") == "kbe-nat.io/v1" and line.pop("kind")
    return lines


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
    port = {"service": "default/simpleservice", "namespace": "default", "name": "simpleservice"}
    assert lines == [{"summary": [port | {"port_name": "", "outcome": "agreed", "flows": 5}]}]
    # The connections are still in the kernel's table.
    flags = ("--manifests", str(objects), "--existing")
    output = cluster.node.call(*COMMAND, "shadow", *flags)
    assert "5 flows agreed, 0 did not." in output
    cluster.node.call("conntrack", "-F")
    output = cluster.node.call(*COMMAND, "shadow", *flags)
    assert output == "There was no connection to compare.\n"


def test_a_disagreement_is_reported(cluster: Cluster, objects: Path) -> None:
    objects.write_text(SEED.replace("172.17.0.4", "172.17.0.9").replace("172.17.0.3", "172.17.0.8"))
    code, lines = shadowed(cluster, objects, 2)
    assert code == 1
    *found, summary = lines
    assert list(mismatches(found, "array of [DisagreementRow](#disagreementrow)")) == []
    assert list(mismatches(summary, "[ShadowRow](#shadowrow)")) == []
    assert summary["summary"][0]["flows"] == 2
    assert {line["outcome"] for line in found} == {"the kernel has sent it elsewhere"}
    assert found[0]["to"] == f"{VIP}:80"
    assert found[0]["kernel"]["backend"] in ("172.17.0.3:9876", "172.17.0.4:9876")
    assert found[0]["destinations"] == ["172.17.0.8:9876", "172.17.0.9:9876"]


def test_it_says_that_it_runs_and_how_it_ends(cluster: Cluster, tmp_path: Path) -> None:
    own = tmp_path / "cluster.yaml"
    own.write_text(SEED)
    flags = ("--manifests", str(own), "--node-address", "10.0.2.15", "--duration", "0.1")
    command = (*cluster.node.prefix, *COMMAND, "shadow", *flags)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = "kbe-nat: new connections are compared for 0.1 s; then comes a summary\n"
    assert (done.stderr, "no connection to compare" in done.stdout) == (said, True)


@pytest.mark.parametrize("flags", [(), ("--existing",)])
def test_without_the_privilege_one_line_says_so(
    cluster: Cluster, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    own = tmp_path / "cluster.yaml"
    own.write_text(SEED)
    plain = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    command = (*cluster.node.prefix, *plain, *COMMAND, "shadow", "--manifests", str(own), *flags)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    [line] = done.stderr.splitlines()
    assert "the kernel's connection tracking: it cannot be read without CAP_NET_ADMIN" in line
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernels_flows_are_read(family: Family) -> None:
    """Both ends of both directions, of flows that are translated and masqueraded, or neither."""
    with Namespace(f"kbe-shadow-{os.getpid()}") as node:
        events = inside(node.path, lambda: ConntrackEvents(socket_buffer=1 << 20))
        client, vip, backend, masked = CLIENTS[family]
        udp = ("-I", "-p", "udp", "--timeout", "600")
        ends = ("--orig-src", client, "--orig-dst", vip, "--sport", "7", "--dport", "53")
        reply = ("--reply-src", backend, "--reply-dst", masked)
        ports = ("--reply-port-src", "9953", "--reply-port-dst", "1007")
        node.call("conntrack", *udp, *ends, *reply, *ports)
        heard: list[ConntrackEntry] = []

        def hear() -> bool:
            flows, is_overrun = events.receive(0.1)
            assert not is_overrun
            heard.extend(flows)
            return bool(heard)

        eventually(hear)
        for [flow] in (heard, inside(node.path, conntrack_entries)):
            assert flow.protocol == "udp"
            assert (flow.source, flow.destination) == ((client, 7), (vip, 53))
            assert flow.reply_source == (backend, 9953)
            assert flow.reply_destination == (masked, 1007)
            assert is_translated(flow) and is_masqueraded(flow)
