"""A way, a network and traffic without packets, whose answers are known."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

from kbe_nat.drivers.native import QueueCounters
from kbe_nat.errors import LabError
from kbe_nat.family import Family
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.traffic import (
    Bulk,
    Client,
    Connections,
    Counts,
    Flood,
    Flows,
    Held,
    Latencies,
    Pings,
)
from kbe_nat.lab.live.ways.way import Served
from kbe_nat.model import Snapshot

TIMES = Latencies(4, 2.5, 9.0, 2.0, 3.0, 8.0, 9.0, ((2.0, 3), (9.0, 1)))


def live_scenario(**changes: Any) -> dict[str, Any]:
    """Two rounds of two ways, of which connections are measured."""
    values: dict[str, Any] = {
        "name": "small",
        "mode": "live",
        "ways": ["slow", "fast"],
        "measures": [{"measure": "connections"}],
        "rounds": 2,
        "idle": 0.01,
    }
    return values | changes


class FakeHeld(Held):
    def __init__(self, opened: int, failed: int) -> None:
        self.opened, self.failed, self.seconds, self.latencies = opened, failed, 2.0, TIMES

    def close(self) -> Connections:
        return Connections(self.opened, 0, 0.5, TIMES, {"0": self.opened})


class FakeTraffic(Client):
    """Carries so many packets, and new flows, a second; what is more is lost in a queue."""

    def __init__(self, capacity: float, fastest: float = 1e6) -> None:
        self.capacity, self.fastest = capacity, fastest
        self.received = self.lost = self.floods = 0
        self.calls: list[str] = []
        self.settled: list[float] = []

    def flows(self, address: str, *, count: int = 64, settle: float = 0.0) -> "FakeFlows":
        self.settled.append(settle)
        return FakeFlows(self)

    def ping(
        self,
        address: str,
        *,
        count: int,
        rate: float | None = None,
        wait: float = 1.0,
        settle: float = 0.0,
    ) -> Pings:
        self.calls.append("ping")
        self.settled.append(settle)
        return Pings(count, count - 1, 0.1, TIMES, {"0": count - 1})

    def first_packets(
        self, address: str, *, count: int, rate: float | None = None, wait: float = 1.0
    ) -> Pings:
        self.calls.append("first_packets")
        offered = min(rate or self.fastest, self.fastest)
        answered = count if offered <= self.capacity else count - 1
        return Pings(count, answered, count / offered, TIMES, {"0": answered})

    def connect(
        self,
        address: str,
        *,
        seconds: float,
        threads: int = 1,
        validate: bool = False,
        wait: float = 1.0,
    ) -> Connections:
        self.calls.append("connect")
        return Connections(round(self.capacity * seconds), 1, seconds, TIMES, {})

    def hold(self, address: str, *, count: int, wait: float = 1.0) -> Held:
        opened = min(count, 700)
        return FakeHeld(opened, int(opened < count))

    def bulk(self, address: str, *, megabytes: int, streams: int = 1, settle: float = 0.0) -> Bulk:
        self.settled.append(settle)
        if megabytes > 1000:
            raise LabError("the connection was cut off")
        return Bulk(megabytes << 20, 0.5, 7.0)


class FakeFlows(Flows):
    def __init__(self, traffic: FakeTraffic) -> None:
        self.traffic = traffic

    def flood(
        self, *, packets: int, rate: float | None = None, burst: int = 512, payload: int = 18
    ) -> Flood:
        traffic = self.traffic
        traffic.floods += 1
        offered = min(rate or traffic.fastest, traffic.fastest)
        carried = round(packets * min(1.0, traffic.capacity / offered))
        traffic.received += carried
        traffic.lost += packets - carried
        return Flood(packets, 0, packets / offered, 100.0)


class FakeServer:
    def __init__(self, traffic: FakeTraffic) -> None:
        self.traffic = traffic

    def counts(self) -> Counts:
        return Counts(self.traffic.received + 5, 5, 0, 0, 0)


class FakeNetwork:
    """No namespace."""

    pods = ("first", "second")

    def __init__(self, traffic: FakeTraffic) -> None:
        self.traffic = traffic
        self.servers = (FakeServer(traffic),)
        self.asked: list[int | None] = []

    def first_answer(
        self, family: Family, protocol: str, *, pod: int | None = None, address: str | None = None
    ) -> float:
        self.asked.append(pod)
        return 10.0

    def __enter__(self) -> "FakeNetwork":
        return self

    def __exit__(self, *raised: object) -> None: ...


class FakeServed(Served):
    """With a queue that nothing waits in."""

    def __init__(self, traffic: FakeTraffic) -> None:
        self._traffic = traffic
        self.programming_seconds, self.peak_mb = 0.25, None
        self.changes: list[Snapshot] = []

    def address(self, family: Family) -> str:
        return "192.0.2.9"

    def change(self, objects: Snapshot) -> float:
        self.changes.append(objects)
        return 9.0

    def counters(self) -> QueueCounters | None:
        traffic = self._traffic
        return QueueCounters(7, 0, traffic.lost, 0, traffic.received)


class FakeWay:
    """A way of this name and capacity."""

    is_static = False
    families = frozenset((Family.IPV4,))

    def __init__(
        self, name: str, capacity: float = 1000.0, protocols: Sequence[str] = ("tcp", "udp")
    ) -> None:
        self.name, self.protocols = name, frozenset(protocols)
        self.traffic = FakeTraffic(capacity)
        self.reason: str | None = None
        self.failure: str | None = None
        self.runs = 0

    def missing(self) -> str | None:
        return self.reason

    def serve(self, network: Network, objects: Snapshot) -> AbstractContextManager[Served]:
        return self._serving(network)

    @contextmanager
    def _serving(self, network: Network) -> Iterator[Served]:
        self.runs += 1
        if self.failure:
            raise LabError(self.failure)
        cast(Any, network).traffic = self.traffic
        cast(Any, network).servers = (FakeServer(self.traffic),)
        yield FakeServed(self.traffic)
