"""Which packets a plan needs to be diverted: sets of frontends and a handful of rules, for either datapath."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

from kbe_nat.model import IPV6, family
from kbe_nat.policy import CLUSTER_IP, Listener, Plan, PortPolicy, unallocated, unknown_port
from kbe_nat.remembered import Remembered
from kbe_nat.rules import PREFIX, TAG, Jump, Marks, Rule, RuleSet, Way


class DiversionRules:
    """The rules for one plan after the other. They divert to the queues from a first to a last number what a node
    with the plan has to decide.

    Over several queues packets are spread by their addresses. Replies have others than what they answer, so
    they may be in another queue: the loops must share an engine.
    """

    def __init__(self, queues: tuple[int, int], marks: Marks, way: Way) -> None:
        self._queues = queues
        self._marks = marks
        self._way = way
        self._plan = Plan((), (), (), ())
        self._places = Remembered(self._looked_at)
        self._made: tuple[RuleSet, ...] = ()

    def rule_sets(self, plan: Plan) -> tuple[RuleSet, ...]:
        """One set per family in use; the same objects as for the last plan when nothing has changed for them.
        Cost: linear in the listeners of ports that have changed, and in those of all when any listener has.
        """
        before, self._plan = self._plan, plan
        is_same = _context(before) == _context(plan)
        if not is_same:
            self._places.forget()
        findings = self._places.findings(plan.ports)
        if findings.is_changed or not is_same or not self._made:
            self._made = tuple(self._rule_set(number, findings.all) for number in plan.families)
        self._places.keep(findings)
        return self._made

    def _looked_at(self, policy: PortPolicy) -> "_Places":
        return _Places(
            policy.family,
            tuple(place for place, *_ in frontends(self._plan, policy)),
            policy.addresses(CLUSTER_IP),
        )

    def _rule_set(self, number: int, places: Iterable["_Places"]) -> RuleSet:
        plan, marks = self._plan, self._marks
        own = [one for one in places if one.family == number]
        endpoints = {frontend for one in own for frontend in one.frontends}
        sets = {
            f"{TAG}-frontends-{number}": tuple(
                sorted(f"{address},{protocol}:{port}" for address, protocol, port in endpoints)
            )
        }
        has_refused = bool(unallocated(plan)) or unknown_port(plan.options) != "pass"
        if has_refused:
            cluster_ips = (address for one in own for address in one.cluster_ips)
            sets[f"{TAG}-refused-{number}"] = tuple(sorted(_refused(plan, number, cluster_ips)))
        if self._way is Way.EVERY_PACKET:
            sets[f"{TAG}-addresses-{number}"] = tuple(sorted({address for address, _, _ in endpoints}))
        diverting = {Way.EVERY_PACKET: _every_packet, Way.FIRST_PACKET: _first_packet}[self._way]
        words = [
            *diverting(number, _queue(self._queues), marks, has_refused=has_refused),
            *_carried_out(number, marks, resets_tcp=plan.options.resets_tcp),
        ]
        rules = tuple(Rule(table, chain, tuple(text.split())) for table, chain, text in words)
        used = {(rule.table, rule.chain) for rule in rules}
        jumps = tuple(Jump(table, hook, PREFIX + hook) for table, hook in HOOKS if (table, hook) in used)
        return RuleSet(number, jumps, rules, sets)


def rule_sets(
    plan: Plan, queues: tuple[int, int], marks: Marks | None = None, way: Way = Way.EVERY_PACKET
) -> tuple[RuleSet, ...]:
    """The rules for one plan; see `DiversionRules`."""
    return DiversionRules(queues, marks or Marks(), way).rule_sets(plan)


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


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a service port is reached."""

    family: int
    frontends: tuple[tuple[str, str, int], ...]
    cluster_ips: tuple[str, ...]


def _context(plan: Plan) -> tuple[object, ...]:
    """All that rules depend on but the ports."""
    return plan.families, plan.node_port_addresses, plan.closed_addresses, plan.service_ranges, plan.options


def _refused(plan: Plan, number: int, cluster_ips: Iterable[str]) -> Iterator[str]:
    """Ranges and addresses of cluster IPs: whatever goes there is ours to decide, served or not."""
    ranges = [text for text in unallocated(plan) if family(text) == number]
    yield from ranges
    networks = [ip_network(text) for text in ranges]
    for address in set(cluster_ips):
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
