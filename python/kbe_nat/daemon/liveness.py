"""Whether the daemon is alive, and whether it is healthy.

Alive means that every thread turns: the watchdog of systemd hears of nothing else, and ends a
daemon that hangs. Healthy is kube-proxy's word, told to load balancers: it is alive, its main
thread turns too, and the kernel has had the newest objects within twice kube-proxy's sync period.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from kbe_nat.drivers.thread import NativeThread
from kbe_nat.server.health_page import HealthReport

BEHIND_SECONDS: Final = 60.0
"""Twice kube-proxy's default sync period."""


class Liveness:
    """The threads of a daemon, and since when the kernel lacks what the objects want."""

    def __init__(
        self,
        is_behind: Callable[[], bool],
        updated: Callable[[], int] = lambda: 0,
        stale_seconds: Callable[[], float] = lambda: BEHIND_SECONDS,
    ) -> None:
        """`is_behind` says whether the kernel lacks it now; `updated` is when the kernel took over
        a change last, in nanoseconds since 1970. The kernel may be behind for `stale_seconds`,
        which may change.
        """
        self.threads: Sequence[NativeThread] = ()
        """The threads that must not stop."""
        self._is_behind = is_behind
        self._updated = updated
        self._stale_seconds = stale_seconds
        self._behind_since: float | None = None
        self._is_turning = True
        self._observed = time.monotonic()

    def is_turning(self) -> bool:
        """Whether every thread has gone round lately. Cost: a comparison per thread."""
        return all(thread.is_turning(TURN_SECONDS) for thread in self.threads)

    def failure(self) -> NativeThread | None:
        """A thread that has ended by itself."""
        return next((thread for thread in self.threads if thread.ended.is_set()), None)

    def observe(self) -> None:
        """Note how things stand; a task of the main thread, whose own turns show by it."""
        self._observed = time.monotonic()
        self._is_turning = self.is_turning()
        self._behind_since = (self._behind_since or self._observed) if self._is_behind() else None

    def is_healthy(self) -> bool:
        """See the module. May be called from any thread."""
        now = time.monotonic()
        waiting = max(now - (self._behind_since or now), now - self._observed)
        return self._is_turning and waiting < self._stale_seconds()

    def report(self) -> HealthReport:
        """The same with times, for `/healthz`. May be called from any thread."""
        return HealthReport(self.is_healthy(), self._updated(), time.time_ns())


TURN_SECONDS: Final = 5.0
"""A loop that has not turned for so long hangs."""
