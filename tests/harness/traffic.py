"""Packets for tests, built byte by byte with right checksums, and conversations that number their
segments.
"""

import struct
from dataclasses import dataclass
from ipaddress import ip_address

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
ISS = 5000
"""Where every backend begins to count."""


def checksum(content: bytes) -> int:
    """RFC 1071."""
    content += bytes(len(content) % 2)
    total: int = sum(struct.unpack(f">{len(content) // 2}H", content))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(
    src: str, dst: str, protocol: int, body: bytes, *, ttl: int = 64, options: bytes = b""
) -> bytes:
    """An IP packet around a transport packet whose checksum, if it has one, is filled in."""
    from_ip, to_ip = ip_address(src).packed, ip_address(dst).packed
    body = _with_checksum(from_ip + to_ip, protocol, body)
    if len(from_ip) == 16:
        return struct.pack(">IHBB", 0x60012345, len(body), protocol, ttl) + from_ip + to_ip + body
    length = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH", 0x40 | length // 4, 0x10, length + len(body), 77, 0x4000, ttl, protocol, 0
    )
    head += from_ip + to_ip + options
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + body


def tcp(
    sport: int, dport: int, flags: int, seq: int, ack: int, payload: bytes = b"", window: int = 1000
) -> bytes:
    """A TCP segment without checksum; a SYN offers a window scale of 2."""
    options = b"\x02\x04\x05\xb4\x01\x03\x03\x02" if flags & SYN else b""
    offset = (20 + len(options)) // 4 << 4
    numbers = (seq & 0xFFFFFFFF, ack & 0xFFFFFFFF)
    return (
        struct.pack(">HHIIBBHHH", sport, dport, *numbers, offset, flags, 1000, 0, 0)
        + options
        + payload
    )


def udp(sport: int, dport: int, payload: bytes = b"") -> bytes:
    """A UDP datagram without checksum."""
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


def echo(kind: int, identifier: int, payload: bytes = b"ping") -> bytes:
    """An ICMP echo message without checksum."""
    return struct.pack(">BBHHH", kind, 0, 0, identifier, 1) + payload


def error(src: str, dst: str, quoted: bytes, kind: int, code: int) -> bytes:
    """An ICMP error that quotes a packet."""
    protocol = ICMPV6 if ":" in src else ICMP
    return ip(src, dst, protocol, struct.pack(">BBHI", kind, code, 0, 0) + quoted)


def sctp(sport: int, dport: int, chunk: int) -> bytes:
    """An SCTP packet with one empty chunk and a CRC of 0, which is wrong."""
    return struct.pack(">HHIIBBH", sport, dport, 7, 0, chunk, 0, 4)


def addresses(packet: bytes) -> tuple[str, str]:
    """Source and destination."""
    at, size = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    return str(ip_address(packet[at : at + size])), str(
        ip_address(packet[at + size : at + 2 * size])
    )


def transport(packet: bytes) -> bytes:
    """What follows the IP header, which has no extensions."""
    return packet[(packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40 :]


def ports(packet: bytes) -> tuple[int, int]:
    """Source and destination port."""
    sport, dport = struct.unpack_from(">HH", transport(packet))
    return sport, dport


@dataclass
class Talk:
    """A TCP connection as its two ends see it: what each will send next."""

    client: int = 100
    server: int = ISS

    window: int = 1000
    """That both announce."""

    def forward(self, sport: int, dport: int, flags: int, payload: bytes, skew: int) -> bytes:
        """The client's next segment; one with a skew is out of order and not counted."""
        ack = self.server if flags & ACK else 0
        segment = tcp(sport, dport, flags, self.client + skew, ack, payload, self.window)
        self.client += (len(payload) + bool(flags & SYN) + bool(flags & FIN)) * (not skew)
        return segment

    def back(self, sport: int, dport: int, flags: int, payload: bytes, skew: int) -> bytes:
        """The backend's."""
        ack = self.client if flags & ACK else 0
        segment = tcp(sport, dport, flags, self.server + skew, ack, payload, self.window)
        self.server += (len(payload) + bool(flags & SYN) + bool(flags & FIN)) * (not skew)
        return segment


def _with_checksum(ends: bytes, protocol: int, body: bytes) -> bytes:
    place = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}.get(protocol)
    if place is None:
        return body
    pseudo = b"" if protocol == ICMP else ends + struct.pack(">II", len(body), protocol)
    computed = checksum(pseudo + body)
    if protocol == UDP and computed == 0:
        computed = 0xFFFF
    return body[:place] + computed.to_bytes(2) + body[place + 2 :]
