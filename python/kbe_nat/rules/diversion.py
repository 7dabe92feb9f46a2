"""The rules that divert every packet about which a plan has to decide: a few sets, and a handful of
rules.
"""

from collections.abc import Iterator
from typing import Final

from kbe_nat.family import Family
from kbe_nat.policy.plan import Plan
from kbe_nat.rules.frontends import Frontends, Reached
from kbe_nat.rules.rule import PREFIX, TAG, Jump, Marks, Rule, RuleSet


class DiversionRules:
    """The rules for one plan after the other, to the queues from a first to a last number.

    Over several queues packets are spread by their addresses. Replies have others than what they
    answer, so they may be in another queue: the loops must share an engine.
    """

    def __init__(self, queues: tuple[int, int], marks: Marks) -> None:
        self._queues = queues
        self._marks = marks
        self._frontends = Frontends()
        self._made: dict[Family, tuple[Reached, bool, RuleSet]] = {}
        """By family, with what they were made of."""

    def rule_sets(self, plan: Plan) -> tuple[RuleSet, ...]:
        """One set per family in use; the same objects as for the last plan when nothing has changed
        for them. Cost: as of `Frontends.reached`.
        """
        made = {}
        for number, reached in self._frontends.reached(plan).items():
            known = self._made.get(number)
            resets_tcp = plan.options.resets_tcp
            if known and known[0] is reached and known[1] == resets_tcp:
                made[number] = known
            else:
                made[number] = (
                    reached,
                    resets_tcp,
                    self._rule_set(number, reached, resets_tcp=resets_tcp),
                )
        self._made = made
        return tuple(own for _, _, own in made.values())

    def _rule_set(self, number: Family, reached: Reached, *, resets_tcp: bool) -> RuleSet:
        endpoints = reached.frontends
        sets = {
            f"{TAG}-frontends-{number}": tuple(
                sorted(f"{address},{protocol}:{port}" for address, protocol, port in endpoints)
            ),
            f"{TAG}-addresses-{number}": tuple(sorted({address for address, _, _ in endpoints})),
        }
        refused = (*reached.ranges, *reached.addresses)
        if refused:
            sets[f"{TAG}-refused-{number}"] = tuple(sorted(refused))
        words = [
            *_diverted(number, _queue(self._queues), self._marks, has_refused=bool(refused)),
            *_carried_out(number, self._marks, resets_tcp=resets_tcp),
        ]
        rules = tuple(Rule(table, chain, tuple(text.split())) for table, chain, text in words)
        used = {(rule.table, rule.chain) for rule in rules}
        jumps = tuple(
            Jump(table, hook, PREFIX + hook) for table, hook in HOOKS if (table, hook) in used
        )
        return RuleSet(number, jumps, rules, sets)


def rule_sets(
    plan: Plan, queues: tuple[int, int], marks: Marks | None = None
) -> tuple[RuleSet, ...]:
    """The rules for one plan; see `DiversionRules`."""
    return DiversionRules(queues, marks or Marks()).rule_sets(plan)


def _queue(queues: tuple[int, int]) -> str:
    first, last = queues
    return f"-j NFQUEUE --queue-{f'num {first}' if first == last else f'balance {first}:{last}'}"


def _diverted(
    number: Family, divert: str, marks: Marks, *, has_refused: bool
) -> Iterator[tuple[str, str, str]]:
    icmp = "ipv6-icmp" if number == Family.IPV6 else "icmp"
    flow = _bit(marks.flow)
    for hook in ("PREROUTING", "OUTPUT"):
        # Somebody serves it beside us (NodeLocal DNSCache).
        yield "raw", hook, "-m conntrack --ctstate UNTRACKED -j RETURN"
        # Ahead of the kernel's connection tracking: it then sees one consistent flow between client
        # and pod.
        yield "raw", hook, f"-m set --match-set {TAG}-frontends-{number} dst,dst {divert}"
        if has_refused:
            yield "raw", hook, f"-m set --match-set {TAG}-refused-{number} dst {divert}"
        # ICMP errors about translated replies, and echo requests; ICMP has no ports, so it has a
        # set of its own. Much of it is the node's own affair, and passes when nobody listens. What
        # the node says about a refused connection, to itself or to a host that has a Service's
        # external address, shares that connection's unconfirmed entry: the kernel drops such
        # packets instead of queueing them.
        if hook == "OUTPUT":
            yield (
                "raw",
                hook,
                f"-p {icmp} -m conntrack --ctstate RELATED ! --ctstatus CONFIRMED -j RETURN",
            )
        other = "! -i lo" if hook == "PREROUTING" else "-m addrtype ! --dst-type LOCAL"
        addressed = f"-m set --match-set {TAG}-addresses-{number} dst"
        yield "raw", hook, f"-p {icmp} {other} {addressed} {divert} --queue-bypass"
        # Replies are recognised by their flow, not by their address.
        yield "mangle", hook, f"-m mark --mark {flow} -j CONNMARK --set-xmark {flow}"
    for hook in ("INPUT", "POSTROUTING"):
        # After routing and reverse-path checks, which know the pod's address; ahead of source NAT.
        yield "mangle", hook, f"-m connmark --mark {flow} -m conntrack --ctdir REPLY {divert}"


def _carried_out(
    number: Family, marks: Marks, *, resets_tcp: bool
) -> Iterator[tuple[str, str, str]]:
    """What the kernel does by marks."""
    unreachable = "icmp6-port-unreachable" if number == Family.IPV6 else "icmp-port-unreachable"
    refused, masquerade = _bit(marks.reject), _bit(marks.masquerade)
    for hook in ("INPUT", "FORWARD", "OUTPUT"):
        if resets_tcp:
            yield (
                "filter",
                hook,
                f"-p tcp -m mark --mark {refused} -j REJECT --reject-with tcp-reset",
            )
        yield "filter", hook, f"-m mark --mark {refused} -j REJECT --reject-with {unreachable}"
    if number == Family.IPV6:
        # A pod that the node tells of a nearer way to a backend would send there what is meant for
        # a virtual IP. IPv6 has no setting against it, and the kernel does not say which flow a
        # redirect is about.
        yield "filter", "OUTPUT", "-p ipv6-icmp -m icmp6 --icmpv6-type redirect -j DROP"
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
