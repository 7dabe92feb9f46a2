"""The flow cache and TCP: streams arrive whole, and connections end for connection tracking too."""

import hashlib
import os
import socket
import struct
import threading

import pytest

from harness import traffic
from harness.cached_router import (
    FAMILIES,
    LONG,
    MACS,
    Connection,
    Router,
    connection,
    counted,
)
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import inside

CHUNK = os.urandom(1 << 16)
CHUNKS = 160
ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER: a RST instead of a FIN."""


def stream(near: socket.socket, far: socket.socket) -> bool:
    """Whether ten megabytes arrive as they are sent."""
    digests: list[bytes] = []

    def read() -> None:
        digest, rest = hashlib.sha256(), CHUNKS * len(CHUNK)
        while rest:
            content = far.recv(1 << 20)
            rest -= len(content)
            digest.update(content)
        digests.append(digest.digest())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(CHUNKS):
        near.sendall(CHUNK)
    reader.join(60)
    return digests == [hashlib.sha256(CHUNK * CHUNKS).digest()]


@FAMILIES
@pytest.mark.parametrize("segments", ["on", "off"])
def test_streams_arrive_whole(stage: Router, family: Family, segments: str) -> None:
    """As packets of many segments, and as single ones."""
    for namespace, device in ((stage.client, "c0"), (stage.servers[0], "s0")):
        namespace.call("ethtool", "-K", device, "tso", segments, "gso", segments)
    try:
        with connection(stage, family) as flow:
            assert stream(flow.client, flow.server)
            assert stream(flow.server, flow.client)
            for row in flow.rows:
                entry = stage.entry(row)
                assert entry.bytes > 0.9 * CHUNKS * len(CHUNK)
                # Segments that travel as one count as many, and headers are counted once for all.
                assert 1000 < entry.bytes / entry.packets < 1501
    finally:
        for namespace, device in ((stage.client, "c0"), (stage.servers[0], "s0")):
            namespace.call("ethtool", "-K", device, "tso", "on", "gso", "on")


def is_tracked(router: Router, flow: Connection, state: str) -> bool:
    """Whether connection tracking has it in that state."""
    family = "ipv4" if flow.family is Family.IPV4 else "ipv6"
    port = str(flow.rows[0][1][0][1])
    words = ("conntrack", "-L", "-f", family, "-p", "tcp", "--orig-port-src", port)
    return state in router.node.call(*words)


@FAMILIES
@pytest.mark.parametrize("end", ["client", "server"])
def test_a_connection_that_closes_leaves_the_cache(stage: Router, family: Family, end: str) -> None:
    with connection(stage, family) as flow:
        flow.turn()
        ends = (flow.client, flow.server) if end == "client" else (flow.server, flow.client)
        with counted(stage, "ended"):
            ends[0].shutdown(socket.SHUT_WR)
            assert ends[1].recv(100) == b""
        # Half open for as long as the other end likes: its proposals are gone, too.
        with counted(stage, "entered", 0), counted(stage, "hits", 0):
            for _ in range(3):
                ends[1].sendall(b"more")
                assert ends[0].recv(100) == b"more"
        assert flow.is_current() == [False, False]
        assert is_tracked(stage, flow, "CLOSE_WAIT")
        # Nothing that was counted is lost.
        assert [removed.packets > 0 for removed in stage.cache.remove(flow.rows)] == [True, True]


@FAMILIES
def test_a_reset_reaches_the_peer_and_ends_the_entries(stage: Router, family: Family) -> None:
    with connection(stage, family) as flow:
        flow.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        flow.client.close()
        with pytest.raises(ConnectionResetError):
            flow.server.recv(100)
        assert flow.is_current() == [False, False]


@FAMILIES
@pytest.mark.parametrize("doubt", ["no heartbeat", "void"])
def test_a_connection_that_closes_in_doubt_leaves_the_cache(
    stage: Router, family: Family, doubt: str
) -> None:
    """Before anything else is asked: later packets would renew an entry that has its proposal."""
    with connection(stage, family) as flow:
        if doubt == "void":
            stage.cache.void()
        else:
            stage.cache.beat(0)
        flow.client.shutdown(socket.SHUT_WR)
        assert flow.server.recv(100) == b""
        stage.cache.beat(LONG)
        with counted(stage, "entered", 0), counted(stage, "renewed", 0):
            flow.server.sendall(b"more")
            assert flow.client.recv(100) == b"more"
        assert flow.is_current() == [False, False]


@FAMILIES
def test_an_end_that_only_the_way_out_sees_counts(stage: Router, family: Family) -> None:
    """It came by a device without the program, or the node itself has sent it."""
    with connection(stage, family) as flow:
        stage.cache.detach(stage.devices["r0"])
        try:
            flow.client.shutdown(socket.SHUT_WR)
            assert flow.server.recv(100) == b""
            assert flow.is_current() == [False, False]
        finally:
            inside(stage.node.path, lambda: stage.cache.attach(stage.devices["r0"]))


@FAMILIES
def test_a_connection_that_begins_anew_ends_the_old_entries(stage: Router, family: Family) -> None:
    """Its client has forgotten the old one, without a word."""
    with connection(stage, family) as flow, stage.link(stage.client, "c0") as link:
        (source, sport), (destination, dport) = flow.rows[0][1]
        opening = traffic.tcp(sport, dport, traffic.SYN, 1, 0)
        packet = traffic.ip(source, destination, traffic.TCP, opening)
        heads = bytes.fromhex((MACS["r0"] + MACS["c0"]).replace(":", ""))
        kind = b"\x08\x00" if family is Family.IPV4 else b"\x86\xdd"
        with counted(stage, "closing"):
            link.send(heads + kind + packet)
            eventually(lambda: flow.is_current() == [False, False])
