"""Native work that goes on in a thread of its own: packet loops, and the watch over the kernel's
flows.
"""

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, Self

from kbe_nat._native import Engine, KernelQueue, Loop
from kbe_nat.drivers.queue import PacketQueue
from kbe_nat.errors import ConntrackError


class Turning(Protocol):
    """Work that goes round until it is stopped."""

    def run(self) -> None:
        """Work, in the calling thread."""
        ...

    def stop(self) -> None:
        """End that soon."""
        ...

    @property
    def turns(self) -> int:
        """How often it went round."""
        ...


class NativeThread:
    """Work that goes on for as long as the block runs."""

    def __init__(self, work: Turning, name: str, cpus: frozenset[int] = frozenset()) -> None:
        """The thread runs on these processors only; without any it runs on all."""
        self.failure: BaseException | None = None
        """Why the work ended by itself."""
        self.ended = threading.Event()
        self._work = work
        self._cpus = cpus
        self._turns = (0, time.monotonic())
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        """Its name is what `top -H` and `ps -L` show."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raises the failure of the work, unless another exception is on its way. Work that hangs
        is left behind; it ends with the process.
        """
        self._work.stop()
        self._thread.join(STOP_SECONDS)
        if self.failure and not error:
            raise self.failure

    def is_turning(self, seconds: float) -> bool:
        """Whether the work has gone round within so many seconds, as far as earlier calls have
        seen.
        """
        before, since = self._turns
        now = time.monotonic()
        if self._work.turns != before:
            self._turns = (self._work.turns, now)
            return True
        return now - since < seconds

    def _run(self) -> None:
        try:
            with suppress(OSError):
                COMM.write_text(self._thread.name)
            if self._cpus:
                os.sched_setaffinity(0, self._cpus)
            self._work.run()
        except BaseException as error:
            self.failure = error
        finally:
            self.ended.set()


class Persistent:
    """Work that begins anew when the kernel lacks something for it, such as memory. Each reason is
    logged once.
    """

    def __init__(self, work: Turning) -> None:
        self._work = work
        self._is_stopped = threading.Event()

    def run(self) -> None:
        """See `Turning`."""
        reasons = set()
        while not self._is_stopped.is_set():
            try:
                self._work.run()
                return
            except ConntrackError as error:
                if str(error) not in reasons:
                    LOG.error("%s; it is tried again every %.0f s", error, AGAIN_SECONDS)
                reasons.add(str(error))
            self._is_stopped.wait(AGAIN_SECONDS)

    def stop(self) -> None:
        """See `Turning`."""
        self._is_stopped.set()
        self._work.stop()

    @property
    def turns(self) -> int:
        """See `Turning`."""
        return self._work.turns


class LoopThread(NativeThread):
    """Packets of `queue` go through `engine` for as long as the block runs."""

    def __init__(
        self,
        engine: Engine,
        queue: PacketQueue | KernelQueue,
        cpus: frozenset[int] = frozenset(),
    ) -> None:
        """The thread runs on these processors only; without any it runs on all."""
        self.loop = Loop(engine, queue)
        super().__init__(self.loop, "packet loop", cpus)


LOG: Final = logging.getLogger("kbe_nat.daemon")
COMM: Final = Path("/proc/thread-self/comm")
"""The name of this thread, of which the kernel keeps 15 characters."""
STOP_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 1.0
