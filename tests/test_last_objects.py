"""The file of the API server's last objects: what is written is what is read."""

import struct
import zlib

import pytest

from harness.objects import service, slice_of
from kbe_nat.errors import ObjectError, StateError
from kbe_nat.sources.kubernetes import last_objects
from kbe_nat.sources.kubernetes.last_objects import HEAD, LOT, MAGIC, VERSION
from kbe_nat.sources.snapshot import convert_early

COUNT = 2 * LOT + 1
SERVICES = [service(f"web-{n}", clusterIP=f"172.30.{n >> 8}.{n & 255}") for n in range(COUNT)]
SLICES = [convert_early(slice_of(f"web-{n}-a", f"web-{n}", "10.0.0.1")) for n in range(3)]
OBJECTS: last_objects.Objects = {
    "services": {item.key: item for item in SERVICES},
    "endpointslices": {item.key: item for item in SLICES},
    "nodes": {},
}


def test_objects_come_back_as_they_were() -> None:
    rests = []
    refused = ("Service", "default", "bad")
    objects = {**OBJECTS, "nodes": {refused: ObjectError("API server", "Service bad", "no")}}
    content = last_objects.encode(objects, "here", 12.5, lambda: rests.append(1))
    assert len(rests) == 4, "no lot holds the lock for long"
    again, written = last_objects.decode(content, "here")
    assert written == 12.5
    assert again == {name: items for name, items in OBJECTS.items() if items}


def test_nothing_is_an_object_too() -> None:
    assert last_objects.decode(last_objects.encode({}, "here", 1.0), "here") == ({}, 1.0)


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        (b"", "it is damaged"),
        (b"\x01\x00", "it is damaged"),
        (struct.pack("<I", 100) + b"\xa4here", "it is damaged"),
        (struct.pack("<I", 5) + b"\xa5here", "it is damaged"),
        (struct.pack("<I", 6) + b"\xa5there", "another API server"),
        (struct.pack("<I", 5) + b"\xa4here" + struct.pack("<I", 3) + b"\x93ab", "it is damaged"),
    ],
)
def test_f10_a_file_whose_checksum_is_right_is_not_trusted(frames: bytes, complaint: str) -> None:
    body = zlib.compress(frames)
    content = HEAD.pack(MAGIC, VERSION, 0.0, zlib.crc32(body)) + body
    with pytest.raises(StateError, match=complaint):
        last_objects.decode(content, "here")
