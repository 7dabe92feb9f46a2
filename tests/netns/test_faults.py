"""Faults on real packets that are neither the queue's nor the daemon's: endpoints that come and go,
packets that no sane sender makes, and neighbours in the same kernel.
"""

import os
import random
import socket
import struct
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest

from harness import traffic
from harness.programs import MUTE_SERVER, SHORT_SERVER, UDP_ECHO
from harness.stage import (
    DATAPATHS,
    FAMILIES,
    OFFLOADING_DATAPATHS,
    POD,
    VIPS,
    Stage,
    plan_of,
    port,
    served,
    stage,
)
from harness.traffic import ACK, FIN, RST, SYN
from harness.waiting import eventually
from harness.wires import ETH_P_IP, mac, overheard, sent_in_order, taken, wire
from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.playground.cluster import CLIENT_ADDRESS, NODE_ADDRESS, Cluster
from kbe_nat.policy.node_ports import NodePorts
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Frontend
from kbe_nat.rules.rule import DatapathKind, Marks

VIP = VIPS[Family.IPV4]


def echoes(cluster: Cluster, family: Family = Family.IPV4) -> None:
    for pod in cluster.pods:
        served(pod, UDP_ECHO, str(family))


def answer(client: socket.socket, question: bytes) -> bytes:
    client.send(question)
    return client.recv(1 << 16)


def backend(own: Stage) -> str:
    [flow] = own.engine.flows(protocol="udp")
    return flow.reply_source[0]


@DATAPATHS
@FAMILIES
def test_f49_a_handshake_that_a_removed_backend_does_not_answer_goes_to_another(
    cluster: Cluster, family: Family, datapath: DatapathKind
) -> None:
    iptables = "iptables" if family == Family.IPV4 else "ip6tables"
    cluster.pods[0].call(iptables, "-A", "INPUT", "-p", "tcp", "--dport", "5002", "-j", "DROP")
    served(cluster.pods[1], SHORT_SERVER)
    one = port("short", 5002, "tcp", family, 1)
    other = replace(
        one, cluster_backends=port("short", 5002, "tcp", family, 2).cluster_backends[1:]
    )
    with stage(cluster, datapath, plan=replace(plan_of(), ports=(one,))) as own:
        connected: list[socket.socket] = []

        def connect() -> None:
            connected.append(own.client(socket.SOCK_STREAM, family, (VIPS[family], 5002)))

        asking = threading.Thread(target=connect)
        asking.start()
        # Its SYN has gone to the silent one.
        eventually(own.flows)
        own.serve(replace(plan_of(), ports=(other,)))
        asking.join()
        with connected[0] as client:
            assert answer(client, b"hello") == b"hello"


@OFFLOADING_DATAPATHS
@FAMILIES
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_f136_numbers_that_run_out_never_block_a_change(
    cluster: Cluster, family: Family, kind: socket.SocketKind, datapath: DatapathKind
) -> None:
    """There is one number, and its backend is replaced by another."""
    for pod in cluster.pods:
        served(pod, SHORT_SERVER)
    echoes(cluster, family)
    name, number, protocol = (
        ("short", 5002, "tcp") if kind == socket.SOCK_STREAM else ("echo", 7, "udp")
    )
    both = port(name, number, protocol, family)
    plans = [
        replace(plan_of(), ports=(replace(both, cluster_backends=(one,)),))
        for one in both.cluster_backends
    ]
    few = replace(Marks(), backend=0x4000)
    with stage(cluster, datapath, plan=plans[0], marks=few) as own:

        def ask() -> str:
            with own.client(kind, family, (VIPS[family], number)) as client:
                assert answer(client, b"hello") == b"hello"
                port_of = client.getsockname()[1]
            return next(flow.reply_source[0] for flow in own.flows() if flow.source[1] == port_of)

        rules = own.serving.datapath
        assert ask() == both.cluster_backends[0].address
        own.serve(plans[1])
        assert ask() == both.cluster_backends[1].address, "by the standby"
        assert rules.counters()["backend-unknown"] == 1
        assert rules.counters()["backends-waiting"] == 1
        eventually(lambda: rules.repair() == () and not rules.counters()["backends-waiting"])
        assert ask() == both.cluster_backends[1].address
        assert rules.counters()["backend-unknown"] == 1, "decided here again"
        own.serve(replace(plans[1], ports=(both,)))
        with pytest.raises(RulesError, match="count up to 1: 1 are in use, 1 more are wanted"):
            rules.repair()
        assert {ask() for _ in range(6)} <= {one.address for one in both.cluster_backends}


