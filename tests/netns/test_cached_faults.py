"""What the node, its neighbours and its other programs do to flows that the cache carries: no
packet goes to a wrong place, and no flow suffers by what is another's.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.cached import (
    PROTOCOLS,
    Begin,
    Talk,
    await_backend,
    cached_daemon,
    counters,
    heeded,
    hits,
    serve,
    steadily,
    talk,
)
from harness.clients import FAMILIES, NAMES, PORT, VIPS, Clients, endpoints, service
from harness.daemons import Daemon
from harness.programs import NAMED_POD
from harness.stage import served
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.rules.rule import DatapathKind

LOCAL = {Family.IPV4: "172.18.0.2", Family.IPV6: "fd00:18::2"}
"""A pod that is no port of a bridge."""
LOCAL_NODE = {Family.IPV4: "172.18.0.1/24", Family.IPV6: "fd00:18::1/64"}
FLAPS = 8


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """It serves one pod in both families."""
    with cached_daemon(tmp_path) as made:
        yield made


@FAMILIES
def test_a_pod_that_changes_its_link_address_voids_nobody_elses_flow(
    daemon: Daemon, cached: Begin, family: Family
) -> None:
    flapping = cached(family, "udp")
    other = VIPS[family].replace("53", "55")
    daemon.write(
        "other.yaml", service(family, "other", other) + endpoints(family, "b", name="other")
    )
    await_backend(daemon, f"{'[%s]' if family == 6 else '%s'}:9953" % NAMES["b"][family])
    node, pod = daemon.cluster.node, daemon.cluster.pods[0]
    with talk(daemon, family, "udp", (other, PORT)) as bystander:
        bystander.await_cache()

        def voids_of_devices(series: int) -> int:
            """While the pod flaps."""
            before = counters(daemon)
            for turn in range(FLAPS):
                address = f"02:00:00:00:{series:02x}:{turn:02x}"
                pod.call("ip", "link", "set", "eth0", "address", address)
                # As its answer to a question would; a pod may also tell it unasked.
                place = ("to", NAMES["a"][family], "lladdr", address, "dev", "docker0")
                node.call("ip", "neigh", "replace", *place, "nud", "reachable")
                # What was on its way before the daemon heard of it may be lost.
                eventually(lambda: not flapping.is_silent(0.5))
                for _ in range(20):
                    assert bystander.ask() == "b"
            after = counters(daemon)
            assert after["cache-generations"] == before["cache-generations"]
            # Directions that have had no packet since the Service came.
            assert after["cache-void"] - before["cache-void"] <= 4
            assert after["cache-neighbour-voids"] - before["cache-neighbour-voids"] >= FLAPS // 2
            assert after["cache-hits"] - before["cache-hits"] >= FLAPS * 20
            flapping.await_cache()
            return after["cache-device-voids"] - before["cache-device-voids"]

        # Interrupts that the kernel has counted as a search's make that a long one: not each time.
        assert any(voids_of_devices(series) == 0 for series in (0x99, 0x98, 0x97))


def test_a_neighbour_that_no_flow_uses_is_no_doubt(daemon: Daemon, cached: Begin) -> None:
    own, node = cached(Family.IPV4, "udp"), daemon.cluster.node
    names = ("generations", "device-voids", "neighbour-voids")
    before = [counters(daemon)[f"cache-{name}"] for name in names]
    for turn in range(FLAPS):
        address = f"02:00:00:00:98:{turn:02x}"
        place = ("to", "172.17.0.200", "lladdr", address, "dev", "docker0", "nud", "reachable")
        node.call("ip", "neigh", "replace", *place)
    # A change that does count comes behind them.
    node.call("ip", "link", "set", "docker0", "mtu", "1400")
    eventually(lambda: counters(daemon)["cache-device-voids"] > before[1])
    after = [counters(daemon)[f"cache-{name}"] for name in names]
    assert (after[0], after[2]) == (before[0], before[2])
    own.await_cache()


@FAMILIES
@PROTOCOLS
def test_f141_a_route_that_changes_is_followed_at_once(
    daemon: Daemon, cached: Begin, family: Family, protocol: str
) -> None:
    own, node = cached(family, protocol), daemon.cluster.node
    pod = f"{NAMES['a'][family]}/{128 if family == 6 else 32}"
    with heeded(daemon):
        node.call("ip", "route", "add", "blackhole", pod)
    assert own.is_silent()
    assert own.is_silent(), "nor is it entered again"
    node.call("ip", "route", "delete", "blackhole", pod)
    own.socket.settimeout(30)
    if protocol == "udp":
        own.await_cache()


@FAMILIES
def test_a_routing_rule_that_changes_is_followed_at_once(
    daemon: Daemon, cached: Begin, family: Family
) -> None:
    own, node = cached(family, "udp"), daemon.cluster.node
    ip = ("ip", "-6") if family == 6 else ("ip", "-4")
    node.call(*ip, "route", "add", "blackhole", "default", "table", "100")
    rule = ("to", NAMES["a"][family], "lookup", "100", "priority", "50")
    own.await_cache()
    with heeded(daemon):
        node.call(*ip, "rule", "add", *rule)
    assert own.is_silent()
    assert own.is_silent()
    node.call(*ip, "rule", "delete", *rule)
    own.await_cache()


@FAMILIES
def test_a_rule_of_iptables_legacy_stops_a_flow_within_two_seconds(
    daemon: Daemon, cached: Begin, family: Family
) -> None:
    own = cached(family, "udp")
    program = "ip6tables-legacy" if family == 6 else "iptables-legacy"
    rule = ("FORWARD", "-p", "udp", "--dport", "9953", "-j", "DROP")
    daemon.cluster.node.call(program, "-I", *rule)
    until = time.monotonic() + 4
    # No message tells of it: the packet that renews the entry finds it out.
    eventually(lambda: own.is_silent(0.2), 10)
    while time.monotonic() < until:
        own.is_silent(0.1)
    before = hits(daemon)
    assert all(own.is_silent(0.1) for _ in range(10))
    assert hits(daemon) == before, "nor is it entered again"
    daemon.cluster.node.call(program, "-D", *rule)
    own.await_cache()


@contextmanager
def local_pod(daemon: Daemon, family: Family) -> Iterator[Namespace]:
    """A pod at a veth pair of its own, with a Service; `wire` connects it."""
    with Namespace(f"kbe-local-{os.getpid()}") as pod:
        wire(daemon, pod)
        served(pod, NAMED_POD, "local", "9953")
        slices = endpoints(family, "a", name="local").replace(NAMES["a"][family], LOCAL[family])
        address = VIPS[family].replace("53", "56")
        daemon.write("local.yaml", service(family, "local", address) + slices)
        await_backend(daemon, f"{'[%s]' if family == 6 else '%s'}:9953" % LOCAL[family])
        yield pod


def wire(daemon: Daemon, pod: Namespace) -> None:
    node = daemon.cluster.node
    node.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
    pod.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
    peer = ("peer", "name", "eth0", "netns", pod.name)
    node.call("ip", "link", "add", "local0", "type", "veth", *peer)
    for address in LOCAL_NODE.values():
        node.call("ip", "address", "add", address, "dev", "local0", *nodad(address))
    node.call("ip", "link", "set", "local0", "up")
    plug(pod)


def plug(pod: Namespace) -> None:
    """The pod's end comes up, with its addresses and routes."""
    pod.call("ip", "link", "set", "eth0", "up")
    for family, bits in ((Family.IPV4, 24), (Family.IPV6, 64)):
        address = f"{LOCAL[family]}/{bits}"
        pod.call("ip", "address", "replace", address, "dev", "eth0", *nodad(address))
        way = LOCAL_NODE[family].partition("/")[0]
        pod.call("ip", "route", "replace", "default", "via", way)


