"""A daemon with `--datapath cached`, and flows that its cache carries."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.clients import PORT, VIPS
from harness.daemons import Daemon
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace, inside

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


def counters(daemon: Daemon) -> dict[str, int]:
    """What the datapath counts."""
    kernel = daemon.get("stats")["kernel"]
    assert isinstance(kernel, dict)
    return kernel


def hits(daemon: Daemon) -> int:
    return counters(daemon)["cache-hits"]


def invalid(cluster: Cluster) -> int:
    """Packets that conntrack took for invalid."""
    rows = cluster.node.call("conntrack", "-S")
    return sum(int(word.partition("=")[2]) for word in rows.split() if word.startswith("invalid="))


ROUNDS = 20