@DATAPATHS
@FAMILIES
def test_f60_a_datagram_goes_to_a_live_backend_when_its_own_is_gone(
    cluster: Cluster, family: Family, datapath: DatapathKind
) -> None:
    echoes(cluster, family)
    with (
        stage(cluster, datapath) as own,
        own.client(socket.SOCK_DGRAM, family, (VIPS[family], 7)) as client,
    ):
        assert answer(client, b"before") == b"before"
        first = backend(own)
        left = 1 if first.endswith("4") else 2
        keep = [
            target
            for target in port("echo", 7, "udp", family).cluster_backends
            if target.address != first
        ]
        own.serve(
            replace(
                plan_of(),
                ports=(
                    replace(port("echo", 7, "udp", family, left), cluster_backends=tuple(keep)),
                ),
            )
        )
        assert answer(client, b"after") == b"after", "the same source port, at once"
        assert backend(own) == keep[0].address


@OFFLOADING_DATAPATHS
@FAMILIES
def test_datagrams_that_nobody_answers_are_asked_about_once(
    cluster: Cluster, family: Family, datapath: DatapathKind
) -> None:
    """Logs and metrics go one way: the kernel carries them all the same."""
    for pod in cluster.pods:
        served(pod, MUTE_SERVER)
    with (
        stage(cluster, datapath) as own,
        own.client(socket.SOCK_DGRAM, family, (VIPS[family], 7)) as client,
    ):
        client.send(b"first")
        eventually(lambda: [flow.packets[0] for flow in own.flows()] == [1])
        for _ in range(10):
            client.send(b"more")
        eventually(lambda: [flow.packets[0] for flow in own.flows()] == [11])
        own.serving.settle()
        assert sum(loop.loop.packets for loop in own.loops) == 1


@OFFLOADING_DATAPATHS
def test_flows_of_others_are_left_alone(cluster: Cluster, datapath: DatapathKind) -> None:
    echoes(cluster)
    pod = POD.address
    with (
        stage(cluster, datapath) as own,
        own.client(socket.SOCK_DGRAM, Family.IPV4, (pod, 7)) as direct,
        own.client(socket.SOCK_DGRAM, Family.IPV4, (VIP, 7)) as client,
    ):
        assert answer(direct, b"to the pod itself") == b"to the pod itself"
        assert answer(client, b"to the Service") == b"to the Service"
        [flow] = own.flows()
        assert flow.destination == (VIP, 7), "what is not ours is not among ours"
        own.serve(plan_of(0))
        known = cluster.node.call("conntrack", "-L", "-p", "udp")
        assert f"dst={pod} sport={direct.getsockname()[1]}" in known
        assert f"dst={VIP}" not in known
        own.engine.delete_flows()
        assert answer(direct, b"still there") == b"still there"


@DATAPATHS
@FAMILIES
def test_f61_f62_no_endpoints_and_then_some_again(
    cluster: Cluster, family: Family, datapath: DatapathKind
) -> None:
    echoes(cluster, family)
    with (
        stage(cluster, datapath) as own,
        own.client(socket.SOCK_DGRAM, family, (VIPS[family], 7)) as client,
    ):
        for _ in range(2):
            assert answer(client, b"served") == b"served"
            own.serve(plan_of(0))
            with pytest.raises(ConnectionRefusedError):
                answer(client, b"refused")
            own.serve(plan_of(2))


@DATAPATHS
def test_f66_a_client_keeps_its_backend_until_that_is_gone(
    cluster: Cluster, datapath: DatapathKind
) -> None:
    sticky = replace(port("short", 5002, "tcp", Family.IPV4), affinity_seconds=60)
    plan = replace(plan_of(), ports=(sticky,))
    for pod in cluster.pods:
        served(pod, SHORT_SERVER)

    def connect(own: Stage) -> None:
        with own.client(socket.SOCK_STREAM, Family.IPV4, (VIP, 5002)) as client:
            assert answer(client, b"hello") == b"hello"

    with stage(cluster, datapath, plan=plan) as own:
        for _ in range(20):
            connect(own)
        [first] = {flow.reply_source for flow in own.flows()}
        keep = tuple(target for target in sticky.cluster_backends if target.address != first[0])
        own.serve(replace(plan, ports=(replace(sticky, cluster_backends=keep),)))
        for _ in range(5):
            connect(own)
        own.serve(plan)
        for _ in range(10):
            connect(own)
        shares = {one.address: one.flows for one in own.engine.stats().services[0].backends}
        assert shares == {first[0]: 20, keep[0].address: 15}


