"""The API server's answers in protobuf and in JSON: one state, the same objects and errors."""

from pathlib import Path

import pytest

from cluster import exchange, faults, protobuf
from cluster.answers import ApiServer, Fault
from cluster.objects import endpoint_slice, node, service
from cluster.protobuf_schema import SCHEMAS
from cluster.server import LiveServer
from harness.waiting import eventually
from kbe_nat.daemon.api_server import api_server
from kbe_nat.daemon.settings import Settings, SourceSettings
from kbe_nat.errors import ObjectError
from kbe_nat.kubeproxy.config import ClientConnection, Configuration
from kbe_nat.sources.kubernetes.answers import AnswerError, Decoder, EventKind, WatchEvent
from kbe_nat.sources.kubernetes.encodings import JSON, PROTOBUF, Encoding, decoder_for
from kbe_nat.sources.kubernetes.resources import Resource, watched_resources
from kbe_nat.sources.store import Store

RESOURCES = {each.kind: each for each in watched_resources("node-1", has_service_ranges=True)}
SERVICES, SLICES = RESOURCES["Service"], RESOURCES["EndpointSlice"]
BOTH = "application/vnd.kubernetes.protobuf, application/json"
WATCHES = {
    "302-watch-rv0": SERVICES,
    "310-watch-services-events": SERVICES,
    "311-watch-slices-events": SLICES,
    "312-watch-node-events": RESOURCES["Node"],
    "313-watch-servicecidrs": RESOURCES["ServiceCIDR"],
    "320-watchlist-services": SERVICES,
    "321-watchlist-endpointslices": SLICES,
    "340-rolling-update": SLICES,
    "516-watch-old-rv-after-restart": SERVICES,
}
LISTS = {
    "100-list-services": SERVICES,
    "101-list-endpointslices": SLICES,
    "102-list-node-by-name": RESOURCES["Node"],
    "103-list-servicecidrs": RESOURCES["ServiceCIDR"],
}


def events(decoder: Decoder, chunks: list[bytes], resource: Resource) -> list[WatchEvent]:
    splitter = decoder.splitter()
    frames = [frame for chunk in chunks for frame in splitter.feed(chunk)]
    assert splitter.is_empty
    return [decoder.event(frame, resource) for frame in frames]


@pytest.mark.parametrize(("name", "resource"), WATCHES.items())
def test_recorded_watches_have_the_same_events_in_either_encoding(
    name: str, resource: Resource
) -> None:
    frames = [protobuf.encode_event(event) for event in exchange.documents(name)]
    in_json = events(JSON, exchange.chunks(name), resource)
    assert in_json and events(PROTOBUF, frames, resource) == in_json


@pytest.mark.parametrize(("name", "resource"), LISTS.items())
def test_recorded_lists_are_the_same_page_in_either_encoding(name: str, resource: Resource) -> None:
    [document] = exchange.documents(name)
    page = JSON.page(b"".join(exchange.chunks(name)), resource)
    assert page.entries and PROTOBUF.page(protobuf.encode(document), resource) == page


def test_the_recorded_watch_in_protobuf_is_the_one_in_json() -> None:
    name = "327-watch-protobuf"
    [response] = [line for line in exchange.lines(name) if line["kind"] == "response"]
    decoder = decoder_for(dict(response["headers"])["Content-Type"])
    assert decoder is PROTOBUF
    added = events(decoder, exchange.chunks(name), SERVICES)
    known = {
        event
        for other in ("302-watch-rv0", "310-watch-services-events", "320-watchlist-services")
        for event in map(repr, events(JSON, exchange.chunks(other), SERVICES))
    }
    assert len(added) == 14 and {*map(repr, added)} <= known


@pytest.mark.parametrize("name", ["111-list-future-rv", "413-continue-expired"])
def test_refusals_say_the_same_in_either_encoding(name: str) -> None:
    [status] = exchange.documents(name)
    failure = JSON.failure(b"".join(exchange.chunks(name)), 0)
    assert failure.message and (failure.is_too_large or failure.continuation)
    assert PROTOBUF.failure(protobuf.encode(status), 0) == failure


def wrong_service(name: str) -> bytes:
    """A Service whose second port is a text."""
    spec = protobuf.delimited(1, protobuf.numeric(3, 80))
    spec += protobuf.delimited(1, protobuf.delimited(3, b"80"))
    fields = [(1, name), (3, "shop"), (6, "8")]
    metadata = b"".join(protobuf.delimited(number, text.encode()) for number, text in fields)
    return protobuf.delimited(1, metadata) + protobuf.delimited(2, spec)


def answer(kind: str, content: bytes) -> bytes:
    name = protobuf.delimited(1, b"v1") + protobuf.delimited(2, kind.encode())
    return protobuf.MAGIC + protobuf.delimited(1, name) + protobuf.delimited(2, content)


def event(change: str, value: bytes) -> bytes:
    return protobuf.delimited(1, change.encode()) + protobuf.delimited(
        2, protobuf.delimited(1, value)
    )


