"""Objects that come in protobuf are those that come in JSON, and so are their errors."""

import json
import os
import string
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import exchange, protobuf
from cluster.protobuf_schema import SCHEMAS, Field, Presence, Scalar, Schema
from kbe_nat._native import ProtobufDocument, ProtobufFrames, ProtobufList, protobuf_event
from kbe_nat.errors import ObjectError
from kbe_nat.sources.decoding import decode
from kbe_nat.sources.json_objects import json_objects
from kbe_nat.sources.objects import KINDS, Origin, ParsedObject
from kbe_nat.sources.snapshot import convert_early
from kbe_nat.sources.store import Store

ORIGIN: Final = "API server"
EXAMPLES: Final = int(os.environ.get("KBE_NAT_FUZZ_EXAMPLES", "150"))
"""Random objects; set it higher to look for longer."""
WITH_OBJECTS: Final = sorted(
    path.stem
    for path in exchange.RECORDINGS.glob("*.jsonl")
    if exchange.is_json(path.stem) and any(exchange.objects(path.stem))
)
VERSIONS: Final = {
    "Service": "v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Node": "v1",
    "ServiceCIDR": "networking.k8s.io/v1",
}


def in_json(document: dict[str, Any]) -> list[Any]:
    """Objects, errors and notes, with errors as texts: they compare by identity."""
    return [
        convert_early(item) if isinstance(item, ParsedObject) else str(item)
        for item in decode(document, ORIGIN)
    ]


def in_protobuf(document: dict[str, Any]) -> list[Any]:
    text = ProtobufDocument(protobuf.encode(document)).json()
    assert isinstance(text, bytes), text
    items = json_objects(text, ORIGIN)
    assert items is not None, text
    return [str(item) if isinstance(item, ObjectError) else item for item in items]


@pytest.mark.parametrize(
    ("recording", "encoded"),
    [
        ("140-protobuf-services", "100-list-services"),
        ("141-protobuf-endpointslices", "101-list-endpointslices"),
    ],
)
def test_the_tests_encoder_writes_lists_of_the_servers_size(recording: str, encoded: str) -> None:
    [size] = [
        line["bytes"] for line in exchange.lines(recording) if line["kind"] == "body-left-out"
    ]
    [document] = exchange.documents(encoded)
    assert len(protobuf.encode(document)) == size


def test_the_tests_encoder_writes_the_frames_of_the_server_byte_for_byte() -> None:
    frames = exchange.chunks("327-watch-protobuf")
    known = [
        {"type": "ADDED", "object": {"apiVersion": "v1", "kind": "Service", **value}}
        for name in ("302-watch-rv0", "320-watchlist-services", "310-watch-services-events")
        for value in exchange.objects(name)
    ]
    encodings = {protobuf.encode_event(event) for event in known}
    assert len(frames) == 14
    assert set(frames) <= encodings


def test_frames_of_the_server_are_its_objects_in_json() -> None:
    objects = {
        (value["metadata"]["uid"], value["metadata"]["resourceVersion"]): value
        for name in ("302-watch-rv0", "320-watchlist-services", "310-watch-services-events")
        for value in exchange.objects(name)
    }
    by_key = {
        (value["metadata"]["namespace"], value["metadata"]["name"], version): value
        for (_, version), value in objects.items()
    }
    splitter = ProtobufFrames()
    for chunk in exchange.chunks("327-watch-protobuf"):
        [frame] = splitter.feed(chunk)
        change, text = protobuf_event(frame)
        assert change == "ADDED" and isinstance(text, bytes)
        metadata = json.loads(text)["metadata"]
        assert "managedFields" not in metadata
        key = metadata["namespace"], metadata["name"], metadata["resourceVersion"]
        assert json_objects(text, ORIGIN) == in_json(by_key[key])
    assert splitter.pending == 0


@pytest.mark.parametrize("name", WITH_OBJECTS)
def test_recorded_objects_are_the_same_in_either_encoding(name: str) -> None:
    values = list(exchange.objects(name))
    for value in values:
        assert in_protobuf(value) == in_json(value)


