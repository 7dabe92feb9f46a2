"""One family's table of the kernel's NAT: its maps and sets, its chains, and how nft writes them.

Theory of operation. The first packet of a connection to a frontend passes two hooks of ours:

1. At priority `mangle`, between conntrack's look-up and the kernel's NAT, the chain `new` sends it
   to the queue. The engine's verdict comes back as a mark that holds the backend's id.
2. At NAT's priority the packet takes the chain `frontend`. First `verdict` carries the mark out:
   `dnat-by-mark` looks up the backend and clears the mark in the same rule, or `rejection`
   answers. A packet without a verdict falls back to the standby: `rejection`, if no backend may
   serve every client; else `standby-dnat` looks up the backend of its frontend, or draws one by
   each class of frontends in turn, until the frontend is of that class.

A frontend for which the kernel always chooses takes the same way, but for two things: `choice`
lets a first packet past the queue, unless it is in the middle of a connection, about which the
engine may know more; and clients that are pods keep their source at a cluster IP, as by the engine.
A pod that so reaches itself is masqueraded behind the translation, by its pair of addresses.

A packet that belongs to no connection (`ct state invalid`) and goes to a frontend is dropped. So
is, as by kube-proxy's iptables mode, one that the node would forward: an endpoint's answer that
conntrack does not take for its connection's leaves untranslated otherwise, and its client resets
the connection. Both are looked at where first packets are, so established ones meet no further
rule.

Each rule sees a map or set as it is in that moment. A packet may come while a transaction moves its
frontend, miss it where it will be, and then where it was. So one look-up in `frontends` says
whether a packet is ours, in which the frontend stays whatever else changes about it; and a packet
that is ours and finds no backend is dropped. Its client sends it again. To let it go on would give
its connection no translation for good.

The queue's chain must be another one than NAT's, and ahead of it. NFQUEUE ends its chain: a packet
that bypasses the queue, or comes back from it, continues at the next hook, where both cases meet.

The kernel calls NAT chains for first packets only, and conntrack translates the later ones. An
established packet therefore meets one comparison of its connection's state.

Invariants: all frontends are in `frontends`, and each is in one of `KIND_SETS` at most; those that
are served have a backend in `standby`, or in `standby-slots` one for every slot of one class; no
packet leaves the NAT hook with the mark of a verdict, so routing never sees it. `ranges` and
`addresses` hold destinations without a frontend. They have no standby: such packets wait for the
engine's verdict, and are dropped while no process listens.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from kbe_nat.family import Family
from kbe_nat.policy.plan import BackendAddress
from kbe_nat.rules.nat_sets import (
    CHOICE_SETS,
    MAPS,
    SET_TYPES,
    Elements,
    NatSet,
    backend_elements,
    element_text,
    quiet_elements,
    standby_elements,
)
from kbe_nat.rules.rule import Marks
from kbe_nat.rules.slots import SlotClass
from kbe_nat.rules.standby import Standby


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The rules by which the kernel always chooses for some frontends."""

    classes: frozenset[SlotClass] = frozenset()
    """Of these frontends."""
    pod_ranges: tuple[str, ...] = ()
    """By which pods are told from other clients: ranges of the family, none within another."""
    pod_device: str = ""
    """The beginning of the names of pods' devices, in the place of ranges."""
    masquerades_all: bool = False
    """All clients are masqueraded, pods too."""
    tells_updates: bool = False
    """The kernel tells listeners of every change of such a flow that begins from now on, not of its
    beginning and end alone.
    """


@dataclass(frozen=True, slots=True)
class NatTable:
    """The contents of one family's table."""

    family: Family
    backends: Mapping[BackendAddress, int] = field(default_factory=dict)
    """With their ids."""
    standby: Standby = field(default_factory=dict)
    """Has a decision for every frontend."""
    ranges: tuple[str, ...] = ()
    """Ranges of cluster IPs; packets for any port there are queued."""
    addresses: Collection[str] = ()
    """Cluster IPs outside of the ranges, with the same effect."""
    resets_tcp: bool = False
    slot_classes: tuple[SlotClass, ...] = ()
    """Empty: the kernel draws nothing, and no frontend has slots."""
    hairpins: Collection[str] = ()
    """Addresses of backends that may reach themselves through frontends of the kernel's choice."""
    choice: KernelChoice | None = None
    """None: the kernel always chooses for no frontend."""
    hash_seed: int = 0
    """By which clients are hashed to slots, 32 bits."""
    drops_invalid: bool = False
    """Packets that belong to no connection are not forwarded."""

    @property
    def shape(self) -> object:
        """The values that are in rules: another shape needs another table. Rules of classes come by
        themselves.
        """
        choice = self.choice and replace(self.choice, classes=frozenset(), tells_updates=False)
        return (
            self.ranges,
            self.resets_tcp,
            self.slot_classes,
            choice,
            self.hash_seed,
            self.drops_invalid,
        )


