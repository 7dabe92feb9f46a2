"""A queue of your own for the loop in Rust: packets from anywhere, here from a list.

python examples/queue_loop.py examples/simpleservice/cluster.yaml
"""

import sys
import time

import kbe_nat
from kbe_nat.drivers.queue import VERDICT, Batch
from kbe_nat.packets import Packet, opening


class ListQueue:
    """A `PacketQueue`: three packets in one batch, and then no more."""

    def __init__(self, packets: list[bytes]) -> None:
        self.packets = packets

    def receive(self) -> Batch | None:
        """The next batch; None ends the loop."""
        if not self.packets:
            return None
        batch = Batch(time.monotonic_ns())
        while self.packets:
            batch.append(self.packets.pop(0))
        return batch

    def set_verdicts(
        self, batch: Batch, verdicts: bytes, released: list[tuple[int, str, bytes | None]]
    ) -> None:
        """The batch holds the translated packets now."""
        for number, (action, *_) in enumerate(VERDICT.iter_unpack(verdicts)):
            start, end = batch.offsets[number : number + 2]
            packet = Packet.parse(bytes(batch.packets[start:end]))
            print(kbe_nat.ACTIONS[action], packet.source, "->", packet.destination)


if len(sys.argv) != 2:
    raise SystemExit("usage: python examples/queue_loop.py OBJECTS.yaml")
engine = kbe_nat.load(sys.argv[1], node_addresses=["10.0.2.15"], strategy="rr", seed=1)
ends = [("172.30.228.255", 80), ("172.30.228.255", 80), ("192.0.2.1", 80)]
packets = [opening("tcp", ("10.0.2.100", 1024 + n), end) for n, end in enumerate(ends)]
kbe_nat.Loop(engine, ListQueue(packets)).run()
