"""The backends that may reach themselves by the kernel's choice.

Where the engine chooses it sees that client and backend are one, and has the client masqueraded:
the answer would not come back to it otherwise. The kernel cannot compare two fields of a packet,
but it can look both up in a set of pairs. Only pods of this node open flows here, so of backends
whose node is known the others are left out.
"""

from collections.abc import Collection

from kbe_nat.family import Family
from kbe_nat.model import Choice
from kbe_nat.policy.delta import PlanDelta
from kbe_nat.policy.plan import Plan, PlannedPort
from kbe_nat.rules.frontends import ElementChange, Uses
from kbe_nat.rules.standby import is_chosen_by_kernel


class Hairpins:
    """A `PlanConsumer`: addresses of these backends, by family."""

    def __init__(self, choice: Choice) -> None:
        """`choice` is that of Services that do not say theirs."""
        self._choice = choice
        self._uses: dict[Family, Uses[str]] = {family: Uses() for family in Family}
        """By how many backends of ports each address is used."""

    def addresses(self, family: Family) -> Collection[str]:
        """The addresses of one family."""
        return self._uses[family].elements()

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`. Another name of the node costs a look at all ports."""
        if delta.former.options.node != delta.plan.options.node:
            self.rebuild(delta.plan)
            return
        for before, after in delta.pairs():
            for facts, step in ((before, -1), (after, 1)):
                if facts is not None:
                    self._count(delta.plan, facts.port, step)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`."""
        for uses in self._uses.values():
            uses.clear()
        for port in plan.ports:
            self._count(plan, port, 1)

    def take_change(self, family: Family) -> ElementChange[str]:
        """The addresses that came and went since the last call."""
        return self._uses[family].take_change()

    def _count(self, plan: Plan, port: PlannedPort, step: int) -> None:
        if not is_chosen_by_kernel(port, self._choice):
            return
        for backend in {*port.cluster_backends, *port.local_backends}:
            if backend.is_local or not plan.options.node:
                self._uses[port.family].count(backend.address, step)
