"""The operator's decisions, in kube-proxy's words."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from kbe_nat.field_docs import documented
from kbe_nat.model import Strategy

PRIMARY: Final = "primary"
"""In `Options.node_port_addresses`: the node's primary address of each family."""
LOOPBACK: Final = "127.0.0.1"
LOOPBACK6: Final = "::1"


class Mode(StrEnum):
    """kube-proxy's modes."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"


@documented
@dataclass(frozen=True, slots=True)
class Options:
    """The operator's decisions, in kube-proxy's words."""

    node: str = ""
    """Name of the node that is served; empty when it is none of the cluster's."""
    node_addresses: tuple[str, ...] = ()
    """Every address of the node besides loopback; without them those of the Node object."""
    primary_address: str = ""
    """The node's own address of its family (`--bind-address`), ahead of that of the Node object."""
    cluster_ranges: tuple[str, ...] = ()
    """Ranges of pod addresses (`--cluster-cidr`)."""
    uses_node_ranges: bool = False
    """Take the pod ranges of the Node object instead (`--detect-local-mode=NodeCIDR`)."""
    pod_interface: str = ""
    """Name of the device behind which pods are (`--detect-local-mode=BridgeInterface`); with a + at
    its end, of all that begin so (InterfaceNamePrefix). Empty: the ranges tell.
    """
    pod_interfaces: tuple[int, ...] = ()
    """The indexes that those devices have now."""
    masquerade_all: bool = False
    """Masquerade whatever comes to a cluster IP (`--masquerade-all`)."""
    masquerade_bit: int = 14
    """Of the packet mark, in the rules that kube-proxy would write."""
    other_masquerade: tuple[bool, int] | None = None
    """`masquerade_all` and `masquerade_bit` of the other mode, whose rules may be asked for; None:
    the same.
    """
    node_port_addresses: tuple[str, ...] = ()
    """Ranges, or `PRIMARY`; empty means what the mode's default is: all addresses of the node, or
    `PRIMARY`.
    """
    localhost_node_ports: bool = True
    """Serve node ports on 127.0.0.1 too, for the node itself; only in iptables mode."""
    is_conntrack_liberal: bool = False
    """The kernel does not call packets outside TCP's windows invalid (`conntrack.tcpBeLiberal`), so
    kube-proxy's rules do not drop those.
    """
    mode: Mode = Mode.IPTABLES
    """Which of kube-proxy's modes is followed where they differ."""
    unknown_port: str | None = None
    """The fate of packets to a cluster IP's other ports: "pass", "reject" or "drop"; None: as
    the mode does.
    """
    external_ranges: tuple[str, ...] = ()
    """External IPs outside are not served (CVE-2020-8554); empty: all are, as by kube-proxy."""
    resets_tcp: bool = False
    """Refuse TCP with a RST, and not with an ICMP error as kube-proxy does."""
    strategy: Strategy = Strategy.RANDOM
    """For Services without the annotation."""
    proxy_name: str | None = None
    """Serve only Services with this label `service.kubernetes.io/service-proxy-name`; None: only
    those without it.
    """

    def in_mode(self, mode: Mode) -> "Options":
        """The options as the operator has given them for this mode."""
        if mode is self.mode:
            return self
        masquerade = self.masquerade_all, self.masquerade_bit
        is_all, bit = self.other_masquerade or masquerade
        return replace(
            self,
            mode=mode,
            masquerade_all=is_all,
            masquerade_bit=bit,
            other_masquerade=masquerade,
        )


def strange_node(node: str, nodes: Collection[str]) -> str:
    """Why a name is that of no Node of the objects, of all whose names these are; empty where it is
    one, or where they say nothing about nodes.
    """
    if not node or not nodes or node in nodes:
        return ""
    return f"{node} is none of the objects' nodes ({', '.join(sorted(nodes)[:SHOWN])})"


def unknown_port(options: Options) -> str:
    """The fate of packets to a cluster IP's other ports: "pass", "reject" or "drop"."""
    return options.unknown_port or ("reject" if options.mode is Mode.NFTABLES else "pass")


SHOWN: Final = 5
"""Names in a message."""
