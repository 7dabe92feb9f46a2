"""What kbe-nat would have decided, beside what the node's own proxy has done: flow by flow,
touching none.

The kernel's connection tracking says where a flow was sent. It holds what was let through: of a
flow that the kernel has refused there is nothing to compare. Nor does it say by which device a
packet came, so where pods are known by their device, a masquerade is only wrong when it would be
for a pod and for everybody else.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from kbe_nat._native import ConntrackEntry, Engine
from kbe_nat.engine_tables import Tables
from kbe_nat.model import join_address
from kbe_nat.packet import opening
from kbe_nat.policy.options import LOOPBACK, LOOPBACK6
from kbe_nat.policy.plan import Plan

POD_INTERFACE, OTHER_INTERFACE = 2, 1


class Outcome(StrEnum):
    """How the kernel and we compare."""

    AGREED = "agreed"
    NOT_OURS = "not ours"
    """Nobody's Service, for both."""
    REFUSED = "we would refuse it"
    UNTRANSLATED = "the kernel has not translated it"
    ELSEWHERE = "the kernel has sent it elsewhere"
    UNKNOWN = "the kernel has translated what is no Service to us"
    MASQUERADE = "masqueraded by one and not by the other"


DISAGREEMENTS = frozenset(Outcome) - {Outcome.AGREED, Outcome.NOT_OURS}


@dataclass(frozen=True, slots=True)
class Finding:
    """One flow, and how it compares."""

    flow: ConntrackEntry
    outcome: Outcome
    service: str
    """Empty where we know none."""
    expected: tuple[str, ...]
    """Where we might have sent it; empty when nowhere."""
    verdict: str


@dataclass
class Shadow:
    """Compares flows with a plan, and counts."""

    counts: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    """Flows by service and outcome."""

    def __post_init__(self) -> None:
        self._engine = Engine(seed=0)
        self._tables = Tables()
        self._own: frozenset[str] = frozenset()
        self._interfaces: tuple[int, ...] = (OTHER_INTERFACE,)

    def follow(self, plan: Plan) -> None:
        """Compare with this plan from now on."""
        self._engine.replace_services(*self._tables.native(plan))
        self._own = frozenset((*plan.addresses, LOOPBACK, LOOPBACK6))
        knows_pods_by_device = bool(plan.options.pod_interfaces)
        pod = plan.options.pod_interfaces[0] if knows_pods_by_device else POD_INTERFACE
        others = max(plan.options.pod_interfaces, default=0) + 1
        self._interfaces = (others, pod) if knows_pods_by_device else (OTHER_INTERFACE,)

    def compare(self, flow: ConntrackEntry) -> Finding:
        """One flow. Cost: a decision of the engine, or two."""
        interfaces = (0,) if flow.source[0] in self._own else self._interfaces
        findings = [self._compared(flow, interface) for interface in interfaces]
        best = next((own for own in findings if own.outcome not in DISAGREEMENTS), findings[0])
        self.counts[best.service, best.outcome] += 1
        return best

    def _compared(self, flow: ConntrackEntry, interface: int) -> Finding:
        packet = opening(flow.protocol, flow.source, flow.destination)
        told = self._engine.explain(packet, 0, interface=interface, incomplete_checksum=True)
        served = join_address(*flow.reply_source)
        # Others serve also where the endpoint that was drawn now is one at which it is refused.
        is_served = told.action == "translate" or bool(told.refused and told.candidates)
        expected = tuple(told.candidates) if is_served else ()
        if told.action == "accept":
            outcome = Outcome.UNKNOWN if is_translated(flow) else Outcome.NOT_OURS
        elif not is_served:
            outcome = Outcome.REFUSED
        elif not is_translated(flow) and served not in expected:
            outcome = Outcome.UNTRANSLATED
        elif served not in expected:
            outcome = Outcome.ELSEWHERE
        elif (served in told.masqueraded) != is_masqueraded(flow):
            outcome = Outcome.MASQUERADE
        else:
            outcome = Outcome.AGREED
        return Finding(flow, outcome, told.service or "", expected, told.action)


def is_translated(flow: ConntrackEntry) -> bool:
    """Whether the flow goes elsewhere than its client sends to."""
    return flow.reply_source != flow.destination


def is_masqueraded(flow: ConntrackEntry) -> bool:
    """Whether the backend sees another address than the client's."""
    return flow.reply_destination[0] != flow.source[0]
