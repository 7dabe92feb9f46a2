"""A node alone, with wires instead of neighbours: packets are thrown onto them, and seen where they
come out.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Any

from scapy.layers.sctp import crc32c

from harness import traffic
from harness.stage import Serving
from harness.wires import overheard, sent_in_order
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.policy.plan import Plan
from kbe_nat.sources.address import split_address

ETHERNET = {4: 0x0800, 6: 0x86DD}
NUMBERS = {"tcp": traffic.TCP, "udp": traffic.UDP, "sctp": traffic.SCTP}
PACKETS = 12
"""By turns they reach every endpoint that a case of this size has."""
OWN_ADDRESS, STRANGER = "169.254.7.7", "203.0.113.250"
"""Of the node, and of who asks it whether it has taken everything in."""


@dataclass
class Node:
    """A node with a wire to the outside, one to its pods, and one for every other device that a
    case names.
    """

    name: Namespace
    far: Namespace
    wires: dict[str, socket.socket] = field(default_factory=dict)
    """The far ends, by the node's device."""
    macs: dict[str, bytes] = field(default_factory=dict)
    serving: Serving | None = None

    def head(self, device: str, version: int) -> bytes:
        """Of frames to a device of the node."""
        return self.macs[device] + b"\2\0\0\0\0\1" + ETHERNET[version].to_bytes(2)

    def send(self, device: str, packet: bytes) -> None:
        sent_in_order(self.wires[device], [self.head(device, packet[0] >> 4) + packet])

    def send_itself(self, packet: bytes) -> None:
        is_six = packet[0] >> 4 == 6
        family = socket.AF_INET6 if is_six else socket.AF_INET
        own = inside(
            self.name.path, lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        )
        _, destination = traffic.addresses(packet)
        # What is refused or dropped in OUTPUT fails here; how it came out is seen elsewhere.
        with own:
            try:
                own.sendto(packet, (destination, 0, 0, 0) if is_six else (destination, 0))
            except (PermissionError, ConnectionRefusedError):
                return

    def settle(self) -> list[bytes]:
        """Waits until every packet has gone as far as it goes; what the node has sent."""
        heard = overheard(
            self.wires["eth0"], self.head("eth0", 4), STRANGER, OWN_ADDRESS, self.arrived
        )
        if self.serving:
            self.serving.settle()
        return [*heard, *self.arrived()]

    def arrived(self) -> Iterator[bytes]:
        """Packets that the node has sent."""
        for own in self.wires.values():
            while True:
                try:
                    content, (_, _, kind, *_) = own.recvfrom(65_536)
                except BlockingIOError:
                    break
                if kind != socket.PACKET_OUTGOING and content[12:14] in (b"\x08\0", b"\x86\xdd"):
                    yield content[14:]


@contextmanager
def node_for(made: Plan, devices: set[str]) -> Iterator[Node]:
    suffix = os.getpid()
    with (
        Namespace(f"kbe-live-{suffix}") as name,
        Namespace(f"kbe-far-{suffix}") as far,
        ExitStack() as stack,
    ):
        own = Node(name, far)
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            name.write(f"/proc/sys/net/{path}", "1")
        for place in ("all", "default"):
            name.write(f"/proc/sys/net/ipv4/conf/{place}/rp_filter", "0")
            name.write(f"/proc/sys/net/ipv4/conf/{place}/send_redirects", "0")
        name.write("/proc/sys/net/ipv4/icmp_ratelimit", "0")
        name.write("/proc/sys/net/ipv6/icmp/ratelimit", "0")
        name.write("/proc/sys/net/ipv4/icmp_msgs_per_sec", "100000")
        name.write("/proc/sys/net/ipv4/icmp_msgs_burst", "100000")
        far.write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
        for device in sorted({"eth0", "pods0", *devices}):
            peer = ("type", "veth", "peer", "name", device, "netns", far.name)
            name.call("ip", "link", "add", device, *peer)
            # Nobody answers there: packets are thrown onto the wire, and picked up from it.
            name.call("ip", "link", "set", device, "arp", "off", "addrgenmode", "none", "up")
            far.call("ip", "link", "set", device, "arp", "off", "addrgenmode", "none", "up")
            [link] = json.loads(name.call("ip", "-json", "link", "show", device))
            own.macs[device] = bytes.fromhex(link["address"].replace(":", ""))
            own.wires[device] = stack.enter_context(inside(far.path, partial(wire, device)))
        name.call("ip", "link", "set", "lo", "up")
        # Where refusals of the node's own packets are seen.
        own.wires["lo"] = stack.enter_context(inside(name.path, lambda: wire("lo")))
        for address in made.addresses:
            bits = 128 if ":" in address else 32
            name.call(
                "ip",
                "address",
                "add",
                f"{address}/{bits}",
                "dev",
                "eth0",
                *(["nodad"] if bits > 32 else []),
            )
        for address in {
            target.address
            for port in made.ports
            for target in (*port.cluster_backends, *port.local_backends)
        }:
            if address not in made.addresses:
                name.call(
                    "ip",
                    "route",
                    "add",
                    f"{address}/{128 if ':' in address else 32}",
                    "dev",
                    "pods0",
                )
        for default in (("ip", "route"), ("ip", "-6", "route")):
            name.call(*default, "add", "default", "dev", "eth0")
        # Whoever masquerades needs an address for what goes to pods.
        name.call("ip", "address", "add", f"{OWN_ADDRESS}/32", "dev", "pods0")
        name.call("ip", "address", "add", "fd77::7/128", "dev", "pods0", "nodad")
        yield own


