"""One engine's events for many watchers."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kbe_nat._native import Engine, Flow

CAPACITY: Final = 65_536
"""Events that wait in the engine, and those that wait for a slow watcher."""


class Inbox:
    """The events for one watcher."""

    def __init__(self) -> None:
        self._events: deque[tuple[str, Flow]] = deque()
        self._is_filled = threading.Condition()

    def put(self, events: list[tuple[str, Flow]]) -> None:
        """Keep events; a watcher that is too slow loses the newest."""
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


class Watchers:
    """Hands the engine's events to all who watch; the engine notes none while nobody does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._inboxes: list[Inbox] = []
        self._lock = threading.Lock()

    @contextmanager
    def watching(self) -> Iterator[Inbox]:
        """An inbox that gets all events for as long as the block runs."""
        inbox = Inbox()
        with self._lock:
            self._engine.watch(CAPACITY)
            self._inboxes.append(inbox)
        try:
            yield inbox
        finally:
            with self._lock:
                self._inboxes.remove(inbox)
                if not self._inboxes:
                    self._engine.watch(0)
                    self._engine.take_events()

    def deliver(self) -> None:
        """Pass on what has happened; to be called now and then."""
        with self._lock:
            if self._inboxes:
                events, _ = self._engine.take_events()
                if events:
                    for inbox in self._inboxes:
                        inbox.put(events)
