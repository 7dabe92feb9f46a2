"""Whether nodes agree: engines with equal seeds that heard of the same objects in other orders
choose the same backends, and a rolling update moves few connections.

Each node has a store, a planner and an engine, as the daemon has. It hears of the Services and of
the EndpointSlices in an order of its own: some objects late, some twice, some in a version that is
old already, stray ones that go again; and it plans after events that it chooses. Then every node is
given the first packets of the same connections. Writes the table of docs/scale.md.
"""

import argparse
import hashlib
import random
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import kbe_nat
from benches.harness.processes import ROOT
from kbe_nat.engine_tables import EngineTables
from kbe_nat.model import Strategy
from kbe_nat.policy.options import Options
from kbe_nat.policy.planner import Planner
from kbe_nat.sources.decoding import decode
from kbe_nat.sources.objects import Origin, ParsedObject
from kbe_nat.sources.store import Store

PAGE: Final = ROOT / "docs/scale.md"
STRATEGIES: Final = (Strategy.MAGLEV, Strategy.RENDEZVOUS, Strategy.SOURCE_HASH, Strategy.RING)
SERVICES: Final = 20
ENDPOINTS: Final = 100
PER_SLICE: Final = 10
STAGES: Final = (0, 10, 20)
"""Endpoints of each Service that the rolling update has replaced."""
SEED: Final = 7
WATCH: Final = Origin(0, "watch")
PACKET_BYTES: Final = 28


@dataclass(frozen=True, slots=True)
class Agreement:
    """What all nodes came to with one strategy."""

    strategy: Strategy
    answers: tuple[int, ...]
    """By stage, how many different sets of choices there were; 1: all nodes agree."""
    moved: tuple[int, ...]
    """By later stage, connections whose next packet would go to another backend than before."""
    departures: tuple[int, ...]
    """Those of them whose backend was replaced: they must move."""
    strayed: tuple[int, ...]
    """Those of them that moved between backends which stay: the least is none. The others were won
    by new backends, which get their share.
    """


def agreement(strategy: Strategy, nodes: int, tuples: int) -> Agreement:
    """Ask so many nodes about so many connections, at each stage. Cost: about 20 ms for 100,000
    connections, node and stage.
    """
    packets = first_packets(tuples)
    digests: list[set[bytes]] = [set() for _ in STAGES]
    sample: list[list[bytes]] = []
    for number in range(nodes):
        node = Node(strategy, random.Random(number))
        for stage, replaced in enumerate(STAGES):
            node.hear(replaced)
            choices = node.choose(packets)
            digests[stage].add(hashlib.sha256(choices).digest())
            if number == 0:
                sample.append([choices[at : at + 4] for at in range(0, len(choices), 4)])
    steps = [
        _step(before, after, *STAGES[stage : stage + 2])
        for stage, (before, after) in enumerate(pairwise(sample))
    ]
    moved, departures, strayed = zip(*steps, strict=True)
    return Agreement(strategy, tuple(map(len, digests)), moved, departures, strayed)


def _step(
    before: list[bytes], after: list[bytes], former: int, replaced: int
) -> tuple[int, int, int]:
    """How many choices differ; how many of them had to; how many had neither reason."""
    every = range(SERVICES * ENDPOINTS)
    old, new = ({address(n, stage) for n in every} for stage in (former, replaced))
    pairs = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    departures = sum(source not in new for source, _ in pairs)
    return len(pairs), departures, sum(source in new and to in old for source, to in pairs)


