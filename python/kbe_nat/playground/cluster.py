"""The wires between node, client and pods.

::

    client 10.0.2.100 ---- 10.0.2.15 node 172.17.0.1 ---- bridge ---- pods 172.17.0.3, .4, ...

The node is the client's way to everything: a Service's address is nowhere but in the rules.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from ipaddress import ip_interface
from itertools import count
from typing import Final, Self

from kbe_nat.errors import PlaygroundError
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.policy.plan import Backend

NODE_ADDRESS: Final = "10.0.2.15"
CLIENT_ADDRESS: Final = "10.0.2.100"
BRIDGE: Final = "172.17.0.1/16"
NODE_ADDRESS_6: Final = "fd00:2::15"
CLIENT_ADDRESS_6: Final = "fd00:2::100"
BRIDGE_6: Final = "fd00:17::1"


class Cluster:
    """A node, a client, and a pod with a server for each endpoint, while the block runs."""

    def __init__(self, endpoints: tuple[Backend, ...]) -> None:
        """Raises `PlaygroundError` for an endpoint outside the pods' network."""
        network = ip_interface(BRIDGE).network
        outside = [
            str(endpoint)
            for endpoint in endpoints
            if ip_interface(endpoint.address).ip not in network
        ]
        if outside:
            raise PlaygroundError(
                f"{', '.join(outside)}: endpoints of the playground lie in {network}"
            )
        self._endpoints = endpoints
        self._stack = ExitStack()
        # Several clusters can run beside each other, in one process too.
        self._suffix = f"{os.getpid()}.{next(NUMBERS)}"
        self.node = Namespace(f"kbe-node-{self._suffix}")
        self.client = Namespace(f"kbe-client-{self._suffix}")
        self.pods: list[Namespace] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for namespace in (self.node, self.client):
                stack.enter_context(namespace)
            wire_node(self.node, self.client)
            servers = [
                (endpoint, self._pod(stack, number))
                for number, endpoint in enumerate(self._endpoints)
            ]
            for endpoint, server in servers:
                _wait_for(server, endpoint)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def _pod(self, stack: ExitStack, number: int) -> subprocess.Popen[str]:
        """Starts a pod's server."""
        endpoint = self._endpoints[number]
        pod = stack.enter_context(Namespace(f"kbe-pod{number}-{self._suffix}"))
        self.pods.append(pod)
        wire_pod(self.node, pod, endpoint.address, f"veth{number}")
        return pod.start((*POD_SERVER, str(endpoint.port)))


def wire_node(node: Namespace, client: Namespace) -> None:
    """Join node and client, and give the node a bridge for pods."""
    node.write("/proc/sys/net/ipv4/ip_forward", "1")
    node.call(*LINK_ADD, "eth0", "type", "veth", "peer", "name", "eth0", "netns", client.name)
    node.call("ip", "address", "add", f"{NODE_ADDRESS}/24", "dev", "eth0")
    node.call(*LINK_ADD, "docker0", "type", "bridge")
    node.call("ip", "address", "add", BRIDGE, "dev", "docker0")
    for device in ("eth0", "docker0"):
        node.call("ip", "link", "set", device, "up")
    # Packets to refused ports leave by the device they came from; a redirect would use up the ICMP
    # errors' budget (net/ipv4/route.c and icmp.c share one per peer), and the client would wait.
    for device in ("all", "eth0", "docker0"):
        node.write(f"/proc/sys/net/ipv4/conf/{device}/send_redirects", "0")
    # Packets between pods are routed, not bridged: a bridge that runs the IP rules itself would
    # send translated ones on without the later hooks.
    for name in ("iptables", "ip6tables"):
        with suppress(FileNotFoundError):
            node.write(f"/proc/sys/net/bridge/bridge-nf-call-{name}", "0")
    client.call("ip", "address", "add", f"{CLIENT_ADDRESS}/24", "dev", "eth0")
    client.call("ip", "link", "set", "eth0", "up")
    client.call("ip", "route", "add", "default", "via", NODE_ADDRESS)
    # Any route towards a virtual IP will do: it gives the node's own packets their source address.
    node.call("ip", "route", "add", "default", "via", CLIENT_ADDRESS)


def wire_pod(node: Namespace, pod: Namespace, address: str, device: str) -> None:
    """Join a pod to the node's bridge by a device of this name."""
    bridge = ip_interface(BRIDGE)
    node.call(*LINK_ADD, device, "type", "veth", "peer", "name", "eth0", "netns", pod.name)
    node.call("ip", "link", "set", device, "master", "docker0", "up")
    # Pods reach each other by way of the node, so that answers between them meet its rules too.
    pod.call("ip", "address", "add", f"{address}/32", "dev", "eth0")
    pod.call("ip", "link", "set", "eth0", "up")
    pod.call("ip", "route", "add", str(bridge.ip), "dev", "eth0")
    pod.call("ip", "route", "add", "default", "via", str(bridge.ip))


def wire_ipv6(node: Namespace, client: Namespace, pods: Mapping[str, Namespace]) -> None:
    """The second family on the wires of `wire_node` and `wire_pod`; pods by their addresses."""
    with suppress(FileNotFoundError):
        node.write("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "0")
    node.write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
    node.call(*ADDRESS_ADD, f"{NODE_ADDRESS_6}/64", "dev", "eth0", "nodad")
    node.call(*ADDRESS_ADD, f"{BRIDGE_6}/64", "dev", "docker0", "nodad")
    client.call(*ADDRESS_ADD, f"{CLIENT_ADDRESS_6}/64", "dev", "eth0", "nodad")
    client.call("ip", "route", "add", "default", "via", NODE_ADDRESS_6)
    node.call("ip", "route", "add", "default", "via", CLIENT_ADDRESS_6)
    for address, pod in pods.items():
        pod.call(*ADDRESS_ADD, f"{address}/128", "dev", "eth0", "nodad")
        pod.call("ip", "route", "add", BRIDGE_6, "dev", "eth0")
        pod.call("ip", "route", "add", "default", "via", BRIDGE_6)


def _wait_for(server: subprocess.Popen[str], endpoint: Backend) -> None:
    assert server.stdout is not None
    line = server.stdout.readline()
    if line.strip() != "ready":
        complaint = f"{line}{server.stdout.read()}"
        raise PlaygroundError(f"the server at {endpoint} did not start: {complaint}")


NUMBERS: Final = count()
LINK_ADD: Final = ("ip", "link", "add")
ADDRESS_ADD: Final = ("ip", "address", "add")
POD_SERVER: Final = (sys.executable, "-m", "kbe_nat.playground.pod")
