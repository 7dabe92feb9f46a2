"""Posts Events to the API server, as events.k8s.io takes them.

Theory of operation. One Event is posted at a time, `PACE_SECONDS` apart. Whatever becomes of it, it
is not tried again. A failure that the next Event would meet too (no connection, no rights, a busy
server) is followed by a pause, in which Events wait, and are dropped once too many do.
"""

import asyncio
import json
import logging
import socket
import time
from datetime import UTC, datetime
from functools import partial
from typing import Final

from kbe_nat.errors import KbeNatError
from kbe_nat.metrics.rest import EventOutcome
from kbe_nat.sources.events import Event, EventQueue
from kbe_nat.sources.kubernetes.answers import Failure
from kbe_nat.sources.kubernetes.connection import Connection
from kbe_nat.sources.kubernetes.entries import json_failure


class EventPosts:
    """The way of Events out of their queue. For one event loop."""

    def __init__(self, connection: Connection, queue: EventQueue) -> None:
        self._connection = connection
        self._queue = queue
        self._instance = f"{CONTROLLER}-{socket.gethostname()}"[:MAX_WORD]
        self._is_refusal_logged = False

    async def run(self) -> None:
        """Post Events until cancelled."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        self._queue.listen(partial(loop.call_soon_threadsafe, news.set))
        try:
            while True:
                # Cleared first: an Event that comes after the last `take` sets it once more.
                news.clear()
                while (event := self._queue.take()) is not None:
                    await asyncio.sleep(await self._post(event))
                await news.wait()
        finally:
            self._queue.listen(None)

    async def _post(self, event: Event) -> float:
        """Post it. Returns seconds until the next one may follow."""
        failure = await self._failure(event)
        if failure is None:
            self._queue.metrics.count_event(EventOutcome.POSTED)
            return PACE_SECONDS
        is_answered = failure.code > 0
        self._queue.metrics.count_event(
            EventOutcome.REFUSED if is_answered else EventOutcome.FAILED
        )
        LOG.debug("an Event was not taken: %d %s", failure.code, failure.message)
        if failure.code == 401:
            self._connection.renew_credentials()
        if failure.code == 403 and not self._is_refusal_logged:
            self._is_refusal_logged = True
            LOG.warning(
                "Events are not told: the role lacks the verb create for events of"
                " events.k8s.io: %s",
                failure.message,
            )
        # A refusal of this very Event says nothing about the next one.
        is_its_own = is_answered and failure.code in OWN_REFUSALS
        return PACE_SECONDS if is_its_own else PAUSE_SECONDS

    async def _failure(self, event: Event) -> Failure | None:
        """Why an Event was not taken, with code 0 when there was no answer; None when it was."""
        namespace = event.regarding[1] or "default"
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        body = event_body(event, self._instance, time.time_ns())
        try:
            async with (
                asyncio.timeout(POST_SECONDS),
                self._connection.post(path, body) as response,
            ):
                answer = bytearray()
                async for chunk in response.chunks():
                    answer += chunk
                    if len(answer) > MAX_ANSWER:
                        break
                if response.status in (200, 201, 202):
                    return None
                return json_failure(bytes(answer), response.status)._replace(code=response.status)
        except TimeoutError:
            return Failure(0, "", "the server does not answer")
        except KbeNatError as error:
            return Failure(0, "", str(error))


def event_body(event: Event, instance: str, now: int) -> bytes:
    """An Event as JSON, at `now` in nanoseconds since 1970."""
    kind, namespace, name = event.regarding
    regarding = {"apiVersion": VERSIONS.get(kind, "v1"), "kind": kind, "name": name}
    if namespace:
        regarding["namespace"] = namespace
    else:
        # kubectl looks for a Node's Events by its name in this place, as kubelet writes them.
        regarding["uid"] = name
    moment = datetime.fromtimestamp(now // 10**9, UTC)
    document = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{name[:MAX_NAME].rstrip('-.')}.{now:x}",
            "namespace": namespace or "default",
        },
        "eventTime": f"{moment:%Y-%m-%dT%H:%M:%S}.{now // 1000 % 10**6:06}Z",
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "action": event.action,
        "reason": event.reason,
        "type": "Warning" if event.is_warning else "Normal",
        "regarding": regarding,
    }
    if event.note:
        # The server counts bytes; a character that is cut in two goes as a whole.
        document["note"] = event.note.encode()[:MAX_NOTE].decode(errors="ignore")
    return json.dumps(document).encode()


LOG: Final = logging.getLogger("kbe_nat.daemon")
CONTROLLER: Final = "kbe-nat"
VERSIONS: Final = {"EndpointSlice": "discovery.k8s.io/v1"}
"""Of the kinds that are not in v1."""
PACE_SECONDS: Final = 0.2
"""Between two Events, as kube-proxy's rate of requests allows."""
PAUSE_SECONDS: Final = 30.0
POST_SECONDS: Final = 10.0
OWN_REFUSALS: Final = (400, 404, 409, 422)
MAX_ANSWER: Final = 1 << 16
"""Bytes."""
MAX_NAME: Final = 230
"""Characters of an object's name in that of its Event, which may have 253."""
MAX_WORD: Final = 128
MAX_NOTE: Final = 1024
