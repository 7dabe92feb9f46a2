"""How the daemon is asked and told: a Unix socket, one request as a line of JSON, answers as lines
of JSON.

A request is `{"verb": NAME, ...}`. An answer is a number of `{"result": ...}`, and then `{"end":
true}` or `{"error": TEXT}`; some verbs give results until who asked closes the connection. The
result of a list is a page of it: there is at least one, and a long list has many.
"""

import json
import logging
import os
import socket
import stat
import struct
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias
from weakref import WeakSet

from kbe_nat.daemon.reception import Reception
from kbe_nat.daemon.requests import parse
from kbe_nat.errors import ControlError, KbeNatError

Answering: TypeAlias = Callable[[dict[str, Any]], Iterator[Any]]
"""From a request to its results. Raises `KbeNatError`."""


class ControlServer:
    """Answers at a socket for as long as the block runs. Only root and our own user are answered."""

    def __init__(self, path: Path, answer: Answering) -> None:
        self._path = path
        self._answer = answer
        self._clients: WeakSet[socket.socket] = WeakSet()
        """Those who are being answered: whatever becomes of a thread, its client leaves with it."""

    def __enter__(self) -> Self:
        """Raises `ControlError` when somebody listens there already, something else than a socket
        of ours stands there, or the socket cannot be made.
        """
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _take_away_stale(self._path)
            # The file gets the mode of the socket (unix(7)), so nobody can connect even for a
            # moment.
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
        self._reception = Reception(self._listener, _refuse)
        self._thread = threading.Thread(target=self._receive, name="control socket", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reception.stop()
        self._thread.join(END_SECONDS)
        self._listener.close()
        with suppress(OSError):
            # Whatever has taken its place is not ours.
            if _identity(self._path) == self._bound:
                self._path.unlink()

    def _receive(self) -> None:
        for client, line in self._reception.requests():
            if len(self._clients) >= MAX_CONVERSATIONS:
                _refuse(
                    client, f"{MAX_CONVERSATIONS} requests are being answered already; try again"
                )
                continue
            try:
                self._clients.add(client)
                # `Thread.start` would wait for ever for a thread that finds no memory to begin
                # with.
                start_new_thread(self._converse, (client, line))
            except (RuntimeError, MemoryError):
                _refuse(client, "no thread is left to answer; try again")
            # Its thread is to have the only reference.
            del client

    def _converse(self, client: socket.socket, line: bytes) -> None:
        # A client that is gone, or takes no answer for so long, ends its conversation.
        with client, suppress(OSError, MemoryError):
            client.settimeout(PATIENCE)
            for answer in self._answers(line):
                client.sendall(_line(answer))

    def _answers(self, line: bytes) -> Iterator[dict[str, Any]]:
        try:
            for result in self._answer(parse(line)):
                yield {"result": result}
            yield {"end": True}
        except KbeNatError as error:
            yield {"error": str(error)}
        except Exception as error:
            LOG.exception("a request failed")
            yield {"error": f"the daemon failed: {error!r}"}


def ask(path: Path, verb: str, **parameters: object) -> Iterator[Any]:
    """The results of a request, as they come. Raises `ControlError` when nobody answers, a result
    takes too long (`ANSWER_SECONDS`, for work on everything that is served `WORK_SECONDS`), or with
    the daemon's error.
    """
    patience = WORK_SECONDS if verb in WORK else ANSWER_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            _connect(connection, path, ANSWER_SECONDS)
            connection.settimeout(patience)
            # Who is turned away at the door need not have been heard: the answer says why.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(_line({"verb": verb, **parameters}))
            for line in _lines(connection, patience):
                answer = json.loads(line)
                if "error" in answer:
                    raise ControlError(str(answer["error"]))
                if "end" in answer:
                    return
                yield answer["result"]
            raise ConnectionResetError
        except ConnectionResetError:
            raise ControlError(f"{path}: the daemon ended before it had answered") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlError(
                f"{path}: no daemon answers here (kbe-nat proxy, --socket)"
            ) from None
        except (TimeoutError, BlockingIOError):
            seconds = f"{patience:.0f} s"
            raise ControlError(
                f"{path}: somebody listens here, but has not answered for {seconds}"
            ) from None
        except PermissionError:
            raise ControlError(f"{path}: only root and the daemon's own user may ask") from None
        except OSError as error:
            raise ControlError(f"{path}: {error.strerror or error}") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ControlError(f"{path}: what answers here is no kbe-nat") from None


def rows(path: Path, verb: str, **parameters: object) -> Iterator[Any]:
    """The rows of a list, one after the other as its pages come. Raises as `ask`."""
    for page in ask(path, verb, **parameters):
        yield from page


def _take_away_stale(path: Path) -> None:
    """Removes a socket of ours at which nobody listens any more. Raises `ControlError` for anything
    else that stands there, which is left alone; OSError.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ControlError(f"{path}: it is no socket, and is left alone")
    if found.st_uid not in (0, os.geteuid()):
        raise ControlError(f"{path}: it belongs to user {found.st_uid}, and is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            _connect(connection, path, CONNECT_SECONDS)
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            pass
    raise ControlError(f"{path}: another daemon answers here, or at least listens")


def _connect(connection: socket.socket, path: Path, seconds: float) -> None:
    """Connects. The kernel waits for a place among those who are not taken in yet: a socket with a
    time limit of Python's would fail at once when there is none. Raises BlockingIOError after so
    long, OSError.
    """
    patience = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    connection.connect(str(path))
    connection.settimeout(seconds)


def _lines(connection: socket.socket, patience: float) -> Iterator[bytes]:
    """What is said, line by line. Raises TimeoutError when a line takes longer than `patience`
    seconds, though a byte comes now and then; ValueError when it is too long.
    """
    buffered = bytearray()
    deadline = time.monotonic() + patience
    while content := connection.recv(1 << 18):
        seen = len(buffered)
        buffered += content
        while (end := buffered.find(b"\n", seen)) >= 0:
            line, seen = bytes(buffered[:end]), 0
            del buffered[: end + 1]
            yield line
            deadline = time.monotonic() + patience
        if len(buffered) > MAX_ANSWER:
            raise ValueError
        connection.settimeout(max(0.001, deadline - time.monotonic()))


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _refuse(client: socket.socket, reason: str) -> None:
    """Says why a client is not answered, if it can hear that at once."""
    with client, suppress(OSError):
        client.setblocking(False)
        client.sendall(_line({"error": reason}))


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


LOG: Final = logging.getLogger("kbe_nat.daemon")
BACKLOG: Final = 1024
MAX_CONVERSATIONS: Final = 32
END_SECONDS: Final = 2.0
PATIENCE: Final = 30.0
"""Seconds in which a client must have taken a page."""
ANSWER_SECONDS: Final = 10.0
WORK_SECONDS: Final = 25.0
"""Seconds that a client waits for each result."""
WORK: Final = ("dump", "rules", "strategy", "drain", "undrain", "delete")
"""Verbs that take a while on a large cluster."""
CONNECT_SECONDS: Final = 2.0
MAX_ANSWER: Final = 1 << 28
"""Bytes of a result: the rules of a very large cluster are a tenth of it."""
