"""The cost of an API server's answers in either encoding: bytes, processor time, memory.

10,000 EndpointSlices of 15 endpoints and 10,000 Services, with the fields that a real server has,
managedFields included. Each case is decoded by the source's own decoder, in a process of its own:
as a WatchList, in chunks of 64 KiB, and as one list. Writes the table of benches/RESULTS.md and
benches/results/encodings.json.
"""

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benches.harness.processes import ROOT
from benches.harness.report import PAGE, figure, machine, part, table
from cluster import protobuf
from kbe_nat.collector import uncollected
from kbe_nat.sources.kubernetes.answers import Decoder, Entry
from kbe_nat.sources.kubernetes.encodings import JSON, PROTOBUF
from kbe_nat.sources.kubernetes.resources import Resource, watched_resources

Object = dict[str, Any]

RESULTS: Final = ROOT / "benches/results/encodings.json"
RESOURCES: Final = {each.name: each for each in watched_resources("node-1")}
DECODERS: Final[dict[str, Decoder]] = {"JSON": JSON, "protobuf": PROTOBUF}
WAYS: Final = ("WatchList", "list")
ENDPOINTS: Final = 15
CHUNK: Final = 1 << 16
UID: Final = "86293753-98d6-463a-8294-f0cec5ccf563"
CREATED: Final = "2026-11-28T09:00:40Z"


def main() -> None:
    """Generate, measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=10_000, help="of each kind (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each case (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="few objects; written nowhere")
    parser.add_argument("--decode", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.decode:
        print(json.dumps(decode(*arguments.decode)))
        return
    count, rounds = (200, 1) if arguments.quick else (arguments.objects, arguments.rounds)
    rows = measure(count, rounds)
    text = page(rows)
    print(text, end="")
    if not arguments.quick:
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
        part("encodings", "make bench-encodings", f"{machine()} Rounds: {rounds}.\n\n{text}")
        print(f"Written: {RESULTS.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")


def measure(count: int, rounds: int) -> list[Object]:
    """A row for each case: medians of its rounds, which alternate between the encodings."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for name, way in itertools.product(("endpointslices", "services"), WAYS):
            paths = {encoding: Path(directory) / encoding for encoding in DECODERS}
            for encoding, path in paths.items():
                with path.open("wb") as file:
                    file.writelines(answer(RESOURCES[name], way, encoding, count))
            runs: dict[str, list[dict[str, float]]] = {encoding: [] for encoding in DECODERS}
            for encoding in list(DECODERS) * rounds:
                runs[encoding].append(run(name, way, encoding, str(paths[encoding])))
            for encoding, path in paths.items():
                head = {"resource": name, "way": way, "encoding": encoding, "objects": count}
                figures = {
                    field: statistics.median(each[field] for each in runs[encoding])
                    for field in ("cpu_s", "peak_mb", "kept_mb")
                }
                rows.append({**head, "bytes": path.stat().st_size, **figures})
    return rows


def page(rows: list[Object]) -> str:
    """The rows as a table."""
    columns = ("objects", "MB", "our CPU, s", "peak, MB", "of it objects, MB")
    cells = [
        (
            f"{row['objects']:,} {row['resource']}, {row['way']}, {row['encoding']}",
            figure(row["bytes"] / 1e6),
            f"{row['cpu_s']:.3f}",
            figure(row["peak_mb"]),
            figure(row["kept_mb"]),
        )
        for row in rows
    ]
    return table(columns, cells)


def run(*case: str) -> dict[str, float]:
    """One case in a process of its own."""
    command = (sys.executable, "-m", "benches.encodings", "--decode", *case)
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    figures: dict[str, float] = json.loads(output)
    return figures


def decode(name: str, way: str, encoding: str, path: str) -> dict[str, float]:
    """Decode an answer as the source does, and say what that took beyond an idle process."""
    decoder, kind = DECODERS[encoding], RESOURCES[name]
    idle, before = _memory_mb("VmRSS"), time.process_time()
    with uncollected():
        entries = (_watch if way == "WatchList" else _list)(decoder, kind, Path(path))
        objects = {entry.key: entry.object for entry in entries}
    cpu = time.process_time() - before
    assert objects
    return {
        "cpu_s": cpu,
        "peak_mb": _memory_mb("VmHWM") - idle,
        "kept_mb": _memory_mb("VmRSS") - idle,
    }