def thrown(own: Stage, *packets: bytes) -> list[bytes]:
    """Puts packets on the client's wire, and returns what arrives at the first pod from outside."""
    cluster = own.cluster
    # Everybody knows his neighbours before it begins.
    cluster.client.call("curl", "-sS", f"{POD.address}:{POD.port}/info")
    frame = mac(cluster.node) + mac(cluster.client) + ETH_P_IP.to_bytes(2)
    with wire(cluster.pods[0]) as at_pod, wire(cluster.client) as at_client:
        sent_in_order(at_client, [frame + packet for packet in packets])
        overheard(at_client, frame, CLIENT_ADDRESS, NODE_ADDRESS, lambda: taken(at_client))
        own.serving.settle()
        return [one for one in taken(at_pod) if one[16:20] == socket.inet_aton(POD.address)]


def from_client(body: bytes, protocol: int = traffic.UDP) -> bytes:
    return traffic.ip(CLIENT_ADDRESS, VIP, protocol, body)


def test_f72_f74_checksums_are_never_repaired(cluster: Cluster) -> None:
    # The pod counts the wrong one as such.
    with (
        pytest.raises(AssertionError, match="wrong checksum"),
        stage(cluster, plan=plan_of(1)) as own,
    ):
        none = from_client(traffic.udp(20_000, 7, b"no checksum"))
        none = none[:26] + b"\0\0" + none[28:]
        bad = from_client(traffic.udp(20_001, 7, b"a wrong one"))
        bad = bad[:26] + (int.from_bytes(bad[26:28]) ^ 0x0101).to_bytes(2) + bad[28:]
        good, wrong = thrown(own, none, bad)
        assert good[26:28] == b"\0\0"
        # Sums over the whole datagram are what they were: what was wrong is wrong by as much.
        assert summed(wrong) == summed(bad) != 0


def summed(packet: bytes) -> int:
    """The checksum over a datagram with its addresses; 0 where the one that it carries is right."""
    pseudo = packet[12:20] + struct.pack(">II", len(packet) - 20, traffic.UDP)
    return traffic.checksum(pseudo + packet[20:])


def fragments(number: int, content: bytes, size: int = 1400) -> list[bytes]:
    """A datagram to the virtual IP in pieces."""
    whole = from_client(traffic.udp(number, 7, content))
    body = whole[20:]
    pieces = []
    for start in range(0, len(body), size):
        part = body[start : start + size]
        more = 0x2000 if start + size < len(body) else 0
        head = struct.pack(
            ">BBHHHBBH", 0x45, 0, 20 + len(part), number, more | start // 8, 64, traffic.UDP, 0
        )
        head += whole[12:20]
        pieces.append(head[:10] + traffic.checksum(head).to_bytes(2) + head[12:] + part)
    return pieces


@DATAPATHS
def test_f78_f79_f80_fragments_in_any_order(cluster: Cluster, datapath: DatapathKind) -> None:
    content = os.urandom(5000)
    with stage(cluster, datapath, plan=plan_of(1)) as own:
        in_order, reverse, orphans, overlapping = (
            fragments(30_000 + number, content) for number in range(4)
        )
        sent = [*in_order, *reverse[::-1], *orphans[1:], overlapping[0], *overlapping]
        arrived = thrown(own, *sent)
        assert {flow.source[1] for flow in own.flows()} >= {30_000, 30_001}
        assert 30_002 not in {flow.source[1] for flow in own.flows()}, "its first piece never came"
        pieces = {int.from_bytes(one[4:6]) for one in arrived}
        assert pieces >= {30_000, 30_001}
        assert 30_002 not in pieces
        # Where a piece came twice, the datagram is whole or doomed (RFC 5722).
        payload = b"".join(one[20:] for one in arrived if int.from_bytes(one[4:6]) == 30_003)[8:]
        assert payload in (b"", content)


@DATAPATHS
def test_f83_the_way_to_a_virtual_ip_can_be_traced(
    cluster: Cluster, datapath: DatapathKind
) -> None:
    echoes(cluster)
    with (
        stage(cluster, datapath) as own,
        own.client(socket.SOCK_DGRAM, Family.IPV4, (VIP, 7)) as client,
    ):
        assert answer(client, b"a flow that is known") == b"a flow that is known"
        client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        client.send(b"how far?")
        # The kernel finds this socket by the packet that the error quotes: it must be the one that
        # was sent.
        with pytest.raises(OSError, match="No route to host"):
            client.recv(100)
        _, ancillary, _, origin = client.recvmsg(100, 1000, socket.MSG_ERRQUEUE)
        [(_, kind, error)] = ancillary
        assert (kind, origin) == (IP_RECVERR, (VIP, 7))
        # The kernel makes errors about what it translates look as if the virtual IP sent them, as
        # for kube-proxy.
        sender = NODE_ADDRESS if datapath is DatapathKind.EVERY_PACKET else VIP
        assert socket.inet_ntoa(error[20:24]) == sender


