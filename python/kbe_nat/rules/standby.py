"""Which backends the kernel uses for each frontend while no daemon is listening, and which
frontends it rejects then; and the frontends for which it always chooses.

Theory of operation. `StandbyTable` has one `StandbyDecision` for each frontend of this node, by
family:

- A frontend spreads over the backends that may serve every client that comes this way, by slots
  (`kbe_nat.rules.slots`) that are shared out by weight. The kernel draws a slot at random, or by
  the client's address where a client is to stay at its backend. A backend that comes or goes moves
  as few slots as it can.
- A frontend with one such backend has that one, without slots.
- The kernel always chooses (`is_chosen`) where a Service or the operator wants it and the choice is
  a mere draw, or a hash of the client's address: `_chosen_class` has the conditions. Such a
  frontend has slots of its own, and no verdict is waited for.
- An earlier daemon's tables say which slots its clients are hashed to. The first decision about a
  frontend follows them as it would follow a decision of this process.
- Where no backend may serve every client (there is none, or source ranges restrict the frontend)
  the kernel rejects. It does not know source ranges; it must not let a client in that the engine
  would not.
- An exact address goes before a node port at the same address, as in kube-proxy's chains and in the
  engine. `_hidden` has the decision of the node port for as long as the exact address is there.
  `Claims` sees to it that nothing else meets.

A delta takes away the decisions of the ports as they were and enters those of the ports as they
are, all removals first: a frontend may go from one port to another. `_before` has the decision
about each touched frontend when the changes were taken last, so that a change which was undone
meanwhile costs the kernel nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from kbe_nat.family import Family
from kbe_nat.model import Choice, Strategy
from kbe_nat.policy.delta import NodeFrontend, PlanDelta, PortFacts, port_facts
from kbe_nat.policy.plan import (
    CLUSTER_IP,
    LOAD_BALANCER,
    BackendAddress,
    Frontend,
    FrontendKey,
    Plan,
    PlannedPort,
)
from kbe_nat.rules.slots import (
    DEFAULT_SLOTS,
    MOST_EXACT,
    MOST_HASHED,
    SlotClass,
    SlotClasses,
    exact_size,
    share_out,
)


class OnDeath(StrEnum):
    """The fate of new connections while no daemon listens."""

    SERVE = "serve"
    REFUSE = "refuse"


class StandbyDecision(NamedTuple):
    """The way the kernel treats new connections to a frontend."""

    backends: tuple[BackendAddress, ...] = ()
    """One for each slot; empty: it rejects them."""
    first_slot: int | None = None
    """The number of the first slot in the map; None: there is one backend, and it draws nothing."""
    keeps_source: bool = False
    """Clients keep their source. Others are masqueraded, so that answers come back to this node
    wherever the backend is.
    """
    is_chosen: bool = False
    """The kernel always chooses, and the queue is passed by."""
    is_cluster_ip: bool = False
    """With `is_chosen`: clients that are pods keep their source."""


Standby: TypeAlias = Mapping[FrontendKey, StandbyDecision]
"""The decisions for the frontends of one family."""


@dataclass(frozen=True, slots=True)
class StandbyChange:
    """Decisions that no longer hold, and those that hold now."""

    removed: Standby = field(default_factory=dict)
    added: Standby = field(default_factory=dict)


class StandbyTable:
    """A `PlanConsumer`: the standby of all frontends."""

    def __init__(
        self,
        on_death: OnDeath,
        classes: SlotClasses | None = None,
        choice: Choice = Choice.ENGINE,
    ) -> None:
        """`classes` are those of frontends by their slots, None: the defaults; `choice` is that of
        Services that do not say theirs.
        """
        self.classes = classes or SlotClasses(DEFAULT_SLOTS)
        self._choice = choice
        self._on_death = on_death
        self.chosen_classes: set[SlotClass] = set()
        """Of all frontends for which the kernel has ever chosen. What has a rule keeps it."""
        self._inherited: dict[Family, Mapping[FrontendKey, tuple[BackendAddress, ...]]] = {}
        """The slots of an earlier daemon, of frontends whose clients are hashed."""
        self._decisions: dict[Family, dict[FrontendKey, StandbyDecision]] = {
            family: {} for family in Family
        }
        self._hidden: dict[FrontendKey, StandbyDecision] = {}
        """Decisions about node ports at exact addresses of others."""
        self._before: dict[Family, dict[FrontendKey, StandbyDecision | None]] = {
            family: {} for family in Family
        }
        """The decisions when changes were taken last, of the frontends touched since."""

    @property
    def may_choose(self) -> bool:
        """Whether the kernel may ever choose."""
        return self._on_death is OnDeath.SERVE and bool(self.classes.exact)

    def inherit(
        self, slots: Mapping[Family, Mapping[FrontendKey, tuple[BackendAddress, ...]]]
    ) -> None:
        """Let first decisions about frontends follow these slots; without any from now on none."""
        self._inherited = dict(slots)

    def chosen(self) -> int:
        """For how many frontends the kernel always chooses. Cost: linear in all frontends."""
        decisions = chain.from_iterable(each.values() for each in self._decisions.values())
        return sum(decision.is_chosen for decision in decisions)

    def of_family(self, family: Family) -> Standby:
        """The decisions that hold now."""
        return self._decisions[family]

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`."""
        former: dict[tuple[FrontendKey, bool], StandbyDecision] = {}
        # All removals come first: in one delta a frontend may leave one port and enter another.
        for before, _ in delta.pairs():
            if before is not None:
                for frontend in before.frontends:
                    former[frontend.key, frontend.is_exact] = self._remove(before, frontend)
        for _, after in delta.pairs():
            if after is not None:
                self.decide_port(after, former)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`. Backends keep the slots that they may keep."""
        former: dict[tuple[FrontendKey, bool], StandbyDecision] = {}
        for family, decisions in self._decisions.items():
            for key, decision in decisions.items():
                self._before[family].setdefault(key, decision)
                # Whether the frontend was exact is not known any more. `share_out` checks whether
                # the backends may still serve.
                former[key, True] = former[key, False] = decision
            decisions.clear()
        former |= {(key, False): decision for key, decision in self._hidden.items()}
        self._hidden.clear()
        for port in plan.ports:
            self.decide_port(port_facts(port, plan.node_ports), former)

    def take_change(self, family: Family) -> StandbyChange:
        """How the decisions differ from what they were when this was asked last."""
        before, self._before[family] = self._before[family], {}
        present = self._decisions[family]
        # A change that was undone meanwhile has equal ends here, and sends the kernel nothing.
        touched = {key: (old, present.get(key)) for key, old in before.items()}
        return StandbyChange(
            removed={key: old for key, (old, new) in touched.items() if old and old != new},
            added={key: new for key, (old, new) in touched.items() if new and old != new},
        )

    def decide_port(
        self, facts: PortFacts, former: Mapping[tuple[FrontendKey, bool], StandbyDecision]
    ) -> None:
        """Decide about the frontends of a port; `former` is what was decided before about these, by
        whether they were exact.
        """
        for frontend in facts.frontends:
            decision = self.decide_frontend(
                facts.port, frontend, former.get((frontend.key, frontend.is_exact))
            )
            self._put(facts, frontend, decision)

    def decide_frontend(
        self, port: PlannedPort, frontend: NodeFrontend, former: StandbyDecision | None
    ) -> StandbyDecision:
        """Decide about one frontend of a port."""
        is_rejected = frontend.is_reject or self._on_death is OnDeath.REFUSE
        eligible = {} if is_rejected else eligible_backends(port, frontend.frontend)
        if not eligible:
            return StandbyDecision()
        is_chosen, slot_class = self._chosen_class(port, frontend, eligible)
        if not is_chosen and len(eligible) > 1:
            stays = port.affinity_seconds is not None or port.strategy in BY_SOURCE
            slot_class = self.classes.of(port.standby_slots, is_by_source=stays)
        size, first_slot = (slot_class.size, slot_class.first) if slot_class else (1, None)
        if is_chosen and slot_class:
            self.chosen_classes.add(slot_class)
        inherited = self._inherited.get(port.family, {}).get(frontend.key, ())
        before = former.backends if former else inherited
        backends = share_out(eligible, size, frontend.key, before)
        # As kube-proxy: externalTrafficPolicy Local keeps the client's address, because the backend
        # is on this node and its answers pass here in any case.
        is_internal = frontend.frontend.kind == CLUSTER_IP
        keeps_source = not is_internal and port.is_external_local
        return StandbyDecision(
            backends, first_slot, keeps_source, is_chosen, is_chosen and is_internal
        )

    def _chosen_class(
        self, port: PlannedPort, frontend: NodeFrontend, eligible: Mapping[BackendAddress, int]
    ) -> tuple[bool, SlotClass | None]:
        """Whether the kernel always chooses for this frontend, and of which class it is then; None:
        there is nothing to draw.
        """
        can_choose = (
            is_chosen_by_kernel(port, self._choice)
            and bool(self.classes.exact)
            # Which list serves depends on whose the client is.
            and (frontend.frontend.kind == CLUSTER_IP or not port.is_external_local)
            # The engine guards those of the node's loopback.
            and not ip_address(frontend.key[0]).is_loopback
        )
        if not can_choose:
            return False, None
        if port.strategy in BY_SOURCE:
            hashed = self.classes.hashed if len(eligible) > 1 else None
            return len(eligible) <= MOST_HASHED, hashed
        size = exact_size(eligible.values())
        if size > MOST_EXACT:
            return False, None
        return True, next((each for each in self.classes.exact if each.size == size), None)

    def _remove(self, facts: PortFacts, frontend: NodeFrontend) -> StandbyDecision:
        key, decisions = frontend.key, self._decisions[facts.port.family]
        # A hidden decision is not in the kernel, so the kernel need not hear that it is gone.
        if not frontend.is_exact and key in self._hidden:
            return self._hidden.pop(key)
        decision = decisions.pop(key)
        self._before[facts.port.family].setdefault(key, decision)
        if frontend.is_exact and key in self._hidden:
            decisions[key] = self._hidden.pop(key)
        return decision

    def _put(self, facts: PortFacts, frontend: NodeFrontend, decision: StandbyDecision) -> None:
        key, decisions = frontend.key, self._decisions[facts.port.family]
        present = decisions.get(key)
        if present and not frontend.is_exact:
            self._hidden[key] = decision
            return
        self._before[facts.port.family].setdefault(key, present)
        if present:
            self._hidden[key] = present
        decisions[key] = decision


def eligible_backends(port: PlannedPort, frontend: Frontend) -> dict[BackendAddress, int]:
    """The weights of the backends that may serve every client that comes this way."""
    is_internal = frontend.kind == CLUSTER_IP
    is_restricted = frontend.kind == LOAD_BALANCER or (
        port.source_ranges_apply_to_all and not is_internal
    )
    if port.source_ranges and is_restricted:
        return {}
    is_local = port.is_internal_local if is_internal else port.is_external_local
    return {
        (backend.address, backend.port): backend.weight
        for backend in (port.local_backends if is_local else port.cluster_backends)
        if backend.weight > 0
    }


def is_chosen_by_kernel(port: PlannedPort, default: Choice) -> bool:
    """Whether the kernel is to choose for a port, and knows all that the engine would ask."""
    return (port.choice or default) is Choice.KERNEL and is_able_to_choose(port)


def is_able_to_choose(port: PlannedPort) -> bool:
    """Whether the kernel knows all that the engine would ask about a client."""
    return (
        port.strategy in (*DRAWS, *BY_SOURCE)
        and port.affinity_seconds is None
        and not port.source_ranges
    )


DRAWS: Final = (Strategy.RANDOM, Strategy.CASCADE)
"""Strategies by which each flow is drawn, whatever was drawn before."""
BY_SOURCE: Final = (Strategy.SOURCE_HASH, Strategy.MAGLEV)
"""Strategies whose Services have the kernel hash the client's address, as IPVS does for both."""
