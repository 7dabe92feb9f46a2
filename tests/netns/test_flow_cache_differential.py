"""The same packets by the flow cache and by the kernel's own NAT: byte for byte the same arrives.

Frames are given to the wire as the kernel's own stack or a network card would: with a finished
checksum, with one that is still to be computed (CHECKSUM_PARTIAL), or as many segments in one.
`KBE_NAT_FLOW_CACHE_PACKETS` says how many; `KBE_NAT_FLOW_CACHE_SEED` which.
"""

import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from harness import traffic
from harness.cached_router import (
    CLIENT,
    FAMILIES,
    FRONTEND_PORT,
    MACS,
    SERVER,
    SERVER_PORT,
    VIP,
    Router,
    proposals,
    router,
    skip_without_cache,
)
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import Namespace, inside

PACKETS = int(os.environ.get("KBE_NAT_FLOW_CACHE_PACKETS", "100000"))
SEED = int(os.environ.get("KBE_NAT_FLOW_CACHE_SEED", "18"))
FLOWS = range(30_000, 30_032)
BATCH = 256
SOL_PACKET, PACKET_VNET_HDR = 263, 15
NEEDS_CHECKSUM, TCP4, TCP6, UDP = 1, 1, 4, 5
"""Of `linux/virtio_net.h`: flags, and kinds of segments."""
SILENCE = """
table inet silence {
    chain input {
        type filter hook input priority filter; policy drop;
        meta l4proto icmpv6 accept
    }
}
"""


@dataclass
class Way:
    """A router with both its wires."""

    router: Router
    client: socket.socket
    server: socket.socket

    def pass_on(self, batch: list[tuple[bool, bytes]]) -> tuple[list[bytes], list[bytes]]:
        """Sends frames, each the client's or the server's; what arrives at the server's end, and
        at the client's.
        """
        for is_clients, frame in batch:
            (self.client if is_clients else self.server).send(frame)
        return list(arrived(self.server)), list(arrived(self.client))


def arrived(wire: socket.socket) -> Iterator[bytes]:
    """TCP and UDP that has come, each with the head that tells of checksum and segments."""
    while True:
        try:
            content, (_, _, kind, *_) = wire.recvfrom(1 << 17)
        except BlockingIOError:
            return
        place = {b"\x08\x00": 33, b"\x86\xdd": 30}.get(content[22:24])
        is_ours = place and content[place] in (traffic.TCP, traffic.UDP)
        if is_ours and kind != socket.PACKET_OUTGOING:
            yield content


def wire(namespace: Namespace, device: str) -> socket.socket:
    """A device's wire, whose frames have that head."""

    def opened() -> socket.socket:
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        link.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        link.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
        link.bind((device, 3))
        link.setblocking(False)
        return link

    return inside(namespace.path, opened)


@contextmanager
def ways() -> Iterator[tuple[Way, Way]]:
    """By the cache, and by the kernel alone. Nobody answers."""
    with ExitStack() as stack:
        both = []
        for _ in range(2):
            made = stack.enter_context(router())
            # A quiet machine is here before the first solicitation is answered, and the next one
            # takes a second.
            for ends, near, far in ((CLIENT, "r0", "c0"), (SERVER, "r1", "s0")):
                for address in ends.values():
                    words = ("lladdr", MACS[far], "dev", near, "nud", "permanent")
                    made.node.call("ip", "neighbour", "replace", address, *words)
            made.client.call("nft", SILENCE)
            made.servers[0].call("nft", SILENCE)
            wires = (wire(made.client, "c0"), wire(made.servers[0], "s0"))
            both.append(Way(made, *map(stack.enter_context, wires)))
        for device in both[1].router.cache.devices:
            both[1].router.cache.detach(device)
        # A veth device queues frames on the processor that sends them: on one they keep their
        # order, and have arrived when the call returns.
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cpus)})
        stack.callback(os.sched_setaffinity, 0, cpus)
        yield both[0], both[1]


