"""Short answers over HTTP from one thread, whatever clients do.

The network may open any number of connections here, and leave them idle, send a byte now and then,
or endless headers, or never read. So connections are bounded in number, time and bytes, each gets
one answer, and the standard library parses the requests.
"""

import asyncio
import logging
import re
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from kbe_nat.server.answer import TEXT_HEADERS, Respond
from kbe_nat.server.closing import stop_accepting
from kbe_nat.server.loop_thread import begin
from kbe_nat.server.slots import ConnectionSlots, client_key

LOG: Final = logging.getLogger("kbe_nat.daemon")
_T = TypeVar("_T")


class HttpThread:
    """A thread that answers at any number of sockets."""

    def __init__(self) -> None:
        """Raises OSError or RuntimeError when there is no descriptor or no thread for it."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._log_once)
        self._slots = ConnectionSlots()
        self._trouble = ""
        self._ended = threading.Event()
        begin(self._loop, self._run, "answers")

    def listen(self, listener: socket.socket, answer: Respond) -> asyncio.Server:
        """Answer at a bound socket, which the thread owns from now on. It calls `answer`."""

        async def start() -> asyncio.Server:
            server = await self._loop.create_server(
                lambda: _Connection(self._slots, answer), sock=listener, backlog=AT_ONCE
            )
            # asyncio accepts AT_ONCE connections at a time; more may wait in the kernel.
            listener.listen(WAITING)
            self._trouble = ""
            return server

        return self._run_there(start())

    def stop(self, server: asyncio.Server) -> None:
        """Stop answering at one socket."""

        self._run_there(stop_accepting(server))

    def close(self) -> None:
        """Drop all connections and end the thread."""

        async def drop() -> None:
            self._slots.drop_all()

        self._run_there(drop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._ended.wait(PATIENCE):
            self._loop.close()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._ended.set()

    def _run_there(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def _log_once(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Logs each trouble once. Where a descriptor for a connection is missing, asyncio accepts
        again after a second.
        """
        error = context.get("exception")
        if isinstance(error, OSError) and "accept" in str(context.get("message")):
            self._slots.drop_one()
        trouble = f"{context.get('message')}: {error!r}"
        if trouble != self._trouble:
            LOG.error("answers over HTTP: %s", trouble)
        self._trouble = trouble


class _Connection(asyncio.Protocol):
    """One request and its answer, within `SECONDS`."""

    def __init__(self, slots: ConnectionSlots, answer: Respond) -> None:
        self.client = b""
        self._slots = slots
        self._answer = answer
        self._head = b""
        self._ignored = 0
        self._is_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.client = client_key(transport.get_extra_info("peername"))
        self._slots.enter(self)
        self._deadline = asyncio.get_running_loop().call_later(SECONDS, self.drop)

    def data_received(self, content: bytes) -> None:
        if self._is_answered:
            # To close now would reset the connection before the client has read its answer.
            self._ignored += len(content)
            if self._ignored > MAX_IGNORED:
                self.drop()
            return
        self._head += content[: MAX_HEAD + 1 - len(self._head)]
        whole = _HEAD_END.search(self._head)
        if whole or len(self._head) > MAX_HEAD:
            self._is_answered = True
            head = self._head[: whole.end()] if whole else None
            self._head = b""
            self._transport.write(_Exchange(head, self._answer).text)
            with suppress(OSError):
                self._transport.write_eof()

    def connection_lost(self, error: Exception | None) -> None:
        self._deadline.cancel()
        self._slots.leave(self)

    def drop(self) -> None:
        """Reset the connection: its client may never read, and would fill the kernel's buffers."""
        self._slots.leave(self)
        with suppress(OSError):
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self._transport.abort()


class _Exchange(BaseHTTPRequestHandler):
    """A request as the standard library reads it, and the text of its answer."""

    protocol_version = "HTTP/1.1"

    def __init__(self, head: bytes | None, answer: Respond) -> None:
        """`head` is None when it is too long."""
        # The inherited constructor would read from a socket.
        self.rfile, self.wfile = BytesIO(head or b""), BytesIO()
        self.raw_requestline = self.rfile.readline()
        self.requestline = self.command = ""
        self.request_version = self.protocol_version
        self.close_connection = True
        if head is None:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self.parse_request() and self.request_version != "HTTP/0.9":
            self._write_answer(*answer(_path(self.path)))
        elif not self.text:
            # Before HTTP/1.0 answers had no status, which programs that ask for health need.
            self.send_error(HTTPStatus.BAD_REQUEST)

    @property
    def text(self) -> bytes:
        """The whole answer."""
        output = self.wfile
        assert isinstance(output, BytesIO)
        return output.getvalue()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """As Go answers what is no request, and in the newest form: its own may not be known."""
        self.request_version = self.protocol_version
        status = HTTPStatus(code)
        self.command = ""
        self._write_answer(code, TEXT_HEADERS, f"{code} {status.phrase}\n".encode())

    def _write_answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_response(self, code: int, message: str | None = None) -> None:
        """Without the `Server` of the standard library, which says our version of Python."""
        self.send_response_only(code, message)
        self.send_header("Date", self.date_time_string())

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing: clients may ask as often as they like."""


def _path(target: str) -> str:
    """The path that a request names: decoded, without query and server."""
    path = target.partition("?")[0].partition("#")[0]
    scheme, sign, rest = path.partition("://")
    if sign and scheme.lower() in ("http", "https"):
        path = f"/{rest.partition('/')[2]}"
    return unquote(path)


AT_ONCE: Final = 16
WAITING: Final = 512
SECONDS: Final = 5.0
"""A connection may last, from its begin until its client has read the answer."""
PATIENCE: Final = 5.0
MAX_HEAD: Final = 8192
MAX_IGNORED: Final = 256 << 10
"""Bytes."""
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
