"""Rules in the kernel by way of `iptables-restore` and `ipset restore`: one transaction per table
and family.

What an earlier run may have left is found by our chains' and sets' names, so installing after a
crash works, and removing twice. Nothing that is not ours is named in any transaction. Rules that
are there already are replaced where they stand: no packet finds them half done.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise, permutations
from typing import Final

from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.rule import LAST, PREFIX, SET_TYPES, TAG, RuleSet, as_listed, changed


class Iptables:
    """A `RuleInstaller`. The commands act on the network namespace in which `runner` runs them."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._installed: tuple[RuleSet, ...] = ()
        self._lines: list[str] = []
        """How iptables-save shows the rules of `_installed`."""
        self._elements: dict[str, frozenset[str]] = {}
        """What ipset is to say of each set."""

    def install(self, rules: Iterable[RuleSet]) -> None:
        """See `RuleInstaller.install`."""
        wanted = tuple(rules)
        for own in wanted:
            self._runner.run(IPSET, _text(_set_lines(own)))
            saved = self._runner.run(SAVE[own.family])
            self._restore(own.family, _install_lines(own, saved))
        for number in SAVE.keys() - {own.family for own in wanted}:
            self._restore(number, _remove_lines(self._runner.run(SAVE[number])))
        self._destroy(keep={name for own in wanted for name in own.sets})
        # The kernel spells a rule as it likes, so its spelling is learned, but only once for the
        # same rules: what others change between writing and reading must not count as ours.
        if changed(self._installed, wanted) is None:
            self._lines = self._learned(wanted)
        self._installed = wanted
        self._elements = {name: as_listed(own.sets[name]) for own in wanted for name in own.sets}

    def update(self, rules: Iterable[RuleSet]) -> None:
        """See `RuleInstaller.update`. Cost: linear in the elements that differ, once they are found."""
        wanted = tuple(rules)
        elements = changed(self._installed, wanted)
        if elements is None:
            self.install(wanted)
            return
        if elements:
            self._runner.run(IPSET, _text(_delta_lines(elements)))
        self._installed = wanted
        for own in wanted:
            self._elements |= {
                name: as_listed(own.sets[name]) for name in own.sets.keys() & elements.keys()
            }

    def missing(self) -> tuple[str, ...]:
        """See `RuleInstaller.missing`. Cost: linear in the elements of our sets."""
        saved = self._saved()
        lines = _own_lines(saved)
        gone, come = (
            Counter(one) - Counter(other) for one, other in permutations((self._lines, lines))
        )
        moved = () if gone or come or lines == self._lines else ("the order of our rules",)
        names = set(self._runner.run(("ipset", "list", "-name")).split())
        return (
            *sorted(gone),
            *(f"{line}: not ours" for line in sorted(come)),
            *moved,
            *(f"{line}: behind ours" for text in saved.values() for line in _behind(text)),
            *sorted(
                name
                for name, elements in self._elements.items()
                if name not in names
                or _elements(self._runner.run(("ipset", "save", name))) != elements
            ),
        )

    def remove(self) -> None:
        """See `RuleInstaller.remove`."""
        for number, save in SAVE.items():
            self._restore(number, _remove_lines(self._runner.run(save)))
        self._destroy(keep=set())
        self._installed, self._lines, self._elements = (), [], {}

    def is_present(self) -> bool:
        """See `RuleInstaller.is_present`."""
        return bool(_own_lines(self._saved()))

    def render(self, rules: Iterable[RuleSet]) -> str:
        """See `RuleInstaller.render`."""
        parts = []
        for own in rules:
            parts += [f"# {shlex.join(IPSET)}", *_set_lines(own)]
            parts += [f"# {shlex.join(RESTORE[own.family])}", *_install_lines(own, "")]
        return _text(parts)

    def _learned(self, wanted: Iterable[RuleSet]) -> list[str]:
        """How iptables-save shows the rules that were just installed."""
        lines = _own_lines(self._saved())
        if len(lines) != sum(len(own.jumps) + len(own.rules) for own in wanted):
            raise RulesError("iptables: somebody has changed our rules while they were installed")
        return lines

    def _restore(self, number: Family, lines: Iterable[str]) -> None:
        text = _text(lines)
        if text:
            self._runner.run(RESTORE[number], text)

    def _destroy(self, keep: set[str]) -> None:
        names = self._runner.run(("ipset", "list", "-name")).split()
        own = [name for name in names if name.startswith(f"{TAG}-") and name not in keep]
        if own:
            self._runner.run(IPSET, _text(f"destroy {name}" for name in own))

    def _saved(self) -> dict[Family, str]:
        return {number: self._runner.run(save) for number, save in SAVE.items()}


