"""How iptables-restore and ipset spell rules, sets and elements."""

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
    Hook,
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

PREFIX: Final = "KBE-NAT-"
"""The beginning of every chain of ours."""


def chain_name(hook: Hook) -> str:
    """The chain that holds our rules for a hook."""
    return PREFIX + hook.chain


def set_name(kind: SetKind, family: Family) -> str:
    """ipset has one name space for both families."""
    return f"{TAG}-{kind}-{family}"


def rule_words(rule: Rule, family: Family) -> str:
    """A rule's matches and its target, without its chain."""
    words = []
    loaded = ""
    for match in rule.matches:
        module, options = _match_words(match, family)
        if module != loaded:
            # Options that follow each other share their module: iptables would make a second match
            # of it otherwise.
            words.append(f"-m {module}" if module else "")
            loaded = module
        words.append(options)
    return " ".join(filter(None, (*words, "-j", _target_words(rule.target, family))))


def _match_words(match: Match, family: Family) -> tuple[str, str]:
    """The module of a match, or "" for one that is built in, and its options."""
    match match:
        case InSet(kind):
            ends = "dst,dst" if kind is SetKind.FRONTENDS else "dst"
            return "set", f"--match-set {set_name(kind, family)} {ends}"
        case Protocol.ICMP:
            return "", f"-p {'ipv6-icmp' if family == Family.IPV6 else 'icmp'}"
        case Protocol():
            return "", f"-p {match}"
        case Mark(bit):
            return "mark", f"--mark {_mark_and_mask(bit)}"
        case ConnMark(bit):
            return "connmark", f"--mark {_mark_and_mask(bit)}"
        case CtState():
            return "conntrack", f"--ctstate {match.upper()}"
        case CtDirection():
            return "conntrack", f"--ctdir {match.upper()}"
        case NotConfirmed():
            return "conntrack", "! --ctstatus CONFIRMED"
        case NotFrom(device):
            return "", f"! -i {device}"
        case NotToNode():
            return "addrtype", "! --dst-type LOCAL"
        case Icmpv6Type():
            return "icmp6", f"--icmpv6-type {match}"


def _target_words(target: Target, family: Family) -> str:
    match target:
        case Queue(first, last, bypass):
            numbers = f"num {first}" if first == last else f"balance {first}:{last}"
            return f"NFQUEUE --queue-{numbers}{' --queue-bypass' if bypass else ''}"
        case SetConnMark(bit):
            return f"CONNMARK --set-xmark {_mark_and_mask(bit)}"
        case Reject.TCP_RESET:
            return "REJECT --reject-with tcp-reset"
        case Reject.PORT_UNREACHABLE:
            icmp = "icmp6" if family == Family.IPV6 else "icmp"
            return f"REJECT --reject-with {icmp}-port-unreachable"
        case Masquerade():
            return "MASQUERADE --random-fully"
        case Ending():
            return target.upper()


def _mark_and_mask(bit: int) -> str:
    return f"{bit:#x}/{bit:#x}"


def set_lines(rules: RuleSet) -> Iterator[str]:
    """Each set is filled under another name and swapped in: no packet finds it half full."""
    inet = "inet6" if rules.family == Family.IPV6 else "inet"
    for kind, elements in rules.sets.items():
        name = set_name(kind, rules.family)
        size = max(len(elements), MIN_SIZE)
        options = f"{SET_TYPES[kind]} family {inet} maxelem {size} -exist"
        substitute = f"{name}-next"
        yield f"create {name} {options}"
        yield f"create {substitute} {options}"
        yield f"flush {substitute}"
        yield from (f"add {substitute} {element_text(element)}" for element in elements)
        yield f"swap {substitute} {name}"
        yield f"destroy {substitute}"


def element_text(element: Element) -> str:
    """An element as ipset spells it."""
    if isinstance(element, str):
        return element
    address, protocol, port = element
    return f"{address},{protocol}:{port}"


SET_TYPES: Final = {
    SetKind.FRONTENDS: "hash:ip,port",
    SetKind.ADDRESSES: "hash:ip",
    SetKind.REFUSED: "hash:net",
}
MIN_SIZE: Final = 1 << 20
"""Elements for which a set has room at least; ipset cannot enlarge one."""
