"""Routes that depend on more than the destination, and answers that come another way: cached flows
go where the kernel sends them.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from harness.cached import Talk
from harness.clients import PORT
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
    serve,
    talks,
    uncached_devices,
    unplug,
)

ENDPOINTS = {Family.IPV4: "10.206.0.2", Family.IPV6: "fd06::2"}
FRONTENDS = {Family.IPV4: "172.31.9.9", Family.IPV6: "fd00:31:9::9"}
WAYS = ("one", "two")
"""Devices of both ends, each with a network."""
TABLE, PRIORITY = "77", "40"
"""The table has the second way, and a rule that leads there has the priority."""
MARKS = """table inet marks {
  chain prerouting {
    type filter hook prerouting priority -150; policy accept;
    meta l4proto udp meta mark set meta mark or 0x700000
  }
}
"""
ROUNDS = 20


def gateway(family: Family, way: str, host: int) -> str:
    """An address on a way: the node's is 1."""
    number = WAYS.index(way)
    return f"fd07:{number}::{host}" if family == Family.IPV6 else f"10.207.{number}.{host}"


def route(namespace: Namespace, family: Family, *words: str) -> None:
    namespace.call("ip", f"-{family}", *words)


def both_ways(family: Family, host: int) -> tuple[str, ...]:
    """A route's words for both ways at once."""
    hops = [("nexthop", "via", gateway(family, way, host), "dev", way) for way in WAYS]
    return hops[0] + hops[1]


def wire(node: Namespace, far: Namespace, way: str) -> None:
    node.call("ip", "link", "add", way, "type", "veth", "peer", "name", way, "netns", far.name)
    for namespace, host in ((node, 1), (far, 2)):
        namespace.call("ip", "link", "set", way, "up")
        for family in Family:
            address(namespace, way, family, gateway(family, way, host))


@contextmanager
def server(daemon: Daemon) -> Iterator[Namespace]:
    """A server to which two devices lead; packets and answers take the first one."""
    node = daemon.cluster.node
    with Namespace(f"kbe-two-ways-{os.getpid()}") as far, ExitStack() as stack:
        for namespace in (node, far):
            namespace.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
            for place in ("all", "default"):
                namespace.write(f"/proc/sys/net/ipv4/conf/{place}/rp_filter", "0")
        for way in WAYS:
            stack.callback(unplug, far, way)
            wire(node, far, way)
        for family, endpoint in ENDPOINTS.items():
            address(far, "lo", family, endpoint, 128 if family == Family.IPV6 else 32)
            first, second = (gateway(family, way, 2) for way in WAYS)
            route(node, family, "route", "add", endpoint, "via", first)
            route(node, family, "route", "add", endpoint, "via", second, "table", TABLE)
            back = gateway(family, "one", 1)
            route(far, family, "route", "add", "default", "via", back, "src", endpoint)
        served(far, NAMED_POD, "far", "9953")
        for family, endpoint in ENDPOINTS.items():
            serve(daemon, family, "far", FRONTENDS[family], endpoint)
        yield far


def frontend(family: Family) -> tuple[str, int]:
    return FRONTENDS[family], PORT


def share(flows: list[Talk], namespace: Namespace) -> int:
    """Packets of a round of questions that come to a namespace by the second device."""

    def received() -> int:
        [link] = json.loads(namespace.call("ip", "-j", "-s", "link", "show", "two"))
        return int(link["stats64"]["rx"]["packets"])

    before = received()
    assert ask_all(flows, ROUNDS) == {"far"}
    return received() - before


def settles(flows: list[Talk], namespace: Namespace, ways: Callable[[int], bool]) -> None:
    """The share of the second device becomes so, and the cache carries all."""
    eventually(lambda: ways(share(flows, namespace)))
    await_cache(flows)
    assert ways(share(flows, namespace))


FEW = 8
"""What neighbours and routers say to each other, and acknowledgements."""


def none(count: int) -> bool:
    return count <= FEW


def half(count: int) -> bool:
    return 2 * ROUNDS <= count <= 2 * ROUNDS + FEW


def all_of(count: int) -> bool:
    return count >= 4 * ROUNDS


