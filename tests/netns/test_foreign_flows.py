"""Flows of others stay as they are, whatever they share with ours; and what the kernel's table
lacks is known.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from harness.clients import (
    FAMILIES,
    NAMES,
    PORT,
    VIPS,
    Clients,
    answered,
    endpoints,
    named,
    service,
)
from harness.daemons import Daemon
from harness.programs import NAMED_POD, SHORT_SERVER, UDP_ECHO
from harness.stage import OFFLOADING, OFFLOADING_DATAPATHS, add_ipv6, served, stage
from harness.stage import VIPS as STAGED
from harness.tracked import set_timeout
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.rule import DatapathKind

NODE = {4: "10.0.2.15", 6: "fd00:2::15"}
KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
NODE_PORT = 30053


@pytest.fixture(params=OFFLOADING, ids=str)
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    """Of both families, with two pods that say who they are; not yet started."""
    (tmp_path / "objects").mkdir()
    add_ipv6(cluster)
    named(cluster)
    with Daemon(cluster, tmp_path, request.param) as made:
        yield made


def listed(daemon: Daemon, family: Family, what: str) -> set[str]:
    """The kernel's numbers of flows whose row has this."""
    rows = daemon.cluster.node.call(
        "conntrack", "-L", "-f", f"ipv{family}", "-o", "id"
    ).splitlines()
    return {row.rpartition("id=")[2] for row in rows if what in row}


@FAMILIES
def test_f125_flows_of_strangers_are_left_alone(daemon: Daemon, family: Family) -> None:
    node, pod = daemon.cluster.node, NAMES["a"][family]
    iptables = "iptables" if family == 4 else "ip6tables"
    bare = {4: "{}", 6: "[{}]"}[family].format(pod)
    served(node, NAMED_POD, "node", "9953")
    for protocol in KINDS:
        of = ("-p", protocol)
        # Bits of ours in the connmark; a host port in front of a pod of ours.
        marked = ("-d", pod, "--dport", "9953", "-j", "CONNMARK", "--set-mark", "0x5000")
        node.call(iptables, "-t", "mangle", "-A", "FORWARD", *of, *marked)
        host_port = (
            "-d",
            NODE[family],
            "--dport",
            "8053",
            "-j",
            "DNAT",
            "--to-destination",
            f"{bare}:9953",
        )
        node.call(iptables, "-t", "nat", "-A", "PREROUTING", *of, *host_port)
    # Our node port is UDP's; somebody else has the same one of TCP.
    theirs = ("-p", "tcp", "-d", NODE[family], "--dport", str(NODE_PORT))
    node.call(
        iptables,
        "-t",
        "nat",
        "-A",
        "PREROUTING",
        *theirs,
        "-j",
        "DNAT",
        "--to-destination",
        f"{bare}:9953",
    )
    ported = service(family, more="  type: NodePort").replace(
        "UDP}", f"UDP, nodePort: {NODE_PORT}}}"
    )
    host = service(family, "host", {4: "172.30.0.55", 6: "fd00:30::55"}[family])
    on_node = endpoints(family, "a", name="host").replace(pod, NODE[family])
    daemon.write("dns.yaml", ported + endpoints(family, "a"))
    daemon.write("host.yaml", host + on_node)
    set_timeout(daemon.cluster, "udp_timeout", 600)
    daemon.start()
    with ExitStack() as stack:
        strangers: list[tuple[Clients, str]] = []
        for name, kind in KINDS.items():
            places = [
                ((pod, 9953), "a"),
                ((NODE[family], 8053), "a"),
                ((NODE[family], 9953), "node"),
            ]
            if name == "tcp":
                places.append(((NODE[family], NODE_PORT), "a"))
            for to, who in places:
                own = stack.enter_context(Clients(daemon.cluster, family, 1, kind, to=to))
                strangers.append((own, who))
        for own, who in strangers:
            assert own.asked() == [who]
        # Entries to a frontend of ours, in others' zones.
        for zone in (("--zone", "8"), ("--orig-zone", "9")):
            source = {4: "203.0.113.9", 6: "2001:db8:113::9"}[family]
            ends = ("-s", source, "-d", VIPS[family], "--sport", "1000", "--dport", str(PORT))
            node.call("conntrack", "-I", "-p", "udp", *ends, "-t", "600", *zone)
        ports = [own.sockets[0].getsockname()[1] for own, _ in strangers]
        marks = [f"sport={port} " for port in ports] + [f"dst={VIPS[family]} "]
        before = [listed(daemon, family, mark) for mark in marks]
        assert [len(rows) for rows in before] == [1] * len(strangers) + [2]
        assert daemon.get("flows") == [], "a look at all flows"
        # The endpoint leaves every Service, another comes, and then the Services go.
        for pods in ((), ("b",), ("a",)):
            daemon.write("dns.yaml", ported + endpoints(family, *pods))
            eventually(partial(serves, daemon, family, set(pods)), 30)
            assert daemon.get("flows") == []
        for name in ("dns", "host"):
            (daemon.folder / f"objects/{name}.yaml").unlink()
        eventually(lambda: not daemon.get("services"), 30)
        assert daemon.get("flows") == []
        for own, who in strangers:
            assert own.asked() == [who]
        assert [listed(daemon, family, mark) for mark in marks] == before, "none was begun again"
        assert daemon.get("stats")["kernel"]["flows-ended"] == 0


