"""Keeps the objects of one resource in step with the API server: list and watch.

Theory of operation. A reflector has a `version` up to which it knows all changes, or none. It goes
round in a loop, one request at a time:

- Without a version it *lists*: WatchList, one stream of the objects there are, an end mark, and
  then live events. Where that is refused, a LIST in pages, and then a watch.
- With a version it *watches* from there. A stream that ends cleanly is normal: the next watch goes
  on from the last version.

Three rules keep what is served safe:

1. A list counts whole or not at all: entries are collected until the end mark or the last page.
2. A list that takes away what no single event took away is suspicious: it is empty, or has less
   than half of the objects, or is older than what is known (`Suspicion`). A second list must say
   the same before it counts. So an empty or restored server is followed, a broken answer is not.
3. Versions of one stream only grow. An event that goes back means that time went back (a restore of
   etcd) or that something reorders events: the version is dropped, and a list follows.

A stream that asked for bookmarks and tells nothing for `SILENCE_SECONDS` is dead, or waits for a
version from the future: the version is dropped as well. All failures leave the objects as they are.
"""

import asyncio
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from enum import Enum, auto
from pathlib import PurePath
from typing import Final

from kbe_nat.errors import KbeNatError
from kbe_nat.sources.kubernetes.answers import (
    AnswerError,
    Entry,
    EventKind,
    Refusal,
    WatchEvent,
    Withheld,
)
from kbe_nat.sources.kubernetes.backoff import (
    Backoff,
)
from kbe_nat.sources.kubernetes.connection import ConnectionFailure
from kbe_nat.sources.kubernetes.inbox import Inbox
from kbe_nat.sources.kubernetes.requests import (
    MAX_LIST,
    SILENCE_SECONDS,
    Cluster,
    Requests,
    Silence,
)
from kbe_nat.sources.kubernetes.resources import Resource
from kbe_nat.sources.objects import ObjectKey
from kbe_nat.sources.snapshot import ConvertedSlice
from kbe_nat.sources.watch_state import WatchPhase, WatchState


class Suspicion(Enum):
    """Why a list is not applied at once."""

    EMPTY = auto()
    HALVED = auto()
    OLDER = auto()


