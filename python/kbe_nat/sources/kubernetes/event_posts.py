"""Posts Events to the API server, as events.k8s.io takes them.

Theory of operation. One Event is posted at a time, `PACE_SECONDS` apart. Whatever becomes of it, it
is not tried again. A failure that the next Event would meet too (no connection, no rights, a busy
server) is followed by a pause, in which Events wait, and are dropped once too many do.

`kubectl describe` looks for Events by the uid of their object. Nothing else here needs uids, so
none are kept: before an Event is posted, the server is asked for the metadata of its object, by the
right to list that the watches need anyway. An object that it does not have is a file's, or was
deleted: there is nothing to post. Where it refuses that answer, the Event goes without.

The name of an Event says what it is about: the object, the reason and the note, and the
`SAME_SECONDS` in which it was recorded. So the Event that another node has posted already is
refused (409), and the cluster has it once, also while its nodes restart one after the other.
"""

import asyncio
import hashlib
import json
import logging
import socket
from datetime import UTC, datetime
from functools import partial
from typing import Final

import msgspec
from msgspec import Struct, field

from kbe_nat.errors import KbeNatError
from kbe_nat.metrics.rest import EventOutcome
from kbe_nat.sources.events import EventQueue, Recorded
from kbe_nat.sources.kubernetes.answers import Failure
from kbe_nat.sources.kubernetes.connection import Connection, Response
from kbe_nat.sources.kubernetes.entries import json_failure
from kbe_nat.sources.objects import ObjectKey


class Identity(Struct, frozen=True):
    """`metadata` of an object, as a reference to it has it."""

    uid: str = ""
    version: str = field(name="resourceVersion", default="")


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
                while (recorded := self._queue.take()) is not None:
                    await asyncio.sleep(await self._post(recorded))
                delay = self._queue.delay()
                # asyncio's timers may be early by the clock's resolution.
                await _wait(news, None if delay is None else max(delay, LEAST_SECONDS))
        finally:
            self._queue.listen(None)

    async def _post(self, recorded: Recorded) -> float:
        """Post it. Returns seconds until the next one may follow."""
        try:
            async with asyncio.timeout(POST_SECONDS):
                failure = await self._attempt(recorded)
        except TimeoutError:
            failure = Failure(0, "", "the server does not answer")
        except KbeNatError as error:
            failure = Failure(0, "", str(error))
        if failure is None:
            return PACE_SECONDS
        self._count(EventOutcome.REFUSED if failure.code > 0 else EventOutcome.FAILED)
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
        return PACE_SECONDS if failure.code in OWN_REFUSALS else PAUSE_SECONDS

    async def _attempt(self, recorded: Recorded) -> Failure | None:
        """Why an Event was not taken; None when it is with the server, or need not be. Raises
        `KbeNatError`.
        """
        kind, namespace, _ = recorded.event.regarding
        identity: Identity | None = Identity()
        if kind in COLLECTIONS:
            identity, failure = await self._identity(recorded.event.regarding)
            if failure is not None:
                return failure
            if identity is None:
                self._count(EventOutcome.ABSENT)
                return None
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace or 'default'}/events"
        body = event_body(recorded, self._instance, identity or Identity())
        async with self._connection.post(path, body) as response:
            answer = await _content(response)
        if response.status in (200, 201, 202):
            self._count(EventOutcome.POSTED)
            return None
        if response.status == 409:
            self._count(EventOutcome.KNOWN)
            return None
        return json_failure(answer, response.status)._replace(code=response.status)

    async def _identity(self, key: ObjectKey) -> tuple[Identity | None, Failure | None]:
        """The metadata of an object, None when the server does not have it; or why nothing can be
        posted now. Raises `KbeNatError`.
        """
        kind, namespace, name = key
        root, collection = COLLECTIONS[kind]
        path = f"{root}/namespaces/{namespace}/{collection}"
        parameters = {"fieldSelector": f"metadata.name={name}", "resourceVersion": "0"}
        async with self._connection.get(path, parameters, METADATA) as response:
            answer = await _content(response)
        if response.status in (401, 429) or response.status >= 500:
            failure = json_failure(answer, response.status)
            return None, failure._replace(code=response.status)
        try:
            items = LIST.decode(answer).items if response.status == 200 else None
        except (msgspec.MsgspecError, UnicodeError):
            items = None
        if items is None:
            return Identity(), None
        return (items[0].metadata if items else None), None

    def _count(self, outcome: EventOutcome) -> None:
        self._queue.metrics.count_event(outcome)


