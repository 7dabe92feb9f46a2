"""An HTTP proxy that opens tunnels (CONNECT), over TLS too, in a thread."""

import asyncio
import base64
import ssl
import threading
from contextlib import suppress


class ConnectProxy:
    """It takes what `user` says, if it says anything: NAME:PASSWORD."""

    def __init__(
        self,
        user: str = "",
        context: ssl.SSLContext | None = None,
        *,
        is_silent: bool = False,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        """`is_silent`: it takes connections and never answers."""
        self.requests = 0
        self.tunnels: list[str] = []
        """Each host and port that somebody was let through to."""
        self.refusals = 0
        self._authorization = f"Basic {base64.b64encode(user.encode()).decode()}" if user else ""
        self._context = context
        self._address = address
        self._is_silent = is_silent
        self._tasks = set[asyncio.Task[None]]()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "ConnectProxy":
        self._thread.start()
        start = asyncio.start_server(self._handle, *self._address, ssl=self._context)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *raised: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._serve(reader, writer)
        self._tasks.discard(task)
        writer.close()

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests += 1
        method, place, _ = head.split(" ", 2)
        if self._is_silent:
            await asyncio.sleep(3600)
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        if method != "CONNECT" or fields.get("Proxy-Authorization", "") != self._authorization:
            self.refusals += 1
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return await writer.drain()
        self.tunnels.append(place)
        host, _, port = place.rpartition(":")
        there_reader, there = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pump(reader, there), _pump(there_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    writer.close()
