"""The file beside the connections that keeps the API server's last objects."""

from pathlib import Path
from typing import Final

from kbe_nat.daemon.private_file import PrivateFile
from kbe_nat.errors import StateError
from kbe_nat.sources.kubernetes.last_objects import MAGIC


class StoredObjects:
    """A `kbe_nat.sources.kubernetes.last_objects.ObjectsFile`."""

    def __init__(self, state: Path, server: str) -> None:
        """`state` is the file of connections, `server` the URL of the API server."""
        self.server = server
        self._path = state.with_name(f"{state.name}{SUFFIX}")
        self._file = PrivateFile(self._path, (MAGIC,))

    def read(self) -> bytes | None:
        """See `ObjectsFile.read`."""
        try:
            self._file.tidy()
            return self._file.read(MAX_BYTES)
        except FileNotFoundError:
            return None
        except (OSError, StateError) as error:
            raise self._about(error) from None

    def write(self, content: bytes) -> None:
        """See `ObjectsFile.write`."""
        try:
            self._file.replace(content)
        except (OSError, StateError) as error:
            raise self._about(error) from None

    def _about(self, error: Exception) -> StateError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return StateError(f"{self._path}: {reason}")


SUFFIX: Final = "-objects"
MAX_BYTES: Final = 1 << 28
"""Far more than the objects of the largest cluster take."""
