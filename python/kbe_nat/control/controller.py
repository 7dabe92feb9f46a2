"""The control loop's one step: from a snapshot to the tables of the engine and the rules of the
kernel.

Theory of operation. Every step has the same three parts, under one lock:

1. The planner plans what has been touched since the last step: Services by new objects, or by what
   operators have overridden. It answers with one `PlanDelta`.
2. The datapath takes the delta as a `PlanConsumer`, which touches its memory alone. One that fails
   half-way nevertheless is rebuilt at the next step.
3. The kernel and the engine follow, in this order: new backends into the kernel, the engine's
   tables, then everything else into the kernel. So the engine never names a backend that the kernel
   does not know, and the kernel forgets none that the engine may name. Others that follow plans,
   such as the health checks, come last.

The kernel may refuse. Then `is_behind` stays true, the datapath keeps what it owes the kernel, and
the next step or `repair` tries again.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import replace

from kbe_nat._native import Engine
from kbe_nat.collector import uncollected
from kbe_nat.control.overrides import Drain, Overrides, service_keys
from kbe_nat.control.removals import BackendRemovals
from kbe_nat.datapath.conntrack_settings import ConntrackSettings
from kbe_nat.datapath.datapath import Datapath
from kbe_nat.engine_tables import EngineTables
from kbe_nat.errors import ArgumentError, NotFoundError, RulesError
from kbe_nat.model import ServiceKey, Snapshot, Strategy, join_address, port_names
from kbe_nat.policy.delta import PlanConsumer, PlanDelta
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend, Plan, PlannedPort
from kbe_nat.policy.planner import Planner


class Controller:
    """Keeps one engine and the diversion rules in step with the newest snapshot. Its methods may be
    called from several threads.
    """

    def __init__(
        self,
        engine: Engine,
        datapath: Datapath,
        options: Callable[[Snapshot], Options],
        removed_seconds: float | None = None,
        look: Callable[[], bool] | None = None,
    ) -> None:
        """`options` describes the node, given the objects; `look` looks at the node for it, and
        says whether it may have changed. TCP connections of a backend that leaves are ended after
        `removed_seconds`; None: never.
        """
        self.engine = engine
        self.datapath = datapath
        self.snapshot = Snapshot()
        self.is_behind = False
        """The kernel has refused the newest rules."""
        self._options = options
        self._look = look
        self._is_node_new = False
        self._overrides = Overrides()
        self._planner = Planner(self._overrides.apply_to)
        self.plan: Plan = self._planner.plan
        """The newest plan that is in force, or that the kernel has refused."""
        self._touched: Set[ServiceKey] | None = None
        """Services that the snapshot has touched since it was planned last; None: any."""
        self._removals = BackendRemovals(removed_seconds)
        # These have taken the empty plan, from which the first delta starts.
        self._consumers = (_Following(self._removals, True), _Following(datapath, True))
        self._tables = _Following(EngineTables(engine))
        self._followers: list[_Following] = []
        """Consumers that come after the kernel."""
        self._is_installed = False
        self._lock = threading.RLock()

    @property
    def drains(self) -> Collection[str]:
        """Backends that are being drained."""
        return self._overrides.drains

    def follow_plans(self, consumer: PlanConsumer) -> None:
        """Let this consumer have all later plans, each when the kernel has it or has refused it. It
        is called by the thread that makes the change, which waits for it.
        """
        with self._lock:
            self._followers.append(_Following(consumer))

    def apply(self, snapshot: Snapshot, touched: Set[ServiceKey] | None = None) -> None:
        """Make this the state that is served. `touched` are the Services that may differ from the
        snapshot before; None: any. Raises `RulesError` when the kernel refuses the state; `repair`
        tries again. Cost: that of the touched Services alone.
        """
        with self._lock:
            self.snapshot = snapshot
            if touched is None or self._touched is None:
                self._touched = None
            else:
                self._touched = self._touched | touched
            self._carry_out()

    def refresh(self) -> bool:
        """Look at the node again, whose devices and addresses come and go; whether anything has
        changed. Raises as `apply`.
        """
        with self._lock:
            # Until what was seen is in force.
            self._is_node_new = not self._look or self._look() or self._is_node_new
            is_different = self._is_node_new and self._options(self.snapshot) != self.plan.options
            if is_different:
                self._carry_out()
            self._is_node_new = False
            return is_different

    def replan(self) -> bool:
        """Take over what operators have changed in the options; whether anything has. Raises as
        `refresh`, before anything is changed when the options contradict the node.
        """
        with self._lock:
            self._is_node_new = True
            return self.refresh()

    def install(self) -> None:
        """Put the rules into the kernel, and keep them in step from now on."""
        with self._lock:
            self.datapath.install()
            self._is_installed = True

    def end_removed_after(self, seconds: float | None) -> None:
        """Connections of backends that leave from now on end after so long; None: never, nor do
        those of backends that have left.
        """
        with self._lock:
            self._removals.seconds = seconds

    def remove(self) -> None:
        """Take the rules away."""
        with self._lock:
            self._is_installed = False
            self.datapath.remove()

    def render(self) -> str:
        """The rules that the kernel gets, as the input of each command."""
        with self._lock:
            return self.datapath.render()

    def repair(self) -> tuple[str, ...]:
        """Try again to bring the kernel up to the plan, put back rules that other programs have
        removed, and return these.
        """
        with self._lock:
            if self.is_behind:
                self._put_in_force(PlanDelta(self.plan, self.plan))
            return self.datapath.repair() if self._is_installed else ()

    def set_strategy(self, service: str, strategy: Strategy | None) -> int:
        """Choose backends of this service port, or of all ports of "namespace/name", in another way
        from now on, with None as the annotation or the strategy of all says; flows and affinity
        stay. Returns how many ports that were, with None of those that were set. Raises
        `NotFoundError` for a name that none has.
        """
        with self._lock:
            ports = self._ports_of(service)
            count = self._overrides.set_strategy(ports, strategy)
            self._carry_out(service_keys(ports))
            return count

    def let_kernel_choose(self, ports: frozenset[str]) -> None:
        """Let the kernel choose for these service ports, by their names, and for no others that
        leave it open. Raises `RulesError` when the kernel refuses it; `repair` tries again.
        """
        with self._lock:
            changed = ports ^ self._overrides.kernel_ports
            self._overrides.kernel_ports = ports
            self._carry_out(service_keys(p for p in self.plan.ports if p.name in changed))

    def watch_flows(self, is_watched: bool) -> None:
        """See `Datapath.watch_flows`. What the kernel refuses `repair` tries again."""
        with self._lock:
            try:
                self.datapath.watch_flows(is_watched)
            except RulesError:
                self.is_behind = True

    def counters(self) -> dict[str, int]:
        """Those of the datapath."""
        counters = self.datapath.counters()
        if self.datapath.kind.offloads:
            # Service ports, because more connections came than the engine could decide about.
            counters["ports-handed-to-kernel"] = len(self._overrides.kernel_ports)
        return counters

    def drain(self, backend: str, seconds: float | None) -> int:
        """Give this backend ("address" or "address:port") no new flows; end those that are left
        after `seconds`. Returns in how many service ports it stands. Raises `NotFoundError` when in
        none. Cost: a look at all backends.
        """
        with self._lock:
            drain = Drain(backend, None if seconds is None else time.monotonic() + seconds)
            ports = list(filter(drain.stands_in, self.plan.ports))
            if not ports:
                raise NotFoundError("backends", backend)
            self._overrides.drains[backend] = drain
            self._carry_out(service_keys(ports))
            return len(ports)

    def undrain(self, backend: str) -> int:
        """Give it new flows again; an address all its ports. Returns how many drains that ended: 0
        where it was not drained. Raises `NotFoundError` when it stands in no service port,
        `ArgumentError` when one port is meant and the whole address is drained. Cost: a look at all
        backends.
        """
        with self._lock:
            meant, drains = Drain(backend), self._overrides.drains
            ended = [each for each in drains.values() if backend in (each.backend, each.address)]
            if not ended and meant.address in drains:
                raise ArgumentError(f"{backend} is drained as all of {meant.address}: undo that")
            ports = [
                port
                for port in self.plan.ports
                if any(each.stands_in(port) for each in (meant, *ended))
            ]
            if not ended and not ports:
                raise NotFoundError("backends", backend)
            for each in ended:
                del drains[each.backend]
            if ended:
                self._carry_out(service_keys(ports))
            return len(ended)

    def unserved(self, backends: Iterable[str]) -> list[str]:
        """The service ports in which one of these backends stands, and none that gets new flows.
        Cost: a look at all backends.
        """
        drains = [Drain(backend) for backend in backends]
        return sorted(
            {
                port.name
                for port in self.plan.ports
                # Few ports have none: that comes first.
                if not any(each.weight for each in (*port.cluster_backends, *port.local_backends))
                and any(drain.stands_in(port) for drain in drains)
            }
        )

    def remaining(self, backend: str) -> int:
        """Flows that a backend still has, as its counters say: without those that are over."""
        self.datapath.refresh()
        drain = Drain(backend)
        return sum(
            counted.active
            for service in self.engine.stats().services
            for counted in service.backends
            if drain.covers(Backend(counted.address, counted.port))
        )

    def set_conntrack(self, settings: ConntrackSettings) -> list[str]:
        """Let connections be tracked so from now on. Returns what the kernel has refused."""
        with self._lock:
            self.engine.set_timeouts(settings.timeouts())
            return self.datapath.set_conntrack(settings) if self._is_installed else []

    def end_drains(self) -> dict[str, int]:
        """End the flows of drained and removed backends whose deadline is over: their number by
        backend.
        """
        with self._lock:
            removed: dict[str, int] = {}
            for service, address, port in self._removals.take_due():
                backend = join_address(address, port)
                count = self.engine.delete_flows(backend=address, service=service)
                removed[backend] = removed.get(backend, 0) + count
            ended = {backend: flows for backend, flows in removed.items() if flows}
            for drain in [drain for drain in self._overrides.drains.values() if drain.is_over]:
                ended[drain.backend] = self._end_flows(drain)
                self._overrides.drains[drain.backend] = replace(drain, deadline=None)
            return ended

    def _ports_of(self, service: str) -> list[PlannedPort]:
        ports = [
            port
            for port in self.plan.ports
            if service
            in port_names(port.name, (each.port for each in port.frontends if each.address))
        ]
        if not ports:
            raise NotFoundError("services", service)
        return ports

    def _end_flows(self, drain: Drain) -> int:
        return sum(
            self.engine.delete_flows(backend=backend.address, service=port.name)
            for port in filter(drain.stands_in, self.plan.ports)
            for backend in {*port.cluster_backends, *port.local_backends}
            if drain.covers(backend)
        )

    def _carry_out(self, overridden: Collection[ServiceKey] = ()) -> None:
        """Bring everything up to the snapshot and what operators want; `overridden` are Services of
        which they want something else than before.
        """
        if self._touched is None:
            with uncollected():
                self._plan_and_put(overridden)
        else:
            self._plan_and_put(overridden)

    def _plan_and_put(self, overridden: Collection[ServiceKey]) -> None:
        options = self._options(self.snapshot)
        delta = self._planner.update(self.snapshot, options, self._touched, overridden)
        self._touched = frozenset()
        try:
            for consumer in self._consumers:
                consumer.take(delta)
            self._put_in_force(delta)
        finally:
            # Not before: whoever has seen a Service in a list connects to it.
            self.plan = delta.plan
            for follower in self._followers:
                follower.take(delta)

    def _put_in_force(self, delta: PlanDelta) -> None:
        """Let the engine and the kernel follow the newest plan."""
        self.is_behind = True
        is_engine_current, self._tables.is_current = self._tables.is_current, False
        self.datapath.prepare()
        self._tables.is_current = is_engine_current
        self._tables.take(delta)
        if self._is_installed:
            self.datapath.update()
        self.is_behind = False


class _Following:
    """A consumer, and whether it has taken every delta."""

    def __init__(self, consumer: PlanConsumer, is_current: bool = False) -> None:
        self.consumer = consumer
        self.is_current = is_current

    def take(self, delta: PlanDelta) -> None:
        """Apply the delta; rebuild the consumer if it has missed or failed an earlier one."""
        is_current, self.is_current = self.is_current, False
        if is_current:
            self.consumer.apply(delta)
        else:
            self.consumer.rebuild(delta.plan)
        self.is_current = True
