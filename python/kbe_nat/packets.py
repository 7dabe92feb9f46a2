"""IP packets by their fields: built, with right lengths and checksums, and read.

>>> syn = Packet("tcp", ("10.0.2.15", 49152), ("172.30.228.255", 80), flags="S")
>>> len(bytes(syn)), Packet.parse(bytes(syn)) == syn
(40, True)

For programs and tests that make a few packets; the engine reads and rewrites packets itself.
"""

import struct
import sys
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from kbe_nat.errors import PacketError
from kbe_nat.field_docs import documented
from kbe_nat.model import join_address

if TYPE_CHECKING:
    if sys.version_info >= (3, 12):
        from collections.abc import Buffer
    else:
        from typing_extensions import Buffer

__all__ = ["TCP_FLAGS", "Ends", "Packet", "crc32c", "ends", "opening", "show"]


@documented
@dataclass(frozen=True, slots=True)
class Ends:
    """Source and destination of a packet; ports are 0 where it has none."""

    protocol: str
    """As of a `Packet`."""
    source: tuple[str, int]
    """Address, as text in its canonical form, and port of the sender."""
    destination: tuple[str, int]
    """Address and port of the receiver, alike."""


@documented
@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet; `bytes(packet)` writes it with its checksums (RFC 791, 8200, 9293, 768, 9260,
    792, 4443).
    """

    protocol: str
    """"tcp", "udp", "sctp", "icmp", "icmpv6", in letters of any case, or another protocol's number
    as text.
    """
    source: tuple[str, int]
    """Address and port of the sender; the port is 0 where the protocol has none. Addresses of
    `ipaddress` become text.
    """
    destination: tuple[str, int]
    """Address and port of the receiver, alike."""
    flags: str = ""
    """Of TCP, in tcpdump's letters: F, S, R, P, A (for tcpdump's dot), U, E, C."""
    payload: bytes = b""
    """The bytes behind the transport header; of SCTP the chunks."""
    sequence: int = 0
    """Of TCP the sequence number, of SCTP the verification tag; 32 bits."""
    acknowledgement: int = 0
    """Of TCP the acknowledgement number; 32 bits."""
    window: int = 64_240
    """Of TCP the window in bytes, not scaled; 16 bits."""
    type: int = 0
    """Of ICMP, such as 8 for an echo request (128 in IPv6); 8 bits."""
    code: int = 0
    """Of ICMP, the kind within the type; 8 bits."""
    rest: int = 0
    """Of ICMP the four bytes behind the checksum as one number, such as identifier and sequence
    number.
    """
    ttl: int = 64
    """The hops that it may still take: of IPv4 the time to live, of IPv6 the hop limit; 8 bits."""
    identification: int = 0
    """Of IPv4, by which fragments find each other; 16 bits."""

    def __post_init__(self) -> None:
        """Raises `PacketError` for a field out of its range, and for addresses of two families;
        TypeError for a field of another type.
        """
        ends = {name: _end(name, getattr(self, name)) for name in ("source", "destination")}
        families = {":" in address for address, _ in ends.values()}
        if len(families) > 1:
            first, second = (address for address, _ in ends.values())
            raise PacketError(f"{first} and {second} are of different families")
        for name, bits in BITS.items():
            _whole_number(name, getattr(self, name), bits)
        # One spelling for what is one packet: packets are compared by their fields.
        fields = {
            **ends,
            "protocol": _protocol(self.protocol),
            "flags": _flags(self.flags),
            "payload": octets("payload", self.payload),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if self.flags and self.protocol != "tcp":
            raise PacketError(f"flags are of tcp, and the packet is of {self.protocol}")
        most = 65_535 - HEADERS.get(self.protocol, 0) - (0 if families == {True} else 20)
        if len(self.payload) > most:
            raise PacketError(f"payload has at most {most} bytes, not {len(self.payload)}")

    @classmethod
    def parse(cls, packet: "Buffer") -> Self:
        """The fields of a packet. Options and extension headers are skipped, checksums are not
        verified. Raises `PacketError` for bytes that are cut, or that are a later fragment.
        """
        packet = octets("packet", packet)
        place = _place(packet)
        if place is None or place.is_later_fragment or len(packet) < place.start:
            raise PacketError("the bytes are no IP packet with a whole header")
        end = 40 + int.from_bytes(packet[4:6]) if place.is_v6 else int.from_bytes(packet[2:4])
        if end > len(packet) or end < place.start:
            raise PacketError(f"the packet has {len(packet)} bytes, and its header says {end}")
        body = packet[place.start : end]
        result = cls(
            place.name,
            (place.source, 0),
            (place.destination, 0),
            payload=body,
            ttl=packet[7 if place.is_v6 else 8],
            identification=0 if place.is_v6 else int.from_bytes(packet[4:6]),
        )
        try:
            if place.name in WITH_PORTS:
                source, destination = struct.unpack_from(">HH", body)
                result = replace(
                    result,
                    source=(place.source, source),
                    destination=(place.destination, destination),
                )
            return result._with_transport(body)
        except struct.error:
            raise PacketError(f"the {place.name} header is cut") from None

    def _with_transport(self, body: bytes) -> Self:
        """The packet with the fields of the transport header behind its ports."""
        if self.protocol == "tcp":
            sequence, answer, offset, bits, window = struct.unpack_from(">IIBBH", body, 4)
            return replace(
                self,
                flags="".join(letter for n, letter in enumerate(TCP_FLAGS) if bits >> n & 1),
                payload=body[(offset >> 4) * 4 :],
                sequence=sequence,
                acknowledgement=answer,
                window=window,
            )
        if self.protocol == "udp":
            length, _ = struct.unpack_from(">HH", body, 4)
            return replace(self, payload=body[8:length])
        if self.protocol == "sctp":
            tag, _ = struct.unpack_from(">II", body, 4)
            return replace(self, payload=body[12:], sequence=tag)
        if self.protocol in ("icmp", "icmpv6"):
            type_, code, _, rest = struct.unpack_from(">BBHI", body)
            return replace(self, payload=body[8:], type=type_, code=code, rest=rest)
        return self

    @property
    def ends(self) -> Ends:
        """Protocol, source and destination."""
        return Ends(self.protocol, self.source, self.destination)

    def __bytes__(self) -> bytes:
        source, destination = ip_address(self.source[0]), ip_address(self.destination[0])
        number = NUMBERS.get(self.protocol)
        number = int(self.protocol) if number is None else number
        body = self._body(source.packed + destination.packed, number)
        return _ip_header(source, destination, number, len(body), self) + body

    def _body(self, addresses: bytes, number: int) -> bytes:
        """The transport header and the payload."""
        ports = struct.pack(">HH", self.source[1], self.destination[1])
        if self.protocol == "tcp":
            bits = sum(1 << TCP_FLAGS.index(letter) for letter in self.flags)
            numbers = (self.sequence, self.acknowledgement, 5 << 4, bits, self.window, 0, 0)
            body, place = ports + struct.pack(">IIBBHHH", *numbers), 16
        elif self.protocol == "udp":
            body, place = ports + struct.pack(">HH", 8 + len(self.payload), 0), 6
        elif self.protocol == "sctp":
            head = ports + struct.pack(">I", self.sequence)
            crc = crc32c(head + bytes(4) + self.payload)
            return head + struct.pack("<I", crc) + self.payload
        elif self.protocol in ("icmp", "icmpv6"):
            body, place = struct.pack(">BBHI", self.type, self.code, 0, self.rest), 2
        else:
            return self.payload
        body += self.payload
        # Only ICMP of IPv4 has no pseudo header (RFC 792).
        pseudo = (
            b"" if self.protocol == "icmp" else addresses + struct.pack(">II", len(body), number)
        )
        checksum = _checksum(pseudo + body)
        if self.protocol == "udp":
            checksum = checksum or 0xFFFF
        return body[:place] + struct.pack(">H", checksum) + body[place + 2 :]


def opening(protocol: str, source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """The first packet of a flow: a TCP SYN, an empty UDP datagram or an SCTP INIT (RFC 9293, RFC
    768, RFC 9260). Raises `PacketError` when the addresses are of different families.
    """
    packet = Packet(protocol, source, destination)
    if packet.protocol == "tcp":
        packet = replace(packet, flags="S")
    elif packet.protocol == "sctp":
        chunk = struct.pack(">BBHIIHHI", INIT, 0, 20, 1, 65536, 1, 1, 0)
        packet = replace(packet, payload=chunk)
    return bytes(packet)


def ends(packet: "Buffer") -> Ends | None:
    """Addresses and ports of an IP packet, behind any IPv6 extension headers; None when it is too
    short to have addresses.
    """
    packet = octets("packet", packet)
    place = _place(packet)
    if place is None:
        return None
    source, destination = 0, 0
    has_ports = place.name in WITH_PORTS and not place.is_later_fragment
    if has_ports and len(packet) >= place.start + 4:
        source, destination = struct.unpack_from(">HH", packet, place.start)
    return Ends(place.name, (place.source, source), (place.destination, destination))


def octets(name: str, value: object) -> bytes:
    """The bytes of any buffer. Raises TypeError for what is none: an int would be as many zeros."""
    try:
        return bytes(memoryview(value))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} is bytes, or a buffer of them, not {value!r}") from None


def show(end: tuple[str, int]) -> str:
    """Address and port as one text; only the address where there is no port."""
    if not isinstance(end, tuple):
        raise TypeError(f"end is a tuple of address and port, not {end!r}")
    return join_address(*end) if end[1] else end[0]


def _end(name: str, value: object) -> tuple[str, int]:
    """An address in its canonical form, and a port."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name} is a tuple of address and port, not {value!r}")
    address, port = value
    if not isinstance(address, str | IPv4Address | IPv6Address):
        raise TypeError(f"{name}[0] is an IP address, not {address!r}")
    try:
        canonical = ip_address(address)
    except ValueError:
        canonical = None
    if canonical is None or "%" in str(canonical):
        raise PacketError(f"{name}[0] is an IP address, not {str(address)!r}")
    return str(canonical), _whole_number(f"{name}[1]", port, 16)


