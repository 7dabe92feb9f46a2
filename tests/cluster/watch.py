"""One reflector beside a server in memory, in driven time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from cluster.answers import ApiServer
from cluster.memory import MemoryConnection, drive
from cluster.objects import service
from kbe_nat.errors import ObjectError
from kbe_nat.sources.kubernetes.inbox import Inbox
from kbe_nat.sources.kubernetes.reflector import Reflector
from kbe_nat.sources.kubernetes.requests import Cluster
from kbe_nat.sources.kubernetes.resources import Resource, watched_resources
from kbe_nat.sources.objects import ObjectKey
from kbe_nat.sources.snapshot import ClusterObject
from kbe_nat.sources.watch_state import WatchPhase, WatchState

NODES, SERVICES, SLICES = watched_resources("node-1")


@dataclass
class Watch:
    """A reflector of Services, a server for it, and what it has delivered."""

    server: ApiServer = field(default_factory=ApiServer)
    objects: dict[ObjectKey, ClusterObject | ObjectError] = field(default_factory=dict)
    replaced: int = 0
    states: list[WatchState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection = MemoryConnection(self.server)
        self.inbox = Inbox()
        self.cluster = Cluster(self.connection, Random(1))

    @property
    def state(self) -> WatchState:
        return self.states[-1]

    @property
    def names(self) -> set[str]:
        """Of the Services that are served."""
        for delivery in self.inbox.take().values():
            if delivery.objects is not None:
                self.objects, self.replaced = dict(delivery.objects), self.replaced + 1
            for key, item in delivery.changes.items():
                if item is None:
                    self.objects.pop(key, None)
                else:
                    self.objects[key] = item
        return {name for _, _, name in self.objects}

    async def until(self, condition: Callable[[], object], seconds: float = 3600.0) -> float:
        """How long it took in driven time."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not condition():
            assert loop.time() - started < seconds, self.state
            await asyncio.sleep(0.05)
        return loop.time() - started

    async def serves_throughout(self, *names: str, seconds: float) -> None:
        """These Services at every moment, and in step at the end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while loop.time() < deadline:
            assert self.names == {*names}, self.state
            await asyncio.sleep(0.05)
        await self.in_step(*names)

    async def in_step(self, *names: str, seconds: float = 3600.0) -> float:
        return await self.until(
            lambda: self.names == {*names} and self.state.phase is WatchPhase.IN_STEP, seconds
        )


def run(
    test: Callable[[Watch], Awaitable[None]], *names: str, resource: Resource = SERVICES
) -> None:
    """Runs a test beside the reflector of a server with these Services."""

    async def beside() -> None:
        watch = Watch()
        watch.server.objects.put(*map(service, names))
        reflector = Reflector(
            resource, watch.cluster, watch.inbox, watch.states.append, clock=lambda: 0.0
        )
        task = asyncio.create_task(reflector.run())
        try:
            await test(watch)
            assert not task.done() or task.result()
        finally:
            task.cancel()
            watch.inbox.close()

    drive(beside())
