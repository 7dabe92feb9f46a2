"""Connection tracking of a node whose cache carries flows: what it says of one, and a daemon that
serves one pod to begin flows to.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.cached import Talk
from harness.clients import endpoints, named, service
from harness.daemons import Daemon
from harness.stage import OTHER, POD, add_ipv6
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.rules.rule import DatapathKind


@dataclass(frozen=True)
class Tracked:
    """Conntrack's entry of a flow."""

    number: int
    timeout: int
    packets: int
    """Of the client."""
    row: str


@contextmanager
def cached_node(folder: Path) -> Iterator[Daemon]:
    """A daemon with a cache, which serves pod a in both families; the other pod is there."""
    with Cluster((POD, OTHER)) as cluster:
        add_ipv6(cluster)
        named(cluster)
        (folder / "objects").mkdir()
        with Daemon(cluster, folder, DatapathKind.CACHED) as made:
            texts = [
                text(family)
                for family in (Family.IPV4, Family.IPV6)
                for text in (service, lambda family: endpoints(family, "a"))
            ]
            made.write("dns.yaml", "".join(texts))
            yield made


def rows(cluster: Cluster, own: Talk) -> list[str]:
    """Conntrack's listing of the flow."""
    family = "ipv6" if own.socket.family == socket.AF_INET6 else "ipv4"
    listing = cluster.node.call("conntrack", "-L", "-o", "id", "-f", family).splitlines()
    return [row for row in listing if f"sport={own.source[1]} " in row]


def tracked(cluster: Cluster, own: Talk) -> Tracked:
    [row] = rows(cluster, own)
    number = next(word[3:] for word in row.split() if word.startswith("id="))
    packets = next(word[8:] for word in row.split() if word.startswith("packets="))
    return Tracked(int(number), int(row.split()[2]), int(packets), row)


def set_timeout(cluster: Cluster, name: str, seconds: int) -> None:
    cluster.node.write(f"/proc/sys/net/netfilter/nf_conntrack_{name}", str(seconds))
