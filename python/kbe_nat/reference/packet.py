"""Packets for the reference NAT: read into fields, written with other ends.

Checksums are not computed anew but follow the change (RFC 1624, equation 3), so a wrong one stays
wrong. Fragments are not understood.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
NUMBERS: Final = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
"""Protocols that Services have ports of."""


class Malformed(Exception):
    """Bytes that are no packet."""

    def __init__(self, cause: str = "malformed") -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Ends:
    """Source and destination. An echo request has its identifier as source port, a reply as
    destination port.
    """

    src: Address
    sport: int
    dst: Address
    dport: int

    def swap(self) -> "Ends":
        """The ends of an answer."""
        return Ends(self.dst, self.dport, self.src, self.sport)


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet and what its headers say."""

    content: bytes
    protocol: int
    kind: str
    """"tcp", "udp", "sctp", "echo-request", "echo-reply", "icmp-error", "icmp-other" or "portless".
    """
    ends: Ends
    l4: int
    """Where the transport header begins."""
    end: int
    """Where the packet ends by its IP header; what lies behind is padding."""

    @property
    def transport(self) -> bytes:
        """Transport header and payload."""
        return self.content[self.l4 : self.end]

    def has_right_icmp_checksum(self) -> bool:
        """Whether an ICMP message is intact. ICMPv6 covers a pseudo header too (RFC 4443, 2.3)."""
        pseudo = (
            _pseudo_header(self.ends, self.protocol, len(self.transport)) if self.is_v6 else b""
        )
        return _sum(pseudo + self.transport) == 0xFFFF

    @property
    def is_v6(self) -> bool:
        """Whether it is of IPv6."""
        return isinstance(self.ends.src, IPv6Address)


