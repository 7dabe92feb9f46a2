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
from kbe_nat.control import Controller
from kbe_nat.daemon import notify, privileges
from kbe_nat.daemon.answers import Answers
from kbe_nat.daemon.checkpoints import CheckpointFile
from kbe_nat.daemon.conversation import ControlServer
from kbe_nat.daemon.exclusion import only_proxy
from kbe_nat.daemon.watchers import Watchers
from kbe_nat.datapath.native import NativeQueue
from kbe_nat.datapath.netfilterqueue import NetfilterQueue
from kbe_nat.datapath.thread import LoopThread, NativeThread
from kbe_nat.errors import KbeNatError, RulesError
from kbe_nat.kubeproxy.health import HealthServers
from kbe_nat.sources import Reading, Source

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


class Proxy:
    """Serves what a source says, until SIGTERM or SIGINT. SIGUSR2 ends it too, but leaves its rules to a daemon
    that takes its place.
    """

    def __init__(
        self,
        source: Source,
        controller: Controller,
        queues: Sequence[Callable[[], NativeQueue | NetfilterQueue]],
        settings: Settings,
        about: dict[str, Any],
    ) -> None:
        """`queues` open one queue each; `about` is said to who asks for the status."""
        self._source = source
        self._controller = controller
        self._queues = queues
        self._settings = settings
        self._about = about
        self._checkpoints = CheckpointFile(settings.state)
        self._health = HealthServers()
        self._loops: list[LoopThread] = []
        self._threads: list[NativeThread] = []
        """The loops, and who else must not stop."""
        self._refused: tuple[str, ...] = ()
        self._trouble = ""
        self._generation = 0
        self._started = time.time()
        self._is_ending = False
        self._leaves_rules = False

    @property
    def engine(self) -> Engine:
        """The engine of all loops."""
        return self._controller.engine

    def run(self) -> None:
        """Serve. Raises `KbeNatError` when it cannot start, or a loop fails; what served before then stays."""
        with self._signals(), ExitStack() as stack:
            stack.enter_context(only_proxy())
            privileges.keep_net_admin()
            stack.callback(self._health.close)
            self._read_first()
            watchers = Watchers(self.engine)
            queues = [_opened(stack, open_queue()) for open_queue in self._queues]
            restored = self._checkpoints.read(self.engine)
            answers = Answers(self._controller, watchers, self._status)
            stack.enter_context(ControlServer(self._settings.socket, answers))
            stack.callback(self._keep_connections)
            follower = stack.enter_context(self._controller.datapath.following(self.engine))
            with ExitStack() as failing:
                if not self._controller.datapath.is_present():
                    failing.callback(self._controller.remove)
                # The loops come later: what a daemon before us has left would misunderstand their verdicts. And
                # when the kernel takes a table away, it drops what waits in queues.
                self._controller.install()
                for number, queue in enumerate(queues):
                    cpus = self._settings.cpus
                    loop = LoopThread(self.engine, queue, cpus[number % len(cpus)] if cpus else None)
                    self._loops.append(stack.enter_context(loop))
                failing.pop_all()
            # Taken away first of all, while the loops still give verdicts on what is in the queues.
            stack.push(self._give_up)
            self._threads = [*self._loops, *([follower] if follower else [])]
            LOG.info("serving %s; %d connections taken over", self._served(), restored)
            notify.notify("READY=1", f"STATUS=serving {self._served()}")
            # The objects of a large cluster stay: nobody need look through them again and again.
            gc.collect()
            gc.freeze()
            self._watch(watchers)
            LOG.info("ending; the rules %s", "stay" if self._leaves_rules else "go")
            notify.notify("STOPPING=1")

    def _give_up(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Who fails is started again: until then its rules serve, or at least let nothing pass untranslated."""
        if not self._leaves_rules and error is None:
            self._controller.remove()

    def _watch(self, watchers: Watchers) -> None:
        patience = notify.watchdog_seconds()
        tasks = [
            _Task(POLL_SECONDS, self._follow),
            _Task(self._settings.check_seconds, self._repair),
            _Task(self._settings.check_seconds, self._look_around),
            _Task(self._settings.checkpoint_seconds, self._keep_connections),
            _Task(POLL_SECONDS, self._end_drains),
            _Task(DELIVERY_SECONDS, watchers.deliver),
            _Task(patience / 3 if patience else None, self._say_alive),
        ]
        while not self._is_ending:
            failed = next((own for own in self._threads if own.ended.is_set()), None)
            if failed is not None:
                if failed.failure:
                    raise failed.failure
                return
            now = time.monotonic()
            for task in tasks:
                task.run_if_due(now)
            if self._source.wait(DELIVERY_SECONDS):
                self._follow()

    def _read_first(self) -> None:
        """Raises `KbeNatError`: with nothing to serve it is better not to start."""
        reading = self._source.read()
        if reading is not None:
            self._take(reading)

    def _follow(self) -> None:
        """Takes over what has changed; what cannot be read leaves everything as it is."""
        try:
            reading = self._source.read()
            if reading is not None:
                self._take(reading)
        except KbeNatError as error:
            self._complain((str(error),), KEPT)

    def _take(self, reading: Reading) -> None:
        self._complain(tuple(map(str, reading.refused)), LEFT_OUT)
        for note in reading.notes:
            LOG.info("%s", note)
        started, is_served = time.monotonic(), True
        try:
            self._controller.apply(reading.snapshot)
        except RulesError as error:
            LOG.error("rules are not up to date: %s; what was served before is still served", error)
            is_served = False
        for note in self._controller.plan.notes:
            LOG.warning("%s", note)
        self._health.follow(self._controller.plan)
        self._generation = reading.snapshot.generation
        if is_served:
            span = (time.monotonic() - started) * 1000
            LOG.info("generation %d: %s, taken over in %.0f ms", self._generation, self._served(), span)

    def _complain(self, refused: tuple[str, ...], consequence: str) -> None:
        """Says once what is wrong, and once that it is right again."""
        for line in refused:
            if line not in self._refused:
                LOG.error("%s; %s", line, consequence)
        if self._refused and not refused:
            LOG.info("the objects are sound again")
        self._refused = refused

    def _repair(self) -> None:
        try:
            missing = self._controller.repair()
        except RulesError as error:
            LOG.error("rules are not as they should be, and cannot be put right: %s", error)
            return
        if missing:
            LOG.warning("somebody has removed rules; they are back: %s", ", ".join(missing))

    def _look_around(self) -> None:
        try:
            if self._controller.refresh():
                self._health.follow(self._controller.plan)
                LOG.info("the node has changed: %s", self._served())
            self._trouble = ""
        except KbeNatError as error:
            if str(error) != self._trouble:
                LOG.error("the node cannot be looked at, or its rules are not up to date: %s", error)
            self._trouble = str(error)

    def _end_drains(self) -> None:
        for backend, flows in self._controller.end_drains().items():
            LOG.info("%s is gone or drained: %d connections were ended", backend, flows)

    def _keep_connections(self) -> None:
        try:
            self._checkpoints.write(self.engine)
        except OSError as error:
            LOG.error("connections cannot be kept: %s", error)

    def _say_alive(self) -> None:
        """Only while every thread turns: a daemon that hangs must be ended by who watches it."""
        if all(own.is_turning(TURN_SECONDS) for own in self._threads):
            notify.notify("WATCHDOG=1")

    def _served(self) -> str:
        ports = self._controller.plan.ports
        backends = sum(len(port.cluster) for port in ports)
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
                {"packets": own.loop.packets, "batches": own.loop.batches, "panics": own.loop.panics}
                for own in self._loops
            ],
        }

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def end(number: int, frame: FrameType | None) -> None:
            self._leaves_rules = number == signal.SIGUSR2
            self._is_ending = True

        ends = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
        before = {number: signal.signal(number, end) for number in ends}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(slots=True)
class _Task:
    """Something that is done now and then."""

    seconds: float | None
    """None: never."""
    action: Callable[[], None]
    due: float = 0.0

    def run_if_due(self, now: float) -> None:
        if self.seconds is not None and now >= self.due:
            self.due = now + self.seconds
            self.action()


def _opened(stack: ExitStack, queue: NativeQueue | NetfilterQueue) -> NativeQueue | NetfilterQueue:
    stack.enter_context(queue)
    return queue


KEPT: Final = "what was served before is still served"
LEFT_OUT: Final = "it stays as it was, or is left out"
POLL_SECONDS: Final = 0.5
DELIVERY_SECONDS: Final = 0.1
TURN_SECONDS: Final = 5.0
"""A loop that has not turned for so long hangs."""
