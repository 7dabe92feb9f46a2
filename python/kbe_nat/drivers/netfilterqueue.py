"""A kernel queue by way of the `netfilterqueue` package: a callback and a verdict per packet,
simple and slow.

The package reads at most 4,016 bytes of a packet. A longer one would be cut by its verdict, so it
is dropped and counted in `NetfilterQueue.truncated`.
"""

import select
import time
import warnings
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from kbe_nat._native import ACTIONS, BackendIdMap
from kbe_nat.drivers.queue import MASQUERADE, VERDICT, Batch
from kbe_nat.errors import QueueError
from kbe_nat.rules.rule import Marks

if TYPE_CHECKING:
    from netfilterqueue import Packet

MAX_PACKETS: Final = 256
"""Packets of a batch, at most."""
TRANSLATE, DROP, REJECT, HOLD = map(ACTIONS.index, ("translate", "drop", "reject", "hold"))


class NetfilterQueue:
    """A `PacketQueue` over one queue of the network namespace in which it was opened. Its clock is
    the system's monotonic one.
    """

    def __init__(
        self,
        number: int,
        *,
        marks: Marks | None = None,
        backend_ids: BackendIdMap | None = None,
        max_length: int = 1024,
        timeout: float = 0.2,
    ) -> None:
        """Bind queue `number`, in which the kernel keeps at most `max_length` packets; `receive`
        waits at most `timeout` seconds. With `backend_ids` packets are not translated here: their
        marks tell the kernel how to translate their flows.

        Needs CAP_NET_ADMIN. Raises `QueueError` when another process has the queue, the package is
        missing, or the privilege is.
        """
        try:
            import netfilterqueue
        except ImportError as error:
            raise QueueError(f"the package netfilterqueue cannot be used: {error}") from None
        self._number = number
        self._marks = marks or Marks()
        self._backend_ids = backend_ids
        self._timeout = timeout
        self._waiting: deque[Packet] = deque()
        self._current: list[Packet] = []
        self._held: dict[int, Packet] = {}
        self.truncated = 0
        """Packets that were dropped because the package cannot carry them whole."""
        try:
            self._queue = netfilterqueue.NetfilterQueue()
            with warnings.catch_warnings():
                # An unprivileged user namespace may not have a larger receive buffer; it works with
                # a small one.
                warnings.simplefilter("ignore", RuntimeWarning)
                self._queue.bind(number, self._take_in, max_length)
        except OSError as error:
            reason = "another process has it, or CAP_NET_ADMIN is missing"
            raise QueueError(f"queue {number} cannot be bound: {reason} ({error})") from None

    def __repr__(self) -> str:
        return f"<NetfilterQueue {self._number}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._queue.unbind()

    def receive(self) -> Batch:
        """See `PacketQueue`. All packets of a batch came in by the same device."""
        if not self._waiting and select.select([self._queue.get_fd()], [], [], self._timeout)[0]:
            self._queue.run(block=False)
        batch = Batch(time.monotonic_ns())
        self._current = []
        while self._waiting and len(batch) < MAX_PACKETS:
            packet = self._waiting[0]
            if self._current and packet.indev != batch.interface:
                break
            self._waiting.popleft()
            payload = packet.get_payload()
            if _length(payload) > len(payload):
                self.truncated += 1
                packet.drop()
                continue
            batch.interface = packet.indev
            batch.append(payload)
            self._current.append(packet)
        return batch

    def set_verdicts(
        self, batch: Batch, verdicts: bytes, released: list[tuple[int, str, bytes | None]]
    ) -> None:
        """See `PacketQueue`."""
        ends = zip(batch.offsets, batch.offsets[1:], strict=False)
        for packet, (start, end), record in zip(
            self._current, ends, VERDICT.iter_unpack(verdicts), strict=True
        ):
            action, _, flags, ticket = record
            if action == HOLD:
                self._held[ticket] = packet
            else:
                self._send(packet, action, flags, batch.packets[start:end])
        for ticket, name, content in released:
            if ticket in self._held:
                packet = self._held.pop(ticket)
                # The kernel masquerades by flow: fragments that follow need no mark.
                self._send(packet, ACTIONS.index(name), 0, content or b"")

    def _send(self, packet: "Packet", action: int, flags: int, content: bytes | bytearray) -> None:
        if action == DROP:
            packet.drop()
            return
        marks = self._marks
        if action == REJECT:
            packet.set_mark(packet.get_mark() | marks.reject)
        elif self._backend_ids:
            backend = self._backend_ids.mark_of(bytes(content)) if action == TRANSLATE else 0
            if backend is None:
                # Undecided: the standby serves it.
                packet.set_mark(packet.get_mark() & ~(marks.backend | marks.flow | marks.reject))
                packet.accept()
                return
            masquerade = marks.masquerade if flags & MASQUERADE else 0
            packet.set_mark(packet.get_mark() & ~marks.backend | backend | marks.flow | masquerade)
        elif action == TRANSLATE:
            packet.set_payload(bytes(content))
            packet.set_mark(
                packet.get_mark() | marks.flow | (marks.masquerade if flags & MASQUERADE else 0)
            )
        packet.accept()

    def _take_in(self, packet: "Packet") -> None:
        packet.retain()
        self._waiting.append(packet)


def _length(packet: bytes) -> int:
    """Length by the header of an IP packet (RFC 791, RFC 8200); 0 for other bytes."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        return int.from_bytes(packet[2:4])
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        return 40 + int.from_bytes(packet[4:6])
    return 0
