"""iptables-save, ip6tables-save and `nft list` text in one comparable form: dumps that differ only in what has no
meaning for kube-proxy give the same lines. What is changed, and why, stands in tests/conformance/README.md.

The result is text of the same kind again, and normalising it once more changes nothing.
"""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeAlias

Body: TypeAlias = "list[tuple[str, Body | None]]"
"""The statements of a block of nft; one that opens a block has its body."""


def normalise(text: str) -> list[str]:
    """The lines of a dump of either kind, which is recognised by its text; none when it is no dump."""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("table "):
            return normalise_nft(text)
        if line.startswith(("*", ":", "-A ", "[")):
            return normalise_iptables(text)
    return []


def normalise_iptables(text: str) -> list[str]:
    """Tables and chains sorted, rules in their order, but sorted where kube-proxy writes them in none. A bare
    list of rules is taken for table nat.
    """
    tables = _iptables(text)
    lines = []
    for name, table in sorted(tables.items()):
        lines.append(f"*{name}")
        lines += [f":{chain} {policy}" for chain, policy in sorted(table.policies.items()) if policy]
        for chain in sorted(table.policies):
            lines += _ordered(name, chain, table.rules.get(chain, []))
        lines.append("COMMIT")
    return lines


def normalise_nft(text: str) -> list[str]:
    """Tables, chains, maps and sets sorted, one element per line; rules in their order."""
    blocks, _ = _statements(text, 0)
    lines = []
    for head, body in _sorted_blocks(blocks):
        lines.append(f"{head} {{")
        lines += [f"\t{_canonical_nft(own)}" for own, nested in body if nested is None]
        for inner, statements in _sorted_blocks(body):
            own = _chain_lines(statements) if inner.startswith("chain ") else _set_lines(statements)
            lines += [f"\t{inner} {{", *(f"\t\t{line}" for line in own), "\t}"]
        lines.append("}")
    return lines


def words(line: str) -> list[str]:
    """The words of a rule; a quoted text is one, with its quotes."""
    return [match[0] for match in _WORD.finditer(line)]


def option(rule: str, name: str) -> str:
    """The word behind an option of a rule; empty when it is not there."""
    parts = words(rule)
    return parts[parts.index(name) + 1] if name in parts[:-1] else ""


@dataclass
class _Table:
    policies: dict[str, str] = field(default_factory=dict)
    """By chain; empty for a chain that only its rules tell of."""
    rules: dict[str, list[str]] = field(default_factory=dict)


def _iptables(text: str) -> dict[str, _Table]:
    tables: dict[str, _Table] = {}
    name = "nat"
    for line in map(str.strip, text.splitlines()):
        if line.startswith("*"):
            name = line[1:].strip()
            tables.setdefault(name, _Table())
        elif line.startswith(":"):
            chain, policy, *_ = (*line[1:].split(), "-")
            tables.setdefault(name, _Table()).policies[chain] = policy
        elif line.startswith(("-A ", "[")):
            rule = _canonical_rule(line)
            chain = rule.split()[1]
            table = tables.setdefault(name, _Table())
            table.policies.setdefault(chain, "")
            table.rules.setdefault(chain, []).append(rule)
    return tables


def _canonical_rule(line: str) -> str:
    parts = words(line)
    if _COUNTERS.fullmatch(parts[0]):
        parts = parts[1:]
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


def _ordered(table: str, chain: str, rules: list[str]) -> list[str]:
    if (table, chain) not in UNORDERED_CHAINS:
        return rules
    if (table, chain) == ("nat", "KUBE-SERVICES"):
        # Services first, the hand-over to KUBE-NODEPORTS last: one rule, or one per address.
        return sorted(rules, key=lambda rule: (option(rule, "-j") == "KUBE-NODEPORTS", rule))
    if (table, chain) == ("nat", "KUBE-NODEPORTS"):
        # The rules of one port keep their order: that for 127.0.0.0/8 goes before the general one.
        return sorted(rules, key=lambda rule: (option(rule, "-p"), int(option(rule, "--dport") or 0)))
    return sorted(rules)


def _sorted_blocks(body: Body) -> list[tuple[str, Body]]:
    return sorted(((head, own) for head, own in body if own is not None), key=lambda pair: pair[0])