def wire(device: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    made.bind((device, 0x0003))
    made.setblocking(False)
    return made


def opening(flow: dict[str, Any], sport: int) -> bytes:
    """The first packet of a connection."""
    source, destination = flow["from"], split_address(flow["to"])
    number, port = NUMBERS[flow["proto"]], destination[1] or 0
    body = traffic.udp(sport, port, b"first")
    if flow["proto"] == "tcp":
        body = traffic.tcp(sport, port, traffic.SYN, 1, 0)
    elif flow["proto"] == "sctp":
        chunk = bytes.fromhex("0100001400000007000100000001000100000007")
        head = sport.to_bytes(2) + port.to_bytes(2) + bytes(4)
        checked = head + bytes(4) + chunk
        body = head + crc32c(checked).to_bytes(4) + chunk
    return traffic.ip(source, destination[0], number, body)


def outcome(node: Node, made: Plan, flow: dict[str, Any], first: int) -> dict[str, Any]:
    """What becomes of a flow, in the words of a case."""
    node.settle()
    is_own = flow["from"] in made.addresses
    own_address, own_port = split_address(flow["to"])
    destinations: set[str] = set()
    masqueraded: set[str] = set()
    seen = set()
    for packet in [opening(flow, first + n) for n in range(PACKETS)]:
        node.send_itself(packet) if is_own else node.send(flow.get("iif", "eth0"), packet)
    for packet in node.settle():
        source, destination = traffic.addresses(packet)
        protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
        if protocol in (traffic.ICMP, traffic.ICMPV6):
            kind = traffic.transport(packet)[:2]
            if destination == flow["from"] and kind in (b"\x03\x03", b"\x01\x04"):
                seen.add("reject")
        elif protocol == NUMBERS[flow["proto"]]:
            dport = traffic.ports(packet)[1]
            if (destination, dport) == (own_address, own_port):
                seen.add("pass")
            elif (source, destination) == (own_address, flow["from"]):
                # The node's own stack answers: the packet reached it.
                seen.add("pass")
            else:
                seen.add("dnat")
                place = (
                    f"[{destination}]:{dport}" if ":" in destination else f"{destination}:{dport}"
                )
                destinations.add(place)
                if source != flow["from"]:
                    masqueraded.add(place)
    verdict = " and ".join(sorted(seen)) if seen else "drop"
    mixed = bool(masqueraded) and masqueraded != destinations
    told: dict[str, Any] = {
        "verdict": verdict,
        "destinations": sorted(destinations),
        "masquerade": "mixed" if mixed else bool(masqueraded),
    }
    return told | ({"masqueraded": sorted(masqueraded)} if mixed else {})


def is_visible(flow: dict[str, Any], made: Plan) -> bool:
    """Whether the outcome can be told from outside. Not for what stays in the node: loopback, and
    what it sends to itself; nor, for UDP and SCTP to the node, a refusal from what nobody there
    listens to.
    """
    destination = split_address(flow["to"])[0]
    stays = destination in made.addresses and flow["from"] in made.addresses
    is_loopback = ip_address(flow["from"]).is_loopback or ip_address(destination).is_loopback
    is_vague = flow["proto"] != "tcp" and destination in made.addresses
    return not (stays or is_loopback or is_vague)
