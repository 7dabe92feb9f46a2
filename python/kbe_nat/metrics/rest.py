"""Counts requests to the API server, under the names of Kubernetes' own clients."""

from enum import StrEnum
from typing import Final

from kbe_nat.metrics import catalog
from kbe_nat.metrics.values import Histogram, Values


class EventOutcome(StrEnum):
    """What becomes of an Event for the cluster's operators."""

    POSTED = "posted"
    REFUSED = "refused"
    """The server said no."""
    FAILED = "failed"
    """The server did not answer."""
    LIMITED = "limited"
    """There was one of the object and the reason within the last minute."""
    OVERFLOWED = "overflowed"
    """Too many wait."""
    KNOWN = "known"
    """The server has it of another node."""
    ABSENT = "absent"
    """The server does not have the object: it is a file's, or was deleted."""
    LEFT = "left"
    """It has waited for so long that other nodes have posted it."""


class RestMetrics:
    """Told of each request by one thread, and of each outcome; any thread may read."""

    def __init__(self) -> None:
        self._requests = Values(catalog.REST_REQUESTS)
        self._durations = Histogram(catalog.REST_DURATION)
        self._events = Values(catalog.CLUSTER_EVENTS)

    def count(self, host: str, method: str, status: int | None, seconds: float | None) -> None:
        """A request was answered, or failed when `status` is None. `seconds` passed until the
        answer began; None for a watch, whose answer goes on.
        """
        self._requests.add(1, FAILED if status is None else str(status), host, method)
        if seconds is not None:
            self._durations.observe(seconds, host, method)

    def count_event(self, outcome: EventOutcome) -> None:
        """An Event has come to its end."""
        self._events.add(1, str(outcome))

    def values(self) -> tuple[Values | Histogram, ...]:
        """All of them."""
        return self._durations, self._requests, self._events


FAILED: Final = "<error>"
"""In place of a status, as in Go's client."""
