"""Endpoints behind tunnels that ask for more than a packet's bytes: the cache has no more, and
leaves the device to the kernel.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from harness.cached import Talk, await_backend, cached_daemon, hits, talk
from harness.clients import NAMES, PORT, endpoints, service
from harness.daemons import Daemon
from harness.programs import NAMED_POD
from harness.stage import served
from harness.waiting import eventually
from kbe_nat.errors import PlaygroundError
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import Namespace

NODE, REMOTE = "192.168.50.1", "192.168.50.2"
ENDPOINTS = {Family.IPV4: "10.77.0.2", Family.IPV6: "fd77::2"}
GATEWAYS = {Family.IPV4: "10.77.0.1/24", Family.IPV6: "fd77::1/64"}
FRONTENDS = {Family.IPV4: "172.30.0.77", Family.IPV6: "fd00:30::77"}
MACS = {"node": "02:00:00:77:00:01", "remote": "02:00:00:77:00:02"}
TUNNELS = {
    "vxlan": ("id", "100", "local", REMOTE, "remote", NODE, "dstport", "4789"),
    "geneve": ("id", "100", "remote", NODE),
    "gretap": ("local", REMOTE, "remote", NODE),
}
"""What the other end is set up with."""
EXTERNAL = {"vxlan": ("dstport", "4789")}
QUESTIONS = 40


@contextmanager
def remote(daemon: Daemon, kind: str) -> Iterator[str]:
    """An endpoint of another node, to which routes lead through a device `tunnel` that has them say
    where.
    """
    node = daemon.cluster.node
    with Namespace(f"kbe-remote-{os.getpid()}") as other:
        node.call("ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0",
                  "netns", other.name)  # fmt: skip
        for end, device, address in ((node, "up0", NODE), (other, "eth0", REMOTE)):
            end.call("ip", "address", "add", f"{address}/24", "dev", device)
            end.call("ip", "link", "set", device, "up")
        ways = {"node": (node, ("external", *EXTERNAL.get(kind, ()))),
                "remote": (other, TUNNELS[kind])}  # fmt: skip
        for name, (end, options) in ways.items():
            try:
                end.call("ip", "link", "add", "tunnel", "address", MACS[name], "type", kind,
                         *options)  # fmt: skip
            except PlaygroundError as error:
                pytest.skip(f"no {kind} devices here: {error}")
            end.call("ip", "link", "set", "tunnel", "up")
        number = () if kind == "gretap" else ("id", "100")
        for family, endpoint in ENDPOINTS.items():
            gateway, _, size = GATEWAYS[family].partition("/")
            more = ("nodad",) if family == Family.IPV6 else ()
            node.call("ip", "address", "add", f"{gateway}/{size}", "dev", "tunnel", *more)
            other.call("ip", "address", "add", f"{endpoint}/{size}", "dev", "tunnel", *more)
            node.call("ip", "route", "replace", endpoint, "encap", "ip", *number,
                      "src", NODE, "dst", REMOTE, "dev", "tunnel")  # fmt: skip
            node.call("ip", "neigh", "replace", endpoint, "lladdr", MACS["remote"],
                      "dev", "tunnel")  # fmt: skip
            other.call("ip", "neigh", "replace", gateway, "lladdr", MACS["node"],
                       "dev", "tunnel")  # fmt: skip
            other.call("ip", "route", "add", "default", "via", gateway)
            daemon.write(
                f"remote{family}.yaml",
                service(family, "remote", FRONTENDS[family])
                + endpoints(family, "a", name="remote").replace(NAMES["a"][family], endpoint),
            )
            await_backend(daemon, f"{'[%s]' if family == 6 else '%s'}:9953" % endpoint)
        served(other, NAMED_POD, "remote", "9953")
        yield "tunnel"


def is_left_out(own: Talk, device: str) -> bool:
    """Whether the flow is one for the cache, but for the device that it leaves by."""
    own.ask()
    return f"not on {device}: routes or marks say" in own.explained()


@pytest.mark.parametrize("kind", TUNNELS)
def test_packets_for_a_tunnel_that_routes_lead_are_not_lost(tmp_path: Path, kind: str) -> None:
    with cached_daemon(tmp_path) as daemon, remote(daemon, kind) as device:
        for family in FRONTENDS:
            for protocol in ("udp", "tcp"):
                with talk(daemon, family, protocol, (FRONTENDS[family], PORT)) as own:
                    # Proposed, so that packets would enter it; until then the kernel has it anyway.
                    eventually(partial(is_left_out, own, device))
                    assert {own.ask() for _ in range(QUESTIONS)} == {"remote"}
        assert hits(daemon) == 0
