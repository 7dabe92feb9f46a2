"""Rules in the kernel by way of `iptables-restore` and `ipset restore`: one transaction per table
and family.

Our chains and sets are found by their names, so an installation also replaces those of a run that
crashed, and removing twice is harmless. No transaction names a foreign rule. Rules that are there
already are replaced where they stand: no packet finds them half done.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Final

from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.iptables_words import (
    PREFIX,
    chain_name,
    element_text,
    rule_words,
    set_lines,
    set_name,
)
from kbe_nat.rules.rule import TAG, Element, Hook, RuleSet, SetChange, canonical, shapes


class Iptables:
    """A `RuleInstaller`. The commands act on the network namespace in which `runner` runs them."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._shapes: tuple[RuleSet, ...] = ()
        """The rules that were installed last, with empty sets."""
        self._lines: list[str] = []
        """How iptables-save shows them."""
        self._elements: dict[str, set[str]] = {}
        """By set, its elements as ipset lists them."""

    def require_commands(self) -> str:
        """See `RuleInstaller.require_commands`."""
        version = self._runner.run(("iptables", "--version")).strip()
        self._runner.run(LIST_SETS)
        return version

    def probe(self) -> str:
        """See `RuleInstaller.probe`: kernels that have iptables take all of its rules."""
        return self.require_commands()

    def install(self, rules: Iterable[RuleSet]) -> None:
        """See `RuleInstaller.install`."""
        wanted = tuple(rules)
        for of_family in wanted:
            # Rules cannot name a set that is not there.
            self._runner.run(IPSET, _text(set_lines(of_family)))
            saved = self._runner.run(SAVE[of_family.family])
            self._restore(of_family.family, _install_lines(of_family, saved))
        for family in SAVE.keys() - {of_family.family for of_family in wanted}:
            self._restore(family, _remove_lines(self._runner.run(SAVE[family])))
        elements = {
            set_name(kind, of_family.family): _listed(members)
            for of_family in wanted
            for kind, members in of_family.sets.items()
        }
        self._destroy_sets(except_for=elements.keys())
        # The kernel spells a rule as it likes, so its spelling is read back, but only once for the
        # same rules: a foreign change between writing and reading must not pass for ours.
        if self._shapes != shapes(wanted):
            self._lines = self._read_back(wanted)
        self._shapes = shapes(wanted)
        self._elements = elements

    def change(self, changes: Iterable[SetChange]) -> None:
        """See `RuleInstaller.change`."""
        changes = list(changes)
        if changes:
            self._runner.run(IPSET, _text(_change_lines(changes)))
        for family, kind, added, removed in changes:
            elements = self._elements[set_name(kind, family)]
            elements -= _listed(removed)
            elements |= _listed(added)

    def missing(self) -> tuple[str, ...]:
        """See `RuleInstaller.missing`. Cost: linear in the elements of our sets."""
        saved = self._saved_tables()
        lines = _own_lines(saved)
        removed = Counter(self._lines) - Counter(lines)
        added = Counter(lines) - Counter(self._lines)
        is_reordered = not removed and not added and lines != self._lines
        names = set(self._runner.run(LIST_SETS).split())
        return (
            *sorted(removed),
            *(f"{line}: not ours" for line in sorted(added)),
            *(("the order of our rules",) if is_reordered else ()),
            *(f"{line}: behind ours" for text in saved.values() for line in _lines_behind(text)),
            *sorted(
                name
                for name, elements in self._elements.items()
                if name not in names
                or _saved_elements(self._runner.run(("ipset", "save", name))) != elements
            ),
        )

    def remove(self) -> None:
        """See `RuleInstaller.remove`."""
        for family, save in SAVE.items():
            self._restore(family, _remove_lines(self._runner.run(save)))
        self._destroy_sets()
        self._shapes, self._lines, self._elements = (), [], {}

    def is_present(self) -> bool:
        """See `RuleInstaller.is_present`."""
        return bool(_own_lines(self._saved_tables()))

    def render(self, rules: Iterable[RuleSet]) -> str:
        """See `RuleInstaller.render`."""
        parts = []
        for of_family in rules:
            parts += [f"# {shlex.join(IPSET)}", *set_lines(of_family)]
            parts += [f"# {shlex.join(RESTORE[of_family.family])}", *_install_lines(of_family, "")]
        return _text(parts)

    def _read_back(self, wanted: Iterable[RuleSet]) -> list[str]:
        """How iptables-save shows the rules that were just installed."""
        lines = _own_lines(self._saved_tables())
        expected = sum(len(of_family.hooks) + len(of_family.rules) for of_family in wanted)
        if len(lines) != expected:
            raise RulesError("iptables: somebody has changed our rules while they were installed")
        return lines

    def _restore(self, family: Family, lines: Iterable[str]) -> None:
        text = _text(lines)
        if text:
            self._runner.run(RESTORE[family], text)

    def _destroy_sets(self, except_for: Iterable[str] = ()) -> None:
        present = {
            name for name in self._runner.run(LIST_SETS).split() if name.startswith(f"{TAG}-")
        }
        superfluous = sorted(present.difference(except_for))
        if superfluous:
            self._runner.run(IPSET, _text(f"destroy {name}" for name in superfluous))

    def _saved_tables(self) -> dict[Family, str]:
        return {family: self._runner.run(save) for family, save in SAVE.items()}


