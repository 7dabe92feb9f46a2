"""All API servers restart at once: when the nodes of a cluster list again.

A simulation. Each client is what a node runs: the source's reflectors of its resources, with their
backoff and their decoders. Their connections lead to the test API server in memory, and the event
loop jumps from timer to timer, so minutes take seconds. The server refuses connections for a while,
then it refuses each request with 403 (its cache of rights is empty), and then the versions of
before are too old for it, so that every client has to list.

What is not simulated: the time that a list takes at the server and on the network. The objects are
few, and each client is told how many nodes there are instead of counting them in slices.

Writes the tables of docs/scale.md.
"""

import argparse
import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

from benches.harness.processes import ROOT
from benches.harness.report import table
from cluster.answers import ApiServer
from cluster.api_objects import KINDS
from cluster.memory import MemoryConnection, MemoryResponse, drive
from cluster.objects import endpoint_slice, node, service
from kbe_nat.collector import uncollected
from kbe_nat.sources.kubernetes.encodings import Encoding
from kbe_nat.sources.kubernetes.inbox import Inbox
from kbe_nat.sources.kubernetes.reflector import Reflector
from kbe_nat.sources.kubernetes.requests import Cluster
from kbe_nat.sources.kubernetes.resources import watched_resources
from kbe_nat.sources.watch_state import WatchPhase, WatchState

PAGE: Final = ROOT / "docs/scale.md"
NODES: Final = 5000
MOST: Final = 0.05
"""Of all clients may list within one second."""
OUTAGES: Final = (0.5, 8.0, 60.0)
"""Seconds."""
SHOWN: Final = 8.0
"""The outage whose seconds are shown; so long a real API server was away in our recordings."""
DENIALS: Final = 1.0
"""Seconds of 403 after the start of the server."""


@dataclass
class Restart:
    """What the clients did, by whole seconds since the first server was back."""

    clients: int
    outage: float
    listing: Counter[int] = field(default_factory=Counter)
    """Clients that were given a list of any resource in this second."""
    lists: int = 0
    """Of all resources, over all seconds."""
    in_step: Counter[int] = field(default_factory=Counter)
    """Clients whose last watch came into step in this second."""
    refusals: Counter[int] = field(default_factory=Counter)
    """Requests that were answered 403 or were refused a connection."""

    @property
    def peak(self) -> float:
        """The share of all clients that list in the busiest second."""
        return max(self.listing.values(), default=0) / self.clients

    @property
    def last(self) -> int:
        """The second in which the last client came into step."""
        return max(self.in_step)


