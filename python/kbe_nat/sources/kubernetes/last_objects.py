"""The objects of the last run, for a daemon that starts while the API server is away.

The file is a signature, a version, the wall clock's time, a checksum, and compressed frames: whose
objects they are, then lots of objects, as msgpack. Each frame begins with its length. Slices are
kept as they are converted, which is a third of their objects. A file of another version, or a
damaged one, is left alone: then the daemon waits for the API server.

Lots are small because msgspec holds the interpreter's lock while it encodes one: a change of the
objects would wait for all of a large cluster, a third of a second.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
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
from kbe_nat.sources.snapshot import ClusterObject, ConvertedSlice

Objects = Mapping[str, Mapping[ObjectKey, ClusterObject | ObjectError]]
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


def encode(
    objects: Objects, cluster: str, now: float, rest: Callable[[], None] = lambda: None
) -> bytes:
    """The file's content; `cluster` tells whose objects they are, and how they were chosen. Refused
    objects are left out. `rest` is called between lots. Cost: linear in the objects.
    """
    compressor = zlib.compressobj(COMPRESSION)
    parts = [compressor.compress(_frame(cluster))]
    for resource, items in objects.items():
        records = (_record(item) for item in items.values() if not isinstance(item, ObjectError))
        while lot := list(islice(records, LOT)):
            parts.append(compressor.compress(_frame(_Lot(resource, lot))))
            rest()
    parts.append(compressor.flush())
    body = b"".join(parts)
    return HEAD.pack(MAGIC, VERSION, now, zlib.crc32(body)) + body


def decode(content: bytes, cluster: str) -> tuple[dict[str, dict[ObjectKey, ClusterObject]], float]:
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
    objects: dict[str, dict[ObjectKey, ClusterObject]] = {}
    try:
        name, *lots = _frames(zlib.decompress(body))
        if msgspec.msgpack.decode(name, type=str) != cluster:
            raise StateError("the objects in it are those of another API server or selection")
        for lot in map(DECODER.decode, lots):
            items = map(_item, lot.items)
            objects.setdefault(lot.resource, {}).update((item.key, item) for item in items)
    except (msgspec.MsgspecError, zlib.error, struct.error, ValueError, RecursionError) as error:
        raise StateError(f"it is damaged: {error}") from None
    return objects, written


def _frame(value: object) -> bytes:
    text = msgspec.msgpack.encode(value)
    return LENGTH.pack(len(text)) + text


def _frames(body: bytes) -> Iterator[memoryview]:
    """Raises `struct.error` and `ValueError` where the last frame is cut."""
    view = memoryview(body)
    while view:
        (length,) = LENGTH.unpack_from(view)
        frame = view[LENGTH.size : LENGTH.size + length]
        if len(frame) < length:
            raise ValueError("its end is missing")
        yield frame
        view = view[LENGTH.size + length :]


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


class _Lot(Struct):
    """Some of the objects of one resource."""

    resource: str
    items: list[_Kept]


def _record(item: ClusterObject) -> _Kept:
    if isinstance(item, ConvertedSlice):
        return _Slice(item)
    value = item.value
    if isinstance(value, ServiceObject):
        return _Service(item.origin, value)
    if isinstance(value, NodeObject):
        return _Node(item.origin, value)
    assert isinstance(value, ServiceCIDRObject)
    return _Ranges(item.origin, value)


def _item(record: _Kept) -> ClusterObject:
    if isinstance(record, _Slice):
        return record.value
    kind = type(record).__struct_config__.tag
    return ParsedObject(record.origin, str(kind), record.value)


DECODER: Final = msgspec.msgpack.Decoder(_Lot)
MAGIC: Final = b"KBENATOB"
VERSION: Final = 2
HEAD: Final = struct.Struct("<8sIdI")
LENGTH: Final = struct.Struct("<I")
LOT: Final = 200
"""Objects; slices take a millisecond or two."""
COMPRESSION: Final = 1
"""The fastest: the file is written again and again."""