def _listed(elements: Iterable[Element]) -> set[str]:
    """As ipset lists them."""
    return {element_text(canonical(element)) for element in elements}


def _change_lines(changes: Iterable[SetChange]) -> Iterator[str]:
    for family, kind, added, removed in changes:
        name = set_name(kind, family)
        # An address may come for the range of its own that goes: both are the same to ipset.
        yield from (f"del {name} {text} -exist" for text in sorted(map(element_text, removed)))
        yield from (f"add {name} {text} -exist" for text in sorted(map(element_text, added)))


def _install_lines(rules: RuleSet, saved: str) -> Iterator[str]:
    """Chains first, then their rules, and the jumps to them last; `saved` is what iptables-save
    says now.
    """
    present = dict(_jumps(saved))
    comment = f"-m comment --comment {TAG}"
    for table in sorted({hook.table for hook in rules.hooks}):
        hooks = [hook for hook in rules.hooks if hook.table == table]
        yield f"*{table}"
        yield from (f"-D{line.removeprefix('-A')}" for line in present.get(table, ()))
        # Naming a chain that exists empties it.
        yield from (f":{chain_name(hook)} - [0:0]" for hook in hooks)
        for rule in rules.rules:
            if rule.hook in hooks:
                yield f"-A {chain_name(rule.hook)} {comment} {rule_words(rule, rules.family)}"
        for hook in hooks:
            place = f"-A {hook.chain}" if hook.follows_foreign_rules else f"-I {hook.chain} 1"
            yield f"{place} {comment} -j {chain_name(hook)}"
        yield "COMMIT"


def _remove_lines(saved: str) -> list[str]:
    """The transaction that removes our chains and jumps from the output of iptables-save."""
    lines: list[str] = []
    jumps = dict(_jumps(saved))
    for table, listed in _tables(saved):
        chains = _own_chains(listed)
        if chains:
            deleted = [f"-D{line.removeprefix('-A')}" for line in jumps.get(table, ())]
            flushed = [f"-{letter} {chain}" for letter in "FX" for chain in chains]
            lines += [f"*{table}", *deleted, *flushed, "COMMIT"]
    return lines


def _jumps(saved: str) -> Iterator[tuple[str, list[str]]]:
    """By table, the rules of foreign chains that lead to one of ours."""
    for table, listed in _tables(saved):
        chains = _own_chains(listed)
        yield table, [line for line in listed if line.startswith("-A ") and _is_jump(line, chains)]


def _own_lines(saved: Mapping[Family, str]) -> list[str]:
    return [
        f"IPv{family} {table}: {line}"
        for family, text in saved.items()
        for table, lines in _own_rules(text)
        for line in lines
    ]


def _lines_behind(saved: str) -> Iterator[str]:
    """Foreign rules right behind a jump of ours that must be the last rule of its chain."""
    for table, listed in _tables(saved):
        chains = _own_chains(listed)
        rules = [line for line in listed if line.startswith("-A ")]
        for rule, following in pairwise(rules):
            is_same_chain = rule.split()[1] == following.split()[1]
            if table in LAST_TABLES and is_same_chain and _is_jump(rule, chains):
                yield f"{table}: {following}"


def _own_rules(saved: str) -> Iterator[tuple[str, list[str]]]:
    """By table, the rules of our chains and the jumps to them."""
    for table, listed in _tables(saved):
        chains = _own_chains(listed)
        rules = [line for line in listed if line.startswith("-A ")]
        yield table, [line for line in rules if line.split()[1] in chains or _is_jump(line, chains)]


def _own_chains(lines: Iterable[str]) -> list[str]:
    return [line[1:].split()[0] for line in lines if line.startswith(f":{PREFIX}")]


def _is_jump(rule: str, chains: Sequence[str]) -> bool:
    """Whether a rule of a foreign chain leads to one of ours; the text of a comment does not
    count.
    """
    words = shlex.split(rule)
    leads = any(word in ("-j", "-g") and target in chains for word, target in pairwise(words))
    return leads and words[1] not in chains


def _tables(saved: str) -> Iterator[tuple[str, list[str]]]:
    """Every table with its lines."""
    for table, group in groupby(_by_table(saved), key=lambda pair: pair[0]):
        yield table, [line for _, line in group]


def _by_table(saved: str) -> Iterator[tuple[str, str]]:
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        yield table, line


def _saved_elements(saved: str) -> frozenset[str]:
    """The elements of a set in the output of `ipset save`."""
    return frozenset(line.split()[2] for line in saved.splitlines() if line.startswith("add "))


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


IPSET: Final = ("ipset", "restore")
LIST_SETS: Final = ("ipset", "list", "-name")
RESTORE: Final[dict[Family, Sequence[str]]] = {
    Family.IPV4: ("iptables-restore", "--noflush", "-w"),
    Family.IPV6: ("ip6tables-restore", "--noflush", "-w"),
}
SAVE: Final[dict[Family, Sequence[str]]] = {
    Family.IPV4: ("iptables-save",),
    Family.IPV6: ("ip6tables-save",),
}
LAST_TABLES: Final = {hook.table for hook in Hook if hook.follows_foreign_rules}
