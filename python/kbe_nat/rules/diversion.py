"""The rules that divert every packet about which a plan has to decide: a few sets, and a handful of
rules.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from kbe_nat.family import Family
from kbe_nat.policy.delta import PlanDelta
from kbe_nat.policy.plan import Plan
from kbe_nat.rules.frontends import ElementChange, FrontendKeys, ServiceAddresses
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
    SetChange,
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
        self._former_ranges: dict[Family, frozenset[str]] = dict.fromkeys(Family, frozenset())
        """The ranges when changes were taken last."""

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`."""
        self._plan = delta.plan
        self._frontends.apply(delta)
        self._addresses.apply(delta)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`."""
        self._plan = plan
        self._frontends.rebuild(plan)
        self._addresses.rebuild(plan)

    def shape(self) -> tuple[RuleSet, ...]:
        """The rules of each family in use, with empty sets. Cost: constant."""
        return tuple(map(self._shape, self._plan.families))

    def rule_sets(self) -> tuple[RuleSet, ...]:
        """The rules of each family in use. Cost: a sorting of all frontends."""
        return tuple(replace(rules, sets=self._sets(rules)) for rules in self.shape())

    def take_changes(self) -> list[SetChange]:
        """The elements that came and went since the last call, in the sets of `shape`. Cost:
        linear in these, and in the ranges.
        """
        return [
            SetChange(family, kind, change.added, change.removed)
            for family in Family
            for kind, change in self._take_family(family)
            if change.added or change.removed
        ]

    def _take_family(self, family: Family) -> Iterator[tuple[SetKind, ElementChange[Any]]]:
        yield SetKind.FRONTENDS, self._frontends.keys[family].take_change()
        yield SetKind.ADDRESSES, self._frontends.addresses[family].take_change()
        # Ranges have no uses to be counted: there are a few, and they hardly ever change.
        ranges, addresses = self._addresses.ranges[family], self._addresses.take_change(family)
        before, self._former_ranges[family] = self._former_ranges[family], frozenset(ranges)
        after = self._former_ranges[family]
        yield (
            SetKind.REFUSED,
            ElementChange(addresses.added | after - before, addresses.removed | before - after),
        )

    def _sets(self, rules: RuleSet) -> dict[SetKind, tuple[Element, ...]]:
        family = rules.family
        refused = (*self._addresses.ranges[family], *self._addresses.addresses(family))
        elements: dict[SetKind, tuple[Element, ...]] = {
            SetKind.FRONTENDS: tuple(sorted(self._frontends.keys[family].elements())),
            SetKind.ADDRESSES: tuple(sorted(self._frontends.addresses[family].elements())),
            SetKind.REFUSED: tuple(sorted(refused)),
        }
        return {kind: elements[kind] for kind in rules.sets}

    def _shape(self, family: Family) -> RuleSet:
        kinds = [SetKind.FRONTENDS, SetKind.ADDRESSES]
        # Where all ports of cluster IPs pass there is no set, so packets cost no look into one.
        has_refused = bool(self._addresses.ranges[family] or self._addresses.addresses(family))
        if has_refused:
            kinds.append(SetKind.REFUSED)
        rules = (
            *_diversion(Queue(*self._queues), self._marks, has_refused=has_refused),
            *_mark_effects(family, self._marks, resets_tcp=self._plan.options.resets_tcp),
        )
        return RuleSet(family, rules, dict.fromkeys(kinds, ()))


def rule_sets(
    plan: Plan, queues: tuple[int, int], marks: Marks | None = None
) -> tuple[RuleSet, ...]:
    """The rules for one plan; see `DiversionRules`."""
    rules = DiversionRules(queues, marks or Marks())
    rules.rebuild(plan)
    return rules.rule_sets()


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
