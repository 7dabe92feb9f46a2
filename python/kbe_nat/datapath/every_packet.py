"""The datapath whose engine translates every packet and has the only connection tracking."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from kbe_nat._native import Engine
from kbe_nat.datapath.conntrack_settings import ConntrackSettings
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.drivers.thread import NativeThread
from kbe_nat.policy.delta import PlanDelta
from kbe_nat.policy.plan import Plan
from kbe_nat.rules.diversion import DiversionRules
from kbe_nat.rules.installer import RuleInstaller
from kbe_nat.rules.rule import DatapathKind, RuleSet


class EveryPacket:
    """A `Datapath` whose engine has the only connection tracking."""

    kind = DatapathKind.EVERY_PACKET
    backend_ids = None

    def __init__(
        self,
        diversion: Diversion,
        rules: RuleInstaller,
        leftovers: Callable[[], None] | None = None,
    ) -> None:
        """`rules` writes rules into the kernel; `leftovers` removes those of the other datapath."""
        self._rules = rules
        self._leftovers = leftovers
        self._diversion_rules = DiversionRules(diversion.queues, diversion.marks)
        self._installed: tuple[RuleSet, ...] | None = None
        """The shape of the rules in the kernel; None: it has not taken every change."""

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`."""
        self._diversion_rules.apply(delta)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`."""
        self._diversion_rules.rebuild(plan)

    def prepare(self) -> None:
        """See `Datapath`: nothing."""

    def install(self) -> None:
        """See `Datapath`."""
        self._install()
        # The other datapath's rules go only when ours divert, so one of them serves at every
        # moment.
        if self._leftovers:
            self._leftovers()

    def update(self) -> None:
        """See `Datapath`."""
        shape = self._diversion_rules.shape()
        if shape != self._installed:
            self._install()
            return
        self._installed = None
        self._rules.change(self._diversion_rules.take_changes())
        self._installed = shape

    def repair(self) -> tuple[str, ...]:
        """See `Datapath`."""
        missing = self._rules.missing()
        # The rules of a hook depend on their order, so a missing one is not put back alone.
        if missing:
            self._install()
        return missing

    def remove(self) -> None:
        """See `Datapath`."""
        self._installed = None
        self._rules.remove()

    def is_present(self) -> bool:
        """See `Datapath`."""
        return self._rules.is_present()

    def render(self) -> str:
        """See `Datapath`."""
        return self._rules.render(self._diversion_rules.rule_sets())

    def refresh(self) -> None:
        """See `Datapath`: they always are."""

    def counters(self) -> dict[str, int]:
        """See `Datapath`: nothing."""
        return {}

    def set_conntrack(self, settings: ConntrackSettings) -> list[str]:
        """See `Datapath`: the engine has the only connection tracking."""
        return []

    def counts_bytes(self) -> bool:
        """See `Datapath`: the engine sees every packet."""
        return True

    def following(self, engine: Engine) -> AbstractContextManager[NativeThread | None]:
        """See `Datapath`: it sees them itself."""
        return nullcontext()

    def _install(self) -> None:
        self._installed = None
        # The rules have all elements; later changes count from here.
        self._diversion_rules.take_changes()
        self._rules.install(self._diversion_rules.rule_sets())
        self._installed = self._diversion_rules.shape()
