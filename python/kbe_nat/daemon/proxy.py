"""The life of the node proxy: start, tasks, and end.

**Start.** The order is one of needs. No second daemon may serve in this network namespace, so that
is settled first. Privileges are given up before any thread exists, since threads keep what they
had. Objects are read and planned before anything is opened: a daemon with nothing to serve ends
with an error, and what served before stays. Queues are bound, but nothing takes packets out of them
yet. The connections of an earlier daemon are restored before the rules can bring packets that
belong to them. The control socket opens before the first write of the file of connections, because
only then it is certain that the file is not another daemon's. Then the rules replace those of an
earlier daemon in one transaction, and only after that the packet loops start: the verdicts of this
daemon's engine mean nothing to the rules of another one.

**Tasks.** The main thread carries no packets. Its `Rounds` run a list of `Task`s: follow the
objects, repair the rules, refresh the node, write connections to the file, publish events, and so
on.

**End.** SIGTERM, SIGINT and SIGHUP remove the rules first, while the loops still give verdicts on
what is in the queues, and then stop threads and close the rest in reverse order; connections are
written to the file once more. SIGUSR2 does the same but leaves the rules, for a daemon that takes
over. A daemon that fails leaves them too: it will be started again, and until then they serve new
connections (first-packet), or let nothing pass untranslated (every-packet). Commands that still run
get a `GracePeriod`, so that a signal is obeyed within 5 s.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from kbe_nat import __version__
from kbe_nat.collector import collect_rarely, settle
from kbe_nat.commands import GracePeriod
from kbe_nat.control.controller import Controller
from kbe_nat.counting import counted
from kbe_nat.daemon import privileges
from kbe_nat.daemon.checkpoints import CheckpointFile
from kbe_nat.daemon.choices import Choices
from kbe_nat.daemon.conntrack import conntrack_settings
from kbe_nat.daemon.control_socket import ControlServer
from kbe_nat.daemon.ending import Ending
from kbe_nat.daemon.facts import Facts, NodeFacts
from kbe_nat.daemon.inherited_affinity import inherit_affinity
from kbe_nat.daemon.live_settings import LiveSettings, set_conntrack
from kbe_nat.daemon.liveness import Liveness
from kbe_nat.daemon.logs import FACTS
from kbe_nat.daemon.node_pages import NodePages
from kbe_nat.daemon.node_server import NodeServer
from kbe_nat.daemon.oom_score import set_oom_score
from kbe_nat.daemon.own_node import OwnNode
from kbe_nat.daemon.reconciler import Reconciler
from kbe_nat.daemon.rounds import Rounds
from kbe_nat.daemon.rows import FileSourceRow, LoopRow, StatusRow, WatchRow
from kbe_nat.daemon.settings import Settings
from kbe_nat.daemon.singleton import only_proxy
from kbe_nat.daemon.subscribers import Subscribers
from kbe_nat.daemon.systemd import Notifier
from kbe_nat.daemon.tasks import Task
from kbe_nat.daemon.verbs import Verbs
from kbe_nat.datapath.sysctl import ACCOUNTING
from kbe_nat.drivers.native import NativeQueue
from kbe_nat.drivers.netfilterqueue import NetfilterQueue
from kbe_nat.drivers.thread import LoopThread
from kbe_nat.errors import KbeNatError, RulesError
from kbe_nat.kubeproxy.effective import complete
from kbe_nat.metrics import catalog
from kbe_nat.metrics.sync import SyncMetrics
from kbe_nat.model import Choice
from kbe_nat.server.health_check_ports import HealthCheckPorts
from kbe_nat.server.health_page import HealthPages
from kbe_nat.server.on_demand import ThreadOnDemand
from kbe_nat.sources.source import Source

if TYPE_CHECKING:
    # With `prometheus_client`, which a daemon without pages does not need.
    from kbe_nat.daemon.node_metrics import NodeMetrics

Queue: TypeAlias = NativeQueue | NetfilterQueue


class Proxy:
    """A daemon, as `kbe_nat.daemon.composition.build` makes it. It runs once."""

    def __init__(
        self,
        live: LiveSettings,
        source: Source,
        controller: Controller,
        queues: Sequence[Callable[[], Queue]],
        facts: Facts,
        grace: GracePeriod,
        node: NodeFacts | None = None,
    ) -> None:
        """`queues` open one queue each; `grace` is that of the commands which the controller
        runs.
        """
        node = node or NodeFacts()
        self.controller = controller
        self._live = live
        self._settings = settings = live.settings
        answering = ThreadOnDemand()
        on_failure = node.events.fail_health_check if node.events else None
        health = HealthCheckPorts(lambda: self.liveness.is_healthy(), answering, on_failure)
        is_iptables = "iptables" in facts.rules
        sync = SyncMetrics(catalog.IPTABLES_FAILURES if is_iptables else catalog.NFTABLES_FAILURES)
        self.reconciler = Reconciler(
            source, controller, health, OwnNode(is_expected=node.is_expected), sync, node.events
        )
        self.liveness = Liveness(
            lambda: self.reconciler.is_behind,
            lambda: self.reconciler.synced,
            lambda: live.settings.node.stale_seconds(live.settings.configuration),
        )
        self.health_pages = HealthPages(
            self.liveness.report, lambda: self.reconciler.own_node.is_eligible
        )
        self._node = node
        self._server = self._new_server(node, answering)
        self._oom_score = complete(settings.configuration).oom_score_adj or 0
        live.followers.append(self._take_over)
        self._sync = sync
        self._source = source
        self._queues = queues
        self._facts = facts
        self._grace = grace
        self._health = health
        self._notifier = Notifier()
        self._checkpoints = CheckpointFile(settings.files.state)
        self._checkpointing = Task(
            settings.periods.checkpoint,
            self._write_connections,
            "connections cannot be kept",
            "connections are kept again",
        )
        self._opened: list[Queue] = []
        self._loops: list[LoopThread] = []
        self._started = time.time()
        self.ending = Ending(grace.start)

    def run(self) -> None:
        """Serve until a signal comes. Raises `KbeNatError` when it cannot start, or a loop fails;
        the rules of an earlier daemon then stay.
        """
        controller = self.controller
        with self.ending.signals(), ExitStack() as stack:
            stack.enter_context(only_proxy())
            self._log_facts()
            collect_rarely()
            set_oom_score(self._oom_score)
            privileges.keep_net_admin(lends_net_raw=self._facts.lends_net_raw)
            stack.callback(self._notifier.close)
            stack.callback(self._health.close)
            stack.callback(self._server.close)
            self._server.start_health()
            stack.callback(self._source.close)
            subscribers = Subscribers(controller.engine, controller.watch_flows)
            verbs = Verbs(
                controller,
                subscribers,
                self._status,
                self._count_truncated,
                self.ending.hand_over,
            )
            stack.enter_context(ControlServer(self._settings.files.socket, verbs))
            if not self._await_objects():
                self._remove_rules(None, None, None)
                return
            self._opened += [_enter(stack, open_queue()) for open_queue in self._queues]
            stack.callback(self._opened.clear)
            restored = self._checkpoints.read(controller.engine)
            # Now, since it is better said at the start when they cannot be kept. Not before: the
            # file may be that of a daemon which answers at our socket.
            self._checkpointing.run()
            stack.callback(self._checkpointing.run)
            followers = stack.enter_context(controller.datapath.following(controller.engine))
            self._start_loops(stack)
            # The first that the stack undoes: rules go while the loops still give verdicts on what
            # is in the queues.
            stack.push(self._remove_rules)
            # Now, since the kernel has no connection tracking before a rule wants it.
            set_conntrack(controller, self._live.settings)
            self.liveness.threads = [*self._loops, *followers]
            # Packets are served already; a change of the objects would wait for this.
            settle()
            extent = self.reconciler.extent()
            facts = {**self.reconciler.sizes(), "connections": restored}
            connections = counted(restored, "connection")
            LOG.info("serving %s; %s taken over", extent, connections, extra={FACTS: facts})
            self._notifier.notify("READY=1", f"STATUS=serving {extent}")
            self._server.start_pages()
            if self._node.events is not None:
                self._node.events.start()
            self.rounds(subscribers).run(self._grace)
            LOG.info(
                "stopping; the rules %s", "stay" if self.ending.leaves_rules else "are removed"
            )
            self._notifier.notify("STOPPING=1")

    def render(self, warn: Callable[..., None]) -> str:
        """The rules that `run` would install first, as the input of each command, and the settings
        of the kernel that it would change; `warn` gets the lines that it would log. Raises
        `KbeNatError`.
        """
        try:
            deadline = time.monotonic() + RENDER_SECONDS
            while (update := self._source.read()) is None:
                if time.monotonic() > deadline:
                    raise KbeNatError(f"no objects have come: {self._waiting_for()}")
                self._source.wait(DELIVERY_SECONDS)
        finally:
            self._source.close()
        warn(*map(str, update.errors), *update.notes, *update.warnings)
        self.controller.apply(update.snapshot)
        warn(*self.controller.plan.notes)
        settings = conntrack_settings(self._settings.configuration)
        return self.controller.render() + self.controller.datapath.render_conntrack(settings)

    def _await_objects(self) -> bool:
        """Wait for the first state of the objects, with what an earlier daemon has left in the
        kernel untouched; False when a signal came before. Raises `KbeNatError`.
        """
        started = due = time.monotonic()
        while not self.ending.is_due:
            self.reconciler.read_first()
            if self.reconciler.has_objects:
                return True
            if time.monotonic() > started + PAGES_SECONDS:
                # To begin at once would hold up the objects, which mostly come within that time.
                self._server.start_pages()
            if time.monotonic() >= due:
                # systemd would take us for one that hangs.
                due = time.monotonic() + PATIENCE_SECONDS / 3
                self._notifier.notify(
                    f"STATUS=waiting for {self._waiting_for()}",
                    f"EXTEND_TIMEOUT_USEC={round(PATIENCE_SECONDS * 1e6)}",
                    "WATCHDOG=1",
                )
            self._source.wait(DELIVERY_SECONDS)
        return False

    def _waiting_for(self) -> str:
        return ", ".join(
            f"{state.resource} ({state.reason or state.phase})"
            for state in self._source.watches()
            if not state.is_complete
        )

    def _log_facts(self) -> None:
        facts = self._facts
        LOG.info("datapath %s: %s", facts.datapath, facts.reason)
        if not self.controller.datapath.counts_bytes():
            LOG.info("packets and bytes of connections are not counted: %s is 0", ACCOUNTING)
        if facts.other_proxies:
            LOG.warning(
                "kube-proxy's rules are here too, and decide about the same Services (--take-over,"
                " --service-proxy-name): %s",
                ", ".join(facts.other_proxies),
            )
        LOG.info(
            "rules by %s; queue %s by %s; seed %d",
            facts.rules,
            facts.queue_text,
            facts.driver,
            facts.seed,
        )

    def _start_loops(self, stack: ExitStack) -> None:
        """Installs the rules and starts the packet loops. A failure on the way takes the rules
        away, unless others were there before.
        """
        controller = self.controller
        with ExitStack() as failing:
            if not controller.datapath.is_present():
                failing.callback(controller.remove)
            if self._settings.datapath.takes_over:
                # As late as can be: until our rules stand, kube-proxy's bind more clients.
                count = inherit_affinity(controller.engine, controller.plan)
                LOG.info("%d clients keep the endpoint that kube-proxy bound them to", count)
            # The loops come later: the rules of an earlier daemon would misunderstand their
            # verdicts. And when the kernel removes a table, it drops what waits in queues.
            controller.install()
            for place, queue in enumerate(self._opened):
                cpus = self._settings.processors(self._facts.datapath, place)
                loop = LoopThread(controller.engine, queue, cpus)
                self._loops.append(stack.enter_context(loop))
            failing.pop_all()

    def _remove_rules(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unless they are to stay. A daemon that fails is started again: until then its rules
        serve, or at least let nothing pass untranslated.
        """
        if self.ending.leaves_rules or error is not None:
            return
        try:
            self.controller.remove()
        except RulesError as refusal:
            raise RulesError(
                f"the rules stay, kbe-nat proxy --cleanup takes them away: {refusal}"
            ) from None

    def rounds(self, subscribers: Subscribers) -> Rounds:
        """What the main thread does while the daemon serves."""
        follow = Task(
            POLL_SECONDS,
            self.reconciler.follow,
            "the objects cannot be followed",
            "the objects are followed again",
        )
        others = self._tasks(subscribers)
        return Rounds(follow, others, self._source, self.liveness, self._notifier, self.ending)

    def _tasks(self, subscribers: Subscribers) -> list[Task]:
        """The tasks of the main thread beside following the objects."""
        check, reconciler = self._settings.periods.check, self.reconciler
        return [
            Task(
                check,
                reconciler.repair,
                "rules are not as they should be, and cannot be put right",
                "the rules are as they should be",
            ),
            Task(
                DELIVERY_SECONDS,
                reconciler.refresh_node,
                "the node cannot be looked at, or its rules are not up to date",
                "the node can be looked at again",
            ),
            Task(
                check,
                reconciler.retry_health_checks,
                "health checks cannot be answered",
                "health checks are answered again",
            ),
            Task(
                check,
                self._server.retry,
                "health and metrics cannot be answered",
                "health and metrics are answered again",
            ),
            self._checkpointing,
            Task(
                POLL_SECONDS,
                reconciler.end_drains,
                "drains cannot be ended",
                "drains are ended again",
            ),
            Task(
                DELIVERY_SECONDS,
                subscribers.publish,
                "events cannot be told",
                "events are told again",
            ),
            Task(
                OBSERVATION_SECONDS,
                self.liveness.observe,
                "our health is not known",
                "our health is known again",
            ),
            self._configuration_task(),
            *self._choice_tasks(),
            Task(NEWS_SECONDS, reconciler.log_news, "what is new cannot be said", ""),
        ]

    def _choice_tasks(self) -> list[Task]:
        if not self._facts.datapath.offloads:
            return []
        default = self._settings.datapath.choice or Choice.ENGINE
        numbers = self._settings.queue_numbers(self._facts.datapath)
        choices = Choices(self.controller, default, numbers)
        return [
            Task(
                DELIVERY_SECONDS,
                choices.look,
                "the kernel cannot be made to choose, or to choose no more",
                "the kernel can be made to choose again",
            )
        ]

    def _configuration_task(self) -> Task:
        return Task(
            OBSERVATION_SECONDS,
            lambda: self._live.follow(self.controller),
            "the configuration stays as it was",
            "the configuration is followed again",
        )

    def _take_over(self, settings: Settings) -> None:
        """See `LiveSettings.followers`."""
        servers, file = settings.servers, settings.configuration
        self._server.move(servers.health_address(file), servers.metrics_address(file))
        score = complete(file).oom_score_adj or 0
        if score != self._oom_score:
            self._oom_score = score
            set_oom_score(score, logging.WARNING)

    def _write_connections(self) -> None:
        self._checkpoints.write(self.controller.engine)

    def _new_server(self, node: NodeFacts, thread: ThreadOnDemand) -> NodeServer:
        servers, file = self._settings.servers, self._settings.configuration
        pages = NodePages(self._live, node.flags, self.controller, self._status, self._new_metrics)
        return NodeServer(
            (servers.health_address(file), servers.metrics_address(file)),
            self.health_pages,
            pages.site,
            thread,
            fails_hard=servers.fails_hard(file),
        )

    def _count_truncated(self) -> int:
        """Packets that queues delivered in part."""
        return sum(queue.truncated for queue in self._opened)

    def _new_metrics(self) -> "NodeMetrics":
        from kbe_nat.daemon.node_metrics import NodeMetrics, Observed

        observed = Observed(
            controller=self.controller,
            reconciler=self.reconciler,
            liveness=self.liveness,
            health=self.health_pages,
            sync=self._sync,
            requests=self._node.requests,
            status=self._status,
            loops=self._loops,
            truncated=self._count_truncated,
            max_flows=self._settings.limits.max_flows,
        )
        return NodeMetrics(observed, lambda: self._live.settings.servers.backends)

    def _status(self) -> StatusRow:
        facts = self._facts
        return StatusRow(
            version=__version__,
            datapath=str(facts.datapath),
            datapath_reason=facts.reason,
            driver=str(facts.driver),
            queues=list(facts.queues),
            rules=facts.rules,
            seed=facts.seed,
            pid=os.getpid(),
            seconds=round(time.time() - self._started),
            generation=self.reconciler.generation,
            service_ports=len(self.controller.plan.ports),
            refused=list(self.reconciler.errors),
            rules_up_to_date=not self.controller.is_behind,
            drains=sorted(self.controller.drains),
            loops=[
                LoopRow(thread.loop.packets, thread.loop.batches, thread.loop.panics)
                for thread in self._loops
            ],
            files=[
                msgspec.convert(state, FileSourceRow, from_attributes=True)
                for state in self._source.files()
            ],
            watches=[
                msgspec.convert(state, WatchRow, from_attributes=True)
                for state in self._source.watches()
            ],
        )


def _enter(stack: ExitStack, queue: Queue) -> Queue:
    stack.enter_context(queue)
    return queue


LOG: Final = logging.getLogger("kbe_nat.daemon")
POLL_SECONDS: Final = 0.5
DELIVERY_SECONDS: Final = 0.1
RENDER_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 60.0
"""For which systemd waits for a further sign of life while no objects have come."""
NEWS_SECONDS: Final = 1.0
OBSERVATION_SECONDS: Final = 1.0
PAGES_SECONDS: Final = 2.0
"""Without objects for so long, the daemon shows on its pages what it waits for."""
