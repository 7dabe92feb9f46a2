"""The diversion rules as values: which packets go to the queue, and what the kernel does by our marks.

A handful of rules in chains of our own, whatever the number of Services: what grows are two sets per family.
Nothing here runs a command; a back end (`kbe_nat.rules.iptables`, `kbe_nat.rules.memory`) installs a `RuleSet`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Final, Protocol

from kbe_nat.model import IPV4, IPV6, family
from kbe_nat.policy import CLUSTER_IP, Listener, Plan, PortPolicy, unallocated, unknown_port

PREFIX: Final = "KBE-NAT-"
"""Every chain of ours begins so."""
TAG: Final = "kbe-nat"
"""Comment of every rule of ours, and beginning of the names of our sets."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Single bits of the packet mark. Those of kube-proxy (0x4000, 0x8000), Cilium (0xf00), Tailscale (0xff0000),
    Calico (0xffff0000) and Istio (0x539) are left alone.
    """

    flow: int = 0x1000
    """The packet was translated; in the connmark: so are the replies."""
    refused: int = 0x2000
    """To be refused by the kernel."""
    masquerade: int = 0x80
    """To get an address of the node as its source."""
    index: int = 0xFFFFC000
    """The bits that hold a backend's number, for a moment only: between the verdict on a first packet and the
    kernel's translation right behind it.
    """


class Way(StrEnum):
    """Which packets of a flow are diverted."""

    EVERY_PACKET = "every-packet"
    FIRST_PACKET = "first-packet"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of one of our chains, in iptables' words."""

    table: str
    chain: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Jump:
    """The rule at the head of a built-in chain that leads to one of ours."""

    table: str
    hook: str
    chain: str


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Everything that is installed for one family."""

    family: int
    jumps: tuple[Jump, ...]
    rules: tuple[Rule, ...]
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Elements by the name of their set, sorted. Type: see `SET_TYPES`."""


class Backend(Protocol):
    """Who puts rules into the kernel. All methods raise `RulesError`."""

    def install(self, rules: Iterable[RuleSet]) -> None:
        """Make these our rules, in place of any that an earlier run has left. Foreign rules stay as they are."""
        ...

    def update(self, rules: Iterable[RuleSet]) -> None:
        """As `install`, but when only elements of sets differ from what this object has installed last, only
        those change.
        """
        ...

    def missing(self) -> tuple[str, ...]:
        """What of the rules that were installed last is not in the kernel as it should be: rules, or names of
        sets.
        """
        ...

    def remove(self) -> None:
        """Take away every rule, chain and set of ours, if there are any."""
        ...

    def render(self, rules: Iterable[RuleSet]) -> str:
        """The input of every command that would install these rules where there are none, each under its name."""
        ...


@contextmanager
def installed(backend: Backend, rules: Iterable[RuleSet]) -> Iterator[None]:
    """The rules, for as long as the block runs."""
    try:
        backend.install(rules)
        yield
    finally:
        backend.remove()


def changed(
    before: Iterable[RuleSet], after: Iterable[RuleSet]
) -> dict[str, tuple[set[str], set[str]]] | None:
    """Elements to be added and taken away, by set; None when more differs than elements."""
    old, new = list(before), list(after)
    if [replace(own, sets={}) for own in old] != [replace(own, sets={}) for own in new]:
        return None
    found = {}
    for one, other in zip(old, new, strict=True):
        for name in one.sets:
            had, has = set(one.sets[name]), set(other.sets[name])
            if had != has:
                found[name] = (has - had, had - has)
    return found


def rule_sets(
    plan: Plan, queues: tuple[int, int], marks: Marks | None = None, way: Way = Way.EVERY_PACKET
) -> tuple[RuleSet, ...]:
    """The rules that divert to the queues from a first to a last number what a node with this plan has to
    decide; one set per family in use (see `families`).

    Over several queues packets are spread by their addresses. Replies have others than what they answer, so
    they may be in another queue: the loops must share an engine.
    """
    return tuple(_rule_set(plan, number, queues, marks or Marks(), way) for number in families(plan))


def families(plan: Plan) -> list[int]:
    """Those that are in use; IPv4 when nothing is served."""
    return sorted({policy.family for policy in plan.ports}) or [IPV4]


def _rule_set(plan: Plan, number: int, queues: tuple[int, int], marks: Marks, way: Way) -> RuleSet:
    endpoints = {
        frontend
        for policy in plan.ports
        if policy.family == number
        for frontend, *_ in frontends(plan, policy)
    }
    sets = {
        f"{TAG}-frontends-{number}": tuple(
            sorted(f"{address},{protocol}:{port}" for address, protocol, port in endpoints)
        )
    }
    has_refused = bool(unallocated(plan)) or unknown_port(plan.options) != "pass"
    if has_refused:
        sets[f"{TAG}-refused-{number}"] = tuple(sorted(_refused(plan, number)))
    if way is Way.EVERY_PACKET:
        sets[f"{TAG}-addresses-{number}"] = tuple(sorted({address for address, _, _ in endpoints}))
    diverting = {Way.EVERY_PACKET: _every_packet, Way.FIRST_PACKET: _first_packet}[way]
    words = [
        *diverting(number, _queue(queues), marks, has_refused=has_refused),
        *_carried_out(number, marks, resets_tcp=plan.options.resets_tcp),
    ]
    rules = tuple(Rule(table, chain, tuple(text.split())) for table, chain, text in words)
    used = {(rule.table, rule.chain) for rule in rules}
    jumps = tuple(Jump(table, hook, PREFIX + hook) for table, hook in HOOKS if (table, hook) in used)
    return RuleSet(number, jumps, rules, sets)


