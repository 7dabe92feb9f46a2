"""Rules in the kernel by way of `iptables-restore` and `ipset restore`: one transaction per table and family.

What an earlier run may have left is found by our chains' and sets' names, so installing after a crash works, and
removing twice. Nothing that is not ours is named in any transaction.
"""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Final

from kbe_nat.model import IPV4, IPV6
from kbe_nat.rules import PREFIX, SET_TYPES, TAG, RuleSet
from kbe_nat.rules.execution import Runner


class Iptables:
    """A `Backend`. The commands act on the network namespace in which `runner` runs them."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def install(self, rules: Iterable[RuleSet]) -> None:
        """See `Backend.install`."""
        self.remove()
        for own in rules:
            self._runner.run(("ipset", "restore"), _text(_set_lines(own)))
            self._runner.run((*RESTORE[own.family], "--noflush", "-w"), _text(_install_lines(own)))

    def remove(self) -> None:
        """See `Backend.remove`."""
        for number, save in SAVE.items():
            lines = _remove_lines(self._runner.run(save))
            if lines:
                self._runner.run((*RESTORE[number], "--noflush", "-w"), _text(lines))
        names = self._runner.run(("ipset", "list", "-name")).split()
        own = [name for name in names if name.startswith(f"{TAG}-")]
        if own:
            self._runner.run(("ipset", "restore"), _text(f"destroy {name}" for name in own))


def _set_lines(rules: RuleSet) -> Iterator[str]:
    inet = "inet6" if rules.family == IPV6 else "inet"
    for name, elements in rules.sets.items():
        kind = SET_TYPES[name.split("-")[2]]
        yield f"create {name} {kind} family {inet} maxelem {max(len(elements), MIN_ELEMENTS)}"
        yield from (f"add {name} {element}" for element in elements)


def _install_lines(rules: RuleSet) -> Iterator[str]:
    """Chains first, then their rules, and the jumps to them last."""
    for table in sorted({jump.table for jump in rules.jumps}):
        yield f"*{table}"
        jumps = [jump for jump in rules.jumps if jump.table == table]
        yield from (f":{jump.chain} - [0:0]" for jump in jumps)
        for rule in rules.rules:
            if rule.table == table:
                yield f"-A {PREFIX}{rule.chain} -m comment --comment {TAG} {shlex.join(rule.words)}"
        yield from (f"-I {jump.hook} 1 -m comment --comment {TAG} -j {jump.chain}" for jump in jumps)
        yield "COMMIT"


def _remove_lines(saved: str) -> list[str]:
    """The transaction that takes away what is ours in the output of iptables-save."""
    lines: list[str] = []
    for table, group in groupby(_by_table(saved), key=lambda pair: pair[0]):
        own = [line for _, line in group]
        chains = [line[1:].split()[0] for line in own if line.startswith(f":{PREFIX}")]
        jumps = [line for line in own if line.startswith("-A ") and _is_jump(line, chains)]
        if chains:
            deleted = [f"-D{line.removeprefix('-A')}" for line in jumps]
            flushed = [f"-{letter} {chain}" for letter in "FX" for chain in chains]
            lines += [f"*{table}", *deleted, *flushed, "COMMIT"]
    return lines


def _is_jump(rule: str, chains: Sequence[str]) -> bool:
    """Whether a rule of a chain that is not ours leads to one of ours; what a comment says does not count."""
    words = shlex.split(rule)
    leads = any(word in ("-j", "-g") and target in chains for word, target in pairwise(words))
    return leads and words[1] not in chains


def _by_table(saved: str) -> Iterator[tuple[str, str]]:
    """Every line of a table with the table's name."""
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        yield table, line


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


RESTORE: Final[dict[int, Sequence[str]]] = {IPV4: ("iptables-restore",), IPV6: ("ip6tables-restore",)}
SAVE: Final[dict[int, Sequence[str]]] = {IPV4: ("iptables-save",), IPV6: ("ip6tables-save",)}
MIN_ELEMENTS: Final = 1 << 20
