"""Rules in the kernel by way of `nft`: one table of our own per family, replaced in one
transaction.

nft's base chains stand at the same hooks and priorities as iptables' tables, those of `raw` right
behind it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.rules import nft_tables
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.nft_statements import FAMILIES, element_text, table_lines
from kbe_nat.rules.rule import TAG, Element, RuleSet, SetChange, SetKind, canonical, shapes


class Nftables:
    """A `RuleInstaller`. The commands act on the network namespace in which `runner` runs them."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._shapes: tuple[RuleSet, ...] = ()
        """The rules that were installed last, with empty sets."""
        self._tables: dict[Family, str] = {}
        """How nft lists their tables, without elements."""
        self._elements: dict[Family, dict[SetKind, set[str]]] = {}
        """By family and set, its elements as nft lists them."""

    def require_commands(self) -> str:
        """See `RuleInstaller.require_commands`."""
        self._runner.run(nft_tables.LIST)
        return "nft"

    def probe(self) -> str:
        """See `RuleInstaller.probe`: many kernels have no queue statement."""
        # One transaction makes the table and deletes it.
        try:
            self._runner.run(RUN, PROBE)
        except RulesError:
            # Raises when nft itself does not work, or not for us.
            self._runner.run(RUN, PLAIN_PROBE)
            raise RulesError("the kernel has no queue statement (nft_queue)") from None
        return "nft (the kernel has its queue statement)"

    def install(self, rules: Iterable[RuleSet]) -> None:
        """See `RuleInstaller.install`."""
        wanted = tuple(rules)
        present = self._families()
        self._run(
            [*_delete_lines(present), *(line for rules in wanted for line in table_lines(rules))]
        )
        # nft spells a rule as it likes, so its spelling is read back, but only once for the same
        # rules: a foreign change between writing and reading must not pass for ours.
        if self._shapes != shapes(wanted):
            self._tables = self._read_back(wanted)
        self._shapes = shapes(wanted)
        self._elements = {
            rules.family: {kind: _listed(elements) for kind, elements in rules.sets.items()}
            for rules in wanted
        }

    def change(self, changes: Iterable[SetChange]) -> None:
        """See `RuleInstaller.change`."""
        changes = list(changes)
        if changes:
            self._run(_change_lines(changes))
        for family, kind, added, removed in changes:
            elements = self._elements[family][kind]
            elements -= _listed(removed)
            elements |= _listed(added)

    def missing(self) -> tuple[str, ...]:
        """See `RuleInstaller.missing`. Cost: linear in the elements of all tables of the kernel,
        because nft reads all to list one.
        """
        present = self._families()
        return tuple(
            f"{FAMILIES[family]}: {difference}"
            for family in self._tables
            for difference in self._differences(
                family, self._list(family) if family in present else ""
            )
        )

    def remove(self) -> None:
        """See `RuleInstaller.remove`."""
        self._run(_delete_lines(self._families()))
        self._shapes, self._tables, self._elements = (), {}, {}

    def is_present(self) -> bool:
        """See `RuleInstaller.is_present`."""
        return bool(self._families())

    def render(self, rules: Iterable[RuleSet]) -> str:
        """See `RuleInstaller.render`."""
        lines = [line for of_family in rules for line in table_lines(of_family)]
        return "".join(f"{line}\n" for line in ("# nft -f -", *lines))

    def _read_back(self, wanted: Iterable[RuleSet]) -> dict[Family, str]:
        """How nft lists the tables that were just installed, by family."""
        listed = {}
        for rules in wanted:
            text = listed[rules.family] = _without_elements(self._list(rules.family))
            if text.count(f'comment "{TAG}"') != len(rules.rules):
                raise RulesError("nft: somebody has changed our rules while they were installed")
        return listed

    def _run(self, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        if text:
            self._runner.run(RUN, text)

    def _families(self) -> list[Family]:
        """Families with a table of ours."""
        tables = nft_tables.tables(self._runner.run(nft_tables.LIST))
        return [family for family, name in FAMILIES.items() if f"table {name} {TAG}" in tables]

    def _list(self, family: Family) -> str:
        return self._runner.run(("nft", "list", "table", FAMILIES[family], TAG))

    def _differences(self, family: Family, listed: str) -> Iterator[str]:
        """Between a table as it should be and as nft lists it now."""
        before, now = self._tables[family].splitlines(), _without_elements(listed).splitlines()
        removed, added = Counter(before) - Counter(now), Counter(now) - Counter(before)
        yield from (line.strip() for line in removed)
        yield from (f"{line.strip()}: not ours" for line in added)
        if before != now and not removed and not added:
            yield "the order of our rules"
        present = {
            name: frozenset(text.split(", "))
            for name, text in SET_CONTENTS.findall(" ".join(listed.split()))
        }
        for kind, elements in self._elements[family].items():
            if present.get(kind, frozenset()) != elements:
                yield f"elements of {kind}"


def _delete_lines(families: Iterable[Family]) -> Iterator[str]:
    return (f"delete table {FAMILIES[family]} {TAG}" for family in families)


def _change_lines(changes: Iterable[SetChange]) -> Iterator[str]:
    for family, kind, added, removed in changes:
        # An address may come for the range of its own that goes: both are the same to nft.
        for verb, elements in (("delete", removed), ("add", added)):
            if elements:
                text = ", ".join(sorted(map(element_text, elements)))
                yield f"{verb} element {FAMILIES[family]} {TAG} {kind} {{ {text} }}"


def _without_elements(listed: str) -> str:
    return ELEMENTS.sub("", listed)


def _listed(elements: Iterable[Element]) -> set[str]:
    """As nft lists them."""
    return {element_text(canonical(element)) for element in elements}


RUN: Final = ("nft", "-f", "-")
ELEMENTS: Final = re.compile(r"\n\s*elements = \{[^}]*\}")
SET_CONTENTS: Final = re.compile(r"set (\S+) \{[^{}]*elements = \{ ([^}]*?) \}")
"""A set's name and its elements, in a listing without line breaks."""
PROBE: Final = f"""table ip {TAG}-probe {{
  chain probe {{
    type filter hook prerouting priority raw; policy accept;
    ip daddr 192.0.2.1 queue num 65535
  }}
}}
delete table ip {TAG}-probe
"""
PLAIN_PROBE: Final = PROBE.replace("queue num 65535", "accept")