@dataclass
class _Requests:
    """Of all clients, from the break of the watches on."""

    back: float
    """When the server is back, by the loop's clock."""
    lists: list[tuple[int, int]] = field(default_factory=list)
    """Second and client."""
    refusals: Counter[int] = field(default_factory=Counter)

    def second(self) -> int:
        return int((asyncio.get_running_loop().time() - self.back) // 1)


class ClientConnection(MemoryConnection):
    """Notes the requests of one client."""

    def __init__(self, server: ApiServer, number: int) -> None:
        super().__init__(server)
        self._number = number
        self.requests: _Requests | None = None

    @asynccontextmanager
    async def get(
        self, path: str, parameters: Mapping[str, str], accept: str
    ) -> AsyncIterator[MemoryResponse]:
        is_list = "sendInitialEvents" in parameters or "watch" not in parameters
        status = 0
        try:
            async with super().get(path, parameters, accept) as response:
                status = response.status
                if self.requests is not None and status == 200 and is_list:
                    self.requests.lists.append((self.requests.second(), self._number))
                yield response
        finally:
            if self.requests is not None and status in (0, 403):
                self.requests.refusals[self.requests.second()] += 1


class Client:
    """The reflectors of one node."""

    def __init__(self, server: ApiServer, number: int, nodes: int, inbox: Inbox) -> None:
        self.connection = ClientConnection(server, number)
        self._states: dict[str, WatchState] = {}
        self._reflectors: list[Reflector] = []
        cluster = Cluster(self.connection, Random(number), Encoding.JSON)
        cluster.nodes = nodes
        for resource in watched_resources("node-1", has_service_ranges=True):
            self._reflectors.append(Reflector(resource, cluster, inbox, self._publish))
        self.in_step_at = 0.0
        """By the loop's clock."""

    @property
    def is_in_step(self) -> bool:
        return all(state.phase is WatchPhase.IN_STEP for state in self._states.values())

    async def run(self) -> None:
        """Follow the server for ever."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(reflector.run())

    def _publish(self, state: WatchState) -> None:
        before = self._states.get(state.resource)
        self._states[state.resource] = state
        if before is not None and before.phase is not state.phase and self.is_in_step:
            self.in_step_at = asyncio.get_running_loop().time()


def restart(clients: int, outage: float, nodes: int = NODES) -> Restart:
    """So many clients of a cluster with so many nodes, whose API servers are away for `outage`
    seconds. Cost: about 4 ms for each client.
    """
    # Nearly all of what is there stays until the end, so the collector would take half of the time.
    with uncollected():
        return drive(_restart(clients, outage, nodes))


async def _restart(count: int, outage: float, nodes: int) -> Restart:
    server = ApiServer()
    server.objects.put(service("web"), endpoint_slice("web", []), node("node-1"))
    inbox = Inbox()
    clients = [Client(server, number, nodes, inbox) for number in range(count)]
    running = [asyncio.ensure_future(client.run()) for client in clients]
    while not all(client.is_in_step for client in clients):
        await asyncio.sleep(1.0)
    # Watches that went well for a while, as in a cluster that is at work.
    await asyncio.sleep(STEADY)
    requests = _Requests(asyncio.get_running_loop().time() + outage)
    for client in clients:
        client.connection.requests = requests
        client.connection.is_down = True
    await asyncio.sleep(outage)
    server.objects.tick()
    server.objects.restart()
    server.forbidden = {(verb, name) for verb in ("list", "watch") for name in KINDS}
    for client in clients:
        client.connection.is_down = False
    await asyncio.sleep(DENIALS)
    server.forbidden = set()
    while not all(client.is_in_step for client in clients):
        await asyncio.sleep(1.0)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    inbox.close()
    result = Restart(count, outage, lists=len(requests.lists), refusals=requests.refusals)
    result.listing.update(second for second, _ in set(requests.lists))
    result.in_step.update(int(client.in_step_at - requests.back) for client in clients)
    return result


def seconds(result: Restart) -> str:
    """The table of one restart, a row for each second."""
    rows, step = [], 0
    for second in range(result.last + 1):
        step += result.in_step[second]
        share = f"{100 * result.listing[second] / result.clients:.1f} %"
        rows.append([str(second), str(result.listing[second]), share, f"{step:,}"])
    return table(
        ("second since the servers are back", "clients that list", "of all", "clients in step"),
        rows,
    )


def summary(results: Sequence[Restart]) -> str:
    """A row for each outage."""
    columns = (
        "servers away",
        "most clients that list in one second",
        "lists of a client",
        "most refusals in one second",
        "half in step after",
        "all in step after",
    )
    rows = []
    for result in results:
        ordered = sorted(result.in_step.elements())
        rows.append(
            [
                f"{result.outage:g} s",
                f"{100 * result.peak:.1f} %",
                f"{result.lists / result.clients:.2f}",
                f"{max(result.refusals.values()):,}",
                f"{ordered[len(ordered) // 2] + 1} s",
                f"{result.last + 1} s",
            ]
        )
    return table(columns, rows)


def main() -> None:
    """Simulate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=NODES)
    parser.add_argument("--outages", type=float, nargs="+", default=OUTAGES, help="in seconds")
    parser.add_argument("--quick", action="store_true", help="written nowhere")
    options = parser.parse_args()
    start = time.monotonic()
    results = [restart(options.clients, outage) for outage in options.outages]
    tables = [summary(results), *(seconds(each) for each in results if each.outage == SHOWN)]
    text = "\n".join(tables)
    print(text, f"\n{time.monotonic() - start:.0f} s")
    if not options.quick:
        marks = re.compile("(<!-- restart -->\n).*(<!-- end of restart -->)", re.DOTALL)
        PAGE.write_text(marks.sub(lambda match: match[1] + text + match[2], PAGE.read_text()))


STEADY: Final = 30.0
"""Seconds."""


if __name__ == "__main__":
    main()
