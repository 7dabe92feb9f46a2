"""Drivers: where packets come from and where verdicts go. Each is one file that implements
`PacketQueue`.
"""

import struct
from array import array
from dataclasses import dataclass, field
from typing import Final, Protocol

from kbe_nat.field_docs import documented

VERDICT: Final = struct.Struct("<BBBxI")
"""One record of `Engine.process_batch`: action, cause, flags, ticket. Actions and causes index
`ACTIONS` and `CAUSES`.
"""
MASQUERADE: Final = 1
"""Flag: the driver, or the kernel behind it, masquerades the source."""
REPLY: Final = 2
"""Flag: the packet travels from the backend to the client."""
NEW: Final = 4
"""Flag: the packet opened its flow."""
FLOW: Final = 8
"""Flag: the packet belongs to a flow."""


@documented
@dataclass(slots=True)
class Batch:
    """Packets that were received together, one behind the other in one buffer, each starting at its
    IP header.
    """

    now: int
    """When they were received, in nanoseconds of the driver's monotonic clock."""
    packets: bytearray = field(default_factory=bytearray)
    """The bytes of all packets, back to back; verdicts translate them in place."""
    offsets: "array[int]" = field(default_factory=lambda: array("Q", (0,)))
    """Where each packet starts, and after the last one where it ends: one more than there are
    packets.
    """
    interface: int = 0
    """Index of the device they came in by; 0 for packets of the node itself."""
    is_captured: bool = False
    """Whether they are of a capture, where an IP length of 0 stands for the length of the bytes."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def append(self, packet: bytes) -> None:
        """Add a packet. Cost: one copy of it."""
        self.packets += packet
        self.offsets.append(len(self.packets))


class PacketQueue(Protocol):
    """A source of packets that wants a verdict for each."""

    def receive(self) -> Batch | None:
        """The next packets; an empty batch when there are none yet, None when there will be no
        more.
        """
        ...

    def set_verdicts(
        self, batch: Batch, verdicts: bytes, released: list[tuple[int, str, bytes | None]]
    ) -> None:
        """Send on, refuse or drop the packets of `batch`, which hold their translated bytes.

        `verdicts` has one `VERDICT` record per packet; `released` lists held fragments whose
        datagram is decided, as `Engine.released` returns them.
        """
        ...