class NatTableWriter:
    """Writes tables, which are the same for every family and plan but for elements, addresses, and
    the answers to rejected packets.
    """

    def __init__(self, marks: Marks, queues: tuple[int, int]) -> None:
        """`queues` are the first and the last number."""
        first, last = queues
        self._marks = marks
        self._queues = f"{first}" if first == last else f"{first}-{last}"
        self._has_fanout = first < last
        self._keep = (marks.flow | marks.backend) ^ 0xFFFFFFFF
        """The bits of the packet mark that are no verdict."""

    def lines(self, table: NatTable, name: str, *, asleep: bool = False) -> Iterator[str]:
        """The table in nft's words: asleep, empty, and without the rules that nft cannot write; or
        with everything, as nft would write it if it could.
        """
        ip, address = FAMILIES[table.family], ADDRESSES[table.family]
        yield f"table {ip} {name} {{"
        if asleep:
            yield "  flags dormant"
        yield f"  counter {INVALID_COUNTER} {{"
        yield "  }"
        for set_name, elements in sets(table).items():
            yield f"  {'map' if set_name in MAPS else 'set'} {set_name} {{"
            yield f"    {SET_TYPES[set_name].format(address=address, ip=ip)}"
            if elements and not asleep:
                texts = (
                    element_text(set_name, *element, self._marks) for element in elements.items()
                )
                yield f"    elements = {{ {', '.join(texts)} }}"
            yield "  }"
        netlink_rules = {} if asleep else self._netlink_rules(ip)
        chains = self._queue_chains(table, ip) | self._nat_chains(table, ip, asleep)
        for chain, lines in chains.items():
            yield f"  chain {chain} {{"
            yield from (f"    {line}" for line in (*lines, *netlink_rules.get(chain, ())))
            yield "  }"
        yield "}"

    def _queue_chains(self, table: NatTable, ip: str) -> dict[str, tuple[str, ...]]:
        """Chains that lead to the queue, between the kernel's connection tracking and its NAT."""
        lines = (
            # A confirmed connection has its translation, also before it was answered.
            "ct status & confirmed != 0 accept",
            f"{_ours(ip)} goto queue-bypass",
            *(f"{ip} daddr {text} goto queue-no-bypass" for text in _portless(table)),
            # Answers, too, of a connection that others have deleted from conntrack.
            f"ct state new {IN_THE_MIDDLE} goto queue-bypass",
        )
        arriving = "new-to-forward" if table.drops_invalid else "new"
        hooks = {
            f"{hook}-new": (
                f"type filter hook {hook} priority mangle; policy accept;",
                # An untracked packet is not to be translated: another program serves it.
                f"ct state new,invalid goto {chain}",
            )
            for hook, chain in (("prerouting", arriving), ("output", "new"))
        }
        choice = {
            # The kernel makes some six messages about the changes of a connection, the first while
            # its client waits, if anybody listens. Connect times need them, and are not measured
            # here; who watches flows does.
            "choice-accept": (
                f"meta l4proto @{NatSet.CHOICE_QUIET} ct event set new,destroy",
                "accept",
            ),
            "choice": tuple(f"{_frontend(ip)} @{name} goto choice-accept" for name in CHOICE_SETS),
        }
        return {
            **(choice if table.choice else {}),
            "queue-bypass": (
                *(OPENINGS if table.choice else ()),
                f"ct state invalid {DROP_INVALID}",
            ),
            "queue-no-bypass": (),
            "new": lines,
            **({arriving: ("jump new", FORWARD_NO_INVALID)} if table.drops_invalid else {}),
            **hooks,
        }

    def _nat_chains(self, table: NatTable, ip: str, is_asleep: bool) -> dict[str, tuple[str, ...]]:
        """Chains that carry verdicts out, and those of the standby. Only first packets come to
        them.
        """
        hook_lines = (
            f"{_ours(ip)} goto frontend",
            *(f"{ip} daddr {text} goto verdict" for text in _portless(table)),
            # One of a connection that the engine does not know goes on as it is.
            f"{IN_THE_MIDDLE} {self._verdict_lines()[-1]}",
        )
        icmp = "icmpv6" if table.family == Family.IPV6 else "icmp"
        reset = ("meta l4proto tcp reject with tcp reset",) if table.resets_tcp else ()
        return {
            "rejection": (*reset, f"reject with {icmp} port-unreachable"),
            "dnat-by-mark": (),
            "verdict": self._verdict_lines(),
            **self._standby_chains(table, ip, is_asleep),
            **{
                hook: (f"type nat hook {hook} priority {NAT_PRIORITY}; policy accept;", *hook_lines)
                for hook in ("prerouting", "output")
            },
            **(NO_REDIRECTS if table.family == Family.IPV6 else {}),
            "postrouting": (
                "type nat hook postrouting priority srcnat; policy accept;",
                f"meta mark & {self._marks.masquerade:#x} != 0 masquerade fully-random",
                *((HAIRPIN.format(ip=ip),) if table.choice else ()),
            ),
        }

    def _verdict_lines(self) -> tuple[str, ...]:
        marks = self._marks
        has_verdict = f"meta mark & {marks.flow:#x} != 0"
        has_backend = f"{has_verdict} meta mark & {marks.backend:#x} != 0"
        clear_mark = f"meta mark set meta mark & {self._keep:#x}"
        return (
            f"meta mark & {marks.reject:#x} != 0 goto rejection",
            f"{has_backend} jump dnat-by-mark",
            # The packet is still here, so its backend has left since the verdict: no verdict.
            f"{has_backend} {clear_mark} return",
            # No backend: the packet goes on as it is.
            f"{has_verdict} {clear_mark} accept",
        )

    def _standby_chains(
        self, table: NatTable, ip: str, is_asleep: bool
    ) -> dict[str, tuple[str, ...]]:
        masquerade = f"meta mark set meta mark | {self._marks.masquerade:#x}"
        choice_sets = CHOICE_SETS if table.choice else ()
        return {
            "standby-dnat": (
                _one_backend(ip),
                *_class_lines(table, table.slot_classes),
                "drop",
            ),
            **(self._choice_chains(table, table.choice, is_asleep) if table.choice else {}),
            "frontend": (
                # It ends here, unless the packet has no verdict.
                "jump verdict",
                *(f"{_frontend(ip)} @{name} goto {name}" for name in choice_sets),
                f"{_frontend(ip)} @{NatSet.STANDBY_KEEP_SOURCE} goto standby-dnat",
                f"{_frontend(ip)} @{NatSet.REJECT_UNSERVED} goto rejection",
                f"{masquerade} goto standby-dnat",
            ),
        }

    def _choice_chains(
        self, table: NatTable, choice: KernelChoice, is_asleep: bool
    ) -> dict[str, tuple[str, ...]]:
        """Chains for whose frontends the kernel always chooses."""
        masquerade = f"meta mark set meta mark | {self._marks.masquerade:#x} goto choice-dnat"
        if choice.masquerades_all:
            lines = [masquerade]
        elif choice.pod_device:
            lines = [f'iifname != "{choice.pod_device}*" {masquerade}', "goto choice-dnat"]
        elif choice.pod_ranges:
            ranges = ", ".join(choice.pod_ranges)
            lines = [
                f"{FAMILIES[table.family]} saddr != {{ {ranges} }} {masquerade}",
                "goto choice-dnat",
            ]
        else:
            # As kube-proxy: without a way to tell pods nobody is masqueraded.
            lines = ["goto choice-dnat"]
        return {
            CHOICE_CHAIN: (
                # Those of a table that is asleep come by netlink, as those that come later.
                *([] if is_asleep else _class_lines(table, sorted(choice.classes))),
                _one_backend(FAMILIES[table.family]),
                "drop",
            ),
            NatSet.CHOICE_MASQUERADE: (masquerade,),
            NatSet.CHOICE_CLUSTER_IP: tuple(lines),
        }

    def _netlink_rules(self, ip: str) -> dict[str, tuple[str, ...]]:
        """Rules that come by netlink, as nft would write them if it could."""
        mark = f"meta mark & {self._marks.backend:#x}"
        return {
            "queue-bypass": (self._queue("bypass"),),
            "queue-no-bypass": (self._queue(),),
            "dnat-by-mark": (
                f"dnat {ip} to {mark} map @{NatSet.BACKENDS}"
                f" # meta mark set meta mark & {self._keep:#x}",
            ),
        }

    def _queue(self, *flags: str) -> str:
        words = ",".join((*flags, *(("fanout",) if self._has_fanout else ())))
        return f"queue {f'flags {words} ' if words else ''}to {self._queues}"


