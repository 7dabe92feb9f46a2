"""Connections of a capture, to be replayed under other strategies."""

from array import array
from pathlib import Path
from typing import Final, TypeAlias

from kbe_nat._native import CaptureReader
from kbe_nat.errors import CaptureError
from kbe_nat.packets import ends

Row: TypeAlias = tuple[float, int, float, float]
"""Start, client, bytes and seconds of life of a conversation."""


def capture_connections(path: Path) -> tuple[list[Row], str | None] | str:
    """The conversations in a capture, and the packet or block within which it ends, if it does; or
    what is wrong with the file.

    A conversation is what has the same ends in either direction; its client is the sender of its
    first packet, and clients are numbered as they come. Memory grows with the conversations.
    """
    conversations: dict[tuple[object, ...], list[float]] = {}
    clients: dict[str, int] = {}
    start: int | None = None
    try:
        reader = CaptureReader(str(path))
        while batch := reader.read_batch(256, 1_000_000_000):
            packets, offsets = bytes(batch.take()), array("Q", batch.offsets())
            for time, first, end in zip(
                array("Q", batch.times()), offsets, offsets[1:], strict=False
            ):
                packet = ends(packets[first:end])
                if packet is None or packet.protocol not in TRANSPORTS or not packet.source[1]:
                    # No connection, or a part of a packet that does not tell its ports.
                    continue
                start = time if start is None else start
                seconds = max(time - start, 0) / 1e9
                key = (packet.protocol, packet.source, packet.destination)
                reverse = (packet.protocol, packet.destination, packet.source)
                row = conversations.get(key) or conversations.get(reverse)
                if row is None:
                    client = clients.setdefault(packet.source[0], len(clients))
                    row = conversations[key] = [seconds, client, 0.0, 0.0]
                row[2] += end - first
                row[3] = max(row[3], seconds - row[0])
    except OSError as error:
        return error.strerror or str(error)
    except CaptureError as error:
        # Who asked for the file names it.
        return str(error).removeprefix(f"{path}: ")
    # Captures of several queues need not be in the order of time.
    rows = sorted((row[0], int(row[1]), row[2], row[3]) for row in conversations.values())
    return rows, reader.cut


TRANSPORTS: Final = frozenset(("tcp", "udp", "sctp"))
"""Protocols that have connections."""
