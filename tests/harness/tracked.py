"""Connection tracking of a node whose cache carries flows."""

import socket
from dataclasses import dataclass

from harness.cached import Talk
from kbe_nat.playground.cluster import Cluster


@dataclass(frozen=True)
class Tracked:
    """Conntrack's entry of a flow."""

    number: int
    timeout: int
    packets: int
    """Of the client."""
    row: str


def rows(cluster: Cluster, own: Talk) -> list[str]:
    """Conntrack's listing of the flow."""
    family = "ipv6" if own.socket.family == socket.AF_INET6 else "ipv4"
    listing = cluster.node.call("conntrack", "-L", "-o", "id", "-f", family).splitlines()
    protocol = "tcp" if own.socket.type == socket.SOCK_STREAM else "udp"
    ends = (f"dst={own.destination[0]} ", f"sport={own.source[1]} ")
    return [row for row in listing if row.startswith(protocol) and all(end in row for end in ends)]


def tracked(cluster: Cluster, own: Talk) -> Tracked:
    [row] = rows(cluster, own)
    number = next(word[3:] for word in row.split() if word.startswith("id="))
    packets = next(word[8:] for word in row.split() if word.startswith("packets="))
    return Tracked(int(number), int(row.split()[2]), int(packets), row)


def set_timeout(cluster: Cluster, name: str, seconds: int) -> None:
    cluster.node.write(f"/proc/sys/net/netfilter/nf_conntrack_{name}", str(seconds))


def kernel_sees(own: Talk) -> bool:
    """Whether conntrack counts every packet of the client's: asks, and looks at its counters."""
    before = tracked(own.daemon.cluster, own).packets
    for _ in range(20):
        own.ask()
    return tracked(own.daemon.cluster, own).packets - before >= 20


def invalid(cluster: Cluster) -> int:
    """Packets that conntrack took for invalid."""
    rows = cluster.node.call("conntrack", "-S")
    return sum(int(word.partition("=")[2]) for word in rows.split() if word.startswith("invalid="))
