"""Which cell it was whose process died.

loky says that a process died, and kills all others at once: their ends look the same. So each
process connects to a socket of the caller while it runs a cell. A connection that closes without
the word that the cell has ended is a process that died, and the first of them did so before loky
killed the others.
"""

import os
import socket
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final


class Roll:
    """The caller's side."""

    def __enter__(self) -> "Roll":
        self._folder = tempfile.TemporaryDirectory(prefix="kbe-nat-lab-")
        self.path = Path(self._folder.name) / "roll"
        self._server = _Server(str(self.path), _Connection)
        thread = threading.Thread(target=self._server.serve_forever, args=(POLL,), daemon=True)
        thread.start()
        return self

    def first_lost(self) -> int | None:
        """The number of the cell whose process died first, None where none did while it ran a
        cell. Waits for a moment: loky may be faster to tell.
        """
        try:
            return self._server.lost.get(timeout=PATIENCE)
        except Empty:
            return None

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._folder.cleanup()


@contextmanager
def enter(path: Path, number: int) -> Iterator[None]:
    """The worker's side: it runs this cell until the end of the context."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"%d\n" % number)
        try:
            yield
        finally:
            try:
                connection.sendall(b"ended\n")
            except OSError:
                # The caller was killed, and could not end this process. It leaves no orphan.
                os._exit(1)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.lost: SimpleQueue[int] = SimpleQueue()


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        number, ended = self.rfile.readline(), self.rfile.readline()
        if number and not ended:
            self.server.lost.put(int(number))


POLL: Final = 0.05
"""Seconds until the server notices that it shall end."""
PATIENCE: Final = 2.0
"""Seconds."""