def _set_lines(rules: RuleSet) -> Iterator[str]:
    """Each set is filled beside and swapped in, so it is never half full."""
    inet = "inet6" if rules.family == Family.IPV6 else "inet"
    for name, elements in rules.sets.items():
        kind = f"{SET_TYPES[name.split('-')[2]]} family {inet} maxelem {max(len(elements), MIN_ELEMENTS)}"
        beside = f"{name}-next"
        yield from (f"create {one} {kind} -exist" for one in (name, beside))
        yield f"flush {beside}"
        yield from (f"add {beside} {element}" for element in elements)
        yield f"swap {beside} {name}"
        yield f"destroy {beside}"


def _delta_lines(elements: Mapping[str, tuple[set[str], set[str]]]) -> Iterator[str]:
    for name, (added, removed) in elements.items():
        yield from (f"add {name} {element} -exist" for element in sorted(added))
        yield from (f"del {name} {element} -exist" for element in sorted(removed))


def _install_lines(rules: RuleSet, saved: str) -> Iterator[str]:
    """Chains first, then their rules, and the jumps to them last; `saved` is what iptables-save
    says now.
    """
    present = dict(_jumps(saved))
    for table in sorted({jump.table for jump in rules.jumps}):
        yield f"*{table}"
        jumps = [jump for jump in rules.jumps if jump.table == table]
        yield from (f"-D{line.removeprefix('-A')}" for line in present.get(table, ()))
        # Naming a chain that exists empties it.
        yield from (f":{jump.chain} - [0:0]" for jump in jumps)
        for rule in rules.rules:
            if rule.table == table:
                yield f"-A {PREFIX}{rule.chain} -m comment --comment {TAG} {' '.join(rule.words)}"
        for jump in jumps:
            place = f"-A {jump.hook}" if jump.is_last else f"-I {jump.hook} 1"
            yield f"{place} -m comment --comment {TAG} -j {jump.chain}"
        yield "COMMIT"


def _remove_lines(saved: str) -> list[str]:
    """The transaction that takes away what is ours in the output of iptables-save."""
    lines: list[str] = []
    jumps = dict(_jumps(saved))
    for table, own in _tables(saved):
        chains = _chains(own)
        if chains:
            deleted = [f"-D{line.removeprefix('-A')}" for line in jumps.get(table, ())]
            flushed = [f"-{letter} {chain}" for letter in "FX" for chain in chains]
            lines += [f"*{table}", *deleted, *flushed, "COMMIT"]
    return lines


def _jumps(saved: str) -> Iterator[tuple[str, list[str]]]:
    """By table, the rules of chains that are not ours which lead to one of ours."""
    for table, own in _tables(saved):
        chains = _chains(own)
        yield table, [line for line in own if line.startswith("-A ") and _is_jump(line, chains)]


def _own_lines(saved: Mapping[Family, str]) -> list[str]:
    return [
        f"IPv{number} {table}: {line}"
        for number, text in saved.items()
        for table, own in _own_rules(text)
        for line in own
    ]


def _behind(saved: str) -> Iterator[str]:
    """Rules of others right behind a jump of ours that must be the last rule of its chain."""
    for table, own in _tables(saved):
        chains = _chains(own)
        rules = [line for line in own if line.startswith("-A ")]
        for rule, following in pairwise(rules):
            is_same_chain = rule.split()[1] == following.split()[1]
            if table == LAST and is_same_chain and _is_jump(rule, chains):
                yield f"{table}: {following}"


def _own_rules(saved: str) -> Iterator[tuple[str, list[str]]]:
    """By table, the rules of our chains and the jumps to them."""
    for table, own in _tables(saved):
        chains = _chains(own)
        rules = [line for line in own if line.startswith("-A ")]
        yield table, [line for line in rules if line.split()[1] in chains or _is_jump(line, chains)]


def _chains(lines: Iterable[str]) -> list[str]:
    return [line[1:].split()[0] for line in lines if line.startswith(f":{PREFIX}")]


def _is_jump(rule: str, chains: Sequence[str]) -> bool:
    """Whether a rule of a chain that is not ours leads to one of ours; what a comment says does not
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


def _elements(saved: str) -> frozenset[str]:
    """What a set holds, in the output of `ipset save`."""
    return frozenset(line.split()[2] for line in saved.splitlines() if line.startswith("add "))


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


IPSET: Final = ("ipset", "restore")
RESTORE: Final[dict[Family, Sequence[str]]] = {
    Family.IPV4: ("iptables-restore", "--noflush", "-w"),
    Family.IPV6: ("ip6tables-restore", "--noflush", "-w"),
}
SAVE: Final[dict[Family, Sequence[str]]] = {
    Family.IPV4: ("iptables-save",),
    Family.IPV6: ("ip6tables-save",),
}
MIN_ELEMENTS: Final = 1 << 20