def frontends(plan: Plan, policy: PortPolicy) -> Iterator[tuple[tuple[str, str, int], Listener, bool]]:
    """Address, protocol and port of everything under which a service port is reached, with its listener; and
    whether it is there only to be refused.
    """
    for own in policy.listeners:
        addresses = (own.address,) if own.address else plan.node_port_addresses
        for address in addresses:
            if family(address) == policy.family:
                yield (address, policy.protocol, own.port), own, False
        if not own.address and policy.refuses_somebody:
            for address in plan.closed_addresses:
                if family(address) == policy.family:
                    yield (address, policy.protocol, own.port), own, True


def _refused(plan: Plan, number: int) -> Iterator[str]:
    """Ranges and addresses of cluster IPs: whatever goes there is ours to decide, served or not."""
    ranges = [text for text in unallocated(plan) if family(text) == number]
    yield from ranges
    networks = [ip_network(text) for text in ranges]
    for policy in plan.ports:
        if policy.family == number:
            for address in policy.addresses(CLUSTER_IP):
                if not any(ip_address(address) in network for network in networks):
                    yield address


def _queue(queues: tuple[int, int]) -> str:
    first, last = queues
    return f"-j NFQUEUE --queue-{f'num {first}' if first == last else f'balance {first}:{last}'}"


def _every_packet(
    number: int, divert: str, marks: Marks, *, has_refused: bool
) -> Iterator[tuple[str, str, str]]:
    icmp = "ipv6-icmp" if number == IPV6 else "icmp"
    flow = _bit(marks.flow)
    for hook in ("PREROUTING", "OUTPUT"):
        # Ahead of the kernel's connection tracking: it then sees one consistent flow between client and pod.
        yield "raw", hook, f"-m set --match-set {TAG}-frontends-{number} dst,dst {divert}"
        if has_refused:
            yield "raw", hook, f"-m set --match-set {TAG}-refused-{number} dst {divert}"
        # ICMP errors about translated replies, and echo requests; ICMP has no ports, so it has a set of its own.
        # Much of it is the node's own affair, and passes when nobody listens. What the node says to itself about
        # a refused connection shares that connection's unconfirmed entry: the kernel drops such packets instead
        # of queueing them.
        other = "! -i lo" if hook == "PREROUTING" else "-m addrtype ! --dst-type LOCAL"
        addressed = f"-m set --match-set {TAG}-addresses-{number} dst"
        yield "raw", hook, f"-p {icmp} {other} {addressed} {divert} --queue-bypass"
        # Replies are recognised by their flow, not by their address.
        yield "mangle", hook, f"-m mark --mark {flow} -j CONNMARK --set-xmark {flow}"
    for hook in ("INPUT", "POSTROUTING"):
        # After routing and reverse-path checks, which know the pod's address; ahead of source NAT.
        yield "mangle", hook, f"-m connmark --mark {flow} -m conntrack --ctdir REPLY {divert}"


def _first_packet(
    number: int, divert: str, marks: Marks, *, has_refused: bool
) -> Iterator[tuple[str, str, str]]:
    for hook in ("PREROUTING", "OUTPUT"):
        # Between the kernel's connection tracking and its translation. What is confirmed has its translation.
        new = "-m conntrack --ctstate NEW ! --ctstatus CONFIRMED"
        served = f"-m set --match-set {TAG}-frontends-{number} dst,dst"
        yield "mangle", hook, f"{served} {new} {divert} --queue-bypass"
        yield "mangle", hook, f"{served} -m conntrack --ctstate INVALID -j DROP"
        if has_refused:
            yield "mangle", hook, f"-m set --match-set {TAG}-refused-{number} dst {new} {divert}"


def _carried_out(number: int, marks: Marks, *, resets_tcp: bool) -> Iterator[tuple[str, str, str]]:
    """What the kernel does by marks."""
    unreachable = "icmp6-port-unreachable" if number == IPV6 else "icmp-port-unreachable"
    refused, masquerade = _bit(marks.refused), _bit(marks.masquerade)
    for hook in ("INPUT", "FORWARD", "OUTPUT"):
        if resets_tcp:
            yield "filter", hook, f"-p tcp -m mark --mark {refused} -j REJECT --reject-with tcp-reset"
        yield "filter", hook, f"-m mark --mark {refused} -j REJECT --reject-with {unreachable}"
    yield "nat", "POSTROUTING", f"-m mark --mark {masquerade} -j MASQUERADE --random-fully"


def _bit(bit: int) -> str:
    return f"{bit:#x}/{bit:#x}"


HOOKS: Final = (
    ("raw", "PREROUTING"),
    ("raw", "OUTPUT"),
    ("mangle", "PREROUTING"),
    ("mangle", "INPUT"),
    ("mangle", "OUTPUT"),
    ("mangle", "POSTROUTING"),
    ("filter", "INPUT"),
    ("filter", "FORWARD"),
    ("filter", "OUTPUT"),
    ("nat", "POSTROUTING"),
)
SET_TYPES: Final = {"frontends": "hash:ip,port", "addresses": "hash:ip", "refused": "hash:net"}
"""ipset's type by the second word of a set's name."""
