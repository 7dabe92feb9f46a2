"""The kernel's own translation, by way of `nft`: a table per family with a few rules, and maps that grow.

A first packet's mark names the backend that was chosen. One that nobody has decided about is served by the
standby.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from kbe_nat.model import IPV4, IPV6
from kbe_nat.policy import Target
from kbe_nat.rules import TAG, Marks
from kbe_nat.rules.execution import Runner
from kbe_nat.rules.standby import Frontend, Standby

TABLE: Final = f"{TAG}-translation"


@dataclass(frozen=True, slots=True)
class Translation:
    """What the kernel translates to, for one family."""

    family: int
    backends: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Their numbers."""
    standby: Standby = field(default_factory=Standby)


class Translations:
    """The tables in the kernel. All methods raise `RulesError`."""

    def __init__(self, runner: Runner, marks: Marks) -> None:
        self._runner = runner
        self._marks = marks
        self._installed: dict[int, dict[str, dict[str, str]]] = {}
        """Elements with their values, by family and name of map or set."""
        self._listed: dict[int, str] = {}

    def install(self, wanted: Iterable[Translation]) -> None:
        """Make these our tables, in place of any that an earlier run has left."""
        own = list(wanted)
        lines = [*_absent(self._families()), *(line for one in own for line in self._table(one))]
        self._run(lines)
        self._installed = {one.family: _elements(one, self._marks) for one in own}
        self._listed = {number: self._list(number) for number in self._installed}

    def update(self, wanted: Iterable[Translation]) -> None:
        """As `install`, but when the families are the same, only elements that differ are touched."""
        own = {one.family: _elements(one, self._marks) for one in wanted}
        if own.keys() != self._installed.keys():
            self.install(wanted)
            return
        self._run(
            line for number, sets in own.items() for line in _delta(number, self._installed[number], sets)
        )
        self._installed = own

    def missing(self) -> tuple[str, ...]:
        """What of the tables is not in the kernel as it should be."""
        present = self._families()
        gone = []
        for number, listed in self._listed.items():
            now = self._list(number).splitlines() if number in present else []
            lines = Counter(listed.splitlines()) - Counter(now)
            gone += [f"{FAMILIES[number]} {TABLE}: {line.strip()}" for line in lines]
        return tuple(gone)

    def remove(self) -> None:
        """Take the tables away, if there are any."""
        self._run(_absent(self._families()))
        self._installed, self._listed = {}, {}

    def render(self, wanted: Iterable[Translation]) -> str:
        """The input of the command that would install these tables where there are none."""
        return "".join(
            f"{line}\n" for line in ("# nft -f -", *(x for one in wanted for x in self._table(one)))
        )

    def _run(self, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        if text:
            self._runner.run(("nft", "-f", "-"), text)

    def _families(self) -> list[int]:
        tables = self._runner.run(("nft", "list", "tables")).splitlines()
        return [number for number, name in FAMILIES.items() if f"table {name} {TABLE}" in tables]

    def _list(self, number: int) -> str:
        return self._runner.run(("nft", "--terse", "list", "table", FAMILIES[number], TABLE))

    def _table(self, own: Translation) -> Iterator[str]:
        ip, address = FAMILIES[own.family], ADDRESSES[own.family]
        frontend = f"{address} . inet_proto . inet_service"
        types = {
            "backends": ("map", f"mark : {address} . inet_service"),
            "standby": ("map", f"{frontend} : {address} . inet_service"),
            "masqueraded": ("set", frontend),
            "preserved": ("set", frontend),
            "unserved": ("set", frontend),
        }
        yield f"table {ip} {TABLE} {{"
        for name, elements in _elements(own, self._marks).items():
            kind, of = types[name]
            yield f"  {kind} {name} {{"
            yield f"    type {of}"
            if elements:
                yield f"    elements = {{ {', '.join(_whole(*pair) for pair in elements.items())} }}"
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


def _elements(own: Translation, marks: Marks) -> dict[str, dict[str, str]]:
    """Elements with their values, by name of map or set; values of sets are empty."""
    step = marks.index & -marks.index
    stand = own.standby
    return {
        "backends": {
            f"{number * step:#x}": f"{address} . {port}" for (address, port), number in own.backends.items()
        },
        "standby": {_frontend(key): _target(target) for key, target in stand.backends.items()},
        "masqueraded": {_frontend(key): "" for key in stand.backends if key not in stand.preserved},
        "preserved": {_frontend(key): "" for key in stand.preserved},
        "unserved": {_frontend(key): "" for key in stand.unserved},
    }


def _delta(number: int, before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> Iterator[str]:
    """Removals come first: an element cannot be there with two values."""
    for verb, one, other in (("delete", before, after), ("add", after, before)):
        for name, elements in one.items():
            differing = elements.items() - other[name].items()
            if differing:
                own = ", ".join(
                    key if verb == "delete" else _whole(key, value) for key, value in sorted(differing)
                )
                yield f"{verb} element {FAMILIES[number]} {TABLE} {name} {{ {own} }}"


def _frontend(frontend: Frontend) -> str:
    return " . ".join(map(str, frontend))


def _target(target: Target) -> str:
    return f"{target.address} . {target.port}"


def _whole(key: str, value: str) -> str:
    return f"{key} : {value}" if value else key


def _absent(families: Iterable[int]) -> Iterator[str]:
    return (f"delete table {FAMILIES[number]} {TABLE}" for number in families)


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
