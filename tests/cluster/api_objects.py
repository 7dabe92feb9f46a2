"""The objects of a test API server, their versions, and the events that each change makes."""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace ("" where the kind has none) and name."""


@dataclass(frozen=True)
class Kind:
    """A kind of objects that the server has."""

    resource: str
    name: str
    version: str
    has_namespaces: bool = True

    @property
    def path(self) -> str:
        root = "api" if self.version == "v1" else "apis"
        return f"/{root}/{self.version}/{self.resource}"


KINDS: Final = {
    kind.resource: kind
    for kind in (
        Kind("nodes", "Node", "v1", has_namespaces=False),
        Kind("services", "Service", "v1"),
        Kind("endpointslices", "EndpointSlice", "discovery.k8s.io/v1"),
        Kind("servicecidrs", "ServiceCIDR", "networking.k8s.io/v1", has_namespaces=False),
    )
}
RESOURCES: Final = {kind.name: kind.resource for kind in KINDS.values()}
BOOKMARKS: Final[dict[str, Object]] = {
    "services": {"spec": {}, "status": {"loadBalancer": {}}},
    "endpointslices": {"addressType": "", "endpoints": None, "ports": None},
    "nodes": {"spec": {}, "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}}},
    "servicecidrs": {"spec": {}, "status": {}},
}
"""The mandatory fields of a bookmark's object, empty, by resource."""


@dataclass(frozen=True)
class Change:
    """One write."""

    resource: str
    version: int
    before: Object | None
    after: Object | None


@dataclass
class ApiObjects:
    """All objects. For use by any thread; `watchers` are called in the thread that writes."""

    version: int = 100
    oldest: int = 0
    """Watches from an earlier version are too old."""
    stored: dict[str, dict[Key, Object]] = field(
        default_factory=lambda: {resource: {} for resource in KINDS}
    )
    changes: list[Change] = field(default_factory=list)
    watchers: list[Callable[[Change], None]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, *objects: Object) -> int:
        """Add or replace objects; the newest version. A write that changes nothing makes none."""
        with self.lock:
            for value in objects:
                resource = RESOURCES[value["kind"]]
                key = key_of(value)
                before = self.stored[resource].get(key)
                after = copy.deepcopy(value)
                after["apiVersion"] = KINDS[resource].version
                metadata = after.setdefault("metadata", {})
                # An object keeps its uid for as long as it lives.
                uid = before["metadata"]["uid"] if before else str(UUID(int=self.version))
                metadata.setdefault("uid", uid)
                if key[0]:
                    metadata.setdefault("namespace", key[0])
                if before is not None:
                    metadata["resourceVersion"] = before["metadata"]["resourceVersion"]
                    if after == before:
                        continue
                self.version += 1
                metadata["resourceVersion"] = str(self.version)
                self.stored[resource][key] = after
                self._tell(Change(resource, self.version, before, after))
            return self.version

    def delete(self, kind: str, name: str, namespace: str = "default") -> int:
        """Delete an object; the newest version."""
        with self.lock:
            resource = RESOURCES[kind]
            space = namespace if KINDS[resource].has_namespaces else ""
            before = self.stored[resource].pop((space, name))
            self.version += 1
            self._tell(Change(resource, self.version, before, None))
            return self.version

    def tick(self) -> int:
        """A write of another resource: the version grows."""
        with self.lock:
            self.version += 1
            return self.version

    def restart(self) -> None:
        """The watch cache begins anew: earlier versions are too old."""
        with self.lock:
            self.changes.clear()
            self.oldest = self.version

    def restore(self, version: int, stored: dict[str, dict[Key, Object]]) -> None:
        """etcd is an earlier one again."""
        with self.lock:
            self.version = version
            self.stored = copy.deepcopy(stored)
            self.restart()

    def backup(self) -> tuple[int, dict[str, dict[Key, Object]]]:
        """What `restore` takes."""
        with self.lock:
            return self.version, copy.deepcopy(self.stored)

    def listed(self, resource: str, selects: Callable[[Object], bool]) -> tuple[int, list[Object]]:
        """The version and the chosen objects, sorted by their keys, as etcd has them."""
        with self.lock:
            stored = self.stored[resource]
            chosen = [stored[key] for key in sorted(stored) if selects(stored[key])]
            return self.version, chosen

    @contextmanager
    def watching(
        self, resource: str, version: int, watcher: Callable[[Change], None]
    ) -> Iterator[list[Change]]:
        """The changes of a resource since a version; later ones go to `watcher`."""

        def tell(change: Change) -> None:
            if change.resource == resource:
                watcher(change)

        with self.lock:
            self.watchers.append(tell)
            past = [
                each
                for each in self.changes
                if each.resource == resource and each.version > version
            ]
        try:
            yield past
        finally:
            with self.lock:
                self.watchers.remove(tell)

    def _tell(self, change: Change) -> None:
        self.changes.append(change)
        for watcher in list(self.watchers):
            watcher(change)


def key_of(value: Object) -> Key:
    kind = KINDS[RESOURCES[value["kind"]]]
    metadata = value["metadata"]
    return metadata.get("namespace", "default") if kind.has_namespaces else "", metadata["name"]


def selector(fields: str, labels: str) -> Callable[[Object], bool]:
    """A function that tells whether an object is chosen by the selectors that proxies use."""

    def selects(value: Object) -> bool:
        own = value["metadata"].get("labels") or {}
        for term in filter(None, labels.split(",")):
            name, equals, text = term.partition("=")
            if term.startswith("!") and term[1:] in own:
                return False
            if equals and own.get(name) != text:
                return False
        for term in filter(None, fields.split(",")):
            if "!=" in term:
                name, _, text = term.partition("!=")
                if _field(value, name) == text:
                    return False
            else:
                name, _, text = term.partition("=")
                if _field(value, name) != text:
                    return False
        return True

    return selects


def _field(value: Object, path: str) -> str:
    at: Any = value
    for part in path.split("."):
        at = at.get(part, "") if isinstance(at, dict) else ""
    return str(at)
