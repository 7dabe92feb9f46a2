"""From decoded YAML or JSON to the objects in it, each with its place. Values that are no objects,
and wrong objects, are reported.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from kbe_nat.errors import ObjectError
from kbe_nat.sources.manifests.documents import reason_and_path
from kbe_nat.sources.misspelling import misspellings
from kbe_nat.sources.objects import KINDS, NAMES, Known, ParsedObject


def decode(document: object, origin: str) -> Iterator[ParsedObject | ObjectError | str]:
    """The objects of one decoded YAML or JSON document: one, or those of a List.

    Yields an error for an object that is refused, and a note for one of a kind that is not read.
    """
    head = _head(document, origin)
    if isinstance(head, ObjectError):
        yield head
        return
    value, version, kind = head
    of = listed_kind(kind)
    if of is None:
        yield _object(value, version, kind, origin)
        return
    items = value.get("items") or []
    if not isinstance(items, list):
        yield ObjectError(origin, kind, f"expected an array, got {_kind_of(items)}", "items")
        return
    defaults = {"apiVersion": version, "kind": of} if of else {}
    for index, item in enumerate(items):
        yield decode_item(item, defaults, f"{origin}, items[{index}]")


def decode_item(
    item: object, defaults: Mapping[str, str], origin: str
) -> ParsedObject | ObjectError | str:
    """The object of one item of a List; `defaults` are the fields that its list says for it."""
    head = _head({**defaults, **item} if isinstance(item, dict) else item, origin)
    if isinstance(head, ObjectError):
        return head
    value, version, kind = head
    # It may contain itself, or others again and again. The API server knows none.
    if listed_kind(kind) is not None:
        return ObjectError(origin, _printable(kind), "a List in a List is not read", "kind")
    return _object(value, version, kind, origin)


def listed_kind(kind: str) -> str | None:
    """The kind that a list of this kind has items of, "" for any; None where it is no list."""
    of = kind.removesuffix("List")
    # Other kinds may be called something-List, too.
    return of if kind == "List" or (kind != of and of in NAMES) else None


def is_failure(document: object) -> bool:
    """Whether a document is what the API server says in place of objects, as curl saves it."""
    if not isinstance(document, dict) or not isinstance(document.get("message"), str):
        return False
    return all(document.get(name) == value for name, value in FAILURE.items())


def _head(document: object, origin: str) -> tuple[dict[str, Any], str, str] | ObjectError:
    """The document with its version and kind."""
    if not isinstance(document, dict):
        return ObjectError(origin, "document", f"expected an object, got {_kind_of(document)}")
    kind, version = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        return ObjectError(origin, "document", "a Kubernetes object says what it is", "kind")
    if not isinstance(version, str) or not version:
        subject = _subject(kind, document)
        return ObjectError(origin, subject, "a Kubernetes object says its version", "apiVersion")
    return document, version, kind


def _object(
    document: dict[str, Any], version: str, kind: str, origin: str
) -> ParsedObject | ObjectError | str:
    subject = _subject(kind, document)
    of = KINDS.get((version, kind))
    if of is None:
        return _unknown(subject, version, kind, origin)
    try:
        value = _convert(document, of)
    except msgspec.ValidationError as error:
        reason, path = reason_and_path(str(error))
        return ObjectError(origin, subject, reason, path)
    except RecursionError:
        return ObjectError(origin, subject, "it contains itself, or is nested too deeply")
    for path, meant in misspellings(document, of):
        return ObjectError(origin, subject, f"there is no such field; did you mean {meant}?", path)
    return ParsedObject(origin, kind, value)


def _convert(document: dict[str, Any], of: type[Known]) -> Known:
    """The object. Raises `msgspec.ValidationError`; `RecursionError`."""
    try:
        # A text of it has an end: a document that contains itself raises RecursionError, also
        # where no field is read. This takes microseconds, for it is C.
        ENCODER.encode(document)
        return msgspec.convert(document, of)
    except (msgspec.MsgspecError, OverflowError, UnicodeError):
        # A null in a field that is read is one reason. Few objects have any, and a copy without
        # them costs more than all else here.
        return msgspec.convert(_without_nulls(document, {}), of)


def _unknown(subject: str, version: str, kind: str, origin: str) -> ObjectError | str:
    """The error or note for an object that is not read. Another version of a kind that is read
    means the same in other words: to leave it out without an error would serve something else than
    the author means.
    """
    if (version, kind) == KUBECONFIG:
        return ObjectError(origin, "Config", IS_KUBECONFIG)
    group = version.rpartition("/")[0]
    versions = [other for other, name in KINDS if name == kind]
    if group in (
        *(other.rpartition("/")[0] for other in versions),
        *(OLD_GROUPS if versions else ()),
    ):
        reason = f"{_printable(version)} is not read, {' and '.join(versions)} is"
        return ObjectError(origin, subject, reason, "apiVersion")
    if (version, kind) == ENDPOINTS:
        return f"{origin}: {subject}: Endpoints are not read; EndpointSlices say the same"
    is_ours = any(other.rpartition("/")[0] == group for other, _ in KINDS)
    scope = "of this kind" if is_ours else f"of {_printable(version)}"
    return f"{origin}: {subject}: objects {scope} are not read"


def _without_nulls(value: object, seen: dict[int, object]) -> object:
    """A field that is null is a field that is left out; a label that is null is empty. Values that
    YAML aliases share stay shared, so that nothing grows.
    """
    if not isinstance(value, dict | list):
        return value
    if id(value) not in seen:
        if isinstance(value, dict):
            seen[id(value)] = {
                key: _texts(inner) if key in TEXTS else _without_nulls(inner, seen)
                for key, inner in value.items()
                if inner is not None
            }
        else:
            seen[id(value)] = [_without_nulls(inner, seen) for inner in value]
    return seen[id(value)]


def _texts(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {key: "" if inner is None else inner for key, inner in value.items()}


def _subject(kind: str, document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not isinstance(metadata, dict):
        return f"{_printable(kind)} without a name"
    space = metadata.get("namespace")
    return f"{_printable(kind)} {_printable(f'{space}/{name}' if isinstance(space, str) else name)}"


def _printable(text: str) -> str:
    """On one line and of bounded length, whatever the file has there."""
    return repr(text)[1:-1][:100]


def _kind_of(value: object) -> str:
    names = {
        list: "an array",
        str: "a text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        type(None): "nothing",
    }
    return names.get(type(value), f"a {type(value).__name__}")


ENCODER: Final = msgspec.json.Encoder()
TEXTS: Final = frozenset(("labels", "annotations", "selector"))
"""Fields whose values are texts by names."""
OLD_GROUPS: Final = ("extensions",)
"""Where kinds were before they got a group of their own."""
ENDPOINTS: Final = ("v1", "Endpoints")
FAILURE: Final = {"apiVersion": "v1", "kind": "Status", "status": "Failure"}
KUBECONFIG: Final = ("v1", "Config")
IS_KUBECONFIG: Final = (
    "this is a kubeconfig, not a file of Services and EndpointSlices; kbe-nat proxy takes it as"
    " --kubeconfig"
)
