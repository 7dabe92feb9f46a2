"""Server-sent events (HTML Standard, 9.2) to a bounded number of clients, at a bounded cost.

**Clients.** Each has a place for as long as its connection lasts. When no place is left, a new one
is refused: to take another's place would only make the two take turns.

**Cost.** Messages are made one at a time, in the thread that makes the pages. A client has its next
one after `PERIOD` seconds, or later where messages are dear: all of them together take at most
`SHARE` of that thread. Without clients nothing runs.

**Slow clients.** The next message is made when the client has taken the last one, but for what the
kernel and aiohttp hold (64 KiB). So a slow client misses states in between, and costs no memory. A
client that takes nothing for `SECONDS` is dropped.
"""

import asyncio
import logging
import time
from concurrent.futures import Executor
from contextlib import suppress
from typing import Final

from aiohttp import web

from kbe_nat.server.answer import TEXT_HEADERS, Answer
from kbe_nat.server.site import NO_STORE, Feed, Subscription, bad_request

LOG: Final = logging.getLogger("kbe_nat.daemon")


class Streams:
    """All streams of one server."""

    def __init__(self, maker: Executor) -> None:
        """`maker` makes messages one at a time."""
        self._maker = maker
        self._clients: list[bytes] = []
        """The keys of those that have a place."""

    async def answer(
        self, request: web.Request, client: bytes, feed: Feed
    ) -> web.StreamResponse | Answer:
        """Send messages until the client is gone; an answer where it gets none."""
        if len(self._clients) >= PLACES or self._clients.count(client) >= PLACES_OF_CLIENT:
            return FULL
        try:
            subscription = feed(dict(request.query))
        except ValueError as error:
            return bad_request(str(error))
        self._clients.append(client)
        response = web.StreamResponse(headers={"Content-Type": EVENT_STREAM, **NO_STORE})
        try:
            await response.prepare(request)
            await response.write(b"retry: %d\n\n" % (RETRY_SECONDS * 1000))
            while True:
                await asyncio.sleep(await self._send(response, subscription))
        except ConnectionError:
            return response
        finally:
            self._clients.remove(client)
            with suppress(RuntimeError):
                # In the thread that may still be at work for it, unless that has ended.
                self._maker.submit(subscription.close)

    async def _send(self, response: web.StreamResponse, subscription: Subscription) -> float:
        """Send a message. Returns in how many seconds the next one is due."""
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        message, cost = await loop.run_in_executor(self._maker, _timed_message, subscription)
        await asyncio.wait_for(response.write(b"data: " + message + b"\n\n"), SECONDS)
        period = max(PERIOD, cost / SHARE * len(self._clients))
        return max(0.0, started + period - time.monotonic())


def _timed_message(subscription: Subscription) -> tuple[bytes, float]:
    """A message, and the seconds of processor time that it took."""
    started = time.thread_time()
    message = subscription.message()
    return message, time.thread_time() - started


PLACES: Final = 16
PLACES_OF_CLIENT: Final = 8
"""For one client, so that others have places, too. A browser has at most six connections."""
PERIOD: Final = 1.0
"""Seconds between two messages to a client."""
SHARE: Final = 0.25
SECONDS: Final = 10.0
RETRY_SECONDS: Final = 1
"""After which a browser asks again when its connection has ended."""
EVENT_STREAM: Final = "text/event-stream; charset=utf-8"
FULL: Final[Answer] = (
    503,
    {**TEXT_HEADERS, "Retry-After": "5"},
    b"as many pages as this daemon serves are open already\n",
)
