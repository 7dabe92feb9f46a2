"""The daemon's pages for operators, in a thread of its own: it carries no packets and waits for
nobody.

aiohttp answers, since some pages are streams. It has no bounds of its own for clients that open
connections and stay, so connections take slots here too, and have a deadline, which streams lift.
Pages that cost much are made one at a time in a second thread, so that others are answered
meanwhile. What browsers alone ask for is answered to pages of ours (`same_origin`).
"""

import asyncio
import logging
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from kbe_nat.server.answer import NOT_FOUND, TEXT_HEADERS, Answer
from kbe_nat.server.closing import stop_accepting
from kbe_nat.server.loop_thread import begin
from kbe_nat.server.same_origin import refusal
from kbe_nat.server.site import Feed, Form, Names, Page, Site
from kbe_nat.server.slots import ConnectionSlots, client_key
from kbe_nat.server.streams import Streams

LOG: Final = logging.getLogger("kbe_nat.daemon")
_T = TypeVar("_T")
_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PagesThread:
    """A thread that answers with pages at any number of sockets."""

    def __init__(self, site: Site) -> None:
        """Raises RuntimeError when there is no thread for it."""
        self._loop = asyncio.new_event_loop()
        self._slots = ConnectionSlots()
        self._maker = ThreadPoolExecutor(1, "pages")
        self._application = web.Application(middlewares=[_plain], logger=SILENT)
        self._streams = Streams(self._maker)
        self._streaming: set[_Connection] = set()
        self._add_routes(site)
        self._application.on_response_prepare.append(_without_version)
        self._runner = web.AppRunner(self._application, access_log=None, handler_cancellation=True)
        self._ended = threading.Event()
        begin(self._loop, self._run, "makes pages")
        self._run_there(self._runner.setup())

    def listen(self, listener: socket.socket) -> asyncio.Server:
        """Answer at a bound socket, which the thread owns from now on. Raises OSError."""

        async def start() -> asyncio.Server:
            return await self._loop.create_server(self._connection, sock=listener)

        return self._run_there(start())

    def stop(self, server: asyncio.Server) -> None:
        """Stop answering at one socket. Connections that have begun go on, but for streams: these
        have no end by themselves, and their pages ask again where they may.
        """

        async def end() -> None:
            await stop_accepting(server)
            for connection in tuple(self._streaming):
                connection.drop()

        self._run_there(end())

    def close(self) -> None:
        """Drop all connections and end the thread."""

        async def drop() -> None:
            self._slots.drop_all()

        with suppress(TimeoutError):
            self._run_there(drop())
            self._run_there(self._runner.cleanup())
        self._maker.shutdown(wait=False, cancel_futures=True)
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

    def _connection(self) -> "_Connection":
        server = self._runner.server
        assert server is not None
        return _Connection(server, self._loop, self._slots)

    def _add_routes(self, site: Site) -> None:
        add = self._application.router.add_get
        for path, page in site.pages.items():
            add(path, self._page_handler(page))
        for path, page in site.documents.items():
            add(path, _guarded(self._page_handler(page), site.names, is_document=True))
        for path, form in site.forms.items():
            add(path, _guarded(self._form_handler(form), site.names))
        for path, feed in site.feeds.items():
            add(path, _guarded(self._feed_handler(feed), site.names), allow_head=False)

    def _page_handler(self, page: Page) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._answer(request, page)

        return handle

    def _form_handler(self, form: Form) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._answer(request, lambda: form(dict(request.query)))

        return handle

    def _feed_handler(self, feed: Feed) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            connection = request.protocol
            assert isinstance(connection, _Connection)
            connection.lift_deadline()
            self._streaming.add(connection)
            try:
                stream = await self._streams.answer(request, connection.client, feed)
            except Exception as error:
                # The head of the answer is gone, so its end is all that can be said.
                if not isinstance(error, TimeoutError):
                    LOG.error("%s: %r", request.path, error)
                connection.drop()
                raise
            finally:
                self._streaming.discard(connection)
            return _response(stream) if isinstance(stream, tuple) else stream

        return handle

    async def _answer(self, request: web.Request, page: Page) -> web.Response:
        try:
            answer = await self._loop.run_in_executor(self._maker, page)
        except Exception as error:
            LOG.error("%s: %r", request.path, error)
            answer = FAILED
        return _response(answer)


def _guarded(handler: _Handler, names: Names, *, is_document: bool = False) -> _Handler:
    """Answers pages of ours alone."""

    async def handle(request: web.Request) -> web.StreamResponse:
        refused = refusal(request.headers, names(), is_document=is_document)
        return _response(refused) if refused else await handler(request)

    return handle


class _Connection(RequestHandler):
    """A connection with a slot and a deadline."""

    __slots__ = ("_deadline", "_slots", "client")

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        slots: ConnectionSlots,
    ) -> None:
        super().__init__(server, loop=loop, access_log=SILENT, logger=SILENT, lingering_time=0)
        self.client = b""
        self._slots = slots
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.client = client_key(transport.get_extra_info("peername"))
        self._slots.enter(self)
        self._deadline = asyncio.get_running_loop().call_later(SECONDS, self.drop)

    def connection_lost(self, error: BaseException | None) -> None:
        self.lift_deadline()
        self._slots.leave(self)
        super().connection_lost(error)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a client that speaks no HTTP, without what it has sent."""
        headers = {**TEXT_HEADERS, "Server": "kbe-nat"}
        return _response((status, headers, b"this is no request\n"))

    def lift_deadline(self) -> None:
        """Let the connection last, for a stream."""
        if self._deadline is not None:
            self._deadline.cancel()

    def drop(self) -> None:
        """Reset the connection: its client may never read."""
        self._slots.leave(self)
        transport = self.transport
        if transport is not None:
            with suppress(OSError):
                transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            transport.abort()


@web.middleware
async def _plain(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Where there is no page, the answer is Go's."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return _response(NOT_FOUND)
    except web.HTTPException as error:
        return _response((error.status, TEXT_HEADERS, f"{error.reason}\n".encode()))


async def _without_version(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop("Server", None)


def _response(answer: Answer) -> web.Response:
    status, headers, content = answer
    response = web.Response(status=status, headers=headers, body=content)
    # A connection gets one answer, so that it takes a slot for no longer than that.
    response.force_close()
    return response


SILENT: Final = logging.getLogger("kbe_nat.pages")
"""aiohttp's log: a traceback for each client that speaks no HTTP."""
SILENT.disabled = True
FAILED: Final[Answer] = (500, TEXT_HEADERS, b"the page cannot be made; the log says why\n")
SECONDS: Final = 30.0
"""A connection may last, from its begin until its client has read the answer."""
PATIENCE: Final = 5.0
