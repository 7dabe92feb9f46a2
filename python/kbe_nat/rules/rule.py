"""The rules of the every-packet datapath as values: which packets go to the queue, and what the
kernel does by our marks.

A rule has a hook, matches and a target. `kbe_nat.rules.diversion` says which rules a plan needs; a
`RuleInstaller` writes them in the words of its commands. Their number does not grow with the
Services: two or three sets per family do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final, NamedTuple, TypeAlias

from kbe_nat.family import Family, family_of
from kbe_nat.field_docs import documented
from kbe_nat.policy.plan import FrontendKey

TAG: Final = "kbe-nat"
"""The comment of every rule of ours, and the beginning of the names of our tables and sets."""


@documented
@dataclass(frozen=True, slots=True)
class Marks:
    """Bits of the packet mark. The single ones leave those of kube-proxy (0x4000, 0x8000), Cilium
    (0xf00), Tailscale (0xff0000), Calico (0xffff0000) and Istio (0x539) alone.
    """

    flow: int = 0x1000
    """The packet was translated. Every-packet also sets it in the connmark, so that replies have
    it.
    """
    reject: int = 0x2000
    """The kernel rejects the packet."""
    masquerade: int = 0x80
    """The packet's source becomes an address of the node."""
    backend: int = 0xFFFFC000
    """The bits that hold a backend's identifier, between the verdict on a first packet and the
    kernel's translation right behind it.
    """


class DatapathKind(StrEnum):
    """Which packets of a flow are diverted."""

    EVERY_PACKET = "every-packet"
    FIRST_PACKET = "first-packet"
    CACHED = "cached"
    """As first-packet, and established flows pass the kernel's stack by."""

    @property
    def offloads(self) -> bool:
        """Whether the kernel carries the flows once the engine has decided about them."""
        return self is not DatapathKind.EVERY_PACKET


class Hook(Enum):
    """Where packets come to rules of ours: a table and a built-in chain of iptables, and the type
    and priority of nft's base chain at the same place. Rules are written in this order.
    """

    RAW_PREROUTING = "raw", "PREROUTING", "filter", "raw + 10"
    RAW_OUTPUT = "raw", "OUTPUT", "filter", "raw + 10"
    MANGLE_PREROUTING = "mangle", "PREROUTING", "filter", "mangle"
    MANGLE_INPUT = "mangle", "INPUT", "filter", "mangle"
    MANGLE_OUTPUT = "mangle", "OUTPUT", "route", "mangle"
    MANGLE_POSTROUTING = "mangle", "POSTROUTING", "filter", "mangle"
    FILTER_INPUT = "filter", "INPUT", "filter", "filter"
    FILTER_FORWARD = "filter", "FORWARD", "filter", "filter"
    FILTER_OUTPUT = "filter", "OUTPUT", "filter", "filter"
    NAT_POSTROUTING = "nat", "POSTROUTING", "nat", "srcnat"

    def __init__(self, table: str, chain: str, chain_type: str, priority: str) -> None:
        self.table = table
        self.chain = chain
        self.chain_type = chain_type
        self.priority = priority

    @property
    def follows_foreign_rules(self) -> bool:
        """Whether our rules stand behind those of others, which may exempt a packet from tracking
        or drop it. Elsewhere ours come first.
        """
        return self.table == "raw"


class SetKind(StrEnum):
    """The sets of a family, by their names."""

    FRONTENDS = "frontends"
    """Address, protocol and port of every frontend."""
    ADDRESSES = "addresses"
    """The frontends' addresses, for ICMP, which has no ports."""
    REFUSED = "refused"
    """Ranges and addresses of Services; packets for ports without a frontend are rejected there."""


Element: TypeAlias = FrontendKey | str
"""Of `SetKind.FRONTENDS` a key, of the others an address or a range."""


@dataclass(frozen=True, slots=True)
class InSet:
    """The packet goes to an element of this set."""

    kind: SetKind


class Protocol(StrEnum):
    """The packet's transport protocol."""

    TCP = "tcp"
    ICMP = "icmp"
    """The family's own: ICMPv6 for IPv6."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The packet mark has this bit."""

    bit: int


@dataclass(frozen=True, slots=True)
class ConnMark:
    """The mark of the packet's connection has this bit."""

    bit: int


class CtState(StrEnum):
    """The packet's state in conntrack."""

    UNTRACKED = "untracked"
    RELATED = "related"


class CtDirection(StrEnum):
    """The packet's direction in its connection."""

    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class NotConfirmed:
    """No packet of the connection has left the node's last hook yet."""


@dataclass(frozen=True, slots=True)
class NotFrom:
    """The packet did not come in by this device."""

    device: str


@dataclass(frozen=True, slots=True)
class NotToNode:
    """The packet's destination is no address of the node."""


class Icmpv6Type(StrEnum):
    """The type of an ICMPv6 message."""

    REDIRECT = "redirect"


Match: TypeAlias = (
    InSet
    | Protocol
    | Mark
    | ConnMark
    | CtState
    | CtDirection
    | NotConfirmed
    | NotFrom
    | NotToNode
    | Icmpv6Type
)


@dataclass(frozen=True, slots=True)
class Queue:
    """Packets go to the queues from number `first` to `last`, spread by their addresses."""

    first: int
    last: int
    bypass: bool = False
    """They go on while no process listens; otherwise they are dropped then."""


@dataclass(frozen=True, slots=True)
class SetConnMark:
    """The connection gets this bit into its mark."""

    bit: int


class Reject(Enum):
    """The sender gets this answer."""

    TCP_RESET = "tcp-reset"
    PORT_UNREACHABLE = "port-unreachable"


@dataclass(frozen=True, slots=True)
class Masquerade:
    """The source becomes an address of the node, with a port chosen at random."""


class Ending(StrEnum):
    """The packet's way through a chain ends here."""

    RETURN = "return"
    """The packet goes on behind the chain."""
    DROP = "drop"


Target: TypeAlias = Queue | SetConnMark | Reject | Masquerade | Ending


@dataclass(frozen=True, slots=True)
class Rule:
    """Packets at `hook` that meet all matches go to the target."""

    hook: Hook
    matches: tuple[Match, ...]
    target: Target


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Everything that is installed for one family."""

    family: Family
    rules: tuple[Rule, ...]
    sets: Mapping[SetKind, tuple[Element, ...]] = field(default_factory=dict)

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """Hooks at which there are rules."""
        used = {rule.hook for rule in self.rules}
        return tuple(hook for hook in Hook if hook in used)


class SetChange(NamedTuple):
    """Elements that a set gains and loses."""

    family: Family
    kind: SetKind
    added: frozenset[Element]
    removed: frozenset[Element]


def shapes(rules: Iterable[RuleSet]) -> tuple[RuleSet, ...]:
    """The same rules with empty sets."""
    return tuple(replace(rule_set, sets=dict.fromkeys(rule_set.sets, ())) for rule_set in rules)


def canonical(element: Element) -> Element:
    """The same element as ipset and nft list it: the shortest form of an address, and no length
    after a single one.
    """
    if not isinstance(element, str):
        address, protocol, port = element
        return _shortest(address), protocol, port
    address, slash, length = element.partition("/")
    is_single = length == ("128" if family_of(address) == Family.IPV6 else "32")
    return _shortest(address) + ("" if is_single else slash + length)


def _shortest(address: str) -> str:
    family = AF_INET6 if family_of(address) == Family.IPV6 else AF_INET
    return inet_ntop(family, inet_pton(family, address))
