"""Traffic between namespaces: servers in pods and programs of a client, in threads of this process.

The work is done by `rust/traffic` without the GIL, in threads that have entered the namespace: no
interpreter stands in a packet's way, and nothing is left behind however the process ends. CPU time
is that of the sending thread, so softirq work that the kernel does in it counts.
"""

from collections.abc import Callable
from typing import Final, Self, TypeVar

import msgspec

from kbe_nat._native import (
    HeldConnections,
    HeldFlows,
    TrafficServer,
    traffic_bulk,
    traffic_connect,
    traffic_ping,
)
from kbe_nat.errors import LabError
from kbe_nat.lab.live.objects import BULK_PORT, EXCHANGE_PORT, SHORT_PORT, UDP_PORT
from kbe_nat.playground.namespaces import Namespace, inside

_T = TypeVar("_T")


class Latencies(msgspec.Struct, frozen=True):
    """A histogram of times with three significant digits."""

    count: int
    mean_us: float
    max_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    buckets: tuple[tuple[float, int], ...]
    """The upper bound of each bucket that is not empty, in µs, and how many times it has."""


class Flood(msgspec.Struct, frozen=True):
    """Datagrams that were sent."""

    sent: int
    refused: int
    """Which the sender's own kernel refused (ENOBUFS, or an ICMP error before)."""
    seconds: float
    cpu_ns: float
    """CPU time of the sending thread for each."""


class Pings(msgspec.Struct, frozen=True):
    """Datagrams that ask for an answer each."""

    sent: int
    answered: int
    seconds: float
    """From the first to the last that was sent."""
    latencies: Latencies
    """From the moment at which one was due to its answer."""
    servers: dict[str, int]
    """Answers by the server's name."""


class Connections(msgspec.Struct, frozen=True):
    """TCP connections, one after the other in each thread."""

    opened: int
    """And closed by the server; where validated, with the right answer before."""
    failed: int
    """Refused, cut off, not answered in time, or answered wrongly."""
    seconds: float
    latencies: Latencies
    """Of opening one: connect(2)."""
    servers: dict[str, int]
    """Validated answers by the server's name."""


class Opened(msgspec.Struct, frozen=True):
    """Connections that were opened to stay, as `Held` has them."""

    opened: int
    failed: int
    seconds: float
    latencies: Latencies


class Bulk(msgspec.Struct, frozen=True):
    """Bytes of TCP connections, counted by their receiver."""

    bytes: int
    seconds: float
    cpu_ns: float
    """CPU time of the sending threads for each kilobyte."""


class Counts(msgspec.Struct, frozen=True):
    """A server's counts since it began."""

    datagrams: int
    """Received, those of floods and those that were answered."""
    answered: int
    connections: int
    """Accepted."""
    open: int
    """Connections that are open now."""
    bytes: int
    """Received by bulk connections."""


class Server:
    """Servers in a pod while the block runs, on all its addresses: `UDP_PORT` answers pings and
    counts other datagrams, `BULK_PORT` swallows a stream and says how long it was, `SHORT_PORT`
    closes at once, `EXCHANGE_PORT` answers every request of 16 bytes with these and its name.
    """

    def __init__(self, namespace: Namespace, name: str) -> None:
        """`name`: at most 16 bytes, by which clients tell servers apart."""
        self._namespace, self._name = namespace, name
        self._server: TrafficServer | None = None

    def counts(self) -> Counts:
        """As they are now. Raises `LabError` when it does not run."""
        if self._server is None:
            raise LabError(f"the server {self._name} does not run")
        return msgspec.json.decode(self._server.counts(), type=Counts)

    def __enter__(self) -> Self:
        """Raises `LabError` when a port is taken, or the namespace is gone."""
        self._server = _in(self._namespace, lambda: TrafficServer(self._name, SERVER_PORTS))
        return self

    def __exit__(self, *raised: object) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


