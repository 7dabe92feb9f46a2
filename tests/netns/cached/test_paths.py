"""Narrow paths, fragments and options in the middle of cached flows."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from harness.cached import Talk
from harness.clients import FAMILIES, NAMES, PORT
from harness.daemons import Daemon
from harness.programs import NAMED_POD
from harness.stage import served
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import Namespace
from netns.cached.legs import (
    address,
    ask_all,
    audit,
    await_cache,
    counters,
    hits,
    is_carried,
    leg,
    serve,
    talks,
    uncarried,
)

LEVELS = {Family.IPV4: socket.IPPROTO_IP, Family.IPV6: socket.IPPROTO_IPV6}
MTU_DISCOVER = {Family.IPV4: 10, Family.IPV6: 23}
"""IP_MTU_DISCOVER, IPV6_MTU_DISCOVER."""
NEVER, ALWAYS = 0, 2
"""Whether datagrams say that nobody may fragment them."""
INNER = {Family.IPV4: "10.204.0.2", Family.IPV6: "fd04::2"}
INNER_ROUTER = {Family.IPV4: "10.204.0.1", Family.IPV6: "fd04::1"}
INNER_FRONTENDS = {Family.IPV4: "172.31.8.8", Family.IPV6: "fd00:31:8::8"}
NARROW = "1280"
OPTIONS = {
    Family.IPV4: (socket.IP_OPTIONS, b"\x44\x0c\x05\0" + bytes(8)),
    Family.IPV6: (socket.IPV6_DSTOPTS, b"\0\0\x01\x04" + bytes(4)),
}
"""Time stamps of RFC 791; a header of destination options."""


def family_of(own: Talk) -> Family:
    return Family.IPV6 if own.socket.family == socket.AF_INET6 else Family.IPV4


def set_fragments(own: Talk, whether: int) -> None:
    family = family_of(own)
    own.socket.setsockopt(LEVELS[family], MTU_DISCOVER[family], whether)


def ask_much(own: Talk, size: int) -> None:
    """A question of that size, and its answer, which is as long."""
    own.asked += 1
    question = b" %08d\n" % own.asked
    own.socket.settimeout(5)
    own.socket.send(question.rjust(size, b"x"))
    answer = b""
    while not answer.endswith(question):
        answer += own.socket.recv(1 << 16)


def is_too_long(own: Talk, size: int) -> bool:
    """Whether the client has been told that a datagram is too long for the path."""
    try:
        ask_much(own, size)
    except TimeoutError:
        return False
    except OSError as error:
        return error.errno == 90
    return False


@contextmanager
def inner(daemon: Daemon) -> Iterator[tuple[Namespace, Namespace]]:
    """An endpoint behind a router of another node: the router, and the endpoint."""
    node = daemon.cluster.node
    with leg(daemon, "outer") as outer, Namespace(f"kbe-inner-{os.getpid()}") as end:
        router = outer.far
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            router.write(f"/proc/sys/net/{path}", "1")
        peer = ("type", "veth", "peer", "name", "eth0", "netns", end.name)
        router.call("ip", "link", "add", "inner0", *peer)
        for namespace, device, places in (
            (router, "inner0", INNER_ROUTER),
            (end, "eth0", INNER),
        ):
            namespace.call("ip", "link", "set", device, "up")
            for family in Family:
                address(namespace, device, family, places[family])
        served(end, NAMED_POD, "inner", "9953")
        for family in Family:
            end.call("ip", "route", "add", "default", "via", INNER_ROUTER[family])
            node.call("ip", "route", "add", INNER[family], "via", outer.address(family))
            serve(daemon, family, "inner", INNER_FRONTENDS[family], INNER[family])
        yield router, end


def inner_frontend(family: Family) -> tuple[str, int]:
    return INNER_FRONTENDS[family], PORT


def test_a_router_behind_says_too_big(daemon: Daemon) -> None:
    with inner(daemon) as (router, end), talks(daemon, inner_frontend) as flows:
        datagrams = [own for own in flows if own.socket.type == socket.SOCK_DGRAM]
        for own in datagrams:
            set_fragments(own, ALWAYS)
        await_cache(flows)
        for own in flows:
            for _ in range(30):
                ask_much(own, 1300)
        before = hits(daemon)
        for own in datagrams:
            for _ in range(30):
                ask_much(own, 1300)
        assert hits(daemon) - before >= 100, "long ones are carried"
        router.call("ip", "link", "set", "inner0", "mtu", NARROW)
        end.call("ip", "link", "set", "eth0", "mtu", NARROW)
        for own in datagrams:
            eventually(partial(is_too_long, own, 1300))
            ask_much(own, 1200)
        for own in flows:
            if own not in datagrams:
                for _ in range(20):
                    ask_much(own, 4000)
        await_cache(flows)


@FAMILIES
def test_a_route_gets_an_mtu(daemon: Daemon, family: Family) -> None:
    node = daemon.cluster.node
    with talks(daemon, families=[family]) as flows:
        datagrams, connection = flows
        set_fragments(datagrams, ALWAYS)
        await_cache(flows)
        for own in flows:
            for _ in range(30):
                ask_much(own, 1300)
        lock = ("lock",) if family == Family.IPV4 else ()
        route = (NAMES["a"][family], "dev", "docker0", "mtu", *lock, NARROW)
        node.call("ip", "route", "add", *route)
        eventually(lambda: is_too_long(datagrams, 1300))
        for _ in range(20):
            ask_much(connection, 4000)
        sizes = daemon.cluster.client.call("ss", "-tin", "dport", "=", f":{PORT}")
        assert f"pmtu:{NARROW}" in sizes
        await_cache(flows)
    node.call("ip", "route", "delete", *route)
    daemon.cluster.client.call("ip", f"-{family}", "route", "flush", "cache")


def test_fragments_pass_among_cached_datagrams(daemon: Daemon) -> None:
    with talks(daemon, protocols=["udp"]) as flows:
        for own in flows:
            set_fragments(own, NEVER)
        await_cache(flows)
        before = counters(daemon)
        for turn in range(100):
            for own in flows:
                ask_much(own, (100, 1472, 1480, 5000, 30_000)[turn % 5])
        after = counters(daemon)
        # IPv6's are another protocol to the programs.
        assert after["cache-fragments"] > before["cache-fragments"]
        assert after["cache-other-protocol"] > before["cache-other-protocol"]
        assert after["cache-hits"] > before["cache-hits"]
        await_cache(flows)
        audit(flows)


@FAMILIES
def test_options_pass_among_cached_packets_and_may_end_a_connection(
    daemon: Daemon, family: Family
) -> None:
    with talks(daemon, families=[family]) as flows:
        await_cache(flows)
        for own in flows:
            own.socket.setsockopt(LEVELS[family], *OPTIONS[family])
        name = "cache-options" if family == Family.IPV4 else "cache-other-protocol"
        before = counters(daemon)[name]
        assert ask_all(flows) == {"a"}
        assert counters(daemon)[name] - before >= 100
        # One way has options alone: the cache carries the answers.
        assert len(uncarried(flows)) == 2
        audit(flows)
        datagrams, connection = flows
        datagrams.socket.setsockopt(LEVELS[family], OPTIONS[family][0], b"")
        connection.socket.close()
        # The programs do not see this end, but conntrack does.
        eventually(lambda: any("TIME_WAIT" in row for row in rows_of(daemon, connection, family)))
        eventually(lambda: "the connection is ending" in connection.explained())
        eventually(lambda: is_carried(datagrams))


def rows_of(daemon: Daemon, own: Talk, family: Family) -> list[str]:
    listing = daemon.cluster.node.call("conntrack", "-L", "-p", "tcp", "-f", f"ipv{family}")
    return [row for row in listing.splitlines() if f"sport={own.source[1]} " in row]