def _whole_number(name: str, value: object, bits: int) -> int:
    accepted = f"{name} is a whole number from 0 to {(1 << bits) - 1}, not {value!r}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(accepted)
    if not 0 <= value < 1 << bits:
        raise PacketError(accepted)
    return value


def _protocol(value: object) -> str:
    """The name, or the number as text where there is no name."""
    if not isinstance(value, str):
        raise TypeError(f"protocol is text, not {value!r}")
    # As a `ServicePort` takes them.
    if value.lower() in NUMBERS:
        return value.lower()
    if not (value.isascii() and value.isdecimal()):
        raise PacketError(f"{value!r} is none of {', '.join(NUMBERS)}, and no protocol's number")
    number = _whole_number("protocol", int(value), 8)
    return NAMES.get(number, str(number))


def _flags(value: object) -> str:
    """The letters in the order of their bits."""
    if not isinstance(value, str):
        raise TypeError(f"flags is text, not {value!r}")
    if set(value) - set(TCP_FLAGS):
        raise PacketError(f"flags are letters of {TCP_FLAGS}, not {value!r}")
    return "".join(letter for letter in TCP_FLAGS if letter in value)


class _Place(NamedTuple):
    """What an IP header says, and where the transport header begins."""

    name: str
    source: str
    destination: str
    start: int
    is_later_fragment: bool
    is_v6: bool


