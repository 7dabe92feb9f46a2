"""Which addresses of the node serve node ports, and which refuse them.

As pkg/proxy/util/nodeport_addresses.go: `--nodeport-addresses` are ranges, or the word for the
primary address. A family of which they say nothing falls back to all of its addresses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from kbe_nat.family import Family, family_of
from kbe_nat.model import Node
from kbe_nat.policy.options import LOOPBACK, LOOPBACK6, PRIMARY, Mode, Options


@dataclass(frozen=True, slots=True)
class NodePorts:
    """Where node ports are reached on one node."""

    addresses: tuple[str, ...] = ()
    """Addresses that serve node ports."""
    wildcard_families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    """Families in which every local address serves node ports, since nothing says which."""
    reject_addresses: tuple[str, ...] = ()
    """Addresses that serve no node ports, where those without endpoints are refused nevertheless.
    """
    loopback: bool = False
    """kube-proxy has rules for loopback: node ports are served there, and what else comes from the
    node's other addresses is kept away.
    """


def node_ports(node: Node, options: Options) -> NodePorts:
    """The node ports' addresses of this node. Cost: linear in its addresses."""
    return _AddressRules(node, options).node_ports()


def node_addresses(node: Node, options: Options) -> tuple[str, ...]:
    """Every address of the node, as far as it is known."""
    return options.node_addresses or node.addresses


def primary_address(node: Node, options: Options, family: Family) -> str | None:
    """The address of a family that the node goes by; none when it is loopback, as kube-proxy
    supposes of nodes that it does not know.
    """
    candidates = (options.primary_address, *(node.addresses or options.node_addresses))
    primary = next(
        (address for address in candidates if address and family_of(address) == family), None
    )
    return None if primary is None or ip_address(primary).is_loopback else primary


def contains(text: str, address: str) -> bool:
    """Whether a range holds an address."""
    return ip_address(address) in ip_network(text)


class _AddressRules:
    def __init__(self, node: Node, options: Options) -> None:
        self.node = node
        self.options = options
        self.addresses = node_addresses(node, options)
        self.is_iptables = options.mode is Mode.IPTABLES
        self.serves_localhost = self.is_iptables and options.localhost_node_ports

    def node_ports(self) -> NodePorts:
        serving = tuple(self.serving_addresses())
        # kube-proxy's refusals in iptables mode match any local address, whatever nodePortAddresses
        # say.
        local = (*self.addresses, LOOPBACK, LOOPBACK6) if self.is_iptables else ()
        return NodePorts(
            addresses=serving,
            wildcard_families=tuple(
                family for family in Family if self.selected_addresses(family) is None
            ),
            reject_addresses=tuple(text for text in local if text not in serving),
            loopback=self.serves_localhost and self.selects_loopback(),
        )

    def serving_addresses(self) -> Iterator[str]:
        for family in Family:
            selected = self.selected_addresses(family)
            yield from self.local_addresses(family) if selected is None else selected

    def selected_addresses(self, family: Family) -> list[str] | None:
        """The addresses of a family that serve node ports; None when all do: nothing is said of the
        family, or one range is all of it.
        """
        texts = self.options.node_port_addresses or (() if self.is_iptables else (PRIMARY,))
        local = self.local_addresses(family)
        if PRIMARY in texts:
            primary = primary_address(self.node, self.options, family)
            return [address for address in local if address == primary] if primary else None
        ranges = [text for text in texts if family_of(text) == family]
        if not ranges or any(text.endswith("/0") for text in ranges):
            return None
        return [address for address in local if any(contains(text, address) for text in ranges)]

    def local_addresses(self, family: Family) -> list[str]:
        addresses = [address for address in self.addresses if family_of(address) == family]
        if family == Family.IPV4 and self.serves_localhost:
            addresses.append(LOOPBACK)
        return addresses

    def selects_loopback(self) -> bool:
        """Any range of loopback is enough, even one without an address of the node."""
        ranges = [
            text
            for text in self.options.node_port_addresses
            if text != PRIMARY and family_of(text) == Family.IPV4
        ]
        return self.selected_addresses(Family.IPV4) is None or any(
            ip_network(text).is_loopback or contains(text, "127.0.0.0") for text in ranges
        )
