"""The flow cache's programs on real packets: what they carry, and what goes the kernel's way."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from harness import traffic
from harness.cached_router import (
    CLIENT,
    FAMILIES,
    FLOWS,
    FRONTEND_PORT,
    LONG,
    MACS,
    OTHER,
    PORTS,
    SERVER,
    SERVER_PORT,
    VIP,
    Datagrams,
    Router,
    counted,
    datagrams,
    proposals,
    router,
    skip_without_cache,
)
from harness.waiting import eventually
from kbe_nat._native import FlowCache
from kbe_nat.errors import FlowCacheError
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import inside

ETHERTYPES = {Family.IPV4: b"\x08\x00", Family.IPV6: b"\x86\xdd"}
DROP = """
table inet others {
    chain forward {
        type filter hook forward priority filter;
        udp dport 7777 drop
    }
}
"""
LEASE, EXPIRY = 1.0, 2.0
"""Seconds, of the crate."""


@contextmanager
def policy(router: Router) -> Iterator[None]:
    """A rule of others that drops the datagrams for the server."""
    router.node.call("nft", DROP)
    try:
        yield
    finally:
        router.node.call("nft", "delete table inet others")


def is_delivered(flow: Datagrams, seconds: float = 0.3) -> bool:
    """Whether the next datagram reaches the server."""
    flow.server.settimeout(seconds)
    try:
        flow.go()
    except TimeoutError:
        return False
    finally:
        flow.server.settimeout(10)
    return True


def ethernet(to: str, by: str) -> bytes:
    """Both addresses of a frame."""
    return bytes.fromhex((MACS[to] + MACS[by]).replace(":", ""))


def frame(flow: Datagrams, packet: bytes, to: str = "r0") -> bytes:
    """A frame of the client's."""
    return ethernet(to, "c0") + ETHERTYPES[flow.family] + packet


def packet(
    flow: Datagrams, payload: bytes, *, row: int = 1, ttl: int = 64, options: bytes = b""
) -> bytes:
    """An IP packet of the client's, as it comes (row 1) or as it leaves (2)."""
    ends = flow.rows[0][1:][row - 1]
    (source, sport), (destination, dport) = ends
    datagram = traffic.udp(sport, dport, payload)
    return traffic.ip(source, destination, traffic.UDP, datagram, ttl=ttl, options=options)


@FLOWS
def test_datagrams_pass_by_the_cache_both_ways(flow: Datagrams) -> None:
    for size in (0, 1, 18, 19, 1400):
        payload = bytes(number % 256 for number in range(size))
        # What is longer than all before goes the kernel's way once.
        assert (flow.go(payload), flow.come(payload)) == (payload, payload)
        before = flow.hits()
        assert (flow.go(payload), flow.come(payload)) == (payload, payload)
        assert flow.hits() == [number + 1 for number in before]
    assert flow.peer == flow.rows[0][1][0]


@FLOWS
def test_an_entry_says_what_it_carries(flow: Datagrams) -> None:
    flow.turn()
    there, back = (flow.router.entry(row) for row in flow.rows)
    protocol, arriving, leaving = flow.rows[0]
    assert (there.protocol, (there.source, there.destination)) == (protocol, arriving)
    assert (there.leaving_source, there.leaving_destination) == leaving
    length = (28 if flow.family is Family.IPV4 else 48) + len("question")
    assert (there.packets, there.bytes) == (1, length)
    assert (there.device, back.device) == (flow.router.devices["r1"], flow.router.devices["r0"])
    assert {there, back} <= set(flow.router.cache.flows())


@contextmanager
def masquerade(router: Router, family: Family, condition: str) -> Iterator[None]:
    """Flows that fulfil the condition leave in the router's name."""
    chain = "ip nat postrouting" if family is Family.IPV4 else "ip6 nat postrouting"
    router.node.call("nft", f"add rule {chain} {condition} masquerade")
    try:
        yield
    finally:
        router.node.call("nft", f"flush chain {chain}")


@FLOWS
def test_a_masqueraded_flow_is_carried(stage: Router, flow: Datagrams) -> None:
    family = flow.family
    with (
        masquerade(stage, family, "oifname r2"),
        stage.open(stage.client, family) as client,
        stage.open(stage.servers[1], family, port=SERVER_PORT) as server,
    ):
        client.connect((OTHER[family], SERVER_PORT))
        for _ in range(3):
            client.send(b"there")
            _, peer = server.recvfrom(100)
            server.sendto(b"back", peer)
            client.recv(100)
            rows = proposals(
                "udp",
                client.getsockname()[:2],
                (OTHER[family], SERVER_PORT),
                (OTHER[family], SERVER_PORT),
                peer[:2],
            )
            stage.cache.propose(rows)
        assert peer[0] != CLIENT[family]
        assert [stage.entry(row).packets for row in rows] == [1, 1]


