"""From decoded YAML or JSON to the objects in it, each with its place; what is no object, or a wrong one, is
reported.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from kbe_nat.errors import ObjectError
from kbe_nat.sources.documents import reason_and_path
from kbe_nat.sources.objects import KINDS, Found


def decode(document: object, origin: str) -> Iterator[Found | ObjectError | str]:
    """The objects of one decoded YAML or JSON document: one, or those of a List.

    Yields an error for an object that is refused, and a note for one of a kind that is not read.
    """
    if not isinstance(document, dict):
        yield ObjectError(origin, "document", f"expected an object, got {_kind_of(document)}")
        return
    kind, version = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        yield ObjectError(origin, "document", "a Kubernetes object says what it is", "kind")
        return
    if not isinstance(version, str) or not version:
        yield ObjectError(
            origin, _subject(kind, document), "a Kubernetes object says its version", "apiVersion"
        )
        return
    if kind.endswith("List"):
        items = document.get("items") or []
        if not isinstance(items, list):
            yield ObjectError(origin, kind, f"expected an array, got {_kind_of(items)}", "items")
            return
        defaults = {} if kind == "List" else {"apiVersion": version, "kind": kind.removesuffix("List")}
        for number, item in enumerate(items):
            inner = {**defaults, **item} if isinstance(item, dict) else item
            yield from decode(inner, f"{origin}, items[{number}]")
        return
    group = version.rpartition("/")[0]
    known = KINDS.get((group, kind))
    if known is None:
        yield f"{origin}: {_subject(kind, document)}: objects of {_printable(version)} are not read"
        return
    try:
        yield Found(origin, kind, msgspec.convert(_without_nulls(document, {}), known))
    except msgspec.ValidationError as error:
        reason, path = reason_and_path(str(error))
        yield ObjectError(origin, _subject(kind, document), reason, path)
    except RecursionError:
        yield ObjectError(origin, _subject(kind, document), "it contains itself, or is nested too deeply")


def _without_nulls(value: object, seen: dict[int, object]) -> object:
    """A field that is null is a field that is left out. What a YAML alias shares stays shared, so that
    nothing grows.
    """
    if not isinstance(value, dict | list):
        return value
    if id(value) not in seen:
        if isinstance(value, dict):
            kept = ((key, inner) for key, inner in value.items() if inner is not None)
            seen[id(value)] = {key: _without_nulls(inner, seen) for key, inner in kept}
        else:
            seen[id(value)] = [_without_nulls(inner, seen) for inner in value]
    return seen[id(value)]


def _subject(kind: str, document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not isinstance(metadata, dict):
        return f"{_printable(kind)} without a name"
    space = metadata.get("namespace")
    return f"{_printable(kind)} {_printable(f'{space}/{name}' if isinstance(space, str) else name)}"


def _printable(text: str) -> str:
    """On one line and of bounded length, whatever somebody put into it."""
    return repr(text)[1:-1][:100]


def _kind_of(value: object) -> str:
    names = {list: "an array", str: "a text", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")
