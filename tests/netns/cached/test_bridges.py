"""Pods on a bridge that hands packets to iptables, as kubeadm asks for: conntrack counts what comes
by its ports, ahead of the cache on the bridge.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.daemons import Daemon
from netns.cached.legs import ask_all, audit, await_cache, plain, talks

SETTINGS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
BRIDGE = "docker0"


@contextmanager
def namespace_calls(daemon: Daemon) -> Iterator[None]:
    """The namespace's settings, of which nothing tells."""
    for value in "10":
        for name in SETTINGS:
            daemon.cluster.node.write(f"/proc/sys/net/bridge/{name}", value)
        if value == "1":
            yield


@contextmanager
def bridge_calls(daemon: Daemon) -> Iterator[None]:
    """The bridge's own settings."""
    for value in "10":
        calls = ("nf_call_iptables", value, "nf_call_ip6tables", value)
        daemon.cluster.node.call("ip", "link", "set", BRIDGE, "type", "bridge", *calls)
        if value == "1":
            yield


@pytest.mark.skipif(
    not Path("/proc/sys/net/bridge").exists(), reason="bridges hand nothing to iptables here"
)
@pytest.mark.parametrize("calls", [namespace_calls, bridge_calls])
def test_answers_from_a_bridge_that_calls_iptables_are_counted_once(
    daemon: Daemon, calls: object
) -> None:
    with calls(daemon), talks(daemon, plain) as flows:  # type: ignore[operator]
        await_cache(flows)
        assert ask_all(flows, 300) == {"a"}
        audit(flows)
