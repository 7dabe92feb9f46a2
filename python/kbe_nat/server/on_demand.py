"""A server's thread for those that may never need one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # asyncio and http.server take three megabytes: verbs and dry runs do without.
    from kbe_nat.server.http import HttpThread


class ThreadOnDemand:
    """An `HttpThread` that starts when something listens for the first time."""

    def __init__(self) -> None:
        self._thread: HttpThread | None = None

    def get(self) -> "HttpThread":
        """The thread. Raises as `HttpThread`."""
        from kbe_nat.server.http import HttpThread

        self._thread = self._thread or HttpThread()
        return self._thread

    def close(self) -> None:
        """End it, if it has started."""
        if self._thread is not None:
            self._thread.close()
            self._thread = None
