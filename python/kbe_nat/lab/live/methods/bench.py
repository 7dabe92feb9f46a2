"""A way that serves, a client and servers: what methods measure on."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from kbe_nat.family import Family
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.traffic import Flows
from kbe_nat.lab.live.ways.way import Served
from kbe_nat.lab.tables import Row
from kbe_nat.model import Snapshot

Rows: TypeAlias = Mapping[str, Sequence[Row]]
"""By table."""


class Arrival(NamedTuple):
    """Datagrams of floods that have come to the pods."""

    received: int
    seconds: float
    """From when they were waited for to when the last was seen, within `PAUSE`."""


class Bench(NamedTuple):
    """A way that serves, and the network around it."""

    network: Network
    served: Served
    family: Family
    is_static: bool
    """The way's endpoints never change."""
    objects: Callable[[int], Snapshot]
    """The same objects with this pod as the measured endpoint."""

    @property
    def address(self) -> str:
        """Where clients go."""
        return self.served.address(self.family)

    def flows(self) -> Flows:
        """Flows to it that the way carries as it does for good."""
        settle = self.served.settling_seconds
        return self.network.traffic.flows(self.address, settle=settle)

    def received(self) -> int:
        """Datagrams of floods that have come to the pods."""
        counts = [server.counts() for server in self.network.servers]
        return sum(count.datagrams - count.answered for count in counts)

    def lost_in_queue(self) -> int:
        """Packets that did not fit into the way's queue or its socket; 0 without a queue."""
        counters = self.served.counters()
        return counters.queue_dropped + counters.socket_dropped if counters else 0

    def handed_out(self) -> int | None:
        """Packets that the way's queue has handed out and that wait no more; None without one."""
        counters = self.served.counters()
        if counters is None:
            return None
        return counters.packets - counters.socket_dropped - counters.waiting

    def settle(self, expected: int) -> Arrival:
        """Wait until so many datagrams have come, or no more come: the queue is empty, and for
        `QUIET` seconds nothing has changed.
        """
        received, since = self.received(), time.monotonic()
        started = since
        while received < expected and time.monotonic() - since < QUIET:
            time.sleep(PAUSE)
            now = self.received()
            counters = self.served.counters()
            if now != received or (counters and counters.waiting):
                received, since = now, time.monotonic()
        return Arrival(received, since - started)

    def cpu_ns(self) -> int:
        """Processor time of all threads of the way's processes."""
        files = (path for pid in self.served.pids for path in thread_times(pid))
        return sum(int(path.read_text().split()[0]) for path in files)


def thread_times(pid: int) -> Sequence[Path]:
    """The files that tell the time of each thread of a process."""
    return list(Path(f"/proc/{pid}/task").glob("*/schedstat"))


QUIET = 0.2
PAUSE = 0.005
