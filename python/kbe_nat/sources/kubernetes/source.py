"""The API server as a `kbe_nat.sources.source.Source`.

Theory of operation. A thread with an event loop reads the sockets: one `Reflector` for each
resource, which decodes events and puts them into the `Inbox`. The daemon's main thread takes
deliveries out of it in `read` and applies them to the store, an origin for each resource. So
neither a slow answer nor a flood of events holds up the daemon, and no change waits for a poll: the
inbox wakes `wait`.

**Start.** `read` returns None until every watch has had its first complete list. Where the last
objects are on disk and the server does not answer in time, they are served meanwhile; the first
list of each resource takes their place.

**Pace.** The first change after quiet goes out at once. Then comes a pause that is `PAUSE_TIMES` as
long as that update took, at most `PAUSE_SECONDS`, so a flood of changes takes a quarter of the main
thread: the more changes come in one update, the less each costs. With `min_sync_seconds` updates
begin at least so far apart.
"""

import asyncio
import logging
import math
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import Final

from kbe_nat.collector import uncollected
from kbe_nat.errors import StateError
from kbe_nat.sources.events import EventQueue
from kbe_nat.sources.kubernetes import last_objects
from kbe_nat.sources.kubernetes.connection import Connection
from kbe_nat.sources.kubernetes.encodings import Encoding
from kbe_nat.sources.kubernetes.event_posts import EventPosts
from kbe_nat.sources.kubernetes.inbox import Delivery, Inbox
from kbe_nat.sources.kubernetes.last_objects import ObjectsFile
from kbe_nat.sources.kubernetes.reflector import Reflector
from kbe_nat.sources.kubernetes.requests import Cluster
from kbe_nat.sources.kubernetes.resources import Resource
from kbe_nat.sources.objects import ObjectKey, Origin
from kbe_nat.sources.snapshot import ClusterObject
from kbe_nat.sources.source import SourceUpdate
from kbe_nat.sources.store import Store
from kbe_nat.sources.watch_state import WatchPhase, WatchState


