"""How the daemon is asked and told: a Unix socket, one request as a line of JSON, answers as lines of JSON.

A request is `{"verb": NAME, ...}`. An answer is a number of `{"result": ...}`, and then `{"end": true}` or
`{"error": TEXT}`; some verbs give results until who asked closes the connection.
"""

import json
import logging
import os
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from kbe_nat.errors import ControlError, KbeNatError

Answering: TypeAlias = Callable[[dict[str, Any]], Iterator[Any]]
"""From a request to its results. Raises `KbeNatError`."""


class ControlServer:
    """Answers at a socket for as long as the block runs. Only root and our own user are answered."""

    def __init__(self, path: Path, answer: Answering) -> None:
        self._path = path
        self._answer = answer

    def __enter__(self) -> Self:
        """Raises `ControlError` when another daemon answers there already, or the socket cannot be made."""
        if _is_answered(self._path):
            raise ControlError(f"{self._path}: another daemon answers here")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                self._server = _Server(str(self._path), _Conversation)
            finally:
                os.umask(before)
        except OSError as error:
            raise ControlError(f"{self._path}: {error.strerror or error}") from None
        self._server.answer = self._answer
        self._thread = threading.Thread(target=self._server.serve_forever, name="control socket", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    answer: Answering


class _Conversation(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            self.connection.settimeout(PATIENCE)
            if _peer(self.connection) not in (0, os.geteuid()):
                self._say({"error": "only root and the daemon's own user may ask"})
                return
            try:
                for result in self.server.answer(_request(self.rfile.readline(MAX_REQUEST))):
                    self._say({"result": result})
                self._say({"end": True})
            except KbeNatError as error:
                self._say({"error": str(error)})
            except (BrokenPipeError, ConnectionResetError, TimeoutError):
                raise
            except Exception as error:
                LOG.exception("a request failed")
                self._say({"error": f"the daemon failed: {error!r}"})

    def _say(self, answer: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def ask(path: Path, verb: str, **parameters: object) -> Iterator[Any]:
    """The results of a request, as they come. Raises `ControlError` when nobody answers, or with the daemon's
    error.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps({"verb": verb, **parameters}).encode() + b"\n")
            with connection.makefile("r") as answers:
                for line in answers:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise ControlError(answer["error"])
                    if "end" in answer:
                        return
                    yield answer["result"]
                raise ControlError(f"{path}: the daemon ended before it had answered")
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlError(f"{path}: no daemon answers here (kbe-nat proxy, --socket)") from None
        except OSError as error:
            raise ControlError(f"{path}: {error.strerror or error}") from None
        except ValueError:
            raise ControlError(f"{path}: what answers here is no kbe-nat") from None


def _is_answered(path: Path) -> bool:
    try:
        next(ask(path, "status"))
    except ControlError:
        return False
    return True


def _request(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
        raise ControlError('a request is a line of JSON: {"verb": ...}')
    return request


def _peer(connection: socket.socket) -> int:
    """The user at the other end (SO_PEERCRED, unix(7))."""
    _, user, _ = CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    )
    return int(user)


LOG: Final = logging.getLogger("kbe_nat.daemon")
CREDENTIALS: Final = struct.Struct("iII")
MAX_REQUEST: Final = 1 << 20
PATIENCE: Final = 30.0
"""Seconds that a peer may keep us waiting."""