def _watch(decoder: Decoder, kind: Resource, path: Path) -> Iterator[Entry]:
    splitter = decoder.splitter()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            for frame in splitter.feed(chunk):
                entry = decoder.event(frame, kind).entry
                assert entry is not None
                yield entry


def _list(decoder: Decoder, kind: Resource, path: Path) -> Iterator[Entry]:
    yield from decoder.page(path.read_bytes(), kind).entries


def _memory_mb(field: str) -> float:
    # getrusage tells the peak of the process that started this one, too.
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) / 1024


def answer(kind: Resource, way: str, encoding: str, count: int) -> Iterator[bytes]:
    """The parts of the answer with so many objects."""
    make = endpoint_slice if kind.kind == "EndpointSlice" else service
    if way == "list":
        document = {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.version,
            "metadata": {"resourceVersion": "200000"},
            "items": [make(number) for number in range(count)],
        }
        yield protobuf.encode(document) if encoding == "protobuf" else _compact(document)
        return
    for number in range(count):
        head = {"kind": kind.kind, "apiVersion": kind.version}
        event = {"type": "ADDED", "object": {**head, **make(number)}}
        yield protobuf.encode_event(event) if encoding == "protobuf" else _compact(event)


def _compact(value: Object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def endpoint_slice(number: int) -> Object:
    """As the controller makes it."""
    name = f"service-{number}"
    return {
        "metadata": {
            **_metadata(f"{name}-x7b2k", number, "discovery.k8s.io/v1", SLICE_FIELDS),
            "generateName": f"{name}-",
            "generation": 1,
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": name,
            },
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": CREATED},
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": name,
                    "uid": UID,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [f"10.{number >> 8 & 255}.{number & 255}.{index + 1}"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {
                    "kind": "Pod",
                    "namespace": "shop",
                    "name": f"{name}-5d5c9c7d8f-{index:05}",
                    "uid": UID,
                },
                "nodeName": f"node-{(number + index) % 5000}",
                "zone": f"eu-1{'abc'[index % 3]}",
            }
            for index in range(ENDPOINTS)
        ],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }


def service(number: int) -> Object:
    """With one port."""
    address = f"172.30.{number >> 8 & 255}.{number & 255}"
    return {
        "metadata": _metadata(f"service-{number}", number, "v1", SERVICE_FIELDS),
        "spec": {
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
            "selector": {"app": f"service-{number}"},
            "clusterIP": address,
            "clusterIPs": [address],
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }


def _metadata(name: str, number: int, version: str, fields: Object) -> Object:
    return {
        "name": name,
        "namespace": "shop",
        "uid": UID,
        "resourceVersion": str(100_000 + number),
        "creationTimestamp": CREATED,
        "managedFields": [
            {
                "manager": "kube-controller-manager",
                "operation": "Update",
                "apiVersion": version,
                "time": CREATED,
                "fieldsType": "FieldsV1",
                "fieldsV1": fields,
            }
        ],
    }


def _tree(*names: str) -> Object:
    return {".": {}, **{f"f:{name}": {} for name in names}}


SLICE_FIELDS: Final = {
    "f:addressType": {},
    "f:endpoints": {},
    "f:metadata": {
        "f:annotations": _tree("endpoints.kubernetes.io/last-change-trigger-time"),
        "f:generateName": {},
        "f:labels": _tree("endpointslice.kubernetes.io/managed-by", "kubernetes.io/service-name"),
        "f:ownerReferences": {".": {}, f'k:{{"uid":"{UID}"}}': {}},
    },
    "f:ports": {},
}
SERVICE_FIELDS: Final = {
    "f:spec": {
        "f:internalTrafficPolicy": {},
        "f:ports": {
            ".": {},
            'k:{"port":80,"protocol":"TCP"}': _tree("name", "port", "protocol", "targetPort"),
        },
        "f:selector": {},
        "f:sessionAffinity": {},
        "f:type": {},
    }
}


if __name__ == "__main__":
    main()
