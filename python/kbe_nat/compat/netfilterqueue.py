"""The interface of the `netfilterqueue` package (1.1) on our own queue: change one import.

    from kbe_nat.compat.netfilterqueue import NetfilterQueue

Neither a C compiler nor libnetfilter_queue is needed. Packets come whole, up to 65,531 bytes, where
the package cuts them at 4,016; `Packet.get_payload_len` is the packet's own length even when
`range` cuts it. With `bind(..., gso=True)`, which the package does not have, super-packets of up to
64 kB come in one piece; their transport checksum is yet to be computed. All address families come
by one queue.
"""

import select
import socket
import warnings
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from kbe_nat._native import QueuedPacket, RawQueue
from kbe_nat.errors import QueueError

COPY_NONE: Final = 0
COPY_META: Final = 1
COPY_PACKET: Final = 2
VERSION: Final = (1, 1, 0)
"""Of the interface."""
PROTOCOLS: Final = {
    1: "ICMP",
    2: "IGMP",
    4: "IP",
    6: "TCP",
    17: "UDP",
    41: "IPv6",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "IPv6-ICMP",
    132: "SCTP",
    136: "UDPLite",
}
"""Names of protocols by number (IANA)."""
MAX_RANGE: Final = 65_531
"""Bytes that fit into the kernel's message."""


class Packet:
    """A packet in a queue, as the callback gets it."""

    def __init__(self, packet: QueuedPacket, queue: RawQueue, *, has_payload: bool) -> None:
        self._packet = packet
        self._queue = queue
        self._has_payload = has_payload
        self._is_retained = False
        self._is_in_callback = True
        self._has_verdict = False
        self._mark: int | None = None
        self._payload: bytes | None = None
        self.id: Final = packet.id
        """The kernel's number of the packet."""
        self.hw_protocol: Final = packet.protocol
        """Its EtherType."""
        self.hook: Final = packet.hook
        """From 0, PREROUTING, to 4, POSTROUTING."""
        self.mark: Final = packet.mark
        """The packet mark with which it came."""
        self.indev: Final = packet.in_device
        """Index of the device it came in by; 0 without one. The others alike."""
        self.outdev: Final = packet.out_device
        self.physindev: Final = packet.bridge_ports[0]
        self.physoutdev: Final = packet.bridge_ports[1]

    def get_hw(self) -> bytes | None:
        """The sender's link-layer address; None where the kernel does not know it."""
        return self._packet.hardware_address

    def get_payload(self) -> bytes:
        """The bytes from the IP header on, or those of `set_payload`. Raises RuntimeError when the
        queue hands out none, and behind the callback without `retain`.
        """
        if self._payload is not None:
            return self._payload
        if not self._has_payload:
            raise RuntimeError("the queue was bound without COPY_PACKET: there is no payload")
        if not (self._is_in_callback or self._is_retained):
            raise RuntimeError("the payload is gone behind the callback, unless it calls retain()")
        return self._packet.payload

    def get_payload_len(self) -> int:
        """The length of the packet in bytes, all of it."""
        return self._packet.length if self._payload is None else len(self._payload)

    def get_timestamp(self) -> float:
        """When the kernel received it, in seconds since 1970; 0.0 for one that it did not."""
        return (self._packet.time or 0) / 1_000_000

    def get_mark(self) -> int:
        """The mark of `set_mark`, or the one with which it came."""
        return self.mark if self._mark is None else self._mark

    def set_mark(self, mark: int) -> None:
        """Let the packet go on with another mark. Raises OverflowError for one that has not 32
        bits, as the package does.
        """
        if not 0 <= mark < 1 << 32:
            raise OverflowError(f"a mark has 32 bits, and {mark} has not")
        self._mark = mark

    def set_payload(self, payload: bytes) -> None:
        """Let other bytes go on, in the place of the whole packet. Raises TypeError for what is no
        buffer of bytes.
        """
        # `bytes(5)` would be five zeros.
        self._payload = bytes(memoryview(payload))

    def retain(self) -> None:
        """Keep the payload for a time behind the callback."""
        self._is_retained = True

    def accept(self) -> None:
        """Let the packet go on. Raises RuntimeError for a packet with a verdict, and so do
        `drop` and `repeat`; `QueueError`, an OSError, when the kernel refuses.
        """
        self._set_verdict("accept")

    def drop(self) -> None:
        """Let the packet be gone."""
        self._set_verdict("drop")

    def repeat(self) -> None:
        """Let the packet go through the hook once more: give it a mark by which rules know it."""
        self._set_verdict("repeat")

    def _set_verdict(self, verdict: Literal["accept", "drop", "repeat"]) -> None:
        if self._has_verdict:
            raise RuntimeError("the packet has its verdict already")
        self._queue.set_verdict(self.id, verdict, mark=self._mark, payload=self._payload)
        self._has_verdict = True

    def end_callback(self) -> None:
        """The callback has returned."""
        self._is_in_callback = False

    def __str__(self) -> str:
        payload = self._packet.payload
        offset = {4: 9, 6: 6}.get(payload[0] >> 4, len(payload)) if payload else 0
        name = PROTOCOLS.get(payload[offset]) if offset < len(payload) else None
        return f"{name or 'Unknown protocol'} packet, {self.get_payload_len()} bytes"