def _place(packet: bytes) -> _Place | None:
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        number, source, destination = packet[9], packet[12:16], packet[16:20]
        start = (packet[0] & 0xF) * 4
        is_later_fragment = bool(int.from_bytes(packet[6:8]) & 0x1FFF)
    elif version == 6 and len(packet) >= 40:
        source, destination = packet[8:24], packet[24:40]
        number, start, is_later_fragment = _transport(packet)
    else:
        return None
    return _Place(
        NAMES.get(number, str(number)),
        str(ip_address(bytes(source))),
        str(ip_address(bytes(destination))),
        start,
        is_later_fragment,
        version == 6,
    )


def _transport(packet: bytes) -> tuple[int, int, bool]:
    """Number and start of the transport header, and whether a later fragment stands in its place
    (RFC 8200, 4).
    """
    number, start = packet[6], 40
    while number in EXTENSIONS and len(packet) >= start + 8:
        length = 8 if number == FRAGMENT else (packet[start + 1] + 1) * 8
        if number == FRAGMENT and int.from_bytes(packet[start + 2 : start + 4]) & 0xFFF8:
            return packet[start], start + length, True
        number, start = packet[start], start + length
    return number, start, False


def _ip_header(
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    number: int,
    length: int,
    packet: Packet,
) -> bytes:
    addresses = source.packed + destination.packed
    if source.version == 6:
        return struct.pack(">IHBB", 6 << 28, length, number, packet.ttl) + addresses
    numbers = (0x45, 0, 20 + length, packet.identification, 0, packet.ttl, number, 0)
    header = struct.pack(">BBHHHBBH", *numbers) + addresses
    return header[:10] + struct.pack(">H", _checksum(header)) + header[12:]


def _checksum(content: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    content += bytes(len(content) % 2)
    total: int = sum(struct.unpack(f">{len(content) // 2}H", content))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(content: bytes) -> int:
    """SCTP's checksum (RFC 9260, appendix A), whose bytes are sent the low one first."""
    crc = 0xFFFFFFFF
    for octet in octets("content", content):
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


NUMBERS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
NAMES: Final = {number: name for name, number in NUMBERS.items()}
WITH_PORTS: Final = ("tcp", "udp", "sctp")
HEADERS: Final = {"tcp": 20, "udp": 8, "sctp": 12, "icmp": 8, "icmpv6": 8}
"""Bytes of the transport headers."""
BITS: Final = {
    "sequence": 32,
    "acknowledgement": 32,
    "window": 16,
    "type": 8,
    "code": 8,
    "rest": 32,
    "ttl": 8,
    "identification": 16,
}
"""Of the other numbers of a packet."""
TCP_FLAGS: Final = "FSRPAUEC"
"""From the lowest bit on."""
FRAGMENT: Final = 44
EXTENSIONS: Final = frozenset((0, 43, FRAGMENT, 60))
INIT: Final = 1
"""The chunk that opens an association."""
