"""Which back end puts the rules into this kernel."""

from enum import StrEnum

from kbe_nat.errors import RulesError
from kbe_nat.rules import Backend
from kbe_nat.rules.execution import Runner
from kbe_nat.rules.iptables import Iptables
from kbe_nat.rules.nftables import PROBE, Nftables


class BackendName(StrEnum):
    """Names of the back ends."""

    AUTO = "auto"
    IPTABLES = "iptables"
    NFT = "nft"


def probe(name: BackendName, runner: Runner) -> tuple[Backend, str]:
    """A back end that works here, and why this one was taken. Raises `RulesError` when none does, with the
    reasons.
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
            why = "" if name is BackendName.IPTABLES else ": nft cannot queue packets in this kernel"
            return Iptables(runner), f"{version}{why}"
        except RulesError as error:
            failures.append(f"iptables: {error}")
    raise RulesError("; ".join(failures))
