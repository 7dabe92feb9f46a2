"""The frontends whose flows are to be checked after a change, as kube-proxy's `CleanStaleEntries`
checks flows after each sync.
"""

from collections.abc import Iterable

from kbe_nat.policy.delta import PlanDelta, PortFacts
from kbe_nat.policy.plan import BackendAddress, FrontendKey, Plan


class FlowChecks:
    """A `PlanConsumer`: notes the frontends that came or went, and those that lost a backend. There
    may be flows that are older than such a frontend, or that go to such a backend.
    """

    def __init__(self) -> None:
        self._frontends: set[FrontendKey] = set()
        self._is_everything = False

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`."""
        # By frontend and not by port: one that goes to another port with the same backends has lost
        # nothing.
        before = _backends(old for old, _ in delta.pairs() if old is not None)
        after = _backends(new for _, new in delta.pairs() if new is not None)
        self._frontends |= before.keys() ^ after.keys()
        for frontend in before.keys() & after.keys():
            if before[frontend] - after[frontend]:
                self._frontends.add(frontend)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`. The frontends that came and went are not known, so all flows are to
        be checked.
        """
        self._is_everything = True

    def take(self) -> set[FrontendKey] | None:
        """The frontends since the last call; None: all, of this plan and of any earlier one."""
        frontends, self._frontends = self._frontends, set()
        is_everything, self._is_everything = self._is_everything, False
        return None if is_everything else frontends


def _backends(ports: Iterable[PortFacts]) -> dict[FrontendKey, frozenset[BackendAddress]]:
    """By frontend, all backends that may have flows."""
    backends = {}
    for facts in ports:
        port = facts.port
        serving = (backend.key for backend in port.serving_backends)
        all_backends = port.backend_keys.union(serving)
        backends.update(dict.fromkeys(facts.frontend_keys, all_backends))
    return backends
