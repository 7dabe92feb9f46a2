"""Devices that get another name, another place or another use, and pods that move between them."""

import json
import os
import signal
import socket

from harness.cached import Talk
from harness.daemons import Daemon
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import Namespace, inside
from netns.cached.legs import (
    address,
    ask_all,
    audit,
    await_cache,
    counters,
    hits,
    leg,
    talks,
    uncached_devices,
)


def test_a_device_is_excluded_by_the_name_that_it_has_now(daemon: Daemon) -> None:
    node = daemon.cluster.node
    daemon.end(signal.SIGUSR2)
    daemon.start("--cache-exclude-device", "secret0")
    with leg(daemon, "pod") as pod, talks(daemon, pod.frontend) as flows:
        await_cache(flows)
        node.call("ip", "link", "set", "pod0", "name", "other0")
        await_cache(flows)
        node.call("ip", "link", "set", "other0", "name", "secret0")
        eventually(lambda: "secret0" in uncached_devices(daemon))
        before = hits(daemon)
        assert ask_all(flows) == {"pod"}
        assert hits(daemon) == before
        node.call("ip", "link", "set", "secret0", "name", "pod0")
        await_cache(flows)
        audit(flows)


def number_of(namespace: Namespace, device: str) -> int:
    [link] = json.loads(namespace.call("ip", "-j", "link", "show", device))
    return int(link["ifindex"])


def shout(namespace: Namespace, to: str) -> None:
    """Datagrams that nobody waits for."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            for _ in range(10):
                own.sendto(b"anybody?", (to, 9))

    inside(namespace.path, send)


def test_a_device_leaves_and_another_one_comes_with_its_number(daemon: Daemon) -> None:
    node, number = daemon.cluster.node, os.getpid()
    assert daemon.process is not None
    with (
        leg(daemon, "pod") as pod,
        talks(daemon, pod.frontend) as flows,
        Namespace(f"kbe-aside-{number}") as aside,
        Namespace(f"kbe-source-{number}") as source,
    ):
        await_cache(flows)
        index = str(number_of(node, "pod0"))
        peer = ("type", "veth", "peer", "name", "eth0")
        source.call("ip", "link", "add", "new0", "index", index, *peer)
        # The daemon hears of both at once.
        daemon.process.send_signal(signal.SIGSTOP)
        node.call("ip", "link", "set", "pod0", "netns", aside.name)
        source.call("ip", "link", "set", "new0", "netns", node.name)
        assert str(number_of(node, "new0")) == index
        daemon.process.send_signal(signal.SIGCONT)
        for near, device, far, network in (
            (aside, "pod0", pod.far, "10.203.250"),
            (node, "new0", source, "10.203.251"),
        ):
            for namespace, name, host in ((near, device, 1), (far, "eth0", 2)):
                address(namespace, name, Family.IPV4, f"{network}.{host}")
                namespace.call("ip", "link", "set", name, "up")
        # The new one has programs, and those of the old one have not gone with it.
        eventually(lambda: is_seen(daemon, source, "10.203.251.1"))
        received = packets_of(aside, "pod0")
        assert not is_seen(daemon, pod.far, "10.203.250.1")
        eventually(lambda: packets_of(aside, "pod0") - received >= 10)


def packets_of(namespace: Namespace, device: str) -> int:
    """That it has received."""
    [link] = json.loads(namespace.call("ip", "-j", "-s", "link", "show", device))
    return int(link["stats64"]["rx"]["packets"])


def is_seen(daemon: Daemon, source: Namespace, to: str) -> bool:
    """Whether the programs look at datagrams that come from there."""
    before = counters(daemon)["cache-missed"]
    shout(source, to)
    return counters(daemon)["cache-missed"] - before >= 10


def test_an_endpoint_moves_to_another_device_with_its_address(daemon: Daemon) -> None:
    node = daemon.cluster.node
    with (
        leg(daemon, "one") as one,
        leg(daemon, "two") as two,
        talks(daemon, one.frontend, protocols=["udp"]) as flows,
    ):
        await_cache(flows)
        for family in Family:
            place, size = one.address(family), 128 if family == Family.IPV6 else 32
            one.far.call("ip", "address", "delete", f"{place}/{OWN[family]}", "dev", "eth0")
            address(two.far, "eth0", family, place, size)
            back = two.address(family, 1)
            two.far.call("ip", "route", "replace", "default", "via", back, "src", place)
            node.call("ip", "route", "add", f"{place}/{size}", "dev", "two0")
        eventually(lambda: all(not own.is_silent() for own in flows) and speaks(flows, "two"))
        await_cache(flows)
        node.call("ip", "link", "add", "bridge0", "type", "bridge")
        node.call("ip", "link", "set", "bridge0", "up")
        node.call("ip", "link", "set", "two0", "master", "bridge0")
        for family in Family:
            place, near = one.address(family), two.address(family, 1)
            address(node, "bridge0", family, near)
            node.call("ip", "route", "replace", place, "dev", "bridge0", "src", near)
        eventually(lambda: all(not own.is_silent() for own in flows) and speaks(flows, "two"))
        await_cache(flows)
    node.call("ip", "link", "delete", "bridge0")


def speaks(flows: list[Talk], name: str) -> bool:
    """Whether this one alone answers."""
    return ask_all(flows, 1) == {name}


OWN = {Family.IPV4: 24, Family.IPV6: 64}