def parse(packet: bytes) -> Packet:
    """Read a packet. Raises `Malformed` when its headers contradict themselves or its length."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        protocol, l4, end = _ipv4(packet)
    elif version == 6:
        protocol, l4, end = _ipv6(packet)
    else:
        raise Malformed
    kind, sport, dport = _transport(protocol, packet[l4:end], version)
    src, dst = _addresses(packet)
    return Packet(packet, protocol, kind, Ends(src, sport, dst, dport), l4, end)


def parse_quote(error: Packet) -> Packet | None:
    """The packet that an ICMP error quotes: cut anywhere behind the first 8 bytes of its transport
    header (RFC 792). None when it is cut earlier.
    """
    quote = error.transport[8:]
    version = quote[0] >> 4 if quote else 0
    try:
        if version == 4 and len(quote) >= 20:
            protocol, l4, end = quote[9], (quote[0] & 15) * 4, int.from_bytes(quote[2:4])
            if l4 < 20 or int.from_bytes(quote[6:8]) & 0x1FFF:
                return None
        elif version == 6 and len(quote) >= 40:
            end = min(40 + int.from_bytes(quote[4:6]), len(quote))
            protocol, l4, is_later = _extensions(quote[6], quote[:end])
            if is_later:
                return None
        else:
            return None
        end = min(end, len(quote))
        transport = quote[l4:end]
        if len(transport) < 8 or l4 + 20 > MAX_TRANSLATED:
            return None
        if protocol in NUMBERS.values():
            kind = next(name for name, value in NUMBERS.items() if value == protocol)
            sport, dport = int.from_bytes(transport[:2]), int.from_bytes(transport[2:4])
        else:
            kind, sport, dport = _transport(protocol, transport, version)
    except Malformed:
        return None
    src, dst = _addresses(quote)
    return Packet(quote, protocol, kind, Ends(src, sport, dst, dport), l4, end)


def rewritten(packet: Packet, to: Ends, is_incomplete: bool) -> bytes:
    """The packet with other ends. `is_incomplete`: its transport checksum was never there, so it is
    computed.
    """
    if packet.kind == "sctp":
        return _rewritten_sctp(packet, to, is_incomplete)
    changed = _with_ends(packet, to)
    place = CHECKSUMS.get(packet.kind)
    if is_incomplete and packet.kind in ("tcp", "udp") and place is not None:
        at = packet.l4 + place
        length = packet.end - packet.l4
        if packet.kind == "udp":
            length = min(length, int.from_bytes(packet.transport[4:6]))
        changed[at : at + 2] = b"\0\0"
        pseudo = _pseudo_header(to, packet.protocol, length)
        computed = ~_sum(pseudo + bytes(changed[packet.l4 : packet.l4 + length])) & 0xFFFF
        changed[at : at + 2] = (
            0xFFFF if packet.kind == "udp" and not computed else computed
        ).to_bytes(2)
    return bytes(changed)


def rewritten_error(packet: Packet, quote: Packet, sent: Ends) -> bytes:
    """An ICMP error that quotes `sent` instead, and goes to the sender of that. The source changes
    only if it is the other end of the flow: a router keeps its address, so traceroute shows it.
    """
    outer = packet.ends
    src = sent.dst if outer.src == quote.ends.dst else outer.src
    to = Ends(src, outer.sport, sent.src, outer.dport)
    changed = _with_addresses(bytearray(packet.content), outer, to)
    start = packet.l4 + 8
    # SCTP's CRC lies over the whole packet: no receiver can check it in a quote that is cut.
    is_whole_sctp = quote.kind == "sctp" and _is_whole(quote.content)
    changed[start : packet.end] = (
        _rewritten_sctp(quote, sent, is_incomplete=False)
        if is_whole_sctp
        else _with_ends(quote, sent)
    )
    region = slice(start, min(start + quote.l4 + 20, packet.end))
    old, new = packet.content[region], bytes(changed[region])
    if packet.is_v6:
        old, new = _even(old) + _pack(outer), _even(new) + _pack(to)
    at = packet.l4 + 2
    changed[at : at + 2] = _update(packet.content[at : at + 2], old, new)
    return bytes(changed)


def _is_whole(quote: bytes) -> bool:
    try:
        parse(quote)
    except (Malformed, ValueError):
        return False
    return True


def _ipv4(packet: bytes) -> tuple[int, int, int]:
    """Protocol, where the transport header begins, and where the packet ends (RFC 791)."""
    l4, end = (packet[0] & 15) * 4, int.from_bytes(packet[2:4])
    if len(packet) < 20 or l4 < 20 or not l4 <= end <= len(packet):
        raise Malformed
    if int.from_bytes(packet[6:8]) & 0x3FFF:
        raise ValueError("fragments are not in the reference")
    if not _are_sound(packet[20:l4]):
        raise Malformed
    return packet[9], l4, end


def _are_sound(options: bytes) -> bool:
    """Whether each IPv4 option says a length that lies within the header."""
    while options and options[0] != 0:
        length = 1 if options[0] == 1 else options[1] if len(options) > 1 else 0
        if not (options[0] == 1 or 2 <= length <= len(options)):
            return False
        options = options[length:]
    return True


def _ipv6(packet: bytes) -> tuple[int, int, int]:
    """The same of IPv6 (RFC 8200)."""
    if len(packet) < 40:
        raise Malformed
    end = 40 + int.from_bytes(packet[4:6])
    if end > len(packet) or (end == 40 and packet[6] == HOP_BY_HOP):
        raise Malformed
    protocol, l4, is_later = _extensions(packet[6], packet[:end], refuses_fragments=True)
    if is_later or l4 > end:
        raise Malformed
    return protocol, l4, end


def _extensions(
    following: int, packet: bytes, *, refuses_fragments: bool = False
) -> tuple[int, int, bool]:
    """Protocol behind the extension headers, where it begins, and whether a later fragment hides
    it.
    """
    l4 = 40
    for _ in range(9):
        if following not in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, MOBILITY):
            return following, l4, False
        header = packet[l4 : l4 + 8]
        if len(header) < 8:
            raise Malformed
        if following == FRAGMENT:
            field = int.from_bytes(header[2:4])
            if refuses_fragments and field & 0xFFF9:
                raise ValueError("fragments are not in the reference")
            following, l4 = header[0], l4 + 8
            if field & 0xFFF8:
                return following, l4, True
            continue
        if following == ROUTING and header[2] == 0:
            raise Malformed("source-route")
        following, l4 = header[0], l4 + (header[1] + 1) * 8
    raise Malformed


def _transport(protocol: int, body: bytes, version: int) -> tuple[str, int, int]:
    """Kind and ports."""
    ports = int.from_bytes(body[:2]), int.from_bytes(body[2:4])
    if protocol == TCP:
        if len(body) < 20 or not 20 <= (body[12] >> 4) * 4 <= len(body):
            raise Malformed
        return "tcp", *ports
    if protocol == UDP:
        if len(body) < 8 or not 8 <= int.from_bytes(body[4:6]) <= len(body):
            raise Malformed
        return "udp", *ports
    if protocol == SCTP:
        if len(body) < 12:
            raise Malformed
        return "sctp", *ports
    if protocol == (ICMP if version == 4 else ICMPV6):
        if len(body) < 8:
            raise Malformed
        identifier = int.from_bytes(body[4:6])
        kind = ICMP_KINDS[version].get(body[0], "icmp-other")
        return kind, identifier * (kind == "echo-request"), identifier * (kind == "echo-reply")
    return "portless", 0, 0


def _addresses(packet: bytes) -> tuple[Address, Address]:
    at, size = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    return ip_address(packet[at : at + size]), ip_address(packet[at + size : at + 2 * size])


def _with_addresses(packet: bytearray, old: Ends, new: Ends) -> bytearray:
    at = 12 if packet[0] >> 4 == 4 else 8
    packed = _pack(new)
    packet[at : at + len(packed)] = packed
    if packet[0] >> 4 == 4:
        packet[10:12] = _update(bytes(packet[10:12]), _pack(old), packed)
    return packet


def _with_ends(packet: Packet, to: Ends) -> bytearray:
    """The packet with other ends; ports of ICMP are the identifier."""
    changed = _with_addresses(bytearray(packet.content), packet.ends, to)
    old, new = _ports(packet.ends), _ports(to)
    if packet.kind in ("tcp", "udp", "sctp"):
        changed[packet.l4 : packet.l4 + 4] = new
    elif packet.kind in ("echo-request", "echo-reply"):
        changed[packet.l4 + 4 : packet.l4 + 6] = (to.sport | to.dport).to_bytes(2)
    place = CHECKSUMS.get(packet.kind)
    if place is None or packet.l4 + place + 2 > packet.end:
        return changed
    if packet.protocol != ICMP:
        old, new = old + _pack(packet.ends), new + _pack(to)
    at = packet.l4 + place
    checksum = bytes(changed[at : at + 2])
    if packet.kind != "udp":
        changed[at : at + 2] = _update(checksum, old, new)
    elif checksum != b"\0\0":
        # 0 means that there is none, and stays; a computed 0 is sent as 0xffff (RFC 768).
        changed[at : at + 2] = _update(checksum, old, new).replace(b"\0\0", b"\xff\xff")
    return changed


def _rewritten_sctp(packet: Packet, to: Ends, is_incomplete: bool) -> bytes:
    """SCTP's CRC covers no addresses, but all of the packet; a wrong one stays wrong by as much."""
    changed = _with_ends(packet, to)
    at = packet.l4 + 8
    before, after = _crc32c(packet.transport), _crc32c(bytes(changed[packet.l4 : packet.end]))
    if is_incomplete:
        changed[at : at + 4] = after.to_bytes(4, "little")
    else:
        checksum = int.from_bytes(changed[at : at + 4], "little")
        changed[at : at + 4] = (checksum ^ before ^ after).to_bytes(4, "little")
    return bytes(changed)


