"""A `Connection` by aiohttp.

The server's name is resolved at each connect, and all its addresses are tried, in an order that is
drawn each time: an address that takes connections and says nothing must not be the first for ever.
A connection that is dead is noticed by TCP keep-alive. HTTP/1.1: each watch has a connection of its
own, so a large list holds up no event.
"""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import ClientSession, ClientTimeout, TCPConnector
from yarl import URL

from kbe_nat.metrics.rest import RestMetrics
from kbe_nat.sources.kubernetes.access import Access
from kbe_nat.sources.kubernetes.connection import ConnectionFailure
from kbe_nat.sources.kubernetes.credentials import Credentials
from kbe_nat.sources.kubernetes.proxies import environment_proxy
from kbe_nat.sources.kubernetes.resolver import SystemResolver


class HttpResponse:
    """A `Response`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        protocol = response.connection.protocol if response.connection else None
        if protocol is not None and protocol.closed is not None:
            protocol.closed.add_done_callback(self._end)

    def _end(self, closed: "asyncio.Future[None]") -> None:
        """The connection is closed. aiohttp tells the body so, except after a chunk whose size is
        no number: without this its reader would wait for ever.
        """
        if not closed.cancelled():
            # Taken, or asyncio would log it.
            closed.exception()
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError())

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `Response.chunks`."""
        try:
            # Whatever has come, at once: an event must not wait for its buffer to fill.
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(error) from None


class HttpConnection:
    """See the module. Wrong credentials show at the first request."""

    def __init__(
        self, access: Access, metrics: RestMetrics | None = None, random: Random | None = None
    ) -> None:
        """`random` orders the server's addresses."""
        self._access = access
        self._random = random or Random()
        self._host = urlsplit(access.server).netloc
        self._metrics = metrics or RestMetrics()
        self._credentials = Credentials(access)
        self._session: ClientSession | None = None
        self._proxy = access.proxy or environment_proxy(access.server, os.environ)

    @asynccontextmanager
    async def get(
        self, path: str, parameters: Mapping[str, str], accept: str
    ) -> AsyncIterator[HttpResponse]:
        """See `Connection.get`."""
        url = URL(self._access.server + path, encoded=True).with_query(parameters)
        is_timed = "watch" not in parameters
        async with self._ask("GET", url, {"Accept": accept}, None, is_timed=is_timed) as response:
            yield response

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncIterator[HttpResponse]:
        """See `Connection.post`."""
        url = URL(self._access.server + path, encoded=True)
        headers = {"Accept": JSON, "Content-Type": JSON}
        async with self._ask("POST", url, headers, body, is_timed=True) as response:
            yield response

    @asynccontextmanager
    async def _ask(
        self, method: str, url: URL, heads: Mapping[str, str], body: bytes | None, *, is_timed: bool
    ) -> AsyncIterator[HttpResponse]:
        """One request, counted with its time if it `is_timed`."""
        compression = "identity" if self._access.is_uncompressed else "gzip"
        headers = {**heads, "Accept-Encoding": compression, "User-Agent": USER_AGENT}
        headers |= await self._credentials.headers()
        started, status = time.monotonic() if is_timed else None, None
        is_tls = self._access.server.startswith("https:")
        context = self._credentials.context() if is_tls else False
        try:
            async with self._open().request(
                method,
                url,
                headers=headers,
                data=body,
                ssl=context,
                server_hostname=self._access.server_name or None,
                proxy=self._proxy or None,
                # A redirect would carry the token elsewhere.
                allow_redirects=False,
            ) as response:
                status = response.status
                self._count(method, status, started)
                yield HttpResponse(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A name or a header that nobody can send is a ValueError.
            if status is None:
                self._count(method, None, started)
            raise _failure(error) from None

    def _count(self, method: str, status: int | None, started: float | None) -> None:
        seconds = None if started is None else time.monotonic() - started
        self._metrics.count(self._host, method, status, seconds)

    def renew_credentials(self) -> None:
        """See `Connection.renew_credentials`."""
        self._credentials.renew()

    async def close(self) -> None:
        """See `Connection.close`."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> ClientSession:
        """The session, which belongs to the running loop."""
        if self._session is None:
            self._session = ClientSession(
                connector=TCPConnector(
                    limit=0,
                    use_dns_cache=False,
                    socket_factory=_keep_alive_socket,
                    resolver=SystemResolver(self._random),
                ),
                timeout=ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                # The environment's netrc is for people; proxies are read by ourselves.
                trust_env=False,
                read_bufsize=READ_BYTES,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _keep_alive_socket(address: "aiohttp.connector.AddrInfoType") -> socket.socket:
    family, kind, protocol, *_ = address
    stream = socket.socket(family, kind, protocol)
    for level, option, value in KEEP_ALIVE:
        stream.setsockopt(level, option, value)
    stream.setblocking(False)
    return stream


def _failure(error: Exception) -> ConnectionFailure:
    """One line for people."""
    os_error = getattr(error, "os_error", error)
    is_refused = isinstance(os_error, ConnectionRefusedError)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        reason = getattr(cause, "verify_message", "") or str(cause)
        return ConnectionFailure(f"the server's certificate is not accepted: {reason}")
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return ConnectionFailure("the connection was cut")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return ConnectionFailure(f"the proxy answers {error.status}: {_line(error.message)}")
    if isinstance(error, aiohttp.ClientResponseError):
        # aiohttp's own words have the whole URL in them.
        return ConnectionFailure(f"the answer is no sound HTTP: {_line(error.message)}")
    if isinstance(error, aiohttp.ClientConnectorError):
        place = f"{error.host}:{error.port}"
        number = getattr(os_error, "errno", None)
        # asyncio's own words name the address twice, and not the reason.
        is_named = isinstance(os_error, socket.gaierror) or not number
        reason = str(os_error) if is_named else os.strerror(number or 0)
        return ConnectionFailure(f"{place}: {reason}", is_refused=is_refused)
    if isinstance(error, ssl.SSLError):
        return ConnectionFailure(f"TLS: {error.reason or error}")
    if isinstance(error, TimeoutError):
        return ConnectionFailure("the server does not answer")
    return ConnectionFailure(_line(str(error)) or type(error).__name__, is_refused=is_refused)


def _line(words: str) -> str:
    return " ".join(words.split())[:200]


KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)
"""A silent peer is asked after 15 s, and counts as dead 15 s later."""
CONNECT_SECONDS: Final = 10.0
READ_BYTES: Final = 1 << 20
USER_AGENT: Final = "kbe-nat"
JSON: Final = "application/json"