@DATAPATHS
def test_f84_icmp_errors_that_nobody_can_mean(cluster: Cluster, datapath: DatapathKind) -> None:
    with stage(cluster, datapath) as own:
        ours = from_client(traffic.udp(4000, 7, b"never sent"))
        cut = [
            traffic.error(CLIENT_ADDRESS, VIP, ours[:length], 3, 3) for length in (0, 8, 20, 24, 28)
        ]
        nested = traffic.error(CLIENT_ADDRESS, VIP, cut[-1], 3, 3)
        unmatched = traffic.error(
            CLIENT_ADDRESS, VIP, traffic.ip(VIP, CLIENT_ADDRESS, 17, ours[20:]), 3, 3
        )
        wrong = bytearray(unmatched)
        wrong[22] ^= 0xFF
        assert thrown(own, *cut, nested, unmatched, bytes(wrong)) == []
        if datapath is DatapathKind.EVERY_PACKET:
            causes = own.engine.stats().causes
            assert causes["icmp-unmatched"] >= 1
            assert causes["bad-icmp"] >= 1
        assert own.engine.stats().flows == 0


@DATAPATHS
def test_f87_garbage(cluster: Cluster, datapath: DatapathKind) -> None:
    echoes(cluster)
    chance = random.Random(87)
    with stage(cluster, datapath) as own:
        garbage = [
            from_client(
                chance.randbytes(chance.randrange(1400)), chance.choice((6, 17, 132, 1, 50, 253))
            )
            for _ in range(1000)
        ]
        # Nobody waits for an answer to these; whatever fits no flow ends here.
        thrown(own, *garbage)
        with own.client(socket.SOCK_DGRAM, Family.IPV4, (VIP, 7)) as client:
            assert answer(client, b"still there") == b"still there"


@DATAPATHS
def test_f46_only_a_plain_acknowledgement_is_picked_up_in_mid_stream(
    cluster: Cluster, datapath: DatapathKind
) -> None:
    """What the kernel calls INVALID ends here: no scan by FIN passes."""
    with stage(cluster, datapath, plan=plan_of(1)) as own:
        stray = [
            from_client(traffic.tcp(20_000 + number, 5002, flags, 100, 200), traffic.TCP)
            for number, flags in enumerate((FIN, FIN | ACK, RST, RST | ACK, SYN | ACK, ACK))
        ]
        [arrived] = thrown(own, *stray)
        assert traffic.ports(arrived)[0] == 20_005


@DATAPATHS
def test_f88_what_stands_behind_a_packet_in_its_frame_is_no_part_of_it(
    cluster: Cluster, datapath: DatapathKind
) -> None:
    with stage(cluster, datapath, plan=plan_of(1)) as own:
        short = from_client(traffic.udp(5000, 7, b"x"))
        [arrived] = thrown(own, short + b"trailing bytes of the frame")
        assert arrived[28:] == b"x"
        assert summed(arrived) == 0


@DATAPATHS
@FAMILIES
def test_f34_two_datagrams_of_one_socket_at_once_reach_one_backend(
    cluster: Cluster, family: Family, datapath: DatapathKind
) -> None:
    echoes(cluster, family)
    with stage(cluster, datapath) as own, ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(own.client(socket.SOCK_DGRAM, family, (VIPS[family], 7)))
            # As a resolver asks for A and AAAA: the second one is sent before the first has its
            # verdict.
            client.send(b"A")
            client.send(b"AAAA")
            assert {client.recv(10), client.recv(10)} == {b"A", b"AAAA"}
        flows = own.flows()
        assert len(flows) == len({flow.source for flow in flows}) == 200, "one flow for each socket"


@DATAPATHS
@FAMILIES
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_f90_a_pod_reaches_itself(
    cluster: Cluster, family: Family, datapath: DatapathKind, kind: int
) -> None:
    pod = cluster.pods[0]
    served(pod, SHORT_SERVER) if kind == socket.SOCK_STREAM else served(pod, UDP_ECHO, str(family))
    to = (VIPS[family], 5002 if kind == socket.SOCK_STREAM else 7)
    with (
        stage(cluster, datapath, plan=plan_of(1)) as own,
        own.client(kind, family, to, pod) as client,
    ):
        assert answer(client, b"hello myself") == b"hello myself"
        assert client.getpeername()[:2] == to


