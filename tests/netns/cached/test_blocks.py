"""Filters of tc that several devices share: they see what comes in as filters of one device do."""

import json

import pytest

from harness.daemons import Daemon
from harness.waiting import eventually
from kbe_nat.playground.namespaces import Namespace
from netns.cached.legs import ask_all, audit, await_cache, leg, talks, uncached_devices, uncarried


def share(node: Namespace, device: str, way: str, qdisc: str) -> None:
    """Has a device share block 22, which has a filter that takes all packets and does nothing."""
    node.call("tc", "qdisc", "add", "dev", device, f"{way}_block", "22", qdisc)
    words = ("block", "22", "protocol", "all", "u32", "match", "u32", "0", "0", "classid", "1:1")
    node.call("tc", "filter", "add", *words)


@pytest.mark.parametrize("qdisc", ["clsact", "ingress"])
def test_devices_that_share_filters_are_left_to_the_kernel(daemon: Daemon, qdisc: str) -> None:
    node = daemon.cluster.node
    with talks(daemon) as flows:
        await_cache(flows)
        share(node, "eth0", "ingress", qdisc)
        eventually(lambda: "filters of tc" in uncached_devices(daemon).get("eth0", ""))
        assert len(uncarried(flows)) == len(flows)
        node.call("tc", "qdisc", "delete", "dev", "eth0", qdisc)
        eventually(lambda: not uncached_devices(daemon))
        await_cache(flows)
        audit(flows)


def left_by(node: Namespace, device: str) -> int:
    """Packets that have left by a device's own way out."""
    [link] = json.loads(node.call("ip", "-j", "-s", "link", "show", device))
    return int(link["stats64"]["tx"]["packets"])


def test_shared_filters_on_the_way_to_a_pod_are_not_passed_by(daemon: Daemon) -> None:
    node = daemon.cluster.node
    with leg(daemon, "pod") as pod, talks(daemon, pod.frontend) as flows:
        await_cache(flows)

        def leave() -> int:
            before = left_by(node, "pod0")
            assert ask_all(flows) == {"pod"}
            return left_by(node, "pod0") - before

        assert leave() < 50, "packets are handed to the pod's end"
        share(node, "pod0", "egress", "clsact")
        eventually(lambda: leave() >= 200)
        await_cache(flows)
        assert leave() >= 200, "carried, by the device's own way out"
        audit(flows)
