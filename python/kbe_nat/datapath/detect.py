"""Which datapath works in this kernel.

First-packet is preferred: it needs nft's NAT maps, a way to queue packets, and events of conntrack,
so the kernel is asked for each. Every-packet works wherever a `RuleInstaller` does. Cached needs
what first-packet needs, and programs on devices (tcx); it is taken where it is asked for.
"""

from kbe_nat._native import FlowCache, NftTables, probe_flows
from kbe_nat.errors import ConntrackError, FlowCacheError, RulesError
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.installer import present as present_rules
from kbe_nat.rules.installer import remove_rules
from kbe_nat.rules.nat_program import NatProgram
from kbe_nat.rules.rule import DatapathKind, Marks
from kbe_nat.rules.slots import DEFAULT_SLOTS, SlotClasses


def choose(kind: DatapathKind | None, runner: Runner) -> tuple[DatapathKind, str]:
    """The datapath that is asked for, or with None the best one that works here, and why it was
    taken. `runner` runs nft in the network namespace of the calling thread. Raises `RulesError`
    when the kernel cannot do the one that is asked for.
    """
    if kind is DatapathKind.EVERY_PACKET:
        return DatapathKind.EVERY_PACKET, "as asked for: the engine translates every packet"
    try:
        NatProgram(runner, NftTables(), Marks()).probe()
        probe_flows()
        if kind is DatapathKind.CACHED:
            FlowCache.probe()
            return DatapathKind.CACHED, "as asked for: established flows pass the kernel's stack by"
    except (RulesError, ConntrackError, FlowCacheError) as error:
        if kind is not None:
            raise RulesError(f"the datapath {kind} does not work here: {error}") from None
        return DatapathKind.EVERY_PACKET, f"the kernel cannot carry flows: {error}"
    return (
        DatapathKind.FIRST_PACKET,
        "the kernel has nft NAT maps and conntrack events, so conntrack translates the flows",
    )


def spread_refusal(runner: Runner) -> str:
    """Why standbys cannot spread where first-packet works; empty when they can. `runner` runs nft
    in the network namespace of the calling thread.
    """
    try:
        NatProgram(runner, NftTables(), Marks()).probe(SlotClasses(DEFAULT_SLOTS).all)
    except RulesError as error:
        return f"nft or the kernel draws no numbers (nft_numgen, nft_hash): {error}"
    return ""


def cache_refusal() -> str:
    """Why this kernel can have no cache of established flows; empty: it can."""
    try:
        FlowCache.probe()
    except FlowCacheError as error:
        return str(error)
    return ""


def present(runner: Runner) -> list[str]:
    """The tables and rules in the kernel of a run of any datapath, for people. Raises
    `RulesError`.
    """
    return [*NatProgram(runner, NftTables(), Marks()).present(), *present_rules(runner)]


def clean_up(runner: Runner, marks: Marks) -> list[str]:
    """Remove the tables and rules that a run of any datapath has left. Returns what these were, for
    people. Raises `RulesError`.
    """
    remains = present(runner)
    NatProgram(runner, NftTables(), marks).remove()
    remove_rules(runner)
    return remains
