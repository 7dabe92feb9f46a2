"""A loop in a thread of its own."""

import os
import threading
import time
from types import TracebackType
from typing import Self

from kbe_nat._native import Engine, KernelQueue, Loop
from kbe_nat.datapath import PacketQueue


class LoopThread:
    """Packets of `queue` go through `engine` for as long as the block runs."""

    def __init__(self, engine: Engine, queue: PacketQueue | KernelQueue, cpu: int | None = None) -> None:
        """With `cpu` the thread runs on that processor only."""
        self.loop = Loop(engine, queue)
        self.failure: BaseException | None = None
        """Why the loop ended by itself."""
        self.ended = threading.Event()
        self._cpu = cpu
        self._turns = (0, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="packet loop", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises what the loop has failed with, unless something else is being raised."""
        self.loop.stop()
        self._thread.join()
        if self.failure and not error:
            raise self.failure

    def is_turning(self, seconds: float) -> bool:
        """Whether the loop has gone round within so many seconds, as far as earlier calls have seen."""
        before, since = self._turns
        now = time.monotonic()
        if self.loop.turns != before:
            self._turns = (self.loop.turns, now)
            return True
        return now - since < seconds

    def _run(self) -> None:
        try:
            if self._cpu is not None:
                os.sched_setaffinity(0, {self._cpu})
            self.loop.run()
        except BaseException as error:
            self.failure = error
        finally:
            self.ended.set()
