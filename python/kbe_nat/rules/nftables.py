"""Rules in the kernel by way of `nft`: one table of our own per family, replaced in one
transaction.

The same rules as iptables gets, in nft's words; every base chain stands at the same priority as
iptables' table of that name, those of `raw` right behind it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import permutations
from typing import Final

from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.rule import LAST, TAG, Rule, RuleSet, as_listed, changed


class Nftables:
    """A `RuleInstaller`. The commands act on the network namespace in which `runner` runs them."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._installed: tuple[RuleSet, ...] = ()
        self._listed: dict[Family, str] = {}
        """How nft lists the tables of `_installed`, without their elements."""
        self._elements: dict[str, frozenset[str]] = {}
        """What nft is to say of each set."""

    def install(self, rules: Iterable[RuleSet]) -> None:
        """See `RuleInstaller.install`."""
        wanted = tuple(rules)
        present = self._families()
        self._run([*_absent(present), *(line for own in wanted for line in _table_lines(own))])
        # nft spells a rule as it likes, so its spelling is learned, but only once for the same
        # rules: what others change between writing and reading must not count as ours.
        if changed(self._installed, wanted) is None:
            self._listed = self._learned(wanted)
        self._installed = wanted
        self._elements = {
            name: _listed_elements(own.sets[name]) for own in wanted for name in own.sets
        }

    def update(self, rules: Iterable[RuleSet]) -> None:
        """See `RuleInstaller.update`. Cost: linear in the elements that differ, once they are found."""
        wanted = tuple(rules)
        elements = changed(self._installed, wanted)
        if elements is None:
            self.install(wanted)
            return
        if elements:
            self._run(_delta_lines(elements))
        self._installed = wanted
        for own in wanted:
            for name in own.sets.keys() & elements.keys():
                self._elements[name] = _listed_elements(own.sets[name])

    def missing(self) -> tuple[str, ...]:
        """See `RuleInstaller.missing`. Cost: linear in the elements of all tables: nft reads them to list
        any.
        """
        present = self._families()
        return tuple(
            f"{FAMILIES[number]}: {what}"
            for number in self._listed
            for what in self._differing(number, self._list(number) if number in present else "")
        )

    def remove(self) -> None:
        """See `RuleInstaller.remove`."""
        self._run(_absent(self._families()))
        self._installed, self._listed, self._elements = (), {}, {}

    def is_present(self) -> bool:
        """See `RuleInstaller.is_present`."""
        return bool(self._families())

    def render(self, rules: Iterable[RuleSet]) -> str:
        """See `RuleInstaller.render`."""
        lines = [line for own in rules for line in _table_lines(own)]
        return "".join(f"{line}\n" for line in ("# nft -f -", *lines))

    def _learned(self, wanted: Iterable[RuleSet]) -> dict[Family, str]:
        """How nft lists the tables that were just installed, by family."""
        listed = {own.family: _without_elements(self._list(own.family)) for own in wanted}
        if any(listed[own.family].count(f'comment "{TAG}"') != len(own.rules) for own in wanted):
            raise RulesError("nft: somebody has changed our rules while they were installed")
        return listed

    def _run(self, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        if text:
            self._runner.run(("nft", "-f", "-"), text)

    def _families(self) -> list[Family]:
        """Those in which there is a table of ours."""
        tables = self._runner.run(("nft", "list", "tables")).splitlines()
        return [number for number, name in FAMILIES.items() if f"table {name} {TAG}" in tables]

    def _list(self, number: Family) -> str:
        return self._runner.run(("nft", "list", "table", FAMILIES[number], TAG))

    def _differing(self, number: Family, listed: str) -> Iterator[str]:
        """What of a table, as it is listed now, is not as it should be."""
        before, now = self._listed[number].splitlines(), _without_elements(listed).splitlines()
        gone, come = (Counter(one) - Counter(other) for one, other in permutations((before, now)))
        yield from (line.strip() for line in gone)
        yield from (f"{line.strip()}: not ours" for line in come)
        if before != now and not gone and not come:
            yield "the order of our rules"
        held = {
            name: frozenset(text.split(", "))
            for name, text in HELD.findall(" ".join(listed.split()))
        }
        for name, elements in self._elements.items():
            _, _, kind, family = name.split("-")
            if int(family) == number and held.get(kind, frozenset()) != elements:
                yield f"elements of {kind}"


def _absent(families: Iterable[Family]) -> Iterator[str]:
    return (f"delete table {FAMILIES[number]} {TAG}" for number in families)


def _table_lines(rules: RuleSet) -> Iterator[str]:
    name, address = FAMILIES[rules.family], ADDRESSES[rules.family]
    yield f"table {name} {TAG} {{"
    for set_name, elements in rules.sets.items():
        kind = set_name.split("-")[2]
        yield f"  set {kind} {{"
        yield f"    type {address}{' . inet_proto . inet_service' if kind == 'frontends' else ''}"
        if kind == "refused":
            yield "    flags interval"
        if elements:
            yield f"    elements = {{ {', '.join(map(_element, elements))} }}"
        yield "  }"
    for jump in rules.jumps:
        yield f"  chain {_chain(jump.table, jump.hook)} {{"
        kind = KINDS.get((jump.table, jump.hook), "filter")
        priority = PRIORITIES.get(jump.table, jump.table)
        yield f"    type {kind} hook {jump.hook.lower()} priority {priority}; policy accept;"
        own = [rule for rule in rules.rules if (rule.table, rule.chain) == (jump.table, jump.hook)]
        yield from (f'    {_statement(rule, name)} comment "{TAG}"' for rule in own)
        yield "  }"
    yield "}"


def _delta_lines(elements: Mapping[str, tuple[set[str], set[str]]]) -> Iterator[str]:
    for set_name, (added, removed) in elements.items():
        _, _, kind, number = set_name.split("-")
        place = f"{FAMILIES[Family(int(number))]} {TAG} {kind}"
        for verb, own in (("add", added), ("delete", removed)):
            if own:
                yield f"{verb} element {place} {{ {', '.join(map(_element, sorted(own)))} }}"


def _without_elements(listed: str) -> str:
    return ELEMENTS.sub("", listed)


def _listed_elements(elements: Iterable[str]) -> frozenset[str]:
    return frozenset(map(_element, as_listed(elements)))


def _element(element: str) -> str:
    """From ipset's "address,protocol:port" to nft's "address . protocol . port"."""
    address, comma, port = element.partition(",")
    return " . ".join((address, *port.split(":"))) if comma else address


def _chain(table: str, hook: str) -> str:
    return f"{table}-{hook.lower()}"


def _statement(rule: Rule, name: str) -> str:
    """A rule of iptables in nft's words: its matches and its target."""
    words = list(rule.words)
    parts = []
    while words:
        word = words.pop(0)
        if word == "-m":
            words.pop(0)
        elif word == "-p":
            parts.append(f"meta l4proto {words.pop(0)}")
        elif word == "!":
            name_of, value = words.pop(0), words.pop(0)
            parts.append(NEGATIONS[name_of].format(value if name_of == "-i" else value.lower()))
        elif word == "--match-set":
            kind = words.pop(0).split("-")[2]
            where = (
                f"{name} daddr . meta l4proto . th dport"
                if kind == "frontends"
                else f"{name} daddr"
            )
            parts.append(f"{where} @{kind}")
            words.pop(0)
        elif word == "--mark":
            mark = words.pop(0).partition("/")[0]
            what = "ct" if "connmark" in rule.words else "meta"
            parts.append(f"{what} mark and {mark} == {mark}")
        elif word == "--icmpv6-type":
            parts.append(f"icmpv6 type nd-{words.pop(0)}")
        elif word == "--ctstate":
            parts.append(f"ct state {words.pop(0).lower()}")
        elif word == "--ctdir":
            parts.append(f"ct direction {words.pop(0).lower()}")
        elif word == "-j":
            parts.append(_target(words))
            words = []
        else:
            raise RulesError(f"{word} of a rule of ours is not known in nft")
    return " ".join(parts)


def _target(words: list[str]) -> str:
    match words:
        case ["NFQUEUE", "--queue-num" | "--queue-balance", numbers, *flags]:
            bypass = " bypass" if "--queue-bypass" in flags else ""
            return f"queue{' flags' if bypass else ''}{bypass} to {numbers.replace(':', '-')}"
        case ["CONNMARK", "--set-xmark", mark]:
            return f"ct mark set ct mark or {mark.partition('/')[0]}"
        case ["REJECT", "--reject-with", kind]:
            if kind == "tcp-reset":
                return "reject with tcp reset"
            return (
                f"reject with {'icmpv6' if kind.startswith('icmp6') else 'icmp'} port-unreachable"
            )
        case ["MASQUERADE", "--random-fully"]:
            return "masquerade fully-random"
        case ["RETURN" | "DROP" as verdict]:
            return verdict.lower()
    raise RulesError(f"{' '.join(words)} of a rule of ours is not known in nft")


FAMILIES: Final = {Family.IPV4: "ip", Family.IPV6: "ip6"}
ADDRESSES: Final = {Family.IPV4: "ipv4_addr", Family.IPV6: "ipv6_addr"}
NEGATIONS: Final = {
    "-i": 'iifname != "{}"',
    "--dst-type": "fib daddr type != {}",
    "--ctstatus": "ct status & {0} == 0",
}
"""Of a match with one value."""
KINDS: Final = {("nat", "POSTROUTING"): "nat", ("mangle", "OUTPUT"): "route"}
"""Types of base chains that do more than filter."""
PRIORITIES: Final = {"nat": "srcnat", LAST: f"{LAST} + 10"}
"""Of base chains, where it is not their table's name."""
ELEMENTS: Final = re.compile(r"\n\s*elements = \{[^}]*\}")
HELD: Final = re.compile(r"set (\S+) \{[^{}]*elements = \{ ([^}]*?) \}")
"""A set's name and its elements, in a listing without line breaks."""
PROBE: Final = f"""table ip {TAG}-probe {{
  chain probe {{
    type filter hook prerouting priority raw; policy accept;
    ip daddr 192.0.2.1 queue num 65535
  }}
}}
delete table ip {TAG}-probe
"""