class _Item(Struct, frozen=True):
    """An object of a list, of which the metadata alone count."""

    metadata: Identity = Identity()


class _List(Struct, frozen=True):
    """A list of objects."""

    items: list[_Item] | None = None


async def _wait(news: asyncio.Event, seconds: float | None) -> None:
    try:
        await asyncio.wait_for(news.wait(), seconds)
    except TimeoutError:
        return


async def _content(response: Response) -> bytes:
    """The body, as far as it is looked at."""
    answer = bytearray()
    async for chunk in response.chunks():
        answer += chunk
        if len(answer) > MAX_ANSWER:
            break
    return bytes(answer)


def event_body(recorded: Recorded, instance: str, identity: Identity) -> bytes:
    """An Event as JSON, about the object of this identity."""
    event, moment = recorded
    kind, namespace, name = event.regarding
    regarding = {"apiVersion": VERSIONS.get(kind, "v1"), "kind": kind, "name": name}
    if namespace:
        regarding["namespace"] = namespace
    else:
        # kubectl looks for a Node's Events by its name in this place, as kubelet writes them.
        regarding["uid"] = name
    if identity.uid:
        regarding |= {"uid": identity.uid, "resourceVersion": identity.version}
    seconds = datetime.fromtimestamp(moment // 10**9, UTC)
    document = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{name[:MAX_NAME].rstrip('-.')}.{_suffix(recorded)}",
            "namespace": namespace or "default",
        },
        "eventTime": f"{seconds:%Y-%m-%dT%H:%M:%S}.{moment // 1000 % 10**6:06}Z",
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


def _suffix(recorded: Recorded) -> str:
    """The end of an Event's name: when it was, and of a shared one what it is about, the same at
    each node.
    """
    event, moment = recorded
    if not event.is_shared:
        return f"{moment:x}"
    period = moment // (SAME_SECONDS * 10**9)
    about = json.dumps([*event.regarding, event.reason, event.note, period])
    return hashlib.blake2b(about.encode(), digest_size=8).hexdigest()


LOG: Final = logging.getLogger("kbe_nat.daemon")
CONTROLLER: Final = "kbe-nat"
VERSIONS: Final = {"EndpointSlice": "discovery.k8s.io/v1"}
"""Of the kinds that are not in v1."""
COLLECTIONS: Final = {
    "Service": ("/api/v1", "services"),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices"),
}
"""Where objects with Events of their own are listed, by kind."""
METADATA: Final = (
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
)
"""Asks for objects without what stands beside their metadata."""
LIST: Final = msgspec.json.Decoder(_List)
SAME_SECONDS: Final = 600
"""For so long one Event stands for all of the same condition."""
PACE_SECONDS: Final = 0.2
"""Between two Events, as kube-proxy's rate of requests allows."""
PAUSE_SECONDS: Final = 30.0
POST_SECONDS: Final = 10.0
LEAST_SECONDS: Final = 1e-6
OWN_REFUSALS: Final = (400, 404, 422)
MAX_ANSWER: Final = 1 << 20
"""Bytes."""
MAX_NAME: Final = 230
"""Characters of an object's name in that of its Event, which may have 253."""
MAX_WORD: Final = 128
MAX_NOTE: Final = 1024
