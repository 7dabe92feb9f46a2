"""Answers that no API server should give, over sockets: what is served stays, memory is bounded,
and the reason is one line.
"""

import asyncio
import gzip
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cluster.objects import service
from cluster.raw_server import (
    CHUNKED,
    GZIPPED,
    HEAD,
    LIST,
    Behaviour,
    RawServer,
    Write,
    bomb,
    cut_gzip,
    for_ever,
    says,
)
from cluster.watch import SERVICES
from kbe_nat.sources.kubernetes import reflector
from kbe_nat.sources.kubernetes.access import Access
from kbe_nat.sources.kubernetes.entries import list_entry
from kbe_nat.sources.kubernetes.http_connection import HttpConnection
from kbe_nat.sources.kubernetes.inbox import Inbox
from kbe_nat.sources.kubernetes.reflector import Reflector
from kbe_nat.sources.kubernetes.requests import Cluster
from kbe_nat.sources.objects import ParsedObject
from kbe_nat.sources.watch_state import WatchState

PROTOBUF = HEAD.replace(b"json", b"vnd.kubernetes.protobuf;stream=watch")
MOST = 150 << 20
"""Bytes that a reflector may take for what it refuses: a list of 64 MiB in the making."""

NO_HTTP = {
    "another protocol": says(b"SSH-2.0-OpenSSH_9\r\n\r\n"),
    "headers without end": for_ever(HEAD, b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"),
    "a header without end": for_ever(HEAD + b"X: ", b"a"),
    "a status without end": for_ever(b"HTTP/1.1 200 ", b"a"),
    "trailers without end": for_ever(CHUNKED + b"0\r\n", b"X: aaaaaaaa\r\n"),
    "a NUL in a header": says(HEAD + b"X: a\0b\r\n\r\n{}"),
    "two lengths": says(HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"),
    "a negative length": says(HEAD + b"Content-Length: -4\r\n\r\nabcde"),
    "a chunk of no size": says(CHUNKED + b"5\r\nabcde\r\nZZ\r\n"),
    "a chunk of no size, later": says(CHUNKED + b"5\r\nabcde\r\n", b"ZZ\r\n"),
    "trailers that are none, later": says(CHUNKED + b"5\r\nabcde\r\n", b"0\r\n\0\xff\r\n\r\n"),
    "an unknown encoding": says(HEAD + b"Content-Encoding: br\r\n\r\nabcd"),
    "no gzip": says(GZIPPED + b"\r\nthis is none"),
    "no gzip, later": says(GZIPPED + b"\r\n" + gzip.compress(b"{}")[:12], b"this is none" * 9),
    "a cut length": says(HEAD + b"Content-Length: 100\r\n\r\nabc"),
    "a cut chunk": says(CHUNKED + b"64\r\nabc"),
    "no answer": says(),
    "a redirect": says(
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    ),
    "another protocol follows": says(
        b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc"
    ),
    "no content": says(b"HTTP/1.1 204 x\r\n\r\n"),
    "a status that is none": says(b"HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n"),
    "a refusal without end": for_ever(b"HTTP/1.1 500 x\r\n\r\n", b"a"),
    "a Retry-After without sense": says(
        b"HTTP/1.1 429 x\r\nRetry-After: " + b"9" * 5000 + b"\r\nContent-Length: 0\r\n\r\n"
    ),
}
BODIES = {
    "a line without end": for_ever(HEAD + b"\r\n", b"a"),
    "gzip of 600 MiB": bomb(600),
    "deep arrays": says(HEAD + b"\r\n" + b'{"type":"ADDED","object":' + b"[" * 100_000 + b"\n"),
    "a list with deep arrays": says(HEAD + b"\r\n" + LIST + b"[" * 100_000),
    "deep objects": says(HEAD + b"\r\n" + b'{"a":' * 100_000 + b"\n"),
    "half a gzip": cut_gzip(LIST + b"{}," * 10_000 + b"{}]}"),
    "a frame of 4 GiB": for_ever(PROTOBUF + b"\r\n\xff\xff\xff\xff", b"a"),
    "a frame of 4 GiB, no more": says(PROTOBUF + b"\r\n\xff\xff\xff\xff"),
    "frames of nothing": for_ever(PROTOBUF + b"\r\n", b"\0\0\0\0"),
    "a frame of noise": says(PROTOBUF + b"\r\n\0\0\0\x05k8s\0\xff"),
    "no type": says(HEAD.replace(b"application/json", b"") + b"\r\n{}"),
    "half a character": says(HEAD + b'\r\n{"type":"ADDED\xff'),
    "a lone surrogate": says(HEAD + b'\r\n{"type":"\\ud800"}\n'),
}


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def objects_for_ever() -> Behaviour:
    """A WatchList whose end mark never comes."""

    async def behave(write: Write) -> None:
        await write(HEAD + b"\r\n")
        number = 0
        while True:
            events = (event(text_of(f"s{number + each}")) for each in range(100))
            await write(b"".join(events))
            number += 100

    return behave


async def meet(
    behaviour: Behaviour, *, has_watch_list: bool = True
) -> tuple[list[WatchState], int]:
    """The states of a reflector until it has failed, and by how much memory grew at most."""
    inbox, states = Inbox(), list[WatchState]()
    async with RawServer(behaviour, has_watch_list=has_watch_list) as url:
        connection = HttpConnection(Access(url))
        earlier = [("Service", "default", "a")]
        watch = Reflector(SERVICES, Cluster(connection, Random(1)), inbox, states.append, earlier)
        task = asyncio.create_task(watch.run())
        before = most = resident()
        async with asyncio.timeout(60):
            while not states[-1].failures and not task.done():
                await asyncio.sleep(0.01)
                most = max(most, resident())
        assert not task.done(), task.exception()
        assert not inbox.take(), "it is applied"
        task.cancel()
        await connection.close()
    inbox.close()
    return states, most - before


@pytest.mark.parametrize("has_watch_list", [True, False], ids=["watchlist", "list"])
@pytest.mark.parametrize("name", [*NO_HTTP, *BODIES])
def test_f103_an_answer_that_is_none_takes_nothing_away(
    name: str, has_watch_list: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "MAX_LIST", 64 << 20)
    behaviour = {**NO_HTTP, **BODIES}[name]
    states, growth = asyncio.run(meet(behaviour, has_watch_list=has_watch_list))
    assert growth < MOST
    reason = states[-1].reason
    assert reason and "\n" not in reason and len(reason) < 300
    # Not aiohttp's whole URL, and no mistake of ours.
    assert "labelSelector" not in reason and "mistake" not in reason
    assert not states[-1].is_complete


def test_f103_a_watch_list_without_end_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "MAX_LIST", 1 << 20)
    states, growth = asyncio.run(meet(objects_for_ever()))
    assert "a list has more than" in states[-1].reason
    assert growth < MOST


def test_a_redirect_carries_the_token_nowhere() -> None:
    async def redirected() -> tuple[str, int]:
        other = RawServer(says(HEAD + b"\r\n"))
        async with other as elsewhere:
            head = b"HTTP/1.1 307 There\r\nContent-Length: 0\r\nLocation: "
            states, _ = await meet(says(head + elsewhere.encode() + b"\r\n\r\n"))
            return states[-1].reason, other.requests

    assert asyncio.run(redirected()) == ("307: status 307", 0)


def event(text: str, kind: str = "ADDED") -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), text.encode())


