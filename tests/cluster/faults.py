"""Faults that the test API server injects, one function each."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

from cluster.answers import (
    Answer,
    ApiServer,
    Cut,
    Request,
    bookmark,
    expired_event,
    failure,
    with_body,
)
from cluster.api_objects import KINDS

Change = Callable[[Answer, Request], Awaitable[Answer]]


def status(code: int, retry_after: int | None = None) -> Change:
    """A refusal: plain text for 429, a Status for all else."""

    async def change(answer: Answer, request: Request) -> Answer:
        if code == 429:
            refused = Answer(429, {"Content-Type": "text/plain; charset=utf-8"})
            refused.body = one(b"Too many requests, please try again later.\n")
        else:
            reasons = {403: "Forbidden", 410: "Expired", 504: "Timeout"}
            refused = failure(code, reasons.get(code, "InternalError"), f"injected {code}")
        if retry_after is not None:
            refused.headers = {**refused.headers, "Retry-After": str(retry_after)}
        return refused

    return change


def too_large() -> Change:
    """The server does not have the version yet."""

    async def change(answer: Answer, request: Request) -> Answer:
        refused = failure(504, "Timeout", "Timeout: Too large resource version: 9, current: 8")
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": "Timeout",
            "code": 504,
            "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]},
        }
        refused.headers = {**refused.headers, "Retry-After": "1"}
        return with_body(refused, one(json.dumps(body).encode()))

    return change


def expired() -> Change:
    """HTTP 200, and an ERROR event."""

    async def change(answer: Answer, request: Request) -> Answer:
        return Answer(body=one(expired_event("too old resource version: 1 (2)")))

    return change


def body(text: bytes, content_type: str = "application/json") -> Change:
    """HTTP 200 with another body."""

    async def change(answer: Answer, request: Request) -> Answer:
        return Answer(headers={"Content-Type": content_type}, body=one(text))

    return change


def empty_list() -> Change:
    """A list without objects, and sound otherwise, in the form that was asked for."""

    async def change(answer: Answer, request: Request) -> Answer:
        kind, version = KINDS[request.resource], 10_000
        if request.verb == "watch":
            return Answer(body=one(bookmark(kind, version, is_end=True)))
        document = {
            "kind": f"{kind.name}List",
            "apiVersion": kind.version,
            "metadata": {"resourceVersion": str(version)},
            "items": [],
        }
        return Answer(body=one(json.dumps(document).encode()))

    return change


def elsewhere(other: ApiServer) -> Change:
    """The answer of another server."""

    async def change(answer: Answer, request: Request) -> Answer:
        return await other.answer(request)

    return change


def slow(seconds: float) -> Change:
    async def change(answer: Answer, request: Request) -> Answer:
        await asyncio.sleep(seconds)
        return answer

    return change


def silent() -> Change:
    """The head comes, and nothing after it, bookmarks included."""

    async def change(answer: Answer, request: Request) -> Answer:
        return with_body(answer, _never())

    return change


def cut(after: int) -> Change:
    """The connection breaks after so many bytes of the body, without a last chunk."""

    async def change(answer: Answer, request: Request) -> Answer:
        async def broken() -> AsyncIterator[bytes]:
            async for chunk in _first_bytes(answer, after):
                yield chunk
            raise Cut

        return with_body(answer, broken())

    return change


def ended(after: int) -> Change:
    """A clean end after so many bytes of the body."""

    async def change(answer: Answer, request: Request) -> Answer:
        return with_body(answer, _first_bytes(answer, after))

    return change


def shuffled(order: Callable[[list[bytes]], list[bytes]], count: int) -> Change:
    """The first `count` events after the end mark in another order, some of them twice."""

    async def change(answer: Answer, request: Request) -> Answer:
        async def lines() -> AsyncIterator[bytes]:
            rest, held = b"", list[bytes]()
            is_live = "sendInitialEvents" not in request.query
            assert answer.body is not None
            async for chunk in answer.body:
                *whole, rest = (rest + chunk).split(b"\n")
                for line in (each + b"\n" for each in whole):
                    if not is_live or held is None:
                        is_live = is_live or b"initial-events-end" in line
                        yield line
                        continue
                    held.append(line)
                    if len(held) == count:
                        for each in order(held):
                            yield each
                        held = None  # type: ignore[assignment]

        return with_body(answer, lines())

    return change


async def one(text: bytes) -> AsyncIterator[bytes]:
    yield text


async def _never() -> AsyncIterator[bytes]:
    await asyncio.sleep(1e6)
    yield b""


async def _first_bytes(answer: Answer, count: int) -> AsyncIterator[bytes]:
    assert answer.body is not None
    async for chunk in answer.body:
        yield chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return
