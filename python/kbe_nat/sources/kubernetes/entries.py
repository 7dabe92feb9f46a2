"""From the JSON text of an object to its entry in a list or a watch, whatever encoding it came in.

Theory of operation. Two passes over the text, each in C: the first finds the object's head (kind,
name, version), the second decodes the type of the object and skips the rest. An object that the
second pass refuses is decoded once more by `kbe_nat.sources.decoding`, whose errors name the field.
So one wrong object never takes the others with it.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field
from msgspec.structs import replace

from kbe_nat.errors import ObjectError
from kbe_nat.sources.json_objects import DECODERS, json_item
from kbe_nat.sources.kubernetes.answers import (
    AnswerError,
    Entry,
    EventKind,
    Failure,
    WatchEvent,
)
from kbe_nat.sources.kubernetes.resources import Resource
from kbe_nat.sources.objects import (
    CLUSTER_SCOPED_KINDS,
    ObjectKey,
    ParsedObject,
    name_of,
    refused_key,
)
from kbe_nat.sources.snapshot import READ_ANNOTATIONS, ClusterObject, ConvertedSlice, convert_early


def list_entry(text: bytes | Raw, resource: Resource) -> Entry:
    """An item of a list, which does not say its kind. Raises `AnswerError`."""
    return _entry(text, _head(text), resource)


def watch_event(kind: EventKind, text: bytes | Raw, resource: Resource) -> WatchEvent:
    """An event with its object. Raises `AnswerError`."""
    if kind is EventKind.ERROR:
        return WatchEvent(kind, failure=json_failure(bytes(text), 0))
    head = _head(text)
    if (head.version, head.kind) != (resource.version, resource.kind):
        raise AnswerError(f"an event of {resource.name} has {head.kind[:60]!r}")
    metadata = head.metadata
    version = version_number(metadata.version)
    if kind is EventKind.BOOKMARK:
        is_end = (metadata.annotations or {}).get(INITIAL_EVENTS_END) == "true"
        return WatchEvent(kind, version, is_initial_end=is_end)
    return WatchEvent(kind, version, _entry(text, head, resource))


def refused_entry(resource: Resource, namespace: str, name: str, reason: str, path: str) -> Entry:
    """An object that cannot be read. Raises `AnswerError` when it has no name."""
    key = _key(resource, namespace, name)
    subject = f"{resource.kind} {name_of(key)}"
    return Entry(key, ObjectError(ORIGIN, subject, reason, path))


def version_number(version: str) -> int:
    """Raises `AnswerError`."""
    if not (version.isascii() and version.isdecimal() and len(version) < 20):
        raise AnswerError(f"resourceVersion: {version[:60]!r} is no number")
    return int(version)


def json_failure(body: bytes, code: int) -> Failure:
    """The meaning of a refusal's body; it may be plain text, such as that of a 429. `code` is the
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


class _Continuation(Struct, gc=False):
    """`metadata` of a Status."""

    continuation: str | None = field(name="continue", default=None)


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
    metadata: _Continuation | None = None


def _head(text: bytes | Raw) -> _Head:
    """Raises `AnswerError`."""
    try:
        return HEAD.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise AnswerError(f"an object without a sound head: {error}") from None


def _entry(text: bytes | Raw, head: _Head, resource: Resource) -> Entry:
    if head.kind not in ("", resource.kind):
        raise AnswerError(f"an object of {resource.name} is a {head.kind[:60]!r}")
    key = _key(resource, head.metadata.namespace, head.metadata.name)
    if head.version in ("", resource.version):
        try:
            value = DECODERS[resource.version, resource.kind].decode(text)
            return Entry(key, _lean(convert_early(ParsedObject(ORIGIN, resource.kind, value))))
        except (msgspec.MsgspecError, UnicodeError):
            # Decoded once more below, for the field that is wrong.
            pass
    defaults = {"apiVersion": resource.version, "kind": resource.kind}
    try:
        item = json_item(Raw(text), defaults, ORIGIN)
    except (ValueError, RecursionError) as error:
        item = ObjectError(ORIGIN, "", f"it is not read: {error}")
    if isinstance(item, str):
        raise AnswerError(item)
    if isinstance(item, ObjectError) and refused_key(item) != key:
        # The store finds the object by the subject, which messages cut short.
        item = ObjectError(ORIGIN, f"{resource.kind} {name_of(key)}", item.reason, item.path)
    return Entry(key, item)


def _lean(item: ClusterObject) -> ClusterObject:
    """The object without the annotations that nobody reads. The object is kept, and they are often
    most of it: kubectl puts the whole object into one of them.
    """
    if isinstance(item, ConvertedSlice):
        return item
    metadata = item.value.metadata
    if metadata.annotations.keys() <= READ_ANNOTATIONS:
        return item
    annotations = {
        name: text for name, text in metadata.annotations.items() if name in READ_ANNOTATIONS
    }
    lean = replace(item.value, metadata=replace(metadata, annotations=annotations))
    return ParsedObject(item.origin, item.kind, lean)


def _key(resource: Resource, namespace: str, name: str) -> ObjectKey:
    if not name:
        raise AnswerError(f"an object of {resource.name} has no name")
    is_cluster_scoped = resource.kind in CLUSTER_SCOPED_KINDS
    return resource.kind, "" if is_cluster_scoped else namespace or "default", name


ORIGIN: Final = "API server"
"""In messages, in the place of a file's name."""
INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
HEAD: Final = msgspec.json.Decoder(_Head)
STATUS: Final = msgspec.json.Decoder(_Status)
