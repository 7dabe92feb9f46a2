"""Whom the kernel serves by itself while no daemon listens: one backend per frontend, and who is
refused.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import NamedTuple
from zlib import crc32

from kbe_nat.family import Family
from kbe_nat.policy.plan import CLUSTER_IP, LOAD_BALANCER, Backend, Frontend, Plan, PlannedPort
from kbe_nat.remembered import Findings, Remembered
from kbe_nat.rules.frontends import FrontendKey, frontend_keys


class OnDeath(StrEnum):
    """What becomes of new connections while no daemon listens."""

    SERVE = "serve"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Standby:
    """What the kernel does by itself, for one family."""

    backends: Mapping[FrontendKey, Backend] = field(default_factory=dict)
    """Who serves the frontends that need no other decision."""
    preserved: frozenset[FrontendKey] = frozenset()
    """Of these, those whose clients keep their source; the others' are masqueraded, so that answers
    come back here wherever the backend is.
    """
    unserved: frozenset[FrontendKey] = frozenset()
    """Refused: nobody may serve them, or not everybody may be let in."""
    is_contested: bool = False
    """Two ports claim one frontend, and the first one has it."""

    @property
    def frontend_keys(self) -> Iterator[FrontendKey]:
        """All of which anything is said."""
        return chain(self.backends, self.unserved)

    def has(self, frontend: FrontendKey) -> bool:
        """Whether anything is said about it."""
        return frontend in self.backends or frontend in self.unserved


class StandbyChoice:
    """Who stands by, by family; who does stays for as long as they may."""

    def __init__(self, on_death: OnDeath) -> None:
        self._on_death = on_death
        self._plan = Plan((), (), (), ())
        self._decisions = Remembered(self._decided)
        self.standby: dict[Family, Standby] = {}
        """As chosen last."""
        self.changes: dict[Family, StandbyChange] = {}
        """What the last choice has changed, where that is known."""

    def follow(self, new: Plan) -> None:
        """Choose for this plan. Cost: linear in the frontends of ports that have changed, and a
        copy of all frontends when any decision has; a look at all where two ports claim one
        frontend.
        """
        is_same = _addresses(new) == _addresses(self._plan) and self.standby.keys() == set(
            new.families
        )
        if not is_same:
            self._decisions.forget()
        self._plan = new
        findings = self._decisions.findings(new.ports, new.changes)
        self.changes = {}
        if findings.is_changed or not is_same:
            self.standby = {
                number: self._followed(number, findings, is_same) for number in new.families
            }
        self._decisions.keep(findings)

    def _followed(
        self, number: Family, findings: Findings[list["_Decision"]], is_same: bool
    ) -> Standby:
        before = self.standby.get(number, Standby())
        left, arrived = (_of(number, own) for own in (findings.left, findings.arrived))
        touched = frozenset(own.frontend for own in (*left, *arrived))
        is_alone = len({own.frontend for own in arrived}) == len(arrived)
        come = {own.frontend for own in arrived} - {own.frontend for own in left}
        if not is_same or before.is_contested or not is_alone or any(map(before.has, come)):
            return _whole(_of(number, findings.all))
        backends = dict(before.backends)
        for own in left:
            backends.pop(own.frontend, None)
        for own in arrived:
            if own.target:
                backends[own.frontend] = own.target
        made = Standby(
            backends,
            (before.preserved - touched)
            | {own.frontend for own in arrived if own.target and own.is_preserved},
            (before.unserved - touched) | {own.frontend for own in arrived if not own.target},
        )
        self.changes[number] = StandbyChange(before, touched)
        return made

    def _decided(self, policy: PlannedPort) -> list["_Decision"]:
        own = self.standby.get(policy.family, Standby())
        return [
            self._decision(policy, *place, own.backends.get(place[0]))
            for place in frontend_keys(self._plan, policy)
        ]

    def _decision(
        self,
        policy: PlannedPort,
        frontend: FrontendKey,
        own: Frontend,
        is_closed: bool,
        known: Backend | None,
    ) -> "_Decision":
        able = [] if is_closed or self._on_death is OnDeath.REFUSE else _able(policy, own)
        target = None
        if able:
            # Spread over the backends by what does not change from one plan to the next.
            target = known if known in able else able[crc32(repr(frontend).encode()) % len(able)]
        return _Decision(
            policy.family, frontend, target, own.kind != CLUSTER_IP and policy.is_external_local
        )


@dataclass(frozen=True, slots=True)
class StandbyChange:
    """What one choice has changed."""

    before: Standby
    frontends: frozenset[FrontendKey]
    """All others are as they were."""


class _Decision(NamedTuple):
    """About a frontend of a service port."""

    family: Family
    frontend: FrontendKey
    target: Backend | None
    is_preserved: bool
    """Its clients keep their source."""


def _of(number: Family, decisions: Iterable[list[_Decision]]) -> list[_Decision]:
    return [one for own in decisions for one in own if one.family == number]


def _whole(decisions: list[_Decision]) -> Standby:
    """Of two decisions about one frontend the first one counts."""
    found: dict[FrontendKey, _Decision] = {}
    for own in decisions:
        found.setdefault(own.frontend, own)
    return Standby(
        {frontend: own.target for frontend, own in found.items() if own.target},
        frozenset(frontend for frontend, own in found.items() if own.target and own.is_preserved),
        frozenset(frontend for frontend, own in found.items() if not own.target),
        len(found) < len(decisions),
    )


def _addresses(own: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return own.node_port_addresses, own.closed_addresses


def _able(policy: PlannedPort, frontend: Frontend) -> list[Backend]:
    """Backends that may serve everybody who comes this way."""
    is_internal = frontend.kind == CLUSTER_IP
    is_restricted = frontend.kind == LOAD_BALANCER or (
        policy.source_ranges_apply_to_all and not is_internal
    )
    if policy.source_ranges and is_restricted:
        return []
    is_local = policy.is_internal_local if is_internal else policy.is_external_local
    return [
        own
        for own in (policy.local_backends if is_local else policy.cluster_backends)
        if own.weight > 0
    ]
