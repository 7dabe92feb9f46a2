"""The control loop's one step: from a snapshot to the tables of the engine and the rules of the
kernel.

Whatever changes (objects, strategies, drains), everything is computed anew and handed over whole;
what did not change costs a comparison.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from kbe_nat._native import Engine
from kbe_nat.datapath.datapath import Datapath
from kbe_nat.engine_tables import Tables
from kbe_nat.errors import ArgumentError
from kbe_nat.model import Snapshot, Strategy, join_address
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend, PlannedPort
from kbe_nat.policy.planner import Planner, plan
from kbe_nat.remembered import Remembered

Key: TypeAlias = tuple[str, str, int]
"""Name of a service port, and address and port of a backend."""


@dataclass(frozen=True, slots=True)
class Drain:
    """A backend that gets no new flows."""

    backend: str
    """Address, or address and port."""
    deadline: float | None = None
    """When its last flows are ended, as `time.monotonic` counts; None: never."""

    def covers(self, target: Backend) -> bool:
        """Whether this endpoint is meant."""
        return self.backend in (target.address, str(target))


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
        """`options` says what the node is, given the objects; `look` looks at the node for it, and
        says whether it may have changed. TCP connections of a backend that leaves are ended after
        `removed_seconds`; None: never.
        """
        self.engine = engine
        self.datapath = datapath
        self.plan = plan(Snapshot())
        self.snapshot = Snapshot()
        self.drains: dict[str, Drain] = {}
        self._options = options
        self._look = look
        self._is_node_new = False
        self._planner = Planner()
        self._tables = Tables()
        self._strategies: dict[str, Strategy] = {}
        self._removed_seconds = removed_seconds
        self._backends = Remembered(_tcp_backends)
        self._removed: dict[Key, float] = {}
        """When the connections of backends that have left are ended, by service port."""
        self._is_installed = False
        self.is_behind = False
        """The kernel has refused the newest rules."""
        self._lock = threading.RLock()

    def apply(self, snapshot: Snapshot) -> None:
        """Make this the state that is served. Raises `RulesError` when the kernel refuses it;
        `repair` tries again.
        """
        with self._lock:
            self.snapshot = snapshot
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

    def install(self) -> None:
        """Put the rules into the kernel, and keep them in step from now on."""
        with self._lock:
            self.datapath.install(self.plan)
            self._is_installed = True

    def remove(self) -> None:
        """Take the rules away."""
        with self._lock:
            self._is_installed = False
            self.datapath.remove()

    def render(self) -> str:
        """What is put into the kernel, as the input of each command."""
        with self._lock:
            return self.datapath.render(self.plan)

    def repair(self) -> tuple[str, ...]:
        """Try again what the kernel has refused, put back rules that somebody has removed, and say
        which.
        """
        with self._lock:
            if self.is_behind:
                self._put_in_force()
            return self.datapath.repair(self.plan) if self._is_installed else ()

    def set_strategy(self, service: str, strategy: Strategy) -> int:
        """Choose backends of this service port, or of all ports of "namespace/name", in another way
        from now on; flows and affinity stay. Returns how many ports that were. Raises
        `ArgumentError` for a name that none has.
        """
        with self._lock:
            names = self.ports(service)
            self._strategies |= dict.fromkeys(names, strategy)
            self._carry_out()
            return len(names)

    def drain(self, backend: str, seconds: float | None) -> int:
        """Give this backend ("address" or "address:port") no new flows; end those that are left
        after `seconds`. Returns in how many service ports it stands. Raises `ArgumentError` when in
        none.
        """
        with self._lock:
            drain = Drain(backend, None if seconds is None else time.monotonic() + seconds)
            count = sum(
                any(map(drain.covers, (*port.cluster_backends, *port.local_backends)))
                for port in self.plan.ports
            )
            if not count:
                raise ArgumentError(f"{backend}: no service port has this backend")
            self.drains[backend] = drain
            self._carry_out()
            return count

    def undrain(self, backend: str) -> None:
        """Give it new flows again. Raises `ArgumentError` when it is not being drained."""
        with self._lock:
            if self.drains.pop(backend, None) is None:
                raise ArgumentError(f"{backend} is not being drained")
            self._carry_out()

    def remaining(self, backend: str) -> int:
        """Flows that a backend still has, without those that are over and only remembered for a
        while.
        """
        self.datapath.refresh()
        drain = Drain(backend)
        addresses = {
            own.address
            for service in self.engine.stats().services
            for own in service.backends
            if own.active and drain.covers(Backend(own.address, own.port))
        }
        return sum(
            flow.state not in OVER and drain.covers(Backend(*flow.reply_source))
            for address in addresses
            for flow in self.engine.flows(backend=address)
        )

    def end_drains(self) -> dict[str, int]:
        """End the flows of drained and removed backends whose deadline is over: their number by
        backend.
        """
        with self._lock:
            gone = [key for key, deadline in self._removed.items() if deadline <= time.monotonic()]
            removed: dict[str, int] = {}
            for key in gone:
                del self._removed[key]
                name, address, number = key
                target = join_address(address, number)
                count = self.engine.delete_flows(backend=address, service=name)
                removed[target] = removed.get(target, 0) + count
            over = [
                own
                for own in self.drains.values()
                if own.deadline and own.deadline <= time.monotonic()
            ]
            ended = {backend: flows for backend, flows in removed.items() if flows}
            for drain in over:
                ended[drain.backend] = sum(
                    self.engine.delete_flows(backend=own.address, service=port.name)
                    for port in self.plan.ports
                    for own in {*port.cluster_backends, *port.local_backends}
                    if drain.covers(own)
                )
                self.drains[drain.backend] = replace(drain, deadline=None)
            return ended

    def ports(self, service: str) -> list[str]:
        """Names of the service ports that a name means: one port's, or all of a Service's."""
        names = [port.name for port in self.plan.ports]
        found = [name for name in names if name == service or name.partition(":")[0] == service]
        if not found:
            raise ArgumentError(f"{service}: there is no such service port")
        return sorted(set(found))

    def _carry_out(self) -> None:
        made = self._planner.plan(self.snapshot, self._options(self.snapshot))
        if self._removed_seconds is not None:
            self._note_removed(made.ports, time.monotonic() + self._removed_seconds)
        if self._strategies or self.drains:
            made = replace(made, ports=tuple(map(self._adjusted, made.ports)), changes=None)
        self.plan = made
        self._put_in_force()

    def _note_removed(self, ports: tuple[PlannedPort, ...], deadline: float) -> None:
        """Remembers which TCP backends leave with this plan, and forgets those that are back."""
        findings = self._backends.findings(ports)
        self._backends.keep(findings)
        before = frozenset[Key]().union(*findings.left)
        after = frozenset[Key]().union(*findings.arrived)
        self._removed = {key: when for key, when in self._removed.items() if key not in after}
        self._removed |= dict.fromkeys(before - after, deadline)

    def _put_in_force(self) -> None:
        self.is_behind = True
        self.datapath.prepare(self.plan)
        self.engine.replace_services(*self._tables.native(self.plan))
        if self._is_installed:
            self.datapath.update(self.plan)
        self.is_behind = False

    def _adjusted(self, port: PlannedPort) -> PlannedPort:
        """What operators have said at run time."""
        strategy = self._strategies.get(port.name, port.strategy)
        is_drained = self.drains and any(
            map(self._is_drained, (*port.cluster_backends, *port.local_backends))
        )
        if strategy is port.strategy and not is_drained:
            return port
        return replace(
            port,
            strategy=strategy,
            cluster_backends=self._weighed(port.cluster_backends),
            local_backends=self._weighed(port.local_backends),
        )

    def _is_drained(self, target: Backend) -> bool:
        return any(drain.covers(target) for drain in self.drains.values())

    def _weighed(self, targets: tuple[Backend, ...]) -> tuple[Backend, ...]:
        return tuple(replace(own, weight=0) if self._is_drained(own) else own for own in targets)


def _tcp_backends(port: PlannedPort) -> frozenset[Key]:
    """Every backend of a TCP service port, whatever its weight."""
    if port.protocol != "tcp":
        return frozenset()
    return frozenset(
        (port.name, own.address, own.port) for own in (*port.cluster_backends, *port.local_backends)
    )


OVER: Final = ("TIME_WAIT", "CLOSE")
"""States of TCP connections that have ended."""