class Held:
    """Open TCP connections, each validated once; closed at the block's end."""

    def __init__(self, connections: HeldConnections) -> None:
        self._connections = connections
        opened = msgspec.json.decode(connections.opened(), type=Opened)
        self.opened = opened.opened
        """How many are open, each validated once."""
        self.failed = opened.failed
        """1 when the last one was not answered."""
        self.seconds = opened.seconds
        """That opening took."""
        self.latencies = opened.latencies
        """Of opening and validating one."""

    def close(self) -> Connections:
        """Let the server close them all: how many were closed in order, and how long each took from
        its last request. A second call closes nothing.
        """
        return msgspec.json.decode(self._connections.close(), type=Connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class Flows:
    """Flows of datagrams that are established, for as long as the value is kept."""

    def __init__(self, flows: HeldFlows) -> None:
        self._flows = flows

    def flood(
        self, *, packets: int, rate: float | None = None, burst: int = 512, payload: int = 18
    ) -> Flood:
        """Send datagrams over them, at `rate` a second in bursts, or as fast as the sender can.
        Servers count them and do not answer. Raises `ArgumentError` for a rate that is none.
        """
        return msgspec.json.decode(self._flows.flood(packets, rate, burst, payload), type=Flood)


class Client:
    """Programs in a client's namespace. Addresses are text of either family. All methods block, and
    raise `LabError` for what is no measurement: a socket that cannot be made, a stream that is cut
    off; `ArgumentError` for an address or a rate that is none.

    Flows that `settle` are that many seconds old when what is measured begins, and have had a
    packet and an answer now and then: see `Served.settling_seconds`.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def flows(self, address: str, *, count: int = 64, settle: float = 0.0) -> Flows:
        """Establish flows of datagrams."""
        asking = (count, settle)
        return Flows(_in(self._namespace, lambda: HeldFlows(address, UDP_PORT, *asking)))

    def ping(
        self,
        address: str,
        *,
        count: int,
        rate: float | None = None,
        wait: float = 1.0,
        settle: float = 0.0,
    ) -> Pings:
        """Round trips on one flow: each after the answer to the one before, or at `rate` a second
        whatever answers (times count from when each was due). One that is not answered `wait`
        seconds later is lost.
        """
        asking = (count, rate, wait, False, settle)
        return self._result(Pings, lambda: traffic_ping(address, UDP_PORT, *asking))

    def first_packets(
        self, address: str, *, count: int, rate: float | None = None, wait: float = 1.0
    ) -> Pings:
        """As `ping`, each from a new socket with a source port of its own: the first packets of
        flows. There are 55,000 such ports, which are taken in turn.
        """
        asking = (count, rate, wait, True, 0.0)
        return self._result(Pings, lambda: traffic_ping(address, UDP_PORT, *asking))

    def connect(
        self,
        address: str,
        *,
        seconds: float,
        threads: int = 1,
        validate: bool = False,
        wait: float = 1.0,
    ) -> Connections:
        """Open TCP connections one after the other in each thread, at least one, which the server
        closes at once; with `validate` after it has answered a request with the same bytes (RFC
        9693).
        """
        port = EXCHANGE_PORT if validate else SHORT_PORT
        asking = (seconds, threads, wait, validate)
        return self._result(Connections, lambda: traffic_connect(address, port, *asking))

    def hold(self, address: str, *, count: int, wait: float = 1.0) -> Held:
        """Open so many connections, validate each, and keep them open. One that does not answer
        within `wait` seconds ends it: a table on the way is full.
        """
        return Held(
            _in(self._namespace, lambda: HeldConnections(address, EXCHANGE_PORT, count, wait))
        )

    def bulk(self, address: str, *, megabytes: int, streams: int = 1, settle: float = 0.0) -> Bulk:
        """Send so many megabytes (of 2^20 bytes) over each of some connections."""
        sending = (megabytes, streams, settle)
        return self._result(Bulk, lambda: traffic_bulk(address, BULK_PORT, *sending))

    def ask(self, address: str, protocol: str, *, seconds: float = 1.0) -> str | None:
        """The name of the server that answers one ping ("udp") or one validated connection ("tcp")
        within so many seconds; None when none does.
        """
        answers = (
            self.first_packets(address, count=1, wait=seconds)
            if protocol == "udp"
            else self.connect(address, seconds=0, validate=True, wait=seconds)
        )
        return next(iter(answers.servers), None)

    def _result(self, kind: type[_T], work: Callable[[], bytes]) -> _T:
        return msgspec.json.decode(_in(self._namespace, work), type=kind)


def _in(namespace: Namespace, work: Callable[[], _T]) -> _T:
    """The result of `work` in a namespace. Raises `LabError` when that is gone."""
    try:
        return inside(namespace.path, work)
    except OSError as error:
        raise LabError(f"{namespace.name}: {error.strerror or error}") from None


SERVER_PORTS: Final = (UDP_PORT, BULK_PORT, SHORT_PORT, EXCHANGE_PORT)