class Node:
    """One node's way from events to choices."""

    def __init__(self, strategy: Strategy, order: random.Random) -> None:
        self._order = order
        self._options = Options(strategy=strategy)
        self._store = Store()
        self._planner = Planner()
        self._engine = kbe_nat.Engine(seed=SEED)
        self._tables = EngineTables(self._engine)
        self._stage = -1

    def hear(self, replaced: int) -> None:
        """Events that lead to this stage, in an order of the node's own."""
        is_first, former, self._stage = self._stage < 0, max(self._stage, 0), replaced
        events = [slice_of(n, replaced) for n in range(SERVICES * ENDPOINTS // PER_SLICE)]
        if is_first:
            events += [service(n) for n in range(SERVICES)]
        old = self._order.sample(range(SERVICES * ENDPOINTS // PER_SLICE), 10)
        stray = service(SERVICES + self._order.randrange(100))
        self._order.shuffle(events)
        # A duplicate, or a version that the node has missed until now.
        for event in [stray, *(slice_of(n, former) for n in old), *events]:
            self._store.put(WATCH, event)
            if self._order.random() < 0.05:
                self._plan()
        self._store.delete(WATCH, stray.key)
        self._plan()

    def choose(self, packets: bytes) -> bytes:
        """The addresses of the backends that the packets go to, 4 bytes each."""
        sent = bytearray(packets)
        offsets = struct.pack(
            f"={len(packets) // PACKET_BYTES + 1}Q",
            *range(0, len(packets) + 1, PACKET_BYTES),
        )
        self._engine.process_batch(sent, 0, offsets=memoryview(offsets).cast("Q"))
        self._engine.delete_flows()
        choices = bytearray(len(packets) // PACKET_BYTES * 4)
        for byte in range(4):
            choices[byte::4] = sent[16 + byte :: PACKET_BYTES]
        return bytes(choices)

    def _plan(self) -> None:
        update = self._store.update()
        delta = self._planner.update(update.snapshot, self._options, update.touched)
        self._tables.apply(delta)


def first_packets(tuples: int) -> bytes:
    """First packets of UDP, without payload and checksum, each from another client and port."""
    parts = []
    for number in range(tuples):
        client = struct.pack(">BBH", 10, 200, number * 40503 % 65536)
        head = struct.pack(">BBHHHBBH", 0x45, 0, PACKET_BYTES, 0, 0, 64, 17, 0)
        words = struct.unpack(">10H", head + client + vip(number % SERVICES))
        total = sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        checksum = ~(total + (total >> 16)) & 0xFFFF
        ports = struct.pack(">HHHH", 1024 + number * 7 % 60000, 53, 8, 0)
        parts.append(head[:10] + checksum.to_bytes(2) + client + vip(number % SERVICES) + ports)
    return b"".join(parts)


def vip(number: int) -> bytes:
    """The cluster IP of a Service."""
    return bytes((172, 30, 1 + number // 250, 1 + number % 250))


def address(number: int, replaced: int) -> bytes:
    """The address of an endpoint when so many of its Service are replaced."""
    is_new = number % ENDPOINTS < replaced
    return bytes((10, 2 if is_new else 1, number // 250, number % 250))


def service(number: int) -> ParsedObject:
    """A Service with one UDP port."""
    spec = {"clusterIP": _text(vip(number)), "ports": [{"port": 53, "protocol": "UDP"}]}
    return _parsed("v1", "Service", {"name": f"s{number}"}, {"spec": spec})


def slice_of(number: int, replaced: int) -> ParsedObject:
    """An EndpointSlice when so many endpoints of its Service are replaced."""
    name = f"s{number * PER_SLICE // ENDPOINTS}"
    labels = {"kubernetes.io/service-name": name}
    first = number * PER_SLICE
    rows = [{"addresses": [_text(address(n, replaced))]} for n in range(first, first + PER_SLICE)]
    more = {
        "addressType": "IPv4",
        "ports": [{"port": 53, "protocol": "UDP"}],
        "endpoints": rows,
    }
    metadata = {"name": f"{name}-{number}", "labels": labels}
    return _parsed("discovery.k8s.io/v1", "EndpointSlice", metadata, more)


def _parsed(version: str, kind: str, metadata: Any, more: dict[str, Any]) -> ParsedObject:
    [item] = decode({"apiVersion": version, "kind": kind, "metadata": metadata, **more}, "bench")
    assert isinstance(item, ParsedObject)
    return item


def _text(address: bytes) -> str:
    return ".".join(map(str, address))


def rows(results: list[Agreement], tuples: int) -> Iterator[str]:
    """The table of the page."""
    yield (
        "| strategy | sets of choices at each stage | moved at each step"
        " | had to, their endpoint left | moved between endpoints that stay |"
    )
    yield "|---|---|---|---|---|"
    for result in results:
        moved, departures, strayed = (
            " and ".join(f"{100 * n / tuples:.2f} %" for n in counts)
            for counts in (result.moved, result.departures, result.strayed)
        )
        sets = ", ".join(map(str, result.answers))
        yield f"| `{result.strategy}` | {sets} | {moved} | {departures} | {strayed} |"


def main() -> None:
    """Ask, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--tuples", type=int, default=100_000)
    options = parser.parse_args()
    start = time.monotonic()
    results = [agreement(each, options.nodes, options.tuples) for each in STRATEGIES]
    table = "\n".join(rows(results, options.tuples))
    print(table, f"\n{time.monotonic() - start:.0f} s")
    marks = re.compile("(<!-- agreement -->\n).*(\n<!-- end -->)", re.DOTALL)
    PAGE.write_text(marks.sub(lambda match: match[1] + table + match[2], PAGE.read_text()))


if __name__ == "__main__":
    main()
