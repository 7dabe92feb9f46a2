"""Answers of the API server in JSON.

Theory of operation. Three passes over the text, each in C: the first finds the event's type and the
text of its object, the second the object's head (kind, name, version), the third decodes the type
of the object and skips the rest, `managedFields` above all. An object that the third pass refuses
is decoded once more by `kbe_nat.sources.decoding`, whose errors name the field. So one wrong object
never takes the others with it, but a text that is no list, or of another kind, is refused whole.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field

from kbe_nat.errors import ObjectError
from kbe_nat.sources.json_objects import json_item
from kbe_nat.sources.kubernetes.answers import (
    AnswerError,
    Entry,
    EventKind,
    Failure,
    ListPage,
    WatchEvent,
)
from kbe_nat.sources.kubernetes.resources import Resource
from kbe_nat.sources.objects import CLUSTER_SCOPED_KINDS, ObjectKey, name_of, refused_key


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
        version = _number(document.metadata.version)
        entries = [_entry(text, _head(text), resource) for text in document.items or ()]
        return ListPage(version, document.metadata.continuation or "", entries)

    def event(self, frame: bytes, resource: Resource) -> WatchEvent:
        """See `Decoder.event`."""
        try:
            event = EVENT.decode(frame)
            kind = EventKind(event.type)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise AnswerError(f"an event of {resource.name} is none: {error}") from None
        if kind is EventKind.ERROR:
            return WatchEvent(kind, failure=json_failure(bytes(event.object), 0))
        head = _head(event.object)
        if (head.version, head.kind) != (resource.version, resource.kind):
            raise AnswerError(f"an event of {resource.name} has {head.kind[:60]!r}")
        metadata = head.metadata
        version = _number(metadata.version)
        if kind is EventKind.BOOKMARK:
            is_end = (metadata.annotations or {}).get(INITIAL_EVENTS_END) == "true"
            return WatchEvent(kind, version, is_initial_end=is_end)
        return WatchEvent(kind, version, _entry(event.object, head, resource))


def json_failure(body: bytes, code: int) -> Failure:
    """What the body of a refusal says; it may be plain text, such as that of a 429. `code` is the
    HTTP status.
    """
    try:
        status = STATUS.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return Failure(code, "", " ".join(body[:200].decode(errors="replace").split()))
    causes = (status.details.causes if status.details else None) or ()
    return Failure(
        status.code or code,
        status.reason or "",
        " ".join((status.message or "")[:300].split()),
        is_too_large=any(cause.reason == "ResourceVersionTooLarge" for cause in causes),
        continuation=(status.metadata.continuation if status.metadata else None) or "",
    )


class _Metadata(Struct, frozen=True, gc=False):
    """The fields of `metadata` that tell where an object stands in time."""

    name: str = ""
    namespace: str = ""
    version: str = field(name="resourceVersion", default="")
    annotations: dict[str, Any] | None = None


class _Head(Struct, gc=False):
    """The head of an object."""

    kind: str = ""
    version: str = field(name="apiVersion", default="")
    metadata: _Metadata = _Metadata()


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


class _Cause(Struct, gc=False):
    """`details.causes[]` of a Status."""

    reason: str = ""


class _Details(Struct, gc=False):
    """`details` of a Status."""

    causes: list[_Cause] | None = None


class _Status(Struct, gc=False):
    """A Status; one of a slow etcd has no kind."""

    status: str
    message: str | None = None
    reason: str | None = None
    code: int = 0
    details: _Details | None = None
    metadata: _ListMetadata | None = None


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


def _head(text: Raw) -> _Head:
    """Raises `AnswerError`."""
    try:
        return HEAD.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise AnswerError(f"an object without a sound head: {error}") from None


def _entry(text: Raw, head: _Head, resource: Resource) -> Entry:
    """The object. Items of lists do not say their kind. Raises `AnswerError`."""
    if head.kind not in ("", resource.kind):
        raise AnswerError(f"an object of {resource.name} is a {head.kind[:60]!r}")
    metadata = head.metadata
    if not metadata.name:
        raise AnswerError(f"an object of {resource.name} has no name")
    is_cluster_scoped = resource.kind in CLUSTER_SCOPED_KINDS
    space = "" if is_cluster_scoped else metadata.namespace or "default"
    key: ObjectKey = resource.kind, space, metadata.name
    defaults = {"apiVersion": resource.version, "kind": resource.kind}
    try:
        item = json_item(text, defaults, ORIGIN)
    except (ValueError, RecursionError) as error:
        item = ObjectError(ORIGIN, "", f"it is not read: {error}")
    if isinstance(item, str):
        raise AnswerError(item)
    if isinstance(item, ObjectError) and refused_key(item) != key:
        # The store finds the object by the subject, which messages cut short.
        item = ObjectError(ORIGIN, f"{resource.kind} {name_of(key)}", item.reason, item.path)
    return Entry(key, item)


def _number(version: str) -> int:
    """Raises `AnswerError`."""
    if not (version.isascii() and version.isdecimal() and len(version) < 20):
        raise AnswerError(f"resourceVersion: {version[:60]!r} is no number")
    return int(version)


ORIGIN: Final = "API server"
"""In messages, in the place of a file's name."""
INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
MAX_EVENT: Final = 64 << 20
"""Bytes; the API server stores no object of more than a few MB."""
LIST: Final = _ListDecoder()
EVENT: Final = msgspec.json.Decoder(_Event)
HEAD: Final = msgspec.json.Decoder(_Head)
STATUS: Final = msgspec.json.Decoder(_Status)