def nodad(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()


def sent(node: Namespace, device: str) -> int:
    """Packets that have left by a device's own way out."""
    [link] = json.loads(node.call("ip", "-j", "-s", "link", "show", device))
    return int(link["stats64"]["tx"]["packets"])


def is_handed_over(daemon: Daemon, own: Talk) -> bool:
    """Whether packets get to the pod past the device that leads there."""
    before = sent(daemon.cluster.node, "local0")
    return own.is_cached() and sent(daemon.cluster.node, "local0") - before < 10


@contextmanager
def local_talk(daemon: Daemon, family: Family) -> Iterator[tuple[Namespace, Talk]]:
    """A local pod, and a flow to its Service."""
    with local_pod(daemon, family) as pod:
        to = (VIPS[family].replace("53", "56"), PORT)
        with talk(daemon, family, "udp", to) as own:
            yield pod, own


@FAMILIES
def test_packets_are_handed_to_a_local_pod_while_both_ends_are_up(
    daemon: Daemon, family: Family
) -> None:
    with local_talk(daemon, family) as (pod, own):
        eventually(lambda: is_handed_over(daemon, own))
        pod.call("ip", "link", "set", "eth0", "down")
        assert own.is_silent()
        plug(pod)
        eventually(lambda: not own.is_silent())
        assert own.ask() == "local"
        assert [own.ask() for _ in range(200)] == ["local"] * 200, "none is lost"
        eventually(lambda: is_handed_over(daemon, own))
        # What shapes the way out is not passed by.
        shaped = ("dev", "local0", "root", "tbf", "rate", "1gbit", "burst", "1m", "limit", "1m")
        daemon.cluster.node.call("tc", "qdisc", "add", *shaped)
        eventually(lambda: own.is_cached() and not is_handed_over(daemon, own))
        daemon.cluster.node.call("tc", "qdisc", "delete", "dev", "local0", "root")
        eventually(lambda: is_handed_over(daemon, own))


@FAMILIES
def test_f141_the_device_of_a_cached_flow_is_deleted_and_comes_back(
    daemon: Daemon, family: Family
) -> None:
    with local_talk(daemon, family) as (pod, own):
        own.await_cache()
        daemon.cluster.node.call("ip", "link", "delete", "local0")
        # The kernel sends what has no other way back to the client, and so may the cache.
        assert own.is_silent() and own.is_silent()
        wire(daemon, pod)
        eventually(lambda: not own.is_silent())
        own.await_cache()
        assert own.ask() == "local"


def test_a_device_with_filters_of_tc_is_left_to_the_kernel(daemon: Daemon, cached: Begin) -> None:
    own, node = cached(Family.IPV4, "udp"), daemon.cluster.node
    assert daemon.get("stats")["uncached_devices"] == {}
    node.call("tc", "qdisc", "add", "dev", "docker0", "clsact")
    own.await_cache()
    words = ("dev", "docker0", "parent", "ffff:fff2", "protocol", "ip", "u32")
    node.call("tc", "filter", "add", *words, "match", "u32", "0", "0", "classid", "1:1")
    eventually(
        lambda: "filters of tc" in daemon.get("stats")["uncached_devices"].get("docker0", "")
    )
    assert "filters of tc" in daemon.ask("get", "stats")
    eventually(lambda: not own.is_cached())
    show = "{}:{}"
    flow = ("--from", show.format(*own.source), "--to", show.format(*own.destination))
    assert "filters of tc" in " ".join(
        daemon.ask("explain", "--live", "--proto", "udp", *flow).split()
    )
    node.call("tc", "filter", "delete", "dev", "docker0", "ingress")
    own.await_cache()
    assert daemon.get("stats")["uncached_devices"] == {}


@FAMILIES
def test_a_connection_that_begins_among_many_short_ones_is_cached_all_the_same(
    daemon: Daemon, family: Family
) -> None:
    cluster = daemon.cluster

    def flood() -> None:
        """Opens and ends connections until the daemon has heard enough of them."""
        domain = socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET
        deadline = time.monotonic() + 60
        while not counters(daemon)["cache-pauses"]:
            assert time.monotonic() < deadline
            for _ in range(400):
                with socket.socket(domain, socket.SOCK_STREAM) as short:
                    short.settimeout(10)
                    short.connect((VIPS[family], PORT))

    inside(cluster.client.path, flood)
    # It may begin while nobody listens.
    with talk(daemon, family, "tcp") as own:
        own.await_cache()
    assert counters(daemon)["cache-events-lost"] == 0


def test_more_flows_than_there_is_room_for_are_answered_all_the_same(daemon: Daemon) -> None:
    daemon.end(signal.SIGUSR2)
    daemon.start("--cache-flows", "8")
    serve(daemon, "a", "b")
    await_backend(daemon, "172.17.0.4:9953")
    with Clients(daemon.cluster, Family.IPV4, 60) as clients:
        names = clients.asked()
        assert set(names) == {"a", "b"}

        def is_full() -> bool:
            # At once: the first packet of a period goes the kernel's way, and renews the entry.
            for _ in range(3):
                assert clients.asked() == names, "each at its own endpoint"
            counted = counters(daemon)
            return counted["cache-no-room"] > 0 and counted["cache-hits"] > 8

        eventually(is_full, 60)
        assert counters(daemon)["cache-flows"] <= 4 * 8


@PROTOCOLS
def test_nothing_is_lost_over_a_downgrade_and_an_upgrade(
    daemon: Daemon, cached: Begin, protocol: str
) -> None:
    own, other = cached(Family.IPV4, protocol), cached(Family.IPV6, protocol)
    with steadily(own), steadily(other):
        for kind in (DatapathKind.FIRST_PACKET, DatapathKind.CACHED):
            daemon.end(signal.SIGUSR2)
            daemon.datapath = kind
            daemon.start()
        eventually(lambda: hits(daemon) > 50)
    own.await_cache()
    assert own.socket.type in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
