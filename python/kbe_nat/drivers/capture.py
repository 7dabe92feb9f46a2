"""A capture file in place of a kernel queue: every packet of it gets its verdict, and the packets
that would have been sent on are written to another file.

Reading and writing are native and go batch by batch; nothing here looks at a single packet.
"""

import os
import stat
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from kbe_nat import words
from kbe_nat._native import CaptureBatch, CaptureReader, CaptureWriter
from kbe_nat.drivers.queue import Batch
from kbe_nat.errors import CaptureError


class CaptureQueue:
    """A `PacketQueue` over a pcap or pcapng file; its clock is that of the capture.

    Used as a context manager: the target appears under its name when the block ends, or not at all
    when it ends with an exception. Packets that are no IP packets get no verdict and are written as
    they are.

    A device, a pipe or standard output ("-" too) is written to as it is, while packets come.
    """

    max_packets: int
    """Packets of a batch, at most."""
    is_standard_output: bool = False
    """Whether the capture goes to standard output, which must carry nothing else then."""

    def __init__(
        self,
        source: str | Path,
        target: str | Path | None = None,
        *,
        answer: words.Answer = "icmp",
        inputs: Iterable[str | Path] = (),
        progress: Callable[[int], None] = lambda position: None,
    ) -> None:
        """Open `source` ("-" is standard input), and `target` if there is one. Refused packets are
        answered as `reject(packet, answer)` says.

        `target` takes the place of a file of its name, but not that of `source` or `inputs`: other
        files that are read, or directories of such. `progress` is told after each batch how many
        bytes of the source were read. Raises `CaptureError`.
        """
        self._names = (source, target)
        source = "/dev/stdin" if str(source) == "-" else source
        self._progress = progress
        self.max_packets = MAX_PACKETS
        self.times: array[int] = array("Q")
        """When each packet of the newest batch was captured, in nanoseconds since 1970."""
        self._current: CaptureBatch | None = None
        self._now = 0
        self._writer: CaptureWriter | None = None
        try:
            self._reader = CaptureReader(os.fspath(source))
        except OSError as error:
            raise CaptureError(f"{source}: {error.strerror or error}") from None
        if target is None:
            return
        self._target = Path(target)
        self._partial: Path | None = None
        self.is_standard_output = is_standard_output(self._target)
        if not self.is_standard_output:
            for read in _files((source, *inputs)):
                if _is_same_file(read, self._target):
                    raise CaptureError(f"{target}: {OVERWRITING}")
        try:
            self._writer = CaptureWriter(self._output_name(), self._reader, answer)
        except OSError as error:
            self._discard()
            raise CaptureError(f"{self._target}: {error.strerror or error}") from None

    def __repr__(self) -> str:
        source, target = self._names
        return f"<CaptureQueue {source}{'' if target is None else f' -> {target}'}>"

    def _output_name(self) -> str | None:
        """Name of the file that is written: one beside the target, which takes its place in the
        end. A device or a pipe is written to as it is, since a file in its place would replace it.
        """
        if self.is_standard_output:
            return None
        if self._target.exists() and not self._target.is_file():
            return os.fspath(self._target)
        # A link stays, and what it names is replaced.
        self._target = Path(os.path.realpath(self._target))
        descriptor, name = tempfile.mkstemp(
            prefix=f".{self._target.name}.", dir=self._target.parent
        )
        self._partial = Path(name)
        with os.fdopen(descriptor):
            os.fchmod(descriptor, _mode(self._target))
        return name

    def _discard(self) -> None:
        if self._partial is not None:
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
            if error is None and self._partial is not None:
                self._partial.replace(self._target)
        except OSError as failure:
            if error is None:
                raise CaptureError(f"{self._target}: {failure.strerror or failure}") from None
        finally:
            self._discard()

    @property
    def unread(self) -> dict[int, int]:
        """Frames so far whose link type is not read, by its number. They pass as they are."""
        return self._reader.unread

    @property
    def cut(self) -> str | None:
        """The packet or block within which the source ends, once that was met. All before it
        counts.
        """
        return self._reader.cut

    def receive(self) -> Batch | None:
        """See `PacketQueue`. A batch spans at most `MAX_SPAN`, and its time is that of its first
        packet. Raises `CaptureError`.
        """
        frames = self._reader.read_batch(self.max_packets, MAX_SPAN)
        self._progress(self._reader.position)
        self._current = frames
        if frames is None:
            return None
        offsets, times = array("Q"), array("Q")
        offsets.frombytes(frames.offsets())
        times.frombytes(frames.times())
        self.times = times
        # Captures of several devices are not always in order; the clock does not run backwards.
        self._now = max(self._now, times[0]) if times else self._now
        return Batch(self._now, frames.take(), offsets, is_captured=True)

    def set_verdicts(
        self, batch: Batch, verdicts: bytes, released: list[tuple[int, str, bytes | None]]
    ) -> None:
        """See `PacketQueue`. `batch` is the one that was received last."""
        if self._writer is None or self._current is None:
            return
        self._writer.write(self._current, batch.packets, verdicts)
        self._writer.write_released(released)


def is_standard_output(path: Path) -> bool:
    """Whether a target is standard output, by "-" or by any of its names."""
    if str(path) == "-":
        return True
    with suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(STANDARD_OUTPUT))
    return False


def _is_same_file(path: Path, other: Path) -> bool:
    """Whether both are names of one regular file, by any links."""
    with suppress(OSError):
        status = path.stat()
        return stat.S_ISREG(status.st_mode) and os.path.samestat(status, other.stat())
    return False


def _files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """These files, and those in these directories."""
    for path in map(Path, paths):
        yield path
        if path.is_dir():
            with suppress(OSError):
                yield from path.iterdir()


def _mode(target: Path) -> int:
    """The permissions of the file, or those that a new one gets."""
    with suppress(OSError):
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def check_target(target: Path, inputs: Iterable[str | Path]) -> None:
    """Raises `CaptureError` for a file that is read, or in a directory of such."""
    if any(_is_same_file(read, target) for read in _files(inputs)):
        raise CaptureError(f"{target}: {OVERWRITING}")


OVERWRITING: Final = "it would be written over what is read; name another file"
STANDARD_OUTPUT: Final = 1
MAX_PACKETS: Final = 1024
MAX_SPAN: Final = 50_000_000
"""Nanoseconds. All packets of a batch count as received together, so no timeout is missed by more
than this.
"""
