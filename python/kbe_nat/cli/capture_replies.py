"""The replies of a capture whose connections have another backend in the replay."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from kbe_nat import packets as wire
from kbe_nat._native import ACTIONS
from kbe_nat.cli.original_packets import OriginalPackets
from kbe_nat.drivers.queue import NEW, VERDICT, Batch
from kbe_nat.policy.plan import Plan

_End = tuple[str, tuple[str, int]]
"""A protocol, and an address with a port."""


@dataclass(slots=True)
class CaptureReplies(OriginalPackets):
    """A `PacketQueue` around another one that counts packets from endpoints to clients of Services
    that belong to no connection, because the replay has chosen other endpoints than the capture's
    proxy.

    Only packets that open a flow, or pass and come from an endpoint's address, are read.
    """

    unmatched: int = 0
    """Such packets so far."""
    _clients: set[_End] = field(default_factory=set)
    """Clients that have opened a connection to a Service."""
    _endpoints: set[_End] = field(default_factory=set)
    _addresses: set[bytes] = field(default_factory=set)
    """The packed addresses of these endpoints."""

    def follow(self, plan: Plan) -> None:
        """The endpoints of this plan are endpoints, too."""
        for port in plan.ports:
            for backend in (*port.local_backends, *port.cluster_backends):
                self._endpoints.add((port.protocol, (backend.address, backend.port)))
                self._addresses.add(ip_address(backend.address).packed)

    def set_verdicts(
        self, batch: Batch, verdicts: bytes, released: list[tuple[int, str, bytes | None]]
    ) -> None:
        """See `PacketQueue`."""
        size = VERDICT.size
        for number, (action, flags) in enumerate(
            zip(verdicts[0::size], verdicts[2::size], strict=True)
        ):
            if flags & NEW or action == PASS:
                start, end = batch.offsets[number : number + 2]
                self._look(self.original[start:end], is_new=bool(flags & NEW))
        self.queue.set_verdicts(batch, verdicts, released)

    def _look(self, packet: bytes, *, is_new: bool) -> None:
        # Much of a capture may be of no Service: the address alone is cheap to compare.
        source = packet[12:16] if packet[:1] < b"\x50" else packet[8:24]
        if not is_new and source not in self._addresses:
            return
        ends = wire.ends(packet)
        if ends is None:
            return
        if is_new:
            self._clients.add((ends.protocol, ends.source))
            return
        is_reply = (ends.protocol, ends.source) in self._endpoints
        self.unmatched += is_reply and (ends.protocol, ends.destination) in self._clients


PASS: Final = ACTIONS.index("pass")
