"""Packets a second of one core by `kbe-nat replay`, on a capture of TCP that is generated for it.

The capture lies in target while it is used. 4,096 connections go on at a time, each with its
handshake, a request, eight segments of data with their acknowledgements, and both FINs. Processor
time counts, which strangers on the machine disturb less; that of an empty capture (Python, the
objects) is taken off. Writes the table of benches/RESULTS.md and benches/results/replay.json.
"""

import argparse
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benches.harness.processes import ROOT
from benches.harness.report import PAGE, figure, machine, part, table

RESULTS: Final = ROOT / "benches/results/replay.json"
SERVICES: Final = 16
CONCURRENT: Final = 4096
DATA: Final = bytes(1448)
REQUEST: Final = bytes(200)
SYN, ACK, PSH, FIN = 0x02, 0x10, 0x08, 0x01
CONNECTION_BYTES: Final = 13_500
"""Of one connection in the capture, roughly."""
ETHERNET: Final = bytes.fromhex("0200000000010200000000020800")
FILE_HEADER: Final = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)


@dataclass(frozen=True, slots=True)
class Capture:
    """A capture, an empty one, and the objects that its packets go to."""

    path: Path
    empty: Path
    objects: Path
    packets: int


def main() -> None:
    """Generate, measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bytes", type=int, default=1 << 30, help="size of the capture (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that it is read (%(default)s)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="32 MB and two rounds, shown, and written nowhere",
    )
    arguments = parser.parse_args()
    size, rounds = (32 << 20, 2) if arguments.quick else (arguments.bytes, arguments.rounds)
    tell(f"generating {size:,} bytes")
    with capture(size) as generated:
        times = []
        for number in range(rounds):
            tell(f"round {number + 1} of {rounds}")
            times.append(measure(generated))
    row = summarise(size, generated.packets, times)
    columns = ("bytes", "packets", "ns per packet", "million packets/s of a core")
    cells = (f"{size:,}", f"{row['packets']:,}", spread(times, 1), spread(times, 1e3, inverse=True))
    text = table(columns, [cells])
    print(text, end="")
    if not arguments.quick:
        RESULTS.write_text(json.dumps([row], indent=2) + "\n")
        part("replay", "make bench-replay", f"{machine()} Rounds: {rounds}; medians.\n\n{text}")
        print(f"Written: {RESULTS.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")


def tell(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def summarise(size: int, packets: int, times: list[float]) -> dict[str, Any]:
    """The row of the result."""
    median = statistics.median(times)
    return {
        "bytes": size,
        "packets": packets,
        "ns": round(median, 1),
        "ns_lowest": round(min(times), 1),
        "ns_highest": round(max(times), 1),
        "packets_per_second": round(1e9 / median),
    }


def spread(times: list[float], scale: float, *, inverse: bool = False) -> str:
    """Median, lowest and highest."""
    values = sorted(scale / value if inverse else value / scale for value in times)
    return f"{figure(statistics.median(values))} ({figure(values[0])} to {figure(values[-1])})"


def measure(capture: Capture, site: Path | None = None) -> float:
    """Nanoseconds of a packet; `site` is the folder of another revision's Python package."""
    base, whole = (_replay(path, capture.objects, site) for path in (capture.empty, capture.path))
    translated = whole[1]["actions"].get("translate", 0)
    if translated != capture.packets:
        sys.exit(f"replay translated {translated:,} of {capture.packets:,} packets")
    return (whole[0] - base[0]) / capture.packets * 1e9