def sets(table: NatTable) -> dict[NatSet, Elements]:
    """Elements by the name of their map or set, of those that the table has."""
    contents: dict[NatSet, Elements] = {
        NatSet.BACKENDS: backend_elements(table.backends),
        **standby_elements(table.standby),
        NatSet.CHOICE_QUIET: quiet_elements(
            table.choice is not None and table.choice.tells_updates
        ),
        NatSet.HAIRPINS: dict.fromkeys(table.hairpins),
        NatSet.ADDRESSES: dict.fromkeys(table.addresses),
        NatSet.HASH_SEED: {table.hash_seed: None},
    }
    if not table.slot_classes:
        del contents[NatSet.STANDBY_SLOTS]
    if not table.choice:
        for name in (*CHOICE_SETS, NatSet.CHOICE_QUIET, NatSet.HAIRPINS):
            del contents[name]
    return contents


def _frontend(ip: str) -> str:
    return f"{ip} daddr . meta l4proto . th dport"


def _ours(ip: str) -> str:
    """Says in one look-up whether a packet is for a frontend."""
    return f"{PORTED} {_frontend(ip)} @{NatSet.FRONTENDS}"


def _one_backend(ip: str) -> str:
    """The rule for frontends with one backend. Others pass it by, as they do those of classes."""
    return f"{PORTED} dnat {ip} to {_frontend(ip)} map @{NatSet.STANDBY}"


