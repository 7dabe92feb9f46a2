"""Write examples/traffic.pcap: twenty connections of three clients to the Service of
examples/simpleservice, with a name server's datagrams between them, as they come in at the node
(`tcpdump -i any -Q in`): from clients to the Service, and back from the endpoint that an engine
with seed 1 chooses.

`--check` writes nothing, and ends with 1 if the file is not as it should be.
"""

import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import kbe_nat
from kbe_nat.packets import Packet

ROOT: Final = Path(__file__).parents[1]
CAPTURE: Final = ROOT / "examples/traffic.pcap"
OBJECTS: Final = ROOT / "examples/simpleservice/cluster.yaml"
START: Final = 1_767_225_600_000
"""Milliseconds since 1970: the first day of 2026."""
RAW_IP: Final = 101
"""The link type: packets begin with the IP header."""
VIP: Final = ("172.30.228.255", 80)
REQUEST: Final = b"GET /info HTTP/1.1\r\nHost: simpleservice\r\n\r\n"
RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
ASKED, ANSWERED = 1001 + len(REQUEST), 5001 + len(RESPONSE)
SEGMENTS: Final = (
    (0, False, "S", b"", 1000, 0),
    (1, True, "SA", b"", 5000, 1001),
    (2, False, "A", b"", 1001, 5001),
    (3, False, "PA", REQUEST, 1001, 5001),
    (20, True, "PA", RESPONSE, 5001, ASKED),
    (30, False, "FA", b"", ASKED, ANSWERED),
    (31, True, "FA", b"", ANSWERED, ASKED + 1),
    (32, False, "A", b"", ASKED + 1, ANSWERED + 1),
)
"""Of one connection: milliseconds after it began, whether the endpoint sends it, flags, payload,
sequence and acknowledgement numbers.
"""
CLIENTS: Final = ("10.0.2.100", "10.0.2.101", "10.0.2.102")


def frames() -> Iterator[tuple[int, Packet]]:
    """Milliseconds after the start, and the packet."""
    engine = kbe_nat.load(OBJECTS, seed=1)
    for number in range(20):
        client, begin = (CLIENTS[number % 3], 40_000 + number), number * 40
        syn = Packet("tcp", client, VIP, "S", sequence=1000, identification=1)
        translated = engine.process(syn, begin).packet
        assert translated is not None, "the objects have endpoints"
        backend = Packet.parse(translated).destination
        for after, is_answer, flags, payload, sequence, acknowledgement in SEGMENTS:
            ends = (backend, client) if is_answer else (client, VIP)
            packet = Packet("tcp", *ends, flags, payload, sequence, acknowledgement)
            yield begin + after, replace(packet, identification=after)
        if number % 4 == 0:
            resolver, name_server = (client[0], 50_000 + number), ("10.0.2.3", 53)
            yield begin + 35, Packet("udp", resolver, name_server, payload=b"?")
            yield begin + 36, Packet("udp", name_server, resolver, payload=b"!")


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
