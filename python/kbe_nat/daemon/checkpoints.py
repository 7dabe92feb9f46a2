"""Connections that outlive the daemon: written to a file now and then, and read when it starts."""

import logging
import os
import struct
import time
from pathlib import Path
from typing import Final

from kbe_nat._native import Engine
from kbe_nat.errors import CheckpointError


class CheckpointFile:
    """A file with what an engine knows of connections. The engine's own format is relative in time; in front of
    it stands when it was written, so that what has run out meanwhile is not taken over.
    """

    def __init__(self, path: Path | None) -> None:
        """Without a path nothing is kept."""
        self._path = path

    def write(self, engine: Engine) -> None:
        """Replace the file by the present state. Raises OSError."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            content = HEAD.pack(time.time()) + engine.checkpoint(time.monotonic_ns())
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            partial.replace(self._path)
        finally:
            partial.unlink(missing_ok=True)

    def read(self, engine: Engine) -> int:
        """Take over the connections in the file; their number. A file that is not there, too old or damaged is
        left alone.
        """
        if self._path is None:
            return 0
        try:
            content = self._path.read_bytes()
            (written,) = HEAD.unpack_from(content)
            away = time.time() - written
            if not 0 <= away <= MAX_AGE:
                LOG.warning(
                    "%s: the connections in it are from %.0f s ago, too old to be taken over",
                    self._path,
                    away,
                )
                return 0
            return engine.restore(content[HEAD.size :], time.monotonic_ns())
        except FileNotFoundError:
            return 0
        except (OSError, CheckpointError, struct.error) as error:
            LOG.warning("%s: connections cannot be taken over: %s", self._path, error)
            return 0


LOG: Final = logging.getLogger("kbe_nat.daemon")
HEAD: Final = struct.Struct("<d")
"""Seconds since 1970."""
MAX_AGE: Final = 600.0
"""Seconds. Most connections that nobody answered for so long are no more."""
