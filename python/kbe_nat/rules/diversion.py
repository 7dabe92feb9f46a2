"""The rules that divert every packet about which a plan has to decide: a few sets, and a handful of
rules.
"""

from collections.abc import Iterator

from kbe_nat.family import Family
from kbe_nat.policy.delta import PlanDelta, PortFacts
from kbe_nat.policy.plan import FrontendKey, Plan
from kbe_nat.rules.frontends import FrontendKeys, ServiceAddresses
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
    """A `PlanConsumer`: the rules of a plan, to the queues from a first to a last number.

    Over several queues packets are spread by their addresses. A reply has other addresses than the
    packet that it answers, so it may be in another queue: the loops must share an engine.
    """

    def __init__(self, queues: tuple[int, int], marks: Marks) -> None:
        self._queues = queues
        self._marks = marks
        self._frontends = FrontendKeys()
        self._addresses = ServiceAddresses()
        self._plan = Plan()
        self._rule_sets: tuple[RuleSet, ...] | None = None
        """As written last; None: something has changed since."""

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`."""
        self._plan = delta.plan
        self._frontends.apply(delta)
        self._addresses.apply(delta)
        is_touched = any(_keys(before) != _keys(after) for before, after in delta.pairs())
        if is_touched or delta.is_context_changed or delta.former.families != delta.plan.families:
            self._rule_sets = None

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`."""
        self._plan = plan
        self._frontends.rebuild(plan)
        self._addresses.rebuild(plan)
        self._rule_sets = None

    def rule_sets(self) -> tuple[RuleSet, ...]:
        """One set of rules per family in use; the same objects as before when no frontend has
        changed. Cost: otherwise, a sorting of all frontends.
        """
        if self._rule_sets is None:
            self._rule_sets = tuple(map(self._rule_set, self._plan.families))
        return self._rule_sets

    def _rule_set(self, family: Family) -> RuleSet:
        sets: dict[SetKind, tuple[Element, ...]] = {
            SetKind.FRONTENDS: tuple(sorted(self._frontends.keys(family))),
            SetKind.ADDRESSES: tuple(sorted(self._frontends.addresses(family))),
        }
        refused = (*self._addresses.ranges[family], *self._addresses.addresses(family))
        if refused:
            sets[SetKind.REFUSED] = tuple(sorted(refused))
        rules = (
            *_diversion(Queue(*self._queues), self._marks, has_refused=bool(refused)),
            *_mark_effects(family, self._marks, resets_tcp=self._plan.options.resets_tcp),
        )
        return RuleSet(family, rules, sets)


def rule_sets(
    plan: Plan, queues: tuple[int, int], marks: Marks | None = None
) -> tuple[RuleSet, ...]:
    """The rules for one plan; see `DiversionRules`."""
    rules = DiversionRules(queues, marks or Marks())
    rules.rebuild(plan)
    return rules.rule_sets()


def _keys(facts: PortFacts | None) -> frozenset[FrontendKey]:
    return facts.frontend_keys if facts else frozenset()


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