@FAMILIES
def test_a_server_reaches_itself_by_the_cache(stage: Router, family: Family) -> None:
    address, server_end = SERVER[family], (SERVER[family], SERVER_PORT)
    kind = "ip" if family is Family.IPV4 else "ip6"
    with (
        masquerade(stage, family, f"{kind} saddr {address} {kind} daddr {address}"),
        stage.open(stage.servers[0], family, address=address) as client,
        stage.open(stage.servers[0], family, port=SERVER_PORT) as server,
    ):
        client.connect((VIP[family], FRONTEND_PORT))
        for _ in range(3):
            client.send(b"there")
            _, peer = server.recvfrom(100)
            server.sendto(b"back", peer)
            assert client.recv(100) == b"back"
            rows = proposals(
                "udp",
                client.getsockname()[:2],
                (VIP[family], FRONTEND_PORT),
                server_end,
                peer[:2],
            )
            stage.cache.propose(rows)
        assert [stage.entry(row).packets for row in rows] == [1, 1]


@FLOWS
def test_the_last_hop_is_told_to_the_client(flow: Datagrams) -> None:
    level, option = (
        (socket.IPPROTO_IP, socket.IP_TTL)
        if flow.family is Family.IPV4
        else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
    )
    flow.client.setsockopt(level, option, 1)
    recverr = (level, 11 if flow.family is Family.IPV4 else 25)
    flow.client.setsockopt(*recverr, 1)
    with counted(flow.router, "time_to_live"):
        flow.client.send(b"question")
        with pytest.raises(OSError, match="No route to host"):
            flow.client.recv(100)


@FLOWS
def test_fragments_go_the_kernels_way(flow: Datagrams) -> None:
    payload = bytes(4000)
    name = "fragments" if flow.family is Family.IPV4 else "other_protocol"
    before = flow.router.counter(name)
    assert (flow.go(payload), flow.come(payload)) == (payload, payload)
    assert flow.router.counter(name) - before == 6


def test_options_go_the_kernels_way(stage: Router) -> None:
    with (
        datagrams(stage, Family.IPV4) as flow,
        stage.link(stage.client, "c0") as link,
        counted(stage, "options"),
    ):
        link.send(frame(flow, packet(flow, b"options", options=b"\x01\x01\x01\x00")))
        assert flow.server.recv(100) == b"options"


@pytest.mark.parametrize(
    ("to", "tag"), [("r0", b"\x81\x00\x00\x05"), ("s0", b"")], ids=["tagged", "for another machine"]
)
def test_foreign_frames_are_not_carried(stage: Router, to: str, tag: bytes) -> None:
    with datagrams(stage, Family.IPV4) as flow, stage.link(stage.client, "c0") as link:
        content = frame(flow, packet(flow, b"question"), to)
        # What IPv6 tells its neighbours is foreign too.
        before = stage.counter("foreign")
        with counted(stage, "hits", 0):
            link.send(content[:12] + tag + content[12:])
            eventually(lambda: stage.counter("foreign") > before)


@FLOWS
def test_what_ethernet_adds_to_short_frames_is_not_sent_on(flow: Datagrams) -> None:
    stage = flow.router
    with stage.link(stage.client, "c0") as link, stage.link(stage.servers[0], "s0") as wire:
        content = packet(flow, b"q")
        with counted(stage, "hits"):
            link.send(frame(flow, content) + b"padding")
            assert flow.server.recv(100) == b"q"
        assert len(arrived(wire, flow)) == 14 + len(content)


@FLOWS
def test_a_packet_shorter_than_it_says_is_not_carried(flow: Datagrams) -> None:
    with (
        flow.router.link(flow.router.client, "c0") as link,
        counted(flow.router, "truncated"),
        counted(flow.router, "hits", 0),
    ):
        link.send(frame(flow, packet(flow, b"question")[:-1]))
        eventually(lambda: flow.router.counter("truncated"))


def arrived(wire: socket.socket, flow: Datagrams) -> bytes:
    """The next datagram on a server's wire, as a frame."""
    place = 14 + (9 if flow.family is Family.IPV4 else 6)
    while True:
        content, (_, _, kind, *_) = wire.recvfrom(65_536)
        is_datagram = content[12:14] == ETHERTYPES[flow.family] and content[place] == traffic.UDP
        if kind != socket.PACKET_OUTGOING and is_datagram:
            return content


