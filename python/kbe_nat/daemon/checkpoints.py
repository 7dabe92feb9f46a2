"""Connections that outlive the daemon: written to a file now and then, and read when it starts.

**The file** is a stamp, its checksum, and the engine's checkpoint with a checksum of its own. It is
replaced as a whole (`PrivateFile`), so a daemon that is killed while it writes leaves the old one.

**Time.** The engine's times are relative to the moment of writing. The stamp tells that moment by
two clocks. Within one boot CLOCK_BOOTTIME counts: it goes on while the machine sleeps, and no
operator can set it. Between two boots only the wall clock is left, so a file from the future by
more than a minute is refused. `Stamp.until` turns the moment into the time that the daemon was
away, and the engine lets that much of each flow's timeout pass.

**Versions.** The stamp's layout is frozen, as that of the checkpoint's first part is; a later
version says what is new in sections behind it. So upgrades and downgrades lose no flow.

**Trust.** A file is restored whole or not at all. One that is absent, too old, damaged, of another
version or not ours is left alone, and the daemon starts without connections: established ones are
then assigned as the engine assigns packets in mid-stream. A daemon that cannot write the file says
so once and serves on.
"""

import logging
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import UUID

from kbe_nat._native import Engine
from kbe_nat.daemon.private_file import PrivateFile
from kbe_nat.errors import CheckpointError, StateError
from kbe_nat.kubeproxy.duration import SECOND, go_duration


class Clocks:
    """The clocks of the machine, and the name of its boot."""

    def boot(self) -> bytes:
        """Sixteen bytes that no other boot has. Raises OSError, ValueError."""
        return UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes

    def since_boot(self) -> int:
        """Nanoseconds, with the time that the machine slept."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wall(self) -> int:
        """Nanoseconds since 1970."""
        return time.time_ns()


@dataclass(frozen=True, slots=True)
class Stamp:
    """A moment, by both clocks."""

    boot: bytes
    since_boot: int
    wall: int

    @classmethod
    def now(cls, clocks: Clocks) -> Self:
        """This moment. Raises OSError, ValueError."""
        return cls(clocks.boot(), clocks.since_boot(), clocks.wall())

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """The stamp at the head of a file. Raises `StateError`."""
        if not content:
            raise StateError("it is empty")
        if len(content) < STAMP.size + CHECKSUM.size:
            raise StateError("it is cut")
        magic, version, boot, since_boot, wall = STAMP.unpack_from(content)
        if magic != MAGIC:
            raise StateError("an earlier version of this program wrote it")
        if version != VERSION:
            raise StateError(f"it has version {version}; this program reads version {VERSION}")
        if CHECKSUM.unpack_from(content, STAMP.size) != (zlib.crc32(content[: STAMP.size]),):
            raise StateError("it is damaged: its checksum is wrong")
        return cls(boot, since_boot, wall)

    def encode(self) -> bytes:
        """The bytes that `decode` takes."""
        stamp = STAMP.pack(MAGIC, VERSION, self.boot, self.since_boot, self.wall)
        return stamp + CHECKSUM.pack(zlib.crc32(stamp))

    def until(self, now: Self) -> int:
        """Nanoseconds from this moment to `now`. Raises `StateError` where no clock can tell."""
        if self.boot == now.boot and self.since_boot <= now.since_boot:
            return now.since_boot - self.since_boot
        # Another boot. Its clock may have been a little fast.
        away = now.wall - self.wall
        if away < -LITTLE:
            raise StateError(f"the connections in it are from {-away / 1e9:.0f} s in the future")
        return max(0, away)


class CheckpointFile:
    """A file with what an engine knows of connections."""

    def __init__(self, path: Path | None, clocks: Clocks | None = None) -> None:
        """Without a path nothing is kept."""
        self._path = path
        self._file = PrivateFile(path, (MAGIC, ENGINE_MAGIC)) if path else None
        self._clocks = clocks or Clocks()

    def write(self, engine: Engine) -> None:
        """Replace the file by the present state. Raises `StateError`; then the file is as it was.
        Cost: a pass over the flow tables, and the disk's.
        """
        if self._file is None:
            return
        try:
            stamp = Stamp.now(self._clocks).encode()
            self._file.replace(stamp + engine.checkpoint(time.monotonic_ns()))
        except (OSError, StateError, ValueError) as error:
            raise self._about(error) from None

    def read(self, engine: Engine) -> int:
        """Take over the connections in the file; their number. A file that is not there, too old,
        damaged or not ours is left alone, and the log says why.
        """
        if self._file is None:
            return 0
        try:
            self._file.tidy()
            content = self._file.read(HEAD_SIZE + engine.checkpoint_limit)
            away = Stamp.decode(content).until(Stamp.now(self._clocks))
            if away > MAX_AGE:
                age = go_duration(away // SECOND * SECOND)
                limit = go_duration(MAX_AGE)
                raise StateError(f"the connections in it are {age} old, more than {limit}")
            return engine.restore(content[HEAD_SIZE:], time.monotonic_ns(), away=away)
        except FileNotFoundError:
            return 0
        except (OSError, StateError, CheckpointError, ValueError) as error:
            LOG.warning("%s; no connections are taken over", self._about(error))
            return 0

    def _about(self, error: Exception) -> StateError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return StateError(f"{self._path}: {reason}")


LOG: Final = logging.getLogger("kbe_nat.daemon")
MAGIC: Final = b"KBENATST"
ENGINE_MAGIC: Final = b"KBENATCK"
"""The beginning of the engine's part, and near that of files of earlier versions."""
VERSION: Final = 1
STAMP: Final = struct.Struct("<8sI16sQq")
"""Signature, version, boot, and nanoseconds since boot and since 1970."""
CHECKSUM: Final = struct.Struct("<I")
"""CRC-32 of the stamp; the engine's part has its own."""
HEAD_SIZE: Final = STAMP.size + CHECKSUM.size
MAX_AGE: Final = 600 * SECOND
"""Nanoseconds. Most connections without an answer for so long have ended."""
LITTLE: Final = 60 * 10**9
"""Nanoseconds by which a clock may have been set back between two boots."""
