"""One family's table of the kernel's own translation: its maps and sets, its chains, and how nft
writes them.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, TypeAlias

from kbe_nat._native import NftElements
from kbe_nat.family import Family
from kbe_nat.packet import NUMBERS
from kbe_nat.rules.backend_ids import Address
from kbe_nat.rules.frontends import FrontendKey
from kbe_nat.rules.rule import Marks
from kbe_nat.rules.standby import Standby

Key: TypeAlias = int | FrontendKey | str
"""A backend's number, a frontend, or an address."""
Elements: TypeAlias = Mapping[Key, Address | None]
"""With their values; those of sets have none."""


@dataclass(frozen=True, slots=True)
class NatTable:
    """What the kernel translates to, for one family."""

    family: Family
    backends: Mapping[Address, int] = field(default_factory=dict)
    """Their numbers."""
    standby: Standby = field(default_factory=Standby)
    """It says what the frontends are, too."""
    ranges: tuple[str, ...] = ()
    """Of cluster IPs, for all of which packets are queued."""
    addresses: frozenset[str] = frozenset()
    """Cluster IPs for which that is so too."""
    resets_tcp: bool = False

    @property
    def shape(self) -> object:
        """What rules are made of: another one needs another table."""
        return self.ranges, self.resets_tcp


class NatTableWriter:
    """The same for every family and plan, but for elements and addresses."""

    def __init__(self, marks: Marks, queues: tuple[int, int]) -> None:
        """`queues` are the first and the last number."""
        self._marks = marks
        self._queues = queues

    def lines(self, own: NatTable, name: str, *, asleep: bool = False) -> Iterator[str]:
        """The table in nft's words: asleep, empty, and without the rules that nft cannot write; or
        with everything, as nft would write it if it could.
        """
        ip, address = FAMILIES[own.family], ADDRESSES[own.family]
        frontend = f"{address} . inet_proto . inet_service"
        types = {
            "backends": ("map", f"mark : {address} . inet_service"),
            "standby": ("map", f"{frontend} : {address} . inet_service"),
            "standby-masquerade": ("set", frontend),
            "standby-keep-source": ("set", frontend),
            "reject-unserved": ("set", frontend),
            "addresses": ("set", address),
        }
        yield f"table {ip} {name} {{"
        if asleep:
            yield "  flags dormant"
        for set_name, elements in sets(own).items():
            kind, of = types[set_name]
            yield f"  {kind} {set_name} {{"
            yield f"    type {of}"
            if elements and not asleep:
                shown = (_shown(key, value, self._marks) for key, value in elements.items())
                yield f"    elements = {{ {', '.join(shown)} }}"
            yield "  }"
        for chain, lines in (self._diverting(own, ip) | self._translating(own, ip)).items():
            yield f"  chain {chain} {{"
            yield from (f"    {line}" for line in lines)
            if not asleep:
                yield from (f"    {line}" for line in self._beyond_nft(ip).get(chain, ()))
            yield "  }"
        yield "}"

    def _diverting(self, own: NatTable, ip: str) -> dict[str, tuple[str, ...]]:
        """Chains that lead to the queue, between the kernel's connection tracking and its
        translation.
        """
        lines = (
            # What is confirmed has its translation: one way, nobody has answered yet.
            "ct status & confirmed != 0 accept",
            *(f"{PORTED} {_frontend(ip)} @{kind} goto queue-bypass" for kind in SERVED),
            *(f"{ip} daddr {what} goto queue-no-bypass" for what in _others(own)),
        )
        hooks = {
            f"{hook}-new": (
                f"type filter hook {hook} priority mangle; policy accept;",
                # What is not to be tracked is not to be translated: somebody serves it beside us.
                "ct state new,invalid goto new",
            )
            for hook in ("prerouting", "output")
        }
        return {
            "queue-bypass": ("ct state invalid drop",),
            "queue-no-bypass": (),
            "new": lines,
            **hooks,
        }

    def _translating(self, own: NatTable, ip: str) -> dict[str, tuple[str, ...]]:
        """Chains that carry verdicts out, and decide where there is none. Only first packets come
        to them.
        """
        marks = self._marks
        flow, refused, index = f"{marks.flow:#x}", f"{marks.reject:#x}", f"{marks.backend:#x}"
        is_decided = f"meta mark & {flow} != 0"
        is_undecided = f"meta mark & {marks.flow | marks.reject:#x} == 0"
        decision = (marks.flow | marks.backend) ^ 0xFFFFFFFF
        icmp = "icmpv6" if own.family == Family.IPV6 else "icmp"
        lines = [
            *(f"{PORTED} {_frontend(ip)} @{kind} goto {kind}" for kind in SERVED),
            *(f"{ip} daddr {what} goto verdict" for what in _others(own)),
        ]
        hooks = {
            hook: (f"type nat hook {hook} priority -100; policy accept;", *lines)
            for hook in ("prerouting", "output")
        }
        reset = ("meta l4proto tcp reject with tcp reset",) if own.resets_tcp else ()
        return {
            "rejection": (*reset, f"reject with {icmp} port-unreachable"),
            "dnat-by-mark": (),
            "verdict": (
                f"meta mark & {refused} != 0 goto rejection",
                f"{is_decided} meta mark & {index} != 0 jump dnat-by-mark",
                # Its backend has left since the verdict: undecided again.
                f"{is_decided} meta mark & {index} != 0 meta mark set meta mark & {decision:#x} return",
                # Nobody's: it goes on as it is.
                f"{is_decided} meta mark set meta mark & {decision:#x} accept",
            ),
            "standby-dnat": (f"{PORTED} dnat {ip} to {_frontend(ip)} map @standby",),
            "standby-masquerade": (
                "jump verdict",
                f"{is_undecided} meta mark set meta mark | {marks.masquerade:#x} goto standby-dnat",
            ),
            "standby-keep-source": ("jump verdict", f"{is_undecided} goto standby-dnat"),
            "reject-unserved": ("jump verdict", f"{is_undecided} goto rejection"),
            **hooks,
            **(NO_REDIRECTS if own.family == Family.IPV6 else {}),
            "postrouting": (
                "type nat hook postrouting priority srcnat; policy accept;",
                f"meta mark & {marks.masquerade:#x} != 0 masquerade fully-random",
            ),
        }

    def _beyond_nft(self, ip: str) -> dict[str, tuple[str, ...]]:
        """Rules that come by netlink, as nft would write them if it could."""
        first, last = self._queues
        queue = f"to {first}" if first == last else f"to {first}-{last}"
        index, decision = self._marks.backend, (self._marks.flow | self._marks.backend) ^ 0xFFFFFFFF
        return {
            "queue-bypass": (f"queue flags bypass {queue}",),
            "queue-no-bypass": (f"queue {queue}",),
            "dnat-by-mark": (
                f"dnat {ip} to meta mark & {index:#x} map @backends # meta mark set meta mark & {decision:#x}",
            ),
        }


