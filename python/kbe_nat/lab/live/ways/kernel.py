"""Ways of the kernel alone: plain forwarding, and its NAT by a rule or a map."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kbe_nat.errors import LabError
from kbe_nat.family import Family
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.objects import PODS, VIPS
from kbe_nat.lab.live.ways.frontends import frontends, measured
from kbe_nat.lab.live.ways.programs import largest, load, not_installed, refusal
from kbe_nat.lab.live.ways.way import Served, families_of, first_answer
from kbe_nat.model import Snapshot
from kbe_nat.playground.namespaces import Namespace

BOTH: Final = frozenset(("tcp", "udp"))
TABLE: Final = "kbe-lab"
IP: Final = {Family.IPV4: "ip", Family.IPV6: "ip6"}
IPTABLES: Final = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}


class Forward:
    """No rule at all: clients know the pod. The limit of every other way."""

    name = "forward"
    protocols = BOTH
    families = frozenset(Family)
    is_static = True

    def missing(self) -> str | None:
        """See `Way`."""
        return None

    @contextmanager
    def serve(self, network: Network, objects: Snapshot) -> Iterator[Served]:
        """See `Way`."""
        started = time.monotonic()
        answers = [
            network.first_answer(family, "udp", address=PODS[family][0])
            for family in families_of(objects)
        ]
        yield _Forwarded(network, max(answers) - started)


class _Forwarded(Served):
    def address(self, family: Family) -> str:
        return PODS[family][0]


class IptablesDnat:
    """One iptables rule a family, from the virtual IP to the pod."""

    name = "iptables-dnat"
    protocols = BOTH
    families = frozenset(Family)
    is_static = True

    def missing(self) -> str | None:
        """See `Way`."""
        return not_installed("iptables", "iptables") or refusal(_dnat(Family.IPV4))

    @contextmanager
    def serve(self, network: Network, objects: Snapshot) -> Iterator[Served]:
        """See `Way`."""
        families, started = families_of(objects), time.monotonic()
        try:
            peak = largest([load(network.node, _dnat(family), "") for family in families])
            yield Served(network, first_answer(network, objects) - started, peak)
        finally:
            for family in families:
                clear_iptables(network.node, family)


def _dnat(family: Family) -> tuple[str, ...]:
    where = (IPTABLES[family], "-w", "-t", "nat", "-A", "PREROUTING", "-d", VIPS[family])
    return (*where, "-j", "DNAT", "--to-destination", PODS[family][0])


def clear_iptables(node: Namespace, family: Family, variant: str = "") -> None:
    """Take all rules of iptables away, with the empty chains that a restore alone takes away. The
    node of a live run has no others. `variant` is "-legacy" for that of old. Raises `LabError`.
    """
    load(node, (f"{IPTABLES[family]}{variant}-restore", "-w"), EMPTY)


class NftDnat:
    """One nft rule a family, and a map from every frontend to its first endpoint: what translation
    costs the kernel at the least, whatever the number of Services.
    """

    name = "nft-dnat"
    protocols = BOTH
    families = frozenset(Family)
    is_static = False
    chains: str = ""
    """More of each table."""

    def missing(self) -> str | None:
        """See `Way`."""
        reason = not_installed("nft", "nftables")
        return reason or refusal(("nft", "-f", "-"), self.table(Family.IPV4, ""))

    def table(self, family: Family, elements: str) -> str:
        """The table of a family."""
        ip = IP[family]
        address = f"{'ipv6' if family == Family.IPV6 else 'ipv4'}_addr"
        listed = f"elements = {{ {elements} }}" if elements else ""
        return f"""table {ip} {TABLE} {{
  map backends {{
    type {address} . inet_proto . inet_service : {address} . inet_service
    {listed}
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat
    meta l4proto {{ tcp, udp }} dnat {ip} to {ip} daddr . meta l4proto . th dport map @backends
  }}
  {self.chains}
}}
"""

    @contextmanager
    def serve(self, network: Network, objects: Snapshot) -> Iterator[Served]:
        """See `Way`."""
        families = families_of(objects)
        text = "".join(self.table(family, _elements(objects, family)) for family in families)
        started = time.monotonic()
        peak = load(network.node, NFT, text)
        try:
            yield _Mapped(network, first_answer(network, objects) - started, peak)
        finally:
            load(network.node, NFT, "".join(f"delete table {IP[f]} {TABLE}\n" for f in families))


class _Mapped(Served):
    def change(self, objects: Snapshot) -> float:
        lines = []
        for family in families_of(objects):
            elements = _elements(measured(objects), family)
            keys = ", ".join(element.partition(" : ")[0] for element in elements.split(", "))
            lines += [
                f"delete element {IP[family]} {TABLE} backends {{ {keys} }}\n",
                f"add element {IP[family]} {TABLE} backends {{ {elements} }}\n",
            ]
        began = time.monotonic()
        load(self.network.node, NFT, "".join(lines))
        return began


class Flowtable(NftDnat):
    """The same map, and established flows take the kernel's software flowtable past its chains."""

    name = "flowtable"
    chains = """flowtable established { hook ingress priority filter; devices = { eth0, docker0 }; }
  chain forward { type filter hook forward priority filter
    ct state established flow add @established
  }"""

    def missing(self) -> str | None:
        """See `Way`."""
        reason = NftDnat().missing()
        if reason:
            return reason
        probe = f"table ip {TABLE} {{\n flowtable probe {{ hook ingress priority filter; }}\n}}\n"
        if refusal(NFT, probe):
            return "this kernel has no flowtable (CONFIG_NF_FLOW_TABLE)"
        return None


def _elements(objects: Snapshot, family: Family) -> str:
    elements = []
    for frontend in frontends(objects, family):
        if not frontend.endpoints:
            raise LabError(f"{frontend.address}: without endpoints it has no place in a map")
        key = f"{frontend.address} . {frontend.protocol} . {frontend.port}"
        elements.append(f"{key} : {frontend.endpoints[0]} . {frontend.target}")
    return ", ".join(elements)


EMPTY: Final = "".join(f"*{table}\nCOMMIT\n" for table in ("raw", "mangle", "filter", "nat"))
NFT: Final = ("nft", "-f", "-")
