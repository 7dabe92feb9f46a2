"""The decisions of kbe-nat beside those of the node's own proxy: flow by flow, touching none.

The kernel's connection tracking says where a flow was sent. It has only flows that were let
through: a flow that the kernel has refused is not compared. Nor does it say by which device a
packet came, so where pods are known by their device, a masquerade is only wrong when it would be
for a pod and for any other client.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from kbe_nat._native import ConntrackEntry, Engine
from kbe_nat.engine_tables import native_tables
from kbe_nat.model import join_address
from kbe_nat.packets import opening
from kbe_nat.policy.options import LOOPBACK, LOOPBACK6
from kbe_nat.policy.plan import Plan

POD_INTERFACE, OTHER_INTERFACE = 2, 1


class Outcome(StrEnum):
    """How the kernel and we compare."""

    AGREED = "agreed"
    NOT_OURS = "not ours"
    """No Service for either."""
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
    """Empty where no Service matches."""
    expected: tuple[str, ...]
    """The endpoints that might have got it; empty when none."""
    verdict: str


@dataclass
class Shadow:
    """Compares flows with a plan, and counts."""

    counts: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    """Flows by service and outcome."""

    def __post_init__(self) -> None:
        self._engine = Engine(seed=0)
        self._node_addresses: frozenset[str] = frozenset()
        self._interfaces: tuple[int, ...] = (OTHER_INTERFACE,)

    def follow(self, plan: Plan) -> None:
        """Compare with this plan from now on."""
        self._engine.replace_services(*native_tables(plan))
        self._node_addresses = frozenset((*plan.addresses, LOOPBACK, LOOPBACK6))
        knows_pods_by_device = bool(plan.options.pod_interfaces)
        pod = plan.options.pod_interfaces[0] if knows_pods_by_device else POD_INTERFACE
        others = max(plan.options.pod_interfaces, default=0) + 1
        self._interfaces = (others, pod) if knows_pods_by_device else (OTHER_INTERFACE,)

    def compare(self, flow: ConntrackEntry) -> Finding:
        """One flow. Cost: a decision of the engine, or two."""
        interfaces = (0,) if flow.source[0] in self._node_addresses else self._interfaces
        findings = [self._compare_from(flow, interface) for interface in interfaces]
        best = next(
            (finding for finding in findings if finding.outcome not in DISAGREEMENTS), findings[0]
        )
        self.counts[best.service, best.outcome] += 1
        return best

    def _compare_from(self, flow: ConntrackEntry, interface: int) -> Finding:
        packet = opening(flow.protocol, flow.source, flow.destination)
        explanation = self._engine.explain(packet, 0, interface=interface, incomplete_checksum=True)
        served = join_address(*flow.reply_source)
        # Other endpoints serve even if the one that was drawn now is refused behind its
        # translation.
        is_served = explanation.action == "translate" or bool(
            explanation.refused and explanation.candidates
        )
        expected = tuple(explanation.candidates) if is_served else ()
        if explanation.action == "pass":
            outcome = Outcome.UNKNOWN if is_translated(flow) else Outcome.NOT_OURS
        elif not is_served:
            outcome = Outcome.REFUSED
        elif not is_translated(flow) and served not in expected:
            outcome = Outcome.UNTRANSLATED
        elif served not in expected:
            outcome = Outcome.ELSEWHERE
        elif (served in explanation.masqueraded) != is_masqueraded(flow):
            outcome = Outcome.MASQUERADE
        else:
            outcome = Outcome.AGREED
        return Finding(flow, outcome, explanation.service or "", expected, explanation.action)


def is_translated(flow: ConntrackEntry) -> bool:
    """Whether the flow goes elsewhere than its client sends to."""
    return flow.reply_source != flow.destination


def is_masqueraded(flow: ConntrackEntry) -> bool:
    """Whether the backend sees another address than the client's."""
    return flow.reply_destination[0] != flow.source[0]