@DATAPATHS
def test_f91_martians_open_nothing(cluster: Cluster, datapath: DatapathKind) -> None:
    with stage(cluster, datapath) as own:
        body = traffic.udp(6000, 7, b"from where?")
        sources = ("127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", VIP)
        assert (
            thrown(own, *(traffic.ip(source, VIP, traffic.UDP, body) for source in sources)) == []
        )
        assert own.engine.stats().causes["martian"] == len(sources)
        assert own.engine.stats().flows == 0


@DATAPATHS
def test_f108_loopback_is_not_reached_from_outside(
    cluster: Cluster, datapath: DatapathKind
) -> None:
    port_80 = replace(
        port("echo", 7, "udp", Family.IPV4), frontends=(Frontend("node-port", "", 30007),)
    )
    plan = replace(plan_of(), ports=(port_80,), node_ports=NodePorts((NODE_ADDRESS, "127.0.0.1")))
    with stage(cluster, datapath, plan=plan) as own:
        body = traffic.udp(6000, 30007, b"to loopback")
        to_loopback = traffic.ip(CLIENT_ADDRESS, "127.0.0.1", traffic.UDP, body)
        to_node = traffic.ip(CLIENT_ADDRESS, NODE_ADDRESS, traffic.UDP, body)
        thrown(own, to_loopback, to_node)
        assert own.engine.stats().causes["martian"] == 1
        assert own.engine.stats().causes["new"] == 1
        for device in ("all", "eth0", "docker0"):
            setting = f"/proc/sys/net/ipv4/conf/{device}/route_localnet"
            assert cluster.node.call("cat", setting) == "0\n", "it is never set"


@DATAPATHS
def test_tcp_may_be_refused_with_a_reset(cluster: Cluster, datapath: DatapathKind) -> None:
    plan = replace(plan_of(), options=Options(resets_tcp=True))

    def unreachable() -> int:
        lines = [line.split() for line in cluster.node.call("cat", "/proc/net/snmp").splitlines()]
        names, values = (line for line in lines if line[0] == "Icmp:")
        return int(values[names.index("OutDestUnreachs")])

    with stage(cluster, datapath, plan=plan) as own:
        for where in (cluster.client, cluster.node):
            before = unreachable()
            with pytest.raises(ConnectionRefusedError):
                own.client(socket.SOCK_STREAM, Family.IPV4, (VIP, 81), where)
            assert unreachable() == before
        with (
            own.client(socket.SOCK_DGRAM, Family.IPV4, (VIP, 82)) as client,
            pytest.raises(ConnectionRefusedError),
        ):
            answer(client, b"UDP knows no reset")


@DATAPATHS
def test_f93_other_rules_of_the_node_see_sound_flows(
    cluster: Cluster, datapath: DatapathKind
) -> None:
    node = cluster.node
    invalid = ("FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    node.call("iptables", "-A", *invalid)
    outside = ("POSTROUTING", "-s", "172.17.0.0/16", "!", "-o", "docker0", "-j", "MASQUERADE")
    node.call("iptables", "-t", "nat", "-A", *outside)
    for pod in cluster.pods:
        served(pod, SHORT_SERVER)
    with stage(cluster, datapath) as own:
        for _ in range(100):
            with own.client(socket.SOCK_STREAM, Family.IPV4, (VIP, 5002)) as client:
                assert answer(client, b"hello") == b"hello"
    assert "[0:0] -A FORWARD -m conntrack --ctstate INVALID -j DROP" in node.call(
        "iptables-save", "-c"
    )


@DATAPATHS
def test_f94_marks_of_others_stay(cluster: Cluster, datapath: DatapathKind) -> None:
    echoes(cluster)
    node = cluster.node
    # Where the kernel translates, it needs the bits of kube-proxy for a moment.
    others = "0xc001/0xc001" if datapath is DatapathKind.EVERY_PACKET else "0x1/0x1"
    seen = ("POSTROUTING", "-p", "udp", "-m", "mark", "--mark", others)
    node.call("iptables", "-t", "nat", "-A", *seen)
    with (
        stage(cluster, datapath) as own,
        own.client(socket.SOCK_DGRAM, Family.IPV4, None, node) as client,
    ):
        # Those of kube-proxy, somebody's, and the one by which we know what was translated: it is
        # no reason to believe it.
        client.setsockopt(socket.SOL_SOCKET, SO_MARK, 0xC001 | 0x1000)
        client.connect((VIP, 7))
        with suppress(TimeoutError):
            client.settimeout(1)
            answer(client, b"marked")
        assert own.engine.stats().causes["new"] == 1
    assert "[1:" in node.call("iptables-save", "-c", "-t", "nat").partition(others)[0][-60:]


IP_RECVERR = 11
SO_MARK = 36
