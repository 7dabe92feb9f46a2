"""Events for the operators of a cluster, until the API server has them.

Theory of operation. The main thread records, and the reader's event loop posts, so neither packets
nor objects wait for an answer. Two bounds hold whatever happens to the objects:

1. Of one object and reason one Event a minute is taken. The table of what was taken forgets entries
   that are a minute old, and takes nothing new while it is full of younger ones.
2. So many Events wait at most. Those that come then are dropped.

An Event that is dropped is counted, never tried again: the log and the metrics have it too.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kbe_nat.metrics.rest import EventOutcome, RestMetrics
from kbe_nat.sources.objects import ObjectKey


@dataclass(frozen=True, slots=True)
class Event:
    """A line about an object."""

    regarding: ObjectKey
    reason: str
    """One word for programs, such as AddressClaimed."""
    action: str
    """What was done or tried, one word."""
    note: str = ""
    is_warning: bool = True


class EventQueue:
    """Events that wait to be posted. For any thread."""

    def __init__(
        self, metrics: RestMetrics | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Events that are dropped are counted in `metrics`; `clock` tells seconds."""
        self.metrics = metrics or RestMetrics()
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()
        self._recent: dict[tuple[ObjectKey, str], float] = {}
        """When an Event of an object and a reason was taken last, the oldest first."""
        self._wake: Callable[[], object] | None = None

    def record(self, event: Event) -> None:
        """Let an Event be posted, unless a bound is reached. Cost: constant on average."""
        with self._lock:
            now, key = self._clock(), (event.regarding, event.reason)
            self._forget(now - PERIOD_SECONDS)
            if key in self._recent or len(self._recent) >= MAX_RECENT:
                self.metrics.count_event(EventOutcome.LIMITED)
                return
            if len(self._waiting) >= MAX_WAITING:
                self.metrics.count_event(EventOutcome.OVERFLOWED)
                return
            self._recent[key] = now
            self._waiting.append(event)
            if self._wake is not None:
                self._wake()

    def take(self) -> Event | None:
        """The oldest Event that waits, which does so no more."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def listen(self, wake: Callable[[], object] | None) -> None:
        """Call `wake`, which must not wait, for each Event from now on; None: call nothing."""
        with self._lock:
            self._wake = wake

    def _forget(self, before: float) -> None:
        while self._recent:
            oldest = next(iter(self._recent))
            if self._recent[oldest] > before:
                return
            del self._recent[oldest]


PERIOD_SECONDS: Final = 60.0
MAX_RECENT: Final = 4096
MAX_WAITING: Final = 256
