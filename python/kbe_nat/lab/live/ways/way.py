"""What a way through the node is."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from kbe_nat.drivers.native import QueueCounters, queue_counters
from kbe_nat.errors import LabError
from kbe_nat.family import Family, family_of
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.objects import VIPS
from kbe_nat.model import Snapshot
from kbe_nat.playground.namespaces import inside


class Served:
    """A way that serves, for as long as the block of `Way.serve` runs. A way of its own kind
    overrides what differs.
    """

    pids: Sequence[int] = ()
    """Processes whose threads' CPU time counts as the way's."""
    queues: Sequence[int] = ()
    """The numbers of the node's NFQUEUEs through which packets go."""
    settling_seconds: float = 0.0
    """How old a flow must be until the way carries it as it does for good."""

    def __init__(
        self, network: Network, programming_seconds: float, peak_mb: float | None = None
    ) -> None:
        self.network = network
        self.programming_seconds = programming_seconds
        """From the parsed objects to the first answer of the measured Service, by UDP where the way
        carries it.
        """
        self.peak_mb = peak_mb
        """The most memory that its programs took while they loaded the objects; None: it has none.
        """

    def address(self, family: Family) -> str:
        """Where clients go."""
        return VIPS[family]

    def change(self, objects: Snapshot) -> float:
        """Serve these objects, which differ in the endpoints of the measured Service alone. Returns
        the moment (`time.monotonic`) at which the way had them, parsed: from here on the time
        counts until a client sees the other pod. Raises `LabError` where `Way.is_static`.
        """
        raise LabError("the endpoint of this way never changes")

    def counters(self) -> QueueCounters | None:
        """The kernel's counters of the way's queues together: packets handed out, lost, waiting;
        None without one.
        """
        by_number = inside(self.network.node.path, queue_counters) if self.queues else {}
        rows = [by_number[number] for number in self.queues if number in by_number]
        if not rows:
            return None
        return QueueCounters(
            rows[0].number,
            sum(row.waiting for row in rows),
            sum(row.queue_dropped for row in rows),
            sum(row.socket_dropped for row in rows),
            sum(row.packets for row in rows),
        )


class Way(Protocol):
    """A place where translation happens, by any means."""

    name: str
    protocols: frozenset[str]
    """Of "tcp" and "udp": which it carries."""
    families: frozenset[Family]
    """Which it carries."""
    is_static: bool
    """It serves one Service, whose endpoint never changes: the limits of kinds are such."""

    def missing(self) -> str | None:
        """Why it cannot run on this machine, in a sentence; None if it can. Leaves nothing."""
        ...

    def serve(self, network: Network, objects: Snapshot) -> AbstractContextManager[Served]:
        """Serve the objects on the network's node for as long as the block runs; leaves no rule,
        process or device behind. The measured Service answers when the block begins. Raises
        `LabError` when it does not start.
        """
        ...


def families_of(objects: Snapshot) -> list[Family]:
    """The families of the measured Service, which is the last one."""
    return [family_of(address) for address in objects.services[-1].cluster_ips]


def first_answer(network: Network, objects: Snapshot, protocol: str = "udp") -> float:
    """The moment at which the measured Service has answered at all its addresses. Raises
    `LabError`.
    """
    return max(network.first_answer(family, protocol) for family in families_of(objects))
