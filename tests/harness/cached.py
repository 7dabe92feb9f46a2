"""A daemon with `--datapath cached`, and flows that its cache carries."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import traffic
from harness.cached_router import skip_without_cache
from harness.clients import PORT, VIPS, endpoints, named, service
from harness.daemons import Daemon
from harness.repeating import repeating
from harness.stage import OTHER, POD, add_ipv6, served
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.rules.rule import DatapathKind

BULK = {Family.IPV4: "172.30.0.54", Family.IPV6: "fd00:30::54"}
POD_END = {Family.IPV4: "172.17.0.3", Family.IPV6: "[fd00:17::3]"}
PROTOCOLS = pytest.mark.parametrize("protocol", ["udp", "tcp"])
FAR = 0x1000_0000
"""A sequence number: out of a connection's window, as good as always."""
NEAR = 1000
"""Bytes past what an end has sent: in the window, and a RST there is answered (RFC 5961)."""
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
TCP_SEND_QUEUE, TCP_REPAIR_OFF_NO_WP = 2, -1
"""Of linux/tcp.h."""
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass
class Talk:
    """A flow whose client asks and is answered."""

    socket: socket.socket
    daemon: Daemon
    source: tuple[str, int]
    destination: tuple[str, int]
    asked: int = 0

    def ask(self, seconds: float = 5) -> str:
        """Who answers; raises TimeoutError when nobody does."""
        self.asked += 1
        question = f"{self.asked}\n".encode()
        self.socket.settimeout(seconds)
        self.socket.send(question)
        answer = b""
        while not answer.endswith(question):
            answer += self.socket.recv(4096)
            if not answer:
                raise ConnectionResetError("the server has ended the connection")
        return answer.partition(b" ")[0].decode()

    def is_silent(self, seconds: float = 0.3) -> bool:
        """Whether a question has no answer within that time."""
        try:
            self.ask(seconds)
        except TimeoutError:
            return True
        return False

    def is_cached(self) -> bool:
        """Whether the cache carries this flow's packets: asks, and looks at the counter."""
        before = hits(self.daemon)
        for _ in range(ROUNDS):
            self.ask()
        return hits(self.daemon) - before >= ROUNDS

    def await_cache(self) -> None:
        """Talk until the cache carries it."""
        eventually(self.is_cached)

    def explained(self) -> str:
        """What `explain` says of the flow's place in the cache."""
        protocol = "tcp" if self.socket.type == socket.SOCK_STREAM else "udp"
        show = "[{}]:{}" if ":" in self.source[0] else "{}:{}"
        text = self.daemon.ask(
            "explain", "--live", "--proto", protocol,
            "--from", show.format(*self.source), "--to", show.format(*self.destination),
        )  # fmt: skip
        return next(line for line in text.splitlines() if "cache" in line)


@contextmanager
def talk(
    daemon: Daemon,
    family: Family,
    protocol: str,
    to: tuple[str, int] | None = None,
    where: Namespace | None = None,
) -> Iterator[Talk]:
    """A flow from the client, or from another namespace."""
    domain = socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET

    def opened() -> socket.socket:
        own = socket.socket(domain, KINDS[protocol])
        own.settimeout(10)
        own.connect(to or (VIPS[family], PORT))
        return own

    own = inside((where or daemon.cluster.client).path, opened)
    with own:
        yield Talk(own, daemon, own.getsockname()[:2], own.getpeername()[:2])


def forge(
    daemon: Daemon,
    own: Talk,
    flags: int,
    sequence: int = FAR,
    counter: str = "cache-ended",
) -> None:
    """A segment of the client's ends that the programs count; far out of the window unless said."""
    (source, sport), (destination, dport) = own.source, own.destination
    segment = traffic.tcp(sport, dport, flags, sequence, 0)
    packet = traffic.ip(source, destination, socket.IPPROTO_TCP, segment)
    domain = socket.AF_INET6 if ":" in source else socket.AF_INET
    link = inside(
        daemon.cluster.client.path,
        lambda: socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_RAW),
    )
    before = counters(daemon)[counter]
    with link:
        link.sendto(packet, (destination, 0, 0, 0) if ":" in source else (destination, 0))
    eventually(lambda: counters(daemon)[counter] > before)


def next_sequence(connection: socket.socket) -> int:
    """The sequence number of the next byte that this end sends."""
    connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
        return connection.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) & 0xFFFFFFFF
    finally:
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)


def counters(daemon: Daemon) -> dict[str, int]:
    """What the datapath counts."""
    kernel = daemon.get("stats")["kernel"]
    assert isinstance(kernel, dict)
    return kernel


def hits(daemon: Daemon) -> int:
    return counters(daemon)["cache-hits"]


@contextmanager
def heeded(daemon: Daemon) -> Iterator[None]:
    """A change of rules or routes, of which the daemon hears at the end of the block."""

    def voids() -> int:
        found = counters(daemon)
        return found["cache-generations"] + found["cache-device-voids"]

    before = voids()
    yield
    eventually(lambda: voids() > before)


@contextmanager
def cached_node(folder: Path) -> Iterator[Daemon]:
    """A daemon to be started, which will serve one of two pods in both families."""
    skip_without_cache()
    with Cluster((POD, OTHER)) as cluster:
        add_ipv6(cluster)
        named(cluster)
        (folder / "objects").mkdir()
        with Daemon(cluster, folder, DatapathKind.CACHED) as made:
            serve(made, "a")
            yield made


@contextmanager
def cached_daemon(folder: Path) -> Iterator[Daemon]:
    """A daemon that serves one of two pods in both families."""
    with cached_node(folder) as made:
        made.start()
        yield made


Begin = Callable[[Family, str], Talk]


def serve(daemon: Daemon, *pods: str, more: str = "") -> None:
    objects = [
        service(family, more=more).replace(
            "  ports:\n  - {name: dns, port: 53, targetPort: 9953, protocol: UDP}\n"
            "  - {name: tcp, port: 53, targetPort: 9953, protocol: TCP}\n",
            "",
        )
        if more
        else service(family)
        for family in (Family.IPV4, Family.IPV6)
    ]
    slices = [endpoints(family, *pods) for family in (Family.IPV4, Family.IPV6)]
    daemon.write("dns.yaml", "".join((*objects, *slices)))


def serve_bulk(daemon: Daemon, family: Family, program: Path) -> subprocess.Popen[str]:
    """Has a program at port 5001 of the first pod be served at `BULK`."""
    process = served(daemon.cluster.pods[0], program)
    bulk = service(family, "bulk", BULK[family]).replace("targetPort: 9953", "targetPort: 5001")
    slices = endpoints(family, "a", name="bulk").replace("port: 9953", "port: 5001")
    daemon.write("bulk.yaml", bulk + slices)
    await_backend(daemon, f"{POD_END[family]}:5001")
    return process


def await_backend(daemon: Daemon, backend: str) -> None:
    """Until the engine chooses it."""
    eventually(lambda: any(row["backend"] == backend for row in daemon.get("endpoints")))


def steadily(own: Talk) -> AbstractContextManager[None]:
    """A packet every 20 ms for as long as the block runs; each has its answer."""
    return repeating(own.ask, 0.02)


TABLE = """table inet strangers {
  chain forward {
    type filter hook forward priority 0; policy accept;
    %s
  }
}
"""


ROUNDS = 20
