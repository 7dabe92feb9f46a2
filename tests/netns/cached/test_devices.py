"""Clients and endpoints behind devices of several kinds: the cache carries their flows."""

import pytest

from harness.daemons import Daemon
from kbe_nat.errors import PlaygroundError
from kbe_nat.playground.namespaces import Namespace
from netns.cached.legs import Wiring, ask_all, audit, await_cache, leg, plain, talks, veth


def vlan(node: Namespace, far: Namespace, name: str) -> tuple[str, str]:
    """A pair whose frames have a tag."""
    for namespace, device in zip((node, far), veth(node, far, name), strict=True):
        words = ("link", device, "name", f"{device}.7", "type", "vlan", "id", "7")
        namespace.call("ip", "link", "add", *words)
    return f"{name}.7", "eth0.7"


def macvlan(node: Namespace, far: Namespace, name: str) -> tuple[str, str]:
    """The far end is on the node's own wire, and so is the node once more: packets between them
    never reach that wire.
    """
    # Its other end is nobody's.
    wire = ("type", "veth", "peer", "name", f"{name}z")
    node.call("ip", "link", "add", f"{name}w", *wire)
    for device in (f"{name}w", f"{name}z"):
        node.call("ip", "link", "set", device, "up")
    for device in (name, f"{name}p"):
        words = ("link", f"{name}w", "name", device, "type", "macvlan", "mode", "bridge")
        node.call("ip", "link", "add", *words)
    node.call("ip", "link", "set", f"{name}p", "netns", far.name)
    return name, f"{name}p"


def vxlan(node: Namespace, far: Namespace, name: str) -> tuple[str, str]:
    """A tunnel by a network of its own."""
    for namespace, device, host, other in zip(
        (node, far), veth(node, far, f"{name}u"), (1, 2), (2, 1), strict=True
    ):
        namespace.call("ip", "address", "add", f"192.168.77.{host}/24", "dev", device)
        ends = ("local", f"192.168.77.{host}", "remote", f"192.168.77.{other}")
        words = ("vxlan7", "type", "vxlan", "id", "7", *ends, "dstport", "4789")
        namespace.call("ip", "link", "add", *words)
    return "vxlan7", "vxlan7"


@pytest.mark.parametrize("wiring", [vlan, macvlan, vxlan], ids=lambda wiring: wiring.__name__)
def test_flows_come_and_leave_by_devices_of_this_kind(daemon: Daemon, wiring: Wiring) -> None:
    stage = leg(daemon, "far", wiring)
    try:
        made = stage.__enter__()
    except PlaygroundError as error:
        pytest.skip(f"no such devices here: {error}")
    try:
        with (
            talks(daemon, made.frontend) as there,
            talks(daemon, plain, made.far) as back,
            talks(daemon, made.frontend, made.far) as hairpin,
        ):
            await_cache([*there, *back, *hairpin])
            assert [ask_all(flows) for flows in (there, back, hairpin)] == [{"far"}, {"a"}, {"far"}]
            audit([*there, *back, *hairpin])
    finally:
        stage.__exit__(None, None, None)