END = event(
    '{"kind":"Service","apiVersion":"v1","metadata":{"resourceVersion":"9",'
    '"annotations":{"k8s.io/initial-events-end":"true"}}}',
    "BOOKMARK",
)


def text_of(name: str, **spec: Any) -> str:
    value = service(name)
    value["metadata"]["resourceVersion"] = "3"
    value["spec"] |= spec
    return json.dumps({"apiVersion": "v1", **value})


STRANGE = {
    "keys twice": text_of("x")[:-1] + ',"spec":{"clusterIP":"172.30.0.77","ports":null}}',
    "a name twice": text_of("y").replace('"name": "y"', '"name": "z", "name": "x"', 1),
    "a number too long for a port": text_of("x", ports=[{"port": 0}]).replace(
        '"port": 0', '"port": ' + "9" * 5000
    ),
    "another type": text_of("x", ports="80"),
    "annotations of a megabyte": text_of("x").replace(
        '"metadata": {', '"metadata": {"annotations": {"a": "' + "b" * (1 << 20) + '"}, ', 1
    ),
    "a spec that is nested deep": text_of("x", unknown=None).replace(
        '"unknown": null', '"unknown": ' + "[" * 500 + "]" * 500
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_f105_a_strange_object_leaves_the_others(name: str) -> None:
    stream = event(text_of("before")) + event(STRANGE[name]) + event(text_of("behind")) + END

    async def listed() -> set[str]:
        inbox, states = Inbox(), list[WatchState]()
        async with RawServer(says(HEAD + b"\r\n" + stream)) as url:
            connection = HttpConnection(Access(url))
            watch = Reflector(SERVICES, Cluster(connection, Random(1)), inbox, states.append)
            task = asyncio.create_task(watch.run())
            async with asyncio.timeout(30):
                while not states[-1].is_complete:
                    await asyncio.sleep(0.01)
            task.cancel()
            await connection.close()
        objects = inbox.take()["services"].objects
        inbox.close()
        assert objects is not None
        return {key[2] for key in objects}

    assert asyncio.run(listed()) == {"before", "x", "behind"}


@pytest.mark.parametrize("name", ["kbe-nat.io/strategy", "other"])
def test_annotations_that_nobody_reads_are_not_kept(name: str) -> None:
    value = json.loads(text_of("a"))
    value["metadata"]["annotations"] = {name: "rr"}
    item = list_entry(json.dumps(value).encode(), SERVICES).object
    assert isinstance(item, ParsedObject)
    assert item.value.metadata.annotations == ({} if name == "other" else {name: "rr"})