class Kubernetes:
    """The objects of one API server. It owns a thread from the first `read` until `close`."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        resources: Sequence[Resource],
        store: Store,
        *,
        encoding: Encoding = Encoding.PROTOBUF,
        file: ObjectsFile | None = None,
        events: EventQueue | None = None,
        random: Random | None = None,
        min_sync_seconds: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connect` is called in the reader's thread, and `encoding` is asked for. `file` keeps the
        last objects. `events` are posted once the server has answered. `random` decides delays;
        `min_sync_seconds` may change. `clock` tells seconds of the main thread.
        """
        self._connect = connect
        self._resources = resources
        self._store = store
        self._encoding = encoding
        self._file = file
        self._events = events
        selections = (f"{each.path} {sorted(each.selectors.items())}" for each in resources)
        self._cluster = "\n".join((file.server if file else "", *selections))
        """Whose objects the file keeps, and which of them."""
        self._random = random or Random()
        self._min_sync_seconds = min_sync_seconds
        self._clock = clock
        self._inbox = Inbox()
        self._states = {each.name: WatchState(each.name) for each in resources}
        self._origins = {
            each.name: Origin(RANK, f"{index} {each.name}") for index, each in enumerate(resources)
        }
        self._last: dict[str, dict[ObjectKey, ClusterObject]] = {}
        """Objects of the last run, until they are served or not needed any more."""
        self._written_age = 0.0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None
        self._started = 0.0
        self._is_serving = False
        self._is_dirty = False
        """Whether the file lacks changes."""
        self._next_write = 0.0
        self._is_unwritable = False
        self._writer: threading.Thread | None = None
        self._returned_at: float | None = None
        """When the last update was handed out, until it has been applied."""
        self._began = -math.inf
        """When the last update that has been applied was handed out."""
        self._paused_until = 0.0
        self._reported: dict[str, tuple[WatchPhase, str]] = {}

    def files(self) -> tuple[()]:
        """See `Source.files`: an API server has none."""
        return ()

    def watches(self) -> tuple[WatchState, ...]:
        """See `Source.watches`."""
        return tuple(self._states.values())

    def read(self) -> SourceUpdate | None:
        """See `Source.read`. Cost: linear in what has changed."""
        now = self._clock()
        self._note_application(now)
        if self._thread is None:
            self._start(now)
        self._report()
        if now < self._hold_until():
            return None
        deliveries = self._inbox.take()
        with uncollected():
            for resource, delivery in deliveries.items():
                self._apply(resource, delivery)
            if not self._is_serving and not self._begins(now):
                return None
            self._keep(now)
            if not deliveries and self._is_serving:
                return None
            self._is_serving = True
            update = self._store.update()
        self._returned_at = self._clock()
        return update

    def wait(self, seconds: float) -> bool:
        """See `Source.wait`."""
        now = self._clock()
        self._note_application(now)
        held = self._hold_until() - now
        if held > 0:
            time.sleep(min(held, seconds))
            if held > seconds:
                return False
            seconds -= held
        ready, _, _ = select.select([self._inbox.descriptor], [], [], max(seconds, 0.0))
        return bool(ready)

    def descriptors(self) -> list[int]:
        """See `Source.descriptors`."""
        return [self._inbox.descriptor]

    def close(self) -> None:
        """End the watches, and keep the objects on disk."""
        if self._thread is None:
            return
        if self._loop is not None and self._reader is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._reader.cancel)
        self._thread.join(CLOSE_SECONDS)
        if self._writer is not None:
            self._writer.join()
        if self._is_dirty and self._is_serving:
            self._write(self._copy(), lambda: None)

    def _start(self, now: float) -> None:
        self._started = now
        self._load()
        self._thread = threading.Thread(target=self._run, name="kbe-nat-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """The reader's thread."""
        with suppress(asyncio.CancelledError):
            asyncio.run(self._watch())

    async def _watch(self) -> None:
        self._loop, self._reader = asyncio.get_running_loop(), asyncio.current_task()
        connection = self._connect()
        cluster = Cluster(connection, self._random, self._encoding)
        try:
            async with asyncio.TaskGroup() as group:
                for resource in self._resources:
                    reflector = Reflector(
                        resource,
                        cluster,
                        self._inbox,
                        self._publish,
                        last_keys=self._last.get(resource.name, ()),
                    )
                    group.create_task(reflector.run())
                if self._events is not None:
                    group.create_task(self._post(EventPosts(connection, self._events)))
        finally:
            await connection.close()

    async def _post(self, posts: EventPosts) -> None:
        """Before the server's first list Events wait: they would only fail."""
        while not any(state.is_complete for state in self._states.values()):
            await asyncio.sleep(FIRST_LIST_SECONDS)
        try:
            await posts.run()
        except Exception as error:
            # A mistake of ours: the watches, which serve, go on without Events.
            LOG.error("Events are not posted any more: %s: %s", type(error).__name__, error)

    def _publish(self, state: WatchState) -> None:
        self._states[state.resource] = state

    def _apply(self, resource: str, delivery: Delivery) -> None:
        """Bring the store's origin of a resource up to date."""
        origin = self._origins[resource]
        if delivery.objects is not None:
            # An object that changed after the list counts as it is now.
            objects = {**delivery.objects, **delivery.changes}.values()
            present = (item for item in objects if item is not None)
            self._store.replace(origin, present, is_ordered=False)
            self._last.pop(resource, None)
        else:
            for key, item in delivery.changes.items():
                if item is None:
                    self._store.delete(origin, key)
                else:
                    self._store.put(origin, item)
        self._is_dirty = True

    def _begins(self, now: float) -> bool:
        """Whether there is something to serve from now on."""
        if all(map(self._is_settled, self._resources)):
            self._last = {}
            return True
        if not self._last:
            return False
        is_late = now - self._started >= LATE_SECONDS
        if not is_late and not any(state.failures for state in self.watches()):
            return False
        LOG.warning(
            "the API server does not answer: the objects of the last run are served, from %s ago",
            _age(self._written_age + now - self._started),
        )
        for resource, objects in self._last.items():
            self._store.replace(self._origins[resource], objects.values(), is_ordered=False)
        self._last = {}
        return True

    def _is_settled(self, resource: Resource) -> bool:
        state = self._states[resource.name]
        return state.is_complete or (resource.is_optional and state.failures > 0)

    def _note_application(self, now: float) -> None:
        """Learn how long the last update took, since the caller is back."""
        if self._returned_at is None:
            return
        took = now - self._returned_at
        # A pause as long as a long update would let the next one grow, and the node fall behind.
        pause = min(PAUSE_TIMES * took, PAUSE_SECONDS)
        self._paused_until, self._began = now + pause, self._returned_at
        self._returned_at = None

    def _hold_until(self) -> float:
        """When the next update may be handed out."""
        return max(self._paused_until, self._began + self._min_sync_seconds())

    def _report(self) -> None:
        """Log what is new about the watches, once."""
        for state in self.watches():
            before = self._reported.get(state.resource, (WatchPhase.CONNECTING, ""))
            self._reported[state.resource] = (state.phase, state.reason)
            if before == (state.phase, state.reason):
                continue
            if state.phase is WatchPhase.IN_STEP:
                LOG.info("%s: in step with the API server, %d", state.resource, state.objects)
            elif state.reason and (state.phase, bool(before[1])) != (before[0], True):
                LOG.warning(
                    "%s: %s: %s%s",
                    state.resource,
                    state.phase,
                    state.reason,
                    KEPT if state.is_complete else "",
                )

    def _load(self) -> None:
        """Read the objects of the last run."""
        if self._file is None:
            return
        try:
            content = self._file.read()
            if content is None:
                return
            objects, written = last_objects.decode(content, self._cluster)
        except StateError as error:
            LOG.warning("objects of the last run are not used: %s", error)
            return
        wanted = {each.name for each in self._resources}
        self._last = {name: items for name, items in objects.items() if name in wanted and items}
        self._written_age = max(0.0, time.time() - written)

    def _keep(self, now: float) -> None:
        """Write the objects to disk now and then, in a thread that no change waits for."""
        is_due = self._is_dirty and self._is_serving and now >= self._next_write
        if self._file is None or not is_due:
            return
        if self._writer is not None and self._writer.is_alive():
            return
        self._next_write, self._is_dirty = now + WRITE_SECONDS, False
        # Changes come first: the interpreter's lock is free for most of the time.
        arguments = self._copy(), partial(time.sleep, REST_SECONDS)
        self._writer = threading.Thread(target=self._write, args=arguments, daemon=True)
        self._writer.start()

    def _copy(self) -> last_objects.Objects:
        return {name: self._store.items(origin) for name, origin in self._origins.items()}

    def _write(self, objects: last_objects.Objects, rest: Callable[[], None]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(last_objects.encode(objects, self._cluster, time.time(), rest))
        except StateError as error:
            if not self._is_unwritable:
                LOG.warning("objects are not kept for the next start: %s", error)
            self._is_unwritable = True


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


LOG: Final = logging.getLogger("kbe_nat.daemon")
RANK: Final = 1 << 20
"""Of the API server's origins: its objects count before those of files, whose claims come first."""
PAUSE_TIMES: Final = 3
PAUSE_SECONDS: Final = 0.1
LATE_SECONDS: Final = 5.0
WRITE_SECONDS: Final = 60.0
REST_SECONDS: Final = 0.005
CLOSE_SECONDS: Final = 2.0
FIRST_LIST_SECONDS: Final = 1.0
KEPT: Final = "; what was served before is still served"