def test_flows_follow_rules_by_source_and_mark(daemon: Daemon) -> None:
    node = daemon.cluster.node
    with server(daemon) as far, talks(daemon, frontend) as flows:
        settles(flows, far, none)
        rule = ("lookup", TABLE, "priority", PRIORITY)
        clients = {4: flows[0].source[0], 6: flows[2].source[0]}
        for family in Family:
            route(node, family, "rule", "add", "from", clients[family], *rule)
        settles(flows, far, all_of)
        for family in Family:
            route(node, family, "rule", "delete", "priority", PRIORITY)
        settles(flows, far, none)
        for family in Family:
            route(node, family, "rule", "add", "fwmark", "0x700000/0x700000", *rule)
        (daemon.folder / "marks").write_text(MARKS)
        node.call("nft", "-f", str(daemon.folder / "marks"))
        settles(flows, far, half)
        node.call("nft", "delete", "table", "inet", "marks")
        settles(flows, far, none)
        audit(flows)


def test_flows_follow_multipath_routes_and_groups_of_next_hops(daemon: Daemon) -> None:
    node = daemon.cluster.node
    with server(daemon) as far, talks(daemon, frontend) as flows:
        for family, endpoint in ENDPOINTS.items():
            # By the ends of the flow, ports included.
            policy = f"/proc/sys/net/ipv{family}/fib_multipath_hash_policy"
            node.write(policy, "1")
            route(node, family, "route", "replace", endpoint, *both_ways(family, 2))
        await_cache(flows)
        audit(flows)
        node.call("ip", "link", "set", "two", "down")
        settles(flows, far, lambda count: count == 0)
        node.call("ip", "link", "set", "two", "up")
        for family, endpoint in ENDPOINTS.items():
            if family == Family.IPV6:
                # It has left with the device.
                address(node, "two", family, gateway(family, "two", 1))
            for number, way in enumerate(WAYS, 1):
                words = ("id", f"{family}{number}", "via", gateway(family, way, 2), "dev", way)
                route(node, family, "nexthop", "add", *words)
            node.call("ip", "nexthop", "add", "id", f"{family}9", "group", f"{family}1")
            route(node, family, "route", "replace", endpoint, "nhid", f"{family}9")
        settles(flows, far, none)
        for family in Family:
            node.call("ip", "nexthop", "replace", "id", f"{family}9", "group", f"{family}2")
        settles(flows, far, all_of)


def set_dscp(flows: list[Talk], byte: int) -> None:
    """Has packets carry this byte of service."""
    for own in flows:
        if own.socket.family == socket.AF_INET6:
            own.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, byte)
        else:
            own.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, byte)


def by_dscp(family: Family) -> dict[str, tuple[str, ...]]:
    """What leads packets with this byte the second way."""
    return {
        "rule": ("dsfield", "0x10", "lookup", TABLE, "priority", PRIORITY),
        "route": (ENDPOINTS[family], "tos", "0x10", "via", gateway(family, "two", 2)),
    }


@pytest.mark.parametrize("kind", ["rule", "route"])
def test_packets_of_one_flow_go_two_ways_by_their_dscp(daemon: Daemon, kind: str) -> None:
    node = daemon.cluster.node
    # IPv6 has no such routes.
    families = list(Family) if kind == "rule" else [Family.IPV4]
    with server(daemon) as far, talks(daemon, frontend, families=families) as flows:
        count = len(flows) * ROUNDS
        settles(flows, far, none)
        for family in families:
            route(node, family, kind, "add", *by_dscp(family)[kind])
        eventually(lambda: "DSCP" in uncached_devices(daemon).get("one", ""))
        for _ in range(3):
            set_dscp(flows, 0x10)
            assert share(flows, far) >= count
            set_dscp(flows, 0)
            assert none(share(flows, far))
        for family in families:
            route(node, family, kind, "delete", *by_dscp(family)[kind])
        eventually(lambda: not uncached_devices(daemon))
        settles(flows, far, none)


def test_answers_may_come_by_another_device(daemon: Daemon) -> None:
    node = daemon.cluster.node
    with server(daemon) as far, talks(daemon, frontend) as flows:
        settles(flows, node, none)
        for family, endpoint in ENDPOINTS.items():
            back = gateway(family, "two", 1)
            route(far, family, "route", "replace", "default", "via", back, "src", endpoint)
        settles(flows, node, all_of)
        assert none(share(flows, far)), "questions go the first way still"
        audit(flows)
