"""The life of the node proxy: start, watch, repair, and end."""

import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from kbe_nat._native import Engine
from kbe_nat.commands import Haste
from kbe_nat.control.controller import Controller
from kbe_nat.daemon import privileges
from kbe_nat.daemon.checkpoints import CheckpointFile
from kbe_nat.daemon.control_socket import ControlServer
from kbe_nat.daemon.logs import Standing
from kbe_nat.daemon.singleton import only_proxy
from kbe_nat.daemon.subscribers import Watchers
from kbe_nat.daemon.systemd import Notifier, watchdog_seconds
from kbe_nat.daemon.tasks import Task, described
from kbe_nat.daemon.verbs import Answers
from kbe_nat.drivers.native import NativeQueue
from kbe_nat.drivers.netfilterqueue import NetfilterQueue
from kbe_nat.drivers.thread import LoopThread, NativeThread
from kbe_nat.errors import KbeNatError, RulesError
from kbe_nat.server.health_check_ports import HealthCheckPorts
from kbe_nat.sources.source import Source, SourceUpdate

LOG: Final = logging.getLogger("kbe_nat.daemon")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator decides about the daemon itself."""

    socket: Path
    state: Path | None
    """Where connections are kept for the next start; None: nowhere."""
    cpus: tuple[int, ...] = ()
    """Processors for the packet loops, one each in turn; empty: any."""
    check_seconds: float = 5.0
    """How often the rules are looked after."""
    checkpoint_seconds: float = 10.0
    """How often connections are written to the file."""
    is_raw_lent: bool = True
    """Whether commands have CAP_NET_RAW, see `privileges`."""


class Proxy:
    """Serves what a source says, until SIGTERM, SIGINT or SIGHUP. SIGUSR2 ends it too, but leaves
    its rules to a daemon that takes its place.
    """

    def __init__(
        self,
        source: Source,
        controller: Controller,
        queues: Sequence[Callable[[], NativeQueue | NetfilterQueue]],
        settings: Settings,
        about: dict[str, Any],
        haste: Haste,
    ) -> None:
        """`queues` open one queue each; `about` is said to who asks for the status; `haste` is that
        of the commands which the controller runs.
        """
        self._source = source
        self._controller = controller
        self._queues = queues
        self._settings = settings
        self._about = about
        self._haste = haste
        self._notifier = Notifier()
        self._keeping = Task(
            settings.checkpoint_seconds,
            self._keep_connections,
            "connections cannot be kept",
            "connections are kept again",
        )
        self._checkpoints = CheckpointFile(settings.state)
        self._health = HealthCheckPorts(self._is_healthy)
        self._loops: list[LoopThread] = []
        self._threads: list[NativeThread] = []
        """The loops, and who else must not stop."""
        self._refused: tuple[str, ...] = ()
        self._refusals = Standing(logging.ERROR, "the objects are sound again")
        self._notes = Standing(logging.INFO)
        self._warnings = Standing(logging.WARNING)
        self._plan_notes = Standing(logging.WARNING)
        self._behind = Standing(logging.ERROR, "the rules are up to date")
        self._pending: SourceUpdate | None = None
        """Read, and not yet planned."""
        self._generation = 0
        self._unsaid = ""
        """What has been taken over since it was said last."""
        self._started = time.time()
        self._is_changed = False
        self._is_turning = True
        self._behind_since: float | None = None
        self._looked = time.monotonic()
        """When we looked last whether all is well."""
        self._is_ending = False
        self._leaves_rules = False

    @property
    def engine(self) -> Engine:
        """The engine of all loops."""
        return self._controller.engine

    def run(self) -> None:
        """Serve. Raises `KbeNatError` when it cannot start, or a loop fails; what served before
        then stays.
        """
        with self._signals(), ExitStack() as stack:
            stack.enter_context(only_proxy())
            privileges.keep_net_admin(is_raw_lent=self._settings.is_raw_lent)
            stack.callback(self._notifier.close)
            stack.callback(self._health.close)
            self._read_first()
            watchers = Watchers(self.engine)
            queues = [_opened(stack, open_queue()) for open_queue in self._queues]
            restored = self._checkpoints.read(self.engine)
            answers = Answers(
                self._controller,
                watchers,
                self._status,
                lambda: sum(own.truncated for own in queues),
            )
            stack.enter_context(ControlServer(self._settings.socket, answers))
            # Now, since it is better said at the start when they cannot be kept. Not before: the
            # file may be that of a daemon which answers at our socket.
            self._keeping.run()
            stack.callback(self._keeping.run)
            follower = stack.enter_context(self._controller.datapath.following(self.engine))
            with ExitStack() as failing:
                if not self._controller.datapath.is_present():
                    failing.callback(self._controller.remove)
                # The loops come later: what a daemon before us has left would misunderstand their
                # verdicts. And when the kernel takes a table away, it drops what waits in queues.
                self._controller.install()
                for number, queue in enumerate(queues):
                    cpus = self._settings.cpus
                    loop = LoopThread(
                        self.engine, queue, cpus[number % len(cpus)] if cpus else None
                    )
                    self._loops.append(stack.enter_context(loop))
                failing.pop_all()
            # Taken away first of all, while the loops still give verdicts on what is in the queues.
            stack.push(self._give_up)
            self._threads = [*self._loops, *([follower] if follower else [])]
            LOG.info("serving %s; %d connections taken over", self._served(), restored)
            self._notifier.say("READY=1", f"STATUS=serving {self._served()}")
            # The objects of a large cluster stay: nobody need look through them again and again.
            gc.collect()
            gc.freeze()
            self._watch(watchers)
            LOG.info("ending; the rules %s", "stay" if self._leaves_rules else "go")
            self._notifier.say("STOPPING=1")

    def _give_up(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Who fails is started again: until then its rules serve, or at least let nothing pass
        untranslated.
        """
        if self._leaves_rules or error is not None:
            return
        try:
            self._controller.remove()
        except RulesError as refused:
            raise RulesError(
                f"the rules stay, kbe-nat proxy --cleanup takes them away: {refused}"
            ) from None

    def _watch(self, watchers: Watchers) -> None:
        follow, *others = self._tasks(watchers)
        alive = Task(
            self._alive_seconds(),
            self._say_alive,
            "systemd cannot be told",
            "systemd is told again",
        )
        # Commands have a time limit: one that takes long is no reason to be ended.
        self._haste.meanwhile = lambda: alive.run_if_due(time.monotonic())
        wait = Task(
            DELIVERY_SECONDS, self._wait, "changes are not heard of", "changes are heard of again"
        )
        while not self._is_ending:
            failed = next((own for own in self._threads if own.ended.is_set()), None)
            if failed is not None:
                if failed.failure:
                    raise failed.failure
                return
            for task in (follow, *others):
                # Each of them may take as long as a command that hangs.
                alive.run_if_due(time.monotonic())
                task.run_if_due(time.monotonic())
            if not wait.run():
                time.sleep(DELIVERY_SECONDS)
            elif self._is_changed:
                follow.run()

    def _tasks(self, watchers: Watchers) -> list[Task]:
        """What is done again and again, first of all following the objects."""
        check = self._settings.check_seconds
        return [
            Task(
                POLL_SECONDS,
                self._follow,
                "the objects cannot be followed",
                "the objects are followed again",
            ),
            Task(
                check,
                self._repair,
                "rules are not as they should be, and cannot be put right",
                "the rules are as they should be",
            ),
            Task(
                DELIVERY_SECONDS,
                self._look_around,
                "the node cannot be looked at, or its rules are not up to date",
                "the node can be looked at again",
            ),
            Task(
                check,
                self._answer_checks,
                "health checks cannot be answered",
                "health checks are answered again",
            ),
            self._keeping,
            Task(
                POLL_SECONDS, self._end_drains, "drains cannot be ended", "drains are ended again"
            ),
            Task(
                DELIVERY_SECONDS, watchers.deliver, "events cannot be told", "events are told again"
            ),
            Task(
                LOOK_SECONDS,
                self._look_inside,
                "our health is not known",
                "our health is known again",
            ),
            Task(SAY_SECONDS, self._say_news, "what is new cannot be said", ""),
        ]

    def _alive_seconds(self) -> float | None:
        patience = watchdog_seconds()
        return patience / ALIVE_PARTS if patience else None

    def _wait(self) -> None:
        self._is_changed = self._source.wait(DELIVERY_SECONDS)

    def _read_first(self) -> None:
        """Raises `KbeNatError`: with nothing to serve it is better not to start."""
        try:
            update = self._source.read()
            if update is not None:
                self._take(update)
        except KbeNatError:
            raise
        except Exception as error:
            raise KbeNatError(f"the objects cannot be served: {described(error)}") from error

    def _follow(self) -> None:
        """Takes over what has changed; what cannot be read leaves everything as it is."""
        try:
            update = self._source.read()
        except KbeNatError as error:
            self._complain((str(error),), KEPT)
        else:
            self._pending = update.covering(self._pending) if update else self._pending
        if self._pending is not None:
            self._take(self._pending)
            self._pending = None

    def _take(self, update: SourceUpdate) -> None:
        self._complain(tuple(map(str, update.errors)), LEFT_OUT)
        self._notes.follow(update.notes)
        self._warnings.follow(update.warnings)
        started = time.monotonic()
        try:
            self._controller.apply(update.snapshot)
        except RulesError as error:
            self._behind.follow([f"rules are not up to date: {error}; {KEPT}"])
        else:
            self._behind.follow([])
            span = (time.monotonic() - started) * 1000
            number = update.snapshot.generation
            self._unsaid = f"generation {number}: {self._served()}, taken over in {span:.0f} ms"
        self._plan_notes.follow(self._controller.plan.notes)
        self._generation = update.snapshot.generation
        self._health.follow(self._controller.plan)

    def _say_news(self) -> None:
        """The newest only: objects may change many times a second."""
        if self._unsaid:
            LOG.info("%s", self._unsaid)
            self._unsaid = ""

    def _complain(self, refused: tuple[str, ...], consequence: str) -> None:
        """Says once what is wrong, and once that it is right again."""
        self._refusals.follow(f"{line}; {consequence}" for line in refused)
        self._refused = refused

    def _repair(self) -> None:
        missing = self._controller.repair()
        self._behind.follow([])
        if missing:
            LOG.warning(
                "somebody has removed rules or changed them; they are back: %s", ", ".join(missing)
            )

    def _look_around(self) -> None:
        if self._controller.refresh():
            self._health.follow(self._controller.plan)
            LOG.info("the node has changed: %s", self._served())

    def _answer_checks(self) -> None:
        """Tries again what could not be listened on."""
        self._health.follow(self._controller.plan)

    def _end_drains(self) -> None:
        for backend, flows in self._controller.end_drains().items():
            LOG.info("%s is gone or drained: %d connections were ended", backend, flows)

    def _keep_connections(self) -> None:
        self._checkpoints.write(self.engine)

    def _say_alive(self) -> None:
        """Only while every thread turns: a daemon that hangs must be ended by who watches it."""
        if all(own.is_turning(TURN_SECONDS) for own in self._threads):
            self._notifier.say("WATCHDOG=1")

    def _look_inside(self) -> None:
        """Notes for how long the kernel has not had what the objects want."""
        self._looked = time.monotonic()
        self._is_turning = all(own.is_turning(TURN_SECONDS) for own in self._threads)
        is_behind = self._controller.is_behind or self._pending is not None
        self._behind_since = (self._behind_since or self._looked) if is_behind else None

    def _is_healthy(self) -> bool:
        """As kube-proxy means it: no change waits longer than twice its sync period, and we are
        there at all.
        """
        now = time.monotonic()
        waiting = max(now - (self._behind_since or now), now - self._looked)
        return self._is_turning and waiting < BEHIND_SECONDS

    def _served(self) -> str:
        ports = self._controller.plan.ports
        backends = sum(len(port.cluster_backends) for port in ports)
        return f"{len(ports)} service ports with {backends} endpoints"

    def _status(self) -> dict[str, Any]:
        return self._about | {
            "pid": os.getpid(),
            "seconds": round(time.time() - self._started),
            "generation": self._generation,
            "service_ports": len(self._controller.plan.ports),
            "refused": list(self._refused),
            "rules_up_to_date": not self._controller.is_behind,
            "drains": sorted(self._controller.drains),
            "loops": [
                {
                    "packets": own.loop.packets,
                    "batches": own.loop.batches,
                    "panics": own.loop.panics,
                }
                for own in self._loops
            ],
        }

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def end(number: int, frame: FrameType | None) -> None:
            self._leaves_rules = number == signal.SIGUSR2
            self._is_ending = True
            self._haste.begin()

        ends = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            # The terminal closes; under nohup(1) that is no matter.
            ends.append(signal.SIGHUP)
        before = {number: signal.signal(number, end) for number in ends}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _opened(stack: ExitStack, queue: NativeQueue | NetfilterQueue) -> NativeQueue | NetfilterQueue:
    stack.enter_context(queue)
    return queue


KEPT: Final = "what was served before is still served"
LEFT_OUT: Final = "it stays as it was, or is left out"
POLL_SECONDS: Final = 0.5
DELIVERY_SECONDS: Final = 0.1
SAY_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 1.0
BEHIND_SECONDS: Final = 60.0
ALIVE_PARTS: Final = 10
"""So many times within its patience the watchdog is told that we are alive, if nothing takes
longer.
"""
TURN_SECONDS: Final = 5.0
"""A loop that has not turned for so long hangs."""
