"""Capture files for tests, written byte by byte: what is read must not come from the code that
reads.
"""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

MICROSECONDS, NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D
ETHERNET = bytes.fromhex("0200000000010200000000020800")


def pcap(
    frames: Iterable[tuple[int, bytes]],
    link: int = 101,
    *,
    order: str = "<",
    magic: int = MICROSECONDS,
    snap: int = 0,
) -> bytes:
    """A pcap file of frames with their times in nanoseconds; `snap` cuts them short."""
    unit = 1000 if magic == MICROSECONDS else 1
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap or 65535, link)]
    for time, frame in frames:
        kept = frame[: snap or None]
        seconds, rest = divmod(time, 1_000_000_000)
        parts.append(
            struct.pack(order + "IIII", seconds, rest // unit, len(kept), len(frame)) + kept
        )
    return b"".join(parts)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """One pcapng block."""
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def pcapng(
    frames: Sequence[tuple[int, bytes]], link: int = 101, *, order: str = "<", resolution: int = 9
) -> bytes:
    """A pcapng file with one interface, a comment with each frame, and a block of unknown kind in
    between.
    """
    section = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)
    options = struct.pack(order + "HHB3xHH", 9, 1, resolution, 0, 0)
    described = block(1, struct.pack(order + "HHI", link, 0, 0) + options, order)
    parts = [section, described]
    for time, frame in frames:
        units = time * 10**resolution // 1_000_000_000
        head = struct.pack(
            order + "IIIII", 0, units >> 32, units & 0xFFFFFFFF, len(frame), len(frame)
        )
        comment = struct.pack(order + "HH", 1, 4) + b"seen" + struct.pack(order + "HH", 0, 0)
        parts.append(block(6, head + frame + bytes(-len(frame) % 4) + comment, order))
        parts.append(block(0x0BAD, b"\1\2\3\4", order))
    return b"".join(parts)


def frames_of(path: Path) -> list[tuple[int, bytes]]:
    """The frames of a little-endian pcap file with microseconds, as `pcap` takes them."""
    content = path.read_bytes()
    assert struct.unpack_from("<I", content)[0] == MICROSECONDS
    found, at = [], 24
    while at < len(content):
        seconds, micros, length, _ = struct.unpack_from("<IIII", content, at)
        found.append((seconds * 1_000_000_000 + micros * 1000, content[at + 16 : at + 16 + length]))
        at += 16 + length
    assert at == len(content)
    return found
