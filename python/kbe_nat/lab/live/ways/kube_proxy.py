"""kube-proxy's own rules for the objects, as its two modes write them.

The text is that of `kbe_nat.kubeproxy.dump`, which is tested against a real kube-proxy. Time counts
from the text to the answer: what kube-proxy itself takes to write it is not in it. A change loads
what kube-proxy's partial sync would: chains of Services that differ, and in iptables mode the
chains that list all Services too, which it writes anew each time.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeAlias

from kbe_nat.family import Family
from kbe_nat.kubeproxy.dump import FamilyName, Form, dump, plan_for
from kbe_nat.lab.live.network import NODE_ADDRESSES, Network
from kbe_nat.lab.live.ways.kernel import IPTABLES, clear_iptables
from kbe_nat.lab.live.ways.programs import largest, load, not_installed, refusal
from kbe_nat.lab.live.ways.way import Served, families_of, first_answer
from kbe_nat.model import Snapshot
from kbe_nat.policy.options import Options

BOTH: Final = frozenset(("tcp", "udp"))


class KubeProxyNft:
    """kube-proxy in nftables mode."""

    name = "kube-proxy-nft"
    protocols = BOTH
    families = frozenset(Family)
    is_static = False

    def missing(self) -> str | None:
        """See `Way`."""
        reason = not_installed("nft", "nftables")
        return reason or refusal(NFT, _nft_text(Snapshot()))

    @contextmanager
    def serve(self, network: Network, objects: Snapshot) -> Iterator[Served]:
        """See `Way`."""
        text = _nft_text(objects)
        started = time.monotonic()
        peak = load(network.node, NFT, text)
        try:
            yield _NftRules(network, objects, first_answer(network, objects) - started, peak)
        finally:
            tables = sorted(
                {line.split(" {")[0] for line in text.splitlines() if line[:6] == TABLE}
            )
            load(network.node, NFT, "".join(f"delete {table}\n" for table in tables))


class _NftRules(Served):
    def __init__(
        self, network: Network, objects: Snapshot, programming_seconds: float, peak_mb: float | None
    ) -> None:
        super().__init__(network, programming_seconds, peak_mb)
        self._chains = _nft_chains(_nft_text(objects))

    def change(self, objects: Snapshot) -> float:
        chains = _nft_chains(_nft_text(objects))
        before, self._chains = self._chains, chains
        text = _nft_change(before, chains)
        began = time.monotonic()
        load(self.network.node, NFT, text)
        return began


def _nft_text(objects: Snapshot) -> str:
    return dump(plan_for(objects, OPTIONS, Form.NFT), objects, Form.NFT)


def _nft_chains(text: str) -> dict[str, list[str]]:
    """Rules by "FAMILY TABLE CHAIN"."""
    chains: dict[str, list[str]] = {}
    table, rules = "", None
    for line in text.splitlines():
        if line.startswith(TABLE):
            table = line.removeprefix(TABLE).removesuffix(" {").strip()
        elif line.startswith("\tchain "):
            rules = chains.setdefault(f"{table} {line.split()[1]}", [])
        elif line == "\t}":
            rules = None
        elif rules is not None:
            rules.append(line.strip())
    return chains


def _nft_change(before: Mapping[str, list[str]], after: Mapping[str, list[str]]) -> str:
    changed = [chain for chain in after if before.get(chain) != after[chain]]
    lines = [f"add chain {chain}" for chain in changed]
    lines += [f"flush chain {chain}" for chain in changed]
    lines += [f"add rule {chain} {rule}" for chain in changed for rule in after[chain]]
    # A chain can go once no rule leads to it.
    lines += [
        f"flush chain {chain}\ndelete chain {chain}" for chain in before if chain not in after
    ]
    return "".join(f"{line}\n" for line in lines)


class KubeProxyIptables:
    """kube-proxy in iptables mode, with the node's iptables, or that of old: iptables-restore of
    the former takes a time quadratic in the chains (ten minutes for 10,000 Services).
    """

    protocols = BOTH
    families = frozenset(Family)
    is_static = False

    def __init__(self, variant: str = "") -> None:
        """`variant`: "-legacy" for the iptables of old."""
        self.name = f"kube-proxy-iptables{variant}"
        self._variant = variant

    def missing(self) -> str | None:
        """See `Way`."""
        command = _restore(Family.IPV4, self._variant)
        text = _iptables_text(Snapshot(), Family.IPV4)
        return not_installed(command[0], "iptables") or refusal(command, text)

    @contextmanager
    def serve(self, network: Network, objects: Snapshot) -> Iterator[Served]:
        """See `Way`."""
        texts = {family: _iptables_text(objects, family) for family in families_of(objects)}
        started = time.monotonic()
        try:
            peak = largest(
                [
                    load(network.node, _restore(family, self._variant), text)
                    for family, text in texts.items()
                ]
            )
            took = first_answer(network, objects) - started
            yield _IptablesRules(network, took, peak, texts, self._variant)
        finally:
            for family in texts:
                clear_iptables(network.node, family, self._variant)


class _IptablesRules(Served):
    def __init__(
        self,
        network: Network,
        programming_seconds: float,
        peak_mb: float | None,
        texts: Mapping[Family, str],
        variant: str,
    ) -> None:
        super().__init__(network, programming_seconds, peak_mb)
        self._chains = {family: _iptables_chains(text) for family, text in texts.items()}
        self._variant = variant

    def change(self, objects: Snapshot) -> float:
        texts = {}
        for family, before in self._chains.items():
            after = _iptables_chains(_iptables_text(objects, family))
            texts[family] = _iptables_change(before, after)
            self._chains[family] = after
        began = time.monotonic()
        for family, text in texts.items():
            load(self.network.node, _restore(family, self._variant), text)
        return began


def _restore(family: Family, variant: str) -> tuple[str, ...]:
    return (f"{IPTABLES[family]}{variant}-restore", "-w", "--noflush")


def _iptables_text(objects: Snapshot, family: Family) -> str:
    plan = plan_for(objects, OPTIONS, Form.IPTABLES_SAVE)
    name = FamilyName.IPV6 if family == Family.IPV6 else FamilyName.IPV4
    # kube-proxy counts with nfacct only where the kernel has it, which few do.
    return NFACCT.sub("", dump(plan, objects, Form.IPTABLES_SAVE, wanted=name))


Chains: TypeAlias = dict[str, dict[str, list[str]]]


def _iptables_chains(text: str) -> Chains:
    """Rules of the chains of Services and of those that list them, by table and chain."""
    tables: Chains = {}
    for line in text.splitlines():
        if line.startswith("*"):
            chains = tables.setdefault(line[1:], {})
        elif line.startswith(":KUBE-"):
            chains[line[1:].split()[0]] = []
        elif line.startswith("-A KUBE-"):
            chains[line.split()[1]].append(line)
    return tables


def _iptables_change(before: Chains, after: Chains) -> str:
    lines = []
    for table, chains in after.items():
        former = before.get(table, {})
        changed = [
            chain
            for chain, rules in chains.items()
            if not chain.startswith(OF_SERVICES) or former.get(chain) != rules
        ]
        removed = [chain for chain in former if chain not in chains]
        lines += [f"*{table}", *(f":{chain} - [0:0]" for chain in (*changed, *removed))]
        lines += [rule for chain in changed for rule in chains[chain]]
        lines += [*(f"-X {chain}" for chain in removed), "COMMIT"]
    return "".join(f"{line}\n" for line in lines)


OPTIONS: Final = Options(node_addresses=NODE_ADDRESSES)
TABLE: Final = "table "
NFT: Final = ("nft", "-f", "-")
NFACCT: Final = re.compile(r"-m nfacct --nfacct-name  ?\S+ ")
OF_SERVICES: Final = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-")
