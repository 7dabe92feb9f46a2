"""What an API server answers in JSON, encoded in protobuf as it does: byte for byte."""

import json
from calendar import timegm
from collections.abc import Iterator
from time import strptime
from typing import Any, Final

from cluster.protobuf_schema import SCHEMAS, Field, Presence, Scalar, Schema

MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"


def encode(document: dict[str, Any]) -> bytes:
    """The answer with an object, a list or a Status, which says version and kind."""
    version, kind = document["apiVersion"], document["kind"]
    name = delimited(1, version.encode()) + delimited(2, kind.encode())
    # The lists of other kinds begin with metadata as well.
    content = message(document, SCHEMAS.get(kind, SCHEMAS["ServiceList"]))
    # Behind the content: its encoding and type, which are not said.
    return (
        MAGIC + delimited(1, name) + delimited(2, content) + delimited(3, b"") + delimited(4, b"")
    )


def encode_event(event: dict[str, Any]) -> bytes:
    """The frame with an event of a watch."""
    content = delimited(2, delimited(1, encode(event["object"])))
    return frame(delimited(1, event["type"].encode()) + content)


def answer_of(text: bytes) -> bytes:
    """The answer that a text in JSON says; a text that says none is none in protobuf either."""
    try:
        document = json.loads(text)
    except ValueError:
        return MAGIC + text
    if not isinstance(document, dict) or "kind" not in document or "apiVersion" not in document:
        return MAGIC + text
    return encode(document)


def event_of(line: bytes) -> bytes:
    """The frame that a line in JSON says; a line that says none is none in protobuf either."""
    try:
        return encode_event(json.loads(line))
    except (ValueError, TypeError, KeyError):
        return frame(line)


def part_of_event(part: bytes) -> bytes:
    """The part of a frame that a part of a line says."""
    return (len(part) + 1).to_bytes(4, "big") + part if part.strip() else b""


def frame(content: bytes) -> bytes:
    """The content behind its length."""
    return len(content).to_bytes(4, "big") + content


def message(value: dict[str, Any], schema: Schema) -> bytes:
    """A message. Fields that the schema does not know are an error, other than version and kind."""
    names = {field.name for field in schema} | {"apiVersion", "kind"}
    assert value.keys() <= names, f"unknown: {value.keys() - names}"
    in_order = sorted(schema, key=lambda field: field.number)
    return b"".join(part for field in in_order for part in _field(value.get(field.name), field))


def delimited(number: int, content: bytes) -> bytes:
    """A field that says how long it is."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def numeric(number: int, value: int) -> bytes:
    """A field with a number."""
    return varint(number << 3) + varint(value)


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as 64 bits of two's complement."""
    value &= (1 << 64) - 1
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _field(value: Any, field: Field) -> Iterator[bytes]:
    if value is None and field.presence in (Presence.WHERE_SET, Presence.REPEATED):
        return
    if isinstance(value, list):
        for entry in value:
            yield from _field(entry, field)
    elif isinstance(field.type, tuple):
        yield delimited(field.number, message(value or {}, field.type))
    elif field.type in (Scalar.TEXTS_BY_NAME, Scalar.QUANTITIES_BY_NAME):
        for name, text in sorted(value.items()):
            content = text.encode()
            if field.type is Scalar.QUANTITIES_BY_NAME:
                content = delimited(1, content)
            yield delimited(field.number, delimited(1, name.encode()) + delimited(2, content))
    elif field.type in (Scalar.NUMBER, Scalar.BOOL):
        yield numeric(field.number, int(value or 0))
    else:
        yield delimited(field.number, _content(value, field.type))


def _content(value: Any, type: Scalar) -> bytes:
    if type is Scalar.TEXT:
        return (value or "").encode()
    if type is Scalar.TIME:
        if value is None:
            return b""
        return numeric(1, timegm(strptime(value, "%Y-%m-%dT%H:%M:%SZ"))) + numeric(2, 0)
    if type is Scalar.INT_OR_STRING:
        is_text = isinstance(value, str)
        number, text = (0, value) if is_text else (value or 0, "")
        return numeric(1, is_text) + numeric(2, number) + delimited(3, text.encode())
    return delimited(1, json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


MAGIC: Final = b"k8s\0"