def _statements(text: str, position: int) -> tuple[Body, int]:
    """The statements from here to the end of the block, and where that is."""
    found: Body = []
    buffer, depth = "", 0

    def close() -> None:
        nonlocal buffer
        if buffer.strip():
            found.append((buffer.strip(), None))
        buffer = ""

    while position < len(text):
        token = _TOKEN.match(text, position)
        assert token is not None, "every character is a token"
        position = token.end()
        own = token[0]
        if own == "{" and depth == 0 and (head := _BLOCK.match(_HANDLE.sub("", buffer.strip()))):
            nested, position = _statements(text, position)
            found.append((f"{head[1]} {head[2]}", nested))
            buffer = ""
        elif own == "}" and depth == 0:
            close()
            return found, position
        elif own in "\n;" and depth == 0:
            close()
        elif own.startswith("#") and depth == 0 and not buffer.strip():
            continue
        else:
            depth += {"{": 1, "}": -1}.get(own, 0)
            buffer += own
    close()
    return found, position


def _canonical_nft(statement: str) -> str:
    """One form for numbers and names that versions of nft print differently; quoted texts are left alone."""
    parts = _QUOTED.split(statement)
    for index in range(0, len(parts), 2):
        part = parts[index]
        for pattern, replacement in _CANONICAL:
            part = pattern.sub(replacement, part)
        parts[index] = part
    return "".join(parts).strip()


def _chain_lines(statements: Body) -> list[str]:
    lines = [_canonical_nft(own) for own, _ in statements]
    if len(lines) > 1 and lines[0].startswith("type ") and lines[1].startswith("policy "):
        lines[:2] = [f"{lines[0]}; {lines[1]};"]
    return lines


def _set_lines(statements: Body) -> list[str]:
    properties: list[str] = []
    elements: list[str] = []
    for own, _ in statements:
        if _ELEMENTS.match(own):
            elements += _split(own[own.index("{") + 1 : own.rindex("}")])
        else:
            properties.append(_canonical_nft(own))
    listed = ["elements = {", *(f"\t{own}," for own in sorted(elements)), "}"] if elements else []
    return [*sorted(properties), *listed]


def _split(text: str) -> Iterator[str]:
    """The elements, which commas separate outside quotes and braces."""
    element, depth = "", 0
    for token in _TOKEN.finditer(text):
        own = token[0]
        depth += {"{": 1, "}": -1}.get(own, 0)
        if own == "," and depth == 0:
            yield _canonical_nft(element)
            element = ""
        else:
            element += own
    if element.strip():
        yield _canonical_nft(element)


def _seconds(match: re.Match[str]) -> str:
    parts = re.findall(r"(\d+)(ms|[dhms])", match[1])
    return f"timeout {sum(int(number) * _UNITS[unit] for number, unit in parts)}s"


def _priority(match: re.Match[str]) -> str:
    base = _PRIORITIES[match[1]] if match[1] in _PRIORITIES else int(match[1])
    return f"priority {base + int((match[3] or '+') + (match[4] or '0'))}"


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
"""Chains that kube-proxy fills while it goes through a Go map: their order differs from sync to sync."""
_WORD: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*"?|[^\s"])+')
_COUNTERS: Final = re.compile(r"\[\d+:\d+\]")
_TOKEN: Final = re.compile(r'"[^"]*"?|#[^\n"{};]*|[^"#]', re.DOTALL)
_QUOTED: Final = re.compile(r'("(?:[^"\\]|\\.)*")')
_BLOCK: Final = re.compile(r"^(table|chain|set|map)\s+(.*?)\s*$")
_HANDLE: Final = re.compile(r"#\s*handle \d+")
_ELEMENTS: Final = re.compile(r"elements\s*=\s*\{")
_PRIORITIES: Final = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0}
_CANONICAL: Final = (
    (re.compile(r"\s+"), " "),
    (_HANDLE, ""),
    (re.compile(r"\bcounter packets \d+ bytes \d+\b"), "counter"),
    (re.compile(r"\b0x([0-9a-f]+)\b"), lambda match: hex(int(match[1], 16))),
    (re.compile(r"\bexpires [0-9dhms]+"), ""),
    (re.compile(r"\btimeout ((?:\d+(?:ms|[dhms]))+)"), _seconds),
    (re.compile(r"\bpriority ([a-z]+|-?\d+)( ([+-]) ?(\d+))?"), _priority),
    (re.compile(r"\bdnat (ip6?) addr \. port to\b"), r"dnat \1 to"),
    (re.compile(r"\{ ?"), "{ "),
    (re.compile(r" ?\}"), " }"),
    (re.compile(r" ?, ?"), ", "),
    (re.compile(r"  +"), " "),
)
