"""An API server with many objects, whose answers are made before they are asked for.

`python -m benches.cluster.server SERVICES ENDPOINTS ENCODING CERTIFICATE KEY` prints its port, then
follows lines on standard input, and answers each with a line:

- `first`: when the first byte of the list of slices was written, in seconds of CLOCK_MONOTONIC;
- `point ADDRESS`: the measured Service gets this one endpoint; when the event was written;
- `churn RATE SECONDS`: random slices lose a pod and get another one, or get the first one back; it
  goes on in the background.

It speaks as the recordings of a real one do: chunks of 2,048 bytes for initial events, one chunk
for each later one, bookmarks.
"""

import asyncio
import json
import random
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from cluster import protobuf

VIP: Final = "172.30.228.255"
PORT: Final = 9953
CHUNK: Final = 2048
PODS: Final = {-2: "172.17.0.3", -1: "172.17.0.4"}
"""The real ones, of the measured Service."""
OTHERS: Final = 1
"""So many pods of a slice are exchanged, one after the other."""
VERSION: Final = b"999999999999"
"""In the place of an event's version, and as long."""
HEAD: Final = (
    "HTTP/1.1 200 OK\r\nCache-Control: no-cache, private\r\nContent-Type: {}\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
)
MEDIA_TYPES: Final = {
    "json": "application/json",
    "protobuf": "application/vnd.kubernetes.protobuf;stream=watch",
}
FIELDS: Final[dict[str, Any]] = {
    f"f:{name}": {".": {}, "f:addresses": {}, "f:conditions": {"f:ready": {}, "f:serving": {}}}
    for name in ("addressType", "endpoints", "metadata", "ports")
}
MANAGED: Final = [
    {
        "manager": "kube-controller-manager",
        "operation": "Update",
        "apiVersion": "discovery.k8s.io/v1",
        "time": "2026-11-28T09:00:40Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": FIELDS,
    }
]


def service(number: int) -> dict[str, Any]:
    """One port and an address of its own; number 0 is measured."""
    address = VIP if number == 0 else f"172.29.{number >> 8}.{number & 255}"
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": _metadata(f"s{number}", {}),
        "spec": {
            "ports": [{"protocol": "TCP", "port": 80, "targetPort": PORT}],
            "selector": {"app": f"s{number}"},
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


def endpoint_slice(number: int, pods: Iterable[int]) -> dict[str, Any]:
    """As the controller writes one."""
    labels = {"kubernetes.io/service-name": f"s{number}"}
    metadata = _metadata(f"s{number}-abcde", labels)
    metadata["resourceVersion"] = VERSION.decode()
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": list(map(endpoint, pods)),
        "ports": [{"name": "", "protocol": "TCP", "port": PORT}],
    }


def endpoint(pod: int) -> dict[str, Any]:
    """A pod on one of seven nodes. Those with numbers less than 0 are real."""
    address = f"10.{pod >> 16 & 255}.{pod >> 8 & 255}.{pod & 255}" if pod >= 0 else PODS[pod]
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "targetRef": {
            "kind": "Pod",
            "namespace": "default",
            "name": f"web-7d4b9c6f5d-{pod:06}",
            "uid": f"0d0a6c1e-4e5f-4e49-9cf5-{pod:012}",
        },
        "nodeName": f"node-{pod % 7}",
        "zone": f"eu-1{'abc'[pod % 3]}",
    }


def _metadata(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "default",
        "uid": "0d0a6c1e-4e5f-4e49-9cf5-4f0a1b7d9d11",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": "2026-11-28T09:00:40Z",
        "labels": labels,
        "managedFields": MANAGED,
    }


def pods_of(number: int, count: int, others: int = 0) -> Iterable[int]:
    """A slice's pods, of which some are others than at first; the measured Service's is real."""
    first = number * (count + OTHERS) + others
    return range(first, first + count) if number else [min(PODS)]