def _class_lines(table: NatTable, classes: Iterable[SlotClass]) -> Iterator[str]:
    """The rule for frontends of each class."""
    ip = FAMILIES[table.family]
    for size, is_by_source, first in classes:
        # Without a seed of ours the kernel takes another one for each rule: its listing would
        # differ from the first, and a client change its backend with every new table. Clients must
        # not know the seed: they could choose addresses that all come to one backend.
        hashed = f"jhash {ip} saddr mod {size} seed {table.hash_seed:#x}"
        slot = f"{hashed if is_by_source else f'numgen random mod {size}'} offset {first}"
        yield f"{PORTED} dnat {ip} to {_frontend(ip)} . {slot} map @{NatSet.STANDBY_SLOTS}"


def _portless(table: NatTable) -> Iterator[str]:
    """Destinations that are ours whatever the port."""
    if table.ranges:
        yield f"{{ {', '.join(table.ranges)} }}"
    yield f"@{NatSet.ADDRESSES}"


FAMILIES: Final = {Family.IPV4: "ip", Family.IPV6: "ip6"}
ADDRESSES: Final = {Family.IPV4: "ipv4_addr", Family.IPV6: "ipv6_addr"}
PORTED: Final = "meta l4proto { tcp, udp, sctp }"
NAT_PRIORITY: Final = "-110"
"""Ahead of -100, where other proxies and CNIs translate: the first translation counts, and a packet
that another one had translated would keep the mark of our verdict.
"""
NO_REDIRECTS: Final = {
    # A redirect would lead a pod around the node; see `diversion`.
    "output-redirects": (
        "type filter hook output priority filter; policy accept;",
        "icmpv6 type nd-redirect drop",
    )
}
CHOICE_CHAIN: Final = "choice-dnat"
"""The chain with the rules of classes of frontends for which the kernel always chooses."""
INVALID_COUNTER: Final = "invalid-dropped"
DROP_INVALID: Final = f'counter name "{INVALID_COUNTER}" drop'
FORWARD_NO_INVALID: Final = f"ct state invalid {PORTED} fib daddr type unicast {DROP_INVALID}"
"""Ahead of routing, which the look-up asks: other hooks would cost established packets a rule. What
is for the node itself goes on, as with kube-proxy.
"""
OPENINGS: Final = (
    "ct state new tcp flags & (fin | syn | rst | ack) == syn jump choice",
    "ct state new meta l4proto { udp, sctp } jump choice",
)
"""Packets with which a flow begins. Conntrack calls others new too, in the middle of a connection
that it does not know.
"""
IN_THE_MIDDLE: Final = "tcp flags & (syn | rst) == 0x0"
HAIRPIN: Final = "ct status dnat {ip} saddr . {ip} daddr @hairpins masquerade fully-random"
