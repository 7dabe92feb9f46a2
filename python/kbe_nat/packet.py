"""The few bytes of packets that the command line reads or makes itself: addresses and ports, and
the packet that opens a flow.
"""

import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from kbe_nat.model import join_address


@dataclass(frozen=True, slots=True)
class Ends:
    """Source and destination of a packet; ports are 0 where it has none."""

    protocol: str
    source: tuple[str, int]
    destination: tuple[str, int]


def opening(protocol: str, source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """The first packet of a flow: a TCP SYN, an empty UDP datagram or an SCTP INIT (RFC 9293, RFC
    768, RFC 9260).

    Its transport checksum is left to be filled in, as that of a packet which the node itself sends.
    Raises ValueError when the addresses are of different families.
    """
    from_ip, to_ip = ip_address(source[0]), ip_address(destination[0])
    if from_ip.version != to_ip.version:
        raise ValueError(f"{source[0]} and {destination[0]} are of different families")
    ports = struct.pack(">HH", source[1], destination[1])
    if protocol == "tcp":
        body = ports + struct.pack(">IIBBHHH", 0, 0, 5 << 4, SYN, 64240, 0, 0)
    elif protocol == "udp":
        body = ports + struct.pack(">HH", 8, 0)
    else:
        body = ports + struct.pack(">IIBBHIIHHI", 0, 0, INIT, 0, 20, 1, 65536, 1, 1, 0)
    protocol_number = NUMBERS[protocol]
    if from_ip.version == 6:
        return (
            struct.pack(">IHBB", 6 << 28, len(body), protocol_number, 64)
            + from_ip.packed
            + to_ip.packed
            + body
        )
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol_number, 0)
    header += from_ip.packed + to_ip.packed
    return header[:10] + struct.pack(">H", _checksum(header)) + header[12:] + body


def ends(packet: bytes) -> Ends | None:
    """Addresses and ports of an IP packet, behind any IPv6 extension headers; None when it is too
    short to have addresses.
    """
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
    ports = (0, 0)
    if number in NAMES and not is_later_fragment and len(packet) >= start + 4:
        ports = struct.unpack_from(">HH", packet, start)
    return Ends(
        NAMES.get(number, str(number)),
        (str(ip_address(source)), ports[0]),
        (str(ip_address(destination)), ports[1]),
    )


def show(end: tuple[str, int]) -> str:
    """Address and port as one text; only the address where there is no port."""
    return join_address(*end) if end[1] else end[0]


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


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


NUMBERS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
NAMES: Final = {number: name for name, number in NUMBERS.items()}
FRAGMENT: Final = 44
EXTENSIONS: Final = frozenset((0, 43, FRAGMENT, 60))
SYN: Final = 0x02
INIT: Final = 1
