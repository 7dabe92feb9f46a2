"""Brings what a source says into force, and logs what is new about it.

An update goes from the source to the controller. The update that could not be taken over, because
something failed on the way, is pending: it is tried again, together with what came since, until it
is in force. An error is logged when it begins and when it ends, not each time that it is met.
"""

import logging
import time
from typing import Final

from kbe_nat.control.controller import Controller
from kbe_nat.counting import counted
from kbe_nat.daemon.cluster_events import ClusterEvents
from kbe_nat.daemon.logs import FACTS, ConditionLog
from kbe_nat.daemon.own_node import OwnNode
from kbe_nat.daemon.tasks import describe_error
from kbe_nat.errors import KbeNatError, ObjectError, RulesError
from kbe_nat.metrics.sync import SyncMetrics
from kbe_nat.server.health_check_ports import HealthCheckPorts
from kbe_nat.sources.source import Source, SourceUpdate


class Reconciler:
    """One source, one controller, and the servers of health checks that follow the plan. Its
    methods are tasks of the daemon's main thread.
    """

    def __init__(
        self,
        source: Source,
        controller: Controller,
        health: HealthCheckPorts,
        own_node: OwnNode | None = None,
        metrics: SyncMetrics | None = None,
        events: ClusterEvents | None = None,
    ) -> None:
        """`events` tell the cluster's operators, if there is a cluster."""
        self.own_node = own_node or OwnNode()
        self._metrics = metrics or SyncMetrics()
        self._events = events
        self.generation = 0
        """Of the newest snapshot that was planned."""
        self.errors: tuple[str, ...] = ()
        """Errors in files and objects now."""
        self.synced = time.time_ns()
        """When the kernel took over a change last, in nanoseconds since 1970; before the first one,
        when the daemon started.
        """
        self._source = source
        self._controller = controller
        self._health = health
        controller.follow_plans(health)
        self._pending: SourceUpdate | None = None
        """Read, and not yet planned."""
        self._refused: tuple[KbeNatError, ...] = ()
        """The errors of the newest update."""
        self._is_unreadable = False
        """Whether the source as a whole could not be read at the last attempt."""
        self._has_objects = False
        self._news = ""
        """About what came into force since the last `log_news`."""
        self._standing_errors = ConditionLog(logging.ERROR, "all objects are valid again")
        self._standing_notes = ConditionLog(logging.INFO)
        self._standing_warnings = ConditionLog(logging.WARNING)
        self._standing_plan_notes = ConditionLog(logging.WARNING)
        self._standing_delay = ConditionLog(logging.ERROR, "the rules are up to date")

    @property
    def is_behind(self) -> bool:
        """Whether the kernel lacks what the newest objects want, or no objects have come yet."""
        return self._controller.is_behind or self._pending is not None or not self._has_objects

    @property
    def has_objects(self) -> bool:
        """Whether the source has told its first state."""
        return self._has_objects

    def read_first(self) -> None:
        """Take over the first state, if it has come. Raises `KbeNatError`: with nothing to serve
        it is better not to start.
        """
        try:
            update = self._source.read()
            if update is not None:
                self._apply(update)
        except KbeNatError:
            raise
        except Exception as error:
            raise KbeNatError(f"the objects cannot be served: {describe_error(error)}") from error

    def follow(self) -> None:
        """Take over what has changed; a source that cannot be read leaves everything as it is."""
        try:
            update = self._source.read()
        except KbeNatError as error:
            self._is_unreadable = True
            self._log_errors((error,), KEPT)
        else:
            if self._is_unreadable and update is None:
                # It is as it was before, so no update says that the errors of then hold again.
                self._log_errors(self._refused, LEFT_OUT)
            self._is_unreadable = False
            # A source says once what it touched, so the touched Services of an update that failed
            # are added to those of the next one.
            self._pending = update.covering(self._pending) if update else self._pending
        if self._pending is not None:
            self._apply(self._pending)
            self._pending = None

    def repair(self) -> None:
        """Put back rules that another program has removed. Raises `RulesError`."""
        was_behind, started = self._controller.is_behind, time.monotonic()
        missing = self._controller.repair()
        if was_behind:
            self.synced = time.time_ns()
            self._metrics.complete(time.monotonic() - started, is_full=True)
        self._tell_delay()
        # Most often a firewall's reload: iptables-restore without --noflush, or `nft flush
        # ruleset`.
        if missing:
            LOG.warning(
                "somebody has removed rules or changed them; they are back: %s", ", ".join(missing)
            )

    def refresh_node(self) -> None:
        """Take over what has changed of the node's devices and addresses. Raises `KbeNatError`."""
        if self._controller.refresh():
            LOG.info("the node has changed: %s", self.extent(), extra={FACTS: self.sizes()})

    def end_drains(self) -> None:
        """End the connections of backends whose time is over."""
        for backend, flows in self._controller.end_drains().items():
            facts = {"backend": backend, "connections": flows}
            ended = f"{counted(flows, 'connection')} {'was' if flows == 1 else 'were'} ended"
            LOG.info("%s is gone or drained: %s", backend, ended, extra={FACTS: facts})

    def retry_health_checks(self) -> None:
        """Try again to listen where that has failed."""
        self._health.retry()

    def log_news(self) -> None:
        """Log the newest update only: objects may change many times a second."""
        if self._news:
            extent, facts = self.extent(), {"generation": self.generation, **self.sizes()}
            news = self._news
            LOG.info("generation %d: %s, %s", self.generation, extent, news, extra={FACTS: facts})
            self._news = ""

    def extent(self) -> str:
        """How much is served, for people."""
        sizes = self.sizes()
        ports = counted(sizes["service_ports"], "service port")
        return f"{ports} with {counted(sizes['endpoints'], 'endpoint')}"

    def sizes(self) -> dict[str, int]:
        """The same for programs."""
        ports = self._controller.plan.ports
        backends = sum(len(port.cluster_backends) for port in ports)
        return {"service_ports": len(ports), "endpoints": backends}

    def _apply(self, update: SourceUpdate) -> None:
        self._refused = update.errors
        self._log_errors(update.errors, LEFT_OUT)
        self._standing_notes.update(update.notes)
        self._standing_warnings.update(update.warnings)
        # Errors are logged first: they hold for the objects whether or not the kernel takes the
        # rest.
        started = time.monotonic()
        self._has_objects = True
        self._metrics.queue(update.snapshot, update.touched)
        try:
            self._controller.apply(update.snapshot, update.touched)
        except RulesError as error:
            self._metrics.fail()
            self._tell_delay(str(error))
        else:
            self._tell_delay()
            span = time.monotonic() - started
            self._metrics.complete(span, is_full=update.touched is None)
            self._news = f"in force after {span * 1000:.0f} ms"
            self.synced = time.time_ns()
        finally:
            self.own_node.update(self._controller.plan.options.node, update.snapshot.nodes)
        self._standing_plan_notes.update(self._controller.plan.notes)
        if self._events is not None:
            self._events.update(update.errors, self._controller.plan.losses, update.snapshot)
        # A RulesError is no failure of this update: the plan is made, and `repair` brings the
        # kernel up to it. Any other error leaves the update pending.
        self.generation = update.snapshot.generation

    def _tell_delay(self, reason: str = "") -> None:
        """Why the kernel lacks what the objects want; empty when it does not."""
        lines = [f"rules are not up to date: {reason}; {KEPT}"] if reason else []
        self._standing_delay.update(lines)
        if self._events is not None:
            self._events.delay_rules(reason)

    def _log_errors(self, errors: tuple[KbeNatError, ...], consequence: str) -> None:
        facts = {f"{error}; {consequence}": _facts_of(error) for error in errors}
        self._standing_errors.update(facts, facts)
        self.errors = tuple(map(str, errors))


def _facts_of(error: KbeNatError) -> dict[str, object]:
    """Where an object that is refused stands, and why it is."""
    if not isinstance(error, ObjectError):
        return {}
    parts = {"origin": error.origin, "object": error.subject, "field": error.path}
    return {name: part for name, part in {**parts, "reason": error.reason}.items() if part}


LOG: Final = logging.getLogger("kbe_nat.daemon")
KEPT: Final = "what was served before is still served"
LEFT_OUT: Final = "it stays as it was, or is left out"
