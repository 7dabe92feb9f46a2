"""The kernel's virtual server."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kbe_nat.family import Family
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.ways.frontends import frontends, local_addresses, measured
from kbe_nat.lab.live.ways.programs import load, not_installed, refusal
from kbe_nat.lab.live.ways.way import Served, families_of, first_answer
from kbe_nat.model import Snapshot, join_address


class Ipvs:
    """The kernel's virtual server, round robin, with masquerading: kube-proxy's mode of old."""

    name = "ipvs"
    protocols = frozenset(("tcp", "udp"))
    families = frozenset(Family)
    is_static = False

    def missing(self) -> str | None:
        """See `Way`."""
        if not Path("/proc/net/ip_vs").exists() and refusal(("modprobe", "-n", "-q", "ip_vs")):
            return "this kernel has no IPVS (CONFIG_IP_VS)"
        return not_installed("ipvsadm", "ipvsadm")

    @contextmanager
    def serve(self, network: Network, objects: Snapshot) -> Iterator[Served]:
        """See `Way`."""
        addresses = [ip for service in objects.services for ip in service.cluster_ips]
        # Packets reach it by the way of those for the node itself.
        with local_addresses(network, addresses):
            text = _virtual_servers(objects)
            started = time.monotonic()
            peak = load(network.node, RESTORE, text)
            try:
                yield _VirtualServers(network, first_answer(network, objects) - started, peak)
            finally:
                load(network.node, ("ipvsadm", "--clear"), "")


class _VirtualServers(Served):
    def change(self, objects: Snapshot) -> float:
        text = _virtual_servers(measured(objects))
        deletions = [
            f"-D {line.split()[1]} {line.split()[2]}\n"
            for line in text.splitlines()
            if line.startswith("-A ")
        ]
        began = time.monotonic()
        load(self.network.node, RESTORE, "".join(deletions) + text)
        return began


def _virtual_servers(objects: Snapshot) -> str:
    lines = []
    for family in families_of(objects):
        for frontend in frontends(objects, family):
            server = f"-{frontend.protocol[0]} {join_address(frontend.address, frontend.port)}"
            lines.append(f"-A {server} -s rr\n")
            lines += [
                f"-a {server} -r {join_address(endpoint, frontend.target)} -m\n"
                for endpoint in frontend.endpoints
            ]
    return "".join(lines)


RESTORE: Final = ("ipvsadm", "--restore")
