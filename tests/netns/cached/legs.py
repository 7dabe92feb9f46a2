"""Networks beside the cluster's own, each between the node and a namespace that is client and
server. And many flows at once, which the cache is to carry both ways.
"""

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count

from harness.cached import ROUNDS, Talk, await_backend, talk
from harness.clients import NAMES, PORT, VIPS, endpoints, service
from harness.daemons import Daemon
from harness.programs import NAMED_POD
from harness.stage import served
from harness.waiting import eventually
from kbe_nat.client import ask
from kbe_nat.daemon.rows import StatsRow
from kbe_nat.errors import PlaygroundError
from kbe_nat.family import Family
from kbe_nat.model import join_address
from kbe_nat.playground.namespaces import Namespace

NUMBERS = count(1)


@dataclass(frozen=True)
class Leg:
    """A network, with a namespace at its far end that serves its own name at port 9953."""

    name: str
    number: int
    far: Namespace

    def address(self, family: Family, host: int = 2) -> str:
        """An address in the network: the node's is 1."""
        six = f"fd03:{self.number:x}::{host:x}"
        return six if family == Family.IPV6 else f"10.203.{self.number}.{host}"

    def frontend(self, family: Family) -> tuple[str, int]:
        """Where its server is served."""
        six = f"fd00:31::{self.number:x}"
        return (six if family == Family.IPV6 else f"172.31.0.{self.number}"), PORT


Wiring = Callable[[Namespace, Namespace, str], tuple[str, str]]
"""Joins two namespaces by a device of this name; returns the names of both ends."""


def veth(node: Namespace, far: Namespace, name: str) -> tuple[str, str]:
    """A pair, whose far end is called eth0."""
    peer = ("type", "veth", "peer", "name", "eth0", "netns", far.name)
    node.call("ip", "link", "add", name, *peer)
    for namespace, device in ((node, name), (far, "eth0")):
        namespace.call("ip", "link", "set", device, "up")
    return name, "eth0"


@contextmanager
def leg(daemon: Daemon, name: str, wiring: Wiring = veth) -> Iterator[Leg]:
    """A network that is served; the node's end is NAME0 unless the wiring says otherwise."""
    node, number = daemon.cluster.node, next(NUMBERS)
    with Namespace(f"kbe-leg-{name}-{os.getpid()}.{number}") as far, ExitStack() as stack:
        made = Leg(name, number, far)
        stack.callback(unplug, far, "eth0")
        for namespace in (node, far):
            namespace.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
        ends = wiring(node, far, f"{name}0")
        for namespace, device, host in zip((node, far), ends, (1, 2), strict=True):
            for family in Family:
                address(namespace, device, family, made.address(family, host))
            namespace.call("ip", "link", "set", device, "up")
        for family in Family:
            far.call("ip", "route", "add", "default", "via", made.address(family, 1))
        served(far, NAMED_POD, name, "9953")
        for family in Family:
            serve(daemon, family, name, made.frontend(family)[0], made.address(family))
        yield made


def unplug(far: Namespace, device: str) -> None:
    """Deletes a pair from its far end: it would go some time after the namespace."""
    with suppress(PlaygroundError):
        far.call("ip", "link", "delete", device)


def address(
    namespace: Namespace, device: str, family: Family, place: str, size: int | None = None
) -> None:
    """Gives a device an address."""
    more = ("nodad",) if family == Family.IPV6 else ()
    size = size or (64 if family == Family.IPV6 else 24)
    namespace.call("ip", "address", "add", f"{place}/{size}", "dev", device, *more)


def serve(daemon: Daemon, family: Family, name: str, frontend: str, endpoint: str) -> None:
    """Has port 9953 of an address be served at the frontend's port 53."""
    slices = endpoints(family, "a", name=name).replace(NAMES["a"][family], endpoint)
    daemon.write(f"leg-{name}{family}.yaml", service(family, name, frontend) + slices)
    await_backend(daemon, join_address(endpoint, 9953))


def plain(family: Family) -> tuple[str, int]:
    """The frontend of the cluster's first pod."""
    return VIPS[family], PORT


@contextmanager
def talks(
    daemon: Daemon,
    to: Callable[[Family], tuple[str, int]] = plain,
    where: Namespace | None = None,
    families: Iterable[Family] = tuple(Family),
    protocols: Iterable[str] = ("udp", "tcp"),
) -> Iterator[list[Talk]]:
    """A flow of each protocol and family."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(talk(daemon, family, protocol, to(family), where))
            for family in families
            for protocol in protocols
        ]


def counters(daemon: Daemon) -> dict[str, int]:
    """What the datapath counts: nothing is negative. Asked without a process of its own."""
    (row,) = ask(daemon.socket, "stats", StatsRow)
    assert all(count >= 0 for count in row.kernel.values()), row.kernel
    return row.kernel


def uncached_devices(daemon: Daemon) -> dict[str, str]:
    (row,) = ask(daemon.socket, "stats", StatsRow)
    return row.uncached_devices


def hits(daemon: Daemon) -> int:
    return counters(daemon)["cache-hits"]


def is_carried(own: Talk) -> bool:
    """Whether the cache carries nearly all packets of both directions: asks, and looks. One a
    second and direction goes the kernel's way.
    """
    before = hits(own.daemon)
    for _ in range(ROUNDS):
        own.ask()
    return hits(own.daemon) - before >= 2 * ROUNDS * 0.8


def uncarried(flows: Iterable[Talk]) -> list[tuple[str, int]]:
    """Flows that the cache does not carry both ways, by their clients' ends."""
    return [own.source for own in flows if not is_carried(own)]


def await_cache(flows: list[Talk]) -> None:
    """Talks until the cache carries all of them both ways."""
    eventually(lambda: not uncarried(flows))


def ask_all(flows: Iterable[Talk], rounds: int = 50) -> set[str]:
    """Who has answered."""
    return {own.ask() for own in flows for _ in range(rounds)}


def audit(flows: list[Talk]) -> None:
    """The lists have each packet once: of datagrams one each way for each question. There was no
    loss.
    """
    daemon = flows[0].daemon

    def is_right() -> bool:
        rows = {
            (row["protocol"], row["source"], row["destination"]): row["packets"]
            for row in daemon.get("flows")
        }
        for own in flows:
            is_udp = own.socket.type == socket.SOCK_DGRAM
            ends = join_address(*own.source), join_address(*own.destination)
            packets = rows["udp" if is_udp else "tcp", *ends]
            # Of a connection handshake and acknowledgements are beside the questions.
            most = own.asked if is_udp else 2 * own.asked + 20
            assert all(own.asked <= count <= most for count in packets), (packets, own.asked)
        return True

    eventually(is_right, 10)
