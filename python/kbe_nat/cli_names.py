"""Names of Services, backends and Nodes for a shell that completes words: those that the running
daemon knows, or those in files of objects.

A shell waits for them at each TAB. So the daemon is asked without the modules of `kbe_nat.client`,
for names alone, and gets `SECONDS`. Whatever goes wrong, there are no names: nobody reads an error
there.
"""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple


class Place(NamedTuple):
    """Where names come from."""

    socket: str = ""
    """Of the daemon; empty: none is asked."""
    files: tuple[str, ...] = ()
    """Of objects, which go ahead of the daemon."""
    namespace: str = ""
    """That of -n; Services of others are no candidates."""


def names(kind: str, start: str, place: Place) -> Iterator[str]:
    """The names that begin so. `kind` is services, backends, which Services stand for too, nodes or
    namespaces. Services of the namespace in force come without it, ports of one behind its colon.
    """
    if kind in ("services", "backends"):
        wanted = "ports" if ":" in start else "services"
        candidates = (_shown(name, place.namespace) for name in _known(wanted, place))
        yield from (name for name in candidates if name and name.startswith(start))
    if kind != "services":
        yield from (name for name in _known(kind, place) if name.startswith(start))


def _shown(name: str, namespace: str) -> str:
    """NAMESPACE/NAME as it would be written; empty for one that -n rules out."""
    place, _, rest = name.partition("/")
    if namespace:
        return rest if place == namespace else ""
    return rest if place == "default" else name


def _known(kind: str, place: Place) -> list[str]:
    try:
        if place.files:
            return _of_files(kind, place.files)
        return _of_daemon(kind, place.socket) if place.socket else []
    except Exception:
        # A shell's line is being edited, perhaps with half of a file's name in it.
        return []


def _of_daemon(kind: str, path: str) -> list[str]:
    candidates: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SECONDS)
        connection.connect(path)
        connection.sendall(json.dumps({"verb": "names", "kind": kind}).encode() + b"\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                answer = json.loads(line)
                if "result" not in answer:
                    break
                candidates += answer["result"]
    return candidates


def _of_files(kind: str, files: tuple[str, ...]) -> list[str]:
    # It takes most of what a TAB may take, and is wanted only where files are named.
    from kbe_nat.sources.manifests.manifests import read_manifests

    snapshot = read_manifests(list(map(Path, files))).snapshot
    if kind == "nodes":
        return list(snapshot.nodes)
    if kind == "namespaces":
        return sorted({service.namespace for service in snapshot.services})
    candidates = []
    for service in snapshot.services:
        name = f"{service.namespace}/{service.name}"
        ports = [f"{name}:{port.name}" if port.name else name for port in service.ports]
        candidates += ports if kind == "ports" else [name]
    return candidates if kind in ("services", "ports") else []


SECONDS: Final = 0.5
"""For the whole of an answer, about."""
