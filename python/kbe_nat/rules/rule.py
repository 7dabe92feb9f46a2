"""The diversion rules as values: which packets go to the queue, and what the kernel does by our
marks.

A handful of rules in chains of our own, whatever the number of Services: what grows are two sets
per family. Nothing here runs a command: `kbe_nat.rules.diversion` says what a plan needs, and a
back end (`kbe_nat.rules.iptables`, `kbe_nat.rules.memory`) installs it.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

from kbe_nat.family import Family

PREFIX: Final = "KBE-NAT-"
"""Every chain of ours begins so."""
TAG: Final = "kbe-nat"
"""Comment of every rule of ours, and beginning of the names of our sets."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Bits of the packet mark. The single ones leave those of kube-proxy (0x4000, 0x8000), Cilium
    (0xf00), Tailscale (0xff0000), Calico (0xffff0000) and Istio (0x539) alone.
    """

    flow: int = 0x1000
    """The packet was translated; in the connmark, which every-packet alone sets: so are the
    replies.
    """
    reject: int = 0x2000
    """To be refused by the kernel."""
    masquerade: int = 0x80
    """To get an address of the node as its source."""
    backend: int = 0xFFFFC000
    """The bits that hold a backend's number, for a moment only: between the verdict on a first
    packet and the kernel's translation right behind it.
    """


class DatapathKind(StrEnum):
    """Which packets of a flow are diverted."""

    EVERY_PACKET = "every-packet"
    FIRST_PACKET = "first-packet"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of one of our chains, in iptables' words."""

    table: str
    chain: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Jump:
    """The rule of a built-in chain that leads to one of ours: at its head, in the table `LAST` at
    its end.
    """

    table: str
    hook: str
    chain: str

    @property
    def is_last(self) -> bool:
        """Whether it must stand behind the rules of others."""
        return self.table == LAST


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Everything that is installed for one family."""

    family: Family
    jumps: tuple[Jump, ...]
    rules: tuple[Rule, ...]
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Elements by the name of their set, sorted. Type: see `SET_TYPES`."""


def changed(
    before: Iterable[RuleSet], after: Iterable[RuleSet]
) -> dict[str, tuple[set[str], set[str]]] | None:
    """Elements to be added and taken away, by set; None when more differs than elements."""
    old, new = list(before), list(after)
    if len(old) == len(new) and all(map(operator.is_, old, new)):
        return {}
    if [replace(own, sets={}) for own in old] != [replace(own, sets={}) for own in new]:
        return None
    found = {}
    for one, other in zip(old, new, strict=True):
        for name in one.sets:
            had, has = set(one.sets[name]), set(other.sets[name])
            if had != has:
                found[name] = (has - had, had - has)
    return found


def as_listed(elements: Iterable[str]) -> frozenset[str]:
    """Elements of a set as ipset and nft spell them."""
    return frozenset(map(_element_as_listed, elements))


def _element_as_listed(element: str) -> str:
    address, comma, place = element.partition(",")
    address, slash, length = address.partition("/")
    family = AF_INET6 if ":" in address else AF_INET
    is_whole = length == ("128" if family == AF_INET6 else "32")
    prefix = "" if is_whole else slash + length
    return f"{inet_ntop(family, inet_pton(family, address))}{prefix}{comma}{place}"


LAST: Final = "raw"
"""What others say there of a packet comes first: that it is not to be tracked, or is dropped."""
SET_TYPES: Final = {"frontends": "hash:ip,port", "addresses": "hash:ip", "refused": "hash:net"}
"""ipset's type by the second word of a set's name."""
