"""The server of the control socket: a Unix socket, requests and answers as lines of JSON.

**Protocol.** A connection carries one request, a line `{"verb": NAME, ...}`. The answer is any
number of lines `{"result": ...}`, and then `{"end": true}` or `{"error": TEXT}`, with `kind` and
`names` of what is not there where names are of nothing; some verbs send results until the client
closes the connection. The result of a list is a page of it: there is at
least one, and a long list has many, so that no list is in memory as a whole. `kbe_nat.client` is
the other end.

**Access.** Root and the daemon's own user are answered, as the kernel tells who connects. The file
has no permissions for others, from the moment that it exists. A socket in its place is removed only
when it belongs to one of these users and nothing answers there any more.

**Bounds.** One thread accepts connections and reads requests (`Acceptor`), so a silent client costs
no thread. A whole request gets a thread, at most `MAX_CONVERSATIONS` at a time; further clients are
told to try again. A client that reads nothing for `SEND_SECONDS` loses its connection. No client
can hold up the main thread, which takes no part in any of this.
"""

import logging
import os
import socket
import stat
import threading
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, TypeAlias
from weakref import WeakSet

from kbe_nat.client import connect, encode_line
from kbe_nat.daemon.acceptor import Acceptor
from kbe_nat.daemon.requests import parse
from kbe_nat.errors import ControlError, KbeNatError, NotFoundError

Dispatcher: TypeAlias = Callable[[dict[str, Any]], Iterator[Any]]
"""From a request to its results. Raises `KbeNatError`."""


class ControlServer:
    """Answers at a socket for as long as the block runs."""

    def __init__(self, path: Path, dispatch: Dispatcher) -> None:
        self._path = path
        self._dispatch = dispatch
        self._clients: WeakSet[socket.socket] = WeakSet()
        """Clients that are being answered. The only other reference is that of the client's thread,
        so a client leaves when its thread ends, in whichever way that is.
        """

    def __enter__(self) -> Self:
        """Raises `ControlError` when another daemon listens there already, something else than a
        socket of ours stands there, or the socket cannot be made.
        """
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(self._path)
            # The file gets the mode of the socket (unix(7)), so no other user can connect even for
            # a moment.
            os.fchmod(self._listener.fileno(), 0o600)
            self._listener.bind(str(self._path))
            self._bound = _identity(self._path)
            self._listener.listen(BACKLOG)
        except OSError as error:
            self._listener.close()
            raise ControlError(f"{self._path}: {error.strerror or error}") from None
        except ControlError:
            self._listener.close()
            raise
        self._acceptor = Acceptor(self._listener, _refuse)
        self._thread = threading.Thread(target=self._accept, name="control socket", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._acceptor.stop()
        self._thread.join(JOIN_SECONDS)
        self._listener.close()
        with suppress(OSError):
            # A file that has replaced the socket meanwhile is not ours.
            if _identity(self._path) == self._bound:
                self._path.unlink()

    def _accept(self) -> None:
        for client, line in self._acceptor.requests():
            if len(self._clients) >= MAX_CONVERSATIONS:
                _refuse(
                    client, f"{MAX_CONVERSATIONS} requests are being answered already; try again"
                )
                continue
            try:
                self._clients.add(client)
                # `Thread.start` would wait for ever for a thread that finds no memory to begin
                # with.
                start_new_thread(self._answer, (client, line))
            except (RuntimeError, MemoryError):
                _refuse(client, "no thread is left to answer; try again")
            # Its thread is to have the only reference.
            del client

    def _answer(self, client: socket.socket, line: bytes) -> None:
        # A client that has closed the connection, or reads nothing for so long, is left.
        with client, suppress(OSError, MemoryError):
            client.settimeout(SEND_SECONDS)
            for answer in self._answers(line):
                client.sendall(encode_line(answer))

    def _answers(self, line: bytes) -> Iterator[dict[str, Any]]:
        try:
            for result in self._dispatch(parse(line)):
                yield {"result": result}
            yield {"end": True}
        except NotFoundError as error:
            yield {"error": str(error), "kind": error.kind, "names": error.names}
        except KbeNatError as error:
            yield {"error": str(error)}
        except Exception as error:
            LOG.exception("a request failed")
            yield {"error": f"the daemon failed: {error!r}"}


def _remove_stale(path: Path) -> None:
    """Removes a socket of ours at which nothing listens any more. Raises `ControlError` for
    anything else that stands there, which is left alone; OSError.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ControlError(f"{path}: it is no socket, and is left alone")
    if status.st_uid not in (0, os.geteuid()):
        raise ControlError(f"{path}: it belongs to user {status.st_uid}, and is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connect(connection, path, CONNECT_SECONDS)
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            # Its backlog is full, so it listens.
            pass
    raise ControlError(f"{path}: another daemon answers here, or at least listens")


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _refuse(client: socket.socket, reason: str) -> None:
    """Says why a client is not answered, if it can hear that at once."""
    with client, suppress(OSError):
        client.setblocking(False)
        client.sendall(encode_line({"error": reason}))


LOG: Final = logging.getLogger("kbe_nat.daemon")
BACKLOG: Final = 1024
MAX_CONVERSATIONS: Final = 32
JOIN_SECONDS: Final = 2.0
SEND_SECONDS: Final = 30.0
"""In which a client must have taken a page."""
CONNECT_SECONDS: Final = 2.0
