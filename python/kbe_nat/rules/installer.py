"""How rules get into the kernel, and which installer works here."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Protocol

from kbe_nat.errors import RulesError
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.iptables import Iptables
from kbe_nat.rules.nftables import Nftables
from kbe_nat.rules.rule import RuleSet, SetChange


class RuleInstaller(Protocol):
    """Writes rules in the words of its commands, and puts them into the kernel. All methods raise
    `RulesError`.
    """

    def require_commands(self) -> str:
        """Raises when the commands are not here, whatever the kernel makes of its rules. Returns
        their name, or name and version, for people.
        """
        ...

    def probe(self) -> str:
        """Raises when this kernel does not take the rules. Returns the name of the commands and
        the reason why they work, for people. Leaves nothing in the kernel.
        """
        ...

    def install(self, rules: Iterable[RuleSet]) -> None:
        """Make these our rules, in place of any that an earlier run has left. Foreign rules stay as
        they are.
        """
        ...

    def change(self, changes: Iterable[SetChange]) -> None:
        """Change elements of the sets that this object has installed last. When it fails, some may
        be changed: only `install` brings them up to date then. Cost: linear in the elements.
        """
        ...

    def missing(self) -> tuple[str, ...]:
        """How the kernel differs from the rules that were installed last: rules and names of sets
        that are gone, changed, or have something beside them.
        """
        ...

    def remove(self) -> None:
        """Remove every rule, chain and set of ours, if there are any."""
        ...

    def is_present(self) -> bool:
        """Whether there are rules of ours in the kernel, of any run."""
        ...

    def render(self, rules: Iterable[RuleSet]) -> str:
        """The input of every command that would install these rules where there are none, each
        under its name.
        """
        ...


class InstallerName(StrEnum):
    """Names of the installers, with their classes. `auto` takes the first one that works here."""

    AUTO = "auto", None
    NFT = "nft", Nftables
    IPTABLES = "iptables", Iptables

    create: Callable[[Runner], RuleInstaller] | None

    def __new__(
        cls, name: str, create: Callable[[Runner], RuleInstaller] | None
    ) -> "InstallerName":
        """A member of this name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.create = create
        return member


@contextmanager
def installation(installer: RuleInstaller, rules: Iterable[RuleSet]) -> Iterator[None]:
    """The rules are in the kernel for as long as the block runs."""
    try:
        installer.install(rules)
        yield
    finally:
        installer.remove()


def probe(name: InstallerName, runner: Runner) -> tuple[RuleInstaller, str]:
    """An installer that works here, and why it was chosen. Raises `RulesError` when none does, with
    the reasons.
    """
    failures: dict[InstallerName, RulesError] = {}
    for candidate, installer in _installers(runner):
        if name in (InstallerName.AUTO, candidate):
            try:
                reason = installer.probe()
            except RulesError as error:
                failures[candidate] = error
            else:
                skipped = [f"not {other}: {error}" for other, error in failures.items()]
                return installer, "; ".join((reason, *skipped))
    raise RulesError("; ".join(f"{candidate}: {error}" for candidate, error in failures.items()))


def usable(runner: Runner) -> Iterator[RuleInstaller]:
    """Every installer whose commands are here, whatever the kernel makes of its rules."""
    for _, installer in _installers(runner):
        try:
            installer.require_commands()
        except RulesError:
            continue
        yield installer


def remove_rules(runner: Runner) -> None:
    """Remove the rules that runs of the every-packet datapath have left, by any installer. Raises
    `RulesError`.
    """
    for installer in usable(runner):
        installer.remove()


def present(runner: Runner) -> list[str]:
    """The installers whose rules of the every-packet datapath are in the kernel, of any run, for
    people. Raises `RulesError`.
    """
    return [
        f"every-packet's rules of {name}"
        for name, installer in _installers(runner)
        if _is_present(installer)
    ]


def _is_present(installer: RuleInstaller) -> bool:
    try:
        installer.require_commands()
    except RulesError:
        return False
    return installer.is_present()


def _installers(runner: Runner) -> Iterator[tuple[InstallerName, RuleInstaller]]:
    """The installer of every name, the preferred one first."""
    for name in InstallerName:
        if name.create:
            yield name, name.create(runner)