@pytest.mark.parametrize("name", [name for name in WITH_OBJECTS if "-list-" in name])
def test_recorded_lists_are_the_same_in_either_encoding(name: str) -> None:
    [document] = exchange.documents(name)
    items = ProtobufList(protobuf.encode(document))
    assert (items.version, f"{items.kind}List") == (document["apiVersion"], document["kind"])
    assert items.resource_version == document["metadata"]["resourceVersion"]
    assert (items.continue_token, items.remaining) == ("", None)
    decoder = msgspec.json.Decoder(KINDS[items.version, items.kind])
    texts = list(items)
    values = [decoder.decode(text) for text in texts if isinstance(text, bytes)]
    assert values == [item.value for item in decode(document, ORIGIN)]  # type: ignore[union-attr]


def test_both_encodings_of_one_state_give_equal_snapshots() -> None:
    names = [name for name in WITH_OBJECTS if name < "104"]
    snapshots = []
    for parse in (in_json, in_protobuf):
        store = Store()
        items = [
            item for name in names for value in exchange.objects(name) for item in parse(value)
        ]
        store.replace(Origin(0, ORIGIN), items)
        snapshots.append(store.update())
    assert snapshots[0] == snapshots[1]
    snapshot = snapshots[0].snapshot
    assert len(snapshot.services) == 14 and snapshot.nodes and snapshot.service_ranges


@pytest.mark.parametrize("name", ["320-watchlist-services", "321-watchlist-endpointslices"])
def test_a_bookmark_says_the_version_and_the_end_of_the_list(name: str) -> None:
    events = exchange.documents(name)
    [bookmark] = [event for event in events if event["type"] == "BOOKMARK"][:1]
    change, text = protobuf_event(protobuf.encode_event(bookmark)[4:])
    assert change == "BOOKMARK" and isinstance(text, bytes)
    metadata = json.loads(text)["metadata"]
    assert metadata == {
        "resourceVersion": bookmark["object"]["metadata"]["resourceVersion"],
        "annotations": {"k8s.io/initial-events-end": "true"},
    }


def test_an_error_has_its_status() -> None:
    [event] = exchange.documents("516-watch-old-rv-after-restart")
    change, text = protobuf_event(protobuf.encode_event(event)[4:])
    assert change == "ERROR" and isinstance(text, bytes)
    assert json.loads(text) == event["object"]


@pytest.mark.parametrize("name", ["111-list-future-rv", "413-continue-expired"])
def test_a_refusal_has_its_status(name: str) -> None:
    [status] = exchange.documents(name)
    document = ProtobufDocument(protobuf.encode(status))
    assert (document.version, document.kind) == ("v1", "Status")
    text = document.json()
    assert isinstance(text, bytes)
    read = json.loads(text)
    for field in ("metadata", "status", "message", "reason", "code"):
        assert read.get(field) == status.get(field)
    details, expected = read.get("details", {}), status.get("details", {})
    assert details.get("causes") == expected.get("causes")
    assert details.get("retryAfterSeconds") == expected.get("retryAfterSeconds")


def test_a_page_says_how_to_go_on() -> None:
    [document] = exchange.documents("100-list-services")
    metadata = {"resourceVersion": "7", "continue": "token", "remainingItemCount": 0}
    items = ProtobufList(protobuf.encode({**document, "metadata": metadata, "items": []}))
    assert (items.resource_version, items.continue_token, items.remaining) == ("7", "token", 0)
    assert list(items) == []


WORDS: Final = st.sampled_from(
    ("TCP", "SCTP", "IPv4", "ClientIP", "LoadBalancer", "Local", "web", "10.0.0.1", "fd00::1")
)
TEXTS: Final = WORDS | st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\/\0\x1f\x7f\u2028<&'),
    max_size=5,
)
NAMES: Final = st.text(string.ascii_lowercase, min_size=1, max_size=3)
NUMBERS: Final = st.integers(0, 70_000) | st.integers(-(2**31), 2**31 - 1)
TIMES: Final = st.datetimes().map(lambda time: f"{time:%Y}".zfill(4) + f"{time:-%m-%dT%H:%M:%SZ}")
SCALARS: Final = {
    Scalar.TEXT: TEXTS,
    Scalar.NUMBER: NUMBERS,
    Scalar.BOOL: st.booleans(),
    Scalar.TIME: TIMES,
    Scalar.TEXTS_BY_NAME: st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=3),
    Scalar.QUANTITIES_BY_NAME: st.dictionaries(NAMES, NAMES, min_size=1, max_size=2),
    Scalar.INT_OR_STRING: NUMBERS | TEXTS,
    Scalar.JSON: st.just({"f:metadata": {}}),
}
SOUND: Final = {"name": NAMES, "addressType": st.sampled_from(("IPv4", "IPv6", "FQDN"))}
"""Fields that few objects survive when they are just anything."""


