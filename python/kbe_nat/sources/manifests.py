"""Kubernetes objects from YAML (or JSON) files: several documents in a file, several files in a directory,
"-" for standard input.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from kbe_nat.errors import FileError, ObjectError
from kbe_nat.model import Snapshot
from kbe_nat.sources import Reading
from kbe_nat.sources.assembly import assemble
from kbe_nat.sources.completion import POD_RANGE, complete
from kbe_nat.sources.decoding import decode
from kbe_nat.sources.documents import STANDARD_INPUT, documents, label
from kbe_nat.sources.objects import Found
from kbe_nat.sources.retention import retain
from kbe_nat.sources.selection import select

Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]


class Manifests:
    """A `Source` of files. They are read again when one of them has changed, or a directory has another set
    of them. An object that is refused stays as it was.
    """

    def __init__(self, paths: Sequence[str | Path], *, pod_range: str = POD_RANGE) -> None:
        self._paths = [str(path) for path in paths]
        self._pod_range = pod_range
        self._generation = 0
        self._stamp: Stamp | None = None
        self._last = Snapshot()

    def read(self) -> Reading | None:
        """See `Source.read`. Raises `FileError` when a file is missing, unreadable or no YAML. Cost when
        nothing changed: one stat each.
        """
        files = list(_files(self._paths))
        stamp = _stamp(files)
        if stamp == self._stamp:
            return None
        reading = read_manifests(files, pod_range=self._pod_range, generation=self._generation + 1)
        reading = retain(reading, self._last)
        self._generation += 1
        self._stamp = stamp
        self._last = reading.snapshot
        return reading


def read_manifests(
    paths: Sequence[str | Path], *, pod_range: str = POD_RANGE, generation: int = 0
) -> Reading:
    """The snapshot of all objects in these files and directories, completed as `kbe_nat.sources.completion`
    says.

    Raises `FileError` when a file is missing, unreadable or no YAML; a wrong object is listed in
    `Reading.refused`.
    """
    found: list[Found] = []
    refused: list[ObjectError] = []
    notes: list[str] = []
    for path in _files([str(path) for path in paths]):
        for number, document in enumerate(documents(path), 1):
            if document is None:
                continue
            for item in decode(document, f"{label(path)}, document {number}"):
                if isinstance(item, Found):
                    found.append(item)
                elif isinstance(item, ObjectError):
                    refused.append(item)
                else:
                    notes.append(item)
    found, filled_in = complete(found, pod_range)
    reading = assemble([*found, *select(found)], generation)
    return Reading(reading.snapshot, (*refused, *reading.refused), (*notes, *filled_in, *reading.notes))


def _files(paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        if path != STANDARD_INPUT and Path(path).is_dir():
            yield from sorted(str(file) for file in Path(path).iterdir() if file.suffix in SUFFIXES)
        else:
            yield path


def _stamp(files: Sequence[str]) -> Stamp:
    """Changes whenever a file is written or replaced; standard input is read once."""
    parts = []
    for file in files:
        if file == STANDARD_INPUT:
            parts.append((file, 0, 0, 0))
            continue
        try:
            status = Path(file).stat()
        except OSError as error:
            raise FileError(f"{file}: {error.strerror or error}") from None
        parts.append((file, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(parts)


SUFFIXES: Final = (".yaml", ".yml", ".json")
