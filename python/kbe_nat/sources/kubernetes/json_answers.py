"""Answers of the API server in JSON: one text for a list, one line for each event of a watch.

A pass over the text finds the texts of its objects, of which `entries` takes care. A text that is
no list, or of another kind, is refused whole.
"""

from typing import Final

import msgspec
from msgspec import Raw, Struct, field

from kbe_nat.sources.kubernetes.answers import (
    AnswerError,
    EventKind,
    Failure,
    ListPage,
    WatchEvent,
)
from kbe_nat.sources.kubernetes.entries import json_failure, list_entry, version_number, watch_event
from kbe_nat.sources.kubernetes.resources import Resource


class JsonLines:
    """Cuts a watch at its newlines."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """See `Splitter.feed`."""
        if b"\n" not in chunk:
            self._rest += chunk
            if len(self._rest) > MAX_EVENT:
                raise AnswerError(f"an event has more than {MAX_EVENT} bytes")
            return []
        *lines, rest = (bytes(self._rest) + chunk).split(b"\n")
        self._rest = bytearray(rest)
        return [line for line in lines if line.strip()]

    @property
    def is_empty(self) -> bool:
        """See `Splitter.is_empty`."""
        return not self._rest.strip()


class JsonDecoder:
    """A `Decoder` of application/json."""

    media_type = "application/json"

    def splitter(self) -> JsonLines:
        """See `Decoder.splitter`."""
        return JsonLines()

    def page(self, body: bytes, resource: Resource) -> ListPage:
        """See `Decoder.page`."""
        try:
            document = LIST.decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise AnswerError(f"the list is no JSON list of {resource.name}: {error}") from None
        if (document.version, document.kind) != (resource.version, f"{resource.kind}List"):
            raise AnswerError(
                f"a list of {resource.name} was asked for, and {document.kind[:60]!r} came"
            )
        version = version_number(document.metadata.version)
        entries = [list_entry(text, resource) for text in document.items or ()]
        return ListPage(version, document.metadata.continuation or "", entries)

    def event(self, frame: bytes, resource: Resource) -> WatchEvent:
        """See `Decoder.event`."""
        try:
            event = EVENT.decode(frame)
            kind = EventKind(event.type)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise AnswerError(f"an event of {resource.name} is none: {error}") from None
        return watch_event(kind, event.object, resource)

    def failure(self, body: bytes, code: int) -> Failure:
        """See `Decoder.failure`."""
        return json_failure(body, code)


class _ListMetadata(Struct, gc=False):
    """`metadata` of a list."""

    version: str = field(name="resourceVersion", default="")
    continuation: str | None = field(name="continue", default=None)


class _List(Struct, gc=False):
    """A list with the texts of its items; without `items` it is cut."""

    metadata: _ListMetadata
    items: list[Raw]
    kind: str = ""
    version: str = field(name="apiVersion", default="")


class _NullList(Struct, gc=False):
    """A list whose items are null: it is empty."""

    metadata: _ListMetadata
    items: None
    kind: str = ""
    version: str = field(name="apiVersion", default="")


class _Event(Struct, gc=False):
    """An event with the text of its object."""

    type: str
    object: Raw


class _ListDecoder:
    """Decodes a list whose items may be null: `Raw` does not combine with None."""

    def __init__(self) -> None:
        self._listed = msgspec.json.Decoder(_List)
        self._null = msgspec.json.Decoder(_NullList)

    def decode(self, body: bytes) -> _List | _NullList:
        """Raises `msgspec.MsgspecError`."""
        try:
            return self._listed.decode(body)
        except msgspec.ValidationError:
            return self._null.decode(body)


MAX_EVENT: Final = 16 << 20
"""Bytes; the API server stores no object of more than a few MB."""
LIST: Final = _ListDecoder()
EVENT: Final = msgspec.json.Decoder(_Event)
