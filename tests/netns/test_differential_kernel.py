"""The same packets through kbe-nat and through the kernel's own DNAT, in clusters of their own:
both must send on the same bytes.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count

from scapy.layers.sctp import crc32c

import kbe_nat
from harness import traffic
from harness.stage import DATAPATHS, POD, serving
from harness.waiting import eventually
from harness.wires import ETH_P_IP, MARKER, mac, sent_in_order, taken, wire
from kbe_nat.family import Family
from kbe_nat.playground.cluster import CLIENT_ADDRESS, Cluster
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Frontend, Plan, PlannedPort
from kbe_nat.rules.rule import DatapathKind

VIP = "172.30.228.255"
NOBODYS = 20


@DATAPATHS
def test_kernel_dnat_and_kbe_nat_send_on_the_same_packets(datapath: DatapathKind) -> None:
    packets = list(sent())
    theirs, ours = through(packets, None), through(packets, datapath)
    assert len(theirs[0]) == len(packets) - NOBODYS
    for place, (kernel, own) in {
        "pod": (theirs[0], ours[0]),
        "client": (theirs[1], ours[1]),
    }.items():
        assert len(own) == len(kernel), place
        for one, other in zip(own, kernel, strict=True):
            assert one.hex() == other.hex(), place


def sent() -> Iterator[bytes]:
    """Packets of the client to the virtual IP; every one of a port of its own, so that both begin
    without flows.
    """
    own = iter(range(20_000, 60_000))
    for size in (0, 1, 2, 3, 17, 512, 999, 1400, 1472):
        yield traffic.ip(
            CLIENT_ADDRESS, VIP, traffic.UDP, traffic.udp(next(own), 53, os.urandom(size))
        )
    for flags in (traffic.SYN, traffic.SYN | 0xC0):
        for window in (0, 1, 0xFFFF):
            segment = traffic.tcp(next(own), 80, flags, 0xFFFF_FFF0, 0, b"", window)
            yield traffic.ip(CLIENT_ADDRESS, VIP, traffic.TCP, segment)
    for _ in range(5):
        chunk = struct.pack(">BBHIIHHI", 1, 0, 20, os.getpid(), 65536, 1, 1, 7)
        head = struct.pack(">HHI", next(own), 90, 0)
        # The kernel looks at the checksum before it tracks an association.
        body = head + crc32c(head + bytes(4) + chunk).to_bytes(4) + chunk
        yield traffic.ip(CLIENT_ADDRESS, VIP, traffic.SCTP, body)
    for ttl in (2, 3, 64, 255):
        body = traffic.udp(next(own), 53, b"time to live")
        yield traffic.ip(CLIENT_ADDRESS, VIP, traffic.UDP, body, ttl=ttl)
    for options in (b"\x01\x01\x01\x01", b"\x07\x07\x04\0\0\0\0\0", b"\x94\x04\0\0"):
        body = traffic.udp(next(own), 53, b"options")
        yield traffic.ip(CLIENT_ADDRESS, VIP, traffic.UDP, body, options=options)
    # No checksum, and one that comes out as zero and is sent as 0xffff.
    plain = traffic.ip(CLIENT_ADDRESS, VIP, traffic.UDP, traffic.udp(next(own), 53, b"none"))
    yield plain[:26] + b"\0\0" + plain[28:]
    for low in range(0, 0x10000, 0x01FF):
        body = traffic.udp(next(own), 53, struct.pack(">HH", low, 0xFFFF - low))
        yield traffic.ip(CLIENT_ADDRESS, VIP, traffic.UDP, body)
    for port in range(NOBODYS):
        # To a port where nobody serves, and to another address: nobody's.
        yield traffic.ip(
            CLIENT_ADDRESS, VIP, traffic.UDP, traffic.udp(next(own), 1000 + port, b"nobody")
        )


def through(packets: list[bytes], datapath: DatapathKind | None) -> tuple[list[bytes], list[bytes]]:
    """What arrives at the pod, and what comes back to the client (refusals, which quote what was
    sent); by the kernel's DNAT without a datapath of ours.
    """
    with Cluster((POD,)) as cluster, ExitStack() as stack:
        served = None
        if datapath is not None:
            served = stack.enter_context(
                serving(cluster.node, kbe_nat.Engine(seed=1), PLAN, datapath)
            )
        else:
            for protocol, number in (("udp", 53), ("tcp", 80), ("sctp", 90)):
                rule = ("-d", VIP, "-p", protocol, "--dport", str(number), "-j", "DNAT")
                target = ("--to-destination", f"{POD.address}:{number}")
                cluster.node.call("iptables", "-t", "nat", "-A", "PREROUTING", *rule, *target)
        pod, client = cluster.pods[0], cluster.client
        # Replies are ours to compare, not the kernel's budget of them.
        for own in (pod, client, cluster.node):
            own.write("/proc/sys/net/ipv4/icmp_ratelimit", "0")
            own.write("/proc/sys/net/ipv4/icmp_msgs_per_sec", "100000")
            own.write("/proc/sys/net/ipv4/icmp_msgs_burst", "10000")
        # Everybody knows his neighbours before it begins.
        client.call("curl", "-sS", f"{POD.address}:{POD.port}/info")
        frame = mac(cluster.node) + mac(client) + ETH_P_IP.to_bytes(2)
        with wire(pod) as at_pod, wire(client) as at_client:
            sent_in_order(at_client, [frame + packet for packet in packets])
            heard: list[bytes] = []
            numbers = count(60_000)

            def is_answered() -> bool:
                marker = traffic.udp(next(numbers), 53, MARKER)
                at_client.send(frame + traffic.ip(CLIENT_ADDRESS, VIP, traffic.UDP, marker))
                heard.extend(taken(at_client))
                return any(MARKER in one for one in heard)

            # The pod refuses what it gets, in the order in which it gets it: when a refusal of the
            # last one is back, so is everything.
            eventually(is_answered)
            if served:
                served.settle()
            arrived = [
                one for one in taken(at_pod) if one[12:16] == socket.inet_aton(CLIENT_ADDRESS)
            ]
            back = [
                unnumbered(one) for one in heard if one[16:20] == socket.inet_aton(CLIENT_ADDRESS)
            ]
    arrived, back = ([one for one in some if MARKER not in one] for some in (arrived, back))
    return [one for one in arrived if one[9] != traffic.ICMP], sorted(back)


def unnumbered(packet: bytes) -> bytes:
    """A packet that a kernel has made, without the identification that it chose, and the checksum
    over it.
    """
    return packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]


def _port(protocol: str, number: int) -> PlannedPort:
    frontend = Frontend("cluster-ip", VIP, number)
    target = type(POD)(POD.address, number)
    return PlannedPort("default", protocol, "", protocol, Family.IPV4, (frontend,), (target,), ())


PLAN = Plan(
    (_port("udp", 53), _port("tcp", 80), _port("sctp", 90)),
    ("10.0.2.15",),
    options=Options(),
)
