"""One engine's events for many subscribers."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from kbe_nat._native import Engine, Flow

CAPACITY: Final = 65_536
"""Events that wait in the engine, and those that wait for a slow subscriber."""


class Subscription:
    """The events for one subscriber."""

    def __init__(self) -> None:
        self._events: deque[tuple[str, Flow]] = deque()
        self._is_filled = threading.Condition()

    def put(self, events: Sequence[tuple[str, Flow]]) -> None:
        """Add events; a subscriber that is too slow loses the newest."""
        with self._is_filled:
            self._events.extend(events[: CAPACITY - len(self._events)])
            self._is_filled.notify()

    def take(self, seconds: float) -> list[tuple[str, Flow]]:
        """The next events; none when nothing happens for so long."""
        with self._is_filled:
            self._is_filled.wait_for(lambda: self._events, seconds)
            events = list(self._events)
            self._events.clear()
            return events


class Subscribers:
    """Hands the engine's events to every subscription; without any, the engine records none."""

    def __init__(
        self, engine: Engine, watch_flows: Callable[[bool], None] = lambda _: None
    ) -> None:
        """`watch_flows` is told whether there are subscriptions."""
        self._engine = engine
        self._watch_flows = watch_flows
        self._subscriptions: list[Subscription] = []
        self._lock = threading.Lock()

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """A subscription that gets all events for as long as the block runs."""
        subscription = Subscription()
        with self._lock:
            self._watch_flows(True)
            self._engine.watch(CAPACITY)
            self._subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions.remove(subscription)
                if not self._subscriptions:
                    self._watch_flows(False)
                    self._engine.watch(0)
                    self._engine.take_events()

    def publish(self) -> None:
        """Pass on what has happened; a task of the main thread."""
        with self._lock:
            if self._subscriptions:
                events, _ = self._engine.take_events()
                if events:
                    for subscription in self._subscriptions:
                        subscription.put(events)
