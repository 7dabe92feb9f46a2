"""How nft spells rules, sets and elements."""

from collections.abc import Iterator
from typing import Final

from kbe_nat.family import Family
from kbe_nat.rules.rule import (
    TAG,
    ConnMark,
    CtDirection,
    CtState,
    Element,
    Ending,
    Icmpv6Type,
    InSet,
    Mark,
    Masquerade,
    Match,
    NotConfirmed,
    NotFrom,
    NotToNode,
    Protocol,
    Queue,
    Reject,
    Rule,
    RuleSet,
    SetConnMark,
    SetKind,
    Target,
)

FAMILIES: Final = {Family.IPV4: "ip", Family.IPV6: "ip6"}
ADDRESSES: Final = {Family.IPV4: "ipv4_addr", Family.IPV6: "ipv6_addr"}


def table_lines(rules: RuleSet) -> Iterator[str]:
    """The table of a family, with its sets and base chains."""
    address = ADDRESSES[rules.family]
    yield f"table {FAMILIES[rules.family]} {TAG} {{"
    for kind, elements in rules.sets.items():
        yield f"  set {kind} {{"
        is_frontends = kind is SetKind.FRONTENDS
        yield f"    type {address}{' . inet_proto . inet_service' if is_frontends else ''}"
        if kind is SetKind.REFUSED:
            yield "    flags interval"
        if elements:
            yield f"    elements = {{ {', '.join(map(element_text, elements))} }}"
        yield "  }"
    for hook in rules.hooks:
        yield f"  chain {hook.table}-{hook.chain.lower()} {{"
        place = f"type {hook.chain_type} hook {hook.chain.lower()} priority {hook.priority}"
        yield f"    {place}; policy accept;"
        for rule in rules.rules:
            if rule.hook is hook:
                yield f'    {rule_statement(rule, rules.family)} comment "{TAG}"'
        yield "  }"
    yield "}"


def rule_statement(rule: Rule, family: Family) -> str:
    """A rule's matches and its target."""
    matches = (_match_statement(match, family) for match in rule.matches)
    return " ".join((*matches, _target_statement(rule.target, family)))


def _match_statement(match: Match, family: Family) -> str:
    match match:
        case InSet(kind):
            ports = " . meta l4proto . th dport" if kind is SetKind.FRONTENDS else ""
            return f"{FAMILIES[family]} daddr{ports} @{kind}"
        case Protocol.ICMP:
            return f"meta l4proto {'ipv6-icmp' if family == Family.IPV6 else 'icmp'}"
        case Protocol():
            return f"meta l4proto {match}"
        case Mark(bit):
            return f"meta mark and {bit:#x} == {bit:#x}"
        case ConnMark(bit):
            return f"ct mark and {bit:#x} == {bit:#x}"
        case CtState():
            return f"ct state {match}"
        case CtDirection():
            return f"ct direction {match}"
        case NotConfirmed():
            return "ct status & confirmed == 0"
        case NotFrom(device):
            return f'iifname != "{device}"'
        case NotToNode():
            return "fib daddr type != local"
        case Icmpv6Type():
            return f"icmpv6 type nd-{match}"


def _target_statement(target: Target, family: Family) -> str:
    match target:
        case Queue(first, last, bypass):
            numbers = f"{first}" if first == last else f"{first}-{last}"
            return f"queue{' flags bypass' if bypass else ''} to {numbers}"
        case SetConnMark(bit):
            return f"ct mark set ct mark or {bit:#x}"
        case Reject.TCP_RESET:
            return "reject with tcp reset"
        case Reject.PORT_UNREACHABLE:
            icmp = "icmpv6" if family == Family.IPV6 else "icmp"
            return f"reject with {icmp} port-unreachable"
        case Masquerade():
            return "masquerade fully-random"
        case Ending():
            return str(target)


def element_text(element: Element) -> str:
    """An element as nft spells it."""
    return element if isinstance(element, str) else " . ".join(map(str, element))
