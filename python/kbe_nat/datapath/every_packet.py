"""The datapath whose engine translates every packet and has the only connection tracking.

**Taking over.** The kernel carries the connections that kube-proxy's rules have begun: conntrack
knows their translation, whatever becomes of the rules. The engine sees their packets first, since
its rules stand ahead of conntrack, and must let them pass. So it learns from conntrack which they
are, in this order: our rules come first, and packets wait in the queues, which nobody empties yet.
From here on no connection begins by other rules. Then a look at all of the kernel's connections
finds those that have begun before. Then the loops start. Later on events tell which of them end.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from kbe_nat._native import ConntrackEntry, ConntrackSync, Engine, Flow
from kbe_nat.datapath.conntrack_settings import ConntrackSettings
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.flow_checks import FlowChecks
from kbe_nat.drivers.thread import NativeThread, Persistent
from kbe_nat.errors import RulesError
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
        *,
        takes_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """`rules` writes rules into the kernel; `leftovers` removes those of the other datapath.
        Where `takes_over` says so at the start, the connections go on that the kernel carries.
        """
        self._rules = rules
        self._takes_over = takes_over
        self._sync: ConntrackSync | None = None
        """What tells the engine of connections that the kernel carries."""
        self._flow_checks = FlowChecks()
        self._leftovers = leftovers
        self._diversion_rules = DiversionRules(diversion.queues, diversion.marks)
        self._installed: tuple[RuleSet, ...] | None = None
        """The shape of the rules in the kernel; None: it has not taken every change."""

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`."""
        self._diversion_rules.apply(delta)
        self._flow_checks.apply(delta)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`."""
        self._diversion_rules.rebuild(plan)
        self._flow_checks.rebuild(plan)

    def prepare(self) -> None:
        """See `Datapath`: nothing."""

    def install(self) -> None:
        """See `Datapath`."""
        self._install()
        self._flow_checks.take()
        if self._sync and not self._sync.resync_within(RESYNC_SECONDS):
            raise RulesError(
                "the connections that the kernel carries are not known within"
                f" {RESYNC_SECONDS:.0f} s, so another proxy's would break"
            )
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
        self._check_flows()

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
        """See `Datapath`: they always are, but for those that the kernel carries."""
        if self._sync:
            self._sync.resync_within(RESYNC_SECONDS)

    def counters(self) -> dict[str, int]:
        """See `Datapath`: nothing."""
        return {}

    def uncached_devices(self) -> dict[str, str]:
        """See `Datapath`: there is no cache."""
        return {}

    def set_conntrack(self, settings: ConntrackSettings) -> list[str]:
        """See `Datapath`: the engine has the only connection tracking."""
        return []

    def render_conntrack(self, settings: ConntrackSettings) -> str:
        """See `Datapath`."""
        return ""

    def flow_notes(self, packet: bytes) -> list[tuple[str, str]]:
        """See `Datapath`: nothing."""
        return []

    def is_chosen_by_kernel(self, packet: bytes) -> bool:
        """See `Datapath`: the engine sees every packet."""
        return False

    def counts_bytes(self) -> bool:
        """See `Datapath`: the engine sees every packet."""
        return True

    def entries(
        self, flows: Sequence[Flow], *, ended: bool = False
    ) -> Sequence[ConntrackEntry | None]:
        """See `Datapath`: only of flows that another proxy has begun."""
        sync = self._sync
        return sync.entries(flows, ended=ended) if sync else [None] * len(flows)

    def watch_flows(self, is_watched: bool) -> None:
        """See `Datapath`: those of another proxy's flows are not kept."""

    @contextmanager
    def following(self, engine: Engine) -> Iterator[Sequence[NativeThread]]:
        """See `Datapath`: it sees them itself, but for those of another proxy."""
        if not self._takes_over():
            yield ()
            return
        self._sync = ConntrackSync(engine, socket_buffer=EVENT_BYTES)
        try:
            with NativeThread(Persistent(self._sync), "conntrack sync") as thread:
                yield (thread,)
        finally:
            self._sync = None

    def _check_flows(self) -> None:
        """Datagrams that the kernel carries leave an endpoint that is gone."""
        frontends = self._flow_checks.take()
        if self._sync and frontends is None:
            self._sync.resync()
        elif self._sync and frontends:
            self._sync.resync_frontends(
                [(protocol, address, port) for address, protocol, port in frontends]
            )

    def _install(self) -> None:
        self._installed = None
        # The rules have all elements; later changes count from here.
        self._diversion_rules.take_changes()
        self._rules.install(self._diversion_rules.rule_sets())
        self._installed = self._diversion_rules.shape()


RESYNC_SECONDS: Final = 10.0
"""For a million connections of the kernel, and a busy machine."""
EVENT_BYTES: Final = 16 << 20
"""Of events that wait for us: some 60,000."""
