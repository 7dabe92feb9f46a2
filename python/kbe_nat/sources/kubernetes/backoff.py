"""How long a client waits before it asks again.

Theory of operation. A delay is drawn evenly between a floor and a ceiling that doubles with each
failure, so that clients which failed together do not come back together. Two more things shape it:

1. `Retry-After` of the server is a lower bound, with half as much again of jitter on top.
2. A server that refuses connections costs nothing to ask. A node asks it often, since it must be in
   step soon after the server is back. But all nodes list at that moment, so the ceiling grows with
   the number of nodes: `spread` lets `LISTS_PER_SECOND` of them come in a second.

One client backs off once for all its watches. As soon as one of them is answered, `Recovery` wakes
the others; and all of them list at one moment, the client's `Turn`. With a moment for each watch
a large part of all clients would list something in each second.
"""

import asyncio
from contextlib import suppress
from random import Random
from typing import Final


class Backoff:
    """The delays of one watch."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._failures = 0

    def reset(self) -> None:
        """The last request was answered."""
        self._failures = 0

    def delay(self, retry_after: float | None = None) -> float:
        """Seconds until the next request, after one more failure; at least what the server asks for
        with `retry_after`.
        """
        self._failures = min(self._failures + 1, MAX_DOUBLINGS)
        most = min(2.0**self._failures * FLOOR_SECONDS, CEILING_SECONDS)
        delay = self._random.uniform(FLOOR_SECONDS, most)
        if retry_after is None:
            return delay
        return max(delay, min(retry_after, MAX_RETRY_AFTER) * self._random.uniform(1.0, 1.5))

    def reconnect_delay(self, nodes: int) -> float:
        """Seconds until the next attempt at a server that is down, or has just started. That is no
        failure of a request, so the next one does not wait longer for it.
        """
        return self._random.uniform(FLOOR_SECONDS, max(RECONNECT_SECONDS, spread(nodes)))


class Recovery:
    """Lets watches that wait for the server know that it answers again. For one event loop."""

    def __init__(self) -> None:
        self._answered = asyncio.Event()

    async def pause(self, seconds: float) -> None:
        """Wait for so long, or until the server answers another watch."""
        answered = self._answered
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await answered.wait()

    def announce(self) -> None:
        """The server has answered again after a failure."""
        answered, self._answered = self._answered, asyncio.Event()
        answered.set()


class Turn:
    """When one client lists again whose versions are too old, as those of all others are."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._moment = 0.0

    def delay(self, now: float, nodes: int) -> float:
        """Seconds until the turn. A turn that is still to come is that of all watches; after it
        another one is drawn, over the `spread` of so many nodes. `now` is the loop's clock.
        """
        if self._moment <= now:
            self._moment = now + self._random.uniform(0.0, spread(nodes))
        return self._moment - now


def spread(nodes: int) -> float:
    """Seconds over which the lists of so many nodes are spread."""
    return min(nodes / LISTS_PER_SECOND, CEILING_SECONDS)


FLOOR_SECONDS: Final = 1.0
CEILING_SECONDS: Final = 30.0
MAX_DOUBLINGS: Final = 5
MAX_RETRY_AFTER: Final = 300.0
"""Seconds: what a server asks for beyond is taken for a mistake."""
LISTS_PER_SECOND: Final = 160
"""Of all nodes together: 5,000 nodes take 30 s, so chance does not bring a second with more than
250 of them.
"""
RECONNECT_SECONDS: Final = 2.0
"""The ceiling of a few nodes while connections are refused."""
