"""Rules that are only remembered: for dry runs and tests."""

from collections.abc import Iterable

from kbe_nat.rules.rule import PREFIX, RuleSet


class Memory:
    """A `RuleInstaller` without a kernel."""

    def __init__(self) -> None:
        self.rules: tuple[RuleSet, ...] = ()
        """What is installed."""

    def install(self, rules: Iterable[RuleSet]) -> None:
        """See `RuleInstaller.install`."""
        self.rules = tuple(rules)

    def update(self, rules: Iterable[RuleSet]) -> None:
        """See `RuleInstaller.update`."""
        self.install(rules)

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
        for own in rules:
            lines.append(f"# IPv{own.family}")
            lines += [f"{name}: {' '.join(elements)}" for name, elements in own.sets.items()]
            lines += [f"{jump.table}: -I {jump.hook} 1 -j {jump.chain}" for jump in own.jumps]
            lines += [
                f"{rule.table}: -A {PREFIX}{rule.chain} {' '.join(rule.words)}"
                for rule in own.rules
            ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.render(self.rules)
