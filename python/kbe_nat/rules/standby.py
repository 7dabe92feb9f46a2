"""Whom the kernel serves by itself while no daemon listens: one backend per frontend, and who is refused."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from zlib import crc32

from kbe_nat.policy import CLUSTER_IP, LOAD_BALANCER, Listener, Plan, PortPolicy, Target
from kbe_nat.remembered import Remembered
from kbe_nat.rules.frontends import Frontend, frontends


class OnDeath(StrEnum):
    """What becomes of new connections while no daemon listens."""

    SERVE = "serve"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Standby:
    """What the kernel does by itself, for one family."""

    backends: Mapping[Frontend, Target] = field(default_factory=dict)
    """Who serves the frontends that need no other decision."""
    preserved: frozenset[Frontend] = frozenset()
    """Of these, those whose clients keep their source; the others' are masqueraded, so that answers come back
    here wherever the backend is.
    """
    unserved: frozenset[Frontend] = frozenset()
    """Refused: nobody may serve them, or not everybody may be let in."""


class StandbyChoice:
    """Who stands by, by family; who does stays for as long as they may."""

    def __init__(self, on_death: OnDeath) -> None:
        self._on_death = on_death
        self._plan = Plan((), (), (), ())
        self._decisions = Remembered(self._decided)
        self.standby: dict[int, Standby] = {}
        """As chosen last."""

    def follow(self, new: Plan) -> None:
        """Choose for this plan. Cost: linear in the listeners of ports that have changed, and a look at every
        frontend when any has.
        """
        if _addresses(new) != _addresses(self._plan):
            self._decisions.forget()
        self._plan = new
        findings = self._decisions.findings(new.ports)
        if findings.is_changed or self.standby.keys() != set(new.families):
            self.standby = {number: _whole(number, findings.all) for number in new.families}
        self._decisions.keep(findings)

    def _decided(self, policy: PortPolicy) -> list["_Decision"]:
        own = self.standby.get(policy.family, Standby())
        return [
            self._decision(policy, *place, own.backends.get(place[0]))
            for place in frontends(self._plan, policy)
        ]

    def _decision(
        self, policy: PortPolicy, frontend: Frontend, own: Listener, is_closed: bool, known: Target | None
    ) -> "_Decision":
        able = [] if is_closed or self._on_death is OnDeath.REFUSE else _able(policy, own)
        target = None
        if able:
            # Spread over the backends by what does not change from one plan to the next.
            target = known if known in able else able[crc32(repr(frontend).encode()) % len(able)]
        return policy.family, frontend, target, own.kind != CLUSTER_IP and policy.is_external_local


_Decision = tuple[int, Frontend, Target | None, bool]
"""Family, frontend, who serves it, and whether its clients keep their source."""


def _whole(number: int, decisions: Iterable[list[_Decision]]) -> Standby:
    """Of two decisions about one frontend the first one counts."""
    found: dict[Frontend, tuple[Target | None, bool]] = {}
    for own in decisions:
        for family, frontend, target, is_preserved in own:
            if family == number:
                found.setdefault(frontend, (target, is_preserved))
    return Standby(
        {frontend: target for frontend, (target, _) in found.items() if target},
        frozenset(frontend for frontend, (target, is_preserved) in found.items() if target and is_preserved),
        frozenset(frontend for frontend, (target, _) in found.items() if not target),
    )


def _addresses(own: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return own.node_port_addresses, own.closed_addresses


def _able(policy: PortPolicy, listener: Listener) -> list[Target]:
    """Backends that may serve everybody who comes this way."""
    is_internal = listener.kind == CLUSTER_IP
    is_restricted = listener.kind == LOAD_BALANCER or (policy.ranges_everywhere and not is_internal)
    if policy.source_ranges and is_restricted:
        return []
    is_local = policy.is_internal_local if is_internal else policy.is_external_local
    return [own for own in (policy.local if is_local else policy.cluster) if own.weight > 0]
