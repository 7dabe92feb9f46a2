"""Rules that are only remembered: for tests."""

from collections.abc import Iterable
from dataclasses import replace

from kbe_nat.rules.iptables_words import chain_name, element_text, rule_words, set_name
from kbe_nat.rules.rule import RuleSet, SetChange


class Memory:
    """A `RuleInstaller` without a kernel."""

    def __init__(self) -> None:
        self.rules: tuple[RuleSet, ...] = ()
        """The rules that are installed."""

    def require_commands(self) -> str:
        """See `RuleInstaller.require_commands`: it needs none."""
        return "memory"

    def probe(self) -> str:
        """See `RuleInstaller.probe`: it works everywhere."""
        return "memory"

    def install(self, rules: Iterable[RuleSet]) -> None:
        """See `RuleInstaller.install`."""
        self.rules = tuple(rules)

    def change(self, changes: Iterable[SetChange]) -> None:
        """See `RuleInstaller.change`. Cost: linear in the sets that change."""
        for family, kind, added, removed in changes:
            self.rules = tuple(
                replace(
                    rules,
                    sets={
                        **rules.sets,
                        kind: tuple(sorted(added.union(rules.sets[kind]) - removed, key=str)),
                    },
                )
                if rules.family == family
                else rules
                for rules in self.rules
            )

    def missing(self) -> tuple[str, ...]:
        """See `RuleInstaller.missing`: never any."""
        return ()

    def remove(self) -> None:
        """See `RuleInstaller.remove`."""
        self.rules = ()

    def is_present(self) -> bool:
        """See `RuleInstaller.is_present`."""
        return bool(self.rules)

    def render(self, rules: Iterable[RuleSet]) -> str:
        """See `RuleInstaller.render`: sets and rules as text, for people."""
        lines = []
        for of_family in rules:
            family = of_family.family
            lines.append(f"# IPv{family}")
            for kind, elements in of_family.sets.items():
                lines.append(f"{set_name(kind, family)}: {' '.join(map(element_text, elements))}")
            for hook in of_family.hooks:
                lines.append(f"{hook.table}: -I {hook.chain} 1 -j {chain_name(hook)}")
            for rule in of_family.rules:
                words = rule_words(rule, family)
                lines.append(f"{rule.hook.table}: -A {chain_name(rule.hook)} {words}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render(self.rules)
