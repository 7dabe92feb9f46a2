"""A client, a router with a flow cache, and two servers, each in a namespace of its own.

::

    client .1.2 ---- r0 router r1 ---- server .2.2
                            r2 ---- other .3.2

The router's nft rules translate what goes to `VIP`: that is the kernel's way. Ethernet addresses
are fixed, since tests write frames.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import pytest

from harness.waiting import eventually
from kbe_nat._native import CachedFlow, FlowCache
from kbe_nat.errors import FlowCacheError
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import Namespace, inside

CLIENT = {Family.IPV4: "10.201.1.2", Family.IPV6: "fd01::2"}
SERVER = {Family.IPV4: "10.201.2.2", Family.IPV6: "fd02::2"}
OTHER = {Family.IPV4: "10.201.3.2", Family.IPV6: "fd03::2"}
VIP = {Family.IPV4: "10.96.0.1", Family.IPV6: "fd96::1"}
FAMILIES = pytest.mark.parametrize("family", [Family.IPV4, Family.IPV6], ids=["ipv4", "ipv6"])
FRONTEND_PORT, SERVER_PORT = 80, 7777
MACS = {
    "c0": "02:00:00:00:01:02",
    "r0": "02:00:00:00:01:01",
    "s0": "02:00:00:00:02:02",
    "r1": "02:00:00:00:02:01",
    "s1": "02:00:00:00:03:02",
    "r2": "02:00:00:00:03:01",
}
DNAT = """
table ip nat {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 10.96.0.1 tcp dport 80 dnat to 10.201.2.2:7777
        ip daddr 10.96.0.1 udp dport 80 dnat to 10.201.2.2:7777
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
    }
}
table ip6 nat {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip6 daddr fd96::1 tcp dport 80 dnat to [fd02::2]:7777
        ip6 daddr fd96::1 udp dport 80 dnat to [fd02::2]:7777
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
    }
}
"""
Row = tuple[str, tuple[tuple[str, int], tuple[str, int]], tuple[tuple[str, int], tuple[str, int]]]
LONG = 3600.0
PORTS = count(20_000)


def proposals(
    protocol: str,
    client: tuple[str, int],
    frontend: tuple[str, int],
    backend: tuple[str, int],
    client_for_backend: tuple[str, int] | None = None,
) -> list[Row]:
    """Both directions of a flow; the backend may know the client by another name (masquerade)."""
    seen = client_for_backend or client
    return [
        (protocol, (client, frontend), (seen, backend)),
        (protocol, (backend, seen), (frontend, client)),
    ]


FLOWS = pytest.mark.parametrize(
    "flow", [Family.IPV4, Family.IPV6], ids=["ipv4", "ipv6"], indirect=True
)
"""For tests with a flow of either family."""


def skip_without_cache() -> None:
    try:
        FlowCache.probe()
    except FlowCacheError as error:
        pytest.skip(str(error))


@dataclass
class Router:
    """The namespaces, and the cache that stands on the router's devices."""

    client: Namespace
    node: Namespace
    servers: tuple[Namespace, Namespace]
    cache: FlowCache
    devices: dict[str, int] = field(default_factory=dict)

    def open(
        self,
        namespace: Namespace,
        family: Family,
        kind: socket.SocketKind = socket.SOCK_DGRAM,
        port: int = 0,
        address: str = "",
    ) -> socket.socket:
        """A socket of that namespace that waits for ten seconds at most."""

        def opened() -> socket.socket:
            number = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
            made = socket.socket(number, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.settimeout(10)
            made.bind((address, port))
            return made

        return inside(namespace.path, opened)

    def link(self, namespace: Namespace, device: str) -> socket.socket:
        """A device's wire."""

        def opened() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            made.bind((device, 3))
            made.settimeout(10)
            return made

        return inside(namespace.path, opened)

    def counter(self, name: str) -> int:
        """A counter of the cache."""
        return self.cache.counters()[name]

    def entry(self, row: Row) -> CachedFlow:
        """The entry of a proposal; there must be one."""
        protocol, (source, destination), _ = row
        flow = self.cache.find(protocol, source, destination)
        assert flow is not None
        return flow


@contextmanager
def counted(router: Router, name: str, times: int = 1) -> Iterator[None]:
    """What runs inside must raise this counter so often."""
    before = router.counter(name)
    yield
    assert router.counter(name) - before == times, router.cache.counters()


@dataclass
class Datagrams:
    """A flow of UDP through the router, with the sockets of both its ends."""

    router: Router
    family: Family
    client: socket.socket
    server: socket.socket
    rows: list[Row]
    peer: tuple[str, int] = ("", 0)

    def go(self, payload: bytes = b"question") -> bytes:
        """Sends a datagram; what the server has received."""
        self.client.send(payload)
        content, (address, port, *_) = self.server.recvfrom(65_536)
        self.peer = (address, port)
        return content

    def come(self, payload: bytes = b"answer") -> bytes:
        """Answers; what the client has received."""
        self.server.sendto(payload, self.peer)
        return self.client.recv(65_536)

    def turn(self) -> None:
        """There and back."""
        assert (self.go(b"question"), self.come(b"answer")) == (b"question", b"answer")

    def warm(self) -> None:
        """Until both directions are in the cache: connection tracking has both tuples after one
        turn, and the next one confirms them.
        """
        self.turn()
        self.router.cache.propose(self.rows)
        self.turn()
        assert all(self.router.entry(row).is_current for row in self.rows)

    def hits(self) -> list[int]:
        """Packets that the cache has carried, by direction."""
        return [self.router.entry(row).packets for row in self.rows]


@contextmanager
def datagrams(router: Router, family: Family) -> Iterator[Datagrams]:
    """A flow that is in the cache."""
    port = next(PORTS)
    client = router.open(router.client, family, port=port)
    server = router.open(router.servers[0], family, port=SERVER_PORT)
    with client, server:
        client.connect((VIP[family], FRONTEND_PORT))
        rows = proposals(
            "udp",
            (CLIENT[family], port),
            (VIP[family], FRONTEND_PORT),
            (SERVER[family], SERVER_PORT),
        )
        flow = Datagrams(router, family, client, server, rows)
        flow.warm()
        yield flow


@dataclass
class Connection:
    """A TCP connection through the router, with the sockets of both its ends."""

    router: Router
    family: Family
    client: socket.socket
    server: socket.socket
    rows: list[Row]

    def turn(self) -> None:
        """There and back."""
        for near, far in ((self.client, self.server), (self.server, self.client)):
            near.sendall(b"turn")
            assert far.recv(100) == b"turn"

    def is_current(self) -> list[bool]:
        """Whether entries carry, by direction."""
        return [self.router.entry(row).is_current for row in self.rows]


@contextmanager
def connection(router: Router, family: Family, port: int = 0) -> Iterator[Connection]:
    """A connection that is in the cache."""
    port = port or next(PORTS)
    stream = socket.SOCK_STREAM
    client = router.open(router.client, family, stream, port=port)
    listener = router.open(router.servers[0], family, stream, port=SERVER_PORT)
    with client, listener:
        listener.listen()
        client.connect((VIP[family], FRONTEND_PORT))
        server, _ = listener.accept()
        with server:
            server.settimeout(10)
            rows = proposals(
                "tcp",
                (CLIENT[family], port),
                (VIP[family], FRONTEND_PORT),
                (SERVER[family], SERVER_PORT),
            )
            flow = Connection(router, family, client, server, rows)
            flow.turn()
            router.cache.propose(rows)
            flow.turn()
            eventually(lambda: all(flow.is_current()))
            yield flow


@contextmanager
def router() -> Iterator[Router]:
    """The namespaces with a cache that is alive for an hour."""
    suffix = f"{os.getpid()}.{next(PORTS)}"
    with ExitStack() as stack:
        client, node, server, other = (
            stack.enter_context(Namespace(f"kbe-{name}-{suffix}"))
            for name in ("cache-client", "cache-router", "cache-server", "cache-other")
        )
        cache = FlowCache(max_flows=1024)
        made = Router(client, node, (server, other), cache)
        wire(node, client, 1, "r0", "c0")
        wire(node, server, 2, "r1", "s0")
        wire(node, other, 3, "r2", "s1")
        node.write("/proc/sys/net/ipv4/ip_forward", "1")
        node.write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        # What the cache carries is beyond the windows that connection tracking knows. The daemon
        # says so for each flow.
        node.write("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "1")
        node.call("nft", DNAT)
        made.devices = inside(node.path, lambda: {n: i for i, n in socket.if_nameindex()})
        for name in ("r0", "r1", "r2"):
            inside(node.path, partial(cache.attach, made.devices[name]))
        cache.beat(LONG)
        yield made
        for device in cache.devices:
            cache.detach(device)


def wire(node: Namespace, far: Namespace, number: int, near_name: str, far_name: str) -> None:
    """A network between the router and another namespace, which sends everything there."""
    far.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
    node.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
    peer = ("peer", "name", far_name, "address", MACS[far_name], "netns", far.name)
    node.call("ip", "link", "add", near_name, "address", MACS[near_name], "type", "veth", *peer)
    for namespace, name, host in ((node, near_name, 1), (far, far_name, 2)):
        namespace.call("ip", "address", "add", f"10.201.{number}.{host}/24", "dev", name)
        six = f"fd0{number}::{host}/64"
        namespace.call("ip", "address", "add", six, "dev", name, "nodad")
        namespace.call("ip", "link", "set", name, "up")
    far.call("ip", "route", "add", "default", "via", f"10.201.{number}.1")
    far.call("ip", "route", "add", "default", "via", f"fd0{number}::1")
