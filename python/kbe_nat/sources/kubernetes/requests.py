"""Requests for the objects of one resource, and their answers decoded.

Each answer is bounded in time and in bytes: what stops, never ends, is cut, of another kind or no
answer at all ends as an exception, and the caller keeps what it has. Methods raise `Refusal`,
`AnswerError`, `ConnectionFailure` and `CredentialFailure`.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Final, Protocol

from kbe_nat.sources.kubernetes.answers import (
    AnswerError,
    Decoder,
    ListPage,
    Refusal,
    WatchEvent,
)
from kbe_nat.sources.kubernetes.backoff import Recovery, Turn
from kbe_nat.sources.kubernetes.connection import Connection, ConnectionFailure, Response
from kbe_nat.sources.kubernetes.encodings import Encoding, decoder_for, refusal_decoder
from kbe_nat.sources.kubernetes.resources import Resource


class Silence(ConnectionFailure):
    """A watch that tells nothing, not even bookmarks."""


class Cluster:
    """The connection, the randomness and the outage that the reflectors of one node share."""

    def __init__(
        self, connection: Connection, random: Random, encoding: Encoding = Encoding.PROTOBUF
    ) -> None:
        self.connection = connection
        self.encoding = encoding
        self.random = random
        self.recovery = Recovery()
        self.turn = Turn(random)
        self.nodes = 0
        """Nodes that endpoints are on, about: so many clients list with us after an outage."""


class NoteAnswer(Protocol):
    """Told of the head of each sound answer."""

    def __call__(self, *, is_watch: bool) -> None:
        """`is_watch`: the answer is a watch, in the place of a list in pages."""
        ...


class Requests:
    """For one event loop."""

    def __init__(self, resource: Resource, cluster: Cluster, note_answer: NoteAnswer) -> None:
        self._resource = resource
        self._cluster = cluster
        self._note_answer = note_answer

    async def page(self, parameters: Mapping[str, str], room: int) -> tuple[ListPage, int]:
        """A page of a list, of at most `room` bytes, and how many they are."""
        connection, accept = self._cluster.connection, self._cluster.encoding.accept
        get = connection.get(self._resource.path, parameters, accept)
        body = bytearray()
        async with _patience(LIST_SECONDS) as deadline, get as response:
            decoder = await self._accept(response, is_watch=False)
            async for chunk in response.chunks():
                deadline.reschedule(asyncio.get_running_loop().time() + LIST_SECONDS)
                body += chunk
                if len(body) > room:
                    raise AnswerError(TOO_LARGE)
        return decoder.page(bytes(body), self._resource), len(body)

    async def events(
        self, parameters: Mapping[str, str], first_seconds: float, room: float = math.inf
    ) -> AsyncGenerator[WatchEvent, None]:
        """The events of one watch, whose first one comes within `first_seconds`; those before an
        end mark have at most `room` bytes.
        """
        query = {
            "watch": "true",
            **self._resource.selectors,
            "allowWatchBookmarks": "true",
            **parameters,
            # Spread, so that the watches of all nodes do not end at one moment.
            "timeoutSeconds": str(self._cluster.random.randint(*WATCH_SECONDS)),
        }
        accept = self._cluster.encoding.accept
        get = self._cluster.connection.get(self._resource.path, query, accept)
        is_answered = False
        try:
            async with asyncio.timeout(first_seconds) as deadline, get as response:
                is_answered = True
                decoder = await self._accept(response, is_watch=True)
                splitter = decoder.splitter()
                async for chunk in response.chunks():
                    for frame in splitter.feed(chunk):
                        # Events count, not bytes: a proxy may send empty lines for ever.
                        deadline.reschedule(asyncio.get_running_loop().time() + SILENCE_SECONDS)
                        event = decoder.event(frame, self._resource)
                        if event.failure is not None:
                            raise Refusal(event.failure)
                        room = math.inf if event.is_initial_end else room - len(frame)
                        if room < 0:
                            raise AnswerError(TOO_LARGE)
                        yield event
        except TimeoutError:
            reason = "the watch was silent for too long, without bookmarks"
            raise Silence(reason if is_answered else NO_ANSWER) from None
        if not splitter.is_empty:
            raise AnswerError("the watch ended within an event")

    async def _accept(self, response: Response, *, is_watch: bool) -> Decoder:
        """The decoder for a sound answer. Raises `Refusal`, `AnswerError`."""
        if response.status == 200:
            decoder = decoder_for(response.headers.get("Content-Type", ""))
            self._note_answer(is_watch=is_watch)
            return decoder
        body = bytearray()
        async with _patience(REFUSAL_SECONDS):
            async for chunk in response.chunks():
                body += chunk
                if len(body) > MAX_REFUSAL:
                    break
        retry_after = response.headers.get("Retry-After", "").strip()
        decoder = refusal_decoder(response.headers.get("Content-Type", ""))
        raise Refusal(
            decoder.failure(bytes(body), response.status)._replace(code=response.status),
            float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else None,
        )


@asynccontextmanager
async def _patience(seconds: float) -> AsyncIterator[asyncio.Timeout]:
    """A deadline in so many seconds, which may be put off. Raises `ConnectionFailure`."""
    try:
        async with asyncio.timeout(seconds) as deadline:
            yield deadline
    except TimeoutError:
        raise ConnectionFailure(NO_ANSWER) from None


SILENCE_SECONDS: Final = 150.0
"""The server sends bookmarks about once a minute: two of them are missing then."""
LIST_SECONDS: Final = 90.0
"""A server without etcd answers a list after 60 s."""
REFUSAL_SECONDS: Final = 10.0
WATCH_SECONDS: Final = (300, 600)
"""As kube-proxy asks."""
MAX_LIST: Final = 1 << 28
"""Bytes of all pages: five times those of 150,000 endpoints in JSON."""
MAX_REFUSAL: Final = 1 << 16
TOO_LARGE: Final = f"a list has more than {MAX_LIST} bytes"
NO_ANSWER: Final = "the server does not answer"
