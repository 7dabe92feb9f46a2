"""Reads the API server as a source, as the daemon does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

from harness.waiting import eventually
from kbe_nat.daemon.objects_file import StoredObjects
from kbe_nat.model import Snapshot
from kbe_nat.sources.kubernetes.access import find_access
from kbe_nat.sources.kubernetes.http_connection import HttpConnection
from kbe_nat.sources.kubernetes.resources import Resource, watched_resources
from kbe_nat.sources.kubernetes.source import Kubernetes
from kbe_nat.sources.source import Source, SourceUpdate
from kbe_nat.sources.store import Store
from kbe_nat.sources.watch_state import WatchPhase

RESOURCES: Final = watched_resources("node-1")


class Follower:
    """Reads a source as the daemon does."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.snapshot: Snapshot | None = None
        self.updates: list[SourceUpdate] = []

    def read(self) -> Snapshot:
        update = self.source.read()
        if update is not None:
            self.updates.append(update)
            self.snapshot = update.snapshot
        assert self.snapshot is not None, self.source.watches()
        return self.snapshot

    def names(self) -> list[str]:
        return sorted(each.name for each in self.read().services)

    def until(self, *names: str) -> None:
        eventually(lambda: self.names() == [*names])

    def is_in_step(self) -> bool:
        self.read()
        return all(state.phase is WatchPhase.IN_STEP for state in self.source.watches())


@contextmanager
def following(
    kubeconfig: Path,
    state: Path | None = None,
    resources: Sequence[Resource] = RESOURCES,
    **other: Any,
) -> Iterator[Follower]:
    access = find_access(kubeconfig, "")
    source = Kubernetes(
        lambda: HttpConnection(access),
        resources,
        Store(),
        file=StoredObjects(state, access.server) if state else None,
        random=Random(1),
        **other,
    )
    try:
        yield Follower(source)
    finally:
        source.close()
