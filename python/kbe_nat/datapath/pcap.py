"""A capture file in place of a kernel queue: every packet of it gets its verdict, and what would have been
sent on is written to another.

Reading and writing are native and go batch by batch; nothing here looks at a single packet.
"""

import os
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from kbe_nat._native import CaptureBatch, CaptureReader, CaptureWriter
from kbe_nat.datapath import Batch
from kbe_nat.errors import CaptureError


class CaptureQueue:
    """A `PacketQueue` over a pcap or pcapng file; its clock is that of the capture.

    Used as a context manager: the target appears under its name when the block ends, or not at all when it
    ends with an exception. Packets that are no IP packets get no verdict and are written as they are.
    """

    def __init__(
        self,
        source: str | Path,
        target: str | Path | None = None,
        *,
        answer: str = "icmp",
        progress: Callable[[int], None] = lambda position: None,
    ) -> None:
        """Open `source`, and `target` if there is one. Refused packets are answered as `refusal(packet,
        answer)` says.

        `progress` is told after each batch how many bytes of the source were read. Raises `CaptureError`.
        """
        self._progress = progress
        self._current: CaptureBatch | None = None
        self._now = 0
        self._writer: CaptureWriter | None = None
        try:
            self._reader = CaptureReader(os.fspath(source))
        except OSError as error:
            raise CaptureError(f"{source}: {error.strerror or error}") from None
        if target is None:
            return
        self._target = self._partial = Path(target)
        # A device or a pipe is written to as it is: renaming a file onto it would replace it.
        if self._target.is_file() or not self._target.exists():
            self._partial = self._target.with_name(f".{self._target.name}.{os.getpid()}")
        try:
            self._writer = CaptureWriter(os.fspath(self._partial), self._reader, answer)
        except OSError as error:
            raise CaptureError(f"{self._target}: {error.strerror or error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        is_renamed = self._partial != self._target
        try:
            self._writer.close()
            if error is None and is_renamed:
                self._partial.replace(self._target)
        except OSError as failure:
            if error is None:
                raise CaptureError(f"{self._target}: {failure.strerror or failure}") from None
        finally:
            if is_renamed:
                with suppress(OSError):
                    self._partial.unlink(missing_ok=True)

    def receive(self) -> Batch | None:
        """See `PacketQueue`. A batch spans at most `MAX_SPAN`, and its time is that of its first packet.
        Raises `CaptureError`.
        """
        frames = self._reader.read_batch(MAX_PACKETS, MAX_SPAN)
        self._progress(self._reader.position)
        self._current = frames
        if frames is None:
            return None
        offsets, times = array("Q"), array("Q")
        offsets.frombytes(frames.offsets())
        times.frombytes(frames.times()[:8])
        # Captures of several devices are not always in order; the clock does not run backwards.
        self._now = max(self._now, times[0]) if times else self._now
        return Batch(self._now, frames.take(), offsets)

    def verdict(self, batch: Batch, verdicts: bytes, released: list[tuple[int, str, bytes | None]]) -> None:
        """See `PacketQueue`. `batch` is the one that was received last."""
        if self._writer is None or self._current is None:
            return
        self._writer.write(self._current, batch.packets, verdicts)
        self._writer.write_released(released)


MAX_PACKETS: Final = 1024
MAX_SPAN: Final = 50_000_000
"""Nanoseconds. All packets of a batch count as received together, so no timeout is missed by more than this.
"""
