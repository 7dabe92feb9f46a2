"""The kernel's own translation: a table per family with a few rules, and maps that grow.

A first packet's mark names the backend that was chosen. One that nobody has decided about is served by the
standby. `nft` makes a table once, asleep; what changes goes to the kernel by netlink, since nft looks at every
element of every table before it lists one.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

from kbe_nat._native import NftTables
from kbe_nat.model import IPV4, IPV6
from kbe_nat.packet import NUMBERS
from kbe_nat.rules import TAG, Marks
from kbe_nat.rules.execution import Runner
from kbe_nat.rules.numbering import Address
from kbe_nat.rules.standby import Frontend, Standby

PREFIX: Final = f"{TAG}-translation-"
"""Every table of ours here begins so; there are two for a moment while one takes the other's place."""


@dataclass(frozen=True, slots=True)
class Translation:
    """What the kernel translates to, for one family."""

    family: int
    backends: Mapping[Address, int] = field(default_factory=dict)
    """Their numbers."""
    standby: Standby = field(default_factory=Standby)


@dataclass(frozen=True, slots=True)
class TranslationChange:
    """What is to be different, for one family."""

    family: int
    added: Mapping[Address, int] = field(default_factory=dict)
    """Backends that come, with their numbers."""
    removed: Mapping[Address, int] = field(default_factory=dict)
    """Backends that go."""
    standby: Standby | None = None
    """None: as it was."""