Callback: TypeAlias = Callable[[Packet], object]


class NetfilterQueue:
    """One queue, with a callback for each packet.

    `af` and `sockfd` of the package's constructor are not here: a queue is bound for all families,
    in the network namespace of the thread that binds it.
    """

    def __init__(self) -> None:
        self._queue: RawQueue | None = None
        self._callback: Callback | None = None
        self._has_payload = True
        self._waiting: deque[QueuedPacket] = deque()

    def bind(
        self,
        queue_num: int,
        user_callback: Callback,
        max_len: int = 1024,
        mode: int = COPY_PACKET,
        range: int = 65_535,
        sock_len: int = 2_455_552,
        *,
        gso: bool = False,
    ) -> None:
        """Bind queue `queue_num`, in which the kernel keeps `max_len` packets at most. `mode` and
        `range` say how much of a packet is handed out. Raises RuntimeError when a queue is bound
        already, OSError when the kernel refuses.
        """
        if self._queue is not None:
            raise RuntimeError("a queue is bound already: call unbind() first")
        self._has_payload = mode == COPY_PACKET
        try:
            self._queue = RawQueue(
                queue_num,
                max_length=max_len,
                copy_range=min(range, MAX_RANGE) if self._has_payload else 0,
                gso=gso,
                socket_buffer=sock_len,
            )
        except QueueError as error:
            raise OSError(str(error)) from None
        self._callback = user_callback
        with socket.socket(fileno=self._queue.fileno()) as socket_view:
            buffer_size = socket_view.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            socket_view.detach()
        if buffer_size < sock_len * 2:
            # The kernel counts its own overhead, and tells twice what it was asked for.
            warnings.warn(
                f"the socket's buffer has {buffer_size // 2} bytes, not {sock_len}: CAP_NET_ADMIN "
                "of the first user namespace is needed for more",
                RuntimeWarning,
                stacklevel=2,
            )

    def unbind(self) -> None:
        """Give the queue up; packets in it are dropped."""
        if self._queue is not None:
            self._queue.close()
        self._queue = self._callback = None
        self._waiting.clear()

    def get_fd(self) -> int:
        """The descriptor of the socket, to poll; `run(block=False)` serves what has come."""
        return self._bound_queue().fileno()

    def run(self, block: bool = True) -> None:
        """Call the callback for each packet: without end, or until an exception is raised; with
        `block=False` for the packets that wait. What the callback raises is raised here.
        """
        queue = self._bound_queue()
        while True:
            served = self._serve(queue, RECEIVE_SECONDS if block else 0.0)
            if self._queue is None or not (block or served):
                return

    def run_socket(self, s: socket.socket) -> None:
        """The same by a socket of the caller's, made of `get_fd`, whose waiting a library such as
        gevent may replace. Ends when the socket would block or has timed out.
        """
        queue = self._bound_queue()
        while self._queue is not None:
            timeout = s.gettimeout()
            readable, _, _ = select.select([s], [], [], timeout)
            if not readable:
                return
            self._serve(queue, 0.0)

    def _serve(self, queue: RawQueue, timeout: float) -> bool:
        """Whether there was a packet. Those behind one whose callback raises wait for the next
        call; the packet itself may be decided later.
        """
        if not self._waiting:
            self._waiting.extend(queue.receive(timeout))
        has_packets = bool(self._waiting)
        while self._waiting and (callback := self._callback):
            packet = Packet(self._waiting.popleft(), queue, has_payload=self._has_payload)
            try:
                callback(packet)
            finally:
                packet.end_callback()
        return has_packets

    def _bound_queue(self) -> RawQueue:
        if self._queue is None:
            raise RuntimeError("no queue is bound")
        return self._queue


RECEIVE_SECONDS: Final = 0.1
"""Seconds of one wait: so long a signal takes to be noticed."""
