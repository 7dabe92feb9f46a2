"""Answers of the API server in protobuf.

`kbe_nat._native` reads the fields that we read, and writes them as the JSON that the server would
have written. So an object has one parser and one strictness in either encoding. An object that
cannot be read is refused with its field, and the others count.
"""

from kbe_nat._native import ProtobufDocument, ProtobufFrames, ProtobufList, ProtobufRefusal
from kbe_nat._native import protobuf_event as native_event
from kbe_nat.errors import EncodingError
from kbe_nat.sources.kubernetes.answers import (
    AnswerError,
    Entry,
    EventKind,
    Failure,
    ListPage,
    WatchEvent,
)
from kbe_nat.sources.kubernetes.entries import (
    json_failure,
    list_entry,
    refused_entry,
    version_number,
    watch_event,
)
from kbe_nat.sources.kubernetes.json_answers import MAX_EVENT
from kbe_nat.sources.kubernetes.resources import Resource


class Frames:
    """Cuts a watch where the lengths say."""

    def __init__(self) -> None:
        self._frames = ProtobufFrames(MAX_EVENT)

    def feed(self, chunk: bytes) -> list[bytes]:
        """See `Splitter.feed`."""
        try:
            return self._frames.feed(chunk)
        except EncodingError as error:
            raise AnswerError(str(error)) from None

    @property
    def is_empty(self) -> bool:
        """See `Splitter.is_empty`."""
        return not self._frames.pending


class ProtobufDecoder:
    """A `Decoder` of application/vnd.kubernetes.protobuf."""

    media_type = "application/vnd.kubernetes.protobuf"

    def splitter(self) -> Frames:
        """See `Decoder.splitter`."""
        return Frames()

    def page(self, body: bytes, resource: Resource) -> ListPage:
        """See `Decoder.page`."""
        try:
            items = ProtobufList(body)
        except EncodingError as error:
            reason = f"the list is no list of {resource.name} in protobuf: {error}"
            raise AnswerError(reason) from None
        if (items.version, items.kind) != (resource.version, resource.kind):
            raise AnswerError(
                f"a list of {resource.name} was asked for, and {items.kind[:60]!r} came"
            )
        version = version_number(items.resource_version)
        entries = [
            _refuse(item, resource)
            if isinstance(item, ProtobufRefusal)
            else list_entry(item, resource)
            for item in items
        ]
        return ListPage(version, items.continue_token, entries)

    def event(self, frame: bytes, resource: Resource) -> WatchEvent:
        """See `Decoder.event`."""
        try:
            change, value = native_event(frame)
            kind = EventKind(change)
        except ValueError as error:
            raise AnswerError(f"an event of {resource.name} is none: {error}") from None
        if not isinstance(value, ProtobufRefusal):
            return watch_event(kind, value, resource)
        if value.kind != resource.kind or kind in (EventKind.BOOKMARK, EventKind.ERROR):
            raise AnswerError(f"an event of {resource.name} is none: {value.reason}")
        version = version_number(value.resource_version)
        return WatchEvent(kind, version, _refuse(value, resource))

    def failure(self, body: bytes, code: int) -> Failure:
        """See `Decoder.failure`."""
        try:
            text = ProtobufDocument(body).json()
        except EncodingError as error:
            return Failure(code, "", str(error))
        return json_failure(b"" if isinstance(text, ProtobufRefusal) else text, code)


def _refuse(refusal: ProtobufRefusal, resource: Resource) -> Entry:
    return refused_entry(resource, refusal.namespace, refusal.name, refusal.reason, refusal.path)
