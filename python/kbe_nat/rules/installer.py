"""What puts the rules into the kernel, and which of them this kernel takes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Protocol

from kbe_nat.errors import RulesError
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.iptables import Iptables
from kbe_nat.rules.nftables import PROBE, Nftables
from kbe_nat.rules.rule import RuleSet


class RuleInstaller(Protocol):
    """Who puts rules into the kernel. All methods raise `RulesError`."""

    def install(self, rules: Iterable[RuleSet]) -> None:
        """Make these our rules, in place of any that an earlier run has left. Foreign rules stay as
        they are.
        """
        ...

    def update(self, rules: Iterable[RuleSet]) -> None:
        """As `install`, but when only elements of sets differ from what this object has installed
        last, only those change.
        """
        ...

    def missing(self) -> tuple[str, ...]:
        """What of the rules that were installed last is not in the kernel as it should be, whether
        somebody has taken it away, changed it, or put something beside it: rules, or names of sets.
        """
        ...

    def remove(self) -> None:
        """Take away every rule, chain and set of ours, if there are any."""
        ...

    def is_present(self) -> bool:
        """Whether there are rules of ours in the kernel, whoever has put them there."""
        ...

    def render(self, rules: Iterable[RuleSet]) -> str:
        """The input of every command that would install these rules where there are none, each
        under its name.
        """
        ...


@contextmanager
def installed(backend: RuleInstaller, rules: Iterable[RuleSet]) -> Iterator[None]:
    """The rules, for as long as the block runs."""
    try:
        backend.install(rules)
        yield
    finally:
        backend.remove()


class InstallerName(StrEnum):
    """Names of the back ends."""

    AUTO = "auto"
    IPTABLES = "iptables"
    NFT = "nft"


def remove_rules(runner: Runner) -> None:
    """Take away what a run of the every-packet datapath has left, by whichever back end. Raises
    `RulesError`.
    """
    for backend in usable(runner):
        backend.remove()


def usable(runner: Runner) -> Iterator[RuleInstaller]:
    """Every back end whose commands are here, whatever the kernel makes of its rules."""
    for backend, commands in (
        (Nftables(runner), (("nft", "list", "tables"),)),
        (Iptables(runner), (("iptables", "--version"), ("ipset", "list", "-name"))),
    ):
        try:
            for command in commands:
                runner.run(command)
        except RulesError:
            continue
        yield backend


def probe(name: InstallerName, runner: Runner) -> tuple[RuleInstaller, str]:
    """A back end that works here, and why this one was taken. Raises `RulesError` when none does,
    with the reasons.
    """
    failures = []
    if name in (InstallerName.AUTO, InstallerName.NFT):
        try:
            # In one transaction, which leaves nothing.
            runner.run(("nft", "-f", "-"), PROBE)
            return Nftables(runner), "nft (the kernel has its queue statement)"
        except RulesError as error:
            failures.append(f"nft: {error}")
    if name in (InstallerName.AUTO, InstallerName.IPTABLES):
        try:
            version = runner.run(("iptables", "--version")).strip()
            runner.run(("ipset", "list", "-name"))
            why = (
                ""
                if name is InstallerName.IPTABLES
                else ": nft cannot queue packets in this kernel"
            )
            return Iptables(runner), f"{version}{why}"
        except RulesError as error:
            failures.append(f"iptables: {error}")
    raise RulesError("; ".join(failures))
