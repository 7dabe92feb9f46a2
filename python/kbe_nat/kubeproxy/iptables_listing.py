"""iptables-save, ip6tables-save and `iptables -S` text as tables of rules in one form.

Every line must be one that these programs write. Chains and addresses tell which table an `iptables
-S` listing shows, and the family of a listing that has no head line.
"""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Final

from kbe_nat.errors import FileError
from kbe_nat.family import Family


@dataclass
class IptablesTable:
    """One table as a listing shows it."""

    line: int
    """Where it begins in the listing, counted from one."""
    name: str = ""
    """Empty while nothing has told it."""
    family: Family | None = None
    """None while nothing has told it."""
    is_whole: bool = False
    """Whether the listing shows all chains of the table, not a choice of lines."""
    policies: dict[str, str] = field(default_factory=dict)
    """By chain; "-" for chains that are not built in, empty for chains that only their rules tell
    of.
    """
    rules: dict[str, list[str]] = field(default_factory=dict)
    """By chain, in order, in canonical form."""

    def lines(self) -> list[str]:
        """Chains sorted; rules in their order, but sorted where kube-proxy writes them in none."""
        listed = [f":{chain} {policy}" for chain, policy in sorted(self.policies.items()) if policy]
        for chain in sorted(self.policies):
            listed += _sort_rules(self.name, chain, self.rules.get(chain, []))
        return listed

    def add(self, line: str) -> None:
        """Enter a line of a chain or rule."""
        match = _CHAIN.fullmatch(line) or _POLICY.fullmatch(line) or _NEW.fullmatch(line)
        if match:
            # Only iptables -N tells no policy.
            policy = match[2] if match.re is not _NEW else "-"
            self.policies[match[1]] = policy
            self.is_whole |= match.re is _POLICY
            return
        rule = _canonical_rule(line)
        chain = rule.split()[1]
        self.policies.setdefault(chain, "")
        self.rules.setdefault(chain, []).append(rule)


def read_iptables(text: str, origin: str, table: str = "") -> list[IptablesTable]:
    """The tables of a listing, in its order. `table` is the name of the one that a listing shows
    without name. Cost: linear.

    Raises `FileError` with `origin` and line, for a line that iptables does not write, and for a
    table that nothing tells.
    """
    tables = list(_sections(text, origin))
    unnamed = [section for section in tables if not section.name]
    for section in unnamed:
        section.name = table if table and len(unnamed) == 1 else _guessed_name(section)
        if not section.name:
            raise FileError(
                f"{origin}: line {section.line}: nothing tells which table this is of: "
                "say --table, or give iptables-save's whole output"
            )
    for section in tables:
        section.family = section.family or _guessed_family(section)
    _spread_families(tables)
    return tables


def words(line: str) -> list[str]:
    """The words of a rule; a quoted text is one, with its quotes."""
    return [match[0] for match in _WORD.finditer(line)]


def option(rule: str, name: str) -> str:
    """The word behind an option of a rule; empty when it is not there."""
    parts = words(rule)
    return parts[parts.index(name) + 1] if name in parts[:-1] else ""


def is_iptables(line: str) -> bool:
    """Whether iptables-save or `iptables -S` writes such a line; False for comments."""
    return any(form.fullmatch(line) for form in (_TABLE, _CHAIN, _POLICY, _NEW, _RULE, _COMMIT))


def _sections(text: str, origin: str) -> Iterator[IptablesTable]:
    """The tables one after the other, as far as the lines name them."""
    section: IptablesTable | None = None
    family: Family | None = None
    rank = FIRST
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            head = _HEAD.match(line)
            family = (Family.IPV6 if head[1] else Family.IPV4) if head else family
            continue
        if not is_iptables(line):
            raise FileError(f"{origin}: line {number}: {_complaint(line)}: {abbreviate(line)}")
        last, rank = rank, _rank(line)
        # iptables -S lists policies by hook, then chains, then rules: a step back begins another
        # table.
        is_new = (
            section is not None and not section.name and (rank < last or rank == last < NEW_CHAIN)
        )
        if section and (is_new or rank in (TABLE, COMMIT)):
            if section.name and rank != COMMIT:
                raise FileError(f"{origin}: line {number}: {NO_COMMIT.format(section.name)}")
            yield section
            section = None
        if rank == COMMIT:
            continue
        section = section or IptablesTable(number, family=family)
        if rank == TABLE:
            section.name, section.is_whole = line[1:], True
        else:
            section.add(line)
    if section and section.name:
        raise FileError(f"{origin}: {NO_COMMIT.format(section.name)}")
    if section:
        yield section


def _rank(line: str) -> tuple[int, int]:
    """Where a line stands in the order in which a table is listed."""
    policy = _POLICY.fullmatch(line)
    if policy:
        return 1, HOOKS.index(policy[1]) if policy[1] in HOOKS else len(HOOKS)
    if _TABLE.fullmatch(line):
        return TABLE
    if _COMMIT.fullmatch(line):
        return COMMIT
    return RULE if _RULE.fullmatch(line) else NEW_CHAIN


def _guessed_name(section: IptablesTable) -> str:
    """The table that has such chains and jumps; empty when no table, or more than one, has."""
    rules = [rule for chain in section.rules.values() for rule in chain]
    chains = {*section.policies, *(option(rule, "-j") for rule in rules)}
    tables = {name for name, form in _CHAINS_OF.items() if any(map(form.fullmatch, chains))}
    if tables:
        return tables.pop() if len(tables) == 1 else ""
    if {"PREROUTING", "FORWARD"} <= chains:
        return "mangle"
    if "POSTROUTING" in chains:
        return "nat"
    if "PREROUTING" in chains:
        return "nat" if "INPUT" in chains else "raw"
    return "filter" if {"INPUT", "FORWARD"} & chains else ""


