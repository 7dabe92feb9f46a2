"""Somebody serves a cluster IP beside us, and keeps its packets from connection tracking: NodeLocal
DNSCache.
"""

import socket
import subprocess

import pytest

from harness.programs import NODE_CACHE, SHORT_SERVER, UDP_ECHO
from harness.stage import DATAPATHS, FAMILIES, VIPS, served, stage
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.rules.rule import DatapathKind


def exempt(node: Namespace, family: Family, verb: str) -> None:
    """The add-on's rules, for UDP port 7 and TCP port 5001."""
    iptables, vip = "ip6tables" if family == Family.IPV6 else "iptables", VIPS[family]
    for protocol, port in (("udp", "7"), ("tcp", "5001")):
        to, back = (("-d", vip, "--dport", port), ("-s", vip, "--sport", port))
        for hook, ends in (("PREROUTING", to), ("OUTPUT", to), ("OUTPUT", back)):
            match = (ends[0], ends[1], "-p", protocol, *ends[2:])
            node.call(iptables, "-t", "raw", verb, hook, *match, "-j", "NOTRACK")


def cache(node: Namespace, family: Family) -> subprocess.Popen[str]:
    """The add-on: the cluster IP is an address of the node."""
    length, nodad = (128, ["nodad"]) if family == Family.IPV6 else (32, [])
    node.call("ip", "address", "add", f"{VIPS[family]}/{length}", "dev", "lo", *nodad)
    return served(node, NODE_CACHE, VIPS[family])


@DATAPATHS
@FAMILIES
@pytest.mark.parametrize("order", ["before", "after", "after-ours"])
def test_f126_what_came_untracked_is_not_ours(
    cluster: Cluster, family: Family, datapath: DatapathKind, order: str
) -> None:
    for pod in cluster.pods:
        served(pod, UDP_ECHO, str(family))
        served(pod, SHORT_SERVER)
    node, vip = cluster.node, VIPS[family]
    if order == "before":
        exempt(node, family, "-A")
    with stage(cluster, datapath) as own:
        if order != "before":
            exempt(node, family, "-I" if order == "after" else "-A")
            own.serving.datapath.repair()
        cache(node, family)
        iptables = "ip6tables" if family == Family.IPV6 else "iptables"
        for hook, end in (("INPUT", "-d"), ("OUTPUT", "-s")):
            marked = ("-m", "mark", "!", "--mark", "0", "-m", "comment", "--comment", "marked")
            node.call(iptables, "-A", hook, end, vip, *marked)
        before = [loop.loop.packets for loop in own.loops]
        for where in (cluster.client, cluster.pods[0], node):
            with own.client(socket.SOCK_DGRAM, family, (vip, 7), where) as client:
                for _ in range(3):
                    client.send(b"q")
                    assert client.recv(100) == b"cache"
            with own.client(socket.SOCK_STREAM, family, (vip, 5001), where) as client:
                client.send(b"q")
                assert client.recv(100) == b"cache"
        assert [loop.loop.packets for loop in own.loops] == before, "none was queued"
        assert own.flows() == []
        counted = [
            line for line in node.call(f"{iptables}-save", "-c").splitlines() if "marked" in line
        ]
        assert all(line.startswith("[0:0]") for line in counted) and len(counted) == 2, counted
        with own.client(socket.SOCK_STREAM, family, (vip, 5002)) as client:
            client.send(b"hello")
            assert client.recv(100) == b"hello", "another port of it is still ours"
        assert len(own.flows()) == 1
