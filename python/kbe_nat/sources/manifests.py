"""Kubernetes objects from YAML (or JSON) files: several documents in a file, several files in a directory,
"-" for standard input.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from kbe_nat.errors import FileError, ObjectError
from kbe_nat.model import Snapshot
from kbe_nat.sources import Reading
from kbe_nat.sources.amendment import amend, can_be_amended
from kbe_nat.sources.assembly import assemble
from kbe_nat.sources.completion import POD_RANGE, complete
from kbe_nat.sources.decoding import decode
from kbe_nat.sources.documents import documents
from kbe_nat.sources.files import STANDARD_INPUT, label
from kbe_nat.sources.objects import Found
from kbe_nat.sources.retention import retain
from kbe_nat.sources.selection import select
from kbe_nat.sources.watching import FileWatch

Stamp: TypeAlias = tuple[int, int, int]


class Manifests:
    """A `Source` of files. One that has changed is read again, and all when a directory has another set of them.
    An object that is refused stays as it was.
    """

    def __init__(self, paths: Sequence[str | Path], *, pod_range: str = POD_RANGE) -> None:
        self._paths = [str(path) for path in paths]
        self._pod_range = pod_range
        self._watch = FileWatch(path for path in self._paths if path != STANDARD_INPUT)
        self._doubtful: set[str] | None = None
        """Files that are to be looked at; None: all."""
        self._stamps: dict[str, Stamp] = {}
        self._contents: dict[str, _Content] = {}
        """Of all files, in the order in which they count."""
        self._can_be_amended = False
        self._last = Snapshot()

    def wait(self, seconds: float) -> bool:
        """See `Source.wait`."""
        return self._watch.wait(seconds)

    def read(self) -> Reading | None:
        """See `Source.read`. Raises `FileError` when a file is missing, unreadable or no YAML. Cost: linear in
        the objects of files that have changed where only EndpointSlices have; else a pass over all objects.
        """
        self._doubt()
        if self._doubtful == set():
            return None
        stamps = self._looked_at()
        # Of two changes within a tick of its clock a file system may show one only: what we are told of is read.
        changed = (
            [file for file in stamps if self._stamps.get(file) != stamps[file]]
            if self._doubtful is None
            else list(self._doubtful)
        )
        if not changed and len(stamps) == len(self._stamps) and self._stamps:
            self._doubtful = set()
            return None
        fresh = {file: _content(file) for file in changed}
        reading = self._taken(stamps, fresh)
        self._doubtful = set()
        self._last = reading.snapshot
        return reading

    def _doubt(self) -> None:
        """What could not be read last time is still in doubt."""
        changed = self._watch.changed()
        is_partial = changed is not None and self._doubtful is not None
        # A file that comes or goes may change which of two objects counts.
        if is_partial and all(file in self._stamps and Path(file).exists() for file in changed or ()):
            self._doubtful = (self._doubtful or set()) | (changed or set())
        else:
            self._doubtful = None

    def _looked_at(self) -> dict[str, Stamp]:
        """Every file, as it is now."""
        if self._doubtful is None:
            return {file: _stamp(file) for file in _files(self._paths)}
        return {**self._stamps, **{file: _stamp(file) for file in self._doubtful}}

    def _taken(self, stamps: dict[str, Stamp], fresh: Mapping[str, "_Content"]) -> Reading:
        """The reading, with these files in place of what they were."""
        generation = self._last.generation + 1
        contents = {**self._contents, **fresh}
        if stamps.keys() != contents.keys() or self._doubtful is None:
            contents = {file: contents[file] for file in stamps}
        amended = None
        if self._can_be_amended and stamps.keys() == self._stamps.keys():
            pairs = ((self._contents[file], content) for file, content in fresh.items())
            objects = [(old.found, new.found) for old, new in pairs if not new.refused]
            if len(objects) == len(fresh):
                amended = amend(self._last, objects, generation)
        if amended is None:
            amended = retain(_assembled(contents.values(), self._pod_range, generation), self._last)
            everything = (one for content in contents.values() for one in content.found)
            self._can_be_amended = not amended.refused and can_be_amended(everything)
        self._stamps, self._contents = stamps, contents
        return amended


def read_manifests(
    paths: Sequence[str | Path], *, pod_range: str = POD_RANGE, generation: int = 0
) -> Reading:
    """The snapshot of all objects in these files and directories, completed as `kbe_nat.sources.completion`
    says.

    Raises `FileError` when a file is missing, unreadable or no YAML; a wrong object is listed in
    `Reading.refused`.
    """
    contents = [_content(path) for path in _files([str(path) for path in paths])]
    return _assembled(contents, pod_range, generation)


@dataclass(frozen=True, slots=True)
class _Content:
    """What stands in a file."""

    found: tuple[Found, ...]
    refused: tuple[ObjectError, ...]
    notes: tuple[str, ...]


def _content(path: str) -> _Content:
    items = [
        item
        for number, document in enumerate(documents(path), 1)
        if document is not None
        for item in decode(document, f"{label(path)}, document {number}")
    ]
    return _Content(
        tuple(item for item in items if isinstance(item, Found)),
        tuple(item for item in items if isinstance(item, ObjectError)),
        tuple(item for item in items if isinstance(item, str)),
    )


def _assembled(contents: Iterable[_Content], pod_range: str, generation: int) -> Reading:
    parts = list(contents)
    refused = [error for part in parts for error in part.refused]
    notes = [note for part in parts for note in part.notes]
    found, filled_in = complete([one for part in parts for one in part.found], pod_range)
    reading = assemble([*found, *select(found)], generation)
    return Reading(reading.snapshot, (*refused, *reading.refused), (*notes, *filled_in, *reading.notes))


def _files(paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        if path != STANDARD_INPUT and Path(path).is_dir():
            yield from sorted(str(file) for file in Path(path).iterdir() if file.suffix in SUFFIXES)
        else:
            yield path


def _stamp(file: str) -> Stamp:
    """Changes whenever a file is written or replaced; standard input is read once."""
    if file == STANDARD_INPUT:
        return 0, 0, 0
    try:
        status = Path(file).stat()
    except OSError as error:
        raise FileError(f"{file}: {error.strerror or error}") from None
    return status.st_ino, status.st_mtime_ns, status.st_size


SUFFIXES: Final = (".yaml", ".yml", ".json")
