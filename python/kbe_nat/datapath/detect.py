"""Which datapath works in this kernel.

First-packet is preferred: it needs nft's NAT maps, a way to queue packets, and events of conntrack,
so the kernel is asked for each. Every-packet works wherever a `RuleInstaller` does.
"""

from enum import StrEnum

from kbe_nat._native import NftTables, probe_flows
from kbe_nat.errors import ConntrackError, RulesError
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.installer import remove_rules
from kbe_nat.rules.nat_program import NatProgram
from kbe_nat.rules.rule import DatapathKind, Marks


class DatapathName(StrEnum):
    """Names of the datapaths."""

    AUTO = "auto"
    EVERY_PACKET = "every-packet"
    FIRST_PACKET = "first-packet"


def choose(name: DatapathName, runner: Runner) -> tuple[DatapathKind, str]:
    """A datapath that works here, and the reason for the choice. `runner` runs nft in the network
    namespace of the calling thread. Raises `RulesError` when the kernel cannot do first-packet and
    `name` asks for it.
    """
    if name is DatapathName.EVERY_PACKET:
        return DatapathKind.EVERY_PACKET, "as asked for: the engine translates every packet"
    try:
        NatProgram(runner, NftTables(), Marks()).probe()
        probe_flows()
    except (RulesError, ConntrackError) as error:
        if name is DatapathName.FIRST_PACKET:
            raise RulesError(f"the datapath first-packet does not work here: {error}") from None
        return DatapathKind.EVERY_PACKET, f"the kernel cannot carry flows: {error}"
    return (
        DatapathKind.FIRST_PACKET,
        "the kernel has nft NAT maps and tells of its flows: it carries them",
    )


def clean_up(runner: Runner, marks: Marks) -> None:
    """Remove the tables and rules that a run of either datapath has left. Raises `RulesError`."""
    NatProgram(runner, NftTables(), marks).remove()
    remove_rules(runner)
