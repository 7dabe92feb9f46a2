"""Traffic between namespaces: servers in pods and programs of a client, in threads of this process.

The work is done by `rust/traffic` without the GIL, in threads that have entered the namespace: no
interpreter stands in a packet's way, and nothing is left behind however the process ends. CPU time
is that of the sending thread, so softirq work that the kernel does in it counts.
"""

from types import TracebackType
from typing import Self

import msgspec

from kbe_nat.playground.namespaces import Namespace


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

    def counts(self) -> Counts:
        """As they are now."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Raises `LabError`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Held:
    """Open TCP connections, each validated once."""

    opened: int
    failed: int
    seconds: float
    """That opening took."""
    latencies: Latencies
    """Of opening and validating one."""

    def close(self) -> Connections:
        """Let the server close them all; returns how many were closed in order, and how long each
        took. Idempotent.
        """
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Client:
    """Programs in a client's namespace. Addresses are text of either family. All methods block, and
    raise `LabError` for what is no measurement: an address that is none, a socket that cannot be
    made, a bulk connection that is cut off.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def flood(
        self,
        address: str,
        *,
        packets: int,
        rate: float | None = None,
        burst: int = 512,
        flows: int = 64,
        payload: int = 18,
    ) -> Flood:
        """Send datagrams over flows that are established before, at `rate` a second in bursts, or
        as fast as the sender can. Servers count them and do not answer.
        """
        raise NotImplementedError

    def ping(
        self, address: str, *, count: int, rate: float | None = None, wait: float = 1.0
    ) -> Pings:
        """Round trips on one flow: each after the answer to the one before, or at `rate` a second
        whatever answers (times count from when each was due). One that is not answered `wait`
        seconds later is lost.
        """
        raise NotImplementedError

    def first_packets(
        self, address: str, *, count: int, rate: float | None = None, wait: float = 1.0
    ) -> Pings:
        """As `ping`, each from a new socket with a source port of its own: the first packets of
        flows.
        """
        raise NotImplementedError

    def connect(
        self,
        address: str,
        *,
        seconds: float,
        threads: int = 1,
        validate: bool = False,
        wait: float = 1.0,
    ) -> Connections:
        """Open TCP connections one after the other in each thread, which the server closes at once;
        with `validate` after it has answered a request with the same bytes (RFC 9693).
        """
        raise NotImplementedError

    def hold(self, address: str, *, count: int, wait: float = 1.0) -> Held:
        """Open so many connections, validate each, and keep them open. One that does not answer
        within `wait` seconds ends it: the table before it is full.
        """
        raise NotImplementedError

    def bulk(self, address: str, *, megabytes: int, streams: int = 1) -> Bulk:
        """Send so many megabytes (of 2^20 bytes) over each of some connections."""
        raise NotImplementedError

    def ask(self, address: str, protocol: str, *, seconds: float = 1.0) -> str | None:
        """The name of the server that answers one ping ("udp") or one validated connection ("tcp")
        within so many seconds; None when none does.
        """
        raise NotImplementedError