@FLOWS
@pytest.mark.parametrize("payload", [b"", b"o", b"od", b"odd"], ids=len)
@pytest.mark.parametrize("kind", ["right", "wrong", "none"])
def test_checksums_stay_what_they_are(flow: Datagrams, kind: str, payload: bytes) -> None:
    stage, end = flow.router, 28 if flow.family is Family.IPV4 else 48
    content = bytearray(packet(flow, payload))
    right = int.from_bytes(content[end - 2 : end])
    sent = {"right": right, "wrong": right ^ 0x1234, "none": 0}[kind]
    content[end - 2 : end] = sent.to_bytes(2)
    with (
        stage.link(stage.client, "c0") as link,
        stage.link(stage.servers[0], "s0") as wire,
        counted(stage, "hits"),
    ):
        link.send(frame(flow, bytes(content)))
        received = arrived(wire, flow)
    expected = bytearray(packet(flow, payload, row=2, ttl=63))
    computed = int.from_bytes(expected[end - 2 : end])
    checksum = int.from_bytes(received[14 + end - 2 : 14 + end])
    expected[end - 2 : end] = checksum.to_bytes(2)
    assert received == ethernet("s0", "r1") + ETHERTYPES[flow.family] + expected
    # RFC 1624: what was wrong stays wrong by as much.
    assert checksum == 0 if kind == "none" else (checksum - computed - sent + right) % 0xFFFF == 0


@FLOWS
def test_too_long_a_datagram_is_told_to_the_client(flow: Datagrams) -> None:
    stage = flow.router
    level, probe, option = (
        (socket.IPPROTO_IP, 3, 10) if flow.family is Family.IPV4 else (socket.IPPROTO_IPV6, 3, 23)
    )
    flow.client.setsockopt(level, option, probe)
    flow.client.setsockopt(level, 11 if flow.family is Family.IPV4 else 25, 1)
    flow.go(bytes(1400))
    with counted(stage, "hits"):
        flow.go(bytes(1400))
    stage.node.call("ip", "link", "set", "r1", "mtu", "1300")
    try:
        # Nobody tells the cache. A lease later it has noticed.
        eventually(lambda: is_renewed(flow))
        flow.client.send(bytes(1400))
        with pytest.raises(OSError, match="too long"):
            flow.client.recv(100)
    finally:
        stage.node.call("ip", "link", "set", "r1", "mtu", "1500")


def is_renewed(flow: Datagrams) -> bool:
    """Sends a short datagram; whether it has renewed an entry."""
    before = flow.router.counter("renewed")
    flow.go(b"question")
    return flow.router.counter("renewed") > before


@FLOWS
def test_once_a_lease_a_packet_renews_entry_and_connection(flow: Datagrams) -> None:
    stage = flow.router
    before = stage.counter("renewed"), stage.counter("hits")
    started = time.monotonic()
    while time.monotonic() < started + 3.5 * LEASE:
        flow.turn()
        time.sleep(0.01)
    renewed, hits = stage.counter("renewed") - before[0], stage.counter("hits") - before[1]
    # Of both directions. Busy machines are late.
    assert 4 <= renewed <= 8
    assert hits > 20 * renewed


def is_over(flow: Datagrams) -> bool:
    """Sends a datagram; whether its entry has ended before. Forgets what the server has got."""
    is_current = flow.router.entry(flow.rows[0]).is_current
    flow.client.send(b"question")
    flow.server.setblocking(False)
    with suppress(BlockingIOError):
        while flow.server.recv(100):
            pass
    return not is_current


@FLOWS
def test_a_rule_that_others_add_stops_a_flow_with_its_lease(flow: Datagrams) -> None:
    """Without anybody who tells the cache of it."""
    with policy(flow.router):
        started = time.monotonic()
        eventually(lambda: is_over(flow))
        assert time.monotonic() - started < EXPIRY + 2
        # More often than a packet is sent to renew the entry: none gets through any more.
        assert not any(is_delivered(flow, 0.02) for _ in range(20))
    eventually(lambda: is_delivered(flow))


@FLOWS
def test_a_rule_that_others_add_stops_a_flow_at_once_when_the_cache_is_told(
    flow: Datagrams,
) -> None:
    # The lease begins anew.
    flow.router.cache.void()
    flow.turn()
    with policy(flow.router):
        flow.go()
        flow.router.cache.void()
        assert not is_delivered(flow)
    # And it comes back with the next packet that leaves.
    with counted(flow.router, "void", 2):
        flow.turn()
    with counted(flow.router, "hits", 2):
        flow.turn()