@FAMILIES
def test_f125_another_translation_of_a_frontend_is_not_ended_with_each_packet(
    daemon: Daemon, family: Family
) -> None:
    ip, pod = {4: ("ip", "172.17.0.3:9953"), 6: ("ip6", "[fd00:17::3]:9953")}[family]
    daemon.write("dns.yaml", service(family) + endpoints(family, "b"))
    daemon.start()
    rules = (
        f"add table {ip} theirs",
        f"add chain {ip} theirs pre {{ type nat hook prerouting priority -111; }}",
        f"add rule {ip} theirs pre {ip} daddr {VIPS[family]} udp dport {PORT} dnat to {pod}",
    )
    daemon.cluster.node.call("nft", "; ".join(rules))
    with Clients(daemon.cluster, family, 3) as clients:
        for _ in range(10):
            assert clients.asked() == ["a"] * 3
    # A look at all flows may have come meanwhile.
    assert daemon.get("stats")["kernel"]["flows-ended"] <= 2 * 3


def serves(daemon: Daemon, family: Family, pods: set[str]) -> bool:
    """Whether new flows of the first Service may go to these pods, and no others."""
    rows = [row["backend"] for row in daemon.get("endpoints") if f"/dns{family}:" in row["service"]]
    return pods == {
        name for name, own in NAMES.items() if any(own[family] in backend for backend in rows)
    }


@FAMILIES
def test_f31_flows_that_find_no_port_are_counted(daemon: Daemon, family: Family) -> None:
    ported = service(family, more="  type: NodePort").replace(
        "UDP}", f"UDP, nodePort: {NODE_PORT}}}"
    )
    daemon.write("dns.yaml", ported + endpoints(family, "a"))
    daemon.start()
    assert daemon.get("stats")["kernel"]["flows-not-entered"] == 0
    prefix, length = {4: ("10.0.2.", 24), 6: ("fd00:2::", 64)}[family]
    clients = [f"{prefix}{number}" for number in range(101, 106)]
    for address in clients:
        own = ("ip", "address", "add", f"{address}/{length}", "dev", "eth0")
        daemon.cluster.client.call(*own, *(("nodad",) if family == 6 else ()))
    number = socket.AF_INET6 if family == 6 else socket.AF_INET

    def opened() -> list[socket.socket]:
        made = []
        for address in clients:
            for port in range(600, 700):
                asking = socket.socket(number, socket.SOCK_DGRAM)
                asking.bind((address, port))
                asking.connect((NODE[family], NODE_PORT))
                made.append(asking)
        return made

    sockets = inside(daemon.cluster.client.path, opened)
    try:
        answers = sum(len(answered(sockets[start : start + 50], 2)) for start in range(0, 500, 50))
    finally:
        for asking in sockets:
            asking.close()
    # Sources from 600 to 1023 are masqueraded with ports of that range.
    kernel = daemon.get("stats")["kernel"]
    assert kernel["flows-not-entered"] >= len(sockets) - PRIVILEGED
    assert 0 < answers <= PRIVILEGED


PRIVILEGED = 1023 - 600 + 1


@OFFLOADING_DATAPATHS
def test_f63_flows_whose_ends_were_not_said_are_found_out(
    cluster: Cluster, datapath: DatapathKind
) -> None:
    for pod in cluster.pods:
        for program in ((UDP_ECHO, "6"), (SHORT_SERVER,)):
            served(pod, *program)
    settings = "/proc/sys/net/netfilter/nf_conntrack_"
    cluster.node.write(f"{settings}udp_timeout", "600")
    with stage(cluster, datapath) as own, ExitStack() as stack:
        # The kernel says nothing of flows that begin from now on.
        cluster.node.write(f"{settings}events", "0")
        for family in (Family.IPV4, Family.IPV6):
            stack.enter_context(own.client(socket.SOCK_STREAM, family, (STAGED[family], 5002)))
            asking = stack.enter_context(own.client(socket.SOCK_DGRAM, family))
            asking.sendto(b"x", (STAGED[family], 7))
            assert asking.recv(10) == b"x"
        assert len(own.flows()) == 4
        cluster.node.call("conntrack", "-F")
        assert len(list(own.engine.flows())) == 4, "nobody has said so"
        eventually(lambda: not list(own.engine.flows()), 90)
