"""Objects straight from a JSON text, without plain values in between.

Theory of operation. `kubectl get -o json` writes one document: a List of as many objects as
a cluster has, most of whose text nobody reads. As dictionaries it would take ten times the memory
of the objects. So the document is split into the texts of its items, and each text is decoded into
the type of its kind, which skips all other fields.

This knows sound objects only. An item that is anything else (a null, a wrong field, a kind that is
not read) is decoded once more as plain values, by `kbe_nat.sources.decoding`, which knows all
exceptions and has the words for them. So is the whole text, if it is not one sound JSON document
with objects.

The objects are the same either way. Of the text this reads less: a number that is too large, in a
field that nobody reads, and a misspelt field refuse only where something else is unusual, too.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from kbe_nat.errors import ObjectError
from kbe_nat.sources.decoding import decode_item, listed_kind
from kbe_nat.sources.json_documents import json_documents
from kbe_nat.sources.objects import KINDS, Known, ParsedObject
from kbe_nat.sources.snapshot import ClusterObject, convert_early

Items = list[ClusterObject | ObjectError | str]
"""Objects, refused objects and notes."""


def json_objects(text: bytes, origin: str) -> Items | None:
    """The objects of a text that is one JSON document: one, or those of a List; None for any other
    text. Cost: linear in the text; in memory the text, and what the objects need.
    """
    try:
        return list(_items(text, origin))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _items(text: bytes, origin: str) -> Iterator[ClusterObject | ObjectError | str]:
    document = DOCUMENT.decode(text)
    if (document.version, document.kind) in KINDS:
        yield json_item(Raw(text), {}, origin)
        return
    of = listed_kind(document.kind)
    if of is None or not document.version:
        raise ValueError("no document of objects")
    defaults = {"apiVersion": document.version, "kind": of} if of else {}
    for number, item in enumerate(document.items):
        yield json_item(item, defaults, f"{origin}, items[{number}]")


def json_item(
    text: Raw, defaults: Mapping[str, str], origin: str
) -> ClusterObject | ObjectError | str:
    """One object; `defaults` are the fields that its list says for it. Raises ValueError, or
    `RecursionError`.
    """
    try:
        head = HEAD.decode(text)
        version = defaults.get("apiVersion", "") if head.version is UNSET else head.version
        kind = defaults.get("kind", "") if head.kind is UNSET else head.kind
        decoder = DECODERS.get((version, kind))
        if decoder is not None:
            return convert_early(ParsedObject(origin, kind, decoder.decode(text)))
    except (msgspec.MsgspecError, UnicodeError):
        pass
    [value] = json_documents(bytes(text).decode())
    item = decode_item(value, defaults, origin)
    return convert_early(item) if isinstance(item, ParsedObject) else item


class _Head(Struct, gc=False):
    """The kind of an item. A List says it of items that do not."""

    version: str | UnsetType = field(name="apiVersion", default=UNSET)
    kind: str | UnsetType = UNSET


class _Document(Struct, gc=False):
    """An object, or a List with its items."""

    version: str = field(name="apiVersion", default="")
    kind: str = ""
    items: list[Raw] = []


DOCUMENT: Final = msgspec.json.Decoder(_Document)
HEAD: Final = msgspec.json.Decoder(_Head)
DECODERS: Final[Mapping[tuple[str, str], msgspec.json.Decoder[Known]]] = {
    kind: msgspec.json.Decoder(of) for kind, of in KINDS.items()
}
