"""Answers of endpoints that conntrack calls invalid, and leaves untranslated: a client that gets
one with the pod's address resets the connection.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from harness import traffic
from harness.cached import Talk, cached_node, counters, talk
from harness.clients import FAMILIES, NAMES, service
from harness.daemons import Daemon
from harness.stage import OFFLOADING_DATAPATHS
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.rule import DatapathKind

EVERYTHING = ("--cache-exclude", "0.0.0.0/0", "--cache-exclude", "::/0")
"""Conntrack takes any sequence number of a connection that is cached."""
LIBERAL = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal"
MORE = {Family.IPV4: "172.30.0.60", Family.IPV6: "fd00:30::60"}
FAR = 0x4000_0000
RULE = "fib daddr type unicast"


class Segment(NamedTuple):
    """What a client's kernel has got from a TCP port."""

    source: str
    port: int
    sequence: int
    acknowledged: int


@pytest.fixture
def datapath() -> DatapathKind:
    """Where a test does not say it."""
    return DatapathKind.FIRST_PACKET


@pytest.fixture
def daemon(tmp_path: Path, datapath: DatapathKind) -> Iterator[Daemon]:
    """It is to be started, and will serve a pod."""
    with cached_node(tmp_path) as made:
        made.datapath = datapath
        yield made


def start(daemon: Daemon, *flags: str) -> None:
    daemon.start(*(EVERYTHING if daemon.datapath is DatapathKind.CACHED else ()), *flags)
    eventually(lambda: daemon.get("endpoints"))


def raw(daemon: Daemon, family: Family, protocol: int, *, is_pod: bool = False) -> socket.socket:
    domain = socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET
    where = daemon.cluster.pods[0] if is_pod else daemon.cluster.client
    return inside(where.path, lambda: socket.socket(domain, socket.SOCK_RAW, protocol))


@contextmanager
def overheard(daemon: Daemon, family: Family, port: int) -> Iterator[list[Segment]]:
    """What has come for a port of the client when the block ends."""
    segments: list[Segment] = []
    with raw(daemon, family, socket.IPPROTO_TCP) as link:
        yield segments
        link.settimeout(0.5)
        while True:
            try:
                content, sender = link.recvfrom(1 << 16)
            except TimeoutError:
                return
            segment = content[20 if family == Family.IPV4 else 0 :]
            sport, dport, sequence, acknowledged = struct.unpack(">HHII", segment[:12])
            if dport == port:
                segments.append(Segment(sender[0], sport, sequence, acknowledged))


def answer_strangely(daemon: Daemon, family: Family, own: Talk) -> list[Segment]:
    """Have the pod send a segment far out of its window, and return what comes of it."""
    port = own.source[1]
    with overheard(daemon, family, port) as regular:
        assert own.ask() == "a"
    newest = max(regular, key=lambda segment: segment.acknowledged)
    # A client that does not know the connection says by its RST what this acknowledges, which is
    # what the pod waits for.
    body = traffic.tcp(9953, port, traffic.ACK, newest.sequence + FAR, newest.acknowledged)
    packet = traffic.ip(NAMES["a"][family], own.source[0], traffic.TCP, body)
    link = raw(daemon, family, socket.IPPROTO_RAW, is_pod=True)
    with link, overheard(daemon, family, port) as strange:
        link.sendto(packet, (own.source[0], 0))
    return strange


@OFFLOADING_DATAPATHS
@FAMILIES
def test_an_answer_that_conntrack_calls_invalid_does_not_reset_its_connection(
    daemon: Daemon, family: Family
) -> None:
    start(daemon)
    with talk(daemon, family, "tcp") as own:
        before = counters(daemon)["invalid-dropped"]
        assert answer_strangely(daemon, family, own) == []
        assert own.ask() == "a"
        assert counters(daemon)["invalid-dropped"] == before + 1
    # The next table is another one, and what this one has counted is not lost.
    node = daemon.cluster.node
    node.write(LIBERAL, "1")
    daemon.write("more.yaml", service(family, "more", MORE[family]))
    eventually(lambda: RULE not in node.call("nft", "list", "ruleset"))
    assert counters(daemon)["invalid-dropped"] == before + 1


@FAMILIES
@pytest.mark.parametrize("flags", [("--no-drop-invalid",), ("--mode", "nftables")], ids=str)
def test_it_does_where_the_rule_is_left_out(
    daemon: Daemon, family: Family, flags: tuple[str, ...]
) -> None:
    start(daemon, *flags)
    with talk(daemon, family, "tcp") as own:
        [strange] = answer_strangely(daemon, family, own)
        assert strange.source == NAMES["a"][family]
        with pytest.raises((ConnectionResetError, TimeoutError)):
            own.ask()


def test_rules_drop_where_kube_proxys_do_or_as_they_are_told(daemon: Daemon) -> None:
    node = daemon.cluster.node
    for value, flags, is_dropped in (
        ("0", (), True),
        ("0", ("--mode", "nftables", "--drop-invalid"), True),
        ("1", (), False),
    ):
        node.write(LIBERAL, value)
        start(daemon, *flags)
        listed = node.call("nft", "list", "ruleset")
        assert listed.count(RULE) == (2 if is_dropped else 0), (value, flags)
        daemon.end()


@FAMILIES
def test_packets_for_the_node_itself_go_on(daemon: Daemon, family: Family) -> None:
    """Such as a RST, with which the node answers what it does not know."""
    start(daemon)
    own = "fd00:2::100" if family == Family.IPV6 else "10.0.2.100"
    to = "fd00:2::15" if family == Family.IPV6 else "10.0.2.15"
    before = counters(daemon)["invalid-dropped"]
    # Conntrack begins no connection by a SYN-ACK.
    body = traffic.tcp(4001, 4002, traffic.SYN | traffic.ACK, 1, 1)
    link = raw(daemon, family, socket.IPPROTO_RAW)
    with link, overheard(daemon, family, 4001) as answers:
        link.sendto(traffic.ip(own, to, traffic.TCP, body), (to, 0))
    assert [answer.source for answer in answers] == [to]
    assert counters(daemon)["invalid-dropped"] == before
