"""What a real API server 1.36 sent, given to our client as it came."""

import asyncio
import json
from contextlib import aclosing
from random import Random
from typing import Any

import pytest

from cluster.replay import Recording, ReplayServer, recording, recordings
from kbe_nat.errors import ObjectError
from kbe_nat.sources.kubernetes.access import Access
from kbe_nat.sources.kubernetes.answers import EventKind, ListPage, WatchEvent
from kbe_nat.sources.kubernetes.connection import ConnectionFailure
from kbe_nat.sources.kubernetes.encodings import Encoding, decoder_for
from kbe_nat.sources.kubernetes.entries import json_failure
from kbe_nat.sources.kubernetes.http_connection import HttpConnection
from kbe_nat.sources.kubernetes.inbox import Inbox
from kbe_nat.sources.kubernetes.reflector import Reflector
from kbe_nat.sources.kubernetes.requests import Cluster
from kbe_nat.sources.kubernetes.resources import Resource, watched_resources
from kbe_nat.sources.watch_state import WatchState

RESOURCES = {each.name: each for each in watched_resources("node-1", has_service_ranges=True)}
ALL = {each.name: each for each in recordings()}


def resource_of(own: Recording) -> Resource:
    return RESOURCES[own.path.rpartition("/")[2]]


async def fetch(url: str, own: Recording) -> tuple[int, str, bytes]:
    """Status, content type and body as our client has them."""
    connection = HttpConnection(Access(url))
    body = bytearray()
    try:
        async with connection.get(own.path, own.query, Encoding.JSON.accept) as response:
            async for chunk in response.chunks():
                body += chunk
            return response.status, response.headers.get("Content-Type", ""), bytes(body)
    finally:
        await connection.close()


def events(body: bytes, resource: Resource) -> list[WatchEvent]:
    """Decoded in pieces of every length up to 300 bytes."""
    decoder = decoder_for("application/json")
    splitter, random = decoder.splitter(), Random(1)
    listed = []
    while body:
        size = random.randint(1, 300)
        piece, body = body[:size], body[size:]
        listed += [decoder.event(frame, resource) for frame in splitter.feed(piece)]
    assert splitter.is_empty
    return listed


READ = [
    name
    for name, own in ALL.items()
    if own.status == 200
    and own.path.rpartition("/")[2] in RESOURCES
    and own.content_type == "application/json"
]
"""Lists and watches in JSON."""


@pytest.mark.parametrize("name", READ)
def test_every_answer_is_read_as_it_came(name: str) -> None:
    own = ALL[name]
    with ReplayServer(own) as url:
        if own.is_cut:
            with pytest.raises(ConnectionFailure, match="the connection was cut"):
                asyncio.run(fetch(url, own))
            return
        status, content_type, body = asyncio.run(fetch(url, own))
    assert (status, body) == (200, own.body)
    decoder, resource = decoder_for(content_type), resource_of(own)
    if "watch" not in own.query:
        check_page(decoder.page(body, resource), json.loads(body))
    else:
        lines = [json.loads(line) for line in body.splitlines()]
        for event, line in zip(events(body, resource), lines, strict=True):
            check_event(event, line)


def check_page(page: ListPage, document: dict[str, Any]) -> None:
    assert page.version == int(document["metadata"]["resourceVersion"])
    assert page.continuation == document["metadata"].get("continue", "")
    metadata = [item["metadata"] for item in document["items"]]
    assert [key[1:] for key, _ in page.entries] == [
        (each.get("namespace", ""), each["name"]) for each in metadata
    ]
    assert not [item for _, item in page.entries if isinstance(item, ObjectError)]