def _crc32c(packet: bytes) -> int:
    """The CRC32c of an SCTP packet, its own field taken as zero (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in packet[:8] + bytes(4) + packet[12:]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _pack(ends: Ends) -> bytes:
    return ends.src.packed + ends.dst.packed


def _ports(ends: Ends) -> bytes:
    return ends.sport.to_bytes(2) + ends.dport.to_bytes(2)


def _pseudo_header(ends: Ends, protocol: int, length: int) -> bytes:
    return _pack(ends) + length.to_bytes(4) + protocol.to_bytes(4)


def _update(checksum: bytes, old: bytes, new: bytes) -> bytes:
    """A checksum after covered bytes changed: ~(~HC + ~m + m')."""
    if old == new:
        return checksum
    total = (~int.from_bytes(checksum) & 0xFFFF) + (~_sum(old) & 0xFFFF) + _sum(new)
    return (~_fold(total) & 0xFFFF).to_bytes(2)


def _sum(content: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071)."""
    content = _even(content)
    return _fold(sum(int.from_bytes(content[at : at + 2]) for at in range(0, len(content), 2)))


def _even(content: bytes) -> bytes:
    return content + bytes(len(content) % 2)


def _fold(total: int) -> int:
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return total


HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, MOBILITY = 0, 43, 44, 60, 135
CHECKSUMS: Final = {"tcp": 16, "udp": 6, "echo-request": 2, "echo-reply": 2}
"""Where the checksum stands in the transport header."""
ICMP_KINDS: Final = {
    4: {8: "echo-request", 0: "echo-reply", **dict.fromkeys((3, 4, 5, 11, 12), "icmp-error")},
    6: {128: "echo-request", 129: "echo-reply", **dict.fromkeys((1, 2, 3, 4), "icmp-error")},
}
MAX_TRANSLATED: Final = 256
"""A quote whose transport header lies further behind is not translated."""