def _guessed_family(section: IptablesTable) -> Family | None:
    """The family of the first address in a rule; None when no rule has an address."""
    for rules in section.rules.values():
        for rule in rules:
            for name, word in pairwise(words(rule)):
                if name in ("-s", "-d") and (match := _ADDRESS.match(word)):
                    return Family.IPV6 if ":" in match[0] else Family.IPV4
                if name == "--reject-with":
                    return Family.IPV6 if word.startswith("icmp6") else Family.IPV4
    return None


def _spread_families(tables: list[IptablesTable]) -> None:
    """A table without addresses is of the family of those that were listed with it."""
    run: dict[str, IptablesTable] = {}
    for section in (*tables, None):
        # A name that comes again begins the output of another program.
        if section is None or section.name in run:
            families = {member.family for member in run.values() if member.family}
            family = families.pop() if len(families) == 1 else None
            for member in run.values():
                member.family = member.family or family
            run = {}
        if section:
            run[section.name] = section


def _canonical_rule(line: str) -> str:
    """Without counters, comments quoted, and addresses with their prefix length."""
    parts = words(line)
    if _COUNTERS.fullmatch(parts[0]):
        parts = parts[1:]
    if "-c" in parts[:-2]:
        place = parts.index("-c")
        del parts[place : place + 3]
    for index, (option_name, word) in enumerate(pairwise(parts), 1):
        if option_name == "--comment" and not word.startswith('"'):
            parts[index] = f'"{word}"'
        elif option_name in ("-s", "-d", "--source", "--destination"):
            parts[index] = _with_prefix_length(word)
    return " ".join(parts)


def _with_prefix_length(address: str) -> str:
    try:
        return str(ipaddress.ip_network(address, strict=False))
    except ValueError:
        return address


def _sort_rules(table: str, chain: str, rules: list[str]) -> list[str]:
    if (table, chain) not in UNORDERED_CHAINS:
        return rules
    if (table, chain) == ("nat", "KUBE-SERVICES"):
        # Services first, the hand-over to KUBE-NODEPORTS last: one rule, or one per address. That
        # order decides where an external address is the node's, so it stays as it is.
        runs = groupby(rules, key=lambda rule: option(rule, "-j") == "KUBE-NODEPORTS")
        return [rule for _, run in runs for rule in sorted(run)]
    if (table, chain) == ("nat", "KUBE-NODEPORTS"):
        # The rules of one port keep their order: that for 127.0.0.0/8 goes before the general one.
        return sorted(
            rules, key=lambda rule: (option(rule, "-p"), _number(option(rule, "--dport")))
        )
    return sorted(rules)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _complaint(line: str) -> str:
    if _LIST.match(line):
        return "this is iptables -L, which leaves out parts of rules; give iptables-save's output"
    return "iptables-save writes no such line"


def abbreviate(line: str) -> str:
    """The beginning of a line, as it can be shown on a terminal."""
    shown = "".join(character if character.isprintable() else "?" for character in line)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."


NO_COMMIT: Final = "table {} is cut off: its COMMIT is missing"
UNORDERED_CHAINS: Final = frozenset(
    {
        ("filter", "KUBE-SERVICES"),
        ("filter", "KUBE-EXTERNAL-SERVICES"),
        ("filter", "KUBE-NODEPORTS"),
        ("filter", "KUBE-PROXY-FIREWALL"),
        ("nat", "KUBE-SERVICES"),
        ("nat", "KUBE-NODEPORTS"),
    }
)
"""Chains that kube-proxy fills while it goes through a Go map: their order differs from sync to
sync.
"""
HOOKS: Final = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
FIRST, TABLE, NEW_CHAIN, RULE, COMMIT = (-1, 0), (0, 0), (2, 0), (3, 0), (4, 0)
SHOWN: Final = 100
_VERDICT: Final = r"(ACCEPT|DROP|QUEUE|RETURN)"
_TABLE: Final = re.compile(r"\*(?:raw|mangle|nat|filter|security)")
_CHAIN: Final = re.compile(rf":(\S+) ({_VERDICT[1:-1]}|-)(?: \[\d+:\d+\])?")
_POLICY: Final = re.compile(rf"-P (\S+) {_VERDICT}(?: -c \d+ \d+)?")
_NEW: Final = re.compile(r"-N (\S+)")
_RULE: Final = re.compile(r"(?:\[\d+:\d+\] )?-A (\S+)(?: [-!].*)?")
_COMMIT: Final = re.compile("COMMIT")
_HEAD: Final = re.compile(r"# Generated by ip(6?)tables")
_LIST: Final = re.compile(r"Chain \S+ \(|(?:num +)?(?:pkts +bytes +)?target +prot ")
_WORD: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*"?|[^\s"])+')
_COUNTERS: Final = re.compile(r"\[\d+:\d+\]")
_ADDRESS: Final = re.compile(r"[0-9a-f.:]+/")
_CHAINS_OF: Final = {
    "nat": re.compile(
        r"KUBE-(?:SVC|SVL|EXT|FW|SEP|XLB)-.*|KUBE-(?:MARK-MASQ|POSTROUTING)|[DS]NAT|MASQUERADE"
    ),
    "filter": re.compile(r"KUBE-(?:EXTERNAL-SERVICES|FORWARD|FIREWALL|PROXY-FIREWALL)|REJECT"),
    "mangle": re.compile("KUBE-IPTABLES-HINT"),
}