def check_event(event: WatchEvent, line: dict[str, Any]) -> None:
    assert event.kind == line["type"]
    if event.kind is EventKind.ERROR:
        assert event.failure is not None
        assert (event.failure.code, event.failure.reason) == (410, "Expired")
        return
    metadata = line["object"]["metadata"]
    assert event.version == int(metadata["resourceVersion"])
    assert event.is_initial_end == ("k8s.io/initial-events-end" in metadata.get("annotations", {}))
    if event.kind is EventKind.BOOKMARK:
        assert event.entry is None
        return
    assert event.entry is not None
    assert event.entry.key[1:] == (metadata.get("namespace", ""), metadata["name"])
    assert not isinstance(event.entry.object, ObjectError), event.entry.object


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("200-401-bad-token", 401, "Unauthorized"),
        ("204-403-watch", 403, "Forbidden"),
        ("214-422-sendinitial-without-match", 422, "Invalid"),
        ("400-429-list", 429, ""),
        ("413-continue-expired", 410, "Expired"),
        ("111-list-future-rv", 504, "Timeout"),
        ("522-list-etcd-paused", 504, "Timeout"),
    ],
)
def test_every_refusal_says_why(name: str, code: int, reason: str) -> None:
    own = ALL[name]
    with ReplayServer(own) as url:
        status, _, body = asyncio.run(fetch(url, own))
    failure = json_failure(body, status)
    assert (status, failure.code, failure.reason) == (code, code, reason)
    assert failure.message and "\n" not in failure.message
    assert failure.is_too_large == (name == "111-list-future-rv")
    assert bool(failure.continuation) == (name == "413-continue-expired")


@pytest.mark.parametrize(
    "name",
    [
        "320-watchlist-services",
        "321-watchlist-endpointslices",
        "324-watchlist-empty",
        "325-watchlist-node",
    ],
)
def test_a_reflector_ends_with_what_the_stream_said(name: str) -> None:
    own = ALL[name]
    resource = resource_of(own)
    lines = [json.loads(line) for line in own.body.splitlines()]
    expected: dict[tuple[str, str], str] = {}
    for line in lines:
        metadata = line["object"]["metadata"]
        key = metadata.get("namespace", ""), metadata.get("name", "")
        if line["type"] == "DELETED":
            expected.pop(key)
        elif line["type"] != "BOOKMARK":
            expected[key] = metadata["resourceVersion"]

    async def follow(url: str) -> tuple[set[tuple[str, str]], WatchState]:
        inbox, states = Inbox(), list[WatchState]()
        cluster = Cluster(HttpConnection(Access(url)), Random(1))
        reflector = Reflector(resource, cluster, inbox, states.append)
        async with aclosing(reflector._requests.events({}, 30)) as stream:
            listed: set[tuple[str, str]] = set()
            entries: dict[Any, Any] | None = {}
            async for event in stream:
                if entries is None:
                    reflector._apply_event(event)
                elif event.is_initial_end:
                    reflector._apply_list(entries, event.version)
                    entries = None
                elif event.entry is not None:
                    entries[event.entry.key] = event.entry
        for delivery in inbox.take().values():
            merged = {**(delivery.objects or {}), **delivery.changes}
            listed = {key[1:] for key, item in merged.items() if item is not None}
        inbox.close()
        await cluster.connection.close()
        return listed, states[-1]

    with ReplayServer(own) as url:
        names, state = asyncio.run(follow(url))
    assert names == set(expected)
    assert state.version == lines[-1]["object"]["metadata"]["resourceVersion"]


def test_a_watch_list_while_etcd_is_away_is_no_list() -> None:
    own = recording("526-watchlist-etcd-paused")

    async def follow(url: str) -> list[WatchState]:
        inbox, states = Inbox(), list[WatchState]()
        cluster = Cluster(HttpConnection(Access(url)), Random(1))
        reflector = Reflector(RESOURCES["services"], cluster, inbox, states.append)
        task = asyncio.create_task(reflector.run())
        while not states[-1].failures:
            await asyncio.sleep(0.01)
        task.cancel()
        assert not inbox.take()
        await cluster.connection.close()
        return states

    with ReplayServer(own) as url:
        states = asyncio.run(follow(url))
    assert states[-1].reason == "the list ended before its end mark"
    assert not states[-1].is_complete