REFUSAL = "API server: Service shop/w: spec.ports[1].port: invalid wire type"


def test_f105_an_object_that_is_no_protobuf_is_refused_and_the_others_count() -> None:
    good = protobuf.message(service("a"), SCHEMAS["Service"])
    items = [protobuf.delimited(2, item) for item in (good, wrong_service("w"), good)]
    metadata = protobuf.delimited(1, protobuf.delimited(2, b"9"))
    page = PROTOBUF.page(answer("ServiceList", metadata + b"".join(items)), SERVICES)
    names = [("Service", "default", "a"), ("Service", "shop", "w"), ("Service", "default", "a")]
    assert [entry.key for entry in page.entries] == names
    error = page.entries[1].object
    assert isinstance(error, ObjectError) and str(error).startswith(REFUSAL)
    told = PROTOBUF.event(event("MODIFIED", answer("Service", wrong_service("w"))), SERVICES)
    assert (told.kind, told.version) == (EventKind.MODIFIED, 8)
    assert told.entry is not None and str(told.entry.object).startswith(REFUSAL)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "without a type"),
        (b'{"type": "ADDED"}', "none"),
        (event("ADDED", b"{}"), "does not begin"),
        (event("CHANGED", answer("Service", b"")), "CHANGED"),
        (event("ADDED", answer("Node", b"\x0a\x03\x0a\x01a")), "has 'Node'"),
        (event("ADDED", answer("Secret", wrong_service("w"))), "are not read"),
        (event("ADDED", answer("Service", b"\xff")), "no number"),
        (event("BOOKMARK", answer("Service", wrong_service("w"))), "wire type"),
        (event("ERROR", answer("Status", b"\x10\x01")), "wire type"),
        (event("ADDED", answer("Service", wrong_service(""))), "no name"),
    ],
)
def test_f103_events_that_are_none_are_errors(frame: bytes, reason: str) -> None:
    with pytest.raises(AnswerError, match=reason):
        PROTOBUF.event(frame, SERVICES)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "does not begin"),
        (b'{"kind": "ServiceList"}', "does not begin"),
        (answer("ServiceList", b""), "no number"),
        (answer("ServiceList", b"\x12\x05a"), "5 bytes"),
        (answer("NodeList", b"\x0a\x03\x12\x017"), "'Node' came"),
        (answer("Status", b""), "Status"),
        (answer("ServiceList", b"\x0a\x03\x12\x017\x12\x00"), "no name"),
    ],
)
def test_f103_lists_that_are_none_are_errors(body: bytes, reason: str) -> None:
    with pytest.raises(AnswerError, match=reason):
        PROTOBUF.page(body, SERVICES)


def test_f103_a_frame_without_end_is_an_error() -> None:
    splitter = PROTOBUF.splitter()
    with pytest.raises(AnswerError, match="a frame of 4294967295 bytes, of 16777216 at most"):
        splitter.feed(b"\xff\xff\xff\xff")
    splitter = PROTOBUF.splitter()
    assert splitter.feed(b"\0\0\0\2a") == [] and not splitter.is_empty


def settings(kubeconfig: Path, encoding: Encoding | None, content_type: str) -> Settings:
    client = ClientConnection(kubeconfig=str(kubeconfig), content_type=content_type)
    return Settings(
        source=SourceSettings(api_encoding=encoding),
        configuration=Configuration(client_connection=client, hostname_override="node-1"),
    )


@pytest.mark.parametrize("has_protobuf", [True, False])
@pytest.mark.parametrize(
    ("encoding", "content_type", "accept"),
    [
        (None, "", BOTH),
        (None, "application/vnd.kubernetes.protobuf", BOTH),
        (None, "application/json", "application/json"),
        (Encoding.JSON, "application/vnd.kubernetes.protobuf", "application/json"),
        (Encoding.PROTOBUF, "application/json", BOTH),
    ],
)
def test_the_encoding_is_asked_for_and_another_one_is_taken(
    encoding: Encoding | None,
    content_type: str,
    accept: str,
    has_protobuf: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ApiServer, "has_protobuf", has_protobuf)
    with LiveServer() as server:
        server.api.objects.put(node("node-1"), service("a"), endpoint_slice("a", ["10.1.0.1"]))
        server.api.faults.append(Fault(faults.status(504), "services"))
        kubeconfig = server.kubeconfig(tmp_path / "config")
        source = api_server(settings(kubeconfig, encoding, content_type), Store())
        try:
            update = eventually(source.read)
            assert update is not None
            assert [each.name for each in update.snapshot.services] == ["a"]
            assert update.snapshot.nodes["node-1"].zone == "z1"
            server.api.objects.put(endpoint_slice("a", ["10.1.0.2"]))
            update = eventually(source.read)
            assert update is not None
            [part] = update.snapshot.slices["default", "a"]
            assert [each.address for each in part.endpoints] == ["10.1.0.2"]
        finally:
            source.close()
        assert {request.headers["Accept"] for request in server.api.requests} == {accept}
