"""An API server with many objects, whose answers are made before they are asked for.

`python -m benches.cluster.server SERVICES ENDPOINTS CERTIFICATE KEY` prints its port, then follows
lines on standard input, and answers each with a line:

- `first`: when the first byte of the list of slices was written, in seconds of CLOCK_MONOTONIC;
- `point ADDRESS`: the measured Service gets this one endpoint; when the event was written;
- `churn RATE SECONDS`: changes of random slices; how many were written, when it is over.

It speaks as the recordings of a real one do: chunks of 2,048 bytes for initial events, one chunk
for each later one, bookmarks.
"""

import asyncio
import json
import random
import ssl
import sys
import time
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

VIP: Final = "172.30.228.255"
PORT: Final = 9953
CHUNK: Final = 2048
VERSION: Final = b"$VERSION"
"""In the place of an event's version."""
HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nCache-Control: no-cache, private\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
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


def endpoint_slice(number: int, addresses: list[str], version: int) -> dict[str, Any]:
    """As the controller writes one."""
    labels = {"kubernetes.io/service-name": f"s{number}"}
    metadata = _metadata(f"s{number}-abcde", labels)
    metadata["resourceVersion"] = str(version)
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {
                    "kind": "Pod",
                    "namespace": "default",
                    "name": f"s{number}-7d4b9c6f5d-{place:05}",
                    "uid": f"0d0a6c1e-4e5f-4e49-9cf5-{number:012}",
                },
                "nodeName": f"node-{place % 7}",
                "zone": f"eu-1{'abc'[place % 3]}",
            }
            for place, address in enumerate(addresses)
        ],
        "ports": [{"name": "", "protocol": "TCP", "port": PORT}],
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


def addresses_of(number: int, count: int, shift: int = 0) -> list[str]:
    """Of pods that are nowhere; the measured Service has a real one."""
    if number == 0:
        return ["172.17.0.3"]
    first = number * count + shift
    return [f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(first, first + count)]


class Server:
    """Its objects, and the connections that watch slices."""

    def __init__(self, services: int, endpoints: int) -> None:
        self.services = services
        self.each = endpoints // services
        self.version = 1
        self.first = 0.0
        self.watchers: list[asyncio.StreamWriter] = []
        # Encoding costs more than sending: a server that encodes would be what is measured.
        self.changes = [
            [_change(number, addresses_of(number, self.each, shift)) for shift in (1, 2)]
            for number in range(services)
        ]
        slices = [
            endpoint_slice(number, addresses_of(number, self.each), 1) for number in range(services)
        ]
        node = {
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {"name": "node-1", "resourceVersion": "1"},
            "spec": {},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.2.15"}]},
        }
        self.answers = {
            "nodes": _initial("Node", "v1", [node]),
            "services": _initial("Service", "v1", [service(n) for n in range(services)]),
            "endpointslices": _initial("EndpointSlice", "discovery.k8s.io/v1", slices),
        }

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One watch."""
        line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0].decode()
        target = urlsplit(line.split()[1])
        resource = target.path.rpartition("/")[2]
        writer.write(HEAD)
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
                self.tell(random.choice(self.changes[random.randrange(1, self.services)]))
                written += 1
                if written % 10 == 0:
                    # What is written goes out only when the loop turns.
                    await asyncio.sleep(0)
            await asyncio.sleep(0.002)
        return written


def _change(number: int, addresses: list[str]) -> bytes:
    """An event whose version is filled in when it is sent."""
    value = endpoint_slice(number, addresses, 0)
    value["metadata"]["resourceVersion"] = VERSION.decode()
    return _event("MODIFIED", value)


def _event(kind: str, value: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": value}, separators=(",", ":")).encode() + b"\n"


def _initial(kind: str, version: str, objects: list[dict[str, Any]]) -> bytes:
    """The chunks of a WatchList."""
    end = {
        "kind": kind,
        "apiVersion": version,
        "metadata": {
            "resourceVersion": "1",
            "annotations": {"k8s.io/initial-events-end": "true"},
        },
    }
    body = b"".join([*(_event("ADDED", each) for each in objects), _event("BOOKMARK", end)])
    pieces = (body[start : start + CHUNK] for start in range(0, len(body), CHUNK))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


async def main() -> None:
    """Serve until standard input ends."""
    services, endpoints, certificate, key = sys.argv[1:]
    server = Server(int(services), int(endpoints))
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
            print(server.tell(_change(0, rest)), flush=True)
        else:
            task = asyncio.create_task(server.churn(int(rest[0]), float(rest[1])))
            tasks.add(task)
            print("begun", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
