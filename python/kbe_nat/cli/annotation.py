"""`replay --annotate`: a pcapng whose packets say in their comments what was decided, and why.

Theory of operation. The engine's verdicts have an action and a cause, but no names. The names come
from the plan: a packet of a client goes to a frontend, a packet of a backend comes from one after
its translation. Packets are written from their IP header on (link type raw), in the order of the
capture: translated ones as they are sent on, rejected ones as their answer, dropped ones as they
came, so that their comment can be read. Frames that are no IP packets are left out.
"""

import os
import struct
import tempfile
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from kbe_nat import packets as wire
from kbe_nat import words
from kbe_nat._native import ACTIONS, CAUSES, reject
from kbe_nat.cli.original_packets import OriginalPackets
from kbe_nat.drivers.capture import CaptureQueue
from kbe_nat.drivers.queue import MASQUERADE, NEW, REPLY, VERDICT, Batch
from kbe_nat.errors import CaptureError
from kbe_nat.policy.plan import Plan


class Pcapng:
    """A capture of raw IP packets with comments, which appears under its name when it is whole."""

    def __init__(self, path: Path) -> None:
        """Raises `CaptureError`."""
        self._path = Path(os.path.realpath(path))
        try:
            descriptor, name = tempfile.mkstemp(
                prefix=f".{self._path.name}.", dir=self._path.parent
            )
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror or error}") from None
        self._partial = Path(name)
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(descriptor, 0o666 & ~mask)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
        self._block(0x0A0D0D0A, section + _option(4, b"kbe-nat") + END)
        # Time stamps are nanoseconds.
        self._block(1, struct.pack("<HHI", RAW, 0, 0) + _option(9, b"\x09") + END)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
            if error is None:
                self._partial.replace(self._path)
        except OSError as failure:
            raise CaptureError(f"{self._path}: {failure.strerror or failure}") from None
        finally:
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def write(self, time: int, packet: bytes, comment: str) -> None:
        """One packet. Raises `CaptureError`."""
        head = struct.pack("<IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(packet), len(packet))
        self._block(6, head + _padded(packet) + _option(1, comment.encode()) + END)

    def _block(self, kind: int, body: bytes) -> None:
        size = len(body) + 12
        try:
            self._file.write(struct.pack("<II", kind, size) + body + struct.pack("<I", size))
        except OSError as error:
            raise CaptureError(f"{self._path}: {error.strerror or error}") from None


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)


@dataclass(slots=True)
class Annotation(OriginalPackets):
    """A `PacketQueue` around another one that writes every packet with its comment."""

    source: CaptureQueue
    capture: Pcapng
    answer: words.Answer
    _services: dict[tuple[str, str, int], str] = field(default_factory=dict)
    """Service ports by protocol, address and port of frontends; a node port has no address."""
    _held: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    """Fragments that wait, by their tickets."""

    def follow(self, plan: Plan) -> None:
        """Take names from this plan, too: connections outlive the objects of their beginning."""
        for port in plan.ports:
            for frontend in port.frontends:
                key = (port.protocol, frontend.address, frontend.port)
                self._services[key] = port.name

    def set_verdicts(
        self, batch: Batch, verdicts: bytes, released: list[tuple[int, str, bytes | None]]
    ) -> None:
        """See `PacketQueue`."""
        times: array[int] = self.source.times
        for number in range(len(batch)):
            start, end = batch.offsets[number : number + 2]
            if start == end:
                continue
            original = self.original[start:end]
            verdict = VERDICT.unpack_from(verdicts, number * VERDICT.size)
            if ACTIONS[verdict[0]] == "hold":
                self._held[verdict[3]] = (times[number], original)
                continue
            sent = bytes(batch.packets[start:end])
            self._write(times[number], original, sent, verdict)
        for ticket, action, content in released:
            time, original = self._held.pop(ticket, (0, b""))
            if original:
                comment = f"{action}: as its first fragment"
                self.capture.write(time, content or original, comment)
        self.queue.set_verdicts(batch, verdicts, released)

    def _write(
        self, time: int, original: bytes, sent: bytes, verdict: tuple[int, int, int, int]
    ) -> None:
        action, cause, flags, _ = verdict
        name = ACTIONS[action]
        comment = self._comment(original, sent, name, CAUSES[cause], flags)
        if name == "reject":
            answer = reject(original, self.answer)
            sent = original if answer is None else answer
        elif name == "drop":
            sent = original
        self.capture.write(time, sent, comment)

    def _comment(self, original: bytes, sent: bytes, action: str, cause: str, flags: int) -> str:
        before, after = wire.ends(original), wire.ends(sent)
        if before is None or after is None:
            return f"{action} ({cause})"
        if action == "translate":
            is_reply = bool(flags & REPLY)
            service = self._service(
                after.protocol, after.source if is_reply else before.destination
            )
            backend = wire.show(before.source if is_reply else after.destination)
            way = f"answer of backend {backend}" if is_reply else f"to backend {backend}"
            is_new = ", a new connection" if flags & NEW else ""
            mask = ", masqueraded" if flags & MASQUERADE else ""
            return f"translate: {service}, {way} ({cause}{is_new}{mask})"
        service = self._service(before.protocol, before.destination)
        return f"{action}: {service}, {wire.show(before.destination)} ({cause})"

    def _service(self, protocol: str, end: tuple[str, int]) -> str:
        address, port = end
        name = self._services.get((protocol, address, port)) or self._services.get(
            (protocol, "", port)
        )
        return f"Service {name}" if name else "no Service"


END: Final = bytes(4)
"""The end of a block's options."""
RAW: Final = 101
"""LINKTYPE_RAW: IPv4 and IPv6 packets."""