def messages(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    """What JSON says of a message, as Go writes it: without fields that are empty, and in order, by
    which the first error is.
    """
    required = {
        field.name: _value(field)
        for field in schema
        if field.presence is Presence.REQUIRED
        or (field.presence is Presence.ALWAYS and isinstance(field.type, tuple))
        or field.name == "name"
    }
    others = {field.name: _value(field) for field in schema if field.name not in required}
    fields = st.fixed_dictionaries(required, optional=others)
    return fields.map(lambda value: _as_go(value, schema))


def _value(field: Field) -> st.SearchStrategy[Any]:
    value = SCALARS[field.type] if isinstance(field.type, Scalar) else messages(field.type)
    value = SOUND.get(field.name, value) | value
    return st.lists(value, min_size=1, max_size=2) if field.presence is Presence.REPEATED else value


def _as_go(value: dict[str, Any], schema: Schema) -> dict[str, Any]:
    omitted = {
        field.name
        for field in schema
        if field.presence is Presence.ALWAYS and value.get(field.name) in ("", 0)
    }
    in_order = (field.name for field in schema if field.name in value)
    return {name: value[name] for name in in_order if name not in omitted}


@given(st.data())
@settings(deadline=None, max_examples=EXAMPLES)
def test_random_objects_are_the_same_in_either_encoding(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(VERSIONS)))
    value = data.draw(messages(SCHEMAS[kind]))
    document = {"apiVersion": VERSIONS[kind], "kind": kind, **value}
    assert in_protobuf(document) == in_json(document)


def filled(of: Any, path: str = "", default: Any = None) -> Any:
    """A value of JSON for each field of a type, other than its default."""
    if isinstance(of, msgspec.inspect.StructType):
        return {
            field.encode_name: FULL.get(f"{path}.{field.encode_name}")
            or filled(field.type, f"{path}.{field.encode_name}", field.default)
            for field in of.fields
        }
    if isinstance(of, msgspec.inspect.VarTupleType):
        return [filled(of.item_type, path)]
    if isinstance(of, msgspec.inspect.DictType):
        return {"a": "b"}
    if isinstance(of, msgspec.inspect.LiteralType):
        return next(value for value in of.values if value not in (default, ""))
    if isinstance(of, msgspec.inspect.BoolType):
        return True
    return 7 if isinstance(of, msgspec.inspect.IntType | msgspec.inspect.UnionType) else "a"


FULL: Final[dict[str, Any]] = {
    ".metadata.creationTimestamp": "2026-11-28T09:00:40Z",
    ".metadata.deletionTimestamp": "2026-11-28T09:00:41Z",
    ".endpoints.conditions": {"ready": False, "serving": False, "terminating": True},
    ".endpoints.hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "b"}]},
    ".endpoints.targetRef": {"kind": "Pod", "name": "a"},
}


@pytest.mark.parametrize("kind", sorted(VERSIONS))
def test_every_field_that_is_read_comes_in_protobuf_too(kind: str) -> None:
    of = KINDS[VERSIONS[kind], kind]
    document = {"apiVersion": VERSIONS[kind], "kind": kind, **filled(msgspec.inspect.type_info(of))}
    [text] = [ProtobufDocument(protobuf.encode(document)).json()]
    assert isinstance(text, bytes)
    value = msgspec.json.decode(text, type=of)
    assert value == msgspec.convert(document, of)
    assert list(defaults(value)) == []


def defaults(value: Any, path: str = "") -> Iterator[str]:
    """Fields of a value that say no more than their defaults; those of hints have no kind."""
    for field in msgspec.structs.fields(value):
        inner = getattr(value, field.name)
        place = f"{path}.{field.name}"
        if isinstance(inner, tuple) and inner and isinstance(inner[0], msgspec.Struct):
            inner = inner[0]
        if isinstance(inner, msgspec.Struct):
            yield from defaults(inner, place)
        elif inner == field.default and not place.endswith((".zones.kind", ".nodes.kind")):
            yield place