class Reflector:
    """One resource. All methods are for the reader's event loop."""

    def __init__(
        self,
        resource: Resource,
        cluster: Cluster,
        inbox: Inbox,
        publish: Callable[[WatchState], None],
        last_keys: Iterable[ObjectKey] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`publish` gets each new state. `last_keys` are objects of the last run, which are served
        until the first list. `clock` tells seconds since 1970.
        """
        self._resource = resource
        self._cluster = cluster
        self._inbox = inbox
        self._publish = publish
        self._clock = clock
        self._requests = Requests(resource, cluster, self._recover)
        self._backoff = Backoff(cluster.random)
        self._state = WatchState(resource.name, since=clock())
        self._version: int | None = None
        self._newest = 0
        """The newest version that was ever known; a list may be older after a restore."""
        self._keys = set(last_keys)
        self._suspicion: Suspicion | None = None
        """Of the last list, which waits for a second one."""
        self._lacks_end_mark = False
        """The last WatchList ended without its end mark: a LIST may fare better."""
        self._is_failing = False
        self._denials = 0
        """Answers 401 and 403 since the last watch that was let in."""
        self._expiries = 0
        """Versions and tokens in a row that were too old."""
        self._steady_since = 0.0
        """When the last good answer came, by the loop's clock."""
        publish(self._state)

    async def run(self) -> None:
        """Follow the resource for ever."""
        while True:
            delay = 0.0
            wakes = True
            try:
                await (self._list() if self._version is None else self._watch())
            except Withheld as error:
                delay = self._cluster.random.uniform(*CONFIRMATION_SECONDS)
                self._fail(str(error), withheld=1)
            except Refusal as error:
                delay, wakes = self._after_refusal(error)
            except ConnectionFailure as error:
                if isinstance(error, Silence):
                    # From the same version the server might be silent again, and for ever.
                    self._version = None
                self._fail(str(error))
                delay = self._delay(is_starting=error.is_refused)
            except AnswerError as error:
                self._version = None
                self._fail(str(error), withheld=1)
                delay = self._backoff.delay()
            except KbeNatError as error:
                self._fail(str(error))
                delay = self._backoff.delay()
            except Exception as error:
                # A mistake of ours: without this the watch would end without a word, and the node
                # would serve what it has for ever.
                self._version = None
                self._fail(_defect(error))
                delay = self._backoff.delay()
            if delay and wakes:
                await self._cluster.recovery.pause(delay)
            elif delay:
                await asyncio.sleep(delay)

    def _after_refusal(self, refusal: Refusal) -> tuple[float, bool]:
        """Seconds to wait, and whether another watch's answer ends that."""
        failure = refusal.failure
        self._fail(str(refusal))
        if failure.code == 410 or failure.is_too_large:
            # As good a sign of a server at work as a 200: the other watches ask now, not each after
            # its own pause, and so all of them list in one turn.
            self._announce()
            self._version = None
            self._expiries += 1
            if self._expiries > 1:
                return self._backoff.delay(), False
            # Not a failure of the server: only the lists of all nodes must not come at once.
            now = asyncio.get_running_loop().time()
            return self._cluster.turn.delay(now, self._cluster.nodes), False
        if failure.code == 401:
            self._cluster.connection.renew_credentials()
            self._denials += 1
            # Once at once: most often a token was rotated.
            return (0.0 if self._denials == 1 else self._backoff.delay()), True
        if failure.code == 403:
            # A server that has just started refuses everything: its cache of rights is empty.
            self._denials += 1
            if self._is_denied:
                # We may list and not watch: lists have to do.
                self._version = None
            return self._delay(is_starting=not self._is_denied), True
        if failure.code != 429 and failure.code < 500:
            self._version = None
        return self._backoff.delay(refusal.retry_after), failure.code not in (429, 503)

    @property
    def _is_denied(self) -> bool:
        """Whether the role lacks a right, since no server takes so long to start."""
        return self._denials > STARTUP_DENIALS

    def _delay(self, *, is_starting: bool) -> float:
        # A port that refuses costs nothing to try, and a node must be in step soon after.
        if is_starting:
            return self._backoff.reconnect_delay(self._cluster.nodes)
        return self._backoff.delay()

    async def _list(self) -> None:
        """Learn all objects."""
        if not self._lacks_end_mark:
            try:
                return await self._watch_list()
            except Refusal as refusal:
                # The server has no WatchList, or we may not watch; after its start it says so too.
                if refusal.failure.code not in (400, 403, 404, 405, 406, 422):
                    raise
        await self._paged_list()
        self._lacks_end_mark = False

    async def _watch_list(self) -> None:
        """One stream: the objects, the end mark, and what happens then."""
        parameters = {
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
        }
        entries: dict[ObjectKey, Entry] | None = {}
        try:
            stream = self._requests.events(parameters, FIRST_OBJECT_SECONDS, MAX_LIST)
            async with aclosing(stream) as events:
                async for event in events:
                    if entries is None:
                        self._apply_event(event)
                    elif event.is_initial_end:
                        self._apply_list(entries, event.version)
                        entries = None
                    elif event.entry is not None:
                        entries[event.entry.key] = event.entry
            if entries is not None:
                raise AnswerError("the list ended before its end mark")
        except (AnswerError, ConnectionFailure) as error:
            is_refused = isinstance(error, ConnectionFailure) and error.is_refused
            self._lacks_end_mark = entries is not None and not is_refused
            raise

    async def _watch(self) -> None:
        """Follow changes from the version on, until the stream ends."""
        started = asyncio.get_running_loop().time()
        before = self._state.events
        stream = self._requests.events({"resourceVersion": str(self._version)}, SILENCE_SECONDS)
        async with aclosing(stream) as events:
            async for event in events:
                self._apply_event(event)
        duration = asyncio.get_running_loop().time() - started
        if duration < SHORT_WATCH_SECONDS and self._state.events == before:
            # Something ends all watches at once: to ask again and again would be an attack.
            raise ConnectionFailure("watches end as soon as they begin")

    async def _paged_list(self) -> None:
        """LIST in pages. All of them have the version of the first one."""
        entries: dict[ObjectKey, Entry] = {}
        parameters = {**self._resource.selectors, "limit": str(PAGE_OBJECTS)}
        version, remaining_bytes = None, MAX_LIST
        while True:
            try:
                page, size = await self._requests.page(parameters, remaining_bytes)
            except Refusal as refusal:
                if refusal.failure.code == 504 and "limit" in parameters and not entries:
                    # etcd is away. A list from the server's cache is better than nothing.
                    parameters = {**self._resource.selectors, "resourceVersion": "0"}
                    continue
                raise
            if version not in (None, page.version):
                raise AnswerError(f"pages of one list have versions {version} and {page.version}")
            # Without a bound of all pages a server could lead us from page to page for ever.
            version, remaining_bytes = page.version, remaining_bytes - max(size, MIN_PAGE_BYTES)
            entries |= {entry.key: entry for entry in page.entries}
            if not page.continuation:
                break
            # An expired token (410) ends this list: its rest would be of another moment.
            parameters["continue"] = page.continuation
        self._apply_list(entries, version)

    def _recover(self, *, is_watch: bool) -> None:
        """Note that the server gives good answers."""
        self._announce()
        if is_watch:
            self._denials = 0
        if not self._state.is_complete:
            self._set_phase(WatchPhase.LISTING, "")
        elif self._version is not None:
            self._set_phase(WatchPhase.IN_STEP, "")

    def _announce(self) -> None:
        """Wake the other watches, which wait for the server."""
        if self._is_failing:
            self._is_failing = False
            self._cluster.recovery.announce()

    def _apply_list(self, entries: Mapping[ObjectKey, Entry], version: int) -> None:
        """Apply a whole list. Raises `Withheld` when it must be confirmed first."""
        suspicion = self._suspect(entries, version)
        if suspicion is not None and suspicion is not self._suspicion:
            self._suspicion = suspicion
            self._version = None
            raise Withheld(
                f"a list of {len(entries)} objects at version {version} waits for a second one:"
                f" {len(self._keys)} objects at version {self._newest} are served"
            )
        self._suspicion = None
        self._inbox.replace(self._resource.name, entries.values())
        self._keys = set(entries)
        self._cluster.nodes = _count_nodes(entries) or self._cluster.nodes
        self._version = self._newest = version
        self._expiries = 0
        self._state = replace(self._state, lists=self._state.lists + 1)
        if self._is_denied:
            # What changes until the next list is not told.
            self._set_phase(WatchPhase.STALE, self._state.reason)
        else:
            self._set_phase(WatchPhase.IN_STEP, "")
        # States decide whether serving may begin.
        self._inbox.wake()

    def _suspect(self, entries: Mapping[ObjectKey, Entry], version: int) -> Suspicion | None:
        if version < self._newest:
            return Suspicion.OLDER
        if self._keys and not entries:
            return Suspicion.EMPTY
        if len(self._keys) >= SMALL_LIST and 2 * len(entries) < len(self._keys):
            return Suspicion.HALVED
        return None

    def _apply_event(self, event: WatchEvent) -> None:
        """Apply one event after the list. Raises `AnswerError` for one that goes back in time."""
        assert self._version is not None
        if event.version <= self._version:
            # The last one once more is harmless, and bookmarks repeat versions.
            if event.version == self._version:
                return
            raise AnswerError(
                f"the watch went back from version {self._version} to {event.version}"
            )
        self._version = self._newest = event.version
        entry = event.entry
        if entry is not None:
            is_deleted = event.kind is EventKind.DELETED
            self._inbox.put(self._resource.name, entry.key, None if is_deleted else entry.object)
            (self._keys.discard if is_deleted else self._keys.add)(entry.key)
            self._state = replace(self._state, events=self._state.events + 1)
        self._set_phase(WatchPhase.IN_STEP, "")

    def _fail(self, reason: str, withheld: int = 0) -> None:
        self._is_failing = True
        state = self._state
        steady = asyncio.get_running_loop().time() - self._steady_since
        if state.phase is WatchPhase.IN_STEP and steady >= STEADY_SECONDS:
            # Only a watch that went well for a while proves that the server is sound.
            self._backoff.reset()
        self._state = replace(
            state, failures=state.failures + 1, withheld=state.withheld + withheld
        )
        phase = WatchPhase.STALE if state.is_complete else WatchPhase.CONNECTING
        self._set_phase(phase, reason)
        self._inbox.wake()

    def _set_phase(self, phase: WatchPhase, reason: str) -> None:
        """Publish the state. The beginning of a phase stays while it lasts."""
        since = self._state.since
        if phase is not self._state.phase:
            since, self._steady_since = self._clock(), asyncio.get_running_loop().time()
        self._state = replace(
            self._state,
            phase=phase,
            since=since,
            reason=reason,
            version=str(self._version or self._newest or ""),
            objects=len(self._keys),
        )
        self._publish(self._state)


def _count_nodes(entries: Mapping[ObjectKey, Entry]) -> int:
    """Nodes with endpoints in these slices. Cost: linear in the endpoints."""
    slices = (
        entry.object for entry in entries.values() if isinstance(entry.object, ConvertedSlice)
    )
    parts = (each.part for each in slices if each.part is not None)
    return len({endpoint.node for part in parts for endpoint in part.endpoints})


def _defect(error: Exception) -> str:
    """One line about an error that nobody expects, with its place."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    message = " ".join(str(error).split())[:200]
    file = PurePath(frame.filename).name
    return f"a mistake of kbe-nat: {type(error).__name__}: {message} ({file}:{frame.lineno})"


FIRST_OBJECT_SECONDS: Final = 20.0
"""The first object of a WatchList comes at once, unless etcd is away."""
STEADY_SECONDS: Final = 10.0
CONFIRMATION_SECONDS: Final = (1.0, 2.0)
SHORT_WATCH_SECONDS: Final = 1.0
PAGE_OBJECTS: Final = 500
STARTUP_DENIALS: Final = 5
"""So many refusals may come of a server that starts; it takes one or two seconds for that."""
SMALL_LIST: Final = 20
"""Of fewer objects half may well go at once."""
MIN_PAGE_BYTES: Final = 1 << 14
"""An empty page counts as so many bytes."""
