"""What kube-proxy has left in the kernel after its end: its chains, tables and sets, and the
commands that take them out.

Only what kube-proxy alone writes is taken out: the chains that it names, the rules of built-in
chains that lead to these, nft's tables `kube-proxy`, and in ipvs mode its sets. A chain or set that
a rule of another program still uses stays, with all that it leads to. kubelet's chains begin with
KUBE- as well (KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, KUBE-MARK-DROP), and so do
those of kube-router and CRI-O: they stay.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from kbe_nat.errors import RulesError
from kbe_nat.rules import nft_tables
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.kube_proxy import kube_proxy_processes


class Removal(NamedTuple):
    """A command that removes something, with its input."""

    command: Sequence[str]
    text: str


def kube_proxy_removals(runner: Runner) -> list[Removal]:
    """The commands that take out what kube-proxy has left, in order. Changes nothing. Raises
    `RulesError` when a command that is there fails. Cost: six commands.
    """
    removals, rules = [], []
    tables = nft_tables.tables(_listed(runner, nft_tables.LIST))
    lines = [f"delete {table}" for table in NFT_TABLES if table in tables]
    if lines:
        removals.append(Removal(("nft", "-f", "-"), _text(lines)))
    for name in ("iptables", "ip6tables"):
        saved = list(_tables(_listed(runner, (f"{name}-save",))))
        lines = [line for table in saved for line in table.removal()]
        rules += [rule for table in saved for rule in table.foreign_rules()]
        if lines:
            removals.append(Removal((f"{name}-restore", "--noflush", "-w"), _text(lines)))
    used = {word for rule in rules for word in rule}
    sets = _listed(runner, ("ipset", "list", "-name")).split()
    lines = [f"destroy {name}" for name in sets if IPVS_SET.fullmatch(name) and name not in used]
    if lines:
        removals.append(Removal(("ipset", "restore"), _text(lines)))
    return removals


def render_removals(removals: Iterable[Removal]) -> str:
    """The removals as a shell would be given them, for people."""
    return "".join(f"# {shlex.join(command)}\n{text}" for command, text in removals)


def clean_up_kube_proxy(runner: Runner, *, is_dry: bool) -> str:
    """Remove what a kube-proxy that has ended has left in the kernel, unless `is_dry`; the commands
    for that, as a shell would be given them. Raises `RulesError`, also while a kube-proxy runs,
    which would put everything back.
    """
    processes = kube_proxy_processes()
    if processes and not is_dry:
        raise RulesError(
            f"kube-proxy runs here (process {', '.join(map(str, processes))}), and would put its"
            " rules back: end it first"
        )
    removals = kube_proxy_removals(runner)
    for removal in () if is_dry else removals:
        runner.run(removal.command, removal.text)
    return render_removals(removals)


@dataclass(slots=True)
class _Table:
    """One table of a listing of iptables-save."""

    name: str
    lines: Sequence[str]
    bystanders: set[str] = field(init=False)
    """Chains that kube-proxy names and rules of others use."""
    chains: list[str] = field(init=False)
    """Chains that are to go."""

    def __post_init__(self) -> None:
        named = [line[1:].split()[0] for line in self.lines if line.startswith(":")]
        candidates = [chain for chain in named if CHAIN.fullmatch(chain)]
        self.bystanders = self._used_by_others(set(candidates))
        self.chains = [chain for chain in candidates if chain not in self.bystanders]

    def removal(self) -> list[str]:
        """The transaction that takes kube-proxy's chains out of this table; empty without any."""
        if not self.chains:
            return []
        jumps = [
            f"-D{line.removeprefix('-A')}"
            for line, rule in self._rules()
            if _is_jump_of_kube_proxy(rule) and _target(rule) in self.chains
        ]
        ends = [f"-{letter} {chain}" for letter in "FX" for chain in self.chains]
        return [f"*{self.name}", *jumps, *ends, "COMMIT"]

    def foreign_rules(self) -> Iterator[list[str]]:
        """The words of each rule that stays."""
        for _, rule in self._rules():
            if rule[1] not in self.chains and _target(rule) not in self.chains:
                yield rule

    def _used_by_others(self, candidates: set[str]) -> set[str]:
        """Chains that rules of others lead to, directly or through kube-proxy's own."""
        targets: dict[str, set[str]] = {}
        for _, rule in self._rules():
            if not _is_jump_of_kube_proxy(rule):
                targets.setdefault(rule[1], set()).add(_target(rule))
        foreign = targets.keys() - candidates
        used: set[str] = set()
        reached = {target for chain in foreign for target in targets[chain]} & candidates
        while reached:
            used |= reached
            reached = {target for chain in reached for target in targets.get(chain, ())}
            reached = reached & candidates - used
        return used

    def _rules(self) -> Iterator[tuple[str, list[str]]]:
        return ((line, shlex.split(line)) for line in self.lines if line.startswith("-A "))


def _target(rule: Sequence[str]) -> str:
    return next((target for word, target in pairwise(rule) if word in ("-j", "-g")), "")


def _is_jump_of_kube_proxy(rule: Sequence[str]) -> bool:
    """Whether kube-proxy has written this rule of a built-in chain."""
    has_comment = any(
        word == "--comment" and text.startswith("kubernetes ") for word, text in pairwise(rule)
    )
    return rule[1] in BUILT_IN and bool(ENTRY.fullmatch(_target(rule))) and has_comment


def _tables(saved: str) -> Iterator["_Table"]:
    """The tables of a listing."""
    for text in f"\n{saved}".split("\n*")[1:]:
        name, *lines = text.splitlines()
        yield _Table(name, lines)


def _listed(runner: Runner, command: Sequence[str]) -> str:
    """What a command lists; nothing where it is not installed."""
    try:
        return runner.run(command)
    except RulesError as error:
        if "is not installed" in str(error):
            return ""
        raise


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


NFT_TABLES: Final = ("table ip kube-proxy", "table ip6 kube-proxy")
BUILT_IN: Final = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
ENTRY: Final = re.compile(
    "KUBE-(?:SERVICES|EXTERNAL-SERVICES|NODEPORTS|FORWARD|POSTROUTING|PROXY-FIREWALL"
    "|LOAD-BALANCER|NODE-PORT|IPVS-FILTER|IPVS-OUT-FILTER)"
)
"""Chains to which kube-proxy leads from built-in ones."""
CHAIN: Final = re.compile(
    "KUBE-(?:SERVICES|EXTERNAL-SERVICES|NODEPORTS|FORWARD|POSTROUTING|MARK-MASQ|PROXY-FIREWALL"
    "|PROXY-CANARY|(?:SVC|SVL|SEP|EXT|FW|XLB)-[A-Z0-9]{16}"
    # Of ipvs mode.
    "|LOAD-BALANCER|NODE-PORT|IPVS-FILTER|IPVS-OUT-FILTER|SOURCE-RANGES-FIREWALL)"
)
"""kube-proxy's chains, of all its modes and releases; KUBE-XLB- are those until 1.23."""
IPVS_SET: Final = re.compile(
    "KUBE-(?:6-)?(?:CLUSTER-IP|LOOP-BACK|EXTERNAL-IP|LOAD-BALANCER|NODE-PORT|HEALTH-CHECK-NODE-PORT"
    "|IPVS-IPS)(?:-[A-Z-]+)?"
)