class Server:
    """Its objects, and the connections that watch slices."""

    def __init__(self, services: int, endpoints: int, encoding: str) -> None:
        self.services = services
        self.encode = ENCODERS[encoding]
        self.head = HEAD.format(MEDIA_TYPES[encoding]).encode()
        self.version = 1
        self.first = 0.0
        self.watchers: list[asyncio.StreamWriter] = []
        # Encoding costs more than sending: a server that encodes would be what is measured.
        encode = partial(_slice_events, encoding, count=endpoints // services)
        with ProcessPoolExecutor() as processes:
            events = list(processes.map(encode, range(services), chunksize=100))
        self.changes = [changes for _, *changes in events]
        self.present = [0] * services
        """Which of its changes a slice has had last."""
        node = {
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {"name": "node-1", "resourceVersion": "1"},
            "spec": {},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.2.15"}]},
        }
        added = ({"type": "ADDED", "object": service(number)} for number in range(services))
        first = (event.replace(VERSION, b"%012d" % 1) for event, *_ in events)
        self.answers = {
            "nodes": self.initial("Node", "v1", [self.encode({"type": "ADDED", "object": node})]),
            "services": self.initial("Service", "v1", map(self.encode, added)),
            "endpointslices": self.initial("EndpointSlice", "discovery.k8s.io/v1", first),
            "servicecidrs": self.initial("ServiceCIDR", "networking.k8s.io/v1", []),
        }

    def initial(self, kind: str, version: str, events: Iterable[bytes]) -> bytes:
        """The chunks of a WatchList."""
        metadata = {
            "resourceVersion": "1",
            "annotations": {"k8s.io/initial-events-end": "true"},
        }
        end = {"kind": kind, "apiVersion": version, "metadata": metadata}
        body = b"".join([*events, self.encode({"type": "BOOKMARK", "object": end})])
        pieces = (body[start : start + CHUNK] for start in range(0, len(body), CHUNK))
        return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One watch."""
        line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0].decode()
        target = urlsplit(line.split()[1])
        resource = target.path.rpartition("/")[2]
        writer.write(self.head)
        if "sendInitialEvents" in parse_qs(target.query):
            if resource == "endpointslices":
                self.first = time.monotonic()
            writer.write(self.answers[resource])
            await writer.drain()
        if resource == "endpointslices":
            self.watchers.append(writer)

    def tell(self, event: bytes) -> float:
        """Write an event; when."""
        self.version += 1
        event = event.replace(VERSION, b"%012d" % self.version, 1)
        frame = b"%x\r\n%s\r\n" % (len(event), event)
        now = time.monotonic()
        for writer in self.watchers:
            writer.write(frame)
        return now

    async def churn(self, rate: int, seconds: float) -> int:
        """Change random slices, at this rate; how many."""
        started, written = time.monotonic(), 0
        while (elapsed := time.monotonic() - started) < seconds:
            while written < elapsed * rate:
                number = random.randrange(1, self.services)
                self.present[number] = (self.present[number] + 1) % (OTHERS + 1)
                self.tell(self.changes[number][self.present[number]])
                written += 1
                if written % 10 == 0:
                    # What is written goes out only when the loop turns.
                    await asyncio.sleep(0)
            await asyncio.sleep(0.002)
        return written


def _json(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def _slice_events(encoding: str, number: int, count: int) -> list[bytes]:
    """A slice's first event, and those of its changes."""
    kinds = ("ADDED", *["MODIFIED"] * (OTHERS + 1))
    others = (0, *range(OTHERS + 1))
    return [
        ENCODERS[encoding](
            {"type": kind, "object": endpoint_slice(number, pods_of(number, count, each))}
        )
        for kind, each in zip(kinds, others, strict=True)
    ]


async def main() -> None:
    """Serve until standard input ends."""
    services, endpoints, encoding, certificate, key = sys.argv[1:]
    server = Server(int(services), int(endpoints), encoding)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=context)
    print(listener.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    tasks = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        word, *rest = line.split()
        if word == "first":
            print(server.first, flush=True)
        elif word == "point":
            pods = [pod for pod, address in PODS.items() if address in rest]
            event = {"type": "MODIFIED", "object": endpoint_slice(0, pods)}
            print(server.tell(server.encode(event)), flush=True)
        else:
            task = asyncio.create_task(server.churn(int(rest[0]), float(rest[1])))
            tasks.add(task)
            print("begun", flush=True)


ENCODERS: Final[dict[str, Callable[[dict[str, Any]], bytes]]] = {
    "json": _json,
    "protobuf": protobuf.encode_event,
}

if __name__ == "__main__":
    asyncio.run(main())
