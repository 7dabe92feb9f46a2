"""Events for the operators of a cluster, until the API server has them.

Theory of operation. The main thread records, and the reader's event loop posts, so neither packets
nor objects wait for an answer. Three bounds hold whatever happens to the objects:

1. Of one object and reason one Event a minute is taken. The table of what was taken forgets entries
   that are a minute old, and takes nothing new while it is full of younger ones.
2. So many Events wait at most. Those that come then are dropped.
3. All nodes of a cluster together post `CLUSTER_RATE` Events a second. What is wrong with a Service
   is wrong at each of thousands of nodes in the same moment. No node knows how many others run, but
   the EndpointSlices name nodes (`spread`), and their number stretches the time between two Events.

An Event that any node can post is *shared*. Shared ones are posted in random order, so that nodes
begin with different ones; the one that comes first counts for all (see `event_posts`). A shared one
that has waited for `SHARED_SECONDS` is left to the others. An Event of this node alone comes before
the shared ones; a warning waits for a random part of the stretched time, since many nodes may have
reason for it at once.

An Event that is dropped is counted, never tried again: the log and the metrics have it too.
"""

import heapq
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Final, NamedTuple

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
    is_shared: bool = False
    """Every node of the cluster has the same one to post."""


class Recorded(NamedTuple):
    """An Event that waits."""

    event: Event
    moment: int
    """When it was recorded, in nanoseconds since 1970."""


class EventQueue:
    """Events that wait to be posted. For any thread."""

    def __init__(
        self,
        metrics: RestMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        """Events that are dropped are counted in `metrics`; `clock` tells seconds; `random` decides
        delays and the order of shared Events.
        """
        self.metrics = metrics or RestMetrics()
        self._clock = clock
        self._random = random or Random()
        self._lock = threading.Lock()
        self._single: list[tuple[float, int, Recorded]] = []
        """A heap of this node's Events by when they are due."""
        self._shared: dict[Event, tuple[float, Recorded]] = {}
        """Shared Events with when they came, the oldest first."""
        self._shared_due = 0.0
        """When the next shared one may be posted."""
        self._ranks = count()
        self._stretch = 0.0
        """Seconds in which all nodes together post one Event each."""
        self._recent: dict[tuple[ObjectKey, str], float] = {}
        """When an Event of an object and a reason was taken last, the oldest first."""
        self._wake: Callable[[], object] | None = None

    def spread(self, nodes: int) -> None:
        """So many nodes are known to run."""
        with self._lock:
            self._stretch = nodes / CLUSTER_RATE if nodes > 1 else 0.0

    def record(self, event: Event) -> None:
        """Let an Event be posted, unless a bound is reached. Cost: logarithmic in what waits."""
        with self._lock:
            now, key = self._clock(), (event.regarding, event.reason)
            self._forget(now)
            if key in self._recent or len(self._recent) >= MAX_RECENT:
                self.metrics.count_event(EventOutcome.LIMITED)
                return
            if len(self._single) + len(self._shared) >= MAX_WAITING:
                self.metrics.count_event(EventOutcome.OVERFLOWED)
                return
            self._recent[key] = now
            recorded, delay = Recorded(event, time.time_ns()), self._random.random() * self._stretch
            if event.is_shared:
                self._shared_due = max(self._shared_due, now + delay)
                self._shared[event] = now, recorded
            else:
                due = now + delay if event.is_warning else now
                heapq.heappush(self._single, (due, next(self._ranks), recorded))
            if self._wake is not None:
                self._wake()

    def withdraw(self, event: Event) -> None:
        """A shared Event holds no more, and need not be posted if it waits still."""
        with self._lock:
            self._shared.pop(event, None)

    def take(self) -> Recorded | None:
        """An Event that is due, which waits no more."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            if self._single and self._single[0][0] <= now:
                return heapq.heappop(self._single)[2]
            if not self._shared or now < self._shared_due:
                return None
            self._shared_due = now + self._stretch * self._random.uniform(0.5, 1.5)
            return self._shared.pop(self._random.choice(tuple(self._shared)))[1]

    def delay(self) -> float | None:
        """Seconds until an Event is due; None while none waits."""
        with self._lock:
            dues = [due for due, *_ in self._single[:1]]
            if self._shared:
                dues.append(self._shared_due)
            return max(0.0, min(dues) - self._clock()) if dues else None

    def listen(self, wake: Callable[[], object] | None) -> None:
        """Call `wake`, which must not wait, for each Event from now on; None: call nothing."""
        with self._lock:
            self._wake = wake

    def _forget(self, now: float) -> None:
        """Drop what is too old."""
        while self._recent:
            oldest = next(iter(self._recent))
            if self._recent[oldest] > now - PERIOD_SECONDS:
                break
            del self._recent[oldest]
        while self._shared:
            oldest_event = next(iter(self._shared))
            if self._shared[oldest_event][0] > now - SHARED_SECONDS:
                break
            del self._shared[oldest_event]
            self.metrics.count_event(EventOutcome.LEFT)


PERIOD_SECONDS: Final = 60.0
SHARED_SECONDS: Final = 600.0
CLUSTER_RATE: Final = 20.0
"""Events a second by all nodes. The Leases of 5,000 nodes alone are 500 writes a second."""
MAX_RECENT: Final = 4096
MAX_WAITING: Final = 256
