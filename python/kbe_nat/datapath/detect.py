"""Which datapath works in this kernel.

The cheapest one that works is taken, and the kernel is asked for each thing that it needs. Cached
needs what first-packet needs, and programs on devices (tcx). First-packet needs nft's NAT maps, a
way to queue packets, and events of conntrack. Every-packet works wherever a `RuleInstaller` does.
"""

from typing import Final

from kbe_nat import _native
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
    except (RulesError, ConntrackError) as error:
        if kind is not None:
            raise RulesError(f"the datapath {kind} does not work here: {error}") from None
        return DatapathKind.EVERY_PACKET, f"the kernel cannot carry flows: {error}"
    if kind is DatapathKind.FIRST_PACKET:
        return DatapathKind.FIRST_PACKET, "as asked for: the kernel's conntrack translates flows"
    refusal = cache_refusal()
    if kind is DatapathKind.CACHED:
        if refusal:
            raise RulesError(f"the datapath cached does not work here: {refusal}")
        return DatapathKind.CACHED, "as asked for: established flows pass the kernel's stack by"
    return without_cache(refusal) if refusal else (DatapathKind.CACHED, CACHED)


def without_cache(refusal: str) -> tuple[DatapathKind, str]:
    """The datapath where a cache is not to be had for this reason, and why it was taken."""
    reason = f"conntrack translates flows, and cached is not to be had here: {refusal}"
    return DatapathKind.FIRST_PACKET, reason


def spread_refusal(runner: Runner) -> str:
    """Why standbys cannot spread where first-packet works; empty when they can. `runner` runs nft
    in the network namespace of the calling thread.
    """
    try:
        NatProgram(runner, NftTables(), Marks()).probe(SlotClasses(DEFAULT_SLOTS).all)
    except RulesError as error:
        return f"nft or the kernel draws no numbers (nft_numgen, nft_hash): {error}"
    return ""


def invalid_refusal(runner: Runner) -> str:
    """Why the rules of first-packet cannot tell which invalid packets the node would forward; empty
    when they can. `runner` runs nft in the network namespace of the calling thread.
    """
    try:
        NatProgram(runner, NftTables(), Marks()).probe(drops_invalid=True)
    except RulesError as error:
        return f"nft or the kernel looks no routes up (nft_fib): {error}"
    return ""


def cache_refusal() -> str:
    """Why this kernel can have no cache of established flows; empty: it can."""
    try:
        FlowCache.probe()
    except FlowCacheError as error:
        return str(error)
    return ""


def uncached_devices() -> list[str]:
    """The devices of this network namespace that a cache would not stand on, each with the reason,
    for people. Raises `FlowCacheError`.
    """
    return [f"{name}: {reason}" for name, reason in _native.uncached_devices()]


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


CACHED: Final = (
    "the kernel has nft NAT maps, conntrack events and programs on devices, by which established"
    " flows pass its stack by"
)