class Packets:
    """Packets at random of a family's flows."""

    def __init__(self, family: Family, seed: int) -> None:
        self._family = family
        self._random = random.Random(seed)

    def frame(self, protocol: int, port: int, *, is_clients: bool, longest: int = 1400) -> bytes:
        """A frame of one of a flow's ends, with its head."""
        chosen, family = self._random, self._family
        source, destination = (CLIENT, VIP) if is_clients else (SERVER, CLIENT)
        ports = (port, FRONTEND_PORT) if is_clients else (SERVER_PORT, port)
        kind = chosen.choice(("complete", "complete", "partial", "segments"))
        if longest == 0:
            kind = "complete"
        size = chosen.choice((0, 1, 2, 3, 17, 18, 19, chosen.randrange(longest + 1)))
        segment = chosen.randrange(500, 1400)
        if kind == "segments":
            size = segment * chosen.randrange(2, 12) + chosen.randrange(1, segment)
        payload = chosen.randbytes(size)
        body = (
            self._tcp(*ports, payload) if protocol == traffic.TCP else traffic.udp(*ports, payload)
        )
        packet = bytearray(traffic.ip(source[family], destination[family], protocol, body))
        self._vary(packet)
        start = 20 if family is Family.IPV4 else 40
        offset = 16 if protocol == traffic.TCP else 6
        head = bytes(10)
        if kind != "complete":
            ends = ip_address(source[family]).packed + ip_address(destination[family]).packed
            pseudo = ends + struct.pack(">II", len(body), protocol)
            sum_so_far = 0xFFFF ^ traffic.checksum(pseudo)
            packet[start + offset : start + offset + 2] = sum_so_far.to_bytes(2)
            segments = TCP4 if family is Family.IPV4 else TCP6
            segments = UDP if protocol == traffic.UDP else segments
            above = start + ((body[12] >> 4) * 4 if protocol == traffic.TCP else 8)
            numbers = (segments, 14 + above, segment) if kind == "segments" else (0, 0, 0)
            head = struct.pack("<BBHHHH", NEEDS_CHECKSUM, *numbers, 14 + start, offset)
        elif protocol == traffic.UDP and family is Family.IPV4 and chosen.random() < 0.2:
            packet[start + 6 : start + 8] = bytes(2)
        near, far = ("c0", "r0") if is_clients else ("s0", "r1")
        ethernet = bytes.fromhex((MACS[far] + MACS[near]).replace(":", ""))
        ethertype = b"\x08\x00" if family is Family.IPV4 else b"\x86\xdd"
        return head + ethernet + ethertype + bytes(packet)

    def _tcp(self, sport: int, dport: int, payload: bytes) -> bytes:
        """A segment in the middle of a connection."""
        chosen = self._random
        flags = traffic.ACK | chosen.choice((0, traffic.PSH, 0x40, 0x20))
        numbers = (chosen.randrange(1000, 2000), 5000)
        plain = traffic.tcp(sport, dport, flags, *numbers, payload, chosen.randrange(1 << 16))
        if chosen.random() < 0.5:
            return plain
        options = b"\x01\x01\x08\x0a" + chosen.randbytes(8)
        return plain[:12] + bytes([0x80]) + plain[13:20] + options + plain[20:]

    def _vary(self, packet: bytearray) -> None:
        """Other fields of IP's header, which the cache has to leave as they are."""
        chosen = self._random
        if self._family is Family.IPV6:
            packet[1:4] = chosen.randbytes(3)
            packet[7] = chosen.randrange(2, 256)
            return
        packet[1] = chosen.randrange(256)
        packet[4:6] = chosen.randbytes(2)
        packet[6] = chosen.choice((0, 0x40))
        packet[8] = chosen.randrange(2, 256)
        packet[10:12] = bytes(2)
        packet[10:12] = traffic.checksum(bytes(packet[:20])).to_bytes(2)


@FAMILIES
def test_f141_the_cache_sends_what_the_kernel_sends(family: Family) -> None:
    skip_without_cache()
    made = Packets(family, SEED)
    flows = [(protocol, port) for protocol in (traffic.TCP, traffic.UDP) for port in FLOWS]
    chosen = random.Random(SEED)
    with ways() as (cached, plain):
        for is_clients in (True, False):
            opening = [
                (is_clients, made.frame(protocol, port, is_clients=is_clients, longest=0))
                for protocol, port in flows
            ]
            assert cached.pass_on(opening) == plain.pass_on(opening)
        for protocol, port in flows:
            rows = proposals(
                "tcp" if protocol == traffic.TCP else "udp",
                (CLIENT[family], port),
                (VIP[family], FRONTEND_PORT),
                (SERVER[family], SERVER_PORT),
            )
            cached.router.cache.propose(rows)
        sent = received = 0
        while sent < PACKETS // 2:
            batch = [
                (is_clients, made.frame(*chosen.choice(flows), is_clients=is_clients))
                for is_clients in chosen.choices((True, False), k=BATCH)
            ]
            ours, theirs = cached.pass_on(batch), plain.pass_on(batch)
            for place, one, other in zip(("server", "client"), ours, theirs, strict=True):
                for mine, kernels in zip(one, other, strict=True):
                    assert mine.hex() == kernels.hex(), f"at the {place}, seed {SEED}"
            sent += len(batch)
            received += sum(map(len, theirs))
        assert received == sent
        # Some teach the cache anew each lease how long packets may be, and one renews the entry.
        assert cached.router.counter("hits") > 0.75 * sent
