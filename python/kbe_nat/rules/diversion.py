"""The rules that divert every packet about which a plan has to decide: a few sets, and a handful of
rules.
"""

from collections.abc import Iterator

from kbe_nat.family import Family
from kbe_nat.policy.plan import Plan
from kbe_nat.rules.frontends import Frontends, Reached
from kbe_nat.rules.rule import (
    ConnMark,
    CtDirection,
    CtState,
    Element,
    Ending,
    Hook,
    Icmpv6Type,
    InSet,
    Mark,
    Marks,
    Masquerade,
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
)


class DiversionRules:
    """The rules for one plan after the other, to the queues from a first to a last number.

    Over several queues packets are spread by their addresses. A reply has other addresses than the
    packet that it answers, so it may be in another queue: the loops must share an engine.
    """

    def __init__(self, queues: tuple[int, int], marks: Marks) -> None:
        self._queues = queues
        self._marks = marks
        self._frontends = Frontends()
        self._written: dict[Family, tuple[Reached, bool, RuleSet]] = {}
        """By family, with what the rules depend on."""

    def rule_sets(self, plan: Plan) -> tuple[RuleSet, ...]:
        """One set per family in use; the same objects as for the last plan when nothing has changed
        for them. Cost: as of `Frontends.reached`.
        """
        written = {}
        for family, reached in self._frontends.reached(plan).items():
            resets_tcp = plan.options.resets_tcp
            earlier = self._written.get(family)
            if earlier and earlier[0] is reached and earlier[1] == resets_tcp:
                written[family] = earlier
            else:
                rules = self._rule_set(family, reached, resets_tcp=resets_tcp)
                written[family] = reached, resets_tcp, rules
        self._written = written
        return tuple(rules for _, _, rules in written.values())

    def _rule_set(self, family: Family, reached: Reached, *, resets_tcp: bool) -> RuleSet:
        sets: dict[SetKind, tuple[Element, ...]] = {
            SetKind.FRONTENDS: tuple(sorted(reached.frontends)),
            SetKind.ADDRESSES: tuple(sorted({address for address, _, _ in reached.frontends})),
        }
        refused = (*reached.ranges, *reached.addresses)
        if refused:
            sets[SetKind.REFUSED] = tuple(sorted(refused))
        rules = (
            *_diversion(Queue(*self._queues), self._marks, has_refused=bool(refused)),
            *_mark_effects(family, self._marks, resets_tcp=resets_tcp),
        )
        return RuleSet(family, rules, sets)


def rule_sets(
    plan: Plan, queues: tuple[int, int], marks: Marks | None = None
) -> tuple[RuleSet, ...]:
    """The rules for one plan; see `DiversionRules`."""
    return DiversionRules(queues, marks or Marks()).rule_sets(plan)


def _diversion(queue: Queue, marks: Marks, *, has_refused: bool) -> Iterator[Rule]:
    """Rules that lead packets to the queue."""
    for hook in (Hook.RAW_PREROUTING, Hook.RAW_OUTPUT):
        # Another program serves an untracked packet (NodeLocal DNSCache).
        yield Rule(hook, (CtState.UNTRACKED,), Ending.RETURN)
        # The queue is ahead of the kernel's connection tracking, which then sees one consistent
        # flow between client and pod.
        yield Rule(hook, (InSet(SetKind.FRONTENDS),), queue)
        if has_refused:
            yield Rule(hook, (InSet(SetKind.REFUSED),), queue)
        if hook is Hook.RAW_OUTPUT:
            # The node's ICMP error about a refused connection, to itself or to a host that has a
            # Service's external address, shares that connection's unconfirmed entry. The kernel
            # drops such a packet instead of queueing it.
            yield Rule(hook, (Protocol.ICMP, CtState.RELATED, NotConfirmed()), Ending.RETURN)
        # ICMP errors about translated replies, and echo requests. Much of ICMP is the node's own
        # affair, so it passes while no process listens.
        foreign = NotFrom("lo") if hook is Hook.RAW_PREROUTING else NotToNode()
        matches = (Protocol.ICMP, foreign, InSet(SetKind.ADDRESSES))
        yield Rule(hook, matches, Queue(queue.first, queue.last, bypass=True))
    # Replies are recognised by their connection, not by their address.
    for hook in (Hook.MANGLE_PREROUTING, Hook.MANGLE_OUTPUT):
        yield Rule(hook, (Mark(marks.flow),), SetConnMark(marks.flow))
    # They are queued after routing and reverse-path checks, which know the pod's address; ahead of
    # source NAT.
    for hook in (Hook.MANGLE_INPUT, Hook.MANGLE_POSTROUTING):
        yield Rule(hook, (ConnMark(marks.flow), CtDirection.REPLY), queue)


def _mark_effects(family: Family, marks: Marks, *, resets_tcp: bool) -> Iterator[Rule]:
    """Rules by which the kernel does what the mark of a packet asks for."""
    for hook in (Hook.FILTER_INPUT, Hook.FILTER_FORWARD, Hook.FILTER_OUTPUT):
        if resets_tcp:
            yield Rule(hook, (Protocol.TCP, Mark(marks.reject)), Reject.TCP_RESET)
        yield Rule(hook, (Mark(marks.reject),), Reject.PORT_UNREACHABLE)
    if family == Family.IPV6:
        # A redirect would lead a pod around the node, with packets for a virtual IP. IPv6 has no
        # setting against redirects, and the kernel does not say which flow one is about.
        matches = (Protocol.ICMP, Icmpv6Type.REDIRECT)
        yield Rule(Hook.FILTER_OUTPUT, matches, Ending.DROP)
    yield Rule(Hook.NAT_POSTROUTING, (Mark(marks.masquerade),), Masquerade())
