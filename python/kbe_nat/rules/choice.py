"""Which back end puts the rules into this kernel, and which datapath it can do."""

from collections.abc import Iterator
from enum import StrEnum

from kbe_nat._native import NftTables, probe_flows
from kbe_nat.errors import ConntrackError, RulesError
from kbe_nat.rules import Backend, Marks, Way
from kbe_nat.rules.execution import Runner
from kbe_nat.rules.iptables import Iptables
from kbe_nat.rules.nftables import PROBE, Nftables
from kbe_nat.rules.translation import Translations


class BackendName(StrEnum):
    """Names of the back ends."""

    AUTO = "auto"
    IPTABLES = "iptables"
    NFT = "nft"


class DatapathName(StrEnum):
    """Names of the datapaths."""

    AUTO = "auto"
    EVERY_PACKET = "every-packet"
    FIRST_PACKET = "first-packet"


def choose(name: DatapathName, runner: Runner) -> tuple[Way, str]:
    """A datapath that works here, and why this one was taken; `runner` runs nft in the network
    namespace of the calling thread. Raises `RulesError` when the kernel cannot do the one that is
    asked for.
    """
    if name is DatapathName.EVERY_PACKET:
        return Way.EVERY_PACKET, "as asked for: the engine translates every packet"
    try:
        Translations(runner, NftTables(), Marks()).probe()
        probe_flows()
    except (RulesError, ConntrackError) as error:
        if name is DatapathName.FIRST_PACKET:
            raise RulesError(f"the datapath first-packet does not work here: {error}") from None
        return Way.EVERY_PACKET, f"the kernel cannot carry flows: {error}"
    return Way.FIRST_PACKET, "the kernel has nft NAT maps and tells of its flows: it carries them"


def clean_up(runner: Runner, marks: Marks) -> None:
    """Take away everything that a run of either datapath has left. Raises `RulesError`."""
    Translations(runner, NftTables(), marks).remove()
    remove_rules(runner)


def remove_rules(runner: Runner) -> None:
    """Take away what a run of the every-packet datapath has left, by whichever back end. Raises
    `RulesError`.
    """
    for backend in usable(runner):
        backend.remove()


def usable(runner: Runner) -> Iterator[Backend]:
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


def probe(name: BackendName, runner: Runner) -> tuple[Backend, str]:
    """A back end that works here, and why this one was taken. Raises `RulesError` when none does,
    with the reasons.
    """
    failures = []
    if name in (BackendName.AUTO, BackendName.NFT):
        try:
            # In one transaction, which leaves nothing.
            runner.run(("nft", "-f", "-"), PROBE)
            return Nftables(runner), "nft (the kernel has its queue statement)"
        except RulesError as error:
            failures.append(f"nft: {error}")
    if name in (BackendName.AUTO, BackendName.IPTABLES):
        try:
            version = runner.run(("iptables", "--version")).strip()
            runner.run(("ipset", "list", "-name"))
            why = (
                "" if name is BackendName.IPTABLES else ": nft cannot queue packets in this kernel"
            )
            return Iptables(runner), f"{version}{why}"
        except RulesError as error:
            failures.append(f"iptables: {error}")
    raise RulesError("; ".join(failures))