def sets(own: NatTable) -> dict[str, Elements]:
    """Elements by the name of their map or set."""
    addresses: Elements = dict.fromkeys(own.addresses)
    of_standby = served(own.standby, own.standby.frontend_keys)
    return {"backends": numbered(own.backends), **of_standby, "addresses": addresses}


def numbered(backends: Mapping[Address, int]) -> Elements:
    """Elements of the map of backends."""
    return {number: address for address, number in backends.items()}


def served(standby: Standby, frontends: Iterable[FrontendKey]) -> dict[str, Elements]:
    """What the standby says of these frontends, by map or set."""
    found: dict[str, dict[Key, Address | None]] = {name: {} for name in ("standby", *SERVED)}
    for key in frontends:
        target = standby.backends.get(key)
        if target:
            found["standby"][key] = (target.address, target.port)
            found["standby-keep-source" if key in standby.preserved else "standby-masquerade"][
                key
            ] = None
        elif key in standby.unserved:
            found["reject-unserved"][key] = None
    return dict(found)


def encode(family: Family, name: str, elements: Elements, marks: Marks) -> NftElements:
    """Elements of this map or set as the kernel lays them out: registers of four bytes."""
    protocol, step = PROTOCOLS[family], marks.backend & -marks.backend
    length = 16 if family == Family.IPV6 else 4
    frontend, backend, mark = (
        struct.Struct(layout) for layout in (f"!{length}sB3xH2x", f"!{length}sH2x", "=I")
    )
    records = bytearray()
    for key, value in elements.items():
        if isinstance(key, int):
            records += mark.pack(key * step)
        elif isinstance(key, str):
            records += inet_pton(protocol, key)
        else:
            records += frontend.pack(inet_pton(protocol, key[0]), NUMBERS[key[1]], key[2])
        if value is not None:
            records += backend.pack(inet_pton(protocol, value[0]), value[1])
    key_length = {"backends": mark.size, "addresses": length}.get(name, frontend.size)
    value_length = backend.size if name in ("backends", "standby") else 0
    return NftElements(key_length, value_length, bytes(records))


def _shown(key: Key, value: Address | None, marks: Marks) -> str:
    step = marks.backend & -marks.backend
    text = f"{key * step:#x}" if isinstance(key, int) else _text_of(key)
    return f"{text} : {value[0]} . {value[1]}" if value else text


def _text_of(key: FrontendKey | str) -> str:
    return key if isinstance(key, str) else " . ".join(map(str, key))


def _frontend(ip: str) -> str:
    return f"{ip} daddr . meta l4proto . th dport"


def _others(own: NatTable) -> Iterator[str]:
    """Destinations that are ours whatever the port."""
    if own.ranges:
        yield f"{{ {', '.join(own.ranges)} }}"
    yield "@addresses"


PROTOCOLS: Final = {Family.IPV4: int(AF_INET), Family.IPV6: int(AF_INET6)}
"""The kernel's numbers of families."""
FAMILIES: Final = {Family.IPV4: "ip", Family.IPV6: "ip6"}
ADDRESSES: Final = {Family.IPV4: "ipv4_addr", Family.IPV6: "ipv6_addr"}
PORTED: Final = "meta l4proto { tcp, udp, sctp }"
NO_REDIRECTS: Final = {
    # See `diversion`: none may lead a pod around the node.
    "output-redirects": (
        "type filter hook output priority filter; policy accept;",
        "icmpv6 type nd-redirect drop",
    )
}
SERVED: Final = ("standby-masquerade", "standby-keep-source", "reject-unserved")
"""Sets of frontends: each is in one."""