def _replay(path: Path, objects: Path, site: Path | None) -> tuple[float, dict[str, Any]]:
    """Seconds of processor time that a replay took, and its summary."""
    command = [sys.executable, "-m", "kbe_nat", "replay", str(path), "-f", str(objects)]
    environment = os.environ if site is None else {**os.environ, "PYTHONPATH": str(site)}
    start = children_seconds()
    done = subprocess.run(
        [*command, "--seed=1", "-o", "json"],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = children_seconds() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return seconds, json.loads(done.stdout)


def children_seconds() -> float:
    """Processor time of all processes that we have started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def capture(size: int) -> Iterator[Capture]:
    """A capture of at least `size` bytes in target, removed afterwards."""
    target = ROOT / "target"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix="replay-") as name:
        folder = Path(name)
        path, empty, objects = folder / "tcp.pcap", folder / "empty.pcap", folder / "objects.json"
        objects.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": items()}))
        empty.write_bytes(FILE_HEADER)
        with path.open("wb", buffering=1 << 20) as file:
            packets = generate(file.write, size)
        yield Capture(path, empty, objects, packets)


def items() -> list[dict[str, Any]]:
    """Services with one endpoint each, so that answers come from the endpoint that was chosen."""
    result: list[dict[str, Any]] = []
    for number in range(SERVICES):
        name = f"replay-{number}"
        result += [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "clusterIP": f"10.96.1.{number}",
                    "clusterIPs": [f"10.96.1.{number}"],
                    "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
                },
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-a",
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [f"10.244.1.{number}"], "conditions": {"ready": True}}],
            },
        ]
    return result


def generate(write: Any, size: int) -> int:
    """Writes a capture of at least `size` bytes piece by piece; the number of its packets."""
    write(FILE_HEADER)
    concurrent = min(CONCURRENT, size // CONNECTION_BYTES + 1)
    written, packets, opened = len(FILE_HEADER), 0, 0
    connections: list[Iterator[bytes]] = []
    while written < size or connections:
        while len(connections) < concurrent and written < size:
            connections.append(connection(opened))
            opened += 1
        open_connections = []
        for each in connections:
            frame = next(each, None)
            if frame is None:
                continue
            # One packet in each microsecond.
            header = struct.pack("<IIII", *divmod(packets, 1_000_000), len(frame), len(frame))
            write(header + frame)
            written += len(header) + len(frame)
            packets += 1
            open_connections.append(each)
        connections = open_connections
    return packets


def connection(number: int) -> Iterator[bytes]:
    """The frames of one connection as they come to the node: the client's to the virtual IP, and
    the endpoint's to the client.
    """
    service = number % SERVICES
    client = (0x0A010000 + number // 60_000).to_bytes(4), 1024 + number % 60_000
    vip, endpoint = (bytes([10, 96, 1, service]), 80), (bytes([10, 244, 1, service]), 8080)
    seq, ack = number * 7919 & 0x7FFFFFFF, number * 104_729 & 0x7FFFFFFF

    def from_client(flags: int, payload: bytes = b"") -> bytes:
        return segment(client, vip, seq, ack, flags, payload)

    def from_endpoint(flags: int, payload: bytes = b"") -> bytes:
        return segment(endpoint, client, ack, seq, flags, payload)

    yield segment(client, vip, seq, 0, SYN)
    seq += 1
    yield from_endpoint(SYN | ACK)
    ack += 1
    yield from_client(ACK)
    yield from_client(ACK | PSH, REQUEST)
    seq += len(REQUEST)
    yield from_endpoint(ACK)
    for _ in range(8):
        yield from_endpoint(ACK | PSH, DATA)
        ack += len(DATA)
        yield from_client(ACK)
    yield from_endpoint(ACK | FIN)
    ack += 1
    yield from_client(ACK | FIN)
    seq += 1
    yield from_endpoint(ACK)


def segment(
    source: tuple[bytes, int],
    destination: tuple[bytes, int],
    seq: int,
    ack: int,
    flags: int,
    payload: bytes = b"",
) -> bytes:
    """A frame with one segment, and right checksums. The payload is zeros, so it adds nothing."""
    length = 40 + len(payload)
    addresses = source[0] + destination[0]
    head = struct.pack("!BBHHHBBH8s", 0x45, 0, length, 0, 0x4000, 64, 6, 0, addresses)
    tcp = struct.pack(
        "!HHIIBBHHH", source[1], destination[1], seq, ack, 5 << 4, flags, 65_535, 0, 0
    )
    head_sum = checksum(head)
    tcp_sum = checksum(tcp + addresses + struct.pack("!HH", 6, 20 + len(payload)))
    return b"".join(
        (ETHERNET, head[:10], head_sum, head[12:], tcp[:16], tcp_sum, tcp[18:], payload)
    )


def checksum(header: bytes) -> bytes:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    # 2^16 is 1 modulo 2^16 - 1, so the sum of the words is the number itself.
    total = int.from_bytes(header) % 0xFFFF
    return (0xFFFF - total).to_bytes(2)


if __name__ == "__main__":
    main()
