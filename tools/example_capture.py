"""Write examples/traffic.pcap: twenty connections of three clients to the Service of
examples/simpleservice, as the node's device sees them, with a name server's datagrams between them.

`--check` writes nothing, and ends with 1 if the file is not as it should be.
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kbe_nat.packets import Packet

ROOT: Final = Path(__file__).parents[1]
CAPTURE: Final = ROOT / "examples/traffic.pcap"
START: Final = 1_767_225_600_000
"""Milliseconds since 1970: the first day of 2026."""
RAW_IP: Final = 101
"""The link type: packets begin with the IP header."""
VIP: Final = ("172.30.228.255", 80)
CLIENTS: Final = ("10.0.2.100", "10.0.2.101", "10.0.2.102")


def frames() -> Iterator[tuple[int, Packet]]:
    """Milliseconds after the start, and the packet."""
    for number in range(20):
        client, begin = (CLIENTS[number % 3], 40_000 + number), number * 40
        yield begin, Packet("tcp", client, VIP, "S", sequence=1000, identification=1)
        yield begin + 2, Packet("tcp", client, VIP, "A", b"", 1001, 5001, identification=2)
        request = b"GET /info HTTP/1.1\r\nHost: simpleservice\r\n\r\n"
        yield begin + 3, Packet("tcp", client, VIP, "PA", request, 1001, 5001, identification=3)
        end = 1001 + len(request)
        yield begin + 30, Packet("tcp", client, VIP, "FA", b"", end, 5301, identification=4)
        if number % 4 == 0:
            name_server = ("10.0.2.3", 53)
            yield begin + 31, Packet("udp", (client[0], 50_000 + number), name_server, payload=b"?")


def capture() -> bytes:
    """The file (pcap with microseconds, draft-ietf-opsawg-pcap)."""
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, RAW_IP)]
    for time, packet in frames():
        content = bytes(packet)
        seconds, rest = divmod(START + time, 1000)
        parts += [struct.pack("<IIII", seconds, rest * 1000, len(content), len(content)), content]
    return b"".join(parts)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        CAPTURE.write_bytes(capture())
    elif not CAPTURE.exists() or CAPTURE.read_bytes() != capture():
        sys.exit(f"{CAPTURE.name} is not what {sys.argv[0]} writes: run it")