@FLOWS
def test_without_heartbeats_all_goes_the_kernels_way(flow: Datagrams) -> None:
    stage = flow.router
    stage.cache.beat(0)
    # The coarse clock's tick.
    time.sleep(0.02)
    try:
        with counted(stage, "no_heartbeat", 2), counted(stage, "hits", 0):
            flow.turn()
        assert not stage.entry(flow.rows[0]).is_current
    finally:
        stage.cache.beat(LONG)
    with counted(stage, "hits", 2):
        flow.turn()


@FLOWS
def test_what_a_policy_drops_never_enters(stage: Router, flow: Datagrams) -> None:
    family = flow.family
    with stage.open(stage.client, family, port=next(PORTS)) as client:
        client.connect((VIP[family], FRONTEND_PORT))
        rows = proposals(
            "udp",
            (CLIENT[family], client.getsockname()[1]),
            (VIP[family], FRONTEND_PORT),
            (SERVER[family], SERVER_PORT),
        )
        with policy(stage):
            stage.cache.propose(rows)
            with counted(stage, "missed", 3), counted(stage, "entered", 0):
                for _ in range(3):
                    client.send(b"question")
        stage.cache.remove(rows)


@FLOWS
def test_what_is_removed_stays_out_and_tells_its_counters(flow: Datagrams) -> None:
    for _ in range(3):
        flow.turn()
    removed = flow.router.cache.remove(flow.rows)
    assert [entry.packets for entry in removed] == [3, 3]
    with counted(flow.router, "entered", 0), counted(flow.router, "hits", 0):
        flow.turn()
        flow.turn()
    assert flow.router.cache.remove(flow.rows) == []


@FLOWS
def test_another_neighbour_is_learnt_as_a_whole(flow: Datagrams) -> None:
    stage, server = flow.router, flow.router.servers[0]
    flow.turn()
    before = stage.entry(flow.rows[0]).packets
    assert before
    server.call("ip", "link", "set", "s0", "address", "02:00:00:00:02:99")
    try:
        stage.node.call("ip", "neighbour", "flush", "dev", "r1")
        stage.cache.void()
        with counted(stage, "entered"):
            flow.go()
        with stage.link(server, "s0") as wire, counted(stage, "hits"):
            flow.go()
            assert arrived(wire, flow)[:6] == bytes.fromhex("020000000299")
        assert stage.entry(flow.rows[0]).packets == before + 1
    finally:
        server.call("ip", "link", "set", "s0", "address", MACS["s0"])
        stage.node.call("ip", "neighbour", "flush", "dev", "r1")
        stage.cache.void()


@FLOWS
def test_another_backend_replaces_the_entry(stage: Router, flow: Datagrams) -> None:
    """As when a datagram's flow is decided anew: the proposal counts, not what was there before."""
    family = flow.family
    _, (client, frontend), _ = flow.rows[0]
    rows = proposals("udp", client, frontend, (OTHER[family], SERVER_PORT))
    kind = "ip" if family is Family.IPV4 else "ip6"
    with stage.open(stage.servers[1], family, port=SERVER_PORT) as server:
        stage.cache.remove(flow.rows)
        stage.node.call("nft", f"flush chain {kind} nat prerouting")
        target = f"{OTHER[family]}" if family is Family.IPV4 else f"[{OTHER[family]}]"
        rule = f"{kind} daddr {VIP[family]} udp dport 80 dnat to {target}:{SERVER_PORT}"
        stage.node.call("nft", f"add rule {kind} nat prerouting {rule}")
        stage.node.call("conntrack", "-D", "-f", "ipv4" if kind == "ip" else "ipv6", "-p", "udp")
        try:
            stage.cache.propose(rows)
            for _ in range(2):
                flow.client.send(b"question")
                assert server.recv(100) == b"question"
            assert stage.entry(rows[0]).leaving_destination[0] == OTHER[family]
            assert stage.entry(rows[0]).packets == 1
        finally:
            target = f"{SERVER[family]}" if family is Family.IPV4 else f"[{SERVER[family]}]"
            stage.node.call("nft", f"flush chain {kind} nat prerouting")
            for protocol in ("tcp", "udp"):
                rule = f"{kind} daddr {VIP[family]} {protocol} dport 80"
                rule += f" dnat to {target}:{SERVER_PORT}"
                stage.node.call("nft", f"add rule {kind} nat prerouting {rule}")


