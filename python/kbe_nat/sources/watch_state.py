"""How far each watch is: a value for the log, `get status`, health checks and metrics."""

from dataclasses import dataclass
from enum import StrEnum


class WatchPhase(StrEnum):
    """The life of a watch."""

    CONNECTING = "connecting"
    """No answer yet."""
    LISTING = "listing"
    """The first list is on its way."""
    IN_STEP = "in step"
    """The objects are those of the API server."""
    STALE = "stale"
    """The objects are the last ones that the API server told; it does not answer as it should."""


@dataclass(frozen=True, slots=True)
class WatchState:
    """One resource. Values are immutable and replaced whole, so any thread may read them."""

    resource: str
    """Such as services."""
    phase: WatchPhase = WatchPhase.CONNECTING
    since: float = 0.0
    """When the phase began, in seconds since 1970."""
    reason: str = ""
    """Why it is not in step; empty when it is."""
    version: str = ""
    """The newest resourceVersion that is known; empty before the first list."""
    objects: int = 0
    """Objects of the last list, and what has changed since."""
    lists: int = 0
    """Lists that were applied."""
    events: int = 0
    """Changes that the watch told after its list."""
    failures: int = 0
    """Requests that failed or were refused."""
    withheld: int = 0
    """Answers and events that were not applied: empty, partial, malformed or older ones."""

    @property
    def is_complete(self) -> bool:
        """Whether a first list has been applied."""
        return self.lists > 0
