"""A queue around another one that keeps its packets as they came."""

from dataclasses import dataclass, field

from kbe_nat.drivers.queue import Batch, PacketQueue


@dataclass(slots=True)
class OriginalPackets:
    """Half of a `PacketQueue` around another one: the loop writes translated packets over those of
    a batch, and who judges its verdicts has to see both.
    """

    queue: PacketQueue
    original: bytes = field(default=b"", init=False)
    """The packets of the batch that is decided now; its offsets count in it."""

    def receive(self) -> Batch | None:
        """See `PacketQueue`."""
        batch = self.queue.receive()
        self.original = bytes(batch.packets) if batch else b""
        return batch