@FLOWS
def test_an_entry_of_another_translation_is_replaced(flow: Datagrams) -> None:
    """The packet that leaves counts, whatever the entry was for."""
    stage, family = flow.router, flow.family
    _, arriving, (client, _) = flow.rows[0]
    second, length = ("10.201.2.3", 32) if family is Family.IPV4 else ("fd02::3", 128)
    elsewhere = (second, SERVER_PORT)
    words = ("ip", "address", "replace", f"{second}/{length}", "dev", "s0")
    stage.servers[0].call(*words, *(("nodad",) if family is Family.IPV6 else ()))
    rows = [("udp", arriving, (client, elsewhere))]
    stage.cache.propose(rows)
    flow.client.close()
    try:
        # Straight to the server's second address, behind the same device: this packet leaves as the
        # new proposal says.
        with stage.open(stage.client, family, port=client[1]) as direct:
            direct.sendto(b"question", elsewhere)
            eventually(lambda: stage.entry(flow.rows[0]).leaving_destination == elsewhere)
    finally:
        stage.cache.remove(rows)
        stage.servers[0].call("ip", "address", "delete", f"{second}/{length}", "dev", "s0")


@FLOWS
def test_a_pods_end_takes_packets_at_once(flow: Datagrams) -> None:
    stage, device = flow.router, flow.router.devices["r1"]
    stage.cache.set_peer(device, True)
    stage.cache.void()
    try:
        flow.turn()
        statistics = inside(stage.node.path, lambda: sent("r1"))
        with counted(stage, "hits", 2):
            flow.turn()
        assert inside(stage.node.path, lambda: sent("r1")) == statistics
    finally:
        stage.cache.set_peer(device, False)
        stage.cache.void()


def sent(device: str) -> int:
    """Packets that have left by a device of this thread's namespace."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    [row] = [line for line in lines if line.split(":")[0].strip() == device]
    return int(row.split(":")[1].split()[9])


def test_a_device_that_is_gone_is_forgotten_and_comes_back() -> None:
    skip_without_cache()
    with router() as stage:
        numbers = set(stage.cache.devices)
        gone = stage.devices["r2"]
        stage.node.call("ip", "link", "delete", "r2")
        assert set(stage.cache.devices) == numbers - {gone}
        with pytest.raises(FlowCacheError, match="No such device"):
            inside(stage.node.path, lambda: stage.cache.attach(gone))
        words = ("ip", "link", "add", "r2", "index", str(gone), "type", "veth", "peer", "name", "x")
        stage.node.call(*words)
        inside(stage.node.path, lambda: stage.cache.attach(gone))
        inside(stage.node.path, lambda: stage.cache.attach(gone))
        assert set(stage.cache.devices) == numbers


@FLOWS
def test_programs_behind_ours_see_what_is_not_carried(flow: Datagrams) -> None:
    stage = flow.router
    behind = FlowCache(max_flows=16)
    inside(stage.node.path, lambda: behind.attach(stage.devices["r0"]))
    stage.cache.void()
    flow.go()
    flow.go()
    assert behind.counters()["missed"] == 1


def test_a_second_router_learns_from_packets_that_the_first_ones_cache_has_sent() -> None:
    """Both mark what they send, on their own way out alone."""
    skip_without_cache()
    with router() as stage:
        far, end = stage.servers[1], ("10.201.9.2", SERVER_PORT)
        second, device = stage.servers[0], "s9"
        second.write("/proc/sys/net/ipv4/ip_forward", "1")
        peer = ("peer", "name", "f9", "netns", far.name)
        second.call("ip", "link", "add", device, "type", "veth", *peer)
        second.call("ip", "address", "add", "10.201.9.1/24", "dev", device)
        second.call("ip", "link", "set", device, "up")
        far.call("ip", "address", "add", "10.201.9.2/24", "dev", "f9")
        far.call("ip", "link", "set", "f9", "up")
        stage.node.call("ip", "route", "add", "10.201.9.0/24", "via", SERVER[Family.IPV4])
        behind = FlowCache(max_flows=16)
        behind.beat(LONG)
        inside(second.path, lambda: behind.attach(socket.if_nametoindex("s0")))
        inside(second.path, lambda: behind.attach(socket.if_nametoindex(device)))
        with (
            stage.open(stage.client, Family.IPV4) as client,
            stage.open(far, Family.IPV4, port=SERVER_PORT) as server,
        ):
            client.connect(end)
            rows = [("udp", ends := (client.getsockname(), end), ends)]
            stage.cache.propose(rows)
            for _ in range(2):
                client.send(b"question")
                server.recv(100)
            assert stage.entry(rows[0]).packets == 1
            behind.propose(rows)
            for _ in range(2):
                client.send(b"question")
                server.recv(100)
            assert stage.entry(rows[0]).packets == 3
            assert behind.counters()["hits"] == 1