class Translations:
    """The tables in the kernel. All methods raise `RulesError`."""

    def __init__(self, runner: Runner, tables: NftTables, marks: Marks) -> None:
        """`runner` runs nft in the network namespace of `tables`."""
        self._runner = runner
        self._tables = tables
        self._marks = marks
        self._installed: dict[int, _Installed] = {}
        """By family."""
        self._generation: int | None = None
        """Of the kernel's tables when ours were last as they should be; None: that is to be looked at."""

    @property
    def families(self) -> frozenset[int]:
        """Those that are installed."""
        return frozenset(self._installed)

    def install(self, wanted: Iterable[Translation]) -> None:
        """Make these our tables, in place of any that an earlier run has left, from one packet to the next."""
        own = list(wanted)
        earlier = set(self._present())
        awake = {name for _, name, is_dormant in earlier if not is_dormant}
        name = next(f"{PREFIX}{n}" for n in range(len(awake) + 1) if f"{PREFIX}{n}" not in awake)
        # Left by a run that ended before they woke up.
        asleep = [(number, table) for number, table, is_dormant in earlier if is_dormant]
        self._tables.commit(deleted=[(PROTOCOLS[number], table) for number, table in asleep])
        for one in own:
            self._runner.run(("nft", "-f", "-"), _text(self._table(one, name, asleep=True)))
        sets = {one.family: _sets(one) for one in own}
        self._tables.commit(
            added=[
                ((PROTOCOLS[number], name), *_records(number, set_name, elements, self._marks))
                for number, some in sets.items()
                for set_name, elements in some.items()
                if elements
            ],
            deleted=[(PROTOCOLS[number], table) for number, table, is_dormant in earlier if not is_dormant],
            activated=[(PROTOCOLS[one.family], name) for one in own],
        )
        # The kernel has it; whatever else has changed meanwhile is seen at the next look.
        self._generation = None
        self._installed = {
            one.family: _Installed(
                name,
                one.standby,
                {set_name: len(elements) for set_name, elements in sets[one.family].items()},
                self._tables.rules(PROTOCOLS[one.family], name),
            )
            for one in own
        }

    def update(self, changes: Iterable[TranslationChange]) -> None:
        """Change elements, all in one transaction. Cost: linear in these, and in the frontends that a new
        standby has.
        """
        removed: list[_Records] = []
        added: list[_Records] = []
        sizes: dict[int, dict[str, int]] = {}
        own = list(changes)
        for change in own:
            installed = self._installed[change.family]
            table = (PROTOCOLS[change.family], installed.name)
            sizes[change.family] = dict(installed.sizes)
            for set_name, gone, new in _differences(change, installed.standby):
                sizes[change.family][set_name] += len(new) - len(gone)
                for elements, into in ((gone, removed), (new, added)):
                    if elements:
                        into.append((table, *_records(change.family, set_name, elements, self._marks)))
        if removed or added:
            with self._one_transaction():
                self._tables.commit(removed=removed, added=added)
        for change in own:
            installed = self._installed[change.family]
            installed.sizes = sizes[change.family]
            if change.standby is not None:
                installed.standby = change.standby

    def missing(self) -> tuple[str, ...]:
        """What of the tables is not in the kernel as it should be. Costs nothing unless somebody has changed a
        table since it was looked at last.
        """
        if not self._installed:
            return ()
        generation = self._tables.generation()
        if generation == self._generation:
            return ()
        gone = [
            f"{FAMILIES[number]} {own.name}: {what}"
            for number, own in self._installed.items()
            for what in self._missing(PROTOCOLS[number], own)
        ]
        self._generation = None if gone else generation
        return tuple(gone)

    def remove(self) -> None:
        """Take the tables away, if there are any."""
        self._installed = {}
        present = [(PROTOCOLS[number], name) for number, name, _ in self._present()]
        if present:
            self._tables.commit(deleted=present)

    def render(self, wanted: Iterable[Translation]) -> str:
        """The input of the command that would install these tables where there are none."""
        return _text(["# nft -f -", *(line for one in wanted for line in self._table(one, f"{PREFIX}0"))])

    @contextmanager
    def _one_transaction(self) -> Iterator[None]:
        """The block's only one. If it was the kernel's only one too, our tables are still as they should be."""
        before = self._tables.generation()
        yield
        is_alone = before == self._generation and self._tables.generation() == before + 1
        self._generation = before + 1 if is_alone else None

    def _present(self) -> list[tuple[int, str, bool]]:
        """Family and name of every table of ours, and whether it sleeps."""
        return [
            (number, name, is_dormant)
            for number, protocol in PROTOCOLS.items()
            for name, is_dormant in self._tables.names(protocol)
            if name.startswith(PREFIX)
        ]

    def _missing(self, protocol: int, own: "_Installed") -> Iterator[str]:
        if (own.name, False) not in self._tables.names(protocol):
            yield "the table"
            return
        rules = self._tables.rules(protocol, own.name)
        yield from (f"chain {name}" for name, value in own.rules.items() if rules.get(name) != value)
        for name, size in own.sizes.items():
            if self._tables.count(protocol, own.name, name) != size:
                yield f"elements of {name}"

    def _table(self, own: Translation, name: str, *, asleep: bool = False) -> Iterator[str]:
        """With all elements, or asleep and empty."""
        ip, address = FAMILIES[own.family], ADDRESSES[own.family]
        frontend = f"{address} . inet_proto . inet_service"
        types = {
            "backends": ("map", f"mark : {address} . inet_service"),
            "standby": ("map", f"{frontend} : {address} . inet_service"),
            "masqueraded": ("set", frontend),
            "preserved": ("set", frontend),
            "unserved": ("set", frontend),
        }
        yield f"table {ip} {name} {{"
        if asleep:
            yield "  flags dormant"
        for set_name, elements in _sets(own).items():
            kind, of = types[set_name]
            yield f"  {kind} {set_name} {{"
            yield f"    type {of}"
            if elements and not asleep:
                shown = (_shown(key, value, self._marks) for key, value in elements.items())
                yield f"    elements = {{ {', '.join(shown)} }}"
            yield "  }"
        yield from self._chains(ip)
        yield "}"

    def _chains(self, ip: str) -> Iterator[str]:
        marks = self._marks
        flow, refused, index = f"{marks.flow:#x}", f"{marks.refused:#x}", f"{marks.index:#x}"
        is_decided = f"meta mark & {flow} != 0"
        is_undecided = f"meta mark & {marks.flow | marks.refused:#x} == 0"
        ours = f"ct mark set ct mark | {flow}"
        ported = "meta l4proto { tcp, udp, sctp }"
        frontend = f"{ip} daddr . meta l4proto . th dport"
        masquerade = f"meta mark set meta mark | {marks.masquerade:#x}"
        without = "meta mark set meta mark & {:#x}"
        decision = (marks.flow | marks.index) ^ 0xFFFFFFFF
        chains: dict[str, tuple[str, ...]] = {
            "decided": (
                f"{ported} {is_decided} meta mark & {index} != 0 {ours}"
                f" dnat {ip} to meta mark & {index} map @backends",
                # Nobody's: it goes on as it is.
                f"{is_decided} {without.format(decision)} accept",
            ),
            "by-itself": (ours, f"{ported} dnat {ip} to {frontend} map @standby"),
            "masqueraded": ("jump decided", f"{is_undecided} {masquerade} goto by-itself"),
            "preserved": ("jump decided", f"{is_undecided} goto by-itself"),
            "unserved": ("jump decided", f"{is_undecided} meta mark set meta mark | {refused}"),
        }
        for hook in ("prerouting", "output"):
            chains[hook] = (
                f"type nat hook {hook} priority -100; policy accept;",
                *(
                    f"{ported} {frontend} @{name} goto {name}"
                    for name in ("masqueraded", "preserved", "unserved")
                ),
            )
            # Others use these bits too, behind here.
            chains[f"{hook}-behind"] = (
                f"type filter hook {hook} priority -99; policy accept;",
                f"ct state new ct mark & {flow} != 0 {is_decided} {without.format(decision)}",
            )
        for name, lines in chains.items():
            yield f"  chain {name} {{"
            yield from (f"    {line}" for line in lines)
            yield "  }"


