"""Where flows to each frontend may go, and the frontends whose flows are looked at after a change."""

from collections.abc import Iterable
from typing import NamedTuple

from kbe_nat.policy.plan import Plan, PlannedPort
from kbe_nat.remembered import Remembered
from kbe_nat.rules.backend_ids import Address
from kbe_nat.rules.frontends import FrontendKey, frontend_keys


class Courses:
    """Follows plans, as kube-proxy's `CleanStaleEntries` looks at flows after each sync."""

    def __init__(self) -> None:
        self._plan = Plan((), (), (), ())
        self._ports = Remembered(self._looked_at)
        self._touched: set[FrontendKey] = set()

    def follow(self, plan: Plan) -> None:
        """Note what this plan changes. Cost: linear in the frontends and endpoints of ports that
        have changed; in those of all when addresses of the node have.
        """
        before, self._plan = self._plan, plan
        known = self._ports
        if _addresses(before) != _addresses(plan):
            self._ports = Remembered(self._looked_at)
            findings = self._ports.findings(plan.ports)
            left = known.findings(()).left
        else:
            findings = known.findings(plan.ports, plan.changes)
            left = findings.left
        self._ports.keep(findings)
        self._touched |= _touched(left, findings.arrived)

    def take_touched(self) -> set[FrontendKey]:
        """Frontends, since this was asked last, that have come or gone, or from which somebody has
        been taken who served them: there may be flows that are older, or go to those.
        """
        touched, self._touched = self._touched, set()
        return touched

    def _looked_at(self, policy: PlannedPort) -> "_Course":
        places = frozenset(place for place, *_ in frontend_keys(self._plan, policy))
        targets = (*policy.cluster_backends, *policy.local_backends, *policy.serving_backends)
        return _Course(places, frozenset((own.address, own.port) for own in targets))


class _Course(NamedTuple):
    """Of one service port."""

    frontends: frozenset[FrontendKey]
    endpoints: frozenset[Address]
    """All that may have flows."""


def _touched(left: Iterable[_Course], arrived: Iterable[_Course]) -> set[FrontendKey]:
    before = {frontend: own.endpoints for own in left for frontend in own.frontends}
    after = {frontend: own.endpoints for own in arrived for frontend in own.frontends}
    lost = {
        frontend for frontend in before.keys() & after.keys() if before[frontend] - after[frontend]
    }
    return lost | (before.keys() ^ after.keys())


def _addresses(plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return plan.node_port_addresses, plan.closed_addresses
