"""The objects of the last run, for a daemon that starts while the API server is away.

The file is a signature, a version, the wall clock's time, a checksum, and the objects as msgpack.
Slices are kept as they are converted, which is a third of their objects. A file of another version,
or a damaged one, is left alone: then the daemon waits for the API server.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from kbe_nat.errors import ObjectError, StateError
from kbe_nat.sources.objects import (
    NodeObject,
    ObjectKey,
    ParsedObject,
    ServiceCIDRObject,
    ServiceObject,
)
from kbe_nat.sources.snapshot import ConvertedSlice, Item

Objects = Mapping[str, Mapping[ObjectKey, Item | ObjectError]]
"""By the name of a resource."""


class ObjectsFile(Protocol):
    """A place that holds the file."""

    server: str
    """The API server whose objects are kept."""

    def read(self) -> bytes | None:
        """All of it; None when there is none. Raises `StateError`."""
        ...

    def write(self, content: bytes) -> None:
        """Put this in its place, whole. Raises `StateError`."""
        ...


def encode(objects: Objects, cluster: str, now: float) -> bytes:
    """The file's content; `cluster` tells whose objects they are, and how they were chosen. Refused
    objects are left out. Cost: linear in the objects.
    """
    content = _Content(
        {
            resource: [
                _record(item) for item in items.values() if not isinstance(item, ObjectError)
            ]
            for resource, items in objects.items()
        },
        cluster,
    )
    body = zlib.compress(msgspec.msgpack.encode(content), COMPRESSION)
    return HEAD.pack(MAGIC, VERSION, now, zlib.crc32(body)) + body


def decode(content: bytes, cluster: str) -> tuple[dict[str, dict[ObjectKey, Item]], float]:
    """The objects, and when they were written, in seconds since 1970. Raises `StateError`, also for
    those of another cluster.
    """
    if len(content) < HEAD.size:
        raise StateError("it is cut")
    magic, version, written, checksum = HEAD.unpack_from(content)
    if magic != MAGIC:
        raise StateError("it holds something else")
    if version != VERSION:
        raise StateError(f"it has version {version}; this program reads version {VERSION}")
    body = content[HEAD.size :]
    if zlib.crc32(body) != checksum:
        raise StateError("it is damaged: its checksum is wrong")
    try:
        parsed = DECODER.decode(zlib.decompress(body))
    except (msgspec.MsgspecError, zlib.error, RecursionError) as error:
        raise StateError(f"it is damaged: {error}") from None
    if parsed.cluster != cluster:
        raise StateError("the objects in it are those of another API server or selection")
    objects = {
        resource: {item.key: item for item in map(_item, items)}
        for resource, items in parsed.resources.items()
    }
    return objects, written


class _Service(Struct, tag="Service", gc=False):
    """One of the kinds that are kept as objects; so are the next two."""

    origin: str
    value: ServiceObject


class _Node(Struct, tag="Node", gc=False):
    """See `_Service`."""

    origin: str
    value: NodeObject


class _Ranges(Struct, tag="ServiceCIDR", gc=False):
    """See `_Service`."""

    origin: str
    value: ServiceCIDRObject


class _Slice(Struct, tag="EndpointSlice", gc=False):
    """A slice as it is converted."""

    value: ConvertedSlice


_Kept = _Service | _Node | _Ranges | _Slice


class _Content(Struct):
    """The whole file, by the name of a resource."""

    resources: dict[str, list[_Kept]]
    cluster: str


def _record(item: Item) -> _Kept:
    if isinstance(item, ConvertedSlice):
        return _Slice(item)
    value = item.value
    if isinstance(value, ServiceObject):
        return _Service(item.origin, value)
    if isinstance(value, NodeObject):
        return _Node(item.origin, value)
    assert isinstance(value, ServiceCIDRObject)
    return _Ranges(item.origin, value)


def _item(record: _Kept) -> Item:
    if isinstance(record, _Slice):
        return record.value
    kind = type(record).__struct_config__.tag
    return ParsedObject(record.origin, str(kind), record.value)


DECODER: Final = msgspec.msgpack.Decoder(_Content)
MAGIC: Final = b"KBENATOB"
VERSION: Final = 1
HEAD: Final = struct.Struct("<8sIdI")
COMPRESSION: Final = 1
"""The fastest: the file is written again and again."""