@dataclass(slots=True)
class _Installed:
    """A table in the kernel."""

    name: str
    standby: Standby
    sizes: dict[str, int]
    """Numbers of elements."""
    rules: dict[str, int]
    """What the kernel says of each chain."""


_Records = tuple[tuple[int, str], str, int, int, bytes]
"""Family and name of a table, a set's name, lengths of keys and values, and elements."""
Key = int | Frontend
"""A backend's number, or a frontend."""
Elements = Mapping[Key, Address | None]
"""With their values; those of sets have none."""


def _sets(own: Translation) -> dict[str, Elements]:
    """Elements by the name of their map or set."""
    return {"backends": _numbered(own.backends), **_served(own.standby)}


def _numbered(backends: Mapping[Address, int]) -> Elements:
    return {number: address for address, number in backends.items()}


def _served(standby: Standby) -> dict[str, Elements]:
    return {
        "standby": {key: (target.address, target.port) for key, target in standby.backends.items()},
        "masqueraded": dict.fromkeys(key for key in standby.backends if key not in standby.preserved),
        "preserved": dict.fromkeys(standby.preserved),
        "unserved": dict.fromkeys(standby.unserved),
    }


def _differences(change: TranslationChange, before: Standby) -> Iterator[tuple[str, Elements, Elements]]:
    """By map or set, the elements that go and those that come."""
    yield "backends", _numbered(change.removed), _numbered(change.added)
    if change.standby is not None and change.standby != before:
        new = _served(change.standby)
        for name, old in _served(before).items():
            gone = {
                key: value for key, value in old.items() if key not in new[name] or new[name][key] != value
            }
            yield (
                name,
                gone,
                {key: value for key, value in new[name].items() if key not in old or old[key] != value},
            )


def _records(family: int, name: str, elements: Elements, marks: Marks) -> tuple[str, int, int, bytes]:
    """Name, lengths of keys and values, and elements as the kernel lays them out: registers of four bytes."""
    protocol, step = PROTOCOLS[family], marks.index & -marks.index
    length = 16 if family == IPV6 else 4
    frontend, target, mark = (
        struct.Struct(layout) for layout in (f"!{length}sB3xH2x", f"!{length}sH2x", "=I")
    )
    laid_out = bytearray()
    for key, value in elements.items():
        if isinstance(key, int):
            laid_out += mark.pack(key * step)
        else:
            laid_out += frontend.pack(inet_pton(protocol, key[0]), NUMBERS[key[1]], key[2])
        if value is not None:
            laid_out += target.pack(inet_pton(protocol, value[0]), value[1])
    key_size = (mark if name == "backends" else frontend).size
    return name, key_size, target.size if name in ("backends", "standby") else 0, bytes(laid_out)


def _shown(key: Key, value: Address | None, marks: Marks) -> str:
    step = marks.index & -marks.index
    text = f"{key * step:#x}" if isinstance(key, int) else " . ".join(map(str, key))
    return f"{text} : {value[0]} . {value[1]}" if value else text


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


PROTOCOLS: Final = {IPV4: int(AF_INET), IPV6: int(AF_INET6)}
"""The kernel's numbers of families."""
FAMILIES: Final = {IPV4: "ip", IPV6: "ip6"}
ADDRESSES: Final = {IPV4: "ipv4_addr", IPV6: "ipv6_addr"}
PROBE: Final = f"""table ip {TAG}-probe {{
  map backends {{
    type mark : ipv4_addr . inet_service
  }}
  chain probe {{
    type nat hook prerouting priority -100; policy accept;
    ip daddr 192.0.2.1 meta l4proto {{ tcp, udp, sctp }} dnat ip to meta mark & 0xff map @backends
  }}
}}
delete table ip {TAG}-probe
"""
"""In one transaction, which leaves nothing."""
