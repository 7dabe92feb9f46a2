"""A server that answers with bytes as they are, sound HTTP or not, in the loop of the test."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

Write = Callable[[bytes], Awaitable[None]]
"""Returns when the bytes have left."""
Behaviour = Callable[[Write], Awaitable[None]]
"""What it does after a request; then it closes the connection."""


class RawServer:
    """Each request is answered by `behaviour`. WatchLists are refused if not `has_watch_list`."""

    def __init__(self, behaviour: Behaviour, *, has_watch_list: bool = True) -> None:
        self.requests = 0
        self._behaviour = behaviour
        self._has_watch_list = has_watch_list
        self._tasks = set[asyncio.Task[None]]()

    async def __aenter__(self) -> str:
        """Its URL."""
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *raised: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)

        async def write(content: bytes) -> None:
            writer.write(content)
            await writer.drain()

        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            if b"sendInitialEvents" in head and not self._has_watch_list:
                await write(b"HTTP/1.1 422 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                await self._behaviour(write)
        self._tasks.discard(task)
        writer.close()


HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED: Final = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GZIPPED: Final = HEAD + b"Content-Encoding: gzip\r\n"
LIST: Final = (
    b'{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":['
)


def says(*parts: bytes) -> Behaviour:
    """These bytes, one part after the other, each in packets of its own."""

    async def behave(write: Write) -> None:
        for part in parts:
            await write(part)
            await asyncio.sleep(0.05)

    return behave


def for_ever(head: bytes, part: bytes) -> Behaviour:
    async def behave(write: Write) -> None:
        await write(head)
        many = part * (1 + (1 << 16) // len(part))
        while True:
            await write(many)

    return behave


def bomb(mebibytes: int) -> Behaviour:
    """A small gzip of so many zeros."""

    async def behave(write: Write) -> None:
        await write(GZIPPED + b"\r\n")
        packer = zlib.compressobj(1, wbits=31)
        for _ in range(mebibytes):
            await write(packer.compress(bytes(1 << 20)))
        await write(packer.flush())

    return behave


def cut_gzip(document: bytes) -> Behaviour:
    """A clean end, and half of the compressed bytes."""
    packed = gzip.compress(document)
    half = packed[: len(packed) // 2]
    return says(GZIPPED + b"Content-Length: %d\r\n\r\n" % len(half) + half)
